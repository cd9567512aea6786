//! Reading a blob while it is being written.
//!
//! A [`Follower`] gives the bytes of a [`BlobWriter`](crate::BlobWriter) as they come, and ends well
//! only when the writer has found them to be those that it was told to expect. So a layer can be
//! unpacked while it is downloaded; what is made of it must stay hidden until the follower has
//! ended.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    Whole,
    Broken,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    end: End,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The writer's side. Dropping it before [`whole`](Self::whole) tells followers that the blob broke
/// off.
#[derive(Debug, Default)]
pub(crate) struct Followed(Arc<Shared>);

impl Followed {
    /// One who reads the file at `path` from its start.
    pub(crate) fn follower(&self, path: &Path) -> io::Result<Follower> {
        Ok(Follower {
            file: File::open(path)?,
            read: 0,
            shared: Arc::clone(&self.0),
        })
    }

    /// Tells how many bytes are written by now.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.0.change(|state| state.written = bytes);
    }

    /// Tells that all bytes are written, and that they are the right ones.
    pub(crate) fn whole(&self) {
        self.0.change(|state| state.end = End::Whole);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.change(|state| {
            if state.end == End::Open {
                state.end = End::Broken;
            }
        });
    }
}

/// Reads a blob from its start while it is being written, and waits for what is not there yet. Its
/// last read says whether the bytes were those of the blob's digest; see
/// [`BlobWriter::follow`](crate::BlobWriter::follow).
#[derive(Debug)]
pub struct Follower {
    file: File,
    read: u64,
    shared: Arc<Shared>,
}

impl Follower {
    /// Waits until there is something to read, and gives how much; 0 at the end of a whole blob.
    fn ahead(&self) -> io::Result<u64> {
        let state = self.shared.lock();
        let nothing = |state: &mut State| state.written == self.read && state.end == End::Open;
        let state = self.shared.changed.wait_while(state, nothing);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        match state.written - self.read {
            0 if state.end == End::Broken => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the blob did not arrive whole",
            )),
            ahead => Ok(ahead),
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let ahead = usize::try_from(self.ahead()?).unwrap_or(usize::MAX);
        if ahead == 0 {
            return Ok(0);
        }
        let room = buffer.len().min(ahead);
        match self.file.read(&mut buffer[..room])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.read += n as u64;
                Ok(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use chalk_core::Digest;

    use super::*;
    use crate::blobs::{BlobStore, BlobWriter};

    fn writer() -> (tempfile::TempDir, BlobWriter) {
        let dir = tempfile::tempdir().unwrap();
        let writer = BlobStore::open(dir.path()).unwrap().writer().unwrap();
        (dir, writer)
    }

    #[test]
    fn gives_what_is_written_while_it_is_written() {
        let (_dir, mut writer) = writer();
        writer.write_all(b"before ").unwrap();
        let mut follower = writer.follow().unwrap();
        let (told, seen) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut first = [0; 7];
            follower.read_exact(&mut first).unwrap();
            told.send(first).unwrap();
            let mut rest = String::new();
            follower.read_to_string(&mut rest).map(|_| rest)
        });
        assert_eq!(&seen.recv().unwrap(), b"before ");
        writer.write_all(b"and after").unwrap();
        let digest = Digest::of(b"before and after");
        writer.commit(Some(digest)).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), "and after");
    }

    #[test]
    fn ends_well_only_for_the_right_bytes() {
        let end = |finish: fn(BlobWriter)| {
            let (_dir, mut writer) = writer();
            let mut follower = writer.follow().unwrap();
            writer.write_all(b"bytes").unwrap();
            finish(writer);
            let mut read = Vec::new();
            let end = follower.read_to_end(&mut read).map_err(|e| e.kind());
            assert_eq!(read, b"bytes");
            end
        };
        let broken = Err(io::ErrorKind::ConnectionAborted);
        assert_eq!(end(drop), broken);
        let wrong = |writer: BlobWriter| {
            writer.commit(Some(Digest::of(b"other"))).unwrap_err();
        };
        assert_eq!(end(wrong), broken);
        let right = |writer: BlobWriter| {
            writer.commit(Some(Digest::of(b"bytes"))).unwrap();
        };
        assert_eq!(end(right), Ok(5));
    }
}
