//! Nodes that keep images in a containerd, for the containers of Kubernetes or nerdctl.

use std::fs;
use std::path::Path;

use chalk_tests::{
    Containerd, Distribution, Fault, Impostor, Layout, MadeUp, Node, Project, STEADY, Service,
    World, noise, targets, unique, wait_for, wait_until,
};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_warmed_image_runs_without_a_pull", runs_without_a_pull),
    ("containerd_killed_in_the_middle", containerd_killed),
    ("node_killed_in_the_middle", node_killed),
    ("wrong_bytes_are_refused", wrong_bytes),
    ("hosts_toml_counts", hosts_toml),
    ("the_cache_says_what_is_there", the_cache),
    ("what_others_brought_stays", of_others),
    ("no_sandboxes", no_sandboxes),
];

const MIB: usize = 1 << 20;

/// A service, and a node with a containerd.
struct Setting {
    // Before the service and the containerd, which it talks to.
    node: Node,
    service: Service,
    containerd: Containerd,
}

impl Setting {
    fn new(world: &World, name: &str, words: &[&str]) -> Self {
        Self::in_region(world, name, &STEADY, "local", words)
    }

    fn in_region(
        world: &World,
        name: &str,
        settings: &[(&str, &str)],
        region: &str,
        words: &[&str],
    ) -> Self {
        let service = Service::start(&world.state(name), settings);
        let containerd = Containerd::start(&world.folder("containerd"));
        let socket = containerd.socket().display().to_string();
        let own = ["--runtime", "containerd", "--containerd-address", &socket];
        let state = world.folder(name);
        let node = Node::start(&service, "c", region, &state, &[&own, words].concat());
        Self {
            node,
            service,
            containerd,
        }
    }

    fn cache(&self) -> Value {
        self.service.get("/v1/nodes/c/cache")
    }

    fn warm(&self, hash: &str, more: &[&str]) -> Value {
        let words = [&["--image", hash, "--wait"], more].concat();
        let warm = self.service.warm(&words).ok().json();
        targets(&warm)["c"].clone()
    }

