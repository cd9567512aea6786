//! Blobs on disk, named by the SHA-256 of their bytes.
//!
//! A store directory holds `blobs/sha256/<hex>` as an OCI image layout does
//! (image-layout.md, "Blobs"), `names/` for their digests by other algorithms, `tmp/` for blobs on
//! their way in, `uploads/` for those that arrive in pieces ([`crate::uploads`]) and `quarantine/`
//! for those that rotted.
//!
//! A blob is written under a temporary name, hashed on the way, synced, and renamed; so what is
//! found under a digest was whole when it got there. Reading checks again, since disks err.
//!
//! Whoever is told that a blob is there, or opens it, uses it; the time of that is noted
//! ([`crate::uses`]), and on the disk it is the file's time of modification. A collector removes
//! only what was not used for long ([`BlobStore::remove_unused`]), and is in the process that
//! answers its users.
//! Everything here blocks; async callers use [`BlobStore::run`] and [`crate::sink::ChunkSink`].

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use chalk_core::{AnyDigest, Digest};
use sha2::{Digest as _, Sha256};

use crate::failpoint::{Step, around};
use crate::follow::{Followed, Follower};
use crate::uses::{DISK_EVERY, Held, Horizon, Lease, Leases, Uses};
use crate::verify::{VerifiedBlob, mismatch_or};

/// Bytes of a blob after which the disk is asked to take them in.
const WRITEBACK: u64 = 8 << 20;

/// What a blob store can fail with.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No blob has that digest.
    #[error("blob {0} is not in the store")]
    NotFound(AnyDigest),
    /// The bytes are not those that the digest names.
    #[error("expected blob {expected}, but its {size} bytes hash to {actual}")]
    Mismatch {
        /// The digest asked for.
        expected: AnyDigest,
        /// The digest of the bytes that came.
        actual: AnyDigest,
        /// How many bytes came.
        size: u64,
    },
    /// A blob that must fit into memory does not.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// The blob.
        digest: AnyDigest,
        /// Its size in bytes.
        size: u64,
        /// The most that the caller takes, in bytes.
        limit: u64,
    },
    /// The file system failed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The blocking task behind an async call went away: the runtime is stopping.
    #[error("the store's blocking task was cancelled")]
    Cancelled,
}

impl BlobError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        Self::Io {
            action,
            path,
            source,
        }
    }
}

/// A result of the blob store.
pub type Result<T, E = BlobError> = std::result::Result<T, E>;

/// Digest and size in bytes of a stored blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Number of bytes.
    pub size: u64,
}

/// A directory of blobs. Clones share it; several processes may use one directory at once.
#[derive(Debug, Clone)]
pub struct BlobStore {
    root: Arc<PathBuf>,
    /// Whether a blob was ever set aside.
    damaged: Arc<AtomicBool>,
    uses: Arc<Uses<Digest>>,
    leases: Leases,
}

/// What became of a blob that was to be removed if nobody used it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unused {
    /// It is gone; it had so many bytes.
    Removed(u64),
    /// It was used, and stays.
    Used,
    /// It was not there.
    Absent,
}

