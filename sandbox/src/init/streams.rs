//! Standard input, output and error of a command.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, Uid};

use super::channel::descriptor;
use super::report::At as _;
use crate::error::{SetupError, Stage};
use crate::spec::Stdin;
use crate::users::ResolvedUser;

/// Where a command reads and writes.
pub(super) enum Streams {
    /// Its controlling terminal.
    Terminal(OwnedFd),
    /// Three streams.
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
        /// Whether `stdin` is a pipe, to be given to the user as the others are.
        stdin_is_pipe: bool,
    },
}

impl Streams {
    /// All three on a terminal.
    pub(super) fn of_terminal(terminal: OwnedFd) -> Streams {
        Streams::Terminal(terminal)
    }

    /// What the parent sent, and standard input as the spec has it.
    pub(super) fn receive(
        stdin: &Stdin,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> Result<Streams, SetupError> {
        let input = "standard input";
        let open = match stdin {
            Stdin::Null => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                rustix::fs::open("/dev/null", flags, Mode::empty()).at(Stage::Streams, input)?
            }
            Stdin::Bytes(contents) => memory_file(&contents.0).at(Stage::Streams, input)?,
            Stdin::Stream => descriptor(descriptors, input)?,
        };
        Ok(Streams::Pipes {
            stdin: open,
            stdout: descriptor(descriptors, "standard output")?,
            stderr: descriptor(descriptors, "standard error")?,
            stdin_is_pipe: matches!(stdin, Stdin::Stream),
        })
    }

    /// Makes `user` the owner: processes of another user may open `/dev/stdout` and the like
    /// anew.
    pub(super) fn give_to(&self, user: &ResolvedUser) -> Result<(), SetupError> {
        let uid = Uid::from_raw(user.uid);
        let gid = rustix::fs::Gid::from_raw(user.gid);
        match self {
            // The group of terminals stays `tty`.
            Streams::Terminal(terminal) => {
                rustix::fs::fchown(terminal, Some(uid), None).at(Stage::Streams, "the terminal")
            }
            Streams::Pipes {
                stdin,
                stdout,
                stderr,
                stdin_is_pipe,
            } => {
                let pipes = [stdout, stderr]
                    .into_iter()
                    .chain(stdin_is_pipe.then_some(stdin));
                for pipe in pipes {
                    rustix::fs::fchown(pipe, Some(uid), Some(gid)).at(Stage::Streams, "pipes")?;
                }
                Ok(())
            }
        }
    }

    /// Makes these the streams of this process, which must lead a session of its own.
    pub(super) fn connect(&self) -> Result<(), SetupError> {
        let (stdin, stdout, stderr) = match self {
            Streams::Terminal(terminal) => {
                rustix::process::ioctl_tiocsctty(terminal).at(Stage::Streams, "the terminal")?;
                (terminal, terminal, terminal)
            }
            Streams::Pipes {
                stdin,
                stdout,
                stderr,
                ..
            } => (stdin, stdout, stderr),
        };
        rustix::stdio::dup2_stdin(stdin).at(Stage::Streams, "standard input")?;
        rustix::stdio::dup2_stdout(stdout).at(Stage::Streams, "standard output")?;
        rustix::stdio::dup2_stderr(stderr).at(Stage::Streams, "standard error")
    }
}

/// An unchangeable file in memory with these contents, at its start.
fn memory_file(contents: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("stdin", flags)?);
    file.write_all(contents)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file.into())
}
