//! SHA-256 of open files.

use std::fs::File;
use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

use chalk_core::Digest;
use sha2::{Digest as _, Sha256};

/// Files of at least so many bytes are read by a thread of their own.
const BIG: u64 = 8 << 20;
/// Bytes that are read at once: little enough to be in the cache of a core still when it is hashed.
pub(super) const PIECE: usize = 256 << 10;
/// Pieces between the thread that reads and the one that hashes.
const AHEAD: usize = 4;

/// Digest of a file, and how many bytes it has; `size` is what it is thought to have. Small files
/// go through `buffer`. Big ones are read while they are hashed: reading alone would take a third
/// of the time even where the file is in memory.
pub(super) fn hash(file: &File, size: u64, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    if size < BIG {
        return in_turn(file, buffer);
    }
    will_read_through(file);
    ahead(file, buffer)
}

fn in_turn(mut file: &File, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let mut sum = Sum::default();
    loop {
        match read(&mut file, buffer)? {
            0 => return Ok(sum.end()),
            n => sum.add(&buffer[..n]),
        }
    }
}

fn ahead(mut file: &File, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let (full, pieces) = mpsc::sync_channel::<io::Result<(Vec<u8>, usize)>>(AHEAD);
    let (empty, recycled) = mpsc::channel::<Vec<u8>>();
    for _ in 0..AHEAD {
        // Its other end is right here.
        let _ = empty.send(vec![0; PIECE]);
    }
    let hashed = thread::scope(|scope| {
        let reader = move || {
            // Ends with the file, the first failure, or when nobody hashes any more.
            while let Ok(mut piece) = recycled.recv() {
                let count = read(&mut file, &mut piece);
                let last = !matches!(count, Ok(1..));
                if full.send(count.map(|count| (piece, count))).is_err() || last {
                    break;
                }
            }
        };
        let builder = thread::Builder::new().name("read-ahead".to_owned());
        if builder.spawn_scoped(scope, reader).is_err() {
            return None;
        }
        let mut sum = Sum::default();
        for piece in pieces {
            match piece {
                Ok((piece, count)) => {
                    sum.add(&piece[..count]);
                    // The thread that would take it may have come to the end.
                    let _ = empty.send(piece);
                }
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(sum.end()))
    });
    // No thread to be had: nothing was read yet.
    hashed.unwrap_or_else(|| in_turn(file, buffer))
}

fn read(file: &mut &File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Tells the system, so that it reads ahead further from the disk. It may not listen.
#[cfg(target_os = "linux")]
fn will_read_through(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
}

#[cfg(not(target_os = "linux"))]
fn will_read_through(_: &File) {}

#[derive(Default)]
struct Sum {
    hasher: Sha256,
    size: u64,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    fn end(self) -> (Digest, u64) {
        let digest = Digest::from_bytes(self.hasher.finalize().into());
        (digest, self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    #[test]
    fn both_ways_give_the_same() {
        let bytes: Vec<u8> = (0..AHEAD * PIECE * 3 + 17)
            .map(|n| (n % 251) as u8)
            .collect();
        let mut file = tempfile::tempfile().unwrap();
        for length in [0, 1, PIECE, PIECE + 1, bytes.len()] {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(&bytes[..length]).unwrap();
            let expect = (Digest::of(&bytes[..length]), length as u64);
            // A size that is wrong by now changes nothing but the way.
            for size in [0, BIG] {
                file.rewind().unwrap();
                let mut buffer = vec![0; PIECE];
                assert_eq!(hash(&file, size, &mut buffer).unwrap(), expect);
            }
        }
    }

    #[test]
    fn failures_come_out() {
        let dir = tempfile::tempdir().unwrap();
        // Some systems open a directory, none reads one.
        if let Ok(file) = File::open(dir.path()) {
            for size in [0, BIG] {
                hash(&file, size, &mut [0; 8]).unwrap_err();
            }
        }
    }
}
