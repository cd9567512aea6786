//! Images in the regional registry, with the index in front: look up, name, delete, describe.
//!
//! The registry is the truth. The index answers what is asked often; whatever it says of one
//! image is checked against the registry's tag before somebody relies on it.

mod manifest;
mod names;
mod reindex;
mod specs;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_core::config::ImageConfig;
use chalk_core::wire::{Image, ImageDetail, ImageStep, Layer};
use chalk_store::registry::{MANIFEST_LIMIT, Manifest, Progress};
use chalk_store::uses::Horizon;
use chalk_store::{Blob, BlobError, BlobStore};

use crate::index::{Index, IndexError, Known};
use crate::noted::Noted;
use crate::places::{CREATED_NOTE, IMAGES, Name, SPEC_TYPE, pullable};
use crate::projects::{Projects, Scope};
use crate::registry::{Regional, RegionalError};

pub(crate) use names::NOTE as NAME_NOTE;
pub use reindex::Reindexed;

/// What can go wrong with images of the regional registry.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No image fits.
    #[error("{0}")]
    NotFound(String),
    /// A prefix fits several images.
    #[error("`{0}` fits several images: give more digits")]
    Ambiguous(String),
    /// The regional registry failed.
    #[error("the regional registry failed: {0}")]
    Registry(#[from] RegionalError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What the registry holds is not what we put there.
    #[error("{what} in the regional registry is damaged: {detail}")]
    Damaged {
        /// Which document.
        what: String,
        /// What is wrong.
        detail: String,
    },
    /// The runtime is stopping.
    #[error("the service stops")]
    Stopping,
}

type Result<T, E = CatalogError> = std::result::Result<T, E>;

/// Which image is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    /// By its hash.
    Hash(Digest),
    /// By one of its names.
    Name(Name, Digest),
}

impl Id {
    pub(crate) fn hash(&self) -> Digest {
        match self {
            Self::Hash(hash) | Self::Name(_, hash) => *hash,
        }
    }
}

/// Images of the regional registry.
#[derive(Debug)]
pub struct Catalog {
    regional: Arc<dyn Regional>,
    /// `host[:port][/prefix]` under which others pull.
    public: String,
    index: Arc<Index>,
    blobs: BlobStore,
    /// Uses of images, where the registry does not note them.
    noted: Option<Noted>,
    /// Whoever finds an image holds this until its use is noted, and whoever removes one that nobody
    /// used holds it alone: so none goes that somebody was just told of.
    turns: tokio::sync::RwLock<()>,
}

impl Catalog {
    /// Images of `regional`, which others pull from `public`, indexed in `index`; `blobs` is where
    /// bytes pass through.
    pub fn new(
        regional: Arc<dyn Regional>,
        public: String,
        index: Arc<Index>,
        blobs: BlobStore,
    ) -> Self {
        Self {
            regional,
            public,
            index,
            blobs,
            noted: None,
            turns: tokio::sync::RwLock::default(),
        }
    }

