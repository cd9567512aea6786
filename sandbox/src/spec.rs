//! What to run and in which surroundings: [`RunSpec`] and its parts.
//!
//! The spec travels to the re-executed child as JSON over an inherited socket, never in arguments
//! or environment, so that secrets stay out of process lists. For the same reason no `Debug` of
//! these types prints the value of a variable or the contents of a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::SandboxError;
use crate::terminal::TerminalSize;

/// Most lower directories that the kernel's overlay filesystem takes (`OVL_MAX_STACK`).
pub const MAX_LOWER_DIRECTORIES: usize = 500;

/// Most bytes that standard input and all [`Mount::File`]s of one run may hold together (64 MiB):
/// they are kept in memory.
pub const MAX_CONTENTS: usize = 64 << 20;

/// `PATH` that is searched for the command when the environment names none, as Docker does.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One process to run in an isolated root.
///
/// [`RunSpec::new`] gives the surroundings of a `RUN` step of `docker build`: user 0, working
/// directory `/`, network of the host, Docker's default capabilities and seccomp profile, no
/// standard input, no time limit.
#[derive(Clone, Serialize, Deserialize)]
pub struct RunSpec {
    /// The directory tree that becomes `/`.
    pub root: Root,
    /// Makes `/` read-only; mounts keep their own setting.
    pub read_only_root: bool,
    /// The program and its arguments; a program without a slash is searched in `PATH`.
    pub args: Vec<String>,
    /// Executes no program: the process, which is one of this crate, waits until a signal ends it.
    /// Good for a sandbox in which everything is done by further commands ([`Handle::exec`]), and
    /// needs nothing of the root. `args` and `env` do not count then.
    ///
    /// [`Handle::exec`]: crate::Handle::exec
    pub idle: bool,
    /// The environment, exactly as given, save that `HOME` is added from the image's
    /// `/etc/passwd` when it is not here (Docker does so too).
    pub env: Vec<(String, String)>,
    /// Working directory, absolute; created (root, 0755) when the image lacks it.
    pub cwd: PathBuf,
    /// Who runs the process.
    pub user: User,
    /// Groups of the process besides those of `user`.
    pub groups: Vec<u32>,
    /// Host name inside, 1 to 64 bytes.
    pub hostname: String,
    /// Mounts over the root, in this order, after `/proc`, `/sys` and `/dev`.
    pub mounts: Vec<Mount>,
    /// Network inside.
    pub network: Network,
    /// Time after which everything is killed.
    pub timeout: Option<Duration>,
    /// Capabilities of the process.
    pub capabilities: Capabilities,
    /// System-call filter of the process.
    pub seccomp: Seccomp,
    /// Standard input of the process; must be [`Stdin::Null`] or [`Stdin::Stream`] with a
    /// terminal, which then is what it reads.
    pub stdin: Stdin,
    /// A terminal of this size as standard input, output and error; all it shows is
    /// [`Stream::Stdout`](crate::Stream::Stdout).
    pub terminal: Option<TerminalSize>,
    /// Most processes and threads at once (counted by the pid namespace, so that a fork bomb does
    /// not reach the host). Takes effect from Linux 6.14 on; older kernels have no such limit for
    /// a pid namespace and ignore it.
    pub max_processes: u32,
    /// Directories of control groups that all processes of the run join, see
    /// [`cgroup`](crate::cgroup).
    pub cgroups: Vec<PathBuf>,
    /// Devices of the host that may be used, besides `/dev/null` and its like.
    pub devices: Vec<Device>,
    /// Keeps abstract Unix sockets of the host, which go by the network and not by files, out of
    /// reach where the run shares the host's network. Needs Linux 6.12; older kernels ignore it.
    pub own_abstract_sockets: bool,
    /// Takes mount points that were made for the run out of the root again. Without, the changes
    /// are good for nothing but to be thrown away, and the end of the run comes sooner.
    pub tidy: bool,
}