impl BlobStore {
    /// Opens the store in `dir`, creating it (mode 0700) when it is not there, and removes what
    /// writers that died left behind. Files of writers that live, here or in another process, are
    /// locked and stay.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        create_private_dir(dir)?;
        for sub in [
            "blobs/sha256",
            "names/sha512",
            "tmp",
            "uploads",
            "quarantine",
        ] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(|e| BlobError::io("create", &path, e))?;
        }
        let root = dir
            .canonicalize()
            .map_err(|e| BlobError::io("resolve", dir, e))?;
        let store = Self {
            root: Arc::new(root),
            damaged: Arc::default(),
            uses: Arc::default(),
            leases: Leases::default(),
        };
        let dir = store.root.join("quarantine");
        let mut aside = fs::read_dir(&dir).map_err(|e| BlobError::io("list", &dir, e))?;
        store
            .damaged
            .store(aside.next().is_some(), Ordering::Relaxed);
        store.sweep_temp()?;
        Ok(store)
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob lies, or would. Reading this file directly skips verification.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blob_dir().join(digest.hex())
    }

    fn blob_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn temp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Whether a blob was ever set aside because it was damaged: then what names blobs may name some
    /// that are gone.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Begins an operation that uses blobs: until it ends, none of them counts as unused.
    pub fn lease(&self) -> Lease {
        self.leases.begin()
    }

    /// What counts as unused, as [`Leases::horizon`] says.
    pub fn horizon(&self, grace: Duration, oldest: Option<SystemTime>) -> Horizon {
        self.leases.horizon(grace, oldest)
    }

    /// Takes hold of a blob: until this is dropped nobody is told whether it is there, and it is
    /// neither used nor removed. Calls of the store for a blob would wait for themselves.
    pub fn hold<'a>(&'a self, digest: &'a Digest) -> Held<'a, Digest> {
        self.uses.hold(digest)
    }

    /// Whether a blob that somebody [holds](Self::hold) was used after the horizon; one that is not
    /// there was not.
    pub fn is_used(
        &self,
        held: &Held<'_, Digest>,
        digest: &Digest,
        horizon: &Horizon,
    ) -> Result<bool> {
        let path = self.path(digest);
        match fs::symlink_metadata(&path).and_then(|meta| meta.modified()) {
            Ok(modified) => Ok(held.is_used(horizon, modified)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(BlobError::io("inspect", path, e)),
        }
    }

    /// Notes that a held blob, which is there, is used; `last` is when it was before, by the disk.
    fn note(held: Held<'_, Digest>, path: &Path, last: Option<SystemTime>) {
        held.used(|| match last.and_then(|last| last.elapsed().ok()) {
            Some(age) if age < DISK_EVERY => Ok(()),
            _ => touch(path),
        });
    }

    /// Forgets what the disk knows, too, of uses before the horizon.
    pub fn forget_uses(&self, horizon: &Horizon) {
        self.uses.forget_before(horizon);
    }

    /// Whether the blob is there. Its bytes are not read.
    pub fn contains(&self, digest: impl Into<AnyDigest>) -> Result<bool> {
        Ok(self.size(digest)?.is_some())
    }

    /// Size of the blob in bytes, `None` when it is not there.
    pub fn size(&self, digest: impl Into<AnyDigest>) -> Result<Option<u64>> {
        let Some(digest) = self.resolve(&digest.into())? else {
            return Ok(None);
        };
        let path = self.path(&digest);
        let held = self.uses.hold(&digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) => {
                Self::note(held, &path, meta.modified().ok());
                Ok(Some(meta.len()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(BlobError::io("inspect", path, e)),
        }
    }

    /// Starts a new blob.
    pub fn writer(&self) -> Result<BlobWriter> {
        let (path, file) = around(Step::BlobCreate, || create_locked(&self.temp_dir(), "blob"))?;
        Ok(BlobWriter {
            store: self.clone(),
            temp: TempName(Some(path)),
            file,
            hasher: Sha256::new(),
            size: 0,
            sent: 0,
            followed: None,
        })
    }

    /// Stores `bytes`.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        // Compared, since what is there may have rotted; then it is written anew.
        if self.size(digest)? == Some(size)
            && fs::read(self.path(&digest)).is_ok_and(|there| there == bytes)
        {
            around(Step::BlobSyncDir, || sync_dir(&self.blob_dir()))?;
            return Ok(Blob { digest, size });
        }
        let mut writer = self.writer()?;
        writer.push(bytes)?;
        writer.commit(Some(digest))
    }

    /// Stores everything that `reader` gives; with `expected`, only if it has that digest.
    pub fn put_reader(&self, mut reader: impl Read, expected: Option<Digest>) -> Result<Blob> {
        let mut writer = self.writer()?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => writer.push(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(BlobError::io("read the source of", writer.path(), e)),
            }
        }
        writer.commit(expected)
    }

    /// Opens a blob without checking its bytes, for random access or for sending to somebody who
    /// checks the digest himself. All else uses [`open_verified`](Self::open_verified).
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        let held = self.uses.hold(digest);
        match File::open(&path) {
            Ok(file) => {
                Self::note(held, &path, None);
                Ok(file)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(BlobError::NotFound(digest.into()))
            }
            Err(e) => Err(BlobError::io("open", path, e)),
        }
    }

    /// Reads a whole blob of at most `limit` bytes, verified, without using it: for those who look
    /// at everything. One that is damaged stays in its place.
    pub fn inspect(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
        match read {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::NotFound(digest.into()));
            }
            Err(e) => return Err(BlobError::io("read", path, e)),
            Ok(_) => {}
        }
        let size = bytes.len() as u64;
        if size > limit {
            return Err(BlobError::TooLarge {
                digest: digest.into(),
                size,
                limit,
            });
        }
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(bytes),
            actual => Err(BlobError::Mismatch {
                expected: digest.into(),
                actual: actual.into(),
                size,
            }),
        }
    }

    /// Opens a blob for reading front to back; the last read fails if the bytes are not those
    /// that the digest names, and the blob is then [quarantined](Self::quarantine).
    pub fn open_verified(&self, digest: impl Into<AnyDigest>) -> Result<VerifiedBlob> {
        let name = digest.into();
        let Some(digest) = self.resolve(&name)? else {
            return Err(BlobError::NotFound(name));
        };
        let file = self.open_blob(&digest)?;
        let size = file
            .metadata()
            .map_err(|e| BlobError::io("inspect", self.path(&digest), e))?
            .len();
        Ok(VerifiedBlob::new(self.clone(), size, file, digest, name))
    }

    /// Reads a whole blob of at most `limit` bytes, verified.
    pub fn read_small(&self, digest: impl Into<AnyDigest>, limit: u64) -> Result<Vec<u8>> {
        let mut blob = self.open_verified(digest)?;
        if blob.size() > limit {
            return Err(BlobError::TooLarge {
                digest: blob.digest().into(),
                size: blob.size(),
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size()).unwrap_or(0));
        match blob.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(e) => Err(mismatch_or(e, "read", &self.path(&blob.digest()))),
        }
    }

    /// Removes a blob; `false` when it was not there.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        let held = self.uses.hold(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                held.gone();
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(BlobError::io("remove", path, e)),
        }
    }

    /// Removes a blob that was not used after the horizon. That nothing names it is the business of
    /// the caller.
    pub fn remove_unused(&self, digest: &Digest, horizon: &Horizon) -> Result<Unused> {
        let path = self.path(digest);
        let held = self.uses.hold(digest);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Unused::Absent),
            Err(e) => return Err(BlobError::io("inspect", path, e)),
        };
        let modified = meta.modified();
        let modified = modified.map_err(|e| BlobError::io("inspect", &path, e))?;
        if held.is_used(horizon, modified) {
            return Ok(Unused::Used);
        }
        around(Step::GcBlob, || fs::remove_file(&path))
            .map_err(|e| BlobError::io("remove", &path, e))?;
        held.gone();
        Ok(Unused::Removed(meta.len()))
    }

    /// Takes a damaged blob away from under its name, so that it counts as absent and is fetched
    /// again. The newest damaged copy of each digest stays in `quarantine/` to be looked at.
    pub fn quarantine(&self, digest: &Digest) -> Result<()> {
        let (from, to) = (
            self.path(digest),
            self.root.join("quarantine").join(digest.hex()),
        );
        match around(Step::BlobQuarantine, || fs::rename(&from, &to)) {
            Ok(()) => {
                self.damaged.store(true, Ordering::Relaxed);
                tracing::warn!(%digest, kept = %to.display(), "blob is damaged, set aside");
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(BlobError::io("set aside", from, e)),
        }
    }

    /// All blobs, in no order, each with the time that it was last used, as the disk knows it.
    pub fn list(&self) -> Result<impl Iterator<Item = Result<(Blob, SystemTime)>> + use<>> {
        let dir = self.blob_dir();
        let entries = fs::read_dir(&dir).map_err(|e| BlobError::io("list", &dir, e))?;
        Ok(entries.filter_map(move |entry| {
            let found = entry.and_then(|entry| {
                let name = entry.file_name();
                let digest = name
                    .to_str()
                    .and_then(|hex| format!("sha256:{hex}").parse().ok());
                let Some(digest) = digest else {
                    return Ok(None);
                };
                let meta = entry.metadata()?;
                let blob = Blob {
                    digest,
                    size: meta.len(),
                };
                Ok(Some((blob, meta.modified()?)))
            });
            match found {
                Ok(found) => found.map(Ok),
                // Removed by somebody while we listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => Some(Err(BlobError::io("list", &dir, e))),
            }
        }))
    }

    /// Runs blocking work on the store on tokio's blocking threads.
    pub async fn run<T, E>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<BlobError> + Send + 'static,
    {
        let store = self.clone();
        // What is logged there is said of the same work.
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&store))).await {
            Ok(done) => done,
            Err(_) => Err(BlobError::Cancelled.into()),
        }
    }

    /// Removes temporary files that no living writer holds.
    fn sweep_temp(&self) -> Result<()> {
        let dir = self.temp_dir();
        let entries = fs::read_dir(&dir).map_err(|e| BlobError::io("list", &dir, e))?;
        for entry in entries {
            let path = entry.map_err(|e| BlobError::io("list", &dir, e))?.path();
            let Ok(file) = File::open(&path) else {
                continue;
            };
            if file.try_lock().is_ok() {
                let removed = match file.metadata() {
                    Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
                    _ => fs::remove_file(&path),
                };
                match removed {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(BlobError::io("remove", path, e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Moves a finished file under its digest's name. The file must have been verified.
    pub(crate) fn adopt(&self, file: &File, temp: &mut TempName, blob: Blob) -> Result<Blob> {
        let target = self.path(&blob.digest);
        // Size alone says nothing of bytes that rotted: those are replaced.
        if self.size(blob.digest)? == Some(blob.size)
            && let Ok(old) = File::open(&target)
            && same_bytes(file, &old)
        {
            temp.remove();
            // Whoever gave it its name may not have come to this yet.
            around(Step::BlobSyncDir, || sync_dir(&self.blob_dir()))?;
            return Ok(blob);
        }
        let Some(path) = temp.0.clone() else {
            return Err(BlobError::NotFound(blob.digest.into()));
        };
        // The last byte may have come long ago.
        let _ = file.set_modified(SystemTime::now());
        around(Step::BlobSync, || file.sync_all()).map_err(|e| BlobError::io("sync", &path, e))?;
        around(Step::BlobRename, || fs::rename(&path, &target))
            .map_err(|e| BlobError::io("publish", &target, e))?;
        temp.0 = None;
        around(Step::BlobSyncDir, || sync_dir(&self.blob_dir()))?;
        Ok(blob)
    }
}

/// A blob on its way into the store. Dropping it discards what was written.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    temp: TempName,
    file: File,
    hasher: Sha256,
    size: u64,
    /// How many of its bytes the disk was asked to take in.
    sent: u64,
    followed: Option<Followed>,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.size
    }

    fn path(&self) -> PathBuf {
        self.temp.0.clone().unwrap_or_default()
    }

    /// One who reads the blob from its start while it is written. He ends well once
    /// [`commit`](Self::commit) has found the expected digest, before the blob is durable and has
    /// its name.
    pub fn follow(&mut self) -> Result<Follower> {
        let path = self.path();
        let followed = self.followed.get_or_insert_default();
        followed.wrote(self.size);
        let follower = followed.follower(&path);
        follower.map_err(|e| BlobError::io("open", path, e))
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
            .map_err(|e| BlobError::io("write", self.path(), e))
    }

    /// Gives the blob its name: checks `expected`, syncs the file, renames it and syncs the
    /// directory. Bytes that are there already are not written twice.
    pub fn commit(mut self, expected: Option<Digest>) -> Result<Blob> {
        let actual = Digest::from_bytes(self.hasher.finalize_reset().into());
        match expected {
            Some(expected) if expected != actual => Err(BlobError::Mismatch {
                expected: expected.into(),
                actual: actual.into(),
                size: self.size,
            }),
            _ => {
                let blob = Blob {
                    digest: actual,
                    size: self.size,
                };
                if let Some(followed) = &self.followed {
                    followed.whole();
                }
                self.store.adopt(&self.file, &mut self.temp, blob)
            }
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        if let Some(followed) = &self.followed {
            followed.wrote(self.size + n as u64);
        }
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        if self.size - self.sent >= WRITEBACK {
            start_writeback(&self.file, self.sent, self.size - self.sent);
            self.sent = self.size;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets a file's time of modification to now.
#[cfg(unix)]
fn touch(path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps {
        last_access: special(UTIME_OMIT),
        last_modification: special(UTIME_NOW),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(not(unix))]
fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::now())
}

/// Asks the disk to take in a part of a file, without waiting for it: the sync at the end finds less
/// left to do. Its failure is no matter, since that sync would tell of it.
#[cfg(target_os = "linux")]
fn start_writeback(file: &File, offset: u64, length: u64) {
    use std::os::fd::AsRawFd;
    let (offset, length) = (offset.cast_signed(), length.cast_signed());
    // SAFETY: the descriptor is open, and the call reads and writes no memory of ours.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn start_writeback(_: &File, _: u64, _: u64) {}

/// A temporary file that goes when this is dropped, unless it was renamed.
#[derive(Debug)]
pub(crate) struct TempName(pub(crate) Option<PathBuf>);

impl TempName {
    fn remove(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(unix)]
pub(crate) fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
pub(crate) fn same_file(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Whether two files of equal length hold the same bytes; one that cannot be read does not.
fn same_bytes(new: &File, old: &File) -> bool {
    let compare = || -> io::Result<bool> {
        let (mut new, mut old) = (new, old);
        new.rewind()?;
        let mut buffers = (vec![0; 128 * 1024], vec![0; 128 * 1024]);
        loop {
            let count = match new.read(&mut buffers.0) {
                Ok(0) => return Ok(true),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            old.read_exact(&mut buffers.1[..count])?;
            if buffers.0[..count] != buffers.1[..count] {
                return Ok(false);
            }
        }
    };
    compare().unwrap_or(false)
}

/// Creates `dir` and its parents; `dir` itself is for its owner only, since blobs may hold
/// private code. An existing directory keeps its mode.
fn create_private_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .map_err(|e| BlobError::io("create", dir, e))
}

/// Creates a file of a random name in `dir`, locked so that no sweep takes it while it is used.
pub(crate) fn create_locked(dir: &Path, prefix: &str) -> Result<(PathBuf, File)> {
    loop {
        let name = OsString::from(format!("{prefix}-{:032x}", rand::random::<u128>()));
        let path = dir.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        match file {
            Ok(file) => {
                file.lock().map_err(|e| BlobError::io("lock", &path, e))?;
                // A sweep may have come between creation and lock.
                if same_file(&file, &path) {
                    return Ok((path, file));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(BlobError::io("create", path, e)),
        }
    }
}

/// Makes renames within `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| BlobError::io("sync", dir, e))
}

mod batch;
#[cfg(test)]
mod tests;

pub use batch::BlobBatch;
