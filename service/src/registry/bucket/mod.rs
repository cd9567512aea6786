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
//! An object appears whole or not at all, so one write is one durable step. Calls block: they are
//! made on tokio's blocking threads.

mod access;
mod blobs;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chalk_core::Digest;
use chalk_store::failpoint::{Step, around};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, RetryConfig,
    UpdateVersion,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use self::access::{Connector, Keys};
use super::error::EmbeddedError;
use crate::settings;

type Result<T> = std::result::Result<T, EmbeddedError>;

/// Blobs on their way up or down at once.
const BLOBS_AT_ONCE: usize = 4;
/// Records are links and descriptors; more than this is none of ours.
const RECORD_LIMIT: u64 = 4 << 20;

/// The bucket. Clones share it.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    s3: AmazonS3,
    prefix: String,
    /// For messages: bucket, prefix and end-point.
    place: String,
    runtime: Handle,
    transfers: Semaphore,
    /// Blobs on their way, whichever.
    moving: Mutex<BTreeSet<Digest>>,
    moved: Condvar,
    /// Blobs whose bytes were found to be others: they count as absent until they are stored anew.
    rotten: Mutex<BTreeSet<Digest>>,
}

/// The version of a record that a change is for.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Version(Option<UpdateVersion>);

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.inner.place).finish()
    }
}

impl fmt::Display for Bucket {
    /// Bucket, prefix and end-point.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.place)
    }
}

impl Bucket {
    /// The bucket that the settings name; `None` when they name none. Connects to nothing. Within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`EmbeddedError::BucketSettings`].
    pub fn new(settings: &settings::Registry) -> Result<Option<Self>> {
        let s3 = &settings.s3;
        let Some(bucket) = &s3.bucket else {
            return Ok(None);
        };
        let refuse = EmbeddedError::BucketSettings;
        let prefix = s3.prefix.as_deref().unwrap_or_default().trim_matches('/');
        Path::parse(prefix).map_err(|e| refuse(format!("`registry.s3.prefix`: {e}")))?;
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_http_connector(Connector::new(settings)?)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(200),
                    max_backoff: Duration::from_secs(5),
                    base: 2.0,
                },
                max_retries: 6,
                retry_timeout: Duration::from_secs(30),
            });
        let mut place = format!("s3://{bucket}/{prefix}");
        if let Some(region) = &s3.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &s3.endpoint {
            if endpoint.contains('@') {
                return Err(refuse(
                    "`registry.s3.endpoint` is a URL without a login: expected `https://host[:port]`"
                        .to_owned(),
                ));
            }
            let plain = endpoint.starts_with("http://");
            builder = builder.with_endpoint(endpoint).with_allow_http(plain);
            place = format!("{place} at {endpoint}");
        }
        if let Some(file) = &s3.credentials {
            let keys = Keys::read(file)?;
            builder = builder
                .with_access_key_id(keys.id)
                .with_secret_access_key(keys.secret);
            if let Some(token) = keys.token {
                builder = builder.with_token(token);
            }
        }
        let s3 = builder.build().map_err(|e| refuse(e.to_string()))?;
        Ok(Some(Self {
            inner: Arc::new(Inner {
                s3,
                prefix: prefix.to_owned(),
                place,
                runtime: Handle::current(),
                transfers: Semaphore::new(BLOBS_AT_ONCE),
                moving: Mutex::default(),
                moved: Condvar::new(),
                rotten: Mutex::default(),
            }),
        }))
    }

    /// Sees that the bucket is there and lets us in.
    ///
    /// # Errors
    /// [`EmbeddedError::Bucket`].
    pub async fn check(&self) -> Result<()> {
        let prefix = self.path("repositories");
        let listed = self.inner.s3.list_with_delimiter(Some(&prefix)).await;
        listed.map_err(self.failed("list", "repositories"))?;
        Ok(())
    }

    fn path(&self, key: &str) -> Path {
        match self.inner.prefix.as_str() {
            "" => Path::from(key),
            prefix => Path::from(format!("{prefix}/{key}")),
        }
    }

    fn failed(
        &self,
        action: &'static str,
        key: &str,
    ) -> impl FnOnce(object_store::Error) -> EmbeddedError + use<> {
        let (key, place) = (key.to_owned(), self.inner.place.clone());
        move |error| EmbeddedError::Bucket {
            action,
            key,
            place,
            detail: causes(&error),
        }
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.inner.runtime.block_on(work)
    }

    /// A record; `None` when there is none.
    pub(in crate::registry) fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.wait(async {
            let got = match self.inner.s3.get(&self.path(key)).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                got => got.map_err(self.failed("read", key))?,
            };
            if got.meta.size > RECORD_LIMIT {
                return Err(EmbeddedError::Bucket {
                    action: "read",
                    key: key.to_owned(),
                    place: self.inner.place.clone(),
                    detail: format!("it has {} bytes, which no record has", got.meta.size),
                });
            }
            let bytes = got.bytes().await.map_err(self.failed("read", key))?;
            Ok(Some(bytes.to_vec()))
        })
    }

    /// Size of an object; `None` when there is none.
    pub(in crate::registry) fn size(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.head(key)?.map(|meta| meta.size))
    }

    /// The version of a record, to change it only if it is still that one.
    pub(in crate::registry) fn version(&self, key: &str) -> Result<Version> {
        let version = self.head(key)?.map(|meta| UpdateVersion {
            e_tag: meta.e_tag,
            version: meta.version,
        });
        Ok(Version(version))
    }

    fn head(&self, key: &str) -> Result<Option<object_store::ObjectMeta>> {
        match self.wait(self.inner.s3.head(&self.path(key))) {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("look for", key)(error)),
        }
    }

    /// Writes a record, over what is there.
    pub(in crate::registry) fn write(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(key, bytes, PutMode::Overwrite)
    }

    /// Writes a record if there is still the version that was seen, or still none.
    pub(in crate::registry) fn replace(
        &self,
        key: &str,
        bytes: &[u8],
        seen: Version,
    ) -> Result<()> {
        self.put(key, bytes, seen.0.map_or(PutMode::Create, PutMode::Update))
    }

    fn put(&self, key: &str, bytes: &[u8], mode: PutMode) -> Result<()> {
        let payload = Bytes::copy_from_slice(bytes).into();
        let (path, options) = (self.path(key), PutOptions::from(mode));
        let put = self.inner.s3.put_opts(&path, payload, options);
        match around(Step::BucketPut, || self.wait(put)) {
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
        if self.head(key)?.is_none() {
            return Ok(false);
        }
        let path = self.path(key);
        let removed = around(Step::BucketRemove, || {
            self.wait(self.inner.s3.delete(&path))
        });
        match removed {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(self.failed("remove", key)(error)),
        }
    }

    /// Names right below a key, of objects and of what has objects below it, sorted.
    pub(in crate::registry) fn names(&self, key: &str) -> Result<Vec<String>> {
        let prefix = self.path(key);
        let listed = self.wait(self.inner.s3.list_with_delimiter(Some(&prefix)));
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
}

/// An error with its causes, on one line and without what only repeats.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(600)
        .collect();
    line
}
