//! One instruction after the other, from what is written to what it means.

use std::collections::BTreeMap;

use super::context::{Context, Wanted};
use super::error::{DockerfileError, DockerfileWarning, Fault, Problem};
use super::expand::quote;
use super::instruction::{Command, Copying, Run};
use super::lines::Statement;
use super::mount::MountKind;
use super::scope::{Scope, is_proxy};
use crate::lower::Chmod;
use crate::spec::{BaseImage, Instruction};
use crate::upload::Upload;
use crate::{Digest, Platform, Reference};

/// What `--from` names.
#[expect(
    clippy::large_enum_variant,
    reason = "one lives for the time of one instruction"
)]
pub(super) enum Origin {
    /// A stage, by its index in the canonical Dockerfile.
    Stage(usize),
    Image(BaseImage),
    /// The empty image.
    Scratch,
}

/// State that all instructions of a text share.
pub(super) struct Canonicaliser<'a> {
    pub(super) file: &'a str,
    pub(super) build_args: &'a BTreeMap<String, String>,
    pub(super) globals: Scope,
    pub(super) context: Option<Context<'a>>,
    pub(super) uploads: Vec<Upload>,
    pub(super) warnings: Vec<DockerfileWarning>,
}

impl<'a> Canonicaliser<'a> {
    pub(super) fn new(
        file: &'a str,
        build_args: &'a BTreeMap<String, String>,
        globals: Scope,
        context: Option<Context<'a>>,
    ) -> Self {
        Self {
            file,
            build_args,
            globals,
            context,
            uploads: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Brings an instruction into canonical form and notes in `scope` what it sets.
    pub(super) fn instruction(
        &mut self,
        statement: &Statement,
        command: &Command,
        scope: &mut Scope,
        resolve: &dyn Fn(&str) -> Result<Origin, Fault>,
    ) -> Result<Instruction, DockerfileError> {
        let mut instruction = Instruction::default();
        let text = match command {
            Command::Arg(arguments) => self.arguments(arguments, scope),
            Command::Env(pairs) => {
                // All values see the variables from before the instruction.
                let mut values = Vec::new();
                for (name, value) in &pairs.pairs {
                    let name = scope.value(name).map_err(|f| self.locate(statement, f))?;
                    let value = scope.value(value).map_err(|f| self.locate(statement, f))?;
                    values.push((name, value));
                }
                for (name, value) in values {
                    if let Some(name) = name {
                        scope.set_env(&name, value);
                    }
                }
                Ok(command.text())
            }
            Command::Copy(copying) => {
                self.copying(statement, copying, scope, resolve, &mut instruction)
            }
            Command::Run(run) => self.run(statement, run, scope, resolve, &mut instruction),
            other => check(other, scope).map(|()| other.text()),
        };
        instruction.text = text.map_err(|fault| self.locate(statement, fault))?;
        Ok(instruction)
    }

    fn locate(&self, statement: &Statement, fault: Fault) -> DockerfileError {
        statement.locate(fault, self.file)
    }

    /// `ARG` with the value that it has: the build argument, else its default, else the global
    /// argument of that name. A default that needs the base's environment stays as written.
    fn arguments(
        &self,
        arguments: &[(String, Option<String>)],
        scope: &mut Scope,
    ) -> Result<String, Fault> {
        let mut settled = Vec::new();
        for (name, default) in arguments {
            // Where a build runs decides its proxies, so they never count.
            let given = self.build_args.get(name).filter(|_| !is_proxy(name));
            let word = match (given, default) {
                (Some(value), _) => {
                    scope.set(name, Some(value.clone()));
                    Some(quote(value))
                }
                (None, Some(default)) => {
                    let value = scope.value(default)?;
                    let word = value.as_deref().map_or_else(|| default.clone(), quote);
                    scope.set(name, value);
                    Some(word)
                }
                (None, None) => match self.globals.global(name) {
                    Some(value) => {
                        let value = value.to_owned();
                        let word = quote(&value);
                        scope.set(name, Some(value));
                        Some(word)
                    }
                    None => None,
                },
            };
            settled.push((name.clone(), word));
        }
        Ok(Command::Arg(settled).text())
    }

    fn copying(
        &mut self,
        statement: &Statement,
        copying: &Copying,
        scope: &Scope,
        resolve: &dyn Fn(&str) -> Result<Origin, Fault>,
        instruction: &mut Instruction,
    ) -> Result<String, Fault> {
        let mut copying = copying.clone();
        check_copying(&copying, scope)?;
        if let Some(from) = &copying.from {
            match resolve(from)? {
                Origin::Stage(index) => copying.from = Some(index.to_string()),
                Origin::Image(image) => {
                    instruction.images.push(image);
                    copying.from = Some("@0".into());
                }
                Origin::Scratch => {
                    return Err(Fault::new(Problem::Context(
                        "the empty image has nothing to copy".into(),
                    )));
                }
            }
            return Ok(Command::Copy(copying).text());
        }
        let mut known = Some(Vec::new());
        let mut any = false;
        for path in copying.paths() {
            match scope.value(path)? {
                Some(source) if is_git(&source) => {
                    return Err(Fault::unsupported(format_args!(
                        "`{source}` is a git repository, which ADD does not fetch here"
                    ))
                    .hint("clone it in a RUN step, or ADD an archive of it by its URL"));
                }
                Some(source) if is_url(&source) => {
                    if !copying.add {
                        return Err(Fault::new(Problem::Context(format!(
                            "COPY cannot fetch `{source}`"
                        )))
                        .hint("use ADD"));
                    }
                }
                Some(source) => {
                    any = true;
                    known
                        .iter_mut()
                        .for_each(|known| known.push(source.clone()));
                }
                None => {
                    any = true;
                    known = None;
                }
            }
        }
        if any {
            let keyword = if copying.add { "ADD" } else { "COPY" };
            let wanted = Wanted {
                sources: known,
                literal: false,
                parents: copying.parents,
                exclude: &copying.exclude,
            };
            instruction.context = Some(self.select(statement, keyword, &wanted)?);
        }
        Ok(Command::Copy(copying).text())
    }

    fn run(
        &mut self,
        statement: &Statement,
        run: &Run,
        scope: &Scope,
        resolve: &dyn Fn(&str) -> Result<Origin, Fault>,
        instruction: &mut Instruction,
    ) -> Result<String, Fault> {
        let mut run = run.clone();
        let mut sources = Some(Vec::new());
        let mut any = false;
        for flag in &mut run.mounts {
            let mut unknown = false;
            let mut expand = |word: &str| {
                let expanded = scope.expand(word)?;
                unknown |= expanded.unknown;
                Ok(if expanded.unknown {
                    word.to_owned()
                } else {
                    expanded.text
                })
            };
            // What a variable of the base may yet change is checked when the build is lowered.
            let mount = match flag.read(&mut expand) {
                Ok(mount) => Some(mount),
                Err(fault) if !unknown => return Err(fault),
                Err(_) => None,
            };
            if let Some(from) = flag.from() {
                match resolve(from)? {
                    Origin::Stage(index) => flag.set_from(&index.to_string()),
                    Origin::Image(image) => {
                        let known = instruction.images.iter().position(|known| *known == image);
                        let index = known.unwrap_or(instruction.images.len());
                        if known.is_none() {
                            instruction.images.push(image);
                        }
                        flag.set_from(&format!("@{index}"));
                    }
                    Origin::Scratch => flag.set_from("scratch"),
                }
                continue;
            }
            match mount {
                Some(mount) if mount.kind != MountKind::Bind => {}
                Some(mount) if !unknown => {
                    any = true;
                    sources
                        .iter_mut()
                        .for_each(|known| known.push(mount.source.clone()));
                }
                _ => {
                    any = true;
                    sources = None;
                }
            }
        }
        if any {
            let wanted = Wanted {
                sources,
                literal: true,
                parents: false,
                exclude: &[],
            };
            instruction.context = Some(self.select(statement, "RUN --mount=type=bind", &wanted)?);
        }
        Ok(Command::Run(run).text())
    }

    fn select(
        &mut self,
        statement: &Statement,
        what: &str,
        wanted: &Wanted<'_>,
    ) -> Result<Digest, Fault> {
        let Some(context) = &mut self.context else {
            return Err(Fault::new(Problem::Context(format!(
                "{what} reads from the build context, and none was given"
            )))
            .hint(
                "give a context directory, add the files with add_local_file or add_local_dir, \
                 or copy from an image with --from",
            ));
        };
        let (digest, uploads, idle) = context.select(wanted)?;
        self.uploads.extend(uploads);
        for pattern in idle {
            self.warnings.push(DockerfileWarning {
                line: statement.line(),
                message: format!("`{pattern}` matches nothing in the build context"),
            });
        }
        Ok(digest)
    }
}

/// The image that a text names.
pub(super) fn image(text: &str, platform: Option<Platform>) -> Result<BaseImage, Fault> {
    let reference: Reference = text
        .parse()
        .map_err(|e: crate::reference::InvalidReference| {
            Fault::new(Problem::Reference(e.to_string()))
        })?;
    Ok(BaseImage {
        digest: reference.digest(),
        reference: reference.without_digest(),
        platform,
    })
}

pub(crate) fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Whether BuildKit would clone the source: `git://`, `ssh://`, `user@host:path`, or a URL of a
/// `.git`.
pub(crate) fn is_git(source: &str) -> bool {
    if source.starts_with("git://") || source.starts_with("ssh://") {
        return true;
    }
    if is_url(source) {
        let path = source.split(['#', '?']).next().unwrap_or_default();
        return path.ends_with(".git");
    }
    let Some((user, rest)) = source.split_once('@') else {
        return false;
    };
    let word = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_alphanumeric() || "-_.".contains(c))
    };
    word(user)
        && rest
            .split_once(':')
            .is_some_and(|(host, path)| word(host) && !path.is_empty())
}

