//! Manifests and images from the store into a registry; [`super::upload`] moves the blobs.
//!
//! Order is what keeps a registry whole: blobs first, then the manifest that names them, the tag
//! last; a registry that lacks a blob refuses the manifest.

use bytes::Bytes;
use chalk_core::{Digest, Reference};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci_spec::image::ImageIndex;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::task::JoinSet;

use super::auth::Scopes;
use super::error::RegistryError;
use super::manifest::{Manifest, announced_digest, parse_image};
use super::progress::Progress;
use super::pull::{blob_of, blobs_of, finish_all};
use super::transport::{ANSWER_LIMIT, Attempt, Payload};
use super::upload::{Push, Start, start};
use super::{Client, MANIFEST_LIMIT};
use crate::blobs::{Blob, BlobError, BlobStore};

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
        let endpoint = self.origin(repository.registry()).await?;
        let push = Push {
            client: self,
            endpoint: &endpoint,
            repository: repository.repository(),
            blob: *blob,
            path: store.path(&blob.digest),
            progress,
        };
        let digest = blob.digest;
        let stored = store.run(move |store| store.size(digest)).await?;
        if stored.is_none() {
            return Err(BlobError::NotFound(digest.into()).into());
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
        let endpoint = self.origin(repository.registry()).await?;
        let name = repository.repository();
        let started = match start(self, &endpoint, name, digest, Some(from)).await {
            // Whoever may not read there can still upload here.
            Err(RegistryError::Denied { .. } | RegistryError::NotFound { .. }) => return Ok(false),
            started => started?,
        };
        match started {
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
        let always = HeaderMap::new();
        let published = self
            .put_one(reference, media_type, bytes.clone(), always)
            .await?;
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
                .run(move |store| store.read_small(digest, MANIFEST_LIMIT))
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

    /// Puts a manifest on `condition`, and nothing else.
    pub(super) async fn put_one(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
        condition: HeaderMap,
    ) -> Result<Published, RegistryError> {
        let endpoint = self.origin(reference.registry()).await?;
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
        attempt.headers = condition;
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
