//! The specs that are attached to images.

use chalk_core::{Digest, Spec};
use chalk_store::registry::{Manifest, Referrer};

use super::{Catalog, CatalogError, Result, manifest};
use crate::places::{IMAGES, SPEC_TYPE};

impl Catalog {
    /// The spec that an image was built from: the referrer of its manifest.
    ///
    /// # Errors
    /// When it is not there or damaged, or the registry fails.
    pub(crate) async fn spec(&self, hash: &Digest, digest: &Digest) -> Result<Spec> {
        let referrers = self
            .regional
            .referrers(IMAGES, digest, Some(SPEC_TYPE))
            .await?;
        // Images of equal bytes may come from several specs.
        for referrer in &referrers {
            for (_, _, spec) in self.attached(referrer).await? {
                if spec.image_hash() == Some(*hash) {
                    return Ok(spec);
                }
            }
        }
        let detail = match referrers.len() {
            0 => "no spec is attached to it".to_owned(),
            n => format!("none of the {n} specs attached to it has its hash"),
        };
        let what = format!("image {hash}");
        Err(CatalogError::Damaged { what, detail })
    }

    /// The specs that a referrer holds, each with its descriptor, and the referrer's manifest. One that
    /// rotted, or that others made in a form of their own, has none.
    pub(super) async fn attached(
        &self,
        referrer: &Referrer,
    ) -> Result<Vec<(Manifest, manifest::Descriptor, Spec)>> {
        let name = referrer.digest.to_string();
        let passed_over = |error: &dyn std::fmt::Display| {
            tracing::warn!(referrer = name, %error, "a spec of an image cannot be read");
        };
        let found = match self.regional.manifest(IMAGES, &name).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Vec::new()),
            Err(error) if error.is_unreachable() => return Err(error.into()),
            Err(error) => {
                passed_over(&error);
                return Ok(Vec::new());
            }
        };
        let layers = match manifest::parse(&found) {
            Ok(parsed) => parsed.layers,
            Err(error) => {
                passed_over(&error);
                return Ok(Vec::new());
            }
        };
        let mut specs = Vec::new();
        for layer in layers {
            match self.small_blob(&layer).await {
                Ok(json) => {
                    if let Ok(spec) = serde_json::from_slice::<Spec>(&json) {
                        specs.push((found.clone(), layer, spec));
                    }
                }
                Err(CatalogError::Registry(error)) if error.is_unreachable() => {
                    return Err(error.into());
                }
                Err(error) => passed_over(&error),
            }
        }
        Ok(specs)
    }

    /// Whether the image of another hash has that manifest, too: by the index, or, since others may
    /// share the registry, by the specs that are attached and their tags.
    pub(super) async fn is_shared(&self, hash: &Digest, digest: &Digest) -> Result<bool> {
        let mut known = self.index.images().into_iter();
        if known.any(|(other, known)| other != *hash && known.digest == *digest) {
            return Ok(true);
        }
        let specs = self
            .regional
            .referrers(IMAGES, digest, Some(SPEC_TYPE))
            .await?;
        for referrer in &specs {
            for (_, _, spec) in self.attached(referrer).await? {
                let Some(other) = spec.image_hash().filter(|other| other != hash) else {
                    continue;
                };
                let head = self.regional.head_manifest(IMAGES, &other.hex()).await?;
                if head.is_some_and(|head| head.digest == *digest) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
