//! Where the output of a run goes.

use std::future::Future;

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
