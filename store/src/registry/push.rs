//! Blobs, manifests and images from the store into a registry.
//!
//! Order is what keeps a registry whole: blobs first, then the manifest that names them, the tag
//! last; a registry that lacks a blob refuses the manifest.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use chalk_core::{Digest, Reference};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use oci_spec::image::{Descriptor, ImageIndex};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::task::JoinSet;

use super::auth::Scopes;
use super::endpoint::{Endpoint, host_of, origin};
use super::error::RegistryError;
use super::manifest::{Manifest, announced_digest, parse_image};
use super::progress::Progress;
use super::pull::{blob_of, blobs_of, finish_all};
use super::transport::{ANSWER_LIMIT, Answer, Attempt, Payload, Upload, excerpt};
use super::{Client, MANIFEST_LIMIT};
use crate::blobs::{Blob, BlobError, BlobStore};

/// Up to here a blob goes in a single `PUT`; beyond, in a `PATCH` that can be resumed.
const SINGLE_PUT_LIMIT: u64 = 4 << 20;
const READ_SIZE: usize = 256 * 1024;

/// How a blob got to its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// The registry took it over from another of its repositories.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

/// What a registry made of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the `subject` that the registry files it under, if it does so by itself.
    pub subject: Option<Digest>,
}

impl Client {
    /// Sends a blob of the store to the registry, unless it is there or can be mounted from the
    /// repository `mount_from` of the same registry.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NoSuchPlatform`.
    pub async fn push_blob(
        &self,
        repository: &Reference,
        blob: &Blob,
        store: &BlobStore,
        mount_from: Option<&str>,
        progress: &Progress,
    ) -> Result<Pushed, RegistryError> {
        let Ok(_permit) = self.inner.blobs.acquire().await else {
            return Err(BlobError::Cancelled.into());
        };
        if self.has_blob(repository, &blob.digest).await? {
            progress.present(blob.digest, blob.size);
            return Ok(Pushed::Present);
        }
        let endpoint = origin(&self.inner.options, repository.registry())?;
        let push = Push {
            client: self,
            endpoint: &endpoint,
            repository: repository.repository(),
            blob: *blob,
            path: store.path(&blob.digest),
            progress,
        };
        let digest = blob.digest;
        let stored = store.run(move |store| store.size(&digest)).await?;
        if stored.is_none() {
            return Err(BlobError::NotFound(digest).into());
        }
        let pushed = push.run(mount_from).await;
        if let Err(RegistryError::Protocol { .. }) = &pushed {
            // A registry that finds another digest may be right: then the error is ours.
            store.run(move |store| check_local(store, &digest)).await?;
        }
        pushed
    }

    /// Makes a blob of one repository known to another of the same registry; `false` when the
    /// registry cannot.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NoSuchPlatform`.
    pub async fn mount(
        &self,
        repository: &Reference,
        digest: &Digest,
        from: &str,
    ) -> Result<bool, RegistryError> {
        let endpoint = origin(&self.inner.options, repository.registry())?;
        let name = repository.repository();
        match start(self, &endpoint, name, digest, Some(from)).await? {
            Start::Mounted => Ok(true),
            Start::Session(url) => {
                // The registry opened an upload instead: do not leave it behind.
                let cancel = Attempt::new(Method::DELETE, url);
                let what = format!("upload to {name}");
                let _ = self
                    .send(&endpoint, &Scopes::push(name), cancel, &what)
                    .await;
                Ok(false)
            }
        }
    }

