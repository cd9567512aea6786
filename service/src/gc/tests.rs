//! Collections of a real registry and store, against a simple model and under load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chalk_core::Digest;
use chalk_store::BlobStore;
use chalk_store::registry::Progress;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::act::{self, Sweep};
use super::external::{self, Dropped};
use super::plan::{self, InUse, Input, Plan};
use crate::catalog::Catalog;
use crate::index::{Index, Known};
use crate::places::{BUILD_CACHE, BUILDS, IMAGES, STEPS, passing_tag};
use crate::registry::collect::Read;
use crate::registry::{Regional, Registry};
use crate::settings;

mod external_registry;
mod refusing;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const HOUR: Duration = Duration::from_secs(3600);

/// A registry on a disk of its own.
pub(super) struct Place {
    dir: tempfile::TempDir,
    pub(super) registry: Registry,
    pub(super) blobs: BlobStore,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (registry, blobs) = open(dir.path());
        Self {
            dir,
            registry,
            blobs,
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
        }
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Lets hours pass: what is on the disk gets older, and nothing is remembered.
    pub(super) fn age(&mut self) {
        let mut open_dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = open_dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open_dirs.push(path);
                } else {
                    let file = File::open(&path).unwrap();
                    let before = file.metadata().unwrap().modified().unwrap();
                    file.set_modified(before - 2 * HOUR).unwrap();
                }
            }
        }
        (self.registry, self.blobs) = open(self.dir.path());
    }

    pub(super) fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let blob = self.blobs.put(bytes).unwrap();
        let none = Progress::none();
        let pushed = self
            .registry
            .push_blob(repository, &blob, &self.blobs, &none);
        self.wait(pushed).unwrap();
        blob.digest
    }

    pub(super) fn manifest(&self, repository: &str, name: &str, kind: &str, text: &str) -> Digest {
        let bytes = Bytes::from(text.to_owned());
        let put = self.registry.put_manifest(repository, name, kind, bytes);
        self.wait(put).unwrap().digest
    }

    /// Pushes an image of such layers under a tag.
    pub(super) fn image(&self, repository: &str, tag: &str, layers: &[&str]) -> Digest {
        for layer in layers {
            self.blob(repository, layer.as_bytes());
        }
        self.blob(repository, b"{}");
        let text = image_text(layers, None).to_string();
        self.manifest(repository, tag, MANIFEST, &text)
    }

    pub(super) fn policy() -> settings::Gc {
        settings::Gc {
            grace: HOUR,
            untagged_age: Duration::ZERO,
            ..settings::Gc::default()
        }
    }

    pub(super) fn plan(&self, policy: &settings::Gc, in_use: &InUse) -> Plan {
        let horizon = self.blobs.horizon(policy.grace, None);
        let mut read = Read::new();
        let registry = Some(&self.registry);
        act::look(registry, &self.blobs, in_use, policy, &horizon, &mut read)
            .unwrap()
            .0
    }

    /// Collects, and gives the plan and the bytes that went.
    pub(super) fn collect(&self, policy: &settings::Gc, in_use: &InUse) -> (Plan, u64) {
        let horizon = self.blobs.horizon(policy.grace, None);
        let (mut read, registry) = (Read::new(), Some(&self.registry));
        let (mut plan, _) =
            act::look(registry, &self.blobs, in_use, policy, &horizon, &mut read).unwrap();
        act::drop_tags(&self.registry, &plan.tags, &horizon).unwrap();
        act::drop_manifests(&self.registry, &plan.manifests, &horizon).unwrap();
        let sweep = Sweep {
            links: std::mem::take(&mut plan.links),
            blobs: std::mem::take(&mut plan.blobs),
            needed: in_use.blobs.keys().copied().collect(),
        };
        let freed = act::sweep(registry, &self.blobs, sweep, &horizon, &mut read).unwrap();
        (plan, freed.iter().map(|(_, size)| size).sum())
    }
}

fn open(dir: &Path) -> (Registry, BlobStore) {
    let blobs = BlobStore::open(dir.join("store")).unwrap();
    let registry = Registry::open(dir.join("registry"), blobs.clone()).unwrap();
    (registry, blobs)
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn image_text(layers: &[&str], subject: Option<&Value>) -> Value {
    let layer = |text: &&str| descriptor("application/vnd.oci.image.layer.v1.tar", text.as_bytes());
    let mut image = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", b"{}"),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    if let Some(subject) = subject {
        image["subject"] = subject.clone();
    }
    image
}

