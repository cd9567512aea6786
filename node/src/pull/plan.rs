//! What an image consists of: its manifest and config, verified and held against each other.

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::Digest;
use chalk_store::registry::RegistryError;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};

use super::total_size;
use crate::cache::{CacheError, ImageRecord, ImageSource, LayerRef, Result};

/// Most layers of an image, repetitions included: what overlayfs stacks.
const MAX_LAYERS: usize = 500;

/// Manifest and config of an image, verified.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) config_digest: Digest,
    pub(crate) layers: Vec<LayerRef>,
}

impl Plan {
    /// Fetches and checks manifest and config.
    pub(crate) async fn fetch(source: &ImageSource) -> Result<Self> {
        let manifest = fetch_manifest(source).await?;
        let (_, config_digest) = read_manifest(source.digest, &manifest)?;
        let config = fetch_config(source, &config_digest).await?;
        Self::read(source.digest, manifest, config)
    }

    /// Makes one of the texts, which must have their digests.
    pub(crate) fn read(image: Digest, manifest: String, config: String) -> Result<Self> {
        let broken = |detail: String| CacheError::Image { image, detail };
        let (parsed, config_digest) = read_manifest(image, &manifest)?;
        let blobs = parsed.layers();
        let parsed: ImageConfiguration = serde_json::from_str(&config)
            .map_err(|e| broken(format!("its config cannot be read: {e}")))?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() != blobs.len() {
            let (blobs, diff_ids) = (blobs.len(), diff_ids.len());
            return Err(broken(format!(
                "its manifest names {blobs} layers, but its config {diff_ids}"
            )));
        }
        if blobs.len() > MAX_LAYERS {
            let count = blobs.len();
            return Err(broken(format!(
                "it has {count} layers, more than the {MAX_LAYERS} that can be stacked"
            )));
        }
        let nothing = Digest::of(b"");
        let layer = |(blob, diff_id): (&Descriptor, &String)| {
            let diff_id = diff_id.parse();
            let (digest, size) = (digest_of(blob).map_err(broken)?, blob.size());
            if size == 0 && digest != nothing {
                return Err(broken(format!(
                    "it says that layer {digest} has 0 bytes, but that is not the digest of nothing"
                )));
            }
            Ok(LayerRef {
                digest,
                size,
                diff_id: diff_id.map_err(|_| broken("a diff_id is no SHA-256".to_owned()))?,
            })
        };
        let layers: Vec<LayerRef> = blobs
            .iter()
            .zip(diff_ids)
            .map(layer)
            .collect::<Result<_>>()?;
        let mut seen: BTreeMap<Digest, LayerRef> = BTreeMap::new();
        for layer in &layers {
            if seen
                .insert(layer.digest, *layer)
                .is_some_and(|other| other != *layer)
            {
                return Err(broken(format!(
                    "it names layer {} twice, with another size or diff_id",
                    layer.digest
                )));
            }
        }
        Ok(Self {
            manifest,
            config,
            config_digest,
            layers,
        })
    }

    /// Bytes of manifest and config.
    pub(crate) fn small_bytes(&self) -> u64 {
        (self.manifest.len() + self.config.len()) as u64
    }

    /// The layers, each once, the lowest first.
    pub(crate) fn unique(&self) -> Vec<LayerRef> {
        let mut seen = BTreeSet::new();
        let each = self.layers.iter().filter(|layer| seen.insert(layer.digest));
        each.copied().collect()
    }

    /// Bytes of the image in its registry.
    pub(crate) fn size(&self) -> u64 {
        self.small_bytes()
            .saturating_add(total_size(&self.unique()))
    }
}

impl From<&ImageRecord> for Plan {
    fn from(record: &ImageRecord) -> Self {
        Self {
            manifest: record.manifest.clone(),
            config: record.config.clone(),
            config_digest: record.config_digest,
            layers: record.layers.clone(),
        }
    }
}

/// Reads a manifest, and the digest of the config that it names.
pub(crate) fn read_manifest(image: Digest, manifest: &str) -> Result<(ImageManifest, Digest)> {
    let broken = |detail: String| CacheError::Image { image, detail };
    let manifest: ImageManifest = serde_json::from_str(manifest)
        .map_err(|e| broken(format!("its manifest cannot be read: {e}")))?;
    let config = digest_of(manifest.config()).map_err(broken)?;
    Ok((manifest, config))
}

/// Fetches a manifest, whose digest is checked.
pub(crate) async fn fetch_manifest(source: &ImageSource) -> Result<String> {
    let image = source.digest;
    let broken = |detail: &str| CacheError::Image {
        image,
        detail: detail.to_owned(),
    };
    let reference = source.repository.with_digest(image);
    let found = source.client.manifest(&reference).await?;
    let found = found.ok_or_else(|| CacheError::NoImage(reference.to_string()))?;
    if found.digest != image {
        return Err(RegistryError::DigestMismatch {
            host: source.repository.registry().to_owned(),
            what: format!("manifest {reference}"),
            expected: image,
            actual: found.digest,
        }
        .into());
    }
    if found.is_index() {
        return Err(broken(
            "this is an index of several platforms; a node takes the manifest of one",
        ));
    }
    let text = String::from_utf8(found.bytes.to_vec());
    text.map_err(|_| broken("its manifest is not UTF-8"))
}

/// Fetches a config, whose digest is checked.
pub(crate) async fn fetch_config(source: &ImageSource, digest: &Digest) -> Result<String> {
    let config = source.client.small_blob(&source.repository, digest).await?;
    let text = String::from_utf8(config.to_vec());
    text.map_err(|_| CacheError::Image {
        image: source.digest,
        detail: "its config is not UTF-8".to_owned(),
    })
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, String> {
    let digest = descriptor.digest().to_string();
    let parsed = digest.parse();
    parsed.map_err(|_| format!("its blob {digest} is not named by SHA-256"))
}
