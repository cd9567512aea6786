//! The one window through which a declaration sees local files.
//!
//! `core` reads nothing itself: the command line implements [`Source`] over the disk, tests over a
//! map ([`MemoryFiles`]), and JavaScript over what it reads in between ([`Answers`]).

use crate::Digest;

mod answers;
mod memory;

pub use answers::{Answers, Open};
pub use memory::MemoryFiles;

/// Facts about a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// SHA-256 of the contents, always read.
    pub digest: Digest,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Bytes.
    pub size: u64,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path relative to the listed directory, with `/`.
    pub path: String,
    /// What it is.
    pub kind: ListedKind,
}

/// Kinds of listed entries. Sockets, devices and pipes are left out by the lister.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(String),
}

/// What went wrong with a local file: its path, and the cause in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct SourceError {
    /// The path as the declaration wrote it.
    pub path: String,
    /// Cause and what to do.
    pub reason: String,
}

/// Local files, addressed by the paths that a declaration writes (relative to the declaring file).
pub trait Source {
    /// Contents of a small text such as a requirements or an ignore file; `None` if absent.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or is larger than 16 MiB.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError>;

    /// Facts about files, in the order asked for (so that an implementation may hash in parallel).
    ///
    /// # Errors
    /// When one is absent, not a regular file, or unreadable.
    fn facts(&self, paths: &[String]) -> Result<Vec<FileFacts>, SourceError>;

    /// Everything below a directory, in any order. `enter` is asked before a directory is
    /// descended into, with its relative path, and may refuse it.
    ///
    /// # Errors
    /// When `path` is absent or not a directory, or a name is not UTF-8.
    fn list(
        &self,
        path: &str,
        enter: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<Listed>, SourceError>;

    /// Whether something that was asked is still to be read, so that whatever is made of the answers
    /// counts for nothing.
    fn is_incomplete(&self) -> bool {
        false
    }
}

/// `path` below the directory `root`, as a declaration would write it.
pub fn join(root: &str, path: &str) -> String {
    match (root.trim_end_matches('/'), path) {
        ("", path) if root.starts_with('/') => format!("/{path}"),
        ("" | ".", path) => path.to_owned(),
        (_, "" | ".") => root.to_owned(),
        (root, path) => format!("{root}/{path}"),
    }
}
