//! Blobs into the bucket and out of it, each by one thread at a time, in parts.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::any_digest::Algorithm;
use chalk_core::{AnyDigest, Digest};
use chalk_store::failpoint::{Step, around};
use chalk_store::{BlobError, BlobStore, BlobWriter, Follower};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectStoreExt as _, WriteMultipart};
use tokio::sync::SemaphorePermit;

use super::{Bucket, Inner, Result};
use crate::registry::error::EmbeddedError;

/// Up to here an object is written in one request, and blobs are read in parts of this size. What is
/// larger goes in parts of at least this size.
const PART: usize = 8 << 20;
/// Most parts of one object (S3, "Multipart upload limits").
const MAX_PARTS: u64 = 10_000;
/// Parts of one blob that are on their way at once; with [`PART`] this bounds its memory.
const PARTS_AT_ONCE: usize = 4;

/// A blob on its way, which nobody else moves at the same time.
pub(super) struct Move {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Drop for Move {
    fn drop(&mut self) {
        held(&self.inner.moving).remove(&self.digest);
        self.inner.moved.notify_all();
    }
}

/// What these locks guard is changed by one call each: a panic elsewhere spoils nothing.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bucket {
    /// The digest by which bytes are stored that go by `digest`.
    pub(in crate::registry) fn resolve(&self, digest: &AnyDigest) -> Result<Option<Digest>> {
        match digest {
            AnyDigest::Sha256(digest) => Ok(Some(*digest)),
            AnyDigest::Sha512(_) => {
                let text = self.read(&name_key(digest))?;
                Ok(text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
            }
        }
    }

    /// Size of a blob, which uses it; `None` when it is not there.
    pub(in crate::registry) fn blob(&self, digest: &AnyDigest) -> Result<Option<u64>> {
        let Some(digest) = self.resolve(digest)? else {
            return Ok(None);
        };
        if held(&self.inner.rotten).contains(&digest) {
            return Ok(None);
        }
        let key = blob_key(&digest);
        let size = self.size(&key)?;
        if size.is_none() {
            return Ok(None);
        }
        self.inner.noted.note(&digest);
        // It may have been removed before it was used just now.
        if self.collects() {
            return self.size(&key);
        }
        Ok(size)
    }

    /// Makes a blob of `store` durable here; `false` when neither has it.
    pub(in crate::registry) fn keep(&self, digest: &AnyDigest, store: &BlobStore) -> Result<bool> {
        let Some(stored) = store.resolve(digest)? else {
            return Ok(self.blob(digest)?.is_some());
        };
        let begun = self.begin(&stored);
        if self.blob(&stored.into())?.is_none() {
            if store.size(stored)?.is_none() {
                return Ok(false);
            }
            self.upload(&stored, store)?;
            held(&self.inner.rotten).remove(&stored);
        }
        drop(begun);
        if digest.algorithm() != Algorithm::Sha256 && self.resolve(digest)? != Some(stored) {
            self.write(&name_key(digest), stored.to_string().as_bytes())?;
        }
        Ok(true)
    }

    /// Sends a blob, read with its digest checked: what rotted never becomes an object.
    fn upload(&self, digest: &Digest, store: &BlobStore) -> Result<()> {
        let key = blob_key(digest);
        let mut blob = store.open_verified(*digest)?;
        let size = blob.size();
        let _place = self.place(size);
        let unreadable = |source: std::io::Error| match source.downcast::<BlobError>() {
            Ok(error) => EmbeddedError::from(error),
            Err(source) => EmbeddedError::io("read", store.path(digest))(source),
        };
        if size <= PART as u64 {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(PART));
            blob.read_to_end(&mut bytes).map_err(unreadable)?;
            return self.write(&key, &bytes);
        }
        let path = self.path(&key);
        let upload = self.wait(self.s3().put_multipart(&path));
        let upload = upload.map_err(self.failed("write", &key))?;
        let part = PART.max(usize::try_from(size / (MAX_PARTS - 1)).unwrap_or(PART));
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        let mut buffer = vec![0; PART];
        let sent = loop {
            let mut filled = 0;
            // The read that finds the end is the one that checks the digest.
            let read = loop {
                match blob.read(&mut buffer[filled..]) {
                    Ok(0) => break Ok(()),
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => break Err(unreadable(error)),
                }
                if filled == buffer.len() {
                    break Ok(());
                }
            };
            if let Err(error) = read {
                break Err(error);
            }
            if filled == 0 {
                break Ok(());
            }
            let free = self.wait(upload.wait_for_capacity(PARTS_AT_ONCE));
            if let Err(error) = free {
                break Err(self.failed("write", &key)(error));
            }
            let _in_runtime = self.inner.runtime.enter();
            upload.write(&buffer[..filled]);
        };
        match sent {
            Ok(()) => {
                let finish = around(Step::BucketPut, || self.wait(upload.finish()));
                finish.map_err(self.failed("write", &key))?;
                Ok(())
            }
            Err(error) => {
                // Else its parts would lie there, and cost, until somebody removes them.
                if let Err(left) = self.wait(upload.abort()) {
                    tracing::warn!(%digest, %left, "parts of an upload are left in the bucket");
                }
                Err(error)
            }
        }
    }

