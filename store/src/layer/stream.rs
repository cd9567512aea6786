//! The uncompressed stream of a layer, decompressed and hashed on a thread of its own while
//! another thread does what the entries say.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use chalk_core::Digest;
use sha2::{Digest as _, Sha256};

use super::compress::decompress;
use super::{LayerError, Limits, Result};

/// Bytes per piece, and pieces in flight.
const PIECE: usize = 256 * 1024;
const QUEUE: usize = 8;

/// Figures of a stream that was read to its end.
pub(crate) struct Total {
    pub(crate) diff_id: Digest,
    pub(crate) uncompressed: u64,
    pub(crate) compressed: u64,
    pub(crate) media_type: &'static str,
}

/// Runs `work` on the decompressed `source` and gives the stream's figures beside what it gives.
/// `work` must read to the end; only then is everything verified.
pub(crate) fn with_stream<T>(
    source: impl Read + Send,
    layer: &str,
    limits: Limits,
    work: impl FnOnce(PieceReader) -> Result<T>,
) -> Result<(T, Total)> {
    let (pieces, queue) = sync_channel(QUEUE);
    let (used, spare) = channel();
    let reader = PieceReader {
        queue,
        used,
        piece: Vec::new(),
        position: 0,
        ended: false,
    };
    std::thread::scope(|scope| {
        let producer = scope.spawn(move || produce(source, layer, limits, &pieces, &spare));
        let done = work(reader);
        let total = match producer.join() {
            Ok(total) => total,
            Err(_) => Err(io::Error::other("the decompressing thread died")),
        };
        // When both fail, the consumer's error is the cause or was handed over from the producer.
        let done = done?;
        let total = total.map_err(|source| LayerError::Read {
            layer: layer.to_owned(),
            source,
        })?;
        Ok((done, total))
    })
}

fn produce(
    source: impl Read,
    layer: &str,
    limits: Limits,
    pieces: &SyncSender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> io::Result<Total> {
    let hand_over = |e: io::Error| {
        let kind = e.kind();
        // The consumer reports it; it is gone when it failed itself.
        let _ = pieces.send(Err(e));
        io::Error::from(kind)
    };
    let mut stream = decompress(CountingReader { source, count: 0 }).map_err(hand_over)?;
    let mut hasher = Sha256::new();
    let mut uncompressed = 0u64;
    loop {
        let mut piece = spare.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let n = match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(hand_over(e)),
        };
        piece.truncate(n);
        hasher.update(&piece);
        uncompressed += n as u64;
        let compressed = stream.source().count;
        let over = |what, limit| {
            io::Error::other(LayerError::Limit {
                layer: layer.to_owned(),
                what,
                limit,
            })
        };
        if uncompressed > limits.bytes {
            return Err(hand_over(over("unpacked bytes", limits.bytes)));
        }
        if uncompressed > limits.ratio_from && uncompressed / compressed.max(1) > limits.ratio {
            let what = "unpacked bytes per compressed byte";
            return Err(hand_over(over(what, limits.ratio)));
        }
        if pieces.send(Ok(piece)).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    stream.drain_source().map_err(hand_over)?;
    Ok(Total {
        diff_id: Digest::from_bytes(hasher.finalize().into()),
        uncompressed,
        compressed: stream.source().count,
        media_type: stream.compression().media_type(),
    })
}

struct CountingReader<R> {
    source: R,
    count: u64,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        self.count += n as u64;
        Ok(n)
    }
}

/// What the decompressing thread sends.
pub(crate) struct PieceReader {
    queue: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    position: usize,
    ended: bool,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            match self.queue.recv() {
                Ok(Ok(piece)) => {
                    let used = std::mem::replace(&mut self.piece, piece);
                    let _ = self.used.send(used);
                    self.position = 0;
                }
                Ok(Err(e)) => {
                    self.ended = true;
                    return Err(e);
                }
                Err(_) => {
                    self.ended = true;
                    return Ok(0);
                }
            }
        }
        let n = buffer.len().min(self.piece.len() - self.position);
        buffer[..n].copy_from_slice(&self.piece[self.position..self.position + n]);
        self.position += n;
        Ok(n)
    }
}
