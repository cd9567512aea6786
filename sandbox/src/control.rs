//! The parent's end of the socket to a helper: frames and signals go out, reports come in, open
//! descriptors ride along in both directions.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use serde::Serialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::wire::Report;

/// Most bytes of reports that a helper can send: a handful of short lines.
const MAX_REPORTS: usize = 256 << 10;

/// The connection to a helper.
#[derive(Debug)]
pub(crate) struct Control {
    socket: UnixStream,
    outbox: Mutex<Outbox>,
    progress: watch::Sender<Progress>,
}

/// How far the helper has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The terminal's master, once there is one.
    pub(crate) terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    /// The command was executed.
    pub(crate) started: bool,
    /// Process descriptor of pid 1, once the command of a run is executed.
    pub(crate) pid_1: Option<Arc<OwnedFd>>,
    /// The helper has ended.
    pub(crate) ended: bool,
}

/// What is still to be sent.
#[derive(Debug, Default)]
struct Outbox {
    pieces: VecDeque<Piece>,
    /// Signals that came before the last frame.
    early: Vec<u8>,
    /// Whether the last frame has been put in.
    complete: bool,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    /// Ride along with the first byte.
    descriptors: Vec<OwnedFd>,
}

impl Control {
    pub(crate) fn new(socket: UnixStream) -> Control {
        Control {
            socket,
            outbox: Mutex::default(),
            progress: watch::Sender::new(Progress::default()),
        }
    }

    /// Sends a frame as far as the socket takes it now; the rest goes out with
    /// [`Control::deliver`]. After the `last` frame come signals.
    pub(crate) fn send(
        &self,
        value: &impl Serialize,
        descriptors: Vec<OwnedFd>,
        last: bool,
    ) -> io::Result<()> {
        let mut bytes = vec![0; 4];
        serde_json::to_writer(&mut bytes, value)?;
        let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let mut outbox = self.outbox();
        outbox.pieces.push_back(Piece {
            bytes,
            sent: 0,
            descriptors,
        });
        if last {
            outbox.complete = true;
            let early = std::mem::take(&mut outbox.early);
            outbox.push_signals(early);
        }
        self.flush(&mut outbox)
    }

    /// Passes a signal on.
    pub(crate) fn signal(&self, signal: u8) {
        let mut outbox = self.outbox();
        if !outbox.complete {
            outbox.early.push(signal);
        } else if outbox.pieces.is_empty() {
            // A full or closed socket means that the run is ending or flooded with signals.
            let _ = transmit(self.socket.as_fd(), &[signal], &[]);
        } else {
            outbox.push_signals(vec![signal]);
        }
    }

    /// Sends what is left of the frames.
    pub(crate) async fn deliver(&self) -> io::Result<()> {
        loop {
            {
                let mut outbox = self.outbox();
                self.flush(&mut outbox)?;
                if outbox.pieces.is_empty() {
                    return Ok(());
                }
            }
            self.socket.writable().await?;
        }
    }

