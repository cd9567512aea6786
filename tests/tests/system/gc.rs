//! Garbage collection of a service that serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use chalk_core::Digest;
use chalk_tests::{
    MANIFEST, Node, Project, RegistryHttp, STEADY, Service, World, run, unique, wait_until, with,
};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_dry_run_on_a_thousand_images_explains_itself_and_the_run_frees_the_same",
        a_thousand_images,
    ),
    (
        "collections_take_nothing_from_pushes_builds_and_warms",
        take_nothing_from_anybody,
    ),
    (
        "a_killed_collection_leaves_whole_images_and_garbage",
        a_killed_collection,
    ),
    (
        "what_nodes_have_warm_stays_and_builders_caches_go",
        what_nodes_have_warm_stays,
    ),
];

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Files of a service that does not run, as its registry and store lay them out.
struct Disk<'a> {
    state: &'a Path,
}

impl Disk<'_> {
    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = self.state.join("store/blobs/sha256").join(digest.hex());
        if !path.exists() {
            fs::write(path, bytes).unwrap();
        }
        digest
    }

    fn put(&self, repository: &str, path: &str, bytes: &[u8]) {
        let root = self.state.join("registry/repositories").join(repository);
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// An image of such layers under a tag of a repository.
    fn image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
        let config = json!({"os": "linux", "architecture": "amd64", "author": format!("{repository}:{tag}")});
        let config = config.to_string().into_bytes();
        let described = |kind: &str, bytes: &[u8]| {
            let digest = self.blob(bytes);
            self.put(repository, &format!("_layers/sha256/{}", digest.hex()), b"");
            json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
        };
        let layer = |bytes: &Vec<u8>| described("application/vnd.oci.image.layer.v1.tar", bytes);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        self.tag(repository, tag, manifest.to_string().as_bytes())
    }

    fn tag(&self, repository: &str, tag: &str, manifest: &[u8]) -> Digest {
        let digest = self.blob(manifest);
        let link = format!("_manifests/sha256/{}", digest.hex());
        self.put(repository, &link, MANIFEST.as_bytes());
        self.put(
            repository,
            &format!("_tags/{tag}"),
            digest.to_string().as_bytes(),
        );
        digest
    }

    /// Lets time pass for all that is there.
    fn age(&self, by: Duration) {
        let old = SystemTime::now() - by;
        for part in ["store/blobs", "registry/repositories", "engine"] {
            for path in below(&self.state.join(part)) {
                if let Ok(file) = File::open(path) {
                    let _ = file.set_modified(old);
                }
            }
        }
    }
}

/// Files and directories below a directory; of unpacked layers and caches only the outermost.
fn below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((dir, depth)) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.push(entry.path());
            let deep = root.ends_with("engine") && depth >= 1;
            if entry.file_type().unwrap().is_dir() && !deep {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Runs `chalk gc`.
#[track_caller]
pub(crate) fn gc(service: &Service, words: &[&str]) -> Value {
    service
        .chalk()
        .args(["gc", "--json"])
        .args(words)
        .run()
        .ok()
        .json()
}

pub(crate) fn freed(report: &Value) -> BTreeMap<String, u64> {
    let items = report["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["freed"] == true)
        .map(|item| {
            let name = format!(
                "{} {}",
                item["area"].as_str().unwrap(),
                item["name"].as_str().unwrap()
            );
            (name, item["frees"].as_u64().unwrap())
        })
        .collect()
}

fn why<'a>(report: &'a Value, area: &str, name: &str) -> &'a str {
    let items = report["items"].as_array().unwrap();
    let item = items
        .iter()
        .find(|item| item["area"] == area && item["name"] == name);
    let item = item.unwrap_or_else(|| panic!("{area} {name} is not told of"));
    item["why"].as_str().unwrap()
}

