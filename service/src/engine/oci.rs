//! The documents of an image: config and manifest (OCI image specification, `config.md` and
//! `manifest.md`).

use std::collections::BTreeMap;

use chalk_core::config::ImageConfig;
use chalk_core::{Digest, Platform};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Media type of manifests.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of configs.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of the empty config of an artifact (`manifest.md`, "Guidance for an Empty
/// Descriptor").
pub(crate) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// When images were made, as far as their documents say. The clock stays out of them, so that
/// equal layers give equal digests.
pub(crate) const CREATED: &str = "1970-01-01T00:00:00Z";

/// An image config. Fields that this type does not name are kept in `other`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ImageFile {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<String>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_default"
    )]
    pub(crate) history: Vec<History>,
    /// Everything else, such as `os.version`.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// The layers of an image by their uncompressed contents.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Bottom first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// What made a layer, or changed the config.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_by: Option<String>,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) empty_layer: bool,
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, Value>,
}

/// A descriptor (`descriptor.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    /// Of some bytes.
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

impl Manifest {
    /// A manifest of these parts.
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }
}

impl ImageFile {
    /// The config of an image without layers.
    pub(crate) fn empty(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: Vec::new(),
            },
            ..Self::default()
        }
    }

    /// The history with exactly one entry for each layer among those that made none. Old tools
    /// left entries out; what cannot be matched is replaced by plain entries.
    pub(crate) fn sound_history(&self) -> Vec<History> {
        let layers = self.rootfs.diff_ids.len();
        let told = self.history.iter().filter(|h| !h.empty_layer).count();
        if told == layers {
            return self.history.clone();
        }
        vec![History::default(); layers]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_docker_wrote() {
        let text = r#"{"architecture":"amd64","config":{"Env":["A=b"],"Healthcheck":{"Test":["NONE"]},"Labels":null,"ArgsEscaped":true},"container":"x","history":[{"created":"2024-01-01T00:00:00Z","created_by":"ADD","comment":"c"},{"created_by":"CMD","empty_layer":true}],"os":"linux","os.version":"1","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let file: ImageFile = serde_json::from_str(text).unwrap();
        let mut value: Value = serde_json::from_str(text).unwrap();
        value["config"].as_object_mut().unwrap().remove("Labels");
        assert_eq!(serde_json::to_value(&file).unwrap(), value);
        assert_eq!(file.sound_history().len(), 2);
    }

    #[test]
    fn history_always_fits_the_layers() {
        let check = |layers: usize, history: &[bool], expect: &[bool]| {
            let mut file = ImageFile::empty(&Platform::default());
            file.rootfs.diff_ids = vec![Digest::of(b""); layers];
            let entry = |empty: &bool| History {
                empty_layer: *empty,
                ..History::default()
            };
            file.history = history.iter().map(entry).collect();
            let got: Vec<bool> = file.sound_history().iter().map(|h| h.empty_layer).collect();
            assert_eq!(got, expect);
        };
        check(0, &[], &[]);
        check(2, &[], &[false, false]);
        check(1, &[true, false], &[true, false]);
        check(2, &[false], &[false, false]);
        check(1, &[false, false], &[false]);
    }
}
