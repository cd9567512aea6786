//! A blob as it comes, kept for other nodes and readable by them before it is whole.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::cache::SpoolRoom;

/// How far a spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// This many bytes are there; more come.
    To(u64),
    /// All bytes are there, and have the blob's digest.
    Whole,
    /// It comes to nothing: the bytes were wrong, or the pull was given up.
    Broken,
}

/// Whether a blob on its way is kept for other nodes.
#[derive(Debug, Clone)]
pub(crate) enum Keeping {
    /// The layer waits for its turn.
    Undecided,
    /// There is no room for it among the kept blobs.
    Not,
    /// It can be read as it comes.
    In(Arc<Spool>),
}

/// A blob on its way, readable up to where it is filled.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) file: Arc<File>,
    pub(crate) filled: watch::Receiver<Filled>,
}

/// Fills a [`Spool`]. Dropping it before [`keep`](Self::keep) breaks the spool and removes the
/// file.
#[derive(Debug)]
pub(crate) struct SpoolWriter {
    file: Arc<File>,
    path: Option<PathBuf>,
    position: u64,
    filled: watch::Sender<Filled>,
    _room: SpoolRoom,
}

impl SpoolWriter {
    /// Fills `file`, which lies at `path`, within `room`.
    pub(crate) fn new(path: PathBuf, file: File, room: SpoolRoom) -> Self {
        Self {
            file: Arc::new(file),
            path: Some(path),
            position: 0,
            _room: room,
            filled: watch::Sender::new(Filled::To(0)),
        }
    }

    pub(crate) fn reader(&self) -> Arc<Spool> {
        Arc::new(Spool {
            file: Arc::clone(&self.file),
            filled: self.filled.subscribe(),
        })
    }

    /// Appends bytes. Where the disk fails the spool is given up: others do without.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.path.is_none() {
            return;
        }
        match self.file.write_all_at(bytes, self.position) {
            Ok(()) => {
                self.position += bytes.len() as u64;
                self.filled.send_replace(Filled::To(self.position));
            }
            Err(error) => {
                tracing::warn!(%error, "blob cannot be kept for other nodes");
                self.give_up();
            }
        }
    }

    /// The blob has its digest: gives it its name. `false` when it was given up before.
    pub(crate) fn keep(&mut self, target: &std::path::Path) -> bool {
        let Some(path) = self.path.take() else {
            return false;
        };
        let kept = fs::rename(&path, target).is_ok();
        if !kept {
            let _ = fs::remove_file(&path);
        }
        self.filled.send_replace(Filled::Whole);
        kept
    }

    fn give_up(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = fs::remove_file(path);
            self.filled.send_replace(Filled::Broken);
        }
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Spool {
    /// A blob that is there.
    pub(crate) fn whole(file: File) -> Self {
        let (_, filled) = watch::channel(Filled::Whole);
        Self {
            file: Arc::new(file),
            filled,
        }
    }
}