/// Expects that every tag of every repository leads to an image all of whose bytes are there.
#[track_caller]
fn assert_whole(service: &Service, repositories: &BTreeSet<String>) -> usize {
    let registry = RegistryHttp::of(service);
    let mut images = 0;
    for repository in repositories {
        let tags = registry.get(&format!("/v2/{repository}/tags/list"));
        if tags.status == 404 {
            continue;
        }
        for tag in tags.json()["tags"].as_array().unwrap() {
            let tag = tag.as_str().unwrap();
            let manifest = registry
                .get(&format!("/v2/{repository}/manifests/{tag}"))
                .is(200)
                .json();
            let config = &manifest["config"];
            for part in manifest["layers"]
                .as_array()
                .unwrap()
                .iter()
                .chain([config])
            {
                let digest = part["digest"].as_str().unwrap();
                let blob = registry
                    .get(&format!("/v2/{repository}/blobs/{digest}"))
                    .is(200);
                assert_eq!(
                    Digest::of(&blob.body).to_string(),
                    digest,
                    "{repository}:{tag}"
                );
            }
            images += 1;
        }
    }
    images
}

/// Pushes an image as a client does that sends only what is not there: it asks, has what lies in another
/// repository mounted, uploads the rest, and names it all.
#[track_caller]
fn push(registry: &RegistryHttp, repository: &str, tag: &str, layers: &[Vec<u8>]) {
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"amd64\",\"author\":\"{}\"}}",
        unique()
    );
    let give = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let there = registry.head(&format!("/v2/{repository}/blobs/{digest}"));
        if there.status != 200 {
            let mount = format!("/v2/{repository}/blobs/uploads/?mount={digest}");
            let answer = registry.ask("POST", &mount, &[], "");
            if answer.status != 201 {
                let end = with(&answer.is(202).location(), &format!("digest={digest}"));
                registry.ask("PUT", &end, &[], bytes.to_vec()).is(201);
            }
        }
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let layers: Vec<Value> = layers
        .iter()
        .map(|bytes| give("application/vnd.oci.image.layer.v1.tar", bytes))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": give("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": layers,
    });
    registry
        .push_manifest(repository, tag, MANIFEST, &manifest.to_string())
        .is(201);
}

