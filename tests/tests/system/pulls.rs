//! Pulls of nodes from registries and mirrors that fail, lie, stall, or are gone and come back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use chalk_tests::{
    Distribution, Fault, Impostor, MadeUp, Network, Node, QUICK, STEADY, Service, Talk, World,
    noise, run, targets, tool, unique, wait_until,
};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_link_that_is_cut_and_heals", a_link_that_is_cut),
    (
        "a_service_that_stops_under_a_pull_and_comes_back",
        a_service_that_stops,
    ),
    ("mirrors_that_lie_end_early_or_dawdle", mirrors_that_lie),
    ("a_peer_that_sends_wrong_bytes", a_peer_that_lies),
    ("a_full_disk_and_room_again", a_full_disk),
    ("a_node_killed_while_it_pulls", a_node_killed),
    (
        "a_pull_through_registry_stands_in_front",
        a_pull_through_registry,
    ),
    ("nodes_fetch_from_each_other", nodes_fetch_from_each_other),
];

fn layers(count: usize, bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| noise(&unique(), bytes)).collect()
}

/// Warms in the background.
fn begin(world: &World, service: &Service, words: &[&str]) -> Talk {
    let warm = [
        "compute",
        "image",
        "--json",
        "warm",
        "--progress",
        "quiet",
        "--wait",
    ];
    let mut command = service.chalk().args(warm).args(words).into_command();
    Talk::start(&mut command, &world.folder("begin").join("warm"))
}

/// Waits for a good end of such a warm; its targets.
#[track_caller]
fn ended(mut warm: Talk) -> BTreeMap<String, Value> {
    assert_eq!(warm.end(), Some(0), "{}", warm.errors());
    targets(&serde_json::from_str(&warm.output()).unwrap())
}

/// Bytes that a node has fetched in the newest warm.
fn done(service: &Service) -> u64 {
    service.get("/v1/warms")[0]["nodes"][0]["done"]
        .as_u64()
        .unwrap_or(0)
}

/// Expects that a sandbox on a node sees the files of the image as they were made.
#[track_caller]
fn assert_whole(service: &Service, image: &MadeUp, node: &str) {
    let script = "for file in /*-*; do sha256sum < $file; done";
    let words = ["--node", node, "--", "sh", "-c", script];
    let seen = service.sandbox(&image.hash, &words).run().ok().stdout;
    let layout = chalk_tests::Layout::open(&image.layout);
    let files = layout.files().entries;
    let files = files
        .iter()
        .filter(|(path, _)| path.contains('-') && !path.contains('/'));
    let expect: String = files
        .map(|(_, entry)| format!("{}  -\n", entry.contents.trim_start_matches("sha256:")))
        .collect();
    assert_eq!(seen, expect);
}

fn a_link_that_is_cut(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    let away = network.host(Some("4mbit"));
    let service = Service::start_on(&home, &world.folder("cut"), &QUICK);
    let image = MadeUp::new(world, &service, &layers(4, 2 << 20));
    let state = world.folder("cut-node");
    let node = Node::start_on(&away, &service, "away", "local", &state, &[]);
    let before = home.sent();
    let warm = begin(world, &service, &["--image", &image.hash]);
    wait_until("most of the pull", || done(&service) > 6 << 20);
    away.connect(false);
    node.wait_for(&service, "lost");
    away.connect(true);
    away.limit("1gbit");
    node.wait_for(&service, "ready");
    // A warm whose node was lost for a while may have ended in failure; it becomes ready.
    drop(warm);
    wait_until("the warm is ready", || {
        service.get("/v1/warms")[0]["status"] == "ready"
    });
    let sent = home.sent() - before;
    let receipt = service.get("/v1/warms")[0]["nodes"][0].clone();
    // What had come, six megabytes, was not fetched again, save what was under way: into a link that
    // is cut a sender goes on for a while. Headers of packets take some percent.
    assert!(
        sent < image.size + (4 << 20),
        "{sent} bytes for an image of {}: {receipt:#}",
        image.size
    );
    assert_whole(&service, &image, "away");
}

