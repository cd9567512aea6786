//! Dockerfiles: read, brought into canonical form, and written.
//!
//! [`parse`] turns the text of a Dockerfile into a [`Dockerfile`] that says what it means: only the
//! stages that the result needs, build arguments with their values, stages and images by index, and
//! the files of the context that each instruction selects as one digest. [`instructions`] does the
//! same for single instructions. [`export`] goes the other way, from a spec to a Dockerfile.
//!
//! The rules are BuildKit's; where they are not obvious, the place in the code says which.

mod canonical;
mod context;
mod error;
mod expand;
mod export;
mod instruction;
mod lines;
mod mount;
mod pattern;
mod scope;
mod stages;
mod syntax;

pub use error::{DockerfileError, DockerfileWarning, Problem};
pub use export::{ExportError, export};

pub(crate) use canonical::{is_git, is_url};
pub(crate) use error::Fault;
pub(crate) use expand::{Lexer, Lookup};
pub(crate) use instruction::{
    Command, CommandLine, CopyWord, Copying, Healthcheck, Pairs, Run, parse_canonical,
    parse_trigger,
};
pub(crate) use lines::heredoc_mark;
pub(crate) use mount::{Mount, MountKind, Share};
pub(crate) use scope::DEFAULT_PATH;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::Platform;
use crate::source::Source;
use crate::spec::{Dockerfile, Instruction};
use crate::upload::Upload;

/// How a Dockerfile is read.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Values for `ARG`, over the defaults in the file.
    pub build_args: &'a BTreeMap<String, String>,
    /// Stage to build, by name or index; the last one when absent.
    pub target: Option<&'a str>,
    /// Platform of the image.
    pub platform: &'a Platform,
    /// Where `COPY` and `ADD` find their files: a source, and the path of a directory in it.
    pub context: Option<(&'a dyn Source, &'a str)>,
    /// Path of the Dockerfile, as [`Source`] takes it: named in errors, and
    /// `<path>.dockerignore` comes before the `.dockerignore` of the context.
    pub file: Option<&'a str>,
}

/// A Dockerfile in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What counts.
    pub dockerfile: Dockerfile,
    /// Blobs of the context files that it selects, each once.
    pub uploads: Vec<Upload>,
    /// What is odd.
    pub warnings: Vec<DockerfileWarning>,
}

/// Single instructions in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedInstructions {
    /// What counts.
    pub instructions: Vec<Instruction>,
    /// Blobs of the context files that they select, each once.
    pub uploads: Vec<Upload>,
    /// What is odd.
    pub warnings: Vec<DockerfileWarning>,
}

/// Reads a whole Dockerfile.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(text: &str, options: &Options<'_>) -> Result<Parsed, DockerfileError> {
    stages::parse(text, options)
}

/// Reads instructions that stand on their own (`dockerfile_commands`): no `FROM`, no stages.
/// [`Options::target`] means nothing here.
///
/// # Errors
/// The first thing that is wrong, with its place in `text`.
pub fn instructions(
    text: &str,
    options: &Options<'_>,
) -> Result<ParsedInstructions, DockerfileError> {
    stages::instructions(text, options)
}

/// Checks that an instruction, as a spec holds it, is in canonical form.
///
/// # Errors
/// Says what is wrong with the text.
pub fn check_canonical(instruction: &Instruction) -> Result<(), Problem> {
    let command = parse_canonical(&instruction.text).map_err(|fault| fault.into_parts().0)?;
    if matches!(command, Command::From(_)) {
        return Err(Problem::Syntax("FROM cannot stand within a stage".into()));
    }
    let canonical = command.text();
    if canonical != instruction.text {
        return Err(Problem::Syntax(format!(
            "the instruction is not in canonical form: expected `{canonical}`"
        )));
    }
    Ok(())
}

/// The stages and the images that a canonical instruction reads from (`--from` of `COPY`, `from` in
/// a `--mount` of `RUN`), each once, in the order in which they stand. A text that is no
/// instruction reads nothing.
pub fn reads(text: &str) -> Vec<ReadFrom> {
    let from = match parse_canonical(text) {
        Ok(Command::Copy(copying)) => copying.from.into_iter().collect(),
        Ok(Command::Run(run)) => run
            .mounts
            .iter()
            .filter_map(|mount| mount.from().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    };
    let mut reads = Vec::new();
    for word in from {
        let read = match word.strip_prefix('@') {
            Some(image) => image.parse().ok().map(ReadFrom::Image),
            None => word.parse().ok().map(ReadFrom::Stage),
        };
        reads.extend(read.filter(|read| !reads.contains(read)));
    }
    reads
}

/// What a canonical instruction reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// A stage of the Dockerfile, by index.
    Stage(usize),
    /// One of [`Instruction::images`], by index.
    Image(usize),
}
