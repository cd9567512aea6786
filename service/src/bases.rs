//! Base images: from the reference that a spec names to a pinned manifest, and its blobs.
//!
//! What was imported under a reference comes first; then the reference's own registry is asked,
//! through mirrors. What a tag means is remembered for five minutes and shared by all who ask.

mod error;
mod image;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::spec::BaseImage;
use chalk_core::{Digest, Platform, Reference};
use chalk_store::registry::{Client, Manifest, Progress};
use chalk_store::{Blob, BlobStore, Follower};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

pub use error::BaseError;
pub(crate) use image::Base;
use image::{Entry, INDEX_TYPES, Index, layer_count_fits};

use crate::engine::oci::{self, ImageFile};
use crate::places::{IMAGES, import, inside};
use crate::registry::{Regional, RegionalError};
use crate::resolve::PinBases;

/// For how long a tag is taken to mean what it meant.
const FRESH: Duration = Duration::from_secs(300);
/// Largest manifest or config.
const DOCUMENT_LIMIT: u64 = 4 << 20;
/// Bases whose documents are kept in memory.
const KEPT: usize = 64;

type Answer = Arc<AsyncMutex<Option<(Instant, Digest)>>>;

/// Finds and fetches base images.
#[derive(Debug)]
pub struct Bases {
    regional: Arc<dyn Regional>,
    /// `host[:port][/prefix]` by which others know `regional`.
    public: String,
    client: Client,
    blobs: BlobStore,
    /// What tags mean. Whoever holds an entry's lock asks for all.
    answers: Mutex<BTreeMap<(Reference, Platform), Answer>>,
    /// Documents by digest of the manifest; these never change.
    known: Mutex<BTreeMap<Digest, Arc<Base>>>,
}

/// Where the manifest of a base was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In this repository of the regional registry.
    Regional(String),
    /// At the reference's own registry or its mirrors.
    Upstream(Reference),
}

#[async_trait]
impl PinBases for Bases {
    async fn pin(&self, reference: &Reference, platform: &Platform) -> Result<Digest, BaseError> {
        self.resolve(reference, platform).await
    }
}

impl Bases {
    /// Looks in `regional` first, whose images others know by `public`, `host[:port][/prefix]`, then
    /// asks with `client`; keeps blobs in `blobs`.
    pub fn new(
        regional: Arc<dyn Regional>,
        public: impl Into<String>,
        client: Client,
        blobs: BlobStore,
    ) -> Self {
        Self {
            regional,
            public: public.into(),
            client,
            blobs,
            answers: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// Digest of the platform's manifest behind a reference. Imports are always looked at; what
    /// other registries said is shared for five minutes.
    ///
    /// # Errors
    /// See [`BaseError`].
    pub async fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Digest, BaseError> {
        let (imports, _) = import(reference);
        let own = inside(&self.public, reference);
        for repository in [Some(&imports), own.as_ref()].into_iter().flatten() {
            let found = self
                .regional_digest(reference, platform, repository)
                .await?;
            if let Some(digest) = found {
                return Ok(digest);
            }
        }
        if own.is_some() {
            return Err(BaseError::NotFound {
                reference: reference.clone(),
                detail: "this service's own registry has no such image".to_owned(),
            });
        }
        let answer = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits for entries that only the map holds; the old ones of them go.
            answers.retain(|_, answer| {
                Arc::strong_count(answer) > 1
                    || answer
                        .try_lock()
                        .is_ok_and(|a| a.is_some_and(|(when, _)| when.elapsed() < FRESH))
            });
            let key = (reference.clone(), platform.clone());
            Arc::clone(answers.entry(key).or_default())
        };
        let mut answer = answer.lock().await;
        if let Some((when, digest)) = *answer
            && when.elapsed() < FRESH
        {
            return Ok(digest);
        }
        let resolved = self.client.resolve(reference, platform).await;
        let resolved = resolved.map_err(|e| BaseError::of(reference, platform, &e))?;
        let digest = resolved.manifest.digest;
        // The build will want it, perhaps when the registry cannot be reached.
        self.keep(reference, &resolved.manifest.bytes).await?;
        *answer = Some((Instant::now(), digest));
        Ok(digest)
    }

    /// The same in a repository of the regional registry.
    async fn regional_digest(
        &self,
        reference: &Reference,
        platform: &Platform,
        repository: &str,
    ) -> Result<Option<Digest>, BaseError> {
        let name = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or("latest").to_owned(),
        };
        let Some(found) = self.regional_manifest(reference, repository, &name).await? else {
            return Ok(None);
        };
        if INDEX_TYPES.contains(&found.media_type.as_str()) {
            let index: Index =
                serde_json::from_slice(&found.bytes).map_err(|e| BaseError::Invalid {
                    reference: reference.clone(),
                    detail: format!("its index cannot be read: {e}"),
                })?;
            return match index.manifests.iter().find(|entry| entry.is_for(platform)) {
                Some(entry) => Ok(Some(entry.digest)),
                None => Err(BaseError::Platform {
                    reference: reference.clone(),
                    wanted: platform.clone(),
                    available: index.manifests.iter().filter_map(Entry::platform).collect(),
                }),
            };
        }
        let base = self
            .read(reference, &found, &Origin::Regional(repository.to_owned()))
            .await?;
        let actual = Platform {
            os: base.config.os.clone(),
            architecture: base.config.architecture.clone(),
            variant: base.config.variant.clone(),
        };
        let same = actual.os == platform.os && actual.architecture == platform.architecture;
        let variant = platform.variant.is_none() || platform.variant == actual.variant;
        if same && variant {
            return Ok(Some(found.digest));
        }
        Err(BaseError::Platform {
            reference: reference.clone(),
            wanted: platform.clone(),
            available: vec![actual.to_string()],
        })
    }

