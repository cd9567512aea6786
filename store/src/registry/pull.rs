//! Blobs and images from a registry into the store.

use std::collections::BTreeSet;

use bytes::Bytes;
use chalk_core::{AnyDigest, Digest, Platform, Reference};
use oci_spec::image::{Descriptor, ImageManifest};
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::auth::Scopes;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::manifest::{Resolved, passed_over};
use super::progress::Progress;
use super::transport::{ANSWER_LIMIT, Attempt, next_part, unreachable};
use super::{Client, MANIFEST_LIMIT};
use crate::blobs::{Blob, BlobError, BlobStore, BlobWriter};
use crate::follow::Follower;
use crate::sink::ChunkSink;

/// Once a connection has brought this much, its break does not count as a failed try.
const GOOD_PROGRESS: u64 = 1 << 20;

impl Client {
    /// Whether the registry itself has the blob, and how large it is (if it says).
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NotFound`.
    pub async fn has_blob(
        &self,
        repository: &Reference,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let endpoint = self.origin(repository.registry()).await?;
        let name = repository.repository();
        let attempt = Attempt::new(
            Method::HEAD,
            endpoint.url(&format!("{name}/blobs/{digest}"))?,
        );
        let what = format!("blob {digest} of {name}");
        let scopes = Scopes::pull(name);
        let answer = self
            .fetch(&endpoint, &scopes, attempt, ANSWER_LIMIT, &what)
            .await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.refused(&endpoint, &answer, &what).await),
        }
    }

    /// Brings a blob into the store, from mirrors first, unless it is there already. A broken
    /// transfer goes on where it stopped; what comes must have the blob's digest and size.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NoSuchPlatform`.
    pub async fn pull_blob(
        &self,
        repository: &Reference,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        self.pull_followed(repository, blob, store, progress, None)
            .await
    }

    /// As [`pull_blob`](Self::pull_blob), for one who wants to read the blob while it comes: he gets
    /// a [`Follower`] through `follower` when it begins to come, and none if it is there already. A
    /// transfer that has to start anew breaks the follower off; then the blob is to be read from the
    /// store.
    ///
    /// # Errors
    /// As [`pull_blob`](Self::pull_blob).
    pub async fn pull_followed(
        &self,
        repository: &Reference,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
        follower: Option<oneshot::Sender<Follower>>,
    ) -> Result<(), RegistryError> {
        let Blob { digest, size } = *blob;
        if store.run(move |store| store.size(digest)).await? == Some(size) {
            progress.present(digest, size);
            return Ok(());
        }
        let Ok(_permit) = self.inner.blobs.acquire().await else {
            return Err(BlobError::Cancelled.into());
        };
        let mut notes = Vec::new();
        let mut follower = follower;
        for endpoint in self.endpoints(repository.registry()).await? {
            let pull = Pull {
                client: self,
                endpoint: &endpoint,
                repository: repository.repository(),
                blob: *blob,
                store,
                progress,
            };
            let mut done = pull.run(follower.take()).await;
            if let (false, Err(RegistryError::DigestMismatch { .. })) = (endpoint.mirror, &done) {
                // Resuming may have joined two halves that do not fit.
                done = pull.run(None).await;
            }
            match done {
                Ok(()) => return Ok(()),
                Err(error @ RegistryError::Store(_)) => return Err(error),
                Err(error) if !endpoint.mirror => return Err(error.with_notes(&notes)),
                Err(error) => notes.push(passed_over(&endpoint, &error)),
            }
        }
        Ok(())
    }

