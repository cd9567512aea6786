//! A file written from front to back, with holes where it is zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::format::BLOCK;

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;
/// Zeros are left out in pieces of this many bytes, at multiples of it: smaller holes would only
/// scatter the file.
const PIECE: usize = 64 << 10;

pub(super) struct Output<'a> {
    file: &'a File,
    /// Where `buffer` begins in the file: a multiple of [`PIECE`].
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Output<'a> {
    /// Starts at byte `skipped` of an empty file.
    pub(super) fn new(file: &'a File, skipped: usize) -> Self {
        let mut buffer = Vec::with_capacity(BUFFER);
        buffer.resize(skipped, 0);
        Self {
            file,
            start: 0,
            buffer,
        }
    }

    /// Bytes so far.
    pub(super) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(BUFFER - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Zeros.
    pub(super) fn skip(&mut self, mut count: u64) -> io::Result<()> {
        let room = (BUFFER - self.buffer.len()) as u64;
        if count >= room {
            self.buffer.resize(BUFFER, 0);
            self.flush()?;
            count -= room;
            let far = count - count % PIECE as u64;
            self.start += far;
            count -= far;
        }
        let zeros = self.buffer.len() + count as usize;
        self.buffer.resize(zeros, 0);
        Ok(())
    }

    /// Zeros up to the next block.
    pub(super) fn align(&mut self) -> io::Result<()> {
        let over = self.position() % BLOCK as u64;
        if over == 0 {
            return Ok(());
        }
        self.skip(BLOCK as u64 - over)
    }

    /// Writes what is left and gives the file its length.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let length = self.position();
        self.flush()?;
        self.file.set_len(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut from = 0;
        // Pieces with something in them, as few writes as they allow.
        let mut at = 0;
        while at < self.buffer.len() {
            let end = self.buffer.len().min(at + PIECE);
            if self.buffer[at..end].iter().all(|b| *b == 0) {
                self.put(from, at)?;
                from = end;
            }
            at = end;
        }
        self.put(from, self.buffer.len())?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn put(&self, from: usize, to: usize) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        self.file
            .write_all_at(&self.buffer[from..to], self.start + from as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn writes_what_a_vector_would_hold() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::new(&file, 100);
        let mut expect = vec![0; 100];
        let sizes = [
            1,
            4095,
            0,
            70_000,
            1 << 20,
            (3 << 20) + 17,
            5,
            262_144,
            9 << 20,
        ];
        for (i, size) in sizes.into_iter().enumerate() {
            let bytes = vec![i as u8 + 1; size];
            output.write(&bytes).unwrap();
            expect.extend(bytes);
            output.skip(size as u64 * 3).unwrap();
            expect.resize(expect.len() + size * 3, 0);
            assert_eq!(output.position(), expect.len() as u64);
        }
        output.align().unwrap();
        expect.resize(expect.len().next_multiple_of(BLOCK), 0);
        output.finish().unwrap();
        assert_eq!(file.metadata().unwrap().len(), expect.len() as u64);
        let mut got = vec![0; expect.len()];
        file.read_exact_at(&mut got, 0).unwrap();
        assert!(got == expect);
        let written: usize = sizes
            .iter()
            .map(|n| n.next_multiple_of(PIECE) + PIECE)
            .sum();
        assert!(file.metadata().unwrap().blocks() * 512 <= written as u64);
    }
}
