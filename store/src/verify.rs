//! Reading what must have a known digest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use chalk_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::blobs::{BlobError, BlobStore, same_file};

/// Reads a stream of known digest. The read that finds the end fails with
/// [`io::ErrorKind::InvalidData`] around a [`BlobError::Mismatch`] when the digest is another, so
/// a reader that stops early has verified nothing.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    expected: Digest,
    hasher: Sha256,
    size: u64,
    failed: Option<Digest>,
}

impl<R: Read> VerifyingReader<R> {
    /// Reads `inner`, whose bytes must hash to `expected`.
    pub fn new(inner: R, expected: Digest) -> Self {
        Self {
            inner,
            expected,
            hasher: Sha256::new(),
            size: 0,
            failed: None,
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.size
    }

    /// What is read from.
    pub fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }

    /// What was read from.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn check(&mut self) -> io::Result<()> {
        let actual = match self.failed {
            Some(actual) => actual,
            None => Digest::from_bytes(self.hasher.clone().finalize().into()),
        };
        if actual == self.expected {
            return Ok(());
        }
        self.failed = Some(actual);
        let mismatch = BlobError::Mismatch {
            expected: self.expected,
            actual,
            size: self.size,
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, mismatch))
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buffer)?;
        if n == 0 {
            self.check()?;
        }
        self.hasher.update(&buffer[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

/// A stored blob, verified while it is read; see [`BlobStore::open_verified`].
#[derive(Debug)]
pub struct VerifiedBlob {
    store: BlobStore,
    size: u64,
    reader: VerifyingReader<File>,
}

impl VerifiedBlob {
    pub(crate) fn new(store: BlobStore, size: u64, file: File, digest: Digest) -> Self {
        Self {
            store,
            size,
            reader: VerifyingReader::new(file, digest),
        }
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest that the bytes are held against.
    pub fn digest(&self) -> Digest {
        self.reader.expected
    }
}

impl Read for VerifiedBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let seen = self.reader.failed;
        let result = self.reader.read(buffer);
        if result.is_err() && seen.is_none() && self.reader.failed.is_some() {
            let digest = self.reader.expected;
            // Somebody may have put a sound copy there since we opened ours.
            if same_file(&self.reader.inner, &self.store.path(&digest)) {
                self.store.quarantine(&digest).map_err(io::Error::other)?;
            }
        }
        result
    }
}

/// The [`BlobError`] inside an I/O error of a verifying reader, or the I/O error with its place.
pub(crate) fn mismatch_or(error: io::Error, action: &'static str, path: &Path) -> BlobError {
    match error.downcast::<BlobError>() {
        Ok(inner) => inner,
        Err(error) => BlobError::io(action, path, error),
    }
}
