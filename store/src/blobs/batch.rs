//! Many small blobs that become durable together.
//!
//! A blob alone waits for the disk twice: for its bytes, and for its name. Those of a batch are
//! written first, then synced by one call, then named, and then their directory is synced once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chalk_core::Digest;

use super::{BlobError, BlobStore, Result, same_file, sync_dir};
use crate::failpoint::{Step, around};

/// Up to so many files are synced one by one: a sync of the file system also waits for what others
/// wrote to it.
const FEW: usize = 8;

/// Small blobs on their way into the store. Dropping it discards those that have no name yet.
#[derive(Debug)]
pub struct BlobBatch {
    store: BlobStore,
    dir: TempDir,
    /// Blobs that lie in `dir`, each under its hex digits.
    written: BTreeSet<Digest>,
}

impl BlobStore {
    /// Starts a batch.
    pub fn batch(&self) -> Result<BlobBatch> {
        let dir = around(Step::BlobCreate, || TempDir::new(&self.temp_dir()))?;
        Ok(BlobBatch {
            store: self.clone(),
            dir,
            written: BTreeSet::new(),
        })
    }

    /// Whether a blob of these bytes is there; one that rotted is not.
    fn holds(&self, digest: Digest, bytes: &[u8]) -> Result<bool> {
        if self.size(digest)? != Some(bytes.len() as u64) {
            return Ok(false);
        }
        Ok(fs::read(self.path(&digest)).is_ok_and(|there| there == bytes))
    }
}

impl BlobBatch {
    /// Adds a blob, which must have the digest `expected`.
    pub fn add(&mut self, expected: Digest, bytes: &[u8]) -> Result<()> {
        let actual = Digest::of(bytes);
        if actual != expected {
            return Err(BlobError::Mismatch {
                expected: expected.into(),
                actual: actual.into(),
                size: bytes.len() as u64,
            });
        }
        if self.written.contains(&expected) || self.store.holds(expected, bytes)? {
            return Ok(());
        }
        let path = self.dir.path.join(expected.hex());
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|e| BlobError::io("write", path, e))?;
        self.written.insert(expected);
        Ok(())
    }

    /// Gives all blobs their names. When this returns, all of them are durable, also those that
    /// were there before; when it fails, some of them may have their names.
    pub fn commit(self) -> Result<()> {
        if !self.written.is_empty() {
            around(Step::BlobSync, || self.sync())?;
        }
        for digest in &self.written {
            let (from, to) = (self.dir.path.join(digest.hex()), self.store.path(digest));
            around(Step::BlobRename, || fs::rename(&from, &to))
                .map_err(|e| BlobError::io("publish", to, e))?;
        }
        // Also where nothing was written: whoever gave the blobs their names may not have come to
        // this yet.
        around(Step::BlobSyncDir, || sync_dir(&self.store.blob_dir()))
    }

    /// Makes the bytes of all files durable.
    fn sync(&self) -> Result<()> {
        if self.written.len() > FEW && self.dir.sync_file_system()? {
            return Ok(());
        }
        for digest in &self.written {
            let path = self.dir.path.join(digest.hex());
            // For writing, which some systems ask for.
            OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|e| BlobError::io("sync", path, e))?;
        }
        Ok(())
    }
}

/// A directory of a random name, locked so that no sweep takes it, which goes when this is dropped.
#[derive(Debug)]
struct TempDir {
    path: PathBuf,
    /// Holds the lock. Open since before anything was written, so that a sync through it tells of
    /// every write that failed.
    file: File,
}

impl TempDir {
    fn new(parent: &Path) -> Result<Self> {
        loop {
            let path = parent.join(format!("blob-{:032x}", rand::random::<u128>()));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(BlobError::io("create", path, e)),
            }
            let file = match File::open(&path) {
                Ok(file) => file,
                // A sweep may have come in between.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(BlobError::io("open", path, e)),
            };
            file.lock().map_err(|e| BlobError::io("lock", &path, e))?;
            if same_file(&file, &path) {
                return Ok(Self { path, file });
            }
        }
    }

    /// Syncs the file system that it lies on; `false` where the operating system cannot.
    #[cfg(target_os = "linux")]
    fn sync_file_system(&self) -> Result<bool> {
        match rustix::fs::syncfs(&self.file) {
            Ok(()) => Ok(true),
            Err(e) => Err(BlobError::io(
                "sync the file system of",
                &self.path,
                e.into(),
            )),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_file_system(&self) -> Result<bool> {
        Ok(false)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