    /// Brings the image that `reference` means for `platform` into the store: config, layers and
    /// then the manifest, each verified.
    ///
    /// # Errors
    /// All of [`RegistryError`].
    pub async fn pull_image(
        &self,
        reference: &Reference,
        platform: &Platform,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<Resolved, RegistryError> {
        let resolved = self.resolve(reference, platform).await?;
        let mut tasks = JoinSet::new();
        for blob in blobs_of(&resolved.image, reference)? {
            let (client, repository) = (self.clone(), reference.clone());
            let (store, progress) = (store.clone(), progress.clone());
            tasks.spawn(async move {
                client
                    .pull_blob(&repository, &blob, &store, &progress)
                    .await
            });
        }
        finish_all(tasks).await?;
        let bytes = resolved.manifest.bytes.clone();
        store.run(move |store| store.put(&bytes)).await?;
        Ok(resolved)
    }

    /// A blob that fits into memory, such as a config, from mirrors first; verified.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NoSuchPlatform`; `TooLarge` beyond [`MANIFEST_LIMIT`].
    pub async fn small_blob(
        &self,
        repository: &Reference,
        digest: &Digest,
    ) -> Result<Bytes, RegistryError> {
        let name = repository.repository();
        let what = format!("blob {digest} of {name}");
        let mut notes = Vec::new();
        let mut last = None;
        for endpoint in self.endpoints(repository.registry()).await? {
            let attempt = Attempt::get(endpoint.url(&format!("{name}/blobs/{digest}"))?);
            let scopes = Scopes::pull(name);
            let fetched = self
                .fetch(&endpoint, &scopes, attempt, MANIFEST_LIMIT, &what)
                .await;
            let error = match fetched {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let actual = Digest::of(&answer.body);
                    if actual == *digest {
                        return Ok(answer.body);
                    }
                    mismatch(&endpoint, what.clone(), *digest, actual)
                }
                Ok(answer) => self.refused(&endpoint, &answer, &what).await,
                Err(error) => error,
            };
            if endpoint.mirror {
                notes.push(passed_over(&endpoint, &error));
            } else {
                last = Some(error.with_notes(&notes));
            }
        }
        Err(last.unwrap_or_else(|| unreachable(repository.registry().to_owned(), what)))
    }
}

/// Waits for all tasks; the first failure ends the others.
pub(super) async fn finish_all(
    mut tasks: JoinSet<Result<(), RegistryError>>,
) -> Result<(), RegistryError> {
    while let Some(done) = tasks.join_next().await {
        done.map_err(|_| BlobError::Cancelled)??;
    }
    Ok(())
}

/// Config and layers of an image, each once.
pub(super) fn blobs_of(
    image: &ImageManifest,
    reference: &Reference,
) -> Result<BTreeSet<Blob>, RegistryError> {
    let all = std::iter::once(image.config()).chain(image.layers());
    all.map(|descriptor| blob_of(descriptor, reference))
        .collect()
}

pub(super) fn blob_of(descriptor: &Descriptor, of: &Reference) -> Result<Blob, RegistryError> {
    let digest = descriptor.digest().to_string().parse();
    let digest = digest.map_err(|_| RegistryError::Protocol {
        host: of.registry().to_owned(),
        what: format!("manifest {of}"),
        detail: format!("its blob {} is not named by SHA-256", descriptor.digest()),
    })?;
    Ok(Blob {
        digest,
        size: descriptor.size(),
    })
}

fn mismatch(endpoint: &Endpoint, what: String, expected: Digest, actual: Digest) -> RegistryError {
    RegistryError::DigestMismatch {
        host: endpoint.host(),
        what,
        expected,
        actual,
    }
}

/// One blob on its way from one server.
struct Pull<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    repository: &'a str,
    blob: Blob,
    store: &'a BlobStore,
    progress: &'a Progress,
}