/// What somebody does with a registry.
#[derive(Debug, Clone)]
enum Op {
    /// Pushes an image of some layers, under a tag or by digest.
    Image(u8, Option<u8>, Vec<u8>),
    /// Lists two of the manifests that are there.
    Index(u8, Option<u8>, usize, usize),
    /// Attaches something to a manifest.
    Attach(u8, usize, u8),
    /// Uploads a blob that nothing names.
    Blob(u8, u8),
    /// Makes a blob part of another repository.
    Mount(u8, u8, u8),
    DeleteTag(u8, u8),
    DeleteManifest(u8, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let repository = 0..3_u8;
    let tag = 0..4_u8;
    let layer = 0..8_u8;
    prop_oneof![
        4 => (
            repository.clone(),
            prop::option::of(tag.clone()),
            prop::collection::vec(layer.clone(), 1..4)
        )
            .prop_map(|(r, t, l)| Op::Image(r, t, l)),
        1 => (repository.clone(), prop::option::of(tag.clone()), any::<usize>(), any::<usize>())
            .prop_map(|(r, t, a, b)| Op::Index(r, t, a, b)),
        1 => (repository.clone(), any::<usize>(), layer.clone())
            .prop_map(|(r, m, l)| Op::Attach(r, m, l)),
        1 => (repository.clone(), layer.clone()).prop_map(|(r, l)| Op::Blob(r, l)),
        1 => (repository.clone(), repository.clone(), layer)
            .prop_map(|(a, b, l)| Op::Mount(a, b, l)),
        2 => (repository.clone(), tag).prop_map(|(r, t)| Op::DeleteTag(r, t)),
        1 => (repository, any::<usize>()).prop_map(|(r, m)| Op::DeleteManifest(r, m)),
    ]
}

/// What a manifest names, as the model knows it.
#[derive(Debug, Clone, Default)]
struct Named {
    blobs: BTreeSet<Digest>,
    manifests: BTreeSet<Digest>,
    subject: Option<Digest>,
    size: usize,
    kind: &'static str,
}

#[derive(Debug, Default)]
struct Model {
    /// By repository and tag.
    tags: BTreeMap<(String, String), Digest>,
    manifests: BTreeSet<(String, Digest)>,
    known: HashMap<Digest, Named>,
    blobs: BTreeSet<Digest>,
}

fn repository(number: u8) -> String {
    format!("team/r{number}")
}

impl Model {
    fn pick(&self, repository: &str, at: usize) -> Option<Digest> {
        let all: Vec<Digest> = self
            .manifests
            .iter()
            .filter(|(name, _)| name == repository)
            .map(|(_, digest)| *digest)
            .collect();
        (!all.is_empty()).then(|| all[at % all.len()])
    }

    fn put(
        &mut self,
        place: &Place,
        repository: &str,
        tag: Option<u8>,
        text: &Value,
        known: Named,
    ) {
        let text = text.to_string();
        let digest = Digest::of(text.as_bytes());
        let name = tag.map_or(digest.to_string(), |tag| format!("t{tag}"));
        place.manifest(repository, &name, known.kind, &text);
        self.blobs.insert(digest);
        self.blobs.extend(&known.blobs);
        self.known.insert(
            digest,
            Named {
                size: text.len(),
                ..known
            },
        );
        self.manifests.insert((repository.to_owned(), digest));
        if tag.is_some() {
            self.tags.insert((repository.to_owned(), name), digest);
        }
    }

