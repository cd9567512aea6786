//! Packing of inodes, with what stands behind them, into blocks.

use std::io;

use super::format::{BLOCK, SLOT};
use super::output::Output;

/// Blocks that are filled side by side and then written in one piece between the contents.
const RUN: usize = 16;

/// Where an inode is: its run, and the byte in it. Known before the run has a place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    run: u32,
    offset: u32,
}

/// Inodes on their way into the file.
pub(super) struct Records {
    /// Where each run begins, in bytes. The last one is still being filled.
    starts: Vec<u64>,
    blocks: Vec<u8>,
    /// Bytes used of each block.
    used: [usize; RUN],
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            starts: Vec::new(),
            blocks: vec![0; RUN * BLOCK],
            used: [0; RUN],
        }
    }

    /// Puts down an inode; one that fits into a block lies in one, tail included, as the kernel
    /// wants it.
    pub(super) fn put(&mut self, record: &[u8], output: &mut Output<'_>) -> io::Result<Place> {
        if record.len() > BLOCK {
            self.flush(output)?;
            return self.put_large(record, output);
        }
        loop {
            let free = self.used.iter().position(|n| n + record.len() <= BLOCK);
            let Some(block) = free else {
                self.flush(output)?;
                continue;
            };
            let at = block * BLOCK + self.used[block];
            self.blocks[at..at + record.len()].copy_from_slice(record);
            self.used[block] = (self.used[block] + record.len()).next_multiple_of(SLOT as usize);
            return Ok(Place {
                run: self.starts.len() as u32,
                offset: at as u32,
            });
        }
    }

    fn put_large(&mut self, record: &[u8], output: &mut Output<'_>) -> io::Result<Place> {
        output.align()?;
        self.starts.push(output.position());
        output.write(record)?;
        output.align()?;
        Ok(Place {
            run: self.starts.len() as u32 - 1,
            offset: 0,
        })
    }

    /// Writes the run that is being filled, if there is anything in it.
    pub(super) fn flush(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        let filled = self.used.iter().take_while(|n| **n > 0).count();
        if filled == 0 {
            return Ok(());
        }
        output.align()?;
        self.starts.push(output.position());
        output.write(&self.blocks[..filled * BLOCK])?;
        self.blocks.fill(0);
        self.used = [0; RUN];
        Ok(())
    }

    /// Where an inode is in the file, in bytes; its run must have been written.
    pub(super) fn position(&self, place: Place) -> u64 {
        let start = self.starts.get(place.run as usize).copied();
        start.unwrap_or_default() + u64::from(place.offset)
    }
}