    /// Notes uses of images in `dir`, for a registry that does not.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn noting_uses(self, dir: PathBuf) -> std::io::Result<Self> {
        let noted = Some(Noted::open(dir)?);
        Ok(Self { noted, ..self })
    }

    /// The registry behind it.
    pub(crate) fn regional(&self) -> &Arc<dyn Regional> {
        &self.regional
    }

    /// `host[:port][/prefix]` under which others pull.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// What others pull the image of that hash by.
    pub(crate) fn pullable(&self, hash: &Digest) -> String {
        pullable(&self.public, hash)
    }

    /// The image of that hash, if the registry has it: one request when the index knows it.
    ///
    /// # Errors
    /// When the registry or the index fails.
    pub(crate) async fn find(&self, hash: &Digest) -> Result<Option<Known>> {
        let _turn = match &self.noted {
            Some(_) => Some(self.turns.read().await),
            None => None,
        };
        let Some(head) = self.regional.head_manifest(IMAGES, &hash.hex()).await? else {
            if self.index.image(hash).is_some() {
                tracing::info!(%hash, "image is gone from the registry");
                let hash = *hash;
                self.indexed(move |index| index.remove_image(&hash)).await?;
            }
            return Ok(None);
        };
        if let Some(noted) = &self.noted {
            noted.note(&head.digest);
        }
        match self.index.image(hash) {
            Some(known) if known.digest == head.digest => Ok(Some(known)),
            _ => {
                let Some(known) = self.read(hash).await? else {
                    return Ok(None);
                };
                let (hash, read) = (*hash, known.clone());
                self.indexed(move |index| index.put_image(&hash, &read))
                    .await?;
                Ok(Some(known))
            }
        }
    }

    /// Which image a text means to somebody: at least 8 hex digits of a hash (with or without
    /// `sha256:`), or a name.
    ///
    /// # Errors
    /// When nothing or several images of those that are seen fit.
    pub(crate) async fn resolve(&self, scope: &Scope, text: &str) -> Result<Id> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_hex = (8..=64).contains(&hex.len())
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex {
            let seen = |hash: &Digest| scope.has_image(hash);
            match self.index.with_prefix(hex, seen).as_slice() {
                [hash] => return Ok(Id::Hash(*hash)),
                [_, _, ..] => return Err(CatalogError::Ambiguous(text.to_owned())),
                [] => {
                    // Another service may have built it into the same registry.
                    if let Ok(hash) = format!("sha256:{hex}").parse()
                        && seen(&hash)
                        && self.find(&hash).await?.is_some()
                    {
                        return Ok(Id::Hash(hash));
                    }
                }
            }
        }
        // A name may look like hex digits, too.
        let absent = || CatalogError::NotFound(format!("there is no image `{text}`"));
        let name = scope.name(text).map_err(|_| absent())?;
        match self.by_name(&name).await? {
            Some(hash) if scope.has_image(&hash) => Ok(Id::Name(name, hash)),
            _ => Err(absent()),
        }
    }

    /// All images that are seen, with a name that fits `name` (a repository, or repository and tag),
    /// or all; newest first.
    pub(crate) fn list(&self, scope: &Scope, name: Option<&str>) -> Vec<Image> {
        // In a project the first word may be left away.
        let name = name.map(|wanted| match scope.name(wanted) {
            Ok(name) if wanted.contains(':') => name.to_string(),
            Ok(name) => name.repository,
            Err(_) => wanted.to_owned(),
        });
        let name = name.as_deref();
        let fits = |image: &Image| {
            name.is_none_or(|wanted| {
                let repository = |n: &String| n.split(':').next() == Some(wanted);
                image.names.iter().any(|n| n == wanted || repository(n))
            })
        };
        let images = self.index.images().into_iter();
        let mut images: Vec<Image> = images
            .filter(|(hash, _)| scope.has_image(hash))
            .map(|(hash, known)| self.shown(scope, hash, known))
            .filter(fits)
            .collect();
        images.sort_by(|a, b| b.created.cmp(&a.created));
        images
    }

    /// The image of that hash as clients see it.
    ///
    /// # Errors
    /// When there is none, or the registry fails.
    pub(crate) async fn show(&self, scope: &Scope, hash: &Digest) -> Result<Image> {
        match self.find(hash).await? {
            Some(known) => Ok(self.shown(scope, *hash, known)),
            None => Err(CatalogError::NotFound(format!("there is no image {hash}"))),
        }
    }

    fn shown(&self, scope: &Scope, hash: Digest, known: Known) -> Image {
        let mut names = self.index.names_of(&hash);
        names.retain(|name| scope.reads(name.split(':').next().unwrap_or_default()));
        Image {
            names,
            image: self.pullable(&hash),
            image_hash: hash,
            digest: known.digest,
            platform: known.platform,
            size: known.size,
            layers: known.layers,
            created: known.created,
        }
    }

    /// Everything that is known of an image.
    ///
    /// # Errors
    /// When it, its config or its spec is not there, or the registry fails.
    pub(crate) async fn detail(&self, scope: &Scope, hash: &Digest) -> Result<ImageDetail> {
        let image = self.show(scope, hash).await?;
        let manifest = self.manifest(&hash.hex()).await?;
        let parsed = manifest::parse(&manifest)?;
        let config = self.config(&parsed).await?;
        let spec = self.spec(hash, &image.digest).await?;
        let steps = spec.steps_with_keys().into_iter().map(|step| ImageStep {
            kind: step.kind.to_owned(),
            key: step.key,
            title: step.title,
        });
        let layers = parsed.layers.iter().zip(config.layer_origins());
        Ok(ImageDetail {
            steps: steps.collect(),
            layer_list: layers
                .map(|(layer, created_by)| Layer {
                    digest: layer.digest,
                    size: layer.size,
                    media_type: layer.media_type.clone(),
                    created_by,
                })
                .collect(),
            config: config.config.unwrap_or_else(ImageConfig::default),
            spec,
            image,
        })
    }

    /// The manifest of an image as its registry has it, verified.
    ///
    /// # Errors
    /// When it is not there, or the registry fails.
    pub(crate) async fn manifest_of(&self, hash: &Digest) -> Result<Manifest> {
        self.manifest(&hash.hex()).await
    }

    /// Deletes an image: its names, the specs attached to it, and its manifest. Blobs stay until
    /// the registry collects what nothing names.
    ///
    /// # Errors
    /// When the registry or the index fails. What is done by then stays done.
    pub(crate) async fn delete(&self, hash: &Digest) -> Result<()> {
        for name in self.index.names_of(hash) {
            if let Ok(name) = name.parse() {
                self.remove_name(&name).await?;
            }
        }
        let tag = hash.hex();
        let head = self.regional.head_manifest(IMAGES, &tag).await?;
        // A delete by digest takes all tags along.
        let shared = match &head {
            Some(head) => self.is_shared(hash, &head.digest).await?,
            None => false,
        };
        // Its name goes first: what is found under a hash is whole, wherever this is broken off.
        if head.is_some() {
            self.regional.delete(IMAGES, &tag).await?;
        }
        if let (Some(head), false) = (&head, shared) {
            for referrer in self.regional.referrers(IMAGES, &head.digest, None).await? {
                let name = referrer.digest.to_string();
                self.regional.delete(IMAGES, &name).await?;
            }
            let name = head.digest.to_string();
            self.regional.delete(IMAGES, &name).await?;
        }
        let hash = *hash;
        self.indexed(move |index| index.remove_image(&hash)).await
    }

    /// Manifests of all images, each with the time when it was built.
    pub(crate) fn known_manifests(&self) -> HashMap<Digest, SystemTime> {
        let images = self.index.images().into_iter();
        let made = images.filter_map(|(_, known)| {
            let created: jiff::Timestamp = known.created.parse().ok()?;
            Some((known.digest, created.into()))
        });
        made.collect()
    }

    /// When the image of that manifest was last asked for here, if that is noted.
    pub(crate) fn last_use(&self, digest: &Digest) -> Option<SystemTime> {
        self.noted.as_ref()?.last(digest)
    }

    /// Deletes an image whose manifest is `digest`, unless it was used after the horizon, as far as is
    /// noted; whether it did.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub(crate) async fn delete_unused(
        &self,
        hash: &Digest,
        digest: &Digest,
        horizon: &Horizon,
    ) -> Result<bool> {
        let Some(noted) = &self.noted else {
            return Ok(false);
        };
        let _alone = self.turns.write().await;
        let head = self.regional.head_manifest(IMAGES, &hash.hex()).await?;
        let same = head.is_some_and(|head| head.digest == *digest);
        if !same || noted.is_used(digest, horizon) {
            return Ok(false);
        }
        self.delete(hash).await?;
        noted.forget(digest);
        Ok(true)
    }

    /// Takes a name away from the image whose manifest is `digest`, as
    /// [`delete_unused`](Self::delete_unused) does.
    ///
    /// # Errors
    /// As [`remove_name`](Self::remove_name).
    pub(crate) async fn remove_unused_name(
        &self,
        name: &Name,
        digest: &Digest,
        horizon: &Horizon,
    ) -> Result<bool> {
        let Some(noted) = &self.noted else {
            return Ok(false);
        };
        let _alone = self.turns.write().await;
        let head = self.regional.head_manifest(&name.repository, &name.tag);
        let same = head.await?.is_some_and(|head| head.digest == *digest);
        if !same || noted.is_used(digest, horizon) {
            return Ok(false);
        }
        self.remove_name(name).await?;
        Ok(true)
    }

    /// Removes a tag of a repository of the service's own, and its manifest if that is named.
    ///
    /// # Errors
    /// When the registry fails.
    pub(crate) async fn drop_own(
        &self,
        repository: &str,
        tag: &str,
        manifest: Option<&Digest>,
    ) -> Result<()> {
        self.regional.delete(repository, tag).await?;
        if let Some(digest) = manifest {
            self.regional
                .delete(repository, &digest.to_string())
                .await?;
        }
        Ok(())
    }

    /// Forgets images and names whose tags are gone; those that came back meanwhile stay.
    ///
    /// # Errors
    /// When the registry or the index fails.
    pub(crate) async fn forget(&self, images: Vec<Digest>, names: Vec<Name>) -> Result<()> {
        if images.is_empty() && names.is_empty() {
            return Ok(());
        }
        let (hashes, texts) = (images.clone(), names.iter().map(Name::to_string).collect());
        self.indexed(move |index| index.remove_all(&hashes, texts))
            .await?;
        for hash in images {
            if self
                .regional
                .head_manifest(IMAGES, &hash.hex())
                .await?
                .is_some()
            {
                self.find(&hash).await?;
            }
        }
        for name in names {
            let there = self.regional.head_manifest(&name.repository, &name.tag);
            if there.await?.is_some() {
                self.by_name(&name).await?;
            }
        }
        Ok(())
    }

    /// Whether names begin with that word and a slash, or are in a repository of that name.
    pub(crate) async fn has_below(&self, word: &str) -> Result<bool> {
        let first = |name: &str| name.split(['/', ':']).next() == Some(word);
        if self.index.names().keys().any(|name| first(name)) {
            return Ok(true);
        }
        let repositories = self.regional.repositories().await?;
        Ok(repositories.is_some_and(|all| all.iter().any(|name| first(name))))
    }

    /// Whether an image that is there has that manifest.
    pub(crate) fn is_manifest(&self, digest: &Digest) -> bool {
        let images = self.index.images();
        images.iter().any(|(_, known)| known.digest == *digest)
    }

    /// Writes down that the project of `scope` has what an image is made of, as it is now.
    ///
    /// # Errors
    /// When the registry fails.
    pub(crate) async fn hand_over(&self, scope: &Scope, hash: &Digest) -> Result<()> {
        self.hand_to(scope.projects(), scope.project(), hash).await
    }

    /// As [`hand_over`](Self::hand_over), to a project by its name.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn hand_to(
        &self,
        projects: &Projects,
        project: &str,
        hash: &Digest,
    ) -> Result<()> {
        if !projects.counts() {
            return Ok(());
        }
        let head = self.regional.head_manifest(IMAGES, &hash.hex()).await?;
        let Some(head) = head.filter(|head| !projects.has_blob(project, &head.digest)) else {
            return Ok(());
        };
        let manifest = self.manifest(&head.digest.to_string()).await?;
        let parsed = manifest::parse(&manifest)?;
        let mut parts = vec![(manifest.digest, manifest.bytes.len() as u64)];
        let blobs = parsed.layers.iter().chain([&parsed.config]);
        parts.extend(blobs.map(|blob| (blob.digest, blob.size)));
        // Images of equal bytes may come from several specs, each of which is its project's own.
        let specs = self
            .regional
            .referrers(IMAGES, &manifest.digest, Some(SPEC_TYPE));
        for referrer in specs.await? {
            for (found, layer, spec) in self.attached(&referrer).await? {
                if spec.image_hash() == Some(*hash) {
                    parts.push((found.digest, found.bytes.len() as u64));
                    parts.push((layer.digest, layer.size));
                }
            }
        }
        projects.keep_blobs(project, parts);
        Ok(())
    }

    /// Whether everything that an image is made of is there, its spec included. Its layers are not
    /// read.
    pub(crate) async fn is_whole(&self, hash: &Digest) -> bool {
        let check = async {
            let manifest = self.manifest(&hash.hex()).await?;
            let parsed = manifest::parse(&manifest)?;
            for part in parsed.layers.iter().chain([&parsed.config]) {
                if !self.regional.has_blob(IMAGES, &part.digest).await? {
                    return Ok(false);
                }
            }
            self.config(&parsed).await?;
            self.spec(hash, &manifest.digest).await?;
            Ok::<bool, CatalogError>(true)
        };
        check.await.unwrap_or_else(|error| {
            tracing::info!(%hash, %error, "image is not whole");
            false
        })
    }

    /// What manifest and config say of an image; `None` when there is none.
    async fn read(&self, hash: &Digest) -> Result<Option<Known>> {
        let Some(manifest) = self.regional.manifest(IMAGES, &hash.hex()).await? else {
            return Ok(None);
        };
        let parsed = manifest::parse(&manifest)?;
        let config = self.config(&parsed).await?;
        let specs = self
            .regional
            .referrers(IMAGES, &manifest.digest, Some(SPEC_TYPE));
        let mut specs = specs.await?;
        let built = specs
            .iter_mut()
            .filter_map(|spec| spec.annotations.remove(CREATED_NOTE))
            .max();
        Ok(Some(Known {
            digest: manifest.digest,
            platform: config.platform(),
            size: parsed.layers.iter().map(|layer| layer.size).sum(),
            layers: parsed.layers.len(),
            created: built.or(config.created).unwrap_or_default(),
        }))
    }

    async fn manifest(&self, name: &str) -> Result<Manifest> {
        let found = self.regional.manifest(IMAGES, name).await?;
        found.ok_or_else(|| CatalogError::NotFound(format!("there is no manifest {name}")))
    }

    async fn config(&self, manifest: &manifest::ImageManifest) -> Result<manifest::Config> {
        let json = self.small_blob(&manifest.config).await?;
        manifest::parse_config(&manifest.config.digest, &json)
    }

    /// A blob of the images' repository that fits into memory, verified.
    async fn small_blob(&self, descriptor: &manifest::Descriptor) -> Result<Vec<u8>> {
        let digest = descriptor.digest;
        if descriptor.size > MANIFEST_LIMIT {
            return Err(CatalogError::Damaged {
                what: format!("blob {digest}"),
                detail: format!(
                    "it has {} bytes, which no config or spec has",
                    descriptor.size
                ),
            });
        }
        let blob = Blob {
            digest,
            size: descriptor.size,
        };
        let progress = Progress::none();
        self.regional
            .pull_blob(IMAGES, &blob, &self.blobs, &progress)
            .await?;
        let read = self
            .blobs
            .run(move |store| store.read_small(digest, MANIFEST_LIMIT));
        Ok(read.await?)
    }

    /// Runs blocking work on the index.
    async fn indexed<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Index) -> std::result::Result<T, IndexError> + Send + 'static,
    ) -> Result<T> {
        let index = self.index.clone();
        match tokio::task::spawn_blocking(move || work(&index)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(CatalogError::Stopping),
        }
    }
}