/// Checks what can be checked before the base is known.
fn check(command: &Command, scope: &Scope) -> Result<(), Fault> {
    match command {
        Command::Expose(words) => {
            for word in words {
                let expanded = scope.expand(word)?;
                if !expanded.unknown {
                    for port in &expanded.words {
                        crate::lower::ports(port).map_err(Fault::syntax)?;
                    }
                }
            }
            Ok(())
        }
        Command::StopSignal(word) => match scope.value(word)? {
            Some(signal) => crate::lower::signal(&signal).map_err(Fault::syntax),
            None => Ok(()),
        },
        Command::User(word) | Command::Workdir(word) => scope.value(word).map(drop),
        Command::Volume(words) => words.iter().try_for_each(|w| scope.value(w).map(drop)),
        Command::Label(pairs) => pairs
            .pairs
            .iter()
            .try_for_each(|(_, value)| scope.value(value).map(drop)),
        _ => Ok(()),
    }
}

fn check_copying(copying: &Copying, scope: &Scope) -> Result<(), Fault> {
    if let Some(chmod) = &copying.chmod
        && let Some(chmod) = scope.value(chmod)?
    {
        chmod
            .parse::<Chmod>()
            .map_err(|e| Fault::flag(format_args!("--chmod: {e}")))?;
    }
    if let Some(chown) = &copying.chown {
        scope.value(chown)?;
    }
    if let Some(checksum) = &copying.checksum
        && let Some(checksum) = scope.value(checksum)?
    {
        checksum
            .parse::<Digest>()
            .map_err(|e| Fault::flag(format_args!("--checksum: {e}")))?;
        let mut paths = copying.paths();
        let url = match (paths.next(), paths.next()) {
            (Some(path), None) => scope.value(path)?.is_none_or(|path| is_url(&path)),
            _ => false,
        };
        if !url || copying.sources.len() != 1 {
            return Err(Fault::flag("--checksum goes with one http(s) URL"));
        }
    }
    scope.value(&copying.dest)?;
    Ok(())
}