    fn apply(&mut self, place: &Place, op: &Op) {
        match op {
            Op::Image(number, tag, layers) => {
                let name = repository(*number);
                let layers: Vec<String> = layers.iter().map(|l| format!("layer {l}")).collect();
                let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
                let mut blobs = BTreeSet::from([place.blob(&name, b"{}")]);
                blobs.extend(
                    layers
                        .iter()
                        .map(|layer| place.blob(&name, layer.as_bytes())),
                );
                let known = Named {
                    blobs,
                    kind: MANIFEST,
                    ..Named::default()
                };
                self.put(place, &name, *tag, &image_text(&layers, None), known);
            }
            Op::Index(number, tag, a, b) => {
                let name = repository(*number);
                let parts = [self.pick(&name, *a), self.pick(&name, *b)];
                let manifests: BTreeSet<Digest> = parts.into_iter().flatten().collect();
                let list: Vec<Value> = manifests
                    .iter()
                    .map(|digest| self.described(digest))
                    .collect();
                let text = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": list});
                let known = Named {
                    manifests,
                    kind: INDEX,
                    ..Named::default()
                };
                self.put(place, &name, *tag, &text, known);
            }
            Op::Attach(number, at, layer) => {
                let name = repository(*number);
                let Some(subject) = self.pick(&name, *at) else {
                    return;
                };
                let layer = format!("layer {layer}");
                let blobs = BTreeSet::from([
                    place.blob(&name, b"{}"),
                    place.blob(&name, layer.as_bytes()),
                ]);
                let text = image_text(&[&layer], Some(&self.described(&subject)));
                let subject = Some(subject);
                let known = Named {
                    blobs,
                    subject,
                    kind: MANIFEST,
                    ..Named::default()
                };
                self.put(place, &name, None, &text, known);
            }
            Op::Blob(number, layer) => {
                let digest = place.blob(&repository(*number), format!("layer {layer}").as_bytes());
                self.blobs.insert(digest);
            }
            Op::Mount(from, to, layer) => {
                let digest = Digest::of(format!("layer {layer}").as_bytes());
                let (from, to) = (repository(*from), repository(*to));
                place
                    .wait(place.registry.mount_blob(&to, &digest, &from))
                    .unwrap();
            }
            Op::DeleteTag(number, tag) => {
                let (name, tag) = (repository(*number), format!("t{tag}"));
                let deleted = place.wait(place.registry.delete(&name, &tag)).unwrap();
                let expect = self.tags.remove(&(name, tag)).is_some();
                assert_eq!(deleted, expect);
            }
            Op::DeleteManifest(number, at) => {
                let name = repository(*number);
                let Some(digest) = self.pick(&name, *at) else {
                    return;
                };
                let by_digest = digest.to_string();
                let deleted = place.registry.delete(&name, &by_digest);
                assert!(place.wait(deleted).unwrap());
                self.manifests.remove(&(name.clone(), digest));
                self.tags.retain(|(of, _), to| *of != name || *to != digest);
            }
        }
    }

    fn described(&self, digest: &Digest) -> Value {
        let known = &self.known[digest];
        json!({"mediaType": known.kind, "digest": digest, "size": known.size})
    }

