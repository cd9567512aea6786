//! An S3-compatible bucket that holds all of the embedded registry.
//!
//! Keys below the prefix are those of the files of a registry that lies in a directory
//! ([`super::layout`]), and
//!
//! ```text
//! blobs/sha256/<hex>    bytes of a blob or manifest
//! names/sha512/<hex>    SHA-256 digest of the blob that is also known by that digest
//! ```
//!
//! besides what services tell each other ([`sharing`]).
//!
//! An object appears whole or not at all, so one write is one durable step. Calls block: they are
//! made on tokio's blocking threads.

mod access;
mod blobs;
mod collect;
#[cfg(test)]
mod fake;
mod sharing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chalk_core::Digest;
use chalk_store::failpoint::{Step, around};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::sharing::{Sharing, Times};
use super::error::EmbeddedError;
use crate::noted::Noted;
use crate::state::StateDir;

pub use self::access::BucketAccess;

type Result<T, E = EmbeddedError> = std::result::Result<T, E>;

/// Blobs of several parts on their way up or down at once.
const BLOBS_AT_ONCE: usize = 4;
/// Smaller ones, each one request, so that none of them waits for one of those. This bounds their
/// memory.
const SMALL_AT_ONCE: usize = 32;
/// Records are links and descriptors; more than this is none of ours.
const RECORD_LIMIT: u64 = 4 << 20;
/// What is not larger is written in no time, or there is something wrong.
const SOON: usize = 64 << 10;

/// The bucket. Clones share it.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    access: BucketAccess,
    runtime: Handle,
    transfers: Semaphore,
    small: Semaphore,
    /// Blobs on their way, whichever.
    moving: Mutex<BTreeSet<Digest>>,
    moved: Condvar,
    /// Blobs whose bytes were found to be others: they count as absent until they are stored anew.
    rotten: Mutex<BTreeSet<Digest>>,
    /// Uses of blobs.
    noted: Noted,
    sharing: Sharing,
}

/// An object.
#[derive(Debug)]
struct Found {
    size: u64,
    /// When it was written, by the clock of the store.
    at: SystemTime,
    version: UpdateVersion,
}

impl From<object_store::ObjectMeta> for Found {
    fn from(meta: object_store::ObjectMeta) -> Self {
        Self {
            size: meta.size,
            at: time(&meta),
            version: UpdateVersion {
                e_tag: meta.e_tag,
                version: meta.version,
            },
        }
    }
}

fn time(meta: &object_store::ObjectMeta) -> SystemTime {
    let millis = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// The version of a record that a change is for.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Version(Option<UpdateVersion>);

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.inner.access).finish()
    }
}

impl Bucket {
    /// The bucket at `access`; `state` has what this service knows of it. Connects to nothing. Within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the files of `state` cannot be read or made.
    pub fn new(access: BucketAccess, state: &StateDir) -> Result<Self> {
        Self::with_times(access, state, Times::default())
    }

    fn with_times(access: BucketAccess, state: &StateDir, times: Times) -> Result<Self> {
        let sharing = Sharing::open(&state.path("bucket-id"), times);
        let uses = state.path("uses");
        let noted = Noted::open(uses.clone()).map_err(EmbeddedError::io("create", uses));
        Ok(Self {
            inner: Arc::new(Inner {
                access,
                runtime: Handle::current(),
                transfers: Semaphore::new(BLOBS_AT_ONCE),
                small: Semaphore::new(SMALL_AT_ONCE),
                moving: Mutex::default(),
                moved: Condvar::new(),
                rotten: Mutex::default(),
                noted: noted?,
                sharing: sharing.map_err(|e| EmbeddedError::BucketSettings(e.to_string()))?,
            }),
        })
    }

    /// How it is reached.
    pub(crate) fn access(&self) -> &BucketAccess {
        &self.inner.access
    }

    fn s3(&self) -> &AmazonS3 {
        &self.inner.access.s3
    }

    fn path(&self, key: &str) -> Path {
        self.inner.access.path(key)
    }

    fn failed(
        &self,
        action: &'static str,
        key: &str,
    ) -> impl FnOnce(object_store::Error) -> EmbeddedError + use<> {
        self.inner.access.failed(action, key)
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.inner.runtime.block_on(work)
    }