    /// Manifest and config of a pinned base.
    ///
    /// # Errors
    /// See [`BaseError`]; [`BaseError::Invalid`] when it is not pinned.
    pub(crate) async fn image(
        &self,
        image: &BaseImage,
        platform: &Platform,
    ) -> Result<Arc<Base>, BaseError> {
        let reference = &image.reference;
        let invalid = |detail: &str| BaseError::Invalid {
            reference: reference.clone(),
            detail: detail.to_owned(),
        };
        let digest = image
            .digest
            .ok_or_else(|| invalid("it is not pinned to a digest"))?;
        let known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&digest).cloned()
        };
        if let Some(base) = known {
            let Origin::Regional(repository) = &base.origin else {
                return Ok(base);
            };
            // That it is used keeps a collector from it; and it may be gone.
            let name = digest.to_string();
            let there = self.regional.head_manifest(repository, &name).await;
            if there.map_err(|e| storage(reference, &e))?.is_some() {
                return Ok(base);
            }
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.remove(&digest);
        }
        let (manifest, origin) = self.find(reference, platform, digest).await?;
        if INDEX_TYPES.contains(&manifest.media_type.as_str()) {
            return Err(invalid(
                "the digest names an index, not the image of a platform",
            ));
        }
        self.read(reference, &manifest, &origin).await
    }

    /// A manifest by digest, from wherever it is.
    async fn find(
        &self,
        reference: &Reference,
        platform: &Platform,
        digest: Digest,
    ) -> Result<(Manifest, Origin), BaseError> {
        let name = digest.to_string();
        let (imports, _) = import(reference);
        let own = inside(&self.public, reference);
        for repository in [Some(&*imports), own.as_deref(), Some(IMAGES)] {
            let Some(repository) = repository else {
                continue;
            };
            if let Some(found) = self.regional_manifest(reference, repository, &name).await? {
                return Ok((found, Origin::Regional(repository.to_owned())));
            }
        }
        let origin = Origin::Upstream(reference.clone());
        let kept = self
            .blobs
            .run(move |blobs| blobs.read_small(digest, DOCUMENT_LIMIT))
            .await;
        if let Ok(bytes) = kept {
            let manifest = Manifest {
                digest,
                media_type: media_type_of(&bytes),
                bytes: bytes.into(),
            };
            return Ok((manifest, origin));
        }
        let pinned = reference.with_digest(digest);
        let found = self.client.manifest(&pinned).await;
        match found.map_err(|e| BaseError::of(reference, platform, &e))? {
            Some(manifest) => {
                self.keep(reference, &manifest.bytes).await?;
                Ok((manifest, origin))
            }
            None => Err(BaseError::NotFound {
                reference: pinned,
                detail: "its registry has no such manifest, and nothing was imported as it"
                    .to_owned(),
            }),
        }
    }

    async fn read(
        &self,
        reference: &Reference,
        manifest: &Manifest,
        origin: &Origin,
    ) -> Result<Arc<Base>, BaseError> {
        let invalid = |detail: String| BaseError::Invalid {
            reference: reference.clone(),
            detail,
        };
        let image: oci::Manifest = serde_json::from_slice(&manifest.bytes)
            .map_err(|e| invalid(format!("its manifest cannot be read: {e}")))?;
        let blob = Blob {
            digest: image.config.digest,
            size: image.config.size,
        };
        if blob.size > DOCUMENT_LIMIT {
            return Err(invalid(format!("its config has {} bytes", blob.size)));
        }
        self.pull(reference, origin, &blob, &Progress::none(), None)
            .await?;
        let config = self
            .blobs
            .run(move |blobs| blobs.read_small(blob.digest, DOCUMENT_LIMIT))
            .await
            .map_err(|e| storage(reference, &e))?;
        let config: ImageFile = serde_json::from_slice(&config)
            .map_err(|e| invalid(format!("its config cannot be read: {e}")))?;
        layer_count_fits(&image, &config).map_err(invalid)?;
        let base = Arc::new(Base {
            reference: reference.clone(),
            digest: manifest.digest,
            layers: image.layers,
            config,
            origin: origin.clone(),
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.pop_first();
        }
        known.insert(manifest.digest, Arc::clone(&base));
        Ok(base)
    }

    /// Brings a layer of a base into the store. If it has to be downloaded, `follower` can read it
    /// meanwhile (see [`Client::pull_followed`]).
    ///
    /// # Errors
    /// See [`BaseError`].
    pub(crate) async fn fetch_layer(
        &self,
        base: &Base,
        blob: &Blob,
        progress: &Progress,
        follower: Option<oneshot::Sender<Follower>>,
    ) -> Result<(), BaseError> {
        self.pull(&base.reference, &base.origin, blob, progress, follower)
            .await
    }

    async fn pull(
        &self,
        reference: &Reference,
        origin: &Origin,
        blob: &Blob,
        progress: &Progress,
        follower: Option<oneshot::Sender<Follower>>,
    ) -> Result<(), BaseError> {
        let (digest, size) = (blob.digest, blob.size);
        let there = self.blobs.run(move |blobs| blobs.size(digest)).await;
        if there.map_err(|e| storage(reference, &e))? == Some(size) {
            return Ok(());
        }
        match origin {
            Origin::Regional(repository) => self
                .regional
                .pull_blob(repository, blob, &self.blobs, progress)
                .await
                .map_err(|e| storage(reference, &e)),
            Origin::Upstream(reference) => self
                .client
                .pull_followed(reference, blob, &self.blobs, progress, follower)
                .await
                .map_err(|e| BaseError::of(reference, &Platform::default(), &e)),
        }
    }

    async fn regional_manifest(
        &self,
        reference: &Reference,
        repository: &str,
        name: &str,
    ) -> Result<Option<Manifest>, BaseError> {
        let found = self.regional.manifest(repository, name).await;
        found.map_err(|e| storage(reference, &e))
    }

    async fn keep(&self, reference: &Reference, bytes: &Bytes) -> Result<(), BaseError> {
        let bytes = bytes.clone();
        let kept = self.blobs.run(move |blobs| blobs.put(&bytes)).await;
        kept.map(drop).map_err(|e| storage(reference, &e))
    }
}

fn storage(reference: &Reference, error: &(dyn std::error::Error + 'static)) -> BaseError {
    let regional = error.downcast_ref::<RegionalError>();
    if regional.is_some_and(RegionalError::is_unreachable) {
        return BaseError::Unreachable {
            reference: reference.clone(),
            detail: error.to_string(),
        };
    }
    BaseError::Storage {
        reference: reference.clone(),
        detail: error.to_string(),
    }
}

fn media_type_of(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let typed: Option<Typed> = serde_json::from_slice(bytes).ok();
    typed
        .and_then(|t| t.media_type)
        .unwrap_or_else(|| oci::MANIFEST.to_owned())
}
