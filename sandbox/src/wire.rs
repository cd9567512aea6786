//! What parent and helper say to each other over the socket on the helper's standard input.
//!
//! The parent sends the [`Request`] (length as four little-endian bytes, then JSON), then one byte
//! for every signal to pass on. The end of the stream means "kill everything", whether the parent
//! shut it down or died. The helper answers with [`Report`]s, one line of JSON each.

use serde::{Deserialize, Serialize};

use crate::error::SetupError;
use crate::spec::{Contents, RunSpec};

/// What the helper is to do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) spec: RunSpec,
    /// System-call filters, to be loaded in this order; each an array of `struct sock_filter` in
    /// native byte order. Compiled by the parent, once, since that takes longer than a run.
    pub(crate) filters: Vec<Contents>,
}

/// What the helper tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The set-up failed.
    Setup(SetupError),
    /// The user cannot be found.
    User { spec: String, reason: String },
    /// `execve` failed.
    Exec { program: String, errno: i32 },
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
