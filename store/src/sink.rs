//! A bridge from async byte streams to blocking writers.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Chunks in flight between the async side and the writing thread.
const QUEUE: usize = 8;

/// Sends chunks to a blocking [`Write`] (a [`BlobWriter`](crate::BlobWriter), an upload
/// [`Session`](crate::uploads::Session)) that runs on a blocking thread, so that neither hashing
/// nor the disk stalls the runtime. Dropping it drops the writer, which discards its data if it
/// is a `BlobWriter`.
#[derive(Debug)]
pub struct ChunkSink<W> {
    chunks: mpsc::Sender<Bytes>,
    task: JoinHandle<(W, io::Result<()>)>,
}

impl<W: Write + Send + 'static> ChunkSink<W> {
    /// Starts the thread that writes. Must be called inside a tokio runtime.
    pub fn new(mut writer: W) -> Self {
        let (chunks, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let task = tokio::task::spawn_blocking(move || {
            while let Some(chunk) = queue.blocking_recv() {
                if let Err(e) = writer.write_all(&chunk) {
                    return (writer, Err(e));
                }
            }
            let flushed = writer.flush();
            (writer, flushed)
        });
        Self { chunks, task }
    }

    /// Hands over a chunk, waiting while the queue is full. `false` says that the writer failed:
    /// stop sending, [`finish`](Self::finish) gives the error.
    pub async fn send(&self, chunk: Bytes) -> bool {
        self.chunks.send(chunk).await.is_ok()
    }

    /// Waits until everything is written and gives the writer back, with the error that stopped
    /// it, if any. Committing the writer blocks, too: do it in
    /// [`BlobStore::run`](crate::BlobStore::run).
    pub async fn finish(self) -> io::Result<(W, io::Result<()>)> {
        drop(self.chunks);
        self.task.await.map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn writes_in_order_and_reports_failure() {
        let sink = ChunkSink::new(Vec::new());
        for i in 0..100u8 {
            assert!(sink.send(vec![i; 10].into()).await);
        }
        let (bytes, result) = sink.finish().await.unwrap();
        result.unwrap();
        assert_eq!(bytes.len(), 1000);
        assert!(bytes.is_sorted());

        let sink = ChunkSink::new(Full(25));
        while sink.send(vec![0; 10].into()).await {}
        let (_, result) = sink.finish().await.unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
