//! Records of a segment: number (8 bytes), stream (1), length (4, all little-endian), bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use chalk_core::wire::Stream;

/// Longest record.
const MAX_RECORD: u32 = 1 << 20;

const HEADER: usize = 13;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) stream: Stream,
    pub(super) bytes: Vec<u8>,
}

impl Record {
    /// A record as it stands in the file.
    pub(super) fn encode(number: u64, stream: Stream, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(bytes.len())
            .ok()
            .filter(|length| *length <= MAX_RECORD)
            .ok_or_else(|| io::Error::other("too much at once"))?;
        let mut record = Vec::with_capacity(HEADER + bytes.len());
        record.extend_from_slice(&number.to_le_bytes());
        record.push(u8::from(stream == Stream::Stderr));
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(bytes);
        Ok(record)
    }
}

/// Reads the records of a file that may still grow.
#[derive(Debug)]
pub(super) struct Records {
    file: File,
    /// What was read of the file, from `offset` on.
    buffer: Vec<u8>,
    offset: u64,
    /// Where in the buffer the next record begins.
    at: usize,
}

impl Records {
    pub(super) fn new(file: File) -> Records {
        Records {
            file,
            buffer: Vec::new(),
            offset: 0,
            at: 0,
        }
    }

    /// Where in the file the next record begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset + self.at as u64
    }

    /// The next record; `None` when it is not there, or not whole.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let Some(&[a, b, c, d, e, f, g, h, stream, i, j, k, l]) = self.ahead(HEADER)? else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([i, j, k, l]);
        if length > MAX_RECORD {
            return Ok(None);
        }
        let whole = HEADER + length as usize;
        let Some(record) = self.ahead(whole)? else {
            return Ok(None);
        };
        let bytes = record[HEADER..].to_vec();
        self.at += whole;
        Ok(Some(Record {
            number: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            stream: if stream == 0 {
                Stream::Stdout
            } else {
                Stream::Stderr
            },
            bytes,
        }))
    }

    /// The next `count` bytes, if the file has as many.
    fn ahead(&mut self, count: usize) -> io::Result<Option<&[u8]>> {
        if self.buffer.len() - self.at < count {
            self.fill(count)?;
        }
        Ok(self.buffer.get(self.at..self.at + count))
    }

    /// Reads until the buffer holds `count` bytes that were not given yet, or the file ends.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.offset += self.at as u64;
        self.at = 0;
        let mut filled = self.buffer.len();
        self.buffer.resize(count.max(CHUNK), 0);
        while filled < count {
            let at = self.offset + filled as u64;
            match self.file.read_at(&mut self.buffer[filled..], at) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.buffer.truncate(filled);
                    return Err(error);
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }
}