fn a_thousand_images(world: &World) {
    let settings = [
        ("gc.age", "30d"),
        ("gc.keep", "2"),
        ("gc.interval", ""),
        ("gc.grace", "1h"),
    ];
    let mut service = world.start_empty("gc-thousand", &settings);
    service.stop();
    let state = service.state().to_owned();
    let disk = Disk { state: &state };
    let base = vec![1; 64 << 10];
    let group = |number: usize| format!("group {number} ").repeat(1000).into_bytes();
    let own = |name: &str| format!("layer of {name} ").repeat(100).into_bytes();
    for number in 0..680 {
        let hash = Digest::of(format!("image {number}").as_bytes()).hex();
        disk.image(
            "chalk/images",
            &hash,
            &[base.clone(), group(number / 10), own(&hash)],
        );
    }
    for number in 0..320 {
        let (name, tag) = (
            format!("team/app{}", number / 10),
            format!("v{}", number % 10),
        );
        let group = group(100 + number / 10);
        disk.image(
            &name,
            &tag,
            &[base.clone(), group, own(&format!("{name}:{tag}"))],
        );
    }
    for number in 0..50 {
        disk.blob(format!("file {number} of a build").repeat(50).as_bytes());
    }
    disk.age(60 * DAY);
    service.start_again(&[]);
    // One of them is asked for, which makes it one that is used.
    let used = Digest::of(b"image 7").hex();
    let registry = RegistryHttp::of(&service);
    registry
        .head(&format!("/v2/chalk/images/manifests/{used}"))
        .is(200);

    let dry = gc(&service, &["--dry-run"]);
    let items = dry["items"].as_array().unwrap();
    assert!(
        items
            .iter()
            .all(|item| !item["why"].as_str().unwrap().is_empty())
    );
    let count = |area: &str, freed: bool| {
        let fits = |item: &&Value| item["area"] == area && item["freed"] == freed;
        items.iter().filter(fits).count()
    };
    assert_eq!((count("images", true), count("images", false)), (679, 1));
    assert_eq!(
        (count("names", true), count("names", false)),
        (320 - 64, 64)
    );
    assert_eq!(count("blobs", true), 50);
    assert!(why(&dry, "images", &used).contains("it was used"));
    assert!(why(&dry, "names", "team/app0:v0").contains("gc.age is 30 days"));
    let planned = freed(&dry);
    let sum: u64 = planned.values().sum();
    assert_eq!(dry["summary"]["freed_bytes"], sum);
    // The base is a part of everything, and stays with the one that is used.
    let sizes: u64 = items
        .iter()
        .filter(|item| item["freed"] == true)
        .map(|item| item["bytes"].as_u64().unwrap())
        .sum();
    assert!(sum < sizes / 2, "{sum} of {sizes}");
    let before = service.get("/v1/storage")["bytes"].as_u64().unwrap();

    // For people: one line for each.
    let told = service.chalk().args(["gc", "--dry-run"]).run().ok();
    assert!(told.stdout.lines().count() > 1000, "{}", told.stdout.len());
    assert!(told.stdout.contains("would free"));

    let stop = AtomicBool::new(false);
    let pushed = AtomicUsize::new(0);
    let (report, pushes) = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let registry = RegistryHttp::of(&service);
            let mut layers = BTreeSet::new();
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let layer = format!("pushed {number}").into_bytes();
                // With the base, and with a file that is garbage just now.
                let file = format!("file {} of a build", number % 50)
                    .repeat(50)
                    .into_bytes();
                let tag = format!("p{number}");
                push(&registry, "team/pushed", &tag, &[base.clone(), layer, file]);
                layers.insert(number % 50);
                pushed.fetch_add(1, Ordering::Relaxed);
            }
            layers
        });
        wait_until("a push went through", || pushed.load(Ordering::Relaxed) > 0);
        let report = gc(&service, &["--all"]);
        stop.store(true, Ordering::Relaxed);
        (report, pushing.join().unwrap())
    });
    let mut went = freed(&report);
    // Files that a push took up meanwhile stay, and nothing else that was told to go.
    let mut rescued = 0;
    for number in pushes {
        let bytes = format!("file {number} of a build").repeat(50);
        let name = format!("blobs {}", Digest::of(bytes.as_bytes()));
        if !went.contains_key(&name) {
            rescued += planned[&name];
            went.insert(name.clone(), planned[&name]);
        }
    }
    assert_eq!(went, planned);
    let total = report["summary"]["freed_bytes"].as_u64().unwrap();
    assert_eq!(total + rescued, sum);
    let repositories = ["chalk/images", "team/pushed"]
        .map(str::to_owned)
        .into_iter();
    let apps = (0..32).map(|number| format!("team/app{number}"));
    let all: BTreeSet<String> = repositories.chain(apps).collect();
    let left = assert_whole(&service, &all);
    assert_eq!(left, 1 + 64 + pushed.load(Ordering::Relaxed));
    let after = service.get("/v1/storage")["bytes"].as_u64().unwrap();
    assert!(before - after > total / 2, "{before} {after} {total}");
}

