//! Blobs that arrive in pieces over several requests, as the OCI distribution specification's
//! `POST`, `PATCH`, `PUT` uploads do (spec.md, "Pushing blobs"), and outlive a restart.
//!
//! An upload is a file `uploads/<id>`; its length is the number of bytes received. The running
//! hash is kept in memory between requests of one process and computed anew from the file after a
//! restart. So is that of another algorithm, if it was asked for before the first byte came;
//! otherwise the finished file is read once more.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chalk_core::any_digest::Algorithm;
use chalk_core::{AnyDigest, Digest};
use sha2::{Digest as _, Sha256, Sha512};
use tokio::sync::{Mutex as Slot, OwnedMutexGuard};

use crate::blobs::{Blob, BlobError, BlobStore, TempName, sync_dir};
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

/// Random name of an upload: a UUID of version 4 (RFC 9562, section 5.4), which cannot be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no upload's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an upload is named by a UUID in lower case")]
pub struct InvalidUploadId;

/// Where the dashes of a UUID are.
const DASHES: [usize; 4] = [8, 13, 18, 23];

impl UploadId {
    fn random() -> Self {
        let random = rand::random::<u128>();
        let version = random & !(0xf << 76) | (4 << 76);
        let mut text = format!("{:032x}", version & !(0b11 << 62) | (0b10 << 62));
        for dash in DASHES {
            text.insert(dash, '-');
        }
        Self(text)
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |(at, b): (usize, u8)| match DASHES.contains(&at) {
            true => b == b'-',
            false => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        };
        if text.len() == 36 && text.bytes().enumerate().all(fits) {
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

/// An upload that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arriving {
    /// Its name.
    pub id: UploadId,
    /// Bytes received so far.
    pub received: u64,
    /// When it began.
    pub begun: SystemTime,
    /// When it last got bytes.
    pub last: SystemTime,
}

#[derive(Debug)]
struct State {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    /// Over all that was received, if it is wanted.
    sha512: Option<Sha512>,
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
        let id = UploadId::random();
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

    /// Throws an upload away, for good: no loss of power brings it back.
    ///
    /// # Errors
    /// `Unknown`, and `Busy` while a session has it.
    pub fn cancel(&self, id: &UploadId) -> Result<()> {
        self.remove(id)?;
        Ok(sync_dir(&self.dir())?)
    }

    fn remove(&self, id: &UploadId) -> Result<()> {
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
        let mut swept = 0;
        for upload in self.list()? {
            let age = SystemTime::now().duration_since(upload.last);
            if age.is_ok_and(|age| age >= idle) && self.remove(&upload.id).is_ok() {
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// All uploads, each with the bytes received and the times when it began and last got some.
    pub fn list(&self) -> Result<Vec<Arriving>> {
        let dir = self.store.root().join("uploads");
        let entries = fs::read_dir(&dir).map_err(|e| BlobError::io("list", &dir, e))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| BlobError::io("list", &dir, e))?;
            let Some(id) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // Ended meanwhile, or of a file system that does not say.
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            let Ok(last) = meta.modified() else {
                continue;
            };
            found.push(Arriving {
                id,
                received: meta.len(),
                begun: meta.created().unwrap_or(last),
                last,
            });
        }
        Ok(found)
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.dir().join(&id.0)
    }

    fn dir(&self) -> PathBuf {
        self.store.root().join("uploads")
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
        let received = read_all(&mut file, |part| hasher.update(part));
        Ok(State {
            received: received.map_err(|e| BlobError::io("read", &path, e))?,
            file,
            path,
            hasher,
            sha512: None,
            gone: false,
        })
    }
}

/// Reads a file to its end, which is how many bytes on.
fn read_all(file: &mut File, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; 128 * 1024];
    let mut count = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(count),
            Ok(n) => {
                take(&buffer[..n]);
                count += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
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

    /// Says by which algorithm the blob will be named, so that its bytes are hashed as they come.
    /// Once some came it changes nothing.
    pub fn expect(&mut self, algorithm: Algorithm) {
        let state = &mut *self.state;
        if algorithm == Algorithm::Sha512 && state.received == 0 {
            state.sha512 = Some(Sha512::new());
        }
    }

    /// Turns the upload into a blob, which must have the digest `expected`.
    ///
    /// # Errors
    /// A [`BlobError::Mismatch`] ends the upload: its bytes are thrown away, since no more bytes
    /// could mend it.
    pub fn finish(mut self, expected: impl Into<AnyDigest>) -> Result<Blob> {
        let expected = expected.into();
        let state = &mut *self.state;
        let digest = Digest::from_bytes(state.hasher.finalize_reset().into());
        let size = state.received;
        let mut temp = TempName(Some(state.path.clone()));
        state.gone = true;
        self.uploads.forget(&self.id);
        let actual = match expected.algorithm() {
            Algorithm::Sha256 => digest.into(),
            Algorithm::Sha512 => state.sha512()?,
        };
        if actual != expected {
            return Err(BlobError::Mismatch {
                expected,
                actual,
                size,
            }
            .into());
        }
        let store = &self.uploads.store;
        let blob = store.adopt(&self.state.file, &mut temp, Blob { digest, size })?;
        if expected.algorithm() != Algorithm::Sha256 {
            store.name(&expected, &blob.digest)?;
        }
        Ok(blob)
    }
}

impl State {
    /// SHA-512 digest of all that was received.
    fn sha512(&mut self) -> Result<AnyDigest> {
        let hasher = match self.sha512.take() {
            Some(hasher) => hasher,
            None => {
                let mut hasher = Sha512::new();
                let from_start = self.file.seek(SeekFrom::Start(0));
                from_start
                    .and_then(|_| read_all(&mut self.file, |part| hasher.update(part)))
                    .map_err(|e| BlobError::io("read", &self.path, e))?;
                hasher
            }
        };
        Ok(AnyDigest::Sha512(Box::new(hasher.finalize().into())))
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
        if let Some(sha512) = &mut state.sha512 {
            sha512.update(&bytes[..n]);
        }
        state.received += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