fn a_service_that_stops(world: &World) {
    let mut network = Network::new();
    let home = network.host(Some("16mbit"));
    let away = network.host(None);
    let mut service = Service::start_on(&home, &world.folder("stops"), &STEADY);
    let image = MadeUp::new(world, &service, &layers(4, 2 << 20));
    let state = world.folder("stops-node");
    let node = Node::start_on(&away, &service, "away", "local", &state, &[]);
    for crash in [true, false] {
        let warm = service.warm(&["--image", &image.hash]).ok().json();
        let id = warm["id"].as_str().unwrap().to_owned();
        wait_until("the middle of the pull", || done(&service) > 2 << 20);
        if crash {
            service.kill();
        } else {
            service.stop();
        }
        service.start_again(&[]);
        node.wait_for(&service, "ready");
        home.limit("1gbit");
        let mut last = Value::Null;
        wait_until("the warm is ready after the restart", || {
            last = service.get(&format!("/v1/warms/{id}"));
            last["status"] == "ready"
        });
        assert_eq!(last["nodes"][0]["state"], "ready", "{last:#}");
        assert_whole(&service, &image, "away");
        service.nodes(&["cache", "rm", "away", &image.hash]).ok();
        home.limit("16mbit");
    }
}

fn mirrors_that_lie(world: &World) {
    let service = world.start_empty("liars", &STEADY);
    let image = MadeUp::new(world, &service, &layers(3, 1 << 20));
    let faults = [
        ("wrong", Fault::WrongBytes),
        ("early", Fault::EndsEarly),
        ("stalls", Fault::Stalls),
        ("trickles", Fault::Trickles),
    ];
    let impostors = faults.map(|(name, fault)| (name, Impostor::start(&image.layout, fault)));
    let nodes = impostors.each_ref().map(|(name, impostor)| {
        let mirrors = format!("{}=http://{}", service.address(), impostor.address());
        let words = ["--registry-mirror", &mirrors];
        Node::start(&service, name, "local", &world.folder(name), &words)
    });
    let warm = service.warm(&["--image", &image.hash, "--all", "--wait"]);
    let warm = targets(&warm.ok().json());
    for (name, impostor) in &impostors {
        assert_eq!(warm[*name]["state"], "ready", "{warm:#?}");
        assert!(impostor.asked() > 0, "the mirror {name} was asked first");
        assert_whole(&service, &image, name);
    }
    // One that lied about a layer is not asked for it again.
    let asked = impostors[0].1.asked();
    let layout = chalk_tests::Layout::open(&image.layout).manifest();
    let count = layout["layers"].as_array().unwrap().len();
    assert!(asked <= count, "asked {asked} times for {count} layers");
    drop(nodes);
}

fn a_peer_that_lies(world: &World) {
    let service = world.start_empty("peers", &STEADY);
    let image = MadeUp::new(world, &service, &layers(3, 1 << 20));
    let impostor = Impostor::start(&image.layout, Fault::WrongBytes);
    let advertised = impostor.address();
    // A node that tells others to fetch from the impostor.
    let words = [
        "--mirror-listen",
        "127.0.0.1:0",
        "--mirror-advertise",
        &advertised,
    ];
    let liar = Node::start(&service, "liar", "local", &world.folder("liar"), &words);
    let words = ["--image", &image.hash, "--node", "liar", "--wait"];
    service.warm(&words).ok();
    assert_eq!(impostor.asked(), 0, "no node is its own peer");
    let honest = Node::start(&service, "honest", "local", &world.folder("honest"), &[]);
    let words = ["--image", &image.hash, "--node", "honest", "--wait"];
    let warm = targets(&service.warm(&words).ok().json());
    assert!(impostor.asked() > 0, "the peer was asked: {warm:#?}");
    assert_whole(&service, &image, "honest");
    drop((liar, honest));
}

