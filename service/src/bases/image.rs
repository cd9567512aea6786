//! The documents of a base image.

use chalk_core::{Digest, Platform, Reference};
use serde::Deserialize;

use super::Origin;
use crate::engine::oci::{Descriptor, ImageFile, Manifest};

/// Media types of lists of images.
pub(super) const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A base image of one platform.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    /// As the spec names it.
    pub(crate) reference: Reference,
    /// Digest of its manifest.
    pub(crate) digest: Digest,
    /// Bottom first.
    pub(crate) layers: Vec<Descriptor>,
    /// Its config, with as many `diff_ids` as there are layers.
    pub(crate) config: ImageFile,
    /// Where its blobs are.
    pub(crate) origin: Origin,
}

/// An image index (`image-index.md`), as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub(super) manifests: Vec<Entry>,
}

/// An entry of an [`Index`].
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    #[serde(default)]
    platform: Option<EntryPlatform>,
}

#[derive(Debug, Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Entry {
    /// Its platform in words; none for attestations and the like.
    pub(super) fn platform(&self) -> Option<String> {
        let platform = self.platform.as_ref().filter(|p| p.os != "unknown")?;
        let text = format!("{}/{}", platform.os, platform.architecture);
        Some(match &platform.variant {
            Some(variant) => format!("{text}/{variant}"),
            None => text,
        })
    }

    /// Whether it is for that platform. `arm64` and `arm64/v8` are the same.
    pub(super) fn is_for(&self, wanted: &Platform) -> bool {
        let parsed = self
            .platform()
            .and_then(|text| text.parse::<Platform>().ok());
        parsed.is_some_and(|has| {
            has.os == wanted.os
                && has.architecture == wanted.architecture
                && (wanted.variant.is_none() || has.variant == wanted.variant)
        })
    }
}

/// Whether manifest and config speak of the same number of layers.
pub(super) fn layer_count_fits(manifest: &Manifest, config: &ImageFile) -> Result<(), String> {
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers == diff_ids {
        return Ok(());
    }
    Err(format!(
        "its manifest lists {layers} layers and its config {diff_ids}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_platforms() {
        let json = r#"{"manifests":[
            {"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
            {"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","platform":{"os":"unknown","architecture":"unknown"}},
            {"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}"#;
        let index: Index = serde_json::from_str(json).unwrap();
        let check = |wanted: &str, expect: Option<usize>| {
            let wanted = wanted.parse().unwrap();
            let found = index
                .manifests
                .iter()
                .position(|entry| entry.is_for(&wanted));
            assert_eq!(found, expect, "{wanted}");
        };
        check("linux/arm64", Some(0));
        check("linux/arm64/v8", Some(0));
        check("linux/amd64", None);
        let names: Vec<String> = index.manifests.iter().filter_map(Entry::platform).collect();
        assert_eq!(names, ["linux/arm64/v8"]);
    }
}
