//! Blobs by digests other than SHA-256.
//!
//! A store keeps each blob once, by its SHA-256. Whoever names bytes by another algorithm finds
//! them through a record `names/<algorithm>/<hex>`, which holds the SHA-256 digest of the same
//! bytes. It is written when the bytes were hashed both ways and are durable, and no reader trusts
//! it: [`BlobStore::open_verified`] holds what it reads against both digests.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use chalk_core::any_digest::Algorithm;
use chalk_core::{AnyDigest, Digest};
use sha2::{Digest as _, Sha512};

use crate::blobs::{Blob, BlobError, BlobStore, Result, TempName, create_locked, sync_dir};
use crate::failpoint::{Step, around};
use crate::verify::mismatch_or;

/// A record is one digest; whatever is longer is none.
const RECORD_LIMIT: usize = 128;

impl BlobStore {
    /// SHA-256 digest of the blob that `digest` names, which need not be there; `None` when it
    /// names none.
    pub fn resolve(&self, digest: &AnyDigest) -> Result<Option<Digest>> {
        if let AnyDigest::Sha256(digest) = digest {
            return Ok(Some(*digest));
        }
        let path = self.record(digest);
        match fs::read(&path) {
            // A record that rotted is none: the next push of the blob writes it anew.
            Ok(text) => Ok(std::str::from_utf8(&text)
                .ok()
                .filter(|text| text.len() <= RECORD_LIMIT)
                .and_then(|text| text.trim_end().parse().ok())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(BlobError::io("read", path, e)),
        }
    }

    /// Stores `bytes`, which must have the digest `expected`, so that they are found by it.
    pub fn put_as(&self, bytes: &[u8], expected: &AnyDigest) -> Result<Blob> {
        let actual = AnyDigest::of(expected.algorithm(), bytes);
        if actual != *expected {
            return Err(BlobError::Mismatch {
                expected: expected.clone(),
                actual,
                size: bytes.len() as u64,
            });
        }
        let blob = self.put(bytes)?;
        if expected.algorithm() != Algorithm::Sha256 {
            self.name(expected, &blob.digest)?;
        }
        Ok(blob)
    }

    /// Lets `digest` name a durable blob whose bytes have both digests.
    pub(crate) fn name(&self, digest: &AnyDigest, blob: &Digest) -> Result<()> {
        let (target, dir) = (self.record(digest), self.record_dir(digest.algorithm()));
        // A collector may just find that a record names a blob that is gone.
        let _held = self.hold(blob);
        if self.resolve(digest)? == Some(*blob) {
            // Whoever wrote it may not have come to this yet.
            return around(Step::BlobSyncDir, || sync_dir(&dir));
        }
        let (path, mut file) = create_locked(&self.temp_dir(), "name")?;
        let mut temp = TempName(Some(path.clone()));
        writeln!(file, "{blob}")
            .and_then(|()| around(Step::BlobSync, || file.sync_all()))
            .map_err(|e| BlobError::io("write", &path, e))?;
        around(Step::BlobRename, || fs::rename(&path, &target))
            .map_err(|e| BlobError::io("publish", &target, e))?;
        temp.0 = None;
        around(Step::BlobSyncDir, || sync_dir(&dir))
    }

    /// Lets `digest` name a blob of the store, if it is a digest of its bytes.
    pub fn name_as(&self, digest: &AnyDigest, blob: &Digest) -> Result<()> {
        let mut bytes = self.open_verified(*blob)?;
        let mut hasher = Sha512::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(mismatch_or(e, "read", &self.path(blob))),
            }
        }
        let actual = AnyDigest::Sha512(Box::new(hasher.finalize().into()));
        if actual == *digest {
            return self.name(digest, blob);
        }
        Err(BlobError::Mismatch {
            expected: digest.clone(),
            actual,
            size: bytes.size(),
        })
    }

    /// Removes records of blobs that are gone, and says how many.
    pub fn remove_dead_names(&self) -> Result<usize> {
        let dir = self.record_dir(Algorithm::Sha512);
        let entries = fs::read_dir(&dir).map_err(|e| BlobError::io("list", &dir, e))?;
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(|e| BlobError::io("list", &dir, e))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(AnyDigest::from_hex) else {
                continue;
            };
            let Some(blob) = self.resolve(&digest)? else {
                continue;
            };
            let _held = self.hold(&blob);
            let path = self.path(&blob);
            match fs::symlink_metadata(&path) {
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(BlobError::io("inspect", path, e)),
            }
            // A record may lead to other bytes by now.
            if self.resolve(&digest)? == Some(blob) {
                let path = entry.path();
                around(Step::GcName, || fs::remove_file(&path))
                    .map_err(|e| BlobError::io("remove", &path, e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Forgets a name that led to other bytes.
    pub(crate) fn forget_name(&self, digest: &AnyDigest) -> Result<()> {
        let path = self.record(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::warn!(%digest, "the name led to other bytes, and is forgotten");
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(BlobError::io("remove", path, e)),
        }
    }

    fn record_dir(&self, algorithm: Algorithm) -> PathBuf {
        self.root().join("names").join(algorithm.name())
    }

    fn record(&self, digest: &AnyDigest) -> PathBuf {
        self.record_dir(digest.algorithm()).join(digest.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("store")).unwrap();
        (dir, store)
    }

    fn long(bytes: &[u8]) -> AnyDigest {
        AnyDigest::of(Algorithm::Sha512, bytes)
    }

    #[test]
    fn bytes_have_two_names() {
        let (_dir, store) = store();
        let name = long(b"hello");
        assert!(!store.contains(&name).unwrap());
        for _ in 0..2 {
            let blob = store.put_as(b"hello", &name).unwrap();
            assert_eq!(blob.digest, Digest::of(b"hello"));
        }
        let again = BlobStore::open(store.root()).unwrap();
        assert_eq!(again.size(&name).unwrap(), Some(5));
        assert_eq!(again.read_small(&name, 5).unwrap(), b"hello");
        assert!(matches!(
            store.put_as(b"other", &name),
            Err(BlobError::Mismatch { size: 5, .. })
        ));
        assert_eq!(store.list().unwrap().count(), 1);
        assert_eq!(fs::read_dir(store.temp_dir()).unwrap().count(), 0);
    }

    #[test]
    fn records_go_after_their_blobs() {
        let (_dir, store) = store();
        let blob = store.put_as(b"hello", &long(b"hello")).unwrap();
        store.put_as(b"other", &long(b"other")).unwrap();
        assert_eq!(store.remove_dead_names().unwrap(), 0);
        store.remove(&blob.digest).unwrap();
        assert_eq!(store.remove_dead_names().unwrap(), 1);
        assert_eq!(store.resolve(&long(b"hello")).unwrap(), None);
        assert!(store.contains(long(b"other")).unwrap());
    }

    #[test]
    fn wrong_records_and_rotten_bytes_are_found() {
        let (_dir, store) = store();
        let name = long(b"hello");
        store.put(b"other").unwrap();
        for rot in [
            Digest::of(b"other").to_string(),
            "sha256:0".to_owned(),
            String::new(),
            "x".repeat(1000),
        ] {
            store.put_as(b"hello", &name).unwrap();
            fs::write(store.record(&name), rot).unwrap();
            assert!(store.read_small(&name, 100).is_err());
            assert!(!store.contains(&name).unwrap());
        }
        let blob = store.put_as(b"hello", &name).unwrap();
        fs::write(store.path(&blob.digest), b"hellO").unwrap();
        assert!(matches!(
            store.read_small(&name, 100),
            Err(BlobError::Mismatch { .. })
        ));
        assert!(!store.contains(&name).unwrap(), "set aside");
        store.put_as(b"hello", &name).unwrap();
        assert_eq!(store.read_small(&name, 100).unwrap(), b"hello");
    }
}