    /// Begins a warm and gives its identifier.
    fn begin(&self, hash: &str) -> String {
        let warm = self.service.warm(&["--image", hash]).ok().json();
        warm["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a warm, which must be a good one.
    fn ready(&self, warm: &str) -> Value {
        wait_for("the warm ends", || {
            let warm = self.service.get(&format!("/v1/warms/{warm}"));
            let target = targets(&warm)["c"].clone();
            assert_ne!(target["state"], "failed", "{target:#}");
            (target["state"] == "ready").then_some(target)
        })
    }

    /// No lease is left that would keep what nobody names.
    fn no_leases(&self) {
        let leases = self.containerd.ctr(&["leases", "ls", "--quiet"]).ok();
        assert_eq!(leases.stdout, "");
    }
}

/// An image of layers that take a while.
fn big(world: &World, service: &Service) -> MadeUp {
    let layers: Vec<_> = (0..6).map(|_| noise(&unique(), 8 * MIB)).collect();
    MadeUp::new(world, service, &layers)
}

/// Blobs on their way into containerd.
fn ingests(containerd: &Containerd) -> usize {
    let ingest = "io.containerd.content.v1.content/ingest";
    let entries = fs::read_dir(containerd.root().join(ingest));
    entries.map_or(0, Iterator::count)
}

fn runs_without_a_pull(world: &World) {
    let mut all = Setting::new(world, "containerd", &[]);
    let marker = unique();
    let text = format!(
        "[image]\nbase = \"busybox\"\nenv = {{ WHO = \"chalk\" }}\n[[step]]\n\
         run_commands = [\"echo {marker} > /marker && mkdir -p /a/b && ln -s /marker /a/b/link\"]\n"
    );
    let project = Project::new(&[("image.toml", &text)]);
    let built = all.service.build(&project.arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap();
    let first = all.warm(hash, &["--pin"]);
    assert_eq!(first["verified"], true, "{first:#}");
    assert_eq!(first["bytes_present"], 0, "{first:#}");
    let detail = all.service.get(&format!("/v1/images/{hash}"));
    let fetched = first["bytes_fetched"].as_u64().unwrap();
    assert!(fetched >= detail["size"].as_u64().unwrap(), "{first:#}");
    let again = all.warm(hash, &[]);
    assert_eq!(again["bytes_fetched"], 0, "{again:#}");
    assert_eq!(again["bytes_present"], json!(fetched), "{again:#}");
    all.no_leases();

    // By the names that pods use, complete and unpacked, and marked for the kubelet.
    let image = built["image"].as_str().unwrap().to_owned();
    let digest = built["digest"].as_str().unwrap();
    let repository = image.rsplit_once(':').unwrap().0;
    let by_digest = format!("{repository}@{digest}");
    let mut names = vec![image.clone(), by_digest.clone()];
    names.sort();
    assert_eq!(all.containerd.images(), names);
    let checked = all.containerd.ctr(&["images", "check"]).ok().stdout;
    for name in &names {
        let line = checked.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(
            line.contains("complete") && line.trim_end().ends_with("true"),
            "{checked}"
        );
    }
    let listed = all.containerd.ctr(&["images", "ls"]).ok().stdout;
    let managed = listed.matches("io.cri-containerd.image=managed").count();
    assert_eq!(managed, 3, "two names and the id of the config: {listed}");

    // Neither containerd's collector nor a restart takes it, and nobody is there to pull from.
    all.containerd.collect();
    all.service.stop();
    all.containerd.kill();
    all.containerd.launch();
    all.containerd.collect();
    for name in &names {
        let ran = all
            .containerd
            .run(name, &["sh", "-c", "echo $WHO; cat /a/b/link"]);
        assert_eq!(ran.ok().stdout, format!("chalk\n{marker}\n"));
    }
    all.service.start_again(&[]);
    all.node.wait_for(&all.service, "ready");
    wait_until("the node tells of it", || {
        let cached = all.cache();
        cached["images"][0]["digest"] == digest && cached["images"][0]["pins"] == json!(["warm"])
    });
}

fn containerd_killed(world: &World) {
    let mut all = Setting::new(world, "killed", &["--set", "node.parallel=1"]);
    let image = big(world, &all.service);
    all.containerd.kill();
    let warm = all.begin(&image.hash);
    // Gone from the beginning: the failure may pass, and says what is wrong.
    wait_until("the node says that containerd is away", || {
        let warm = all.service.get(&format!("/v1/warms/{warm}"));
        let target = targets(&warm)["c"].clone();
        let said = target["error"].to_string();
        assert_ne!(target["state"], "ready", "{target:#}");
        said.contains("containerd does not answer at") && target["retries_left"] != 0
    });
    for _ in 0..2 {
        all.containerd.launch();
        wait_until("a blob is on its way, or all are there", || {
            ingests(&all.containerd) > 0 || !all.containerd.images().is_empty()
        });
        all.containerd.kill();
    }
    all.containerd.launch();
    all.ready(&warm);
    let words = ["sh", "-c", "cat /*-* | wc -c"];
    let ran = all.containerd.run(&image.image, &words).ok();
    assert_eq!(ran.stdout, format!("{}\n", 6 * 8 * MIB));
    all.no_leases();
    all.containerd.collect();
    assert_eq!(ingests(&all.containerd), 0);
}

fn node_killed(world: &World) {
    let mut all = Setting::new(world, "node-killed", &["--set", "node.parallel=1"]);
    let image = big(world, &all.service);
    let warm = all.begin(&image.hash);
    wait_until("a blob is on its way", || ingests(&all.containerd) > 0);
    all.node.kill();
    // What was finished stays for the next try, whatever containerd collects.
    all.containerd.collect();
    all.node.launch();
    let ready = all.ready(&warm);
    assert_eq!(ready["verified"], true, "{ready:#}");
    let words = ["sh", "-c", "cat /*-* | wc -c"];
    let ran = all.containerd.run(&image.image, &words).ok();
    assert_eq!(ran.stdout, format!("{}\n", 6 * 8 * MIB));
    all.no_leases();
    all.containerd.collect();
    let snapshots = all.containerd.ctr(&["snapshots", "ls"]).ok().stdout;
    assert!(!snapshots.contains("chalk-extract-"), "{snapshots}");
}

fn wrong_bytes(world: &World) {
    // A mirror that lies: the layers come from the registry instead.
    let registry = Distribution::start(&world.folder("liar"));
    let regions = format!("west=http://{}", registry.address());
    let mut settings = STEADY.to_vec();
    settings.push(("regions.registries", &regions));
    settings.push(("registry.insecure", registry.address()));
    let hosts = world.folder("hosts");
    let words = [
        "--set",
        &format!("node.insecure={}", registry.address()),
        "--set",
        &format!("node.containerd.hosts_dir={}", hosts.display()),
    ];
    let all = Setting::in_region(world, "wrong", &settings, "west", &words);
    let image = MadeUp::new(world, &all.service, &[noise(&unique(), MIB)]);
    let bytes = stored(&all.service, &image, world);
    let liar = Impostor::start(&bytes, Fault::WrongBytes);
    write_hosts(
        &hosts,
        registry.address(),
        &format!("http://{}", liar.address()),
    );
    let ready = all.warm(&image.hash, &[]);
    assert_eq!(ready["verified"], true, "{ready:#}");
    assert!(liar.asked() > 0);
    let name = format!("{}/chalk/images@{}", registry.address(), image.digest);
    all.containerd.run(&name, &["true"]).ok();

    // A registry whose disk erred, behind which there is nobody: nothing of it is kept.
    let damaged = MadeUp::new(world, &all.service, &[noise(&unique(), MIB)]);
    fs::remove_dir_all(hosts.join(registry.address())).unwrap();
    let regional = all
        .service
        .warm(&["--image", &damaged.hash, "--node", "c", "--wait"]);
    regional.ok();
    all.service.nodes(&["cache", "rm", "c", &damaged.hash]).ok();
    let top = Layout::open(&stored(&all.service, &damaged, world)).manifest();
    let top = top["layers"].as_array().unwrap().last().unwrap()["digest"].clone();
    let hex = top
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned();
    let blobs = world_blob(&registry, &hex);
    let mut contents = fs::read(&blobs).unwrap();
    let middle = contents.len() / 2;
    contents[middle] ^= 1;
    fs::write(&blobs, contents).unwrap();
    let failed = all
        .service
        .warm(&["--image", &damaged.hash, "--wait"])
        .code(1);
    let target = targets(&failed.json())["c"].clone();
    assert_eq!(target["error"]["type"], "urn:chalk:damaged", "{target:#}");
    let names = all.containerd.images();
    assert!(
        !names.iter().any(|name| name.contains(&damaged.digest)),
        "{names:?}"
    );
    wait_until("what came is collected", || {
        all.containerd.collect();
        let content = all
            .containerd
            .ctr(&["content", "ls", "--quiet"])
            .ok()
            .stdout;
        !content.contains(&hex) && ingests(&all.containerd) == 0
    });
}

/// The blobs of an image as its registry has them, as an OCI layout.
fn stored(service: &Service, image: &MadeUp, world: &World) -> std::path::PathBuf {
    let folder = world.folder("stored");
    let from = format!("docker://{}", image.image);
    let to = format!("oci:{}:x", folder.display());
    let mut copy = service.skopeo("copy");
    chalk_tests::run(copy.args([&from, &to])).ok();
    folder
}

/// The file of a blob in Debian's registry.
fn world_blob(registry: &Distribution, hex: &str) -> std::path::PathBuf {
    let blobs = "data/docker/registry/v2/blobs/sha256";
    registry
        .folder()
        .join(blobs)
        .join(&hex[..2])
        .join(hex)
        .join("data")
}

fn write_hosts(hosts: &Path, registry: &str, mirror: &str) {
    let folder = hosts.join(registry);
    fs::create_dir_all(&folder).unwrap();
    let text = format!("[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    fs::write(folder.join("hosts.toml"), text).unwrap();
}

fn hosts_toml(world: &World) {
    let registry = Distribution::start(&world.folder("origin"));
    let origin = format!("http://{}", registry.address());
    let mirror = Distribution::start_proxy(&world.folder("mirror"), &origin, "", "");
    let hosts = world.folder("hosts");
    let url = format!("http://{}", mirror.address());
    write_hosts(&hosts, registry.address(), &url);
    let regions = format!("west={origin}");
    let mut settings = STEADY.to_vec();
    settings.push(("regions.registries", &regions));
    settings.push(("registry.insecure", registry.address()));
    let words = [
        "--set",
        &format!("node.insecure={}", registry.address()),
        "--set",
        &format!("node.containerd.hosts_dir={}", hosts.display()),
    ];
    let all = Setting::in_region(world, "mirrored", &settings, "west", &words);
    let image = MadeUp::new(world, &all.service, &[noise(&unique(), MIB)]);
    let ready = all.warm(&image.hash, &[]);
    let mirrored = ready["bytes_from_mirrors"].as_u64().unwrap();
    assert!(mirrored > MIB as u64, "{ready:#}");
    // All but the manifest and the config, which count as fetched alone.
    let fetched = ready["bytes_fetched"].as_u64().unwrap();
    assert!(fetched - mirrored < 10_000, "{ready:#}");
    let name = format!("{}/chalk/images@{}", registry.address(), image.digest);
    all.containerd.run(&name, &["true"]).ok();
}

fn the_cache(world: &World) {
    let mut all = Setting::new(world, "cache", &["--cache-size", "1GiB"]);
    let common = noise(&unique(), MIB);
    let made = || {
        MadeUp::new(
            world,
            &all.service,
            &[common.clone(), noise(&unique(), MIB)],
        )
    };
    let (pinned, used, free) = (made(), made(), made());
    all.warm(&pinned.hash, &["--pin"]);
    all.warm(&used.hash, &[]);
    let third = all.warm(&free.hash, &[]);
    assert!(
        third["bytes_present"].as_u64().unwrap() > MIB as u64,
        "{third:#}"
    );
    let id = format!("used-{}", unique());
    let run = [
        "run",
        "--detach",
        "--net-host",
        &used.image,
        &id,
        "sleep",
        "1000",
    ];
    all.containerd.ctr(&run).ok();

    let listing = all.cache();
    let usage = &listing["usage"];
    assert_eq!(
        (&usage["images"], &usage["layers"]),
        (&json!(3), &json!(5)),
        "{usage:#}"
    );
    assert_eq!(usage["size_limit"], 1 << 30, "{usage:#}");
    let of = |image: &MadeUp| {
        let images = listing["images"].as_array().unwrap().iter();
        let mut found = images.filter(|held| held["digest"] == image.digest.as_str());
        found.next().cloned().unwrap_or_default()
    };
    assert_eq!(of(&pinned)["pins"], json!(["warm"]), "{listing:#}");
    assert_eq!(
        of(&pinned)["image_hash"],
        format!("sha256:{}", pinned.hash.trim_start_matches("sha256:"))
    );
    assert_eq!(of(&used)["in_use"], 1, "{listing:#}");
    assert_eq!(of(&free)["image"], free.image.as_str(), "{listing:#}");
    assert!(of(&free)["bytes"].as_u64().unwrap() > 2 * MIB as u64);

    // Only what nobody holds goes, and a dry run says the same.
    let dry = all
        .service
        .nodes(&["cache", "gc", "c", "--dry-run"])
        .ok()
        .json();
    let wet = all.service.nodes(&["cache", "gc", "c"]).ok().json();
    let freed = |report: &Value| {
        let report = report.as_array().map_or(report, |all| &all[0]);
        (
            report["freed"].as_array().unwrap().len(),
            report["freed_bytes"].clone(),
        )
    };
    assert_eq!(freed(&dry), freed(&wet), "{dry:#} {wet:#}");
    assert_eq!(freed(&wet).0, 1, "the layer that only one has: {wet:#}");
    let names = all.containerd.images();
    assert!(
        !names.contains(&free.image) && names.contains(&used.image),
        "{names:?}"
    );
    assert!(names.contains(&pinned.image), "{names:?}");
    let refused = all.service.nodes(&["cache", "rm", "c", &used.hash]);
    assert!(!refused.status.success());
    refused.says(&["1 container use it"]);
    all.containerd.end(&id);
    all.service
        .nodes(&["cache", "unpin", "c", &pinned.hash])
        .ok();
    all.service.nodes(&["cache", "gc", "c"]).ok();
    assert!(all.containerd.images().is_empty());
    let listing = all.cache();
    assert_eq!(listing["usage"]["used"], 0, "{listing:#}");
    let content = all
        .containerd
        .ctr(&["content", "ls", "--quiet"])
        .ok()
        .stdout;
    assert_eq!(content, "");
    let snapshots = all.containerd.ctr(&["snapshots", "ls"]).ok().stdout;
    assert_eq!(
        snapshots.lines().count(),
        1,
        "only the heading: {snapshots}"
    );

    // What is warmed is not held by a container that is gone, also after a restart of the node.
    all.warm(&free.hash, &["--pin"]);
    all.node.stop();
    all.node.launch();
    all.node.wait_for(&all.service, "ready");
    wait_until("the pin is known", || {
        all.cache()["images"][0]["pins"] == json!(["warm"])
    });
    let too_small = all.service.nodes(&["cache", "rm", "c", &free.hash]);
    too_small.ok();
    assert!(all.containerd.images().is_empty());
}

fn of_others(world: &World) {
    let all = Setting::new(world, "others", &[]);
    let archive = world.folder("others").join("image.tar");
    let mut skopeo = chalk_tests::tool("skopeo", ["copy"]);
    let from = format!("oci:{}", world.busybox_layout().display());
    let to = format!("oci-archive:{}:example.com/other:v1", archive.display());
    chalk_tests::run(skopeo.args([&from, &to])).ok();
    let archive = archive.display().to_string();
    all.containerd.ctr(&["images", "import", &archive]).ok();
    wait_until("the node sees it by itself", || {
        let nodes = all.service.get("/v1/nodes/c");
        nodes["cache"]["images"] == 1
    });
    let listing = all.cache();
    let image = &listing["images"][0];
    assert_eq!(image["image"], "example.com/other:v1", "{listing:#}");
    let digest = image["digest"].as_str().unwrap().to_owned();
    all.service.nodes(&["cache", "gc", "c"]).ok();
    let refused = all.service.nodes(&["cache", "rm", "c", &digest]);
    assert!(!refused.status.success());
    refused.says(&["others brought it", "ctr images rm"]);
    assert_eq!(all.containerd.images(), ["example.com/other:v1"]);
    all.containerd
        .ctr(&["images", "rm", "--sync", "example.com/other:v1"])
        .ok();
    wait_until("the node sees that, too", || {
        let nodes = all.service.get("/v1/nodes/c");
        nodes["cache"]["images"] == 0
    });
}

fn no_sandboxes(world: &World) {
    let all = Setting::new(world, "refuses", &[]);
    let image = MadeUp::new(world, &all.service, &[noise(&unique(), 1000)]);
    let refused = all.service.sandbox(&image.hash, &["--", "true"]).run();
    assert!(!refused.status.success(), "{refused}");
    refused.says(&["runs sandboxes", "containerd"]);
    let named = ["--node", "c", "--", "true"];
    let named = all.service.sandbox(&image.hash, &named).run();
    assert!(!named.status.success(), "{named}");
    named.says(&["runs sandboxes", "containerd"]);
    let nodes = all.service.get("/v1/nodes");
    assert_eq!(nodes[0]["runtime"], "containerd", "{nodes:#}");
    // Beside one that runs sandboxes, that one is chosen, although the other has the image.
    all.warm(&image.hash, &[]);
    let other = Node::start(&all.service, "own", "local", &world.folder("own"), &[]);
    all.service.sandbox(&image.hash, &["--", "true"]).run().ok();
    drop(other);
}