    /// Waits for a small request, with all its tries, for [`Times::answer`] at most.
    fn soon<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let limit = self.inner.sharing.times.answer;
        self.wait(async {
            let answer = tokio::time::timeout(limit, request).await;
            answer.unwrap_or_else(|_| {
                Err(object_store::Error::Generic {
                    store: "S3",
                    source: format!("no answer within {limit:?}").into(),
                })
            })
        })
    }

    /// A record; `None` when there is none.
    pub(in crate::registry) fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.announce()?;
        self.get(key)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.wait(async {
            let got = match self.s3().get(&self.path(key)).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                got => got.map_err(self.failed("read", key))?,
            };
            if got.meta.size > RECORD_LIMIT {
                return Err(EmbeddedError::Bucket {
                    action: "read",
                    key: key.to_owned(),
                    place: self.access().place.clone(),
                    detail: format!("it has {} bytes, which no record has", got.meta.size),
                });
            }
            let bytes = got.bytes().await.map_err(self.failed("read", key))?;
            Ok(Some(bytes.to_vec()))
        })
    }

    /// Size of an object; `None` when there is none.
    pub(in crate::registry) fn size(&self, key: &str) -> Result<Option<u64>> {
        self.announce()?;
        Ok(self.head(key)?.map(|found| found.size))
    }

    /// The version of a record, to change it only if it is still that one.
    pub(in crate::registry) fn version(&self, key: &str) -> Result<Version> {
        self.announce()?;
        Ok(Version(self.head(key)?.map(|found| found.version)))
    }

    fn head(&self, key: &str) -> Result<Option<Found>> {
        match self.soon(self.s3().head(&self.path(key))) {
            Ok(meta) => Ok(Some(meta.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for", key)(error)),
        }
    }

    /// Writes a record, over what is there.
    pub(in crate::registry) fn write(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.announce()?;
        self.put(key, bytes, PutMode::Overwrite)
    }

    /// Writes a record if there is still the version that was seen, or still none.
    pub(in crate::registry) fn replace(
        &self,
        key: &str,
        bytes: &[u8],
        seen: Version,
    ) -> Result<()> {
        self.announce()?;
        self.put(key, bytes, seen.0.map_or(PutMode::Create, PutMode::Update))
    }

    fn put(&self, key: &str, bytes: &[u8], mode: PutMode) -> Result<()> {
        let payload = Bytes::copy_from_slice(bytes).into();
        let (path, options) = (self.path(key), PutOptions::from(mode));
        let put = self.s3().put_opts(&path, payload, options);
        let put = || match bytes.len() <= SOON {
            true => self.soon(put),
            false => self.wait(put),
        };
        match around(Step::BucketPut, put) {
            Ok(_) => Ok(()),
            Err(
                object_store::Error::Precondition { .. }
                | object_store::Error::AlreadyExists { .. },
            ) => Err(EmbeddedError::ConditionFailed),
            Err(error) => Err(self.failed("write", key)(error)),
        }
    }

    /// Removes an object; `false` when it was not there.
    pub(in crate::registry) fn remove(&self, key: &str) -> Result<bool> {
        self.announce()?;
        self.delete(key)
    }

    fn delete(&self, key: &str) -> Result<bool> {
        if self.head(key)?.is_none() {
            return Ok(false);
        }
        let path = self.path(key);
        let removed = around(Step::BucketRemove, || self.soon(self.s3().delete(&path)));
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(self.failed("remove", key)(error)),
        }
    }

    /// Names right below a key, of objects and of what has objects below it, sorted.
    pub(in crate::registry) fn names(&self, key: &str) -> Result<Vec<String>> {
        self.announce()?;
        let prefix = self.path(key);
        let listed = self.wait(self.s3().list_with_delimiter(Some(&prefix)));
        let listed = listed.map_err(self.failed("list", key))?;
        let objects = listed.objects.iter().map(|meta| &meta.location);
        let names = objects
            .chain(&listed.common_prefixes)
            .filter_map(|path| path.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Names of objects right below a key, each with the time when it was written, by the clock of the
    /// store.
    pub(in crate::registry) fn list(&self, key: &str) -> Result<Vec<(String, SystemTime)>> {
        let prefix = self.path(key);
        let listed = self.wait(self.s3().list_with_delimiter(Some(&prefix)));
        let listed = listed.map_err(self.failed("list", key))?;
        let name = |meta: &object_store::ObjectMeta| {
            Some((meta.location.filename()?.to_owned(), time(meta)))
        };
        Ok(listed.objects.iter().filter_map(name).collect())
    }
}