    /// Publishes a manifest or index under the tag or digest of `reference`. One that has a
    /// `subject` is also filed under the referrers tag when the registry does not do it by itself
    /// (spec.md, "Pushing Manifests with Subject").
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NoSuchPlatform`.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Published, RegistryError> {
        let published = self.put_one(reference, media_type, bytes.clone()).await?;
        if published.subject.is_none() {
            self.file_referrer(reference, media_type, &bytes).await?;
        }
        Ok(published)
    }

    /// Publishes the image or index whose manifest is blob `manifest` of the store, with
    /// everything below it, under the tag of `target`.
    ///
    /// # Errors
    /// All of [`RegistryError`]; `Store` when the store lacks a part.
    pub async fn push_image(
        &self,
        target: &Reference,
        manifest: &Digest,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<Published, RegistryError> {
        self.push_level(target, *manifest, store, progress, 0).await
    }

    /// Boxed, since it calls itself for what an index lists.
    fn push_level<'a>(
        &'a self,
        target: &'a Reference,
        digest: Digest,
        store: &'a BlobStore,
        progress: &'a Progress,
        depth: usize,
    ) -> BoxFuture<'a, Result<Published, RegistryError>> {
        let level = async move {
            let wrong = |detail: String| RegistryError::Protocol {
                host: target.registry().to_owned(),
                what: format!("manifest {digest}"),
                detail,
            };
            if depth > 4 {
                return Err(wrong("indexes are nested more than 4 deep".to_owned()));
            }
            let bytes = store
                .run(move |store| store.read_small(&digest, MANIFEST_LIMIT))
                .await?;
            let bytes = Bytes::from(bytes);
            let media_type =
                super::manifest::media_type(&HeaderMap::new(), &bytes).map_err(wrong)?;
            let manifest = Manifest {
                digest,
                media_type,
                bytes,
            };
            if manifest.is_index() {
                let index: ImageIndex = serde_json::from_slice(&manifest.bytes)
                    .map_err(|e| wrong(format!("is not a valid index: {e}")))?;
                for entry in index.manifests() {
                    let child = blob_of(entry, target)?.digest;
                    let at = target.with_digest(child);
                    let level = self.push_level(&at, child, store, progress, depth + 1);
                    level.await?;
                }
            } else {
                let image = parse_image(&manifest).map_err(wrong)?;
                let mut tasks = JoinSet::new();
                for blob in blobs_of(&image, target)? {
                    let (client, target) = (self.clone(), target.clone());
                    let (store, progress) = (store.clone(), progress.clone());
                    tasks.spawn(async move {
                        let pushed = client.push_blob(&target, &blob, &store, None, &progress);
                        pushed.await.map(drop)
                    });
                }
                finish_all(tasks).await?;
            }
            self.put_manifest(target, &manifest.media_type, manifest.bytes.clone())
                .await
        };
        level.boxed()
    }

    async fn put_one(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Published, RegistryError> {
        let endpoint = origin(&self.inner.options, reference.registry())?;
        let (repository, name) = (reference.repository(), reference.manifest_name());
        let what = format!("manifest {reference}");
        let protocol = |detail: String| RegistryError::Protocol {
            host: endpoint.host(),
            what: what.clone(),
            detail,
        };
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(RegistryError::TooLarge {
                host: "the local store".to_owned(),
                what,
                limit: MANIFEST_LIMIT,
            });
        }
        let url = endpoint.url(&format!("{repository}/manifests/{name}"))?;
        let mut attempt = Attempt::new(Method::PUT, url);
        let kind = HeaderValue::from_str(media_type)
            .map_err(|_| protocol(format!("`{media_type}` is no media type")))?;
        attempt.headers.insert(CONTENT_TYPE, kind);
        attempt.payload = Payload::Bytes(bytes.clone());
        let scopes = Scopes::push(repository);
        let answer = self
            .fetch(&endpoint, &scopes, attempt, ANSWER_LIMIT, &what)
            .await?;
        if !answer.status.is_success() {
            return Err(self.refused(&endpoint, &answer, &what).await);
        }
        let digest = Digest::of(&bytes);
        if let Some(actual) = announced_digest(&answer.headers)
            && actual != digest
        {
            return Err(RegistryError::DigestMismatch {
                host: endpoint.host(),
                what,
                expected: digest,
                actual,
            });
        }
        let subject = answer.headers.get("oci-subject");
        Ok(Published {
            digest,
            subject: subject.and_then(|v| v.to_str().ok()?.parse().ok()),
        })
    }

    /// Adds a manifest with a `subject` to the index under the referrers tag (spec.md, "Referrers
    /// Tag Schema"), for registries without the referrers API. Two clients that do this at once
    /// can lose an entry; the specification knows no cure.
    async fn file_referrer(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), RegistryError> {
        let Ok(referrer) = serde_json::from_slice::<Subject>(bytes) else {
            return Ok(());
        };
        let Some(subject) = &referrer.subject else {
            return Ok(());
        };
        let at = super::listing::fallback_tag(reference, &blob_of(subject, reference)?.digest)?;
        let mut index = match self.manifest(&at).await? {
            Some(found) => serde_json::from_slice(&found.bytes).unwrap_or_else(|_| empty_index()),
            None => empty_index(),
        };
        let digest = Digest::of(bytes).to_string();
        let mut entry = serde_json::json!({
            "mediaType": media_type,
            "digest": digest,
            "size": bytes.len(),
        });
        let kind = referrer
            .artifact_type
            .or(referrer.config.map(|c| c.media_type().to_string()));
        if let Some(kind) = kind {
            entry["artifactType"] = kind.into();
        }
        if let Some(annotations) = referrer.annotations {
            entry["annotations"] = annotations;
        }
        let Some(list) = index.get_mut("manifests").and_then(|m| m.as_array_mut()) else {
            return Ok(());
        };
        if list.iter().any(|old| old["digest"] == digest.as_str()) {
            return Ok(());
        }
        list.push(entry);
        let text = index.to_string();
        self.put_one(&at, "application/vnd.oci.image.index.v1+json", text.into())
            .await?;
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<serde_json::Value>,
    config: Option<Descriptor>,
}

fn empty_index() -> serde_json::Value {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [],
    })
}

/// Reads a blob of the store to its end, which fails if it rotted.
fn check_local(store: &BlobStore, digest: &Digest) -> Result<(), BlobError> {
    let copied = std::io::copy(&mut store.open_verified(digest)?, &mut std::io::sink());
    copied.map(drop).map_err(|source| BlobError::Io {
        action: "verify",
        path: store.path(digest),
        source,
    })
}

/// Answer to the start of an upload.
enum Start {
    Mounted,
    Session(Url),
}

async fn start(
    client: &Client,
    endpoint: &Endpoint,
    repository: &str,
    digest: &Digest,
    mount_from: Option<&str>,
) -> Result<Start, RegistryError> {
    let mut url = endpoint.url(&format!("{repository}/blobs/uploads/"))?;
    let mut scopes = Scopes::push(repository);
    if let Some(from) = mount_from {
        let mount = [("mount", digest.to_string()), ("from", from.to_owned())];
        url.query_pairs_mut().extend_pairs(mount);
        scopes = Scopes::mount(repository, from);
    }
    let what = format!("upload to {repository}");
    let attempt = Attempt::new(Method::POST, url);
    let answer = client
        .fetch(endpoint, &scopes, attempt, ANSWER_LIMIT, &what)
        .await?;
    match answer.status {
        StatusCode::CREATED if mount_from.is_some() => Ok(Start::Mounted),
        StatusCode::ACCEPTED => Ok(Start::Session(next_location(endpoint, &answer, &what)?)),
        _ => Err(client.refused(endpoint, &answer, &what).await),
    }
}

/// Where an upload goes on, by the `Location` of an answer.
fn next_location(endpoint: &Endpoint, answer: &Answer, what: &str) -> Result<Url, RegistryError> {
    let protocol = |detail: &str| RegistryError::Protocol {
        host: endpoint.host(),
        what: what.to_owned(),
        detail: detail.to_owned(),
    };
    let location = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| protocol("answered without a Location"))?;
    let mut url = answer
        .url
        .join(location)
        .map_err(|_| protocol("answered with a Location that is no URL"))?;
    if endpoint.base.scheme() == "https" && url.scheme() != "https" {
        // Registries behind a proxy that ends TLS often do not know their own scheme.
        let own = url.host_str() == endpoint.base.host_str();
        if !own || url.set_scheme("https").is_err() {
            return Err(protocol("wants the upload without TLS at another host"));
        }
    }
    Ok(url)
}

/// One blob on its way to one registry.
struct Push<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    repository: &'a str,
    blob: Blob,
    path: PathBuf,
    progress: &'a Progress,
}

impl Push<'_> {
    fn what(&self) -> String {
        format!("blob {} to {}", self.blob.digest, self.repository)
    }

    async fn run(&self, mount_from: Option<&str>) -> Result<Pushed, RegistryError> {
        let digest = self.blob.digest;
        let start = start(
            self.client,
            self.endpoint,
            self.repository,
            &digest,
            mount_from,
        )
        .await?;
        let session = match start {
            Start::Mounted => {
                self.progress.present(digest, self.blob.size);
                return Ok(Pushed::Mounted);
            }
            Start::Session(url) => url,
        };
        if self.blob.size <= SINGLE_PUT_LIMIT {
            self.finish(session, self.body(0)).await?;
        } else {
            let session = self.send_all(session).await?;
            self.finish(session, Payload::None).await?;
        }
        self.progress.tell(digest, self.blob.size, self.blob.size);
        Ok(Pushed::Uploaded)
    }

    /// Sends the bytes by `PATCH`; after a break asks how far they came and goes on from there.
    async fn send_all(&self, mut session: Url) -> Result<Url, RegistryError> {
        let mut offset = 0;
        let mut failures = 0;
        let tries = self.client.inner.options.retry.attempts.max(1);
        loop {
            let error = match self.patch(session.clone(), offset).await {
                Ok(next) => return Ok(next),
                Err(error) => error,
            };
            let passing = matches!(
                error,
                RegistryError::Unreachable { .. } | RegistryError::Unavailable { .. }
            );
            failures += 1;
            if !passing || failures >= tries {
                return Err(error);
            }
            tracing::debug!(%error, "upload broke off, going on");
            tokio::time::sleep(self.client.inner.options.retry.delay(failures)).await;
            (session, offset) = self.whereto(session).await?;
        }
    }

    async fn patch(&self, session: Url, offset: u64) -> Result<Url, RegistryError> {
        let mut attempt = Attempt::new(Method::PATCH, session);
        // Only this caller knows where a second try must start.
        attempt.tries = Some(1);
        attempt.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        if offset > 0 {
            let range = format!("{offset}-{}", self.blob.size.saturating_sub(1));
            attempt.headers.extend(
                HeaderValue::from_str(&range)
                    .ok()
                    .map(|v| (CONTENT_RANGE, v)),
            );
        }
        attempt.payload = self.body(offset);
        let answer = self.ask(attempt).await?;
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                next_location(self.endpoint, &answer, &self.what())
            }
            // The registry counts otherwise than we do, as after a break it did not notice yet.
            StatusCode::RANGE_NOT_SATISFIABLE => Err(RegistryError::Unavailable {
                host: host_of(&answer.url),
                what: self.what(),
                status: answer.status.as_u16(),
                detail: excerpt(&answer.body),
            }),
            _ => Err(self
                .client
                .refused(self.endpoint, &answer, &self.what())
                .await),
        }
    }

    /// Where a broken upload goes on; a new one from its start when the old is gone.
    async fn whereto(&self, session: Url) -> Result<(Url, u64), RegistryError> {
        let answer = self.ask(Attempt::get(session.clone())).await;
        if let Ok(answer) = answer
            && answer.status.is_success()
            && let Some(range) = answer.headers.get(RANGE).and_then(|v| v.to_str().ok())
            && let Some(last) = range.trim_start_matches("bytes=").strip_prefix("0-")
            && let Ok(last) = last.parse::<u64>()
            && last < self.blob.size
        {
            // `0-0` means one byte or none (spec.md allows both readings): start anew then.
            let next = match answer.headers.contains_key(LOCATION) {
                true => next_location(self.endpoint, &answer, &self.what())?,
                false => session,
            };
            if last > 0 {
                return Ok((next, last + 1));
            }
        }
        let digest = &self.blob.digest;
        match start(self.client, self.endpoint, self.repository, digest, None).await? {
            Start::Session(url) => Ok((url, 0)),
            Start::Mounted => Err(RegistryError::Protocol {
                host: self.endpoint.host(),
                what: self.what(),
                detail: "answered a new upload as if it were a mount".to_owned(),
            }),
        }
    }

    /// Ends the upload by `PUT` with the digest.
    async fn finish(&self, mut session: Url, payload: Payload) -> Result<(), RegistryError> {
        let digest = self.blob.digest.to_string();
        session.query_pairs_mut().append_pair("digest", &digest);
        let mut attempt = Attempt::new(Method::PUT, session);
        attempt.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        attempt.payload = payload;
        let answer = self.ask(attempt).await;
        match answer {
            Ok(answer) if answer.status.is_success() => Ok(()),
            failed => {
                // The answer to a `PUT` that did its work may have been lost, and the second try
                // then finds no upload: what counts is whether the blob is there.
                let at = Reference::new(&self.endpoint.registry, self.repository, None, None);
                if let Ok(at) = at
                    && matches!(self.client.has_blob(&at, &self.blob.digest).await, Ok(true))
                {
                    return Ok(());
                }
                let answer = failed?;
                Err(self
                    .client
                    .refused(self.endpoint, &answer, &self.what())
                    .await)
            }
        }
    }

    async fn ask(&self, attempt: Attempt) -> Result<Answer, RegistryError> {
        let scopes = Scopes::push(self.repository);
        self.client
            .fetch(self.endpoint, &scopes, attempt, ANSWER_LIMIT, &self.what())
            .await
    }

    fn body(&self, offset: u64) -> Payload {
        Payload::Stream(Arc::new(FileBody {
            path: self.path.clone(),
            blob: self.blob,
            offset,
            progress: self.progress.clone(),
        }))
    }
}

/// A blob's file from an offset to its end.
struct FileBody {
    path: PathBuf,
    blob: Blob,
    offset: u64,
    progress: Progress,
}

impl Upload for FileBody {
    fn length(&self) -> u64 {
        self.blob.size - self.offset
    }

    fn body(&self, sent: Arc<AtomicU64>) -> reqwest::Body {
        let (path, offset) = (self.path.clone(), self.offset);
        let open = async move {
            let mut file = tokio::fs::File::open(path).await?;
            file.set_max_buf_size(READ_SIZE);
            file.seek(SeekFrom::Start(offset)).await?;
            Ok::<_, std::io::Error>(file)
        };
        let parts = stream::once(open).flat_map(|opened| match opened {
            Ok(file) => stream::try_unfold(file, |mut file| async move {
                let mut part = BytesMut::with_capacity(READ_SIZE);
                let count = file.read_buf(&mut part).await?;
                Ok::<_, std::io::Error>((count > 0).then(|| (part.freeze(), file)))
            })
            .boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        });
        let (blob, progress) = (self.blob, self.progress.clone());
        let counted = parts.inspect(move |part| {
            if let Ok(part) = part {
                let count = part.len() as u64;
                let done = sent.fetch_add(count, Ordering::Relaxed) + count;
                progress.tell(blob.digest, (offset + done).min(blob.size), blob.size);
            }
        });
        reqwest::Body::wrap_stream(counted)
    }
}
