//! Whole builds that run no process: copies, stages, cache, joined layers, faults.

use std::sync::{Mutex, PoisonError};

use chalk_core::wire::{EventKind, StepState};
use chalk_store::registry::{Client, Options};

use super::*;
use crate::engine::oci::{ImageFile, Manifest};
use crate::places::{IMAGES, SPEC_TYPE};
use crate::registry::Registry;

struct Sink(Mutex<Vec<EventKind>>);

impl EventSink for Sink {
    fn emit(&self, event: EventKind) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }
}

struct World {
    temp: tempfile::TempDir,
    engine: EmbeddedEngine,
    blobs: BlobStore,
    regional: Arc<dyn Regional>,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(temp.path().join("store")).unwrap();
        let registry = Registry::open(temp.path().join("registry"), blobs.clone()).unwrap();
        let regional: Arc<dyn Regional> = Arc::new(registry);
        let engine = Self::engine(&temp, &blobs, &regional);
        Self {
            temp,
            engine,
            blobs,
            regional,
        }
    }

    fn engine(
        temp: &tempfile::TempDir,
        blobs: &BlobStore,
        regional: &Arc<dyn Regional>,
    ) -> EmbeddedEngine {
        let client = Client::new(Options::default()).unwrap();
        let bases = Arc::new(Bases::new(
            regional.clone(),
            "localhost",
            client,
            blobs.clone(),
        ));
        let build = crate::settings::Build::default();
        let settings = EngineSettings::new(&build, temp.path());
        EmbeddedEngine::new(settings, blobs.clone(), regional.clone(), bases).unwrap()
    }

    /// A spec on the empty base that adds these files.
    fn spec(&self, files: &[(&str, &str)]) -> Spec {
        let step = |(dest, text): &(&str, &str)| {
            let blob = self.blobs.put(text.as_bytes()).unwrap();
            let digest = blob.digest;
            format!(r#"{{"kind":"add_file","dest":"{dest}","digest":"{digest}","mode":"0644"}}"#)
        };
        let steps: Vec<String> = files.iter().map(step).collect();
        let json = format!(
            r#"{{"schema":"chalk.image/v1","platform":"linux/amd64","base":"scratch","steps":[{}]}}"#,
            steps.join(",")
        );
        Spec::from_json(&json).unwrap()
    }

    async fn try_build(&self, spec: &Spec, force: bool) -> Result<Outcome, EngineError> {
        let job = Job {
            id: "test".to_owned(),
            spec: spec.clone(),
            image_hash: spec.image_hash().unwrap(),
            secrets: std::collections::BTreeMap::new(),
            force,
            compression: None,
            verify: false,
            apart: None,
        };
        let sink = Sink(Mutex::default());
        let done = self
            .engine
            .build(&job, &sink, &CancellationToken::new())
            .await;
        // Nothing of the build is left.
        let scratch = self.temp.path().join("engine/scratch");
        assert_eq!(std::fs::read_dir(scratch).unwrap().count(), 0);
        done
    }

    /// Builds and gives the states of the steps, a letter each, beside the outcome.
    async fn build(&self, spec: &Spec) -> (String, Outcome) {
        let outcome = self.try_build(spec, false).await.unwrap();
        (states(&outcome), outcome)
    }

    async fn manifest(&self, outcome: &Outcome) -> (Manifest, ImageFile) {
        let name = outcome.manifest.to_string();
        let found = self
            .regional
            .manifest(IMAGES, &name)
            .await
            .unwrap()
            .unwrap();
        let manifest: Manifest = serde_json::from_slice(&found.bytes).unwrap();
        let config = self
            .blobs
            .read_small(manifest.config.digest, 1 << 20)
            .unwrap();
        (manifest, serde_json::from_slice(&config).unwrap())
    }

    /// What the image holds, as `path=text`.
    async fn files(&self, outcome: &Outcome) -> Vec<String> {
        use std::io::Read as _;
        let (manifest, _) = self.manifest(outcome).await;
        let mut files = std::collections::BTreeMap::new();
        for layer in &manifest.layers {
            let blob = self.blobs.open_verified(layer.digest).unwrap();
            let mut tar = tar::Archive::new(chalk_store::layer::decompress(blob).unwrap());
            for entry in tar.entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let mut text = String::new();
                if entry.header().entry_type().is_file() {
                    entry.read_to_string(&mut text).unwrap();
                    files.insert(path, text);
                }
            }
        }
        files
            .into_iter()
            .map(|(path, text)| format!("{path}={text}"))
            .collect()
    }

    /// Forgets what was unpacked, so that layers are read again.
    async fn forget_directories(&mut self) {
        let layers = self.temp.path().join("engine/layers");
        // Directories are named in the background when a build has ended.
        for _ in 0..200 {
            let names = std::fs::read_dir(&layers).unwrap().flatten();
            let mut names = names.map(|e| e.file_name().into_string().unwrap());
            if !names.any(|name| name.starts_with('.')) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::fs::remove_dir_all(&layers).unwrap();
        self.engine = Self::engine(&self.temp, &self.blobs, &self.regional);
    }
}

