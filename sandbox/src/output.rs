//! Where the output of a run goes.

use std::future::Future;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

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

/// Hands both streams to the sink until both end. Once the run has `ended` everything written is
/// in the pipes, so an empty pipe is the end even when some process outside of the run was handed
/// its other end and keeps it open.
pub(crate) async fn pump(
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