fn take_nothing_from_anybody(world: &World) {
    let policy = [
        ("gc.age", "1d"),
        ("gc.keep", "1"),
        ("gc.interval", ""),
        ("gc.grace", "1h"),
    ];
    let steps = [("gc.steps_age", "1d"), ("gc.caches_age", "1d")];
    let settings = [&policy[..], &steps, &STEADY].concat();
    let mut service = world.start("gc-race", &settings);
    let mark = unique();
    let project = |last: &str| {
        Project::toml(&format!(
            "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo {mark} > /one\", \"echo two > /two\", \"echo {last}\"]\n"
        ))
    };
    let first = project("first");
    let built = service.build(&first.arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap().to_owned();
    let node = Node::start(&service, "keeper", "local", &world.folder("gc-keeper"), &[]);
    service.stop();
    let state = service.state().to_owned();
    let disk = Disk { state: &state };
    // Layers that are garbage, which pushes find by mounting them.
    let layers: Vec<Vec<u8>> = (0..60)
        .map(|number| format!("old layer {number} ").repeat(500).into_bytes())
        .collect();
    for layer in &layers {
        disk.blob(layer);
    }
    for number in 0..20 {
        disk.image(
            "team/old",
            &format!("v{number}"),
            &layers[number..number + 3],
        );
    }
    disk.age(10 * DAY);
    service.start_again(&[]);
    node.wait_for(&service, "ready");
    // The base is asked for, so that it stays.
    let base = "/v2/imports/docker.io/library/busybox/manifests/latest";
    RegistryHttp::of(&service).head(base).is(200);

    let stop = AtomicBool::new(false);
    let runs = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut freed = 0;
            while !stop.load(Ordering::Relaxed) {
                freed += gc(&service, &[])["summary"]["freed_bytes"]
                    .as_u64()
                    .unwrap();
                runs.fetch_add(1, Ordering::Relaxed);
            }
            freed
        });
        let mut works = Vec::new();
        for pusher in 0..3_usize {
            let (service, layers) = (&service, &layers);
            works.push(scope.spawn(move || {
                let registry = RegistryHttp::of(service);
                for round in 0..20 {
                    let at = (round * 3 + pusher * 7) % 57;
                    let name = format!("team/pushed{}", pusher % 2);
                    let tag = format!("p{pusher}-{round}");
                    push(&registry, &name, &tag, &layers[at..at + 3]);
                }
            }));
        }
        let (service, project, hash) = (&service, &project, &hash);
        works.push(scope.spawn(move || {
            for round in 0..3 {
                let project = project(&format!("round {round} {}", unique()));
                let built = service.build(&project.arg("image.toml"));
                assert_eq!(built["status"], "built", "{built:#}");
                let built = built["image_hash"].as_str().unwrap();
                service.warm(&["--image", built, "--all", "--wait"]).ok();
            }
        }));
        works.push(scope.spawn(move || {
            // The image may be collected before it is asked for, but not after.
            let again = service.build(&project("first").arg("image.toml"));
            assert_eq!(again["image_hash"], **hash, "{again:#}");
            service.warm(&["--image", hash, "--all", "--wait"]).ok();
        }));
        works.push(scope.spawn(move || {
            let layout = format!("oci:{}", world.busybox_layout().display());
            let repository = format!("docker://{}/team/copied", service.address());
            for round in 0..4 {
                let credentials = format!("--dest-creds=chalk:{}", service.token());
                let mut copy = chalk_tests::tool("skopeo", ["--insecure-policy", "copy"]);
                copy.args(["--dest-tls-verify=false", &credentials, &layout]);
                run(copy.arg(format!("{repository}:{round}"))).ok();
            }
        }));
        let ended: Vec<_> = works
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        wait_until("garbage was collected meanwhile", || {
            runs.load(Ordering::Relaxed) > 1
        });
        stop.store(true, Ordering::Relaxed);
        let freed = collecting.join().unwrap();
        for work in ended {
            work.unwrap();
        }
        assert!(freed > 0, "there was garbage");
    });
    let repositories = [
        "chalk/images",
        "chalk/steps",
        "team/old",
        "team/pushed0",
        "team/pushed1",
        "team/copied",
    ];
    let whole = assert_whole(&service, &repositories.map(str::to_owned).into());
    assert!(whole > 64, "{whole}");
    let shown = service.image(&["ls", "--json"]).ok().json();
    assert!(shown.as_array().unwrap().len() >= 4, "{shown:#}");
    drop(node);
}

fn a_killed_collection(world: &World) {
    let settings = [
        ("gc.age", "1d"),
        ("gc.keep", "1"),
        ("gc.interval", ""),
        ("gc.grace", "1h"),
    ];
    let mut service = world.start_empty("gc-killed", &settings);
    service.stop();
    let state = service.state().to_owned();
    let disk = Disk { state: &state };
    let base = b"base".repeat(1000);
    let names: BTreeSet<String> = (0..10).map(|number| format!("team/app{number}")).collect();
    for name in &names {
        for tag in 0..20 {
            let own = format!("{name} {tag} ").repeat(50).into_bytes();
            disk.image(name, &format!("v{tag}"), &[base.clone(), own]);
        }
    }
    disk.age(10 * DAY);
    service.start_again(&[]);
    let planned = freed(&gc(&service, &["--dry-run"]));
    assert_eq!(
        planned
            .keys()
            .filter(|name| name.starts_with("names"))
            .count(),
        190
    );
    for round in 0..4 {
        let tags = || {
            let tags = names.iter().map(|name| {
                let dir = state.join("registry/repositories").join(name).join("_tags");
                fs::read_dir(dir).map_or(0, Iterator::count)
            });
            tags.sum::<usize>()
        };
        let before = tags();
        let mut collecting = service.chalk().args(["gc", "--json"]).start();
        // Somewhere among the tags, or after them.
        let goal = before.saturating_sub(5 + 30 * round).max(10);
        wait_until("the collection is under way", || tags() <= goal);
        service.kill();
        collecting.wait();
        service.start_again(&[]);
        let left = assert_whole(&service, &names);
        assert!(left >= 10, "{left}");
        // What was read just now counts as used.
        service.stop();
        disk.age(10 * DAY);
        service.start_again(&[]);
    }
    gc(&service, &[]);
    assert_eq!(assert_whole(&service, &names), 10);
    let storage = service.get("/v1/storage");
    // Ten manifests, configs and layers, and the base.
    assert_eq!(storage["blobs"], 31, "{storage:#}");
    service.stop();
    service.assert_clean();
}

