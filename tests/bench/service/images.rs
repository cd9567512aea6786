//! A state directory with many images, put there by the code of the service itself: one by one they
//! would have to be built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chalk_core::spec::{Base, BaseImage, Spec, Step, StepKind};
use chalk_core::{Digest, Platform};
use chalk_service::index::{Index, Known};
use chalk_service::places::IMAGES;
use chalk_service::registry::{Regional as _, Registry};
use chalk_store::BlobStore;
use chalk_tests::{Layout, World, is_interrupted, run, tool};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// In memory, since each image alone is synced to the disk.
const MEMORY: &str = "/dev/shm";

/// Images of the small base, each with a command of its own.
pub(super) struct Images {
    state: PathBuf,
    count: usize,
    base: Digest,
}

impl Images {
    /// Makes that many.
    pub(super) fn new(world: &World, count: usize) -> Self {
        let index = fs::read(world.busybox_layout().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let base = index["manifests"][0]["digest"].as_str().unwrap();
        let images = Self {
            state: world.state("bench-images"),
            count,
            base: base.parse().unwrap(),
        };
        let quick = Path::new(MEMORY).is_dir();
        let made = if quick {
            tempfile::tempdir_in(MEMORY)
        } else {
            tempfile::tempdir_in(&images.state)
        };
        let made = made.unwrap();
        images.fill(made.path(), &Layout::open(world.busybox_layout()));
        for part in ["store", "registry"] {
            let from = format!("{}/.", made.path().join(part).display());
            let to = images.state.join(part);
            run(tool("cp", ["--recursive", &from]).arg(to)).ok();
        }
        let _ = fs::remove_file(images.state.join("chalk.redb"));
        fs::copy(
            made.path().join("chalk.redb"),
            images.state.join("chalk.redb"),
        )
        .unwrap();
        images
    }

    fn fill(&self, dir: &Path, base: &Layout) {
        let blobs = BlobStore::open(dir.join("store")).unwrap();
        let registry = Registry::open(dir.join("registry"), blobs.clone()).unwrap();
        let config = blobs.put(base.config().to_string().as_bytes()).unwrap();
        registry.link_blob(IMAGES, config.digest).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut known = BTreeMap::new();
        for spec in self.specs() {
            assert!(!is_interrupted(), "interrupted");
            let hash = spec.image_hash().unwrap();
            let manifest = json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
                "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
                "annotations": {"bench": hash},
            });
            let bytes = manifest.to_string().into_bytes();
            let digest = Digest::of(&bytes);
            let name = hash.hex();
            let put = registry.put_manifest(IMAGES, &name, MANIFEST, bytes.into());
            runtime.block_on(put).unwrap();
            let image = Known {
                digest,
                platform: Platform::default(),
                size: 0,
                layers: 0,
                created: "2026-01-01T00:00:00Z".into(),
            };
            known.insert(hash, image);
        }
        let (index, _) = Index::open(&dir.join("chalk.redb")).unwrap();
        index.replace_images(known, BTreeMap::new()).unwrap();
    }

    /// The state directory.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// What they are built from.
    pub(super) fn specs(&self) -> impl Iterator<Item = Spec> {
        (0..self.count).map(|number| {
            let reference = World::BUSYBOX.parse().unwrap();
            let mut spec = Spec::new(Base::Image(BaseImage {
                reference,
                digest: Some(self.base),
                platform: None,
            }));
            spec.steps.push(Step::new(StepKind::Run {
                command: format!("echo {number} > /number"),
            }));
            spec
        })
    }
}
