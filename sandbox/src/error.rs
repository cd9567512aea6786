//! What can go wrong, and at which stage of setting the sandbox up.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::userns::Barrier;

/// A failure to run a command at all. That the command itself failed is no error but an
/// [`Exit`](crate::Exit).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A field of the [`RunSpec`](crate::RunSpec) holds what cannot be.
    #[error("bad sandbox spec, {field}: {reason}")]
    InvalidSpec {
        /// The field.
        field: &'static str,
        /// What stands there and what is expected.
        reason: String,
    },
    /// The program never called [`init_if_requested`](crate::init_if_requested).
    #[error(
        "this program cannot start sandboxes: call chalk_sandbox::init_if_requested() first in \
         its main function"
    )]
    NotInitialised,
    /// The process is not root, and cannot be it in a user namespace.
    #[error(
        "sandboxes need root or a user namespace, and {barrier} ({}): change that, or point the \
         command at a service that runs as root with --server",
        .barrier.remedy()
    )]
    NotRoot {
        /// What keeps it from a user namespace.
        barrier: Barrier,
    },
    /// The process is root, but in a container that may not mount.
    #[error(
        "sandboxes need the capability CAP_SYS_ADMIN, and this root lacks it: run the service \
         outside of a container, or in a privileged one (docker run --privileged)"
    )]
    NotPrivileged,
    /// The kernel lacks a system call.
    #[error("this kernel cannot run sandboxes: Linux 5.12 or newer is needed")]
    KernelTooOld,
    /// A stage of the set-up failed; the command has not started.
    #[error("setting up the sandbox failed: {0}")]
    Setup(#[source] SetupError),
    /// `user` of the spec cannot be found in the image.
    #[error("cannot run as user {spec:?}: {reason}")]
    User {
        /// What was asked for.
        spec: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// The root is set up, but the command cannot be executed. [`SandboxError::exit_code`] gives
    /// the code that a shell and Docker use for this.
    #[error("cannot execute {program:?}: {}", exec_reason(.source, .program))]
    Exec {
        /// The program as given.
        program: String,
        /// What `execve` said.
        source: io::Error,
    },
    /// A file of the sandbox cannot be read or written. What was to be written is as it was.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: String,
        /// The path inside, as given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A further command was to run in a sandbox that is over.
    #[error("the sandbox has ended: nothing can run in it any more")]
    Ended,
    /// The helper process ended without a word, for instance killed by the out-of-memory killer.
    #[error("the sandbox's helper process ended early ({status}); was it killed for memory?")]
    HelperDied {
        /// How it ended.
        status: String,
    },
    /// Talking to the helper process failed.
    #[error("cannot {action} the sandbox's helper process")]
    Helper {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl SandboxError {
    /// The exit code that a shell gives for a command that cannot be executed: 127 when it is not
    /// found, 126 otherwise. `None` for errors that are not about the command.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            SandboxError::Exec { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Some(127),
                _ => Some(126),
            },
            _ => None,
        }
    }
}

fn exec_reason(source: &io::Error, program: &str) -> String {
    match source.raw_os_error() {
        Some(libc::ENOENT) if !program.contains('/') => {
            "executable file not found in PATH".to_owned()
        }
        Some(libc::ENOENT) => {
            "no such file, or its interpreter (the #! line, the dynamic loader) is missing"
                .to_owned()
        }
        Some(libc::EACCES) => "permission denied: is it executable for this user?".to_owned(),
        Some(libc::ENOEXEC) => {
            "exec format error: not for this processor, or a script without a #! line".to_owned()
        }
        _ => source.to_string(),
    }
}

/// Which stage failed, on what, and why. Travels from the helper process as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupError {
    /// The stage.
    pub stage: Stage,
    /// What it was about: mostly a path, on the host or inside as the stage says.
    pub subject: String,
    /// The system's error number, 0 when the failure is none of the system's.
    pub errno: i32,
    /// More in words, may be empty.
    pub detail: String,
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage)?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        if self.errno != 0 {
            write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for SetupError {}

/// Stages of the set-up, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Stage {
    /// The helper reads its spec.
    ReadSpec,
    /// Control groups are joined.
    ControlGroup,
    /// New namespaces are made.
    Namespaces,
    /// The root is mounted.
    MountRoot,
    /// A source is opened, a filesystem made, before the root changes.
    PrepareMount,
    /// The root changes.
    PivotRoot,
    /// A mount is put in its place inside.
    AttachMount,
    /// Paths of `/proc` and `/sys` are hidden or made read-only.
    MaskPath,
    /// Host name and loopback are set.
    Identity,
    /// Limits of resources are set.
    Limits,
    /// The system-call filter is loaded.
    Seccomp,
    /// User, groups and capabilities are set.
    Credentials,
    /// The working directory is entered.
    WorkingDirectory,
    /// Standard input, output and error are connected.
    Streams,
    /// A process is forked.
    Fork,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::ReadSpec => "cannot read the spec of the run",
            Stage::ControlGroup => "cannot join the control group at",
            Stage::Namespaces => "cannot make or enter namespaces",
            Stage::MountRoot => "cannot mount the root",
            Stage::PrepareMount => "cannot prepare the mount of",
            Stage::PivotRoot => "cannot change into the root",
            Stage::AttachMount => "cannot mount at",
            Stage::MaskPath => "cannot protect",
            Stage::Identity | Stage::Credentials => "cannot set",
            Stage::Limits => "cannot set the limit of",
            Stage::Seccomp => "cannot load the system-call filter",
            Stage::WorkingDirectory => "cannot enter the working directory",
            Stage::Streams => "cannot connect",
            Stage::Fork => "cannot fork",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_failures_have_the_codes_of_a_shell() {
        let check = |program: &str, errno: i32, code: i32, words: &str| {
            let error = SandboxError::Exec {
                program: program.to_owned(),
                source: io::Error::from_raw_os_error(errno),
            };
            assert_eq!(error.exit_code(), Some(code), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        };
        check("nope", libc::ENOENT, 127, "not found in PATH");
        check("/nope", libc::ENOENT, 127, "interpreter");
        check("/etc/passwd/x", libc::ENOTDIR, 127, "Not a directory");
        check("/etc/passwd", libc::EACCES, 126, "permission denied");
        check("/bin/arm", libc::ENOEXEC, 126, "exec format error");
        assert_eq!(SandboxError::NotInitialised.exit_code(), None);
    }

    #[test]
    fn setup_errors_name_stage_subject_and_reason() {
        let error = SetupError {
            stage: Stage::AttachMount,
            subject: "/etc/resolv.conf".to_owned(),
            errno: libc::ENOTDIR,
            detail: String::new(),
        };
        assert_eq!(
            SandboxError::Setup(error).to_string(),
            "setting up the sandbox failed: cannot mount at /etc/resolv.conf: \
             Not a directory (os error 20)"
        );
    }
}
