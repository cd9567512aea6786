//! Standard input of a command while it runs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::termios::{LocalModes, SpecialCodeIndex};
use tokio::io::AsyncWriteExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::control::Progress;

/// Writes to the standard input of a command, or types into its terminal. Dropping it is the end
/// of a stream; a terminal stays as it is.
#[derive(Debug)]
pub struct Input(Kind);

#[derive(Debug)]
enum Kind {
    Pipe(pipe::Sender),
    Terminal(watch::Receiver<Progress>),
}

impl Input {
    pub(crate) fn pipe(sender: pipe::Sender) -> Input {
        Input(Kind::Pipe(sender))
    }

    pub(crate) fn terminal(progress: watch::Receiver<Progress>) -> Input {
        Input(Kind::Terminal(progress))
    }

    /// Writes all of `bytes`; is done when the kernel has taken them, so a command that does not
    /// read holds the writer up.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] when nobody can read any more.
    pub async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Kind::Pipe(sender) => sender.write_all(bytes).await,
            Kind::Terminal(progress) => {
                let master = master(progress).await?;
                while !bytes.is_empty() {
                    let written = tokio::select! {
                        written = write_some(&master, bytes) => written?,
                        // The kernel wakes no writer whose terminal nobody has open.
                        _ = progress.wait_for(|progress| progress.ended) => {
                            return Err(io::ErrorKind::BrokenPipe.into());
                        }
                    };
                    bytes = &bytes[written..];
                }
                Ok(())
            }
        }
    }

    /// Says that nothing follows: ends the stream, or types what means the end of a file
    /// (control-D) if the program reads lines.
    ///
    /// # Errors
    /// As [`Input::write`].
    pub async fn close(mut self) -> io::Result<()> {
        let Kind::Terminal(progress) = &mut self.0 else {
            return Ok(());
        };
        let master = master(progress).await?;
        let settings = rustix::termios::tcgetattr(master.get_ref())?;
        if !settings.local_modes.contains(LocalModes::ICANON) {
            return Ok(());
        }
        let end_of_file = settings.special_codes[SpecialCodeIndex::VEOF];
        self.write(&[end_of_file]).await
    }
}

async fn write_some(master: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    let write = |fd: &OwnedFd| rustix::io::write(fd, bytes).map_err(broken);
    master.async_io(tokio::io::Interest::WRITABLE, write).await
}

fn broken(errno: rustix::io::Errno) -> io::Error {
    if errno == rustix::io::Errno::IO {
        io::ErrorKind::BrokenPipe.into()
    } else {
        errno.into()
    }
}

/// Waits for the terminal.
pub(crate) async fn master(
    progress: &mut watch::Receiver<Progress>,
) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    progress
        .wait_for(|progress| progress.terminal.is_some() || progress.ended)
        .await
        .ok()
        .and_then(|progress| progress.terminal.clone())
        .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
}