impl RunSpec {
    /// A run of `args` in `root` with the defaults of a build step.
    pub fn new(root: Root, args: impl IntoIterator<Item = impl Into<String>>) -> RunSpec {
        RunSpec {
            root,
            read_only_root: false,
            args: args.into_iter().map(Into::into).collect(),
            idle: false,
            env: vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())],
            cwd: PathBuf::from("/"),
            user: User::default(),
            groups: Vec::new(),
            hostname: "sandbox".to_owned(),
            mounts: Vec::new(),
            network: Network::Host,
            timeout: None,
            capabilities: Capabilities::Default,
            seccomp: Seccomp::Default,
            stdin: Stdin::Null,
            terminal: None,
            max_processes: 32_768,
            cgroups: Vec::new(),
            devices: Vec::new(),
            own_abstract_sockets: true,
            tidy: true,
        }
    }

    /// Checks everything that can be checked without touching the system.
    ///
    /// # Errors
    /// [`SandboxError::InvalidSpec`], naming the field, what stands there and what is expected.
    pub fn validate(&self) -> Result<(), SandboxError> {
        if !self.idle {
            validate_program(&self.args, &self.env)?;
        }
        absolute("cwd", &self.cwd)?;
        if self.hostname.is_empty() || self.hostname.len() > 64 || self.hostname.contains('\0') {
            return Err(invalid(
                "hostname",
                format!("{:?} has not 1 to 64 bytes", self.hostname),
            ));
        }
        self.root.validate()?;
        crate::exec::validate_input(&self.stdin, self.terminal)?;
        let mut contents = self.stdin.len();
        for mount in &self.mounts {
            mount.validate()?;
            contents += mount.contents_len();
        }
        for directory in &self.cgroups {
            absolute("cgroups", directory)?;
        }
        for device in &self.devices {
            absolute("devices.source", &device.source)?;
            absolute("devices.target", &device.target)?;
        }
        if contents > MAX_CONTENTS {
            return Err(invalid(
                "mounts",
                format!(
                    "standard input and files hold {contents} bytes, at most {MAX_CONTENTS} fit"
                ),
            ));
        }
        if self.max_processes < 512 {
            return Err(invalid(
                "max_processes",
                format!(
                    "{} is below 512, the least that the kernel takes",
                    self.max_processes
                ),
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for RunSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("RunSpec")
            .field("root", &self.root)
            .field("args", &self.args)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A device of the host inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path of its node on the host.
    pub source: PathBuf,
    /// Absolute path inside, mostly in `/dev`.
    pub target: PathBuf,
}

/// The tree that becomes `/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Root {
    /// An overlay, mounted in the private mount namespace of the run.
    Overlay {
        /// Read-only directories, **topmost first**, 1 to [`MAX_LOWER_DIRECTORIES`]. An
        /// uppermost layer's whiteouts and opaque markers are those of overlayfs (character
        /// device 0:0, `trusted.overlay.opaque`; in a user namespace `user.overlay.opaque`).
        lower: Vec<PathBuf>,
        /// Where changes go; must exist, on a filesystem that takes `trusted.*` attributes
        /// (in a user namespace: `user.*`).
        upper: PathBuf,
        /// Directory on the filesystem of `upper`, empty at first, for the kernel's own use.
        work: PathBuf,
        /// Leaves out all syncing, also where the command asks for it (package managers do so
        /// after every file). What must survive a crash of the machine is the caller's to sync.
        /// A run that was cut off by one leaves a mark in `work`, and the next run refuses these
        /// directories.
        volatile: bool,
    },
    /// A directory as it is; changes go straight into it.
    Plain(PathBuf),
}

impl Root {
    /// Where changes to `/` end up on the host.
    pub fn writable(&self) -> &Path {
        match self {
            Root::Overlay { upper, .. } => upper,
            Root::Plain(path) => path,
        }
    }

    fn validate(&self) -> Result<(), SandboxError> {
        match self {
            Root::Overlay {
                lower, upper, work, ..
            } => {
                if lower.is_empty() || lower.len() > MAX_LOWER_DIRECTORIES {
                    return Err(invalid(
                        "root.lower",
                        format!(
                            "{} lower directories, 1 to {MAX_LOWER_DIRECTORIES} can be stacked",
                            lower.len()
                        ),
                    ));
                }
                for path in lower.iter().chain([upper, work]) {
                    absolute("root", path)?;
                }
                Ok(())
            }
            Root::Plain(path) => absolute("root", path),
        }
    }
}

/// A mount over the root.
///
/// Targets are absolute and resolved inside the root: symbolic links of the image lead to where
/// they would lead inside, never out. Mount points that the image lacks are made before the
/// command starts and are gone from the root when [`run`](crate::run) returns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Mount {
    /// A file or directory of the host; what it is on the host decides what `target` must be.
    Bind {
        /// Absolute path on the host, followed through symbolic links.
        source: PathBuf,
        /// Absolute path inside.
        target: PathBuf,
        /// Whether it can be changed from inside.
        read_only: bool,
    },
    /// A directory of the host that can be changed inside, without effect on it.
    Overlay {
        /// The directory, an absolute path on the host.
        lower: PathBuf,
        /// Where changes go, as in [`Root::Overlay`].
        upper: PathBuf,
        /// Empty directory on the filesystem of `upper`.
        work: PathBuf,
        /// Absolute path inside.
        target: PathBuf,
    },
    /// An empty filesystem in memory.
    Tmpfs {
        /// Absolute path inside.
        target: PathBuf,
        /// Most bytes; `None`: half of the machine's memory.
        size: Option<u64>,
        /// Permission bits of the top directory.
        mode: u32,
    },
    /// A read-only file with these contents, kept in memory that is never swapped: secrets,
    /// `resolv.conf`, certificates.
    File {
        /// What the file holds.
        contents: Contents,
        /// Absolute path inside.
        target: PathBuf,
        /// Owner inside.
        uid: u32,
        /// Group inside.
        gid: u32,
        /// Permission bits.
        mode: u32,
    },
}

impl Mount {
    /// Where it is mounted inside.
    pub fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. }
            | Mount::Overlay { target, .. }
            | Mount::Tmpfs { target, .. }
            | Mount::File { target, .. } => target,
        }
    }

    fn validate(&self) -> Result<(), SandboxError> {
        absolute("mounts.target", self.target())?;
        if self.target().parent().is_none() {
            return Err(invalid("mounts.target", "/ itself cannot be mounted over"));
        }
        match self {
            Mount::Bind { source, .. } => absolute("mounts.source", source),
            Mount::Overlay {
                lower, upper, work, ..
            } => [lower, upper, work]
                .into_iter()
                .try_for_each(|path| absolute("mounts.source", path)),
            Mount::Tmpfs { mode, .. } | Mount::File { mode, .. } if mode & !0o7777 != 0 => Err(
                invalid("mounts.mode", format!("{mode:o} has bits beyond 7777")),
            ),
            Mount::Tmpfs { .. } | Mount::File { .. } => Ok(()),
        }
    }

    fn contents_len(&self) -> usize {
        match self {
            Mount::File { contents, .. } => contents.0.len(),
            Mount::Bind { .. } | Mount::Overlay { .. } | Mount::Tmpfs { .. } => 0,
        }
    }
}

