//! Runs one process in an isolated root: overlay, namespaces, capabilities, seccomp.
//!
//! ```no_run
//! use chalk_sandbox::{Root, RunSpec, Stream};
//!
//! # async fn example() -> Result<(), chalk_sandbox::SandboxError> {
//! let root = Root::Overlay {
//!     lower: vec!["/layers/app".into(), "/layers/base".into()],
//!     upper: "/steps/7/upper".into(),
//!     work: "/steps/7/work".into(),
//!     volatile: true,
//! };
//! let spec = RunSpec::new(root, ["/bin/sh", "-c", "apt-get update"]);
//! let mut print = |stream: Stream, bytes: &[u8]| {
//!     println!("{stream:?}: {}", String::from_utf8_lossy(bytes));
//! };
//! let exit = chalk_sandbox::run(&spec, &mut print, &Default::default()).await?;
//! assert!(exit.status.success());
//! # Ok(())
//! # }
//! ```
//!
//! Linux only, 5.12 or newer, and only as root, be it of a user namespace ([`userns`]): everything
//! else gets a [`SandboxError`] that says what to do.
//!
//! # How
//!
//! The calling program runs threads, so it must not fork and go on: it executes itself anew, and
//! the new process, which has a single thread, does the work. For that, `main` starts with
//! [`init_if_requested`]. The spec goes to the new process over a socket on its standard input,
//! never in arguments or environment. See `init` for the processes of a run.
//!
//! The root is mounted in a mount namespace of the run and disappears with it: nothing has to be
//! unmounted. The end of the calling program ends the socket, which ends the helper, which ends pid
//! 1 of the pid namespace, with which the kernel ends everything in it.
//!
//! What a command gets is what `docker build` gives a `RUN`: its fourteen capabilities, its
//! system-call filter, its masked and read-only paths; set-user-id programs work. Where Docker
//! asks a cgroup which devices may be opened, here no mount but those of `/dev/null` and its like
//! lets devices be opened at all: nodes can be made (and packed), not used.
//!
//! In a user namespace of an ordinary user all this is as for root but for what only root of the
//! machine may do: overlays keep their marks in `user.*` attributes, `/sys` is the host's with
//! what is mounted below it covered, and no device can be made.
//!
//! # Why not an OCI runtime
//!
//! Milliseconds from start to exit of `/bin/true` in a Debian root (`examples/measure.rs`, three
//! rounds of 60; Linux 6.18 with 2 cores, which were busy with other work at the time, so that the
//! best of a round says more than its median):
//!
//! | | best | median |
//! |---|---|---|
//! | bare fork and execution | 0.6 | 0.7 to 4 |
//! | this crate, no filter | 4.6 to 6.9 | 14 to 18 |
//! | this crate | 6.3 to 7.2 | 15 to 18 |
//! | `runc` 1.1.5, same root without overlay, same filter | 34 to 35 | 45 to 46 |
//!
//! `runc` starts a Go runtime three times and makes cgroups; it leaves mounting the overlay, and
//! taking mount points out of it again, to its caller. The crate `libcontainer` hung one of 200
//! times when called from a program with threads, took 13 to 32 ms when executed anew, and brings
//! a hundred crates. What remains to be written here is what the modules of `init` hold.

#![cfg(target_os = "linux")]

pub mod cgroup;
mod control;
mod error;
mod exec;
mod exit;
mod files;
mod init;
mod input;
mod mount_attributes;
mod output;
mod run;
mod seccomp;
mod spare;
mod spec;
mod terminal;
pub mod userns;
pub mod users;
mod wire;

pub use error::{SandboxError, SetupError, Stage};
pub use exec::ExecSpec;
pub use exit::{Exit, Status, Usage};
pub use files::{FileInput, FileWork};
pub use init::init_if_requested;
pub use input::Input;
pub use output::{OutputSink, Stream};
pub use run::{Handle, Running, run};
pub use spare::{Spare, prepare};
pub use spec::{
    Capabilities, Contents, DEFAULT_PATH, Device, MAX_CONTENTS, MAX_LOWER_DIRECTORIES, Mount,
    Network, Root, RunSpec, Seccomp, Stdin, User,
};
pub use terminal::TerminalSize;
