//! Reading what must have a known digest.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use chalk_core::{AnyDigest, Digest};
use sha2::{Digest as _, Sha256, Sha512};

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
            expected: self.expected.into(),
            actual: actual.into(),
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
    /// The name that it was asked for by, if that is not the digest, and what was read, hashed so.
    name: Option<(AnyDigest, Sha512)>,
}

impl VerifiedBlob {
    pub(crate) fn new(
        store: BlobStore,
        size: u64,
        file: File,
        digest: Digest,
        name: AnyDigest,
    ) -> Self {
        let name = match name {
            AnyDigest::Sha256(_) => None,
            AnyDigest::Sha512(_) => Some((name, Sha512::new())),
        };
        Self {
            store,
            size,
            reader: VerifyingReader::new(file, digest),
            name,
        }
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 digest that the bytes are held against.
    pub fn digest(&self) -> Digest {
        self.reader.expected
    }

    /// At the end: whether what was read is what its name says.
    fn check_name(&self) -> io::Result<()> {
        let Some((name, hasher)) = &self.name else {
            return Ok(());
        };
        let actual = AnyDigest::Sha512(Box::new(hasher.clone().finalize().into()));
        if actual == *name {
            return Ok(());
        }
        // The bytes are those of their digest: it is the record that errs.
        self.store.forget_name(name).map_err(io::Error::other)?;
        let mismatch = BlobError::Mismatch {
            expected: name.clone(),
            actual,
            size: self.reader.position(),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, mismatch))
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
        match result {
            Ok(0) if !buffer.is_empty() => self.check_name()?,
            Ok(n) => {
                if let Some((_, hasher)) = &mut self.name {
                    hasher.update(&buffer[..n]);
                }
            }
            Err(_) => {}
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