/// A small filesystem in memory; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(world: &World, size: &str) -> Self {
        let folder = world.folder("disk");
        let options = format!("size={size}");
        let mount = ["-t", "tmpfs", "-o", &options, "chalk-test"];
        run(tool("mount", mount).arg(&folder)).ok();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = tool("umount", [&self.0]).status();
    }
}

fn a_full_disk(world: &World) {
    let service = world.start_empty("full", &STEADY);
    let small = MadeUp::new(world, &service, &layers(1, 1000));
    let image = MadeUp::new(world, &service, &layers(4, 8 << 20));
    let disk = SmallDisk::mount(world, "128m");
    let state = disk.0.join("state");
    fs::create_dir(&state).unwrap();
    let mut node = Node::start(&service, "full", "local", &state, &[]);
    service.warm(&["--image", &small.hash, "--wait"]).ok();
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 104 << 20]).unwrap();
    let warm = service.warm(&["--image", &image.hash]).ok().json();
    let path = format!("/v1/warms/{}", warm["id"].as_str().unwrap());
    wait_until("the full disk is told", || {
        service.get(&path)["nodes"][0]["error"]["type"] == "urn:chalk:disk-full"
    });
    // What was there still is, and starts; when there is room, the next try brings the rest.
    node.wait_for(&service, "ready");
    // A try of the pull may just fill the disk; between two there is room for the sandbox's own.
    wait_until("what is there starts", || {
        let ran = service.sandbox(&small.hash, &["--", "true"]).run();
        ran.status.success()
    });
    fs::remove_file(&ballast).unwrap();
    wait_until("the warm is ready", || {
        service.get(&path)["status"] == "ready"
    });
    assert_whole(&service, &image, "full");
    node.stop();
    drop(node);
    drop(disk);
}

fn a_node_killed(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    let away = network.host(Some("24mbit"));
    let service = Service::start_on(&home, &world.folder("killed"), &STEADY);
    let image = MadeUp::new(world, &service, &layers(10, 1 << 20));
    let state = world.folder("killed-node");
    let set = ["--set", "node.parallel=2"];
    let mut node = Node::start_on(&away, &service, "away", "local", &state, &set);
    let before = home.sent();
    let id = service.warm(&["--image", &image.hash]).ok().json()["id"].clone();
    let mut kept = BTreeMap::new();
    for least in [1, 3, 6] {
        wait_until("the next layers are finished", || {
            finished_layers(&state).len() >= least
        });
        node.kill();
        kept = finished_layers(&state);
        node.launch();
        node.wait_for(&service, "ready");
    }
    away.limit("1gbit");
    let path = format!("/v1/warms/{}", id.as_str().unwrap());
    wait_until("the warm is ready", || {
        service.get(&path)["status"] == "ready"
    });
    let sent = home.sent() - before;
    let target = service.get(&path)["nodes"][0].clone();
    // A finished layer is the one that it was, and is not fetched again.
    let after = finished_layers(&state);
    for (layer, (inode, _)) in &kept {
        assert_eq!(after.get(layer).map(|(now, _)| now), Some(inode), "{layer}");
    }
    let present: u64 = kept.values().map(|(_, size)| size).sum();
    let told = target["bytes_present"].as_u64().unwrap();
    assert!(told >= present, "{present} bytes were there: {target:#}");
    // Each kill costs what was under way, two layers of a megabyte, and never a finished one.
    let most = image.size + 3 * (2 << 20) + (3 << 20);
    assert!(
        sent < most,
        "{sent} bytes for an image of {}: {target:#}",
        image.size
    );
    assert_whole(&service, &image, "away");
    // The layers of the image and no half one are there, and nothing on its way in or out.
    let layout = chalk_tests::Layout::open(&image.layout).manifest();
    let count = layout["layers"].as_array().unwrap().len();
    let listing = service.get("/v1/nodes/away/cache");
    let evictable = |item: &&Value| item["kind"] == "layer" && item["evictable"] == true;
    let items = listing["items"].as_array().unwrap();
    assert_eq!(items.iter().filter(evictable).count(), count, "{listing:#}");
    assert_eq!(after.len(), count, "{after:?}");
    node.stop();
    let left = run(tool("find", [&state]).args(["-name", ".new-*", "-o", "-name", ".old-*"]));
    assert_eq!(left.ok().stdout, "", "temporary files are left");
}

