//! What a collector does with the bucket.

use std::collections::HashMap;
use std::time::SystemTime;

use chalk_core::{AnyDigest, Digest};
use chalk_store::failpoint::{Step, around};
use chalk_store::registry::MANIFEST_LIMIT;
use chalk_store::uses::Horizon;
use chalk_store::{BlobStore, Unused};
use futures_util::{StreamExt as _, TryStreamExt as _, future};
use object_store::ObjectStore as _;

use super::blobs::blob_key;
use super::{Bucket, Result, time};
use crate::registry::collect::Held;

impl Bucket {
    /// All blobs, which uses none.
    pub(in crate::registry) fn blobs(&self) -> Result<HashMap<Digest, Held>> {
        const KEY: &str = "blobs/sha256";
        self.announce()?;
        let prefix = self.path(KEY);
        let blob = |meta: object_store::ObjectMeta| {
            let name = meta.location.filename()?;
            let digest: Digest = format!("sha256:{name}").parse().ok()?;
            Some((digest, self.used(&digest, meta.size, time(&meta))))
        };
        let listed = self.s3().list(Some(&prefix));
        let blobs = listed.try_filter_map(|meta| future::ok(blob(meta)));
        let blobs = self.wait(blobs.boxed().try_collect());
        blobs.map_err(self.failed("list", KEY))
    }

    /// One blob, which does not use it; `None` when it is not there.
    pub(in crate::registry) fn held(&self, digest: &Digest) -> Result<Option<Held>> {
        let found = self.head(&blob_key(digest))?;
        Ok(found.map(|found| self.used(digest, found.size, found.at)))
    }

    fn used(&self, digest: &Digest, size: u64, written: SystemTime) -> Held {
        let noted = self.inner.noted.last(digest);
        let used = noted.map_or(written, |noted| noted.max(written));
        Held { size, used }
    }

    /// The bytes of a document, from `store` if that has a copy, which uses neither; `None` when they
    /// are not there, too large or damaged.
    pub(in crate::registry) fn inspect(
        &self,
        digest: &Digest,
        store: &BlobStore,
    ) -> Result<Option<Vec<u8>>> {
        if let Ok(bytes) = store.inspect(digest, MANIFEST_LIMIT) {
            return Ok(Some(bytes));
        }
        let key = blob_key(digest);
        match self.head(&key)? {
            Some(found) if found.size <= MANIFEST_LIMIT => {
                let bytes = self.get(&key)?;
                Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
            }
            _ => Ok(None),
        }
    }

    /// Removes something of a blob that was not used after the horizon, while nobody can be told of
    /// it; whether it did. Within a collection.
    ///
    /// # Errors
    /// `Bucket`; `BucketShared` when another service came.
    pub(in crate::registry) fn unless_used(
        &self,
        digest: &Digest,
        horizon: &Horizon,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let removal = self.begin_removal()?;
        let key = blob_key(digest);
        let written = self.head(&key)?.map(|found| found.at);
        let written = written.unwrap_or(SystemTime::UNIX_EPOCH);
        let noted = &self.inner.noted;
        noted.unless_used(digest, horizon, written, || {
            removal.in_time(&key)?;
            remove()
        })
    }

    /// Removes something that belongs to no blob. Within a collection.
    ///
    /// # Errors
    /// As [`unless_used`](Self::unless_used).
    pub(in crate::registry) fn within_collection(
        &self,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let _removal = self.begin_removal()?;
        remove()
    }

    /// Removes a blob that was not used after the horizon. Within a collection.
    ///
    /// # Errors
    /// As [`unless_used`](Self::unless_used).
    pub(in crate::registry) fn discard(
        &self,
        digest: &Digest,
        horizon: &Horizon,
    ) -> Result<Unused> {
        let key = blob_key(digest);
        let Some(found) = self.head(&key)? else {
            return Ok(Unused::Absent);
        };
        let gone = self.unless_used(digest, horizon, || {
            around(Step::GcBlob, || self.delete(&key)).map(drop)
        })?;
        if !gone {
            return Ok(Unused::Used);
        }
        self.inner.noted.forget(digest);
        Ok(Unused::Removed(found.size))
    }

    /// Removes names by SHA-512 of blobs that are gone. Within a collection.
    ///
    /// # Errors
    /// As [`unless_used`](Self::unless_used).
    pub(in crate::registry) fn remove_dead_names(&self, horizon: &Horizon) -> Result<()> {
        for (name, at) in self.list("names/sha512")? {
            let key = format!("names/sha512/{name}");
            let digest = AnyDigest::from_hex(&name);
            let stored = digest.map(|digest| self.resolve(&digest)).transpose()?;
            // A name comes after its blob, and goes after it.
            let Some(stored) = stored.flatten().filter(|_| at < horizon.wall) else {
                continue;
            };
            if self.head(&blob_key(&stored))?.is_none() {
                let _removal = self.begin_removal()?;
                around(Step::GcName, || self.delete(&key))?;
            }
        }
        Ok(())
    }

    /// Forgets uses that are noted on the disk and before the horizon.
    pub(in crate::registry) fn forget_uses(&self, horizon: &Horizon) {
        self.inner.noted.forget_before(horizon);
    }
}