fn states(outcome: &Outcome) -> String {
    let letter = |state: StepState| match state {
        StepState::Waiting => 'w',
        StepState::Running => 'r',
        StepState::Cached => 'c',
        StepState::Ran => 'R',
        StepState::Failed => 'f',
    };
    outcome
        .steps
        .iter()
        .map(|step| letter(step.state))
        .collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn builds_once_and_then_from_the_cache() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let spec = world.spec(&[("/a", "1"), ("/d/b", "2")]);
    let plan = |steps: Vec<PlanStep>| -> Vec<PlanState> { steps.iter().map(|s| s.state).collect() };
    assert_eq!(
        plan(world.engine.plan(&spec).await.unwrap()),
        [PlanState::Run; 2]
    );
    let (ran, first) = world.build(&spec).await;
    assert_eq!((ran.as_str(), first.layers), ("RR", 2));
    assert_eq!(
        plan(world.engine.plan(&spec).await.unwrap()),
        [PlanState::Cached; 2]
    );
    let mut partly = spec.clone();
    partly.steps[1].force = true;
    assert_eq!(
        plan(world.engine.plan(&partly).await.unwrap()),
        [PlanState::Cached, PlanState::Run]
    );
    assert_eq!(world.files(&first).await, ["a=1", "d/b=2"]);
    let (again, second) = world.build(&spec).await;
    assert_eq!((again.as_str(), second.manifest), ("cc", first.manifest));

    // The spec is attached, and the image has its tag.
    let tag = spec.image_hash().unwrap().hex();
    let head = world
        .regional
        .head_manifest(IMAGES, &tag)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(head.digest, first.manifest);
    let found = world
        .regional
        .referrers(IMAGES, &first.manifest, Some(SPEC_TYPE))
        .await;
    assert_eq!(found.unwrap().len(), 1);

    let changed = world.spec(&[("/a", "1"), ("/d/b", "3")]);
    let (ran, third) = world.build(&changed).await;
    assert_eq!(ran, "cR");
    assert_eq!(world.files(&third).await, ["a=1", "d/b=3"]);

    // Equal contents give equal layers, on another machine too.
    let forced = world.try_build(&spec, true).await.unwrap();
    assert_eq!(
        (states(&forced).as_str(), forced.manifest),
        ("RR", first.manifest)
    );
    world.forget_directories().await;
    std::fs::remove_dir_all(world.temp.path().join("engine/steps")).unwrap();
    world.engine = World::engine(&world.temp, &world.blobs, &world.regional);
    assert_eq!(world.build(&spec).await.0, "cc");
    let longer = world.spec(&[("/a", "1"), ("/d/b", "2"), ("/d/c", "3")]);
    assert_eq!(world.build(&longer).await.0, "ccR");
}

#[tokio::test]
async fn a_damaged_layer_is_built_again() {
    if !is_root() {
        return;
    }
    let mut world = World::new();
    let spec = world.spec(&[("/a", "1"), ("/b", "2")]);
    let (_, outcome) = world.build(&spec).await;
    let (manifest, _) = world.manifest(&outcome).await;
    let longer = world.spec(&[("/a", "1"), ("/b", "2"), ("/c", "3")]);
    world.forget_directories().await;
    let path = world.blobs.path(&manifest.layers[1].digest);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let (ran, outcome) = world.build(&longer).await;
    assert_eq!(ran, "cRR");
    assert_eq!(world.files(&outcome).await, ["a=1", "b=2", "c=3"]);

    // The same when it is gone altogether.
    world.forget_directories().await;
    world.blobs.remove(&manifest.layers[0].digest).unwrap();
    let longest = world.spec(&[("/a", "1"), ("/b", "2"), ("/c", "3"), ("/d", "4")]);
    let (ran, outcome) = world.build(&longest).await;
    assert_eq!(ran, "RRRR");
    assert_eq!(world.files(&outcome).await, ["a=1", "b=2", "c=3", "d=4"]);
}

#[tokio::test]
async fn long_images_have_joined_layers() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let names: Vec<(String, String)> = (0..150)
        .map(|i| (format!("/d{}/f{}", i % 7, i % 100), i.to_string()))
        .collect();
    let files: Vec<(&str, &str)> = names
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let (_, outcome) = world.build(&world.spec(&files)).await;
    let (manifest, config) = world.manifest(&outcome).await;
    assert!(manifest.layers.len() <= join::MAX_LAYERS);
    assert_eq!(config.rootfs.diff_ids.len(), manifest.layers.len());
    assert_eq!(config.history.len(), 150);
    assert_eq!(config.sound_history(), config.history);
    let mut expect: std::collections::BTreeMap<&str, &str> = std::collections::BTreeMap::new();
    expect.extend(files.iter().copied());
    let lines = expect
        .iter()
        .map(|(path, text)| format!("{}={text}", &path[1..]));
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    let mut got = world.files(&outcome).await;
    got.sort();
    assert_eq!(got, lines);

    // A change at the end packs one run anew and leaves the others.
    let mut changed = files.clone();
    changed[149].1 = "changed";
    let (ran, second) = world.build(&world.spec(&changed)).await;
    assert_eq!(ran, format!("{}R", "c".repeat(149)));
    let (second, _) = world.manifest(&second).await;
    let same = second
        .layers
        .iter()
        .filter(|l| manifest.layers.contains(l))
        .count();
    assert_eq!(same, manifest.layers.len() - 1);
}

#[tokio::test]
async fn what_is_missing_is_told_before_anything_runs() {
    let world = World::new();
    let spec = world.spec(&[("/a", "1")]);
    world.blobs.remove(&Digest::of(b"1")).unwrap();
    match world.try_build(&spec, false).await {
        Err(EngineError::MissingBlobs(digests)) => assert_eq!(digests, [Digest::of(b"1")]),
        other => panic!("{other:?}"),
    }
    let json = r#"{"schema":"chalk.image/v1","platform":"linux/amd64","base":"scratch",
        "steps":[{"kind":"run","command":"true","secrets":["token"]}]}"#;
    let spec = Spec::from_json(json).unwrap();
    match world.try_build(&spec, false).await {
        Err(EngineError::MissingSecret { name, step: 0, .. }) => assert_eq!(name, "token"),
        other => panic!("{other:?}"),
    }
}