/// The layers of a node that are finished, with the inode of their directory and the bytes of their
/// blob.
fn finished_layers(state: &Path) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(state.join("node/cache/layers")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let note = fs::read_to_string(path.join("layer.json")).unwrap();
        let note: Value = serde_json::from_str(&note).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        found.insert(name, (inode, note["size"].as_u64().unwrap()));
    }
    found
}

fn a_pull_through_registry(world: &World) {
    let service = world.start_empty("behind", &STEADY);
    let image = MadeUp::new(world, &service, &layers(3, 200_000));
    let folder = world.folder("proxy");
    let proxy = Distribution::start_proxy(&folder, service.url(), "chalk", service.token());
    let mirrors = format!("{}=http://{}", service.address(), proxy.address());
    let node = |name: &str| {
        let words = ["--registry-mirror", &mirrors];
        Node::start(&service, name, "local", &world.folder(name), &words)
    };
    let (one, two) = (node("one"), node("two"));
    let words = ["--image", &image.hash, "--all", "--wait"];
    service.warm(&words).ok();
    let layout = chalk_tests::Layout::open(&image.layout).manifest();
    for layer in layout["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        wait_until(&format!("{digest} came through the proxy"), || {
            // Nodes would go on to the registry if the proxy could not log in there.
            let log = proxy.log();
            let mut answers = log.lines().filter(|line| {
                line.contains("response completed") && line.contains("http.response.status=200")
            });
            answers.any(|line| line.contains(digest) && line.contains("GET"))
        });
    }
    for node in ["one", "two"] {
        assert_whole(&service, &image, node);
    }
    drop((one, two));
}

fn nodes_fetch_from_each_other(world: &World) {
    let mut network = Network::new();
    let home = network.host(Some("100mbit"));
    let mut settings = STEADY.to_vec();
    // The others have it from nodes, however much later than the first they begin.
    settings.push(("warm.registry_pulls", "1"));
    let service = Service::start_on(&home, &world.folder("each-other"), &settings);
    let image = MadeUp::new(world, &service, &layers(4, 2 << 20));
    let nodes: Vec<Node> = (0..6)
        .map(|number| {
            let host = network.host(Some("100mbit"));
            let listen = format!("{}:7475", host.address());
            let name = format!("n{number}");
            let words = ["--mirror-listen", &listen];
            Node::start_on(
                &host,
                &service,
                &name,
                "local",
                &world.folder(&name),
                &words,
            )
        })
        .collect();
    let before = home.sent();
    let warm = begin(world, &service, &["--image", &image.hash, "--all"]);
    let warm = ended(warm);
    let sent = home.sent() - before;
    assert_eq!(warm.len(), 6);
    assert!(
        sent < 3 * image.size,
        "the registry sent {sent} bytes for 6 nodes, the image has {}",
        image.size
    );
    for node in &nodes {
        assert_whole(&service, &image, node.name());
    }
    // A mirror answers nobody without the token of its region.
    let mirror = service.get("/v1/nodes/n0")["mirror"]
        .as_str()
        .unwrap()
        .to_owned();
    let layout = chalk_tests::Layout::open(&image.layout).manifest();
    let digest = layout["layers"][0]["digest"].as_str().unwrap();
    let host = network.host(None);
    let mut curl = host.command("curl");
    curl.args(["--silent", "--noproxy", "*", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}"]);
    let answer = run(curl.arg(format!("{mirror}/v2/x/blobs/{digest}")));
    assert_eq!(answer.ok().stdout, "401");
    drop(nodes);
}
