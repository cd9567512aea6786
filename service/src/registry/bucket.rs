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

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chalk_core::any_digest::Algorithm;
use chalk_core::{AnyDigest, Digest};
use chalk_store::failpoint::{Step, around};
use chalk_store::{BlobError, BlobStore, BlobWriter, Follower};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions,
    RetryConfig, UpdateVersion, WriteMultipart,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::error::EmbeddedError;
use crate::settings;

type Result<T> = std::result::Result<T, EmbeddedError>;

/// Up to here an object is written in one request, and blobs are read in parts of this size. What is
/// larger goes in parts of at least this size.
const PART: usize = 8 << 20;
/// Most parts of one object (S3, "Multipart upload limits").
const MAX_PARTS: u64 = 10_000;
/// Parts of one blob that are on their way at once; with [`PART`] this bounds its memory.
const PARTS_AT_ONCE: usize = 4;
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

/// A blob on its way, which nobody else moves at the same time.
struct Move {
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
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The version of a record that a change is for.
#[derive(Debug, Clone)]
pub(super) struct Version(Option<UpdateVersion>);

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
        let refuse = |detail: String| EmbeddedError::BucketSettings(detail);
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
    pub(super) fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
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
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.head(key)?.map(|meta| meta.size))
    }

    /// The version of a record, to change it only if it is still that one.
    pub(super) fn version(&self, key: &str) -> Result<Version> {
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
    pub(super) fn write(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(key, bytes, PutMode::Overwrite)
    }

    /// Writes a record if there is still the version that was seen, or still none.
    pub(super) fn replace(&self, key: &str, bytes: &[u8], seen: Version) -> Result<()> {
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
    pub(super) fn remove(&self, key: &str) -> Result<bool> {
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
    pub(super) fn names(&self, key: &str) -> Result<Vec<String>> {
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

    /// The digest by which bytes are stored that go by `digest`.
    pub(super) fn resolve(&self, digest: &AnyDigest) -> Result<Option<Digest>> {
        match digest {
            AnyDigest::Sha256(digest) => Ok(Some(*digest)),
            AnyDigest::Sha512(_) => {
                let text = self.read(&name_key(digest))?;
                Ok(text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
            }
        }
    }

    /// Size of a blob; `None` when it is not there.
    pub(super) fn blob(&self, digest: &AnyDigest) -> Result<Option<u64>> {
        match self.resolve(digest)? {
            Some(digest) if !held(&self.inner.rotten).contains(&digest) => {
                self.size(&blob_key(&digest))
            }
            _ => Ok(None),
        }
    }

    /// Makes a blob of `store` durable here; `false` when neither has it.
    pub(super) fn keep(&self, digest: &AnyDigest, store: &BlobStore) -> Result<bool> {
        let stored = match store.resolve(digest)? {
            Some(stored) => stored,
            None => return Ok(self.blob(digest)?.is_some()),
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
        let _place = self.wait(self.inner.transfers.acquire());
        let mut blob = store.open_verified(*digest)?;
        let size = blob.size();
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
        let upload = self.wait(self.inner.s3.put_multipart(&path));
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
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
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
    pub(super) fn bring(&self, digest: &AnyDigest, store: &BlobStore) -> Result<bool> {
        if store.contains(digest.clone())? {
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
        let fetched = match self.fetch(&stored, size, store.writer()?) {
            // The way may have been at fault.
            Err(EmbeddedError::Blob(BlobError::Mismatch { .. })) => {
                self.fetch(&stored, size, store.writer()?)
            }
            fetched => fetched,
        };
        match fetched {
            Err(EmbeddedError::Blob(error @ BlobError::Mismatch { .. })) => {
                tracing::error!(%digest, %error, place = self.inner.place, "object is damaged, and counts as absent");
                held(&self.inner.rotten).insert(stored);
                return Ok(false);
            }
            fetched => fetched?,
        }
        self.note(digest, &stored, store)?;
        Ok(true)
    }

    /// As [`bring`](Self::bring), of a blob that only goes by SHA-256, and gives it while it comes,
    /// with its size; `None` when it is not here, and when somebody else brings it.
    pub(super) fn follow(
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
        let this = self.clone();
        self.inner.runtime.spawn_blocking(move || {
            let _begun = begun;
            if let Err(error) = this.fetch(&stored, size, writer) {
                if let EmbeddedError::Blob(BlobError::Mismatch { .. }) = &error {
                    held(&this.inner.rotten).insert(stored);
                }
                tracing::error!(digest = %stored, %error, "blob could not be fetched from the bucket");
            }
        });
        Ok(Some((follower, size)))
    }

    /// Begins to move a blob, once nobody else does.
    fn begin(&self, digest: &Digest) -> Move {
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

    fn fetch(&self, digest: &Digest, size: u64, mut writer: BlobWriter) -> Result<()> {
        let key = blob_key(digest);
        let path = self.path(&key);
        let part = PART as u64;
        let _place = self.wait(self.inner.transfers.acquire());
        let ranges = (0..size.div_ceil(part)).map(|at| at * part..((at + 1) * part).min(size));
        let get = |range: Range<u64>| self.inner.s3.get_range(&path, range);
        let mut parts = stream::iter(ranges).map(get).buffered(PARTS_AT_ONCE);
        while let Some(part) = self
            .wait(parts.try_next())
            .map_err(self.failed("read", &key))?
        {
            std::io::Write::write_all(&mut writer, &part)
                .map_err(EmbeddedError::io("write", self.inner.place.clone()))?;
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

    /// All blobs with their sizes and the time that they were written, for who looks for those that
    /// nothing names.
    ///
    /// # Errors
    /// [`EmbeddedError::Bucket`].
    pub fn blobs(&self) -> Result<Vec<(chalk_store::Blob, std::time::SystemTime)>> {
        let (key, prefix) = ("blobs/sha256", self.path("blobs/sha256"));
        let listed = self.wait(self.inner.s3.list(Some(&prefix)).try_collect::<Vec<_>>());
        let listed = listed.map_err(self.failed("list", key))?;
        let blob = |meta: object_store::ObjectMeta| {
            let digest = format!("sha256:{}", meta.location.filename()?);
            let blob = chalk_store::Blob {
                digest: digest.parse().ok()?,
                size: meta.size,
            };
            Some((blob, meta.last_modified.into()))
        };
        Ok(listed.into_iter().filter_map(blob).collect())
    }

    /// Removes a blob; `false` when it was not there.
    ///
    /// # Errors
    /// [`EmbeddedError::Bucket`].
    pub fn discard(&self, digest: &Digest) -> Result<bool> {
        self.remove(&blob_key(digest))
    }
}

fn blob_key(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn name_key(digest: &AnyDigest) -> String {
    format!("names/{}/{}", digest.algorithm().name(), digest.hex())
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

/// Gives the S3 client the HTTP client that registries are spoken to by: the authorities of the
/// settings, and no proxy before this host.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl Connector {
    fn new(settings: &settings::Registry) -> Result<Self> {
        let refuse = |detail: String| EmbeddedError::BucketSettings(detail);
        let endpoint = settings.s3.endpoint.as_deref().unwrap_or_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &settings.ca_bundle {
            let at = |e: &dyn std::error::Error| {
                refuse(format!("`registry.ca_bundle` {}: {e}", file.display()))
            };
            let pem = std::fs::read(file).map_err(|e| at(&e))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| at(&e))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let host = super::regional::registry_host(endpoint);
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| refuse(e.to_string()))?;
        Ok(Self(http))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Keys of an AWS credentials file, of its section `default`.
struct Keys {
    id: String,
    secret: String,
    token: Option<String>,
}

impl Keys {
    fn read(file: &std::path::Path) -> Result<Self> {
        let refuse = |detail: &str| {
            let place = file.display();
            EmbeddedError::BucketSettings(format!("`registry.s3.credentials` {place}: {detail}"))
        };
        let text = std::fs::read_to_string(file).map_err(|e| refuse(&e.to_string()))?;
        Self::parse(&text).ok_or_else(|| {
            refuse(
                "expected a file with `[default]`, `aws_access_key_id = …` and `aws_secret_access_key = …`",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut section = "default".to_owned();
        let (mut id, mut secret, mut token) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                name.trim().clone_into(&mut section);
            } else if section == "default"
                && !line.starts_with(['#', ';'])
                && let Some((key, value)) = line.split_once('=')
            {
                let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
                match key.trim() {
                    "aws_access_key_id" => id = value,
                    "aws_secret_access_key" => secret = value,
                    "aws_session_token" => token = value,
                    _ => {}
                }
            }
        }
        Some(Self {
            id: id?,
            secret: secret?,
            token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_files() {
        let check = |text: &str, expect: Option<(&str, &str, Option<&str>)>| {
            let keys = Keys::parse(text);
            let got = keys
                .as_ref()
                .map(|keys| (&*keys.id, &*keys.secret, keys.token.as_deref()));
            assert_eq!(got, expect, "{text}");
        };
        let plain = "[default]\naws_access_key_id = A\naws_secret_access_key=b/c=\n";
        check(plain, Some(("A", "b/c=", None)));
        check(
            "aws_access_key_id=A\naws_secret_access_key=b\naws_session_token = t\n",
            Some(("A", "b", Some("t"))),
        );
        check(
            "[other]\naws_access_key_id=X\naws_secret_access_key=y\n[default]\n# aws_access_key_id=Z\naws_access_key_id=A\naws_secret_access_key=b",
            Some(("A", "b", None)),
        );
        check(
            "[other]\naws_access_key_id=X\naws_secret_access_key=y",
            None,
        );
        check(
            "[default]\naws_access_key_id=\naws_secret_access_key=y",
            None,
        );
        check("", None);
    }
}
