//! From a spec to what an engine executes: stages of operations with every variable expanded,
//! every path absolute and every key known. Pure; an engine only carries the operations out.

use std::collections::BTreeSet;

use crate::Digest;
use crate::config::ImageConfig;
use crate::spec::{StageBase, UvProject};

mod build;
mod chmod;
mod copy;
mod machine;
mod run;
#[cfg(test)]
mod tests;
mod values;

pub use build::{LowerError, lower};
pub use chmod::{Chmod, InvalidChmod};
pub(crate) use values::{ports, signal};

/// A whole build. The last stage is the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Stages in an order in which each comes after those it reads from. An image that a
    /// `--from` names is a stage without operations.
    pub stages: Vec<BuildStage>,
    /// Config of the finished image.
    pub config: ImageConfig,
    /// `author` of the image (`MAINTAINER`).
    pub author: Option<String>,
}

/// One chain of operations on one base.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildStage {
    /// What it starts from; a stage index is into [`Build::stages`].
    pub base: StageBase,
    /// Key of the untouched base.
    pub base_key: Digest,
    /// Operations in order.
    pub ops: Vec<Op>,
    /// Config after the last operation; empty for an image that is only read from.
    pub config: ImageConfig,
}

/// One operation with its cache key.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    /// Step key: names the layers up to and including this operation.
    pub key: Digest,
    /// Position in the list that `hash`, `plan` and events show, over all stages. An operation that
    /// an `ONBUILD` of the base adds stands in no list and has the position of the operation after
    /// it (which may be the length of the list).
    pub step: usize,
    /// Word for the kind: `pip_install`, `run`, `dockerfile` …
    pub kind: &'static str,
    /// One line for people: `RUN apt-get update`.
    pub title: String,
    /// `created_by` of the image's history.
    pub created_by: String,
    /// Run even when cached.
    pub force: bool,
    /// What to do.
    pub action: Action,
}

/// What an operation does to the root filesystem.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Changes only the config; makes no layer.
    Config,
    /// Runs a process.
    Run(Run),
    /// Installs packages.
    Install(Install),
    /// Copies files in.
    Copy(Copy),
    /// Downloads a file (`ADD https://…`).
    Download(Download),
    /// Makes a directory and its parents if absent (`WORKDIR`), mode `0755`.
    MakeDir {
        /// Absolute path.
        path: String,
        /// Owner of the directories that are made, `user[:group]`; empty is root.
        user: String,
    },
    /// Several copies and downloads of one instruction, in order, in one layer
    /// (`ADD a.txt https://… <<EOF /dest/`).
    Sequence(Vec<Action>),
}

/// A process to run in the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Program and arguments; a shell form has its shell in front.
    pub args: Vec<String>,
    /// Read-only files of mode `0755` in `/dev/pipes/`, as BuildKit gives a heredoc that starts with
    /// `#!` to its process: file name and contents. `args` names them.
    pub heredocs: Vec<(String, Vec<u8>)>,
    /// Whole environment, in order, without the engine's additions (proxies, CA bundle).
    pub env: Vec<(String, String)>,
    /// Working directory; made if absent.
    pub cwd: String,
    /// `user[:group]` as the config says; empty is root.
    pub user: String,
    /// `RUN --mount`.
    pub mounts: Vec<RunMount>,
    /// Secrets as files `/run/secrets/<name>`; missing ones are an error.
    pub secrets: BTreeSet<String>,
    /// `RUN --network`: whether the step has the host's network.
    pub network: bool,
}

/// A `RUN --mount`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunMount {
    /// Absolute path in the root; empty for a secret that is given as a variable alone.
    pub target: String,
    /// What is mounted.
    pub source: MountSource,
    /// Whether the step may write (writes to a bind are discarded).
    pub read_only: bool,
}

/// What a [`RunMount`] mounts.
#[derive(Debug, Clone, PartialEq)]
pub enum MountSource {
    /// `type=cache`.
    Cache {
        /// Identifies the cache directory.
        id: String,
        /// How builds share it.
        sharing: Sharing,
        /// Permission bits, owner and group of a new directory.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Initial contents: stage and path in it.
        from: Option<(usize, String)>,
    },
    /// `type=bind` of a path in another stage.
    Stage {
        /// Index in [`Build::stages`].
        stage: usize,
        /// Absolute path in it.
        path: String,
    },
    /// `type=bind` of a path in the context.
    Context {
        /// Digest of the tree.
        tree: Digest,
        /// Relative path in it; empty for all.
        path: String,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// Name of the secret.
        id: String,
        /// Whether its absence fails the step.
        required: bool,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Also (or only) given as this environment variable.
        env: Option<String>,
    },
}

/// How concurrent builds use one cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All at once.
    Shared,
    /// Each concurrent build its own.
    Private,
    /// One after the other.
    Locked,
}

/// A typed install.
#[derive(Debug, Clone, PartialEq)]
pub struct Install {
    /// What is installed.
    pub what: Installed,
    /// Whole environment of the step.
    pub env: Vec<(String, String)>,
    /// `user[:group]`; empty is root.
    pub user: String,
    /// Secrets as files `/run/secrets/<name>`.
    pub secrets: BTreeSet<String>,
}

/// What an [`Install`] installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// Requirements, options or package names.
    Packages(Installer, Vec<String>),
    /// What the lockfile of a project lists (`uv_sync`), into an environment of its own.
    Project {
        /// The project.
        project: UvProject,
        /// Its absolute directory in the root, made if absent.
        dir: String,
    },
}

/// Which installer a list of packages is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// `pip_install`: by uv where it can, else by pip.
    Pip,
    /// `uv_pip_install`.
    Uv,
    /// `apt_install`.
    Apt,
}

/// A copy into the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// Where from.
    pub from: CopySource,
    /// Paths or globs ([`crate::glob`]) below the source's root, without a leading slash; `.` is the
    /// root. A glob may match nothing; a plain path must exist. A directory stands for what it
    /// holds. Empty for inline files, which stand in `from`.
    pub sources: Vec<String>,
    /// Absolute destination; a trailing slash says directory.
    pub dest: String,
    /// `--chown`, `user[:group]`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--parents`: the sources keep their path below `dest`, or what follows `/./` in it.
    pub parents: bool,
    /// `--exclude` patterns of `.dockerignore` syntax ([`crate::ignore::DockerIgnore`]), matched
    /// against paths below a source that is a directory, and against the name of one that is a file.
    pub exclude: Vec<String>,
    /// `ADD`: unpack local archives.
    pub unpack: bool,
}

/// Where a [`struct@Copy`] takes its files from.
#[derive(Debug, Clone, PartialEq)]
pub enum CopySource {
    /// Files of a tree whose blobs are in the store.
    Tree(Digest),
    /// One file of the store, named `sources[0]`, with these permission bits.
    Blob {
        /// Digest of the contents.
        digest: Digest,
        /// Permission bits.
        mode: u32,
    },
    /// Another stage.
    Stage(usize),
    /// Heredocs: file names and contents.
    Inline(Vec<(String, Vec<u8>)>),
}

/// A file from the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Download {
    /// `http://` or `https://`.
    pub url: String,
    /// Name of the file below a `dest` that is a directory.
    pub file_name: String,
    /// Absolute destination; a trailing slash says directory.
    pub dest: String,
    /// `--checksum`.
    pub checksum: Option<Digest>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`; `0600` when absent.
    pub chmod: Option<Chmod>,
    /// `--unpack`: unpack an archive into `dest`.
    pub unpack: bool,
}