    /// Manifests that stay, when these were used lately.
    fn kept(&self, used: &BTreeSet<Digest>) -> BTreeSet<(String, Digest)> {
        let tagged = self
            .tags
            .iter()
            .map(|((name, _), digest)| (name.clone(), *digest));
        let tagged: BTreeSet<(String, Digest)> = tagged.collect();
        let mut kept: BTreeSet<(String, Digest)> = self
            .manifests
            .iter()
            .filter(|at| tagged.contains(at) || used.contains(&at.1))
            .cloned()
            .collect();
        loop {
            let before = kept.len();
            for at in &self.manifests {
                let (name, digest) = at;
                let listed = kept.iter().any(|(other, parent)| {
                    other == name && self.known[parent].manifests.contains(digest)
                });
                let subject = self.known[digest].subject;
                let attached =
                    subject.is_some_and(|subject| kept.contains(&(name.clone(), subject)));
                if listed || attached {
                    kept.insert(at.clone());
                }
            }
            if kept.len() == before {
                return kept;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_reachable_stays_and_all_else_goes(
        ops in prop::collection::vec(op(), 1..50),
        touched in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let mut place = Place::new();
        let mut model = Model::default();
        for op in &ops {
            model.apply(&place, op);
        }
        // What is unlinked and unnamed is in the store nevertheless.
        let all: BTreeSet<Digest> = place.blobs.list().unwrap().map(|b| b.unwrap().0.digest).collect();
        prop_assert!(model.blobs.is_subset(&all));
        place.age();
        let list: Vec<Digest> = all.iter().copied().collect();
        // Nothing, where nothing was put.
        let used = touched.iter().filter_map(|at| list.get(at.checked_rem(list.len())?));
        let used: BTreeSet<Digest> = used.copied().collect();
        for digest in &used {
            prop_assert!(place.blobs.contains(*digest).unwrap());
        }
        let kept = model.kept(&used);
        let mut needed = used.clone();
        for (_, digest) in &kept {
            needed.insert(*digest);
            needed.extend(&model.known[digest].blobs);
        }
        let policy = Place::policy();
        let dry: u64 = place.plan(&policy, &InUse::default()).items.iter().map(|i| i.frees).sum();
        let (plan, freed) = place.collect(&policy, &InUse::default());
        let told: u64 = plan.items.iter().map(|item| item.frees).sum();
        prop_assert_eq!(dry, told);
        prop_assert_eq!(told, freed);

        let left: BTreeSet<Digest> = place.blobs.list().unwrap().map(|b| b.unwrap().0.digest).collect();
        prop_assert_eq!(&left, &needed);
        let there: BTreeSet<(String, Digest)> = (0..3)
            .map(repository)
            .flat_map(|name| {
                let manifests = place.registry.manifests(&name).unwrap();
                manifests.into_iter().map(move |digest| (name.clone(), digest.to_string().parse().unwrap()))
            })
            .collect();
        prop_assert_eq!(&there, &kept);
        for (name, digest) in &kept {
            let found = place.wait(place.registry.manifest(name, &digest.to_string())).unwrap();
            prop_assert!(found.is_some());
            for blob in &model.known[digest].blobs {
                prop_assert!(place.wait(place.registry.has_blob(name, blob)).unwrap());
            }
        }
        for ((name, tag), digest) in &model.tags {
            let head = place.wait(place.registry.head_manifest(name, tag)).unwrap();
            prop_assert_eq!(head.map(|head| head.digest), Some(*digest));
        }
        // Nothing is left for another run.
        let again = place.collect(&policy, &InUse::default());
        prop_assert_eq!(again.1, 0);
    }
}

#[test]
fn pushes_and_collections_do_not_hurt_each_other() {
    const GRACE: Duration = Duration::from_millis(400);
    const PUSHERS: usize = 4;
    let place = Place::new();
    let policy = settings::Gc {
        grace: GRACE,
        untagged_age: Duration::ZERO,
        ..settings::Gc::default()
    };
    let (stop, pushed, freed) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    // Layers that all of them share, and that are garbage again and again.
    let layers: Vec<String> = (0..6).map(|n| format!("shared layer {n}")).collect();
    let one = |pusher: usize, round: usize, place: &Place, runtime: &tokio::runtime::Runtime| {
        let (registry, blobs) = (&place.registry, &place.blobs);
        let name = format!("team/p{}", pusher % 2);
        let tag = format!("t{pusher}");
        let mine = [&layers[round % 6], &layers[(round + pusher) % 6]];
        let began = Instant::now();
        for text in mine.into_iter().map(String::as_str).chain(["{}"]) {
            let digest = Digest::of(text.as_bytes());
            if runtime.block_on(registry.has_blob(&name, &digest)).unwrap() {
                continue;
            }
            let blob = blobs.put(text.as_bytes()).unwrap();
            let none = Progress::none();
            // As an upload that ends: what was just put is linked.
            let pushing = registry.push_blob(&name, &blob, blobs, &none);
            let linked = runtime.block_on(pushing);
            assert!(linked.is_ok() || began.elapsed() > GRACE, "{linked:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
        let text = image_text(&[mine[0], mine[1]], None).to_string();
        let put = registry.put_manifest(&name, &tag, MANIFEST, Bytes::from(text));
        match runtime.block_on(put) {
            Ok(_) => {}
            // Only one who took too long may have to begin anew.
            Err(error) => {
                assert!(began.elapsed() > GRACE, "{error}");
                return;
            }
        }
        pushed.fetch_add(1, Ordering::Relaxed);
        for text in mine {
            let bytes = blobs.read_small(Digest::of(text.as_bytes()), 1 << 10);
            assert_eq!(bytes.unwrap(), text.as_bytes(), "a tagged image is whole");
        }
        if round.is_multiple_of(3) {
            runtime.block_on(registry.delete(&name, &tag)).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for pusher in 0..PUSHERS {
            let (one, place, stop) = (&one, &place, &stop);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    one(pusher, round, place, &runtime);
                    // Now and then long enough for garbage to become old.
                    if round % 8 == 7 {
                        std::thread::sleep(GRACE + GRACE / 2);
                    }
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(30);
        let enough = || pushed.load(Ordering::Relaxed) > 120 && freed.load(Ordering::Relaxed) > 10;
        while !enough() && Instant::now() < until {
            let horizon = place.blobs.horizon(policy.grace, None);
            let (mut read, registry) = (Read::new(), Some(&place.registry));
            let in_use = InUse::default();
            let looked = act::look(
                registry,
                &place.blobs,
                &in_use,
                &policy,
                &horizon,
                &mut read,
            );
            let (plan, _) = looked.unwrap();
            act::drop_manifests(&place.registry, &plan.manifests, &horizon).unwrap();
            let sweep = Sweep {
                links: plan.links,
                blobs: plan.blobs,
                ..Sweep::default()
            };
            let swept = act::sweep(registry, &place.blobs, sweep, &horizon, &mut read).unwrap();
            freed.fetch_add(swept.len(), Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(pushed.load(Ordering::Relaxed) > 120, "{pushed:?}");
    assert!(freed.load(Ordering::Relaxed) > 10, "{freed:?}");
    // Every tag still leads to a whole image.
    for name in ["team/p0", "team/p1"] {
        for tag in place.registry.tags(name).unwrap_or_default() {
            let found = place
                .wait(place.registry.manifest(name, &tag))
                .unwrap()
                .unwrap();
            let text: Value = serde_json::from_slice(&found.bytes).unwrap();
            for layer in text["layers"].as_array().unwrap() {
                let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
                assert!(place.wait(place.registry.has_blob(name, &digest)).unwrap());
            }
        }
    }
}

/// What a plan says of an item, by its name.
fn fate(plan: &Plan, name: &str) -> (bool, String, u64) {
    let item = plan.items.iter().find(|item| item.name == name);
    let item = item.unwrap_or_else(|| panic!("{name} is not in {:#?}", plan.items));
    (item.free, item.why.clone(), item.frees)
}

#[test]
fn policies_say_what_goes_and_why() {
    let mut place = Place::new();
    let shared = "shared".repeat(1000);
    for tag in ["v1", "v2", "v3"] {
        let own = format!("{tag} of its own ").repeat(100);
        place.image("team/app", tag, &[&shared, &own]);
        // So that they have an order.
        std::thread::sleep(Duration::from_millis(20));
    }
    place.image("team/tool", "v1", &[&shared, "tool"]);
    place.age();
    let policy = settings::Gc {
        keep: 1,
        age: Some(HOUR),
        ..Place::policy()
    };
    // No age: nothing that has a tag goes.
    let calm = settings::Gc {
        age: None,
        ..policy.clone()
    };
    let plan = place.plan(&calm, &InUse::default());
    assert!(
        plan.items.iter().all(|item| !item.free),
        "{:#?}",
        plan.items
    );
    assert!(fate(&plan, "team/app:v1").1.contains("gc.age"));

    let mut in_use = InUse::default();
    let second = place.registry.head_manifest("team/app", "v2");
    let second = place.wait(second).unwrap().unwrap();
    place.age();
    in_use
        .manifests
        .insert(second.digest, "it is warm on node a".to_owned());
    let plan = place.plan(&policy, &in_use);
    let (free, why, frees) = fate(&plan, "team/app:v1");
    assert!(free && why.contains("not used for 4 hours"), "{why}");
    // The shared layer stays with the others.
    assert!((1000..5000).contains(&frees), "{frees}");
    assert_eq!(fate(&plan, "team/app:v2").1, "it is warm on node a");
    assert!(fate(&plan, "team/app:v3").1.contains("newest"));
    assert!(!fate(&plan, "team/tool:v1").0);

    // Room for one image: the one that is not used goes first, those in use and new ones never.
    let tight = settings::Gc {
        keep: 0,
        age: None,
        size: Some(bytesize::ByteSize(8000)),
        ..Place::policy()
    };
    let plan = place.plan(&tight, &in_use);
    assert!(!fate(&plan, "team/app:v2").0);
    let gone = plan.items.iter().filter(|item| item.free).count();
    assert_eq!(gone, 3, "{:#?}", plan.items);
    assert!(fate(&plan, "team/app:v1").1.contains("gc.size"));
    // The shared layer is counted once in all, and only if the last of them goes.
    let all = InUse::default();
    let none = settings::Gc {
        size: Some(bytesize::ByteSize(0)),
        ..tight
    };
    let dry: u64 = place
        .plan(&none, &all)
        .items
        .iter()
        .map(|item| item.frees)
        .sum();
    let (_, freed) = place.collect(&none, &all);
    assert_eq!(dry, freed);
    assert_eq!(place.blobs.list().unwrap().count(), 0);
}

#[test]
fn what_was_used_within_the_grace_stays_and_is_said() {
    let mut place = Place::new();
    place.image("team/app", "v1", &["one"]);
    place.blob("team/app", b"alone");
    place.age();
    let policy = settings::Gc {
        keep: 0,
        age: Some(HOUR),
        ..Place::policy()
    };
    place
        .wait(place.registry.head_manifest("team/app", "v1"))
        .unwrap()
        .unwrap();
    place
        .wait(place.registry.has_blob("team/app", &Digest::of(b"alone")))
        .unwrap();
    let (plan, freed) = place.collect(&policy, &InUse::default());
    assert_eq!(freed, 0, "{:#?}", plan.items);
    assert!(fate(&plan, "team/app:v1").1.contains("it was used"));
    let alone = Digest::of(b"alone").to_string();
    assert!(
        fate(&plan, &alone)
            .1
            .contains("nothing names it, but it was used")
    );
    place.age();
    let (plan, freed) = place.collect(&policy, &InUse::default());
    assert!(fate(&plan, "team/app:v1").0 && fate(&plan, &alone).0);
    assert!(freed > 0);
    assert_eq!(place.blobs.list().unwrap().count(), 0);
    let gone = place
        .wait(place.registry.head_manifest("team/app", "v1"))
        .unwrap();
    assert!(gone.is_none());
}

#[test]
fn what_builders_left_goes() {
    let mut place = Place::new();
    let cache = Digest::of(b"place").hex();
    place.image(BUILDS, "passing", &["one"]);
    place.image(BUILD_CACHE, &cache, &["two"]);
    let stays = |plan: &Plan| {
        ["passing", &cache].map(|tag| !plan.tags.iter().any(|going| going.tag == tag))
    };
    let policy = settings::Gc {
        steps_age: Some(3 * HOUR),
        ..Place::policy()
    };
    let (plan, _) = place.collect(&policy, &InUse::default());
    assert_eq!(stays(&plan), [true, true], "{:#?}", plan.items);
    place.age();
    let (plan, _) = place.collect(&policy, &InUse::default());
    assert_eq!(stays(&plan), [false, true], "{:#?}", plan.items);
    place.age();
    let (plan, _) = place.collect(&policy, &InUse::default());
    assert!(!stays(&plan)[1], "{:#?}", plan.items);
    assert_eq!(place.blobs.list().unwrap().count(), 0);
}

#[test]
fn a_damaged_manifest_keeps_what_it_may_name() {
    let mut place = Place::new();
    let digest = place.image("team/app", "v1", &["one"]);
    place.age();
    fs::write(place.blobs.path(&digest), "rotten").unwrap();
    place.age();
    let (plan, freed) = place.collect(&Place::policy(), &InUse::default());
    assert_eq!(freed, 0);
    assert!(fate(&plan, "team/app:v1").1.contains("damaged"));
    assert!(place.blobs.contains(Digest::of(b"one")).unwrap());
}

#[test]
fn a_lease_holds_what_was_used_before_it_began() {
    let mut place = Place::new();
    place.blob("team/app", b"alone");
    place.age();
    let used = SystemTime::now();
    assert!(place.blobs.contains(Digest::of(b"alone")).unwrap());
    let lease = place.blobs.lease();
    std::thread::sleep(Duration::from_millis(50));
    let policy = settings::Gc {
        grace: Duration::from_millis(40),
        ..Place::policy()
    };
    let horizon = place.blobs.horizon(policy.grace, None);
    // On a machine that stood still in between there is nothing to see.
    if used >= horizon.wall {
        assert_eq!(place.collect(&policy, &InUse::default()).1, 0);
    }
    drop(lease);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(place.collect(&policy, &InUse::default()).1, 5);
}
