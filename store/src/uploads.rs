//! Blobs that arrive in pieces over several requests, as the OCI distribution specification's
//! `POST`, `PATCH`, `PUT` uploads do (spec.md, "Pushing blobs"), and outlive a restart.
//!
//! An upload is a file `uploads/<id>`; its length is the number of bytes received. The running
//! hash is kept in memory between requests of one process and computed anew from the file after a
//! restart.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chalk_core::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex as Slot, OwnedMutexGuard};

use crate::blobs::{Blob, BlobError, BlobStore, TempName};
use crate::failpoint::{Step, around};

/// What an upload can fail with.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// No such upload: never started, finished, cancelled or expired.
    #[error("upload {0} does not exist")]
    Unknown(UploadId),
    /// Another request writes to it now.
    #[error("upload {0} is being written by another request")]
    Busy(UploadId),
    /// A piece does not start where the last one ended (HTTP 416).
    #[error("upload {id} goes on at byte {expected}, not at {got}")]
    OutOfOrder {
        /// The upload.
        id: UploadId,
        /// Bytes received so far, where the next piece must start.
        expected: u64,
        /// Where the piece wants to start.
        got: u64,
    },
    /// The store failed, or the finished bytes have another digest.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// A result of an upload.
pub type Result<T, E = UploadError> = std::result::Result<T, E>;

/// Random name of an upload: 32 hex digits that cannot be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no upload's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an upload is named by 32 lower-case hex digits")]
pub struct InvalidUploadId;

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidUploadId)
        }
    }
}

/// Everything that is being uploaded into a store. Clones share it. One process at a time may
/// use the uploads of a store.
#[derive(Debug, Clone)]
pub struct Uploads {
    store: BlobStore,
    open: Arc<Mutex<HashMap<UploadId, Arc<Slot<State>>>>>,
}

#[derive(Debug)]
struct State {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    received: u64,
    /// Finished or cancelled while somebody waited for it.
    gone: bool,
}

impl Uploads {
    /// The uploads of `store`, those that an earlier process left included.
    pub fn new(store: BlobStore) -> Self {
        Self {
            store,
            open: Arc::default(),
        }
    }

    /// The store that finished blobs go to.
    pub fn store(&self) -> &BlobStore {
        &self.store
    }

    /// Starts an upload.
    pub fn start(&self) -> Result<UploadId> {
        let id = UploadId(format!("{:032x}", rand::random::<u128>()));
        let path = self.path(&id);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        around(Step::UploadCreate, || options.open(&path))
            .map_err(|e| BlobError::io("create", path, e))?;
        Ok(id)
    }

    /// Bytes received so far. Does not wait for a request that writes.
    pub fn received(&self, id: &UploadId) -> Result<u64> {
        let path = self.path(id);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.len()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(UploadError::Unknown(id.clone())),
            Err(e) => Err(BlobError::io("inspect", path, e).into()),
        }
    }

    /// Takes an upload for writing; `at` is where the client says its piece starts, if it says.
    ///
    /// # Errors
    /// `Unknown`, `Busy` while another session has it, `OutOfOrder`.
    pub fn session(&self, id: &UploadId, at: Option<u64>) -> Result<Session> {
        let slot = self.slot(id)?;
        let state = slot
            .try_lock_owned()
            .map_err(|_| UploadError::Busy(id.clone()))?;
        if state.gone {
            return Err(UploadError::Unknown(id.clone()));
        }
        match at {
            Some(got) if got != state.received => Err(UploadError::OutOfOrder {
                id: id.clone(),
                expected: state.received,
                got,
            }),
            _ => Ok(Session {
                uploads: self.clone(),
                id: id.clone(),
                state,
            }),
        }
    }

    /// Throws an upload away.
    ///
    /// # Errors
    /// `Unknown`, and `Busy` while a session has it.
    pub fn cancel(&self, id: &UploadId) -> Result<()> {
        let mut session = self.session(id, None)?;
        session.state.gone = true;
        self.forget(id);
        let path = self.path(id);
        around(Step::UploadCancel, || fs::remove_file(&path))
            .map_err(|e| BlobError::io("remove", path, e))?;
        Ok(())
    }

    /// Throws away every upload that got no byte for `idle`, and says how many.
    pub fn sweep(&self, idle: Duration) -> Result<usize> {
        let dir = self.store.root().join("uploads");
        let entries = fs::read_dir(&dir).map_err(|e| BlobError::io("list", &dir, e))?;
        let mut swept = 0;
        for entry in entries {
            let entry = entry.map_err(|e| BlobError::io("list", &dir, e))?;
            let Some(id) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let Ok(modified) = entry.metadata().and_then(|m| m.modified()) else {
                continue;
            };
            let age = SystemTime::now().duration_since(modified);
            if age.is_ok_and(|age| age >= idle) && self.cancel(&id).is_ok() {
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.store.root().join("uploads").join(&id.0)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Slot<State>>>> {
        // The table is never left half changed, so a panic elsewhere does not spoil it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: &UploadId) {
        self.table().remove(id);
    }

    fn slot(&self, id: &UploadId) -> Result<Arc<Slot<State>>> {
        if let Some(slot) = self.table().get(id) {
            return Ok(slot.clone());
        }
        // Hashing what is there takes a while: not under the table's lock.
        let state = self.reopen(id)?;
        let mut table = self.table();
        let slot = table
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Slot::new(state)));
        Ok(slot.clone())
    }

    fn reopen(&self, id: &UploadId) -> Result<State> {
        let path = self.path(id);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let mut file = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => UploadError::Unknown(id.clone()),
            _ => BlobError::io("open", &path, e).into(),
        })?;
        let mut hasher = Sha256::new();
        let mut received = 0;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    received += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(BlobError::io("read", path, e).into()),
            }
        }
        Ok(State {
            file,
            path,
            hasher,
            received,
            gone: false,
        })
    }
}