fn what_nodes_have_warm_stays(world: &World) {
    let policy = [
        ("gc.age", "1d"),
        ("gc.keep", "0"),
        ("gc.interval", ""),
        ("gc.grace", "1h"),
    ];
    let steps = [("gc.steps_age", "1d"), ("gc.caches_age", "1d")];
    let settings = [&policy[..], &steps, &STEADY].concat();
    let mut service = world.start("gc-warm", &settings);
    let build = |service: &Service, name: &str| {
        let declaration = format!(
            "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo {} > /own; touch -d @1577836800 /own\"]\n[[step]]\nadd_local_dir = {{ src = \"src\", dest = \"/src\", strategy = \"copy\" }}\n",
            unique()
        );
        let project = Project::new(&[("image.toml", &declaration), ("src/app", &unique())]);
        let built = service
            .image(&[
                "build",
                &project.arg("image.toml"),
                "--json",
                "--name",
                name,
            ])
            .ok()
            .result();
        built["image_hash"].as_str().unwrap().to_owned()
    };
    let (warm, cold) = (
        build(&service, "team/warm:1"),
        build(&service, "team/cold:1"),
    );
    let hex = |hash: &str| hash.trim_start_matches("sha256:").to_owned();
    let node = Node::start(&service, "warmed", "local", &world.folder("gc-warmed"), &[]);
    service.warm(&["--image", &warm, "--all", "--wait"]).ok();
    service.stop();
    let state = service.state().to_owned();
    Disk { state: &state }.age(10 * DAY);
    service.start_again(&[]);
    node.wait_for(&service, "ready");
    wait_until("the node says what it has", || {
        !service.get("/v1/caches")["images"]
            .as_array()
            .unwrap()
            .is_empty()
    });

    let dry = gc(&service, &["--dry-run"]);
    assert_eq!(
        why(&dry, "images", &hex(&warm)),
        "it is warm on node warmed"
    );
    assert!(why(&dry, "images", &hex(&cold)).contains("gc.age is 1 day"));
    let base = "imports/docker.io/library/busybox:latest";
    assert_eq!(
        why(&dry, "imports", base),
        "an image that stays was built on it"
    );
    let report = gc(&service, &["--all"]);
    assert_eq!(freed(&report), freed(&dry));
    let areas = &report["summary"]["areas"];
    for area in ["images", "names", "imports", "steps", "caches"] {
        assert!(
            areas[area]["freed"].as_u64().unwrap() > 0,
            "{area}: {areas:#}"
        );
    }
    // The index knows it, too.
    let left = service.image(&["ls", "--json"]).ok().json();
    let left: Vec<&str> = left
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|i| i["image_hash"].as_str())
        .collect();
    assert_eq!(left, [&warm]);
    service.image(&["show", &cold]).code(4);
    service.image(&["show", "team/cold:1"]).code(4);
    // It can still be built anew: its base and the files that it was given are there.
    let verified = ["verify", &warm, "--json", "--progress", "quiet"];
    service.image(&verified).ok();
    let run = service.sandbox(&warm, &["--", "cat", "/own"]).run().ok();
    assert!(!run.stdout.trim().is_empty());
    let all = ["chalk/images", "chalk/steps", "team/warm", "team/cold"];
    assert!(assert_whole(&service, &all.map(str::to_owned).into()) >= 1);
    service.stop();
    service.assert_clean();
    drop(node);
}