    /// Brings a blob into `store`, verified; `false` when it is not here. What is there is not
    /// fetched.
    pub(in crate::registry) fn bring(&self, digest: &AnyDigest, store: &BlobStore) -> Result<bool> {
        if store.contains(digest.clone())? {
            // Here and in the bucket.
            if let Some(stored) = store.resolve(digest)? {
                self.inner.noted.note(&stored);
            }
            return Ok(true);
        }
        let Some((stored, size)) = self.find(digest)? else {
            return Ok(false);
        };
        let _begun = self.begin(&stored);
        if store.contains(stored)? {
            // Somebody else has just brought it.
            self.note(digest, &stored, store)?;
            return Ok(true);
        }
        if !self.fetch_sound(&stored, size, store.writer()?, store)? {
            return Ok(false);
        }
        self.note(digest, &stored, store)?;
        Ok(true)
    }

    /// As [`bring`](Self::bring), of a blob that only goes by SHA-256, and gives it while it comes,
    /// with its size; `None` when it is not here, and when somebody else brings it.
    pub(in crate::registry) fn follow(
        &self,
        digest: &Digest,
        store: &BlobStore,
    ) -> Result<Option<(Follower, u64)>> {
        let Some((stored, size)) = self.find(&digest.into())? else {
            return Ok(None);
        };
        let Some(begun) = self.try_begin(&stored) else {
            return Ok(None);
        };
        let mut writer = store.writer()?;
        let follower = writer.follow()?;
        let (this, store) = (self.clone(), store.clone());
        self.inner.runtime.spawn_blocking(move || {
            let _begun = begun;
            // Who follows has bytes of the first time by then, so that his answer breaks off if those
            // are others; who asks again finds those of the second.
            if let Err(error) = this.fetch_sound(&stored, size, writer, &store) {
                tracing::error!(digest = %stored, %error, "blob could not be fetched from the bucket");
            }
        });
        Ok(Some((follower, size)))
    }

    /// A place among the blobs of that kind which are on their way. A manifest is not to wait for
    /// layers of gigabytes.
    fn place(&self, size: u64) -> Option<SemaphorePermit<'_>> {
        let places = match size <= PART as u64 {
            true => &self.inner.small,
            false => &self.inner.transfers,
        };
        // They are never closed.
        self.wait(places.acquire()).ok()
    }

    /// Begins to move a blob, once nobody else does.
    pub(super) fn begin(&self, digest: &Digest) -> Move {
        let moving = held(&self.inner.moving);
        let taken = |moving: &mut BTreeSet<Digest>| moving.contains(digest);
        let waited = self.inner.moved.wait_while(moving, taken);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*digest);
        Move {
            inner: Arc::clone(&self.inner),
            digest: *digest,
        }
    }

    /// Begins to move a blob, unless somebody else does.
    fn try_begin(&self, digest: &Digest) -> Option<Move> {
        let begins = held(&self.inner.moving).insert(*digest);
        begins.then(|| Move {
            inner: Arc::clone(&self.inner),
            digest: *digest,
        })
    }

    fn find(&self, digest: &AnyDigest) -> Result<Option<(Digest, u64)>> {
        let Some(stored) = self.resolve(digest)? else {
            return Ok(None);
        };
        let size = self.blob(&stored.into())?;
        Ok(size.map(|size| (stored, size)))
    }

    /// Fetches a blob, and once more when its bytes are others: the way may have been at fault. `false`
    /// when they are so again, and the object counts as absent from then on.
    fn fetch_sound(
        &self,
        digest: &Digest,
        size: u64,
        first: BlobWriter,
        store: &BlobStore,
    ) -> Result<bool> {
        let fetched = match self.fetch(digest, size, first) {
            Err(EmbeddedError::DigestMismatch { .. }) => self.fetch(digest, size, store.writer()?),
            fetched => fetched,
        };
        match fetched {
            Err(error @ EmbeddedError::DigestMismatch { .. }) => {
                tracing::error!(%digest, %error, place = self.access().place, "object is damaged, and counts as absent");
                held(&self.inner.rotten).insert(*digest);
                Ok(false)
            }
            fetched => fetched.map(|()| true),
        }
    }

    fn fetch(&self, digest: &Digest, size: u64, mut writer: BlobWriter) -> Result<()> {
        let key = blob_key(digest);
        let path = self.path(&key);
        let part = PART as u64;
        let _place = self.place(size);
        let ranges = (0..size.div_ceil(part)).map(|at| at * part..((at + 1) * part).min(size));
        let get = |range: Range<u64>| self.s3().get_range(&path, range);
        let mut parts = stream::iter(ranges).map(get).buffered(PARTS_AT_ONCE);
        while let Some(part) = self
            .wait(parts.try_next())
            .map_err(self.failed("read", &key))?
        {
            writer
                .write_all(&part)
                .map_err(EmbeddedError::io("write", self.access().place.clone()))?;
        }
        writer.commit(Some(*digest))?;
        Ok(())
    }

    /// Lets a digest of another algorithm name a blob that was fetched, if it is its digest.
    fn note(&self, digest: &AnyDigest, stored: &Digest, store: &BlobStore) -> Result<()> {
        if digest.algorithm() == Algorithm::Sha256 {
            return Ok(());
        }
        store.name_as(digest, stored)?;
        Ok(())
    }
}

pub(super) fn blob_key(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn name_key(digest: &AnyDigest) -> String {
    format!("names/{}/{}", digest.algorithm().name(), digest.hex())
}