impl Pull<'_> {
    fn what(&self) -> String {
        format!("blob {} of {}", self.blob.digest, self.repository)
    }

    async fn run(&self, follower: Option<oneshot::Sender<Follower>>) -> Result<(), RegistryError> {
        let mut writer = self.store.run(BlobStore::writer).await?;
        if let Some(follower) = follower {
            // Nobody may want it any more.
            let _ = follower.send(writer.follow()?);
        }
        let sink = ChunkSink::new(writer);
        let received = self.receive(&sink).await;
        let finished = sink.finish().await;
        let writing = |source| {
            RegistryError::Store(BlobError::Io {
                action: "write a blob into",
                path: self.store.root().to_owned(),
                source,
            })
        };
        let (writer, written) = finished.map_err(writing)?;
        written.map_err(writing)?;
        received?;
        self.commit(writer).await
    }

    async fn commit(&self, writer: BlobWriter) -> Result<(), RegistryError> {
        let expected = self.blob.digest;
        let done = self.store.run(move |_| writer.commit(Some(expected))).await;
        match done {
            Ok(_) => Ok(()),
            Err(BlobError::Mismatch {
                actual: AnyDigest::Sha256(actual),
                ..
            }) => Err(mismatch(self.endpoint, self.what(), expected, actual)),
            Err(other) => Err(other.into()),
        }
    }

    /// Streams the blob into `sink`, over as many connections as it takes.
    async fn receive(&self, sink: &ChunkSink<BlobWriter>) -> Result<(), RegistryError> {
        let mut have = 0;
        let mut failures = 0;
        loop {
            let mut attempt = Attempt::get(
                self.endpoint
                    .url(&format!("{}/blobs/{}", self.repository, self.blob.digest))?,
            );
            if have > 0 {
                let range = format!("bytes={have}-");
                attempt
                    .headers
                    .extend(HeaderValue::from_str(&range).ok().map(|v| (RANGE, v)));
            }
            let tries = self.client.tries(self.endpoint, &attempt);
            let scopes = Scopes::pull(self.repository);
            let response = self
                .client
                .send(self.endpoint, &scopes, attempt, &self.what())
                .await?;
            let skip = match response.status() {
                StatusCode::OK => have,
                StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), have) => 0,
                StatusCode::PARTIAL_CONTENT => {
                    return Err(self.protocol("answered with another range than asked for"));
                }
                _ => {
                    let what = self.what();
                    let refused = self.client.refused_stream(self.endpoint, response, &what);
                    return Err(refused.await);
                }
            };
            let before = have;
            let error = match self.stream(response, skip, &mut have, sink).await {
                Ok(()) if have == self.blob.size => return Ok(()),
                Ok(()) => unreachable(
                    self.endpoint.host(),
                    format!(
                        "{} ended after {have} of {} bytes",
                        self.what(),
                        self.blob.size
                    ),
                ),
                Err(error @ RegistryError::Unreachable { .. }) => error,
                Err(error) => return Err(error),
            };
            failures = if have - before >= GOOD_PROGRESS {
                1
            } else {
                failures + 1
            };
            if failures >= tries {
                return Err(error);
            }
            tracing::debug!(%error, have, "transfer broke off, going on");
            tokio::time::sleep(self.client.inner.options.retry.delay(failures)).await;
        }
    }

    /// Streams one answer, of which the first `skip` bytes are there already.
    async fn stream(
        &self,
        mut response: Response,
        mut skip: u64,
        have: &mut u64,
        sink: &ChunkSink<BlobWriter>,
    ) -> Result<(), RegistryError> {
        while let Some(mut part) = next_part(&mut response, self.client.idle()).await? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(part.len());
            skip -= known as u64;
            let part = part.split_off(known);
            if part.is_empty() {
                continue;
            }
            if *have + part.len() as u64 > self.blob.size {
                return Err(RegistryError::TooLarge {
                    host: self.endpoint.host(),
                    what: self.what(),
                    limit: self.blob.size,
                });
            }
            *have += part.len() as u64;
            if !sink.send(part).await {
                // The writer failed; `finish` says why.
                return Err(self.protocol("could not be stored"));
            }
            self.progress.tell(self.blob.digest, *have, self.blob.size);
        }
        Ok(())
    }

    fn protocol(&self, detail: &str) -> RegistryError {
        RegistryError::Protocol {
            host: self.endpoint.host(),
            what: self.what(),
            detail: detail.to_owned(),
        }
    }
}

/// Whether `Content-Range` (`bytes 5-9/10`) starts at `offset`.
pub(super) fn starts_at(headers: &HeaderMap, offset: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let start = range.and_then(|r| r.trim().strip_prefix("bytes")?.trim().split('-').next());
    start.and_then(|s| s.trim().parse().ok()) == Some(offset)
}
