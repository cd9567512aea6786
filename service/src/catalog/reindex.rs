//! The index made anew from the regional registry.

use std::collections::BTreeMap;

use chalk_core::Digest;
use futures_util::{StreamExt, stream};
use serde::Deserialize;

use super::names::NOTE;
use super::{Catalog, Result};
use crate::places::{IMAGES, NAMES, Name};

/// Images that are read at once.
const PARALLEL: usize = 8;

/// What a walk over the registry found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reindexed {
    /// Images.
    pub images: usize,
    /// Names.
    pub names: usize,
    /// Images or names that could not be read; the log says why.
    pub skipped: usize,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Catalog {
    /// Walks the registry's images and names and puts what it finds in the place of the index.
    ///
    /// # Errors
    /// When the registry cannot list its tags, or the index fails. A single image that cannot be
    /// read is skipped.
    pub async fn reindex(&self) -> Result<Reindexed> {
        let mut found = Reindexed::default();
        let mut images = BTreeMap::new();
        let tags = self.regional.tags(IMAGES).await?;
        let hashes = tags
            .iter()
            .filter_map(|tag| format!("sha256:{tag}").parse::<Digest>().ok());
        let mut reads = stream::iter(hashes.collect::<Vec<_>>())
            .map(|hash| async move { (hash, self.read(&hash).await) })
            .buffer_unordered(PARALLEL);
        while let Some((hash, known)) = reads.next().await {
            match known {
                Ok(Some(known)) => {
                    images.insert(hash, known);
                }
                Ok(None) => found.skipped += 1,
                Err(error) => {
                    found.skipped += 1;
                    tracing::warn!(%hash, %error, "image is skipped");
                }
            }
        }
        drop(reads);
        let names = self.read_names(&images, &mut found).await?;
        (found.images, found.names) = (images.len(), names.len());
        self.indexed(move |index| index.replace_images(images, names))
            .await?;
        tracing::info!(?found, "the index was made anew");
        Ok(found)
    }

    async fn read_names(
        &self,
        images: &BTreeMap<Digest, crate::index::Known>,
        found: &mut Reindexed,
    ) -> Result<BTreeMap<String, Digest>> {
        let by_digest: BTreeMap<Digest, Digest> = images
            .iter()
            .map(|(hash, known)| (known.digest, *hash))
            .collect();
        let mut names = BTreeMap::new();
        for tag in self.regional.tags(NAMES).await? {
            match self.read_name(&tag).await {
                Ok(Some((name, digest))) => {
                    if let Some(hash) = by_digest.get(&digest) {
                        names.insert(name.to_string(), *hash);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    found.skipped += 1;
                    tracing::warn!(tag, %error, "name is skipped");
                }
            }
        }
        Ok(names)
    }

    /// The name that an entry of the directory holds, and the manifest that it points to.
    async fn read_name(&self, tag: &str) -> Result<Option<(Name, Digest)>> {
        let Some(manifest) = self.regional.manifest(NAMES, tag).await? else {
            return Ok(None);
        };
        let entry = serde_json::from_slice::<Entry>(&manifest.bytes).ok();
        let name = entry.and_then(|mut entry| entry.annotations.remove(NOTE));
        let Some(name) = name.and_then(|name| name.parse::<Name>().ok()) else {
            return Ok(None);
        };
        let head = self
            .regional
            .head_manifest(&name.repository, &name.tag)
            .await?;
        Ok(head.map(|head| (name, head.digest)))
    }
}
