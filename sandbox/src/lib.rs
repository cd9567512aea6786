//! Runs one process in an isolated root: overlay, namespaces, capabilities, seccomp.
//!
//! Linux only, and only as root.

#![cfg(target_os = "linux")]

mod error;
mod init;
mod mount_attributes;
mod output;
mod run;
mod seccomp;
mod spec;
pub mod users;
mod wire;

pub use error::{SandboxError, SetupError, Stage};
pub use init::init_if_requested;
pub use output::{OutputSink, Stream};
pub use run::{Exit, Running, Signaller, Status, Usage, run};
pub use spec::{
    Capabilities, Contents, DEFAULT_PATH, MAX_CONTENTS, MAX_LOWER_DIRECTORIES, Mount, Network,
    Root, RunSpec, Seccomp, Stdin, User,
};