    /// Orders the helper to kill everything.
    pub(crate) fn stop(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write)?)
    }

    /// Reads reports until every holder of the other end is gone.
    pub(crate) async fn reports(&self) -> io::Result<Vec<Report>> {
        let mut reports = Vec::new();
        let (mut text, mut total) = (Vec::new(), 0);
        let mut descriptors = VecDeque::new();
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, || {
                    receive(self.socket.as_fd(), &mut text, &mut descriptors)
                })
                .await;
            match received {
                Ok(0) => return Ok(reports),
                Ok(count) => total += count,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(reports),
                Err(error) => return Err(error),
            }
            if total > MAX_REPORTS {
                return Err(io::Error::other("the helper's reports have no end"));
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let report: Report = serde_json::from_slice(&line)?;
                self.note(&report, &mut descriptors)?;
                reports.push(report);
            }
        }
    }

    /// How far the helper has come, and every change of it.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Tells everybody who waits that nothing more will come.
    pub(crate) fn end(&self) {
        self.progress.send_modify(|progress| {
            *progress = Progress {
                started: progress.started,
                ended: true,
                ..Progress::default()
            };
        });
    }

    fn note(&self, report: &Report, descriptors: &mut VecDeque<OwnedFd>) -> io::Result<()> {
        match report {
            Report::Terminal => {
                let master = descriptors
                    .pop_front()
                    .ok_or_else(|| io::Error::other("the helper sent no terminal"))?;
                rustix::io::ioctl_fionbio(&master, true)?;
                // SAFETY: an owned descriptor always gives the same open file.
                let master = Arc::new(unsafe { AsyncFd::register(master) }?);
                self.progress
                    .send_modify(|progress| progress.terminal = Some(master));
            }
            Report::Started => {
                let pid_1 = descriptors.pop_front().map(Arc::new);
                self.progress.send_modify(|progress| {
                    progress.started = !progress.ended;
                    progress.pid_1 = pid_1;
                });
            }
            // What follows is the end of a process that never became the command.
            Report::Setup(_) | Report::User { .. } | Report::Exec { .. } | Report::File { .. } => {
                self.end();
            }
            Report::Exited { .. } | Report::Signalled { .. } | Report::Gone { .. } => {}
        }
        Ok(())
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, outbox: &mut Outbox) -> io::Result<()> {
        while let Some(piece) = outbox.pieces.front_mut() {
            let send = || {
                let descriptors: Vec<BorrowedFd<'_>> =
                    piece.descriptors.iter().map(|fd| fd.as_fd()).collect();
                transmit(
                    self.socket.as_fd(),
                    &piece.bytes[piece.sent..],
                    &descriptors,
                )
            };
            // Of a new socket Tokio does not know yet that it can be written to, and would say no
            // unasked: a spare would begin to prepare only when it is used.
            let sent = match send() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.try_io(Interest::WRITABLE, send)
                }
                sent => sent,
            };
            match sent {
                Ok(count) => {
                    piece.sent += count;
                    piece.descriptors.clear();
                    if piece.sent == piece.bytes.len() {
                        outbox.pieces.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The helper ended early; what it reported tells why.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    outbox.pieces.clear();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Outbox {
    fn push_signals(&mut self, signals: Vec<u8>) {
        if !signals.is_empty() {
            self.pieces.push_back(Piece {
                bytes: signals,
                sent: 0,
                descriptors: Vec::new(),
            });
        }
    }
}

fn transmit(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one frame"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let slices = [IoSlice::new(bytes)];
    Ok(rustix::net::sendmsg(
        socket,
        &slices,
        &mut ancillary,
        flags,
    )?)
}

fn receive(
    socket: BorrowedFd<'_>,
    text: &mut Vec<u8>,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let message = rustix::net::recvmsg(socket, &mut slices, &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    text.extend_from_slice(&buffer[..message.bytes]);
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;

    #[tokio::test]
    async fn what_is_sent_first_is_on_its_way_at_once() {
        let (ours, mut theirs) = StdUnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        theirs.set_nonblocking(true).expect("set");
        let control = Control::new(UnixStream::from_std(ours).expect("registered"));
        control.send(&"frame", Vec::new(), true).expect("sent");
        control.signal(15);
        let mut bytes = [0; 64];
        let count = theirs.read(&mut bytes).expect("there already");
        assert_eq!(&bytes[..count], b"\x07\0\0\0\"frame\"\x0f");
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_goes_out_later() {
        let (ours, mut theirs) = StdUnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        let control = Control::new(UnixStream::from_std(ours).expect("registered"));
        let text = "x".repeat(8 << 20);
        control.send(&text, Vec::new(), true).expect("sent");
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; 4 + 2 + (8 << 20)];
            theirs.read_exact(&mut bytes).map(|()| bytes)
        });
        control.deliver().await.expect("delivered");
        let bytes = reader.join().expect("no panic").expect("whole");
        assert!(bytes.ends_with(b"xx\""));
    }
}
