//! The parts of manifests and configs that the catalog reads (OCI image specification,
//! `manifest.md` and `config.md`).

use chalk_core::config::ImageConfig;
use chalk_core::{Digest, Platform};
use chalk_store::registry::Manifest;
use serde::Deserialize;

use super::{CatalogError, Result};

/// An image manifest.
#[derive(Debug, Deserialize)]
pub(super) struct ImageManifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// A content descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// An image configuration.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) created: Option<String>,
    pub(super) config: Option<ImageConfig>,
    #[serde(default)]
    history: Vec<History>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

#[derive(Debug, Deserialize)]
struct History {
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    empty_layer: bool,
}

impl Config {
    /// What made each layer, base first; without end, empty where the history does not say.
    pub(super) fn layer_origins(&self) -> impl Iterator<Item = String> + use<> {
        let with_layer = self.history.iter().filter(|entry| !entry.empty_layer);
        let origins: Vec<String> = with_layer.map(|entry| entry.created_by.clone()).collect();
        origins.into_iter().chain(std::iter::repeat(String::new()))
    }

    pub(super) fn platform(&self) -> Platform {
        let variant = self.variant.as_deref().unwrap_or_default();
        let text = format!("{}/{}/{variant}", self.os, self.architecture);
        text.trim_end_matches('/').parse().unwrap_or_default()
    }
}

pub(super) fn parse(manifest: &Manifest) -> Result<ImageManifest> {
    serde_json::from_slice(&manifest.bytes).map_err(|e| CatalogError::Damaged {
        what: format!("manifest {}", manifest.digest),
        detail: e.to_string(),
    })
}

pub(super) fn parse_config(digest: &Digest, json: &[u8]) -> Result<Config> {
    serde_json::from_slice(json).map_err(|e| CatalogError::Damaged {
        what: format!("config {digest}"),
        detail: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs() {
        let json = br#"{"os":"linux","architecture":"arm","variant":"v7","config":{"User":"u"},
            "history":[{"created_by":"a"},{"created_by":"e","empty_layer":true},{},{"created_by":"c"}]}"#;
        let config = parse_config(&Digest::of(b""), json).unwrap();
        assert_eq!(config.platform().to_string(), "linux/arm/v7");
        let origins: Vec<String> = config.layer_origins().take(4).collect();
        assert_eq!(origins, ["a", "", "c", ""]);
        let plain = parse_config(
            &Digest::of(b""),
            br#"{"os":"linux","architecture":"amd64"}"#,
        );
        assert_eq!(plain.unwrap().platform(), Platform::default());
    }
}
