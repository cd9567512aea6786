//! Where the output of a run goes.

use std::future::Future;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

use crate::control::Progress;
use crate::input::master;

/// Most bytes read from a stream at once.
const CHUNK: usize = 64 << 10;

/// One of the two output streams of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes the output of a command while it runs.
///
/// The next bytes are read only when the future of the last write is done, so a slow sink slows
/// the command down instead of filling memory. Every closure `FnMut(Stream, &[u8])` is a sink.
pub trait OutputSink: Send {
    /// Takes some bytes of `stream`, at most 64 KiB, as they came: lines may be split anywhere.
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> impl Future<Output = ()> + Send;
}

impl<F: FnMut(Stream, &[u8]) + Send> OutputSink for F {
    async fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self(stream, bytes);
    }
}

/// The parent's ends of what a command writes to.
#[derive(Debug)]
pub(crate) enum Output {
    Pipes {
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    },
    /// The terminal, once there is one.
    Terminal(watch::Receiver<Progress>),
}

impl Output {
    /// Hands everything to the sink until the end. Once the run has `ended` everything written is
    /// in the pipes, so an empty pipe is the end even when some process outside of the run was
    /// handed its other end and keeps it open.
    pub(crate) async fn pump(&mut self, sink: &mut impl OutputSink, ended: &Notify) {
        match self {
            Output::Pipes { stdout, stderr } => pump_pipes(stdout, stderr, sink, ended).await,
            Output::Terminal(progress) => {
                if let Ok(master) = master(progress).await {
                    pump_terminal(&master, sink, ended).await;
                }
            }
        }
    }
}

async fn pump_terminal(master: &AsyncFd<OwnedFd>, sink: &mut impl OutputSink, ended: &Notify) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = master.async_io(Interest::READABLE, |fd| {
            Ok(rustix::io::read(fd, &mut *buffer)?)
        });
        let count = tokio::select! {
            // "Input/output error" means that nobody has the terminal open any more.
            result = read => match result {
                Ok(0) | Err(_) => return,
                Ok(count) => count,
            },
            () = ended.notified() => break,
        };
        sink.write(Stream::Stdout, &buffer[..count]).await;
    }
    while let Ok(count @ 1..) =
        rustix::io::retry_on_intr(|| rustix::io::read(master.get_ref(), &mut *buffer))
    {
        sink.write(Stream::Stdout, &buffer[..count]).await;
    }
}

async fn pump_pipes(
    stdout: &mut pipe::Receiver,
    stderr: &mut pipe::Receiver,
    sink: &mut impl OutputSink,
    ended: &Notify,
) {
    let mut out_buffer = vec![0; CHUNK];
    let mut err_buffer = vec![0; CHUNK];
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            result = stdout.read(&mut out_buffer), if out_open => match result {
                Ok(0) | Err(_) => out_open = false,
                Ok(count) => sink.write(Stream::Stdout, &out_buffer[..count]).await,
            },
            result = stderr.read(&mut err_buffer), if err_open => match result {
                Ok(0) | Err(_) => err_open = false,
                Ok(count) => sink.write(Stream::Stderr, &err_buffer[..count]).await,
            },
            () = ended.notified() => break,
        }
    }
    for (receiver, stream, open) in [
        (stdout, Stream::Stdout, out_open),
        (stderr, Stream::Stderr, err_open),
    ] {
        while open && let Ok(count @ 1..) = read_now(receiver, &mut out_buffer) {
            sink.write(stream, &out_buffer[..count]).await;
        }
    }
}

/// Reads without waiting, past Tokio's own idea of readiness, which may lag behind.
fn read_now(receiver: &pipe::Receiver, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(receiver, &mut *buffer))
}
