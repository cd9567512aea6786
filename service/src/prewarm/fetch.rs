//! Finding an image by its reference and bringing it into the home registry.

use std::sync::Arc;

use chalk_core::reference::is_tag;
use chalk_core::{Digest, Platform, Reference};
use chalk_store::registry::{Client, Options, Progress, RegistryError};
use chalk_store::{Blob, BlobStore};
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::engine::oci;
use crate::places::import;
use crate::registry::Regional;

/// Blobs that are fetched at once.
const PARALLEL: usize = 3;
/// Media types of lists of images.
const LISTS: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Finds and fetches images.
#[derive(Debug)]
pub(crate) struct Fetch {
    regional: Arc<dyn Regional>,
    client: Client,
    blobs: BlobStore,
}

impl Fetch {
    /// Looks in `regional` first, then asks registries as `options` say, once each.
    ///
    /// # Errors
    /// When the options cannot be used.
    pub(crate) fn new(
        regional: Arc<dyn Regional>,
        mut options: Options,
        blobs: BlobStore,
    ) -> Result<Self, RegistryError> {
        // Whoever looks again and again need not insist.
        options.retry.attempts = 1;
        Ok(Self {
            regional,
            client: Client::new(options)?,
            blobs,
        })
    }

    /// Digest of the manifest that a reference means now, and the repository of the home registry
    /// that has it.
    ///
    /// # Errors
    /// Says in words why it cannot be had.
    pub(super) async fn find(&self, image: &str) -> Result<(Digest, String), String> {
        let reference: Reference = image.parse().map_err(|e| format!("{e}"))?;
        // Its blobs are needed until its manifest names them, however long that takes.
        let _lease = self.blobs.lease();
        let (repository, tag) = import(&reference);
        let name = reference.digest().map_or(tag.clone(), |d| d.to_string());
        let imported = self.regional.manifest(&repository, &name).await;
        if let Some(found) = imported.map_err(|e| e.to_string())? {
            if LISTS.contains(&found.media_type.as_str()) {
                return Err("a list of images was imported under that reference".to_owned());
            }
            return Ok((found.digest, repository));
        }
        let platform = Platform::default();
        let resolved = self.client.resolve(&reference, &platform).await;
        let manifest = resolved.map_err(|e| e.to_string())?.manifest;
        let name = manifest.digest.to_string();
        let there = self.regional.head_manifest(&repository, &name).await;
        if there.map_err(|e| e.to_string())?.is_some() {
            return Ok((manifest.digest, repository));
        }
        let parsed: oci::Manifest =
            serde_json::from_slice(&manifest.bytes).map_err(|e| format!("its manifest: {e}"))?;
        let at = reference.with_digest(manifest.digest);
        let blobs = parsed.layers.iter().chain([&parsed.config]);
        let blobs: Vec<Blob> = blobs
            .map(|descriptor| Blob {
                digest: descriptor.digest,
                size: descriptor.size,
            })
            .collect();
        stream::iter(blobs)
            .map(|blob| self.copy(&at, &repository, blob))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        // Under a tag of its own, which keeps it from being collected: the tag itself would be
        // taken for an import, and no longer follow its registry.
        let mut names = vec![name];
        names.extend(Some(format!("prewarm-{tag}")).filter(|tag| is_tag(tag)));
        for name in names {
            let (kind, bytes) = (&manifest.media_type, manifest.bytes.clone());
            let put = self.regional.put_manifest(&repository, &name, kind, bytes);
            put.await.map_err(|e| e.to_string())?;
        }
        tracing::info!(image, digest = %manifest.digest, "image is fetched to be kept ready");
        Ok((manifest.digest, repository))
    }

    async fn copy(&self, at: &Reference, repository: &str, blob: Blob) -> Result<(), String> {
        let none = Progress::none();
        let pulled = self.client.pull_blob(at, &blob, &self.blobs, &none).await;
        pulled.map_err(|e| e.to_string())?;
        let pushed = self
            .regional
            .push_blob(repository, &blob, &self.blobs, &none);
        pushed.await.map(drop).map_err(|e| e.to_string())
    }
}
