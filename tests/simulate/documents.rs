//! The documents of a made-up image: config, manifest, spec and the referrer that ties the spec to
//! the image, as the embedded engine writes them, over layers that nobody has the bytes of.

use chalk_core::keys::KeyedStep;
use chalk_core::spec::{Base, StepKind};
use chalk_core::{Digest, Spec};
use chalk_service::places::{CREATED_NOTE, SPEC_TYPE};
use rand::Rng as _;
use serde_json::{Value, json};

use crate::chance;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Digest and size of the empty document that artifacts have in the place of a config.
const EMPTY: &[u8] = b"{}";

/// A layer.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// Digest of its blob.
    pub(crate) digest: Digest,
    /// Bytes of its blob.
    pub(crate) size: u64,
    /// What made it.
    made_by: String,
}

/// The documents of an image.
pub(crate) struct Documents {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    pub(crate) spec: Vec<u8>,
    pub(crate) referrer: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
}

impl Documents {
    /// Those of an image of that spec that was built at that time.
    pub(crate) fn of(spec: &Spec, created: &str) -> Self {
        let layers = layers(spec);
        let config = json!({
            "os": "linux",
            "architecture": spec.platform.to_string().split('/').nth(1),
            "created": created,
            "config": {
                "Env": spec.env.iter().chain(&spec.runtime_env)
                    .map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
                "Cmd": spec.cmd,
                "Entrypoint": spec.entrypoint,
                "WorkingDir": spec.workdir.clone().unwrap_or_default(),
                "User": spec.user.clone().unwrap_or_default(),
                "Labels": spec.labels,
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter()
                    .map(|layer| Digest::of(layer.digest.as_bytes())).collect::<Vec<_>>(),
            },
            "history": layers.iter()
                .map(|layer| json!({"created": created, "created_by": layer.made_by}))
                .collect::<Vec<_>>(),
        });
        let config = bytes(&config);
        let blobs = layers
            .iter()
            .map(|layer| descriptor(LAYER, layer.digest, layer.size));
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(CONFIG, &config),
            "layers": blobs.collect::<Vec<_>>(),
        }));
        let document = spec.to_json().canonical().into_bytes();
        let referrer = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": SPEC_TYPE,
            "config": described("application/vnd.oci.empty.v1+json", EMPTY),
            "layers": [described(SPEC_TYPE, &document)],
            "subject": described(MANIFEST, &manifest),
            "annotations": { CREATED_NOTE: created },
        }));
        Self {
            config,
            manifest,
            spec: document,
            referrer,
            layers,
        }
    }

    /// Bytes of the layers.
    pub(crate) fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// What a list of referrers says of one.
pub(crate) fn referrer_entry(digest: Digest, size: usize, created: &str) -> Value {
    let mut entry = descriptor(MANIFEST, digest, size as u64);
    entry["artifactType"] = SPEC_TYPE.into();
    entry["annotations"] = json!({ CREATED_NOTE: created });
    entry
}

fn bytes(document: &Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

fn described(media_type: &str, bytes: &[u8]) -> Value {
    descriptor(media_type, Digest::of(bytes), bytes.len() as u64)
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// Layers of an image, base first: equal steps on equal bases share them.
fn layers(spec: &Spec) -> Vec<Layer> {
    let mut layers = Vec::new();
    if let Some(base) = spec.result_base() {
        let mut rng = chance::of(0, format_args!("layers of {}", base.reference));
        let origin = format!("FROM {}", base.reference);
        let large = ["cuda", "pytorch"];
        let large = large
            .iter()
            .any(|word| base.reference.repository().contains(word));
        for at in 0..rng.random_range(3..7) {
            let (least, most) = match (at, large) {
                (0, _) => (26e6, 32e6),
                (_, true) => (5e6, 3e9),
                (_, false) => (2e5, 4e7),
            };
            layers.push(Layer {
                digest: Digest::of(format!("{at} {origin} {}", spec.platform).as_bytes()),
                size: chance::spread(&mut rng, least, most) as u64,
                made_by: origin.clone(),
            });
        }
    }
    for (at, step) in spec.steps_with_keys().into_iter().enumerate() {
        layers.extend(layer(spec, at, &step));
    }
    layers
}

/// The layer of a step, if it leaves files behind.
pub(crate) fn layer(spec: &Spec, at: usize, step: &KeyedStep) -> Option<Layer> {
    let mut rng = chance::of(0, format_args!("layer of {}", step.key));
    let (least, most) = match (&spec.base, spec.steps.get(at).map(|step| &step.kind)) {
        (Base::Scratch | Base::Image(_), Some(StepKind::Dockerfile(one))) => {
            let word = one.text.split(' ').next().unwrap_or_default();
            match word {
                "RUN" | "COPY" | "ADD" => (1e4, 8e7),
                _ => return None,
            }
        }
        (Base::Scratch | Base::Image(_), Some(kind)) => match kind {
            StepKind::PipInstall { .. } | StepKind::UvPipInstall { .. } | StepKind::UvSync(_) => {
                (1e7, 2e9)
            }
            StepKind::AptInstall { .. } => (1e7, 3e8),
            StepKind::AddFile { .. } | StepKind::AddDir { .. } => (5e2, 4e6),
            _ => (2e5, 3e8),
        },
        // Steps of a Dockerfile stand before those of the spec.
        _ => (1e4, 8e7),
    };
    Some(Layer {
        digest: Digest::of(format!("layer of {}", step.key).as_bytes()),
        size: chance::spread(&mut rng, least, most) as u64,
        made_by: step.title.clone(),
    })
}
