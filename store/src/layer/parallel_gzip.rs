//! Gzip on several threads, as `pigz` does it: blocks are deflated on their own, each ended by a
//! sync flush, and joined into one member. The output depends on the level, not on the threads.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};

/// Input bytes per block. Blocks share no dictionary; at this size that costs under 1 %.
const BLOCK: usize = 1 << 20;
/// Magic, deflate, no flags, no time, no hint, unknown system: the same bytes everywhere.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// An empty final block of stored deflate data.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

type Job = (Vec<u8>, SyncSender<io::Result<Deflated>>);

struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

pub(crate) struct ParallelGzip<W: Write> {
    out: W,
    block: Vec<u8>,
    jobs: Option<SyncSender<Job>>,
    workers: Vec<JoinHandle<()>>,
    pending: VecDeque<Receiver<io::Result<Deflated>>>,
    most_pending: usize,
    crc: Crc,
    started: bool,
}

impl<W: Write> ParallelGzip<W> {
    pub(crate) fn new(out: W, level: u8, threads: usize) -> Self {
        let threads = threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let workers = (0..threads)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || {
                    loop {
                        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((block, reply)) = job else { return };
                        // Nobody listens when the writer was dropped half way.
                        let _ = reply.send(deflate(&block, level));
                    }
                })
            })
            .collect();
        Self {
            out,
            block: Vec::with_capacity(BLOCK),
            jobs: Some(jobs),
            workers,
            pending: VecDeque::new(),
            most_pending: threads + 2,
            crc: Crc::new(),
            started: false,
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (reply, result) = sync_channel(1);
        let sent = self.jobs.as_ref().map(|jobs| jobs.send((block, reply)));
        if !matches!(sent, Some(Ok(()))) {
            return Err(io::Error::other("gzip threads are gone"));
        }
        self.pending.push_back(result);
        while self.pending.len() > self.most_pending {
            self.take_one()?;
        }
        Ok(())
    }

    fn take_one(&mut self) -> io::Result<()> {
        let Some(result) = self.pending.pop_front() else {
            return Ok(());
        };
        let deflated = result
            .recv()
            .map_err(|_| io::Error::other("a gzip thread died"))??;
        if !self.started {
            self.started = true;
            self.out.write_all(&HEADER)?;
        }
        self.out.write_all(&deflated.bytes)?;
        self.crc.combine(&deflated.crc);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.submit()?;
        }
        while !self.pending.is_empty() {
            self.take_one()?;
        }
        drop(self.jobs.take());
        for worker in self.workers.drain(..) {
            worker
                .join()
                .map_err(|_| io::Error::other("a gzip thread died"))?;
        }
        if !self.started {
            self.out.write_all(&HEADER)?;
        }
        self.out.write_all(&LAST_BLOCK)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        if self.block.len() == BLOCK {
            self.submit()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn deflate(block: &[u8], level: u8) -> io::Result<Deflated> {
    let mut crc = Crc::new();
    crc.update(block);
    let mut encoder = Compress::new(Level::new(u32::from(level)), false);
    let mut bytes = Vec::with_capacity(block.len() / 2 + 1024);
    loop {
        let read = usize::try_from(encoder.total_in()).unwrap_or(usize::MAX);
        let status = encoder
            .compress_vec(&block[read..], &mut bytes, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        let all_read = encoder.total_in() == block.len() as u64;
        // Room left over says that the flush came out whole.
        if all_read && bytes.len() < bytes.capacity() {
            return Ok(Deflated { bytes, crc });
        }
        if status == Status::BufError && bytes.len() < bytes.capacity() {
            return Err(io::Error::other("deflate makes no progress"));
        }
        bytes.reserve(64 * 1024);
    }
}
