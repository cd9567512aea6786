//! What parent and helper say to each other over the socket on the helper's standard input.
//!
//! The parent sends an [`Order`], then for [`Order::Prepare`] (at once or much later) the
//! [`RunSpec`](crate::RunSpec), both as frames: length as four little-endian bytes, then JSON; open
//! descriptors ride along with the length. After that it sends one byte for every signal to pass
//! on. The end of the stream means "kill everything", whether the parent shut it down or died.
//! The helper answers with [`Report`]s, one line of JSON each, descriptors riding along.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::SetupError;
use crate::exec::ExecSpec;
use crate::files::FileWork;
use crate::spec::Contents;

/// What the helper is to do.
#[derive(Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make everything ready for a run whose spec follows.
    Prepare(Prepare),
    /// Run a command in the sandbox whose pid 1 is named by the descriptor that comes first.
    Exec(Box<Exec>),
}

/// See [`Order::Prepare`]. The frame of the spec brings the descriptors that its command gets:
/// standard input if it is a stream, then output and error unless there is a terminal.
#[derive(Serialize, Deserialize)]
pub(crate) struct Prepare {
    /// Control groups to join: their directories.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Whether this is no root of the machine but of a user namespace
    /// ([`userns::inside`](crate::userns::inside)).
    pub(crate) user_namespace: bool,
    /// System-call filters of commands that have one, to be loaded in this order; each an array
    /// of `struct sock_filter` in native byte order. Compiled by the parent, once, since that
    /// takes longer than a run.
    pub(crate) filters: Vec<Contents>,
}

/// See [`Order::Exec`]. Descriptors: pid 1 of the sandbox, then those of the command as for
/// [`Prepare`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) spec: ExecSpec,
    /// What to do with a file in place of executing the program of the spec.
    pub(crate) file: Option<FileWork>,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) filters: Vec<Contents>,
}

/// What the helper tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The set-up failed.
    Setup(SetupError),
    /// The user cannot be found.
    User { spec: String, reason: String },
    /// The terminal is made; its master rides along.
    Terminal,
    /// The command is executed; for a run, a process descriptor of pid 1 rides along.
    Started,
    /// `execve` failed.
    Exec { program: String, errno: i32 },
    /// Something could not be done with a file.
    File {
        action: String,
        path: String,
        errno: i32,
    },
    /// The command ended with this code.
    Exited { code: i32 },
    /// The command was ended by this signal.
    Signalled { signal: i32 },
    /// Every process is gone; what they used, all together.
    Gone {
        user_us: u64,
        system_us: u64,
        max_rss_bytes: u64,
    },
}
