//! The registry that holds built images: embedded or external, behind one interface.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::{AnyDigest, Digest};
use chalk_store::registry::{
    Manifest, ManifestHead, Progress, Published, PullToken, Pushed, Referrer, RegistryError,
};
use chalk_store::{Blob, BlobError, BlobStore};

use super::condition::Condition;
use super::error::EmbeddedError;
use super::push::Push;
use super::referrers::{Descriptor, Wanted};
use super::store::Registry;

/// Failure of the regional registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionalError {
    /// The embedded registry failed.
    #[error("embedded registry: {0}")]
    Embedded(#[from] EmbeddedError),
    /// The external registry failed.
    #[error(transparent)]
    External(#[from] RegistryError),
    /// A repository or tag that no reference can hold.
    #[error("`{text}` cannot be used in the regional registry: {detail}")]
    Name {
        /// What was given.
        text: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl From<BlobError> for RegionalError {
    fn from(error: BlobError) -> Self {
        Self::Embedded(error.into())
    }
}

impl RegionalError {
    /// Whether it may pass by itself, or once somebody has seen to the registry or to what lies behind
    /// it.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Embedded(error) => matches!(error, EmbeddedError::Bucket { .. }),
            Self::External(error) => matches!(
                error,
                RegistryError::Unreachable { .. }
                    | RegistryError::Unavailable { .. }
                    | RegistryError::Denied { .. }
            ),
            Self::Name { .. } => false,
        }
    }

    /// Whether the registry deletes nothing, as it is set up.
    pub(crate) fn is_without_deletes(&self) -> bool {
        matches!(self, Self::External(RegistryError::NoDeletes { .. }))
    }
}

type Result<T, E = RegionalError> = std::result::Result<T, E>;

/// The regional registry, as builder and warmer see it. `repository` never has the external
/// registry's path prefix; `name` is a tag or a digest.
#[async_trait]
pub trait Regional: Send + Sync + fmt::Debug {
    /// Digest, type and size of a manifest; `None` when there is none.
    async fn head_manifest(&self, repository: &str, name: &str) -> Result<Option<ManifestHead>>;

    /// A manifest, verified; `None` when there is none.
    async fn manifest(&self, repository: &str, name: &str) -> Result<Option<Manifest>>;

    /// Whether the repository has a blob.
    async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool>;

    /// Makes a blob of the repository `from` part of `repository`, without its bytes moving; `false`
    /// when that is not there, or the registry cannot.
    async fn mount_blob(&self, repository: &str, digest: &Digest, from: &str) -> Result<bool>;

    /// Makes a blob of `store` part of the repository.
    async fn push_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<Pushed>;

    /// Brings a blob of the repository into `store`, verified.
    async fn pull_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<()>;

    /// Publishes a manifest, whose blobs must be there, under a tag or its digest.
    async fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Published>;

    /// All repositories; `None` where they cannot be listed.
    async fn repositories(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Tags of a repository; none when there is no such repository.
    async fn tags(&self, repository: &str) -> Result<Vec<String>>;

    /// Manifests that have `subject` as their subject.
    async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>>;

    /// Removes a tag, or a manifest by digest; `false` when there was none.
    async fn delete(&self, repository: &str, name: &str) -> Result<bool>;

    /// A token by which others can read the repository and do nothing else; `None` where the registry
    /// does not work so.
    async fn pull_token(&self, _repository: &str) -> Result<Option<PullToken>> {
        Ok(None)
    }

    /// URL of the API, where that is not at `/v2` of the host that references name.
    fn api(&self) -> Option<&str> {
        None
    }
}

#[async_trait]
impl Regional for Registry {
    async fn head_manifest(&self, repository: &str, name: &str) -> Result<Option<ManifestHead>> {
        if let Some(found) = self.remembered(repository, name)
            && let AnyDigest::Sha256(digest) = found.digest
        {
            return Ok(Some(ManifestHead {
                digest,
                media_type: found.media_type.as_ref().to_owned(),
                size: Some(found.size),
            }));
        }
        let (repository, name) = (repository.to_owned(), name.to_owned());
        self.off_runtime(move |registry| {
            let Some(found) = registry.look(&repository, &name)? else {
                return Ok(None);
            };
            // Under a tag there may be one that was pushed by another algorithm.
            let Some(digest) = registry.resolve(&found.digest)? else {
                return Ok(None);
            };
            Ok(Some(ManifestHead {
                digest,
                media_type: found.media_type.as_ref().to_owned(),
                size: Some(found.size),
            }))
        })
        .await
    }

    async fn manifest(&self, repository: &str, name: &str) -> Result<Option<Manifest>> {
        let (repository, name) = (repository.to_owned(), name.to_owned());
        self.off_runtime(move |registry| {
            let found = registry.read(&repository, &name)?;
            Ok(found.map(|found| Manifest {
                digest: match found.digest {
                    AnyDigest::Sha256(digest) => digest,
                    AnyDigest::Sha512(_) => Digest::of(&found.bytes),
                },
                media_type: found.media_type.as_ref().to_owned(),
                bytes: found.bytes,
            }))
        })
        .await
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let (repository, digest) = (repository.to_owned(), *digest);
        let size = self
            .off_runtime(move |registry| registry.blob(&repository, digest))
            .await?;
        Ok(size.is_some())
    }

    async fn mount_blob(&self, repository: &str, digest: &Digest, from: &str) -> Result<bool> {
        let (repository, digest, from) = (repository.to_owned(), *digest, from.to_owned());
        self.off_runtime(move |registry| {
            if registry.blob(&from, digest)?.is_none() {
                return Ok(false);
            }
            registry.link_blob(&repository, digest)?;
            Ok(true)
        })
        .await
    }

    async fn push_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        _: &Progress,
    ) -> Result<Pushed> {
        let (repository, blob) = (repository.to_owned(), *blob);
        let store = store.clone();
        self.off_runtime(move |registry| {
            if registry.blob(&repository, blob.digest)?.is_some() {
                return Ok(Pushed::Present);
            }
            let copied = copy(&store, registry.blobs(), &blob)?;
            registry.link_blob(&repository, blob.digest)?;
            Ok(if copied {
                Pushed::Uploaded
            } else {
                Pushed::Mounted
            })
        })
        .await
    }

    async fn pull_blob(
        &self,
        repository: &str,
        blob: &Blob,
        store: &BlobStore,
        _: &Progress,
    ) -> Result<()> {
        let (repository, blob) = (repository.to_owned(), *blob);
        let store = store.clone();
        self.off_runtime(move |registry| {
            if registry.blob(&repository, blob.digest)?.is_none() {
                return Err(EmbeddedError::BlobUnknown(blob.digest.into()));
            }
            registry.bring(&blob.digest.into())?;
            copy(registry.blobs(), &store, &blob)?;
            Ok(())
        })
        .await
    }

    async fn put_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Published> {
        let (repository, name) = (repository.to_owned(), name.to_owned());
        let media_type = media_type.to_owned();
        self.off_runtime(move |registry| {
            let kept = registry.push(
                &repository,
                &Push {
                    name: &name,
                    media_type: &media_type,
                    bytes: &bytes,
                    tags: &[],
                    condition: Condition::default(),
                },
            )?;
            Ok(Published {
                digest: match kept.digest {
                    AnyDigest::Sha256(digest) => digest,
                    AnyDigest::Sha512(_) => Digest::of(&bytes),
                },
                subject: kept.subject.as_ref().and_then(sha256),
            })
        })
        .await
    }

    async fn repositories(&self) -> Result<Option<Vec<String>>> {
        let all = self.off_runtime(Registry::repositories).await?;
        Ok(Some(all))
    }

    async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let repository = repository.to_owned();
        self.off_runtime(
            move |registry| match Registry::tags(registry, &repository) {
                Err(EmbeddedError::NameUnknown(_)) => Ok(Vec::new()),
                other => other,
            },
        )
        .await
    }

    async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>> {
        let (repository, subject) = (repository.to_owned(), *subject);
        let kind = artifact_type.map(str::to_owned);
        self.off_runtime(move |registry| {
            let wanted = Wanted::all(kind.as_deref());
            let (found, _) = registry.referrers_of(&repository, &subject.into(), wanted)?;
            Ok(found.into_iter().filter_map(referrer).collect())
        })
        .await
    }

    async fn delete(&self, repository: &str, name: &str) -> Result<bool> {
        let (repository, name) = (repository.to_owned(), name.to_owned());
        let always = Condition::default();
        self.off_runtime(move |registry| registry.remove(&repository, &name, &always))
            .await
    }
}

/// The digest of what is ours: nothing of ours goes by another algorithm.
fn sha256(digest: &AnyDigest) -> Option<Digest> {
    match digest {
        AnyDigest::Sha256(digest) => Some(*digest),
        AnyDigest::Sha512(_) => None,
    }
}

fn referrer(of: Descriptor) -> Option<Referrer> {
    Some(Referrer {
        media_type: of.media_type,
        digest: sha256(&of.digest)?,
        size: of.size,
        artifact_type: of.artifact_type,
        annotations: of.annotations,
    })
}

impl Registry {
    /// Runs blocking work on tokio's blocking threads.
    async fn off_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T> {
        let registry = self.clone();
        let done = self.blobs().run(move |_| work(&registry)).await;
        done.map_err(RegionalError::Embedded)
    }
}

/// Brings a blob from one store to the other, verified; `false` when it was there.
fn copy(from: &BlobStore, to: &BlobStore, blob: &Blob) -> Result<bool, EmbeddedError> {
    if to.contains(blob.digest)? {
        return Ok(false);
    }
    to.put_reader(from.open_verified(blob.digest)?, Some(blob.digest))?;
    Ok(true)
}