/// Bytes that may be secret: never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents(#[serde(with = "base64_bytes")] pub Vec<u8>);

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

/// Standard input of the command.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// These bytes, then end of file.
    Bytes(Contents),
    /// What is written to the [`Input`](crate::Input) of the run.
    Stream,
}

impl Stdin {
    pub(crate) fn len(&self) -> usize {
        match self {
            Stdin::Null | Stdin::Stream => 0,
            Stdin::Bytes(contents) => contents.0.len(),
        }
    }
}

/// Who runs the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// `user`, `uid`, `user:group`, `uid:gid` and mixtures, as in a Dockerfile's `USER`; names
    /// are looked up in the root's `/etc/passwd` and `/etc/group`. Empty means `0`.
    Named(String),
    /// Exactly these ids; `HOME` still comes from `/etc/passwd`.
    Ids {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
}

impl Default for User {
    fn default() -> User {
        User::Named("0".to_owned())
    }
}

/// Network of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// That of the host.
    Host,
    /// A network namespace of its own, with nothing but `lo`.
    None,
}

/// Capabilities of a run: what the process may have at most (its bounding set). Root has them
/// all, others none until they execute a program that gives them; nothing is inheritable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capabilities {
    /// Docker's default set of fourteen.
    Default,
    /// None at all: also root is bound by permissions.
    None,
}

/// System-call filter of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's default profile.
    Default,
    /// No filter.
    Unconfined,
}

pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> SandboxError {
    SandboxError::InvalidSpec {
        field,
        reason: reason.into(),
    }
}

/// Checks arguments and environment of a command.
pub(crate) fn validate_program(
    args: &[String],
    env: &[(String, String)],
) -> Result<(), SandboxError> {
    let program = args.first().map(String::as_str).unwrap_or_default();
    if program.is_empty() {
        return Err(invalid(
            "args",
            "no command is given: the first argument is the program",
        ));
    }
    for argument in args {
        no_nul("args", argument)?;
    }
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(invalid("env", format!("{name:?} is no name of a variable")));
        }
        no_nul("env", name)?;
        no_nul("env", value).map_err(|_| {
            invalid(
                "env",
                format!("the value of {name} holds a NUL byte, which no variable can"),
            )
        })?;
    }
    Ok(())
}

pub(crate) fn no_nul(field: &'static str, text: &str) -> Result<(), SandboxError> {
    if text.contains('\0') {
        return Err(invalid(
            field,
            format!("{text:?} holds a NUL byte, which no program can take"),
        ));
    }
    Ok(())
}

pub(crate) fn absolute(field: &'static str, path: &Path) -> Result<(), SandboxError> {
    let Some(text) = path.to_str() else {
        return Err(invalid(field, format!("{} is not UTF-8", path.display())));
    };
    if !path.is_absolute() || text.contains('\0') {
        return Err(invalid(field, format!("{text:?} is not an absolute path")));
    }
    Ok(())
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