/// One request's hold on an upload. Bytes written count even when the request breaks off; the
/// client asks how far it got and goes on from there.
#[derive(Debug)]
pub struct Session {
    uploads: Uploads,
    id: UploadId,
    state: OwnedMutexGuard<State>,
}

impl Session {
    /// The upload's name.
    pub fn id(&self) -> &UploadId {
        &self.id
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.state.received
    }

    /// Turns the upload into a blob, which must have the digest `expected`.
    ///
    /// # Errors
    /// A [`BlobError::Mismatch`] ends the upload: its bytes are thrown away, since no more bytes
    /// could mend it.
    pub fn finish(mut self, expected: Digest) -> Result<Blob> {
        let state = &mut *self.state;
        let actual = Digest::from_bytes(state.hasher.finalize_reset().into());
        let size = state.received;
        let mut temp = TempName(Some(state.path.clone()));
        state.gone = true;
        self.uploads.forget(&self.id);
        if actual != expected {
            return Err(BlobError::Mismatch {
                expected,
                actual,
                size,
            }
            .into());
        }
        let blob = Blob {
            digest: actual,
            size,
        };
        let blob = self
            .uploads
            .store
            .adopt(&self.state.file, &mut temp, blob)?;
        Ok(blob)
    }
}

impl Write for Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = &mut *self.state;
        let n = match state.file.write(bytes) {
            Ok(n) => n,
            Err(e) => {
                // Length of file and count of bytes must not part.
                state.file.seek(SeekFrom::Start(state.received))?;
                return Err(e);
            }
        };
        state.hasher.update(&bytes[..n]);
        state.received += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads() -> (tempfile::TempDir, Uploads) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        (dir, Uploads::new(store))
    }

    #[test]
    fn pieces_become_a_blob_across_a_restart() {
        let (_dir, uploads) = uploads();
        let id = uploads.start().unwrap();
        let mut session = uploads.session(&id, Some(0)).unwrap();
        session.write_all(b"hello ").unwrap();
        drop(session);
        assert_eq!(uploads.received(&id).unwrap(), 6);

        let later = Uploads::new(uploads.store().clone());
        let mut session = later.session(&id, Some(6)).unwrap();
        session.write_all(b"world").unwrap();
        let blob = session.finish(Digest::of(b"hello world")).unwrap();
        assert_eq!(blob.size, 11);
        let bytes = later.store().read_small(&blob.digest, 11).unwrap();
        assert_eq!(bytes, b"hello world");
        assert!(matches!(
            later.session(&id, None),
            Err(UploadError::Unknown(_))
        ));
    }

    #[test]
    fn refusals() {
        let (_dir, uploads) = uploads();
        let id = uploads.start().unwrap();
        let mut session = uploads.session(&id, None).unwrap();
        session.write_all(b"abc").unwrap();
        assert!(matches!(
            uploads.session(&id, None),
            Err(UploadError::Busy(_))
        ));
        drop(session);
        assert!(matches!(
            uploads.session(&id, Some(5)),
            Err(UploadError::OutOfOrder {
                expected: 3,
                got: 5,
                ..
            })
        ));
        let session = uploads.session(&id, Some(3)).unwrap();
        assert!(matches!(
            session.finish(Digest::of(b"abd")),
            Err(UploadError::Blob(BlobError::Mismatch { .. }))
        ));
        assert!(matches!(
            uploads.received(&id),
            Err(UploadError::Unknown(_))
        ));
        for bad in ["", "../../etc/passwd", "ABCDEF", &"g".repeat(32)] {
            assert_eq!(bad.parse::<UploadId>(), Err(InvalidUploadId));
        }
    }

    #[test]
    fn idle_uploads_are_swept_and_busy_ones_stay() {
        let (_dir, uploads) = uploads();
        let idle = uploads.start().unwrap();
        let busy = uploads.start().unwrap();
        let session = uploads.session(&busy, None).unwrap();
        assert_eq!(uploads.sweep(Duration::from_secs(3600)).unwrap(), 0);
        assert_eq!(uploads.sweep(Duration::ZERO).unwrap(), 1);
        assert!(uploads.received(&idle).is_err());
        drop(session);
        uploads.cancel(&busy).unwrap();
        assert!(uploads.cancel(&busy).is_err());
    }
}
