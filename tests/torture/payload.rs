//! Bytes that follow from a seed, and the images made of them.

use rand::RngCore as _;
use serde_json::json;

use chalk_core::Digest;

use crate::chance;

/// Media type of an image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A blob by its seed and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noise {
    pub(crate) seed: u64,
    pub(crate) length: usize,
}

impl Noise {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        chance::of(self.seed, "noise").fill_bytes(&mut bytes);
        bytes
    }
}

/// An image of noise.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    /// Config and layers.
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

impl Pushed {
    pub(crate) fn of(layers: &[Noise]) -> Self {
        let layers: Vec<Vec<u8>> = layers.iter().map(Noise::bytes).collect();
        let digests: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let config = config.to_string().into_bytes();
        let described = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": layers.iter().map(|l| described(LAYER, l)).collect::<Vec<_>>(),
        });
        let mut blobs = vec![config];
        blobs.extend(layers);
        Self {
            blobs,
            manifest: manifest.to_string().into_bytes(),
        }
    }
}

/// `sha256:<hex>` of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}
