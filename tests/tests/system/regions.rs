//! Regions with registries of their own, and nodes that go away in the middle of a warm.

use chalk_tests::{
    Distribution, Host, Layout, MadeUp, Network, Node, QUICK, STEADY, Service, Talk, World, noise,
    targets, unique, wait_until,
};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_node_killed_in_the_middle_of_a_warm_of_its_region",
        killed_in_the_middle,
    ),
    (
        "an_image_is_copied_to_the_region_where_a_sandbox_starts",
        copied_where_a_sandbox_starts,
    ),
];

/// Waits until the log of a registry tells that it sent each layer of an image, to a host.
#[track_caller]
fn wait_until_served(registry: &Distribution, image: &MadeUp, to: Option<&Host>) {
    let from = to.map_or_else(String::new, |host| {
        format!("remoteaddr=\"{}:", host.address())
    });
    let manifest = Layout::open(&image.layout).manifest();
    for layer in manifest["layers"].as_array().unwrap() {
        let blob = format!("/blobs/{}", layer["digest"].as_str().unwrap());
        wait_until(&format!("{blob} came from {}", registry.address()), || {
            let log = registry.log();
            let mut answers = log
                .lines()
                .filter(|line| line.contains("response completed"));
            answers.any(|line| {
                line.contains("method=GET") && line.contains(&blob) && line.contains(&from)
            })
        });
    }
}

fn killed_in_the_middle(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    let hosts: Vec<_> = (0..3).map(|_| network.host(None)).collect();
    let store = network.host(None);
    let registry = Distribution::start_on(&store, &world.folder("south"));
    let registries = format!("south=http://{}", registry.address());
    let mut settings = QUICK.to_vec();
    settings.push(("regions.registries", &registries));
    settings.push(("registry.insecure", registry.address()));
    let service = Service::start_on(&home, &world.folder("regions"), &settings);
    let layers: Vec<_> = (0..6).map(|_| noise(&unique(), 1 << 20)).collect();
    let image = MadeUp::new(world, &service, &layers);
    let node = |at: usize, name: &str, region: &str| {
        let insecure = format!("node.insecure={}", registry.address());
        let words = ["--set", &insecure];
        Node::start_on(
            &hosts[at],
            &service,
            name,
            region,
            &world.folder(name),
            &words,
        )
    };
    let (north, south) = (node(0, "north", "local"), node(1, "south", "south"));
    let mut killed = node(2, "killed", "south");
    let regions = service.get("/v1/regions");
    let of = |name: &str| {
        let mut regions = regions.as_array().unwrap().iter();
        regions
            .find(|region| region["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("south")["registry"], registry.address(), "{regions:#}");
    assert_eq!(
        (&of("south")["nodes"], &of("local")["nodes"]),
        (&2.into(), &1.into())
    );

    // The middle: one node's link carries so little that it needs minutes.
    hosts[2].limit("256kbit");
    let words = [
        "--json",
        "warm",
        "--region",
        "south",
        "--wait",
        "--image",
        &image.hash,
    ];
    let mut command = service.chalk().args(["compute", "image"]).args(words);
    command = command.args(["--progress", "quiet"]);
    let before = home.sent();
    let output = world.folder("regions-talk").join("warm");
    let mut warm = Talk::start(&mut command.into_command(), &output);
    let target = |name: &str| {
        let warms = service.get("/v1/warms");
        let targets = warms[0]["nodes"].as_array().cloned().unwrap_or_default();
        targets.into_iter().find(|target| target["node"] == name)
    };
    wait_until("the slow node is in the middle", || {
        let done = target("killed").map_or(0, |target| target["done"].as_u64().unwrap());
        let other = target("south").is_some_and(|target| target["state"] == "ready");
        other && done > 0
    });
    killed.kill();
    assert_eq!(warm.end(), Some(5), "{}", warm.errors());
    let said: Value = serde_json::from_str(&warm.output()).unwrap();
    let said = targets(&said);
    assert_eq!(
        said.keys().collect::<Vec<_>>(),
        ["killed", "south"],
        "north is not of the region"
    );
    let (ready, failed) = (&said["south"], &said["killed"]);
    assert_eq!(ready["state"], "ready", "{ready:#}");
    assert_eq!(ready["verified"], true, "{ready:#}");
    assert!(
        ready["bytes_fetched"].as_u64().unwrap() >= image.size,
        "{ready:#}"
    );
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert_eq!(failed["error"]["type"], "urn:chalk:node-lost", "{failed:#}");
    killed.wait_for(&service, "lost");
    let shown = service.nodes(&["ls"]).ok().json();
    let lost = shown
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["name"] == "killed");
    assert_eq!(lost.unwrap()["state"], "lost", "{shown:#}");

    // Nodes of the region know its registry only: that is where every blob came from. What the
    // service sent is the copy for that registry.
    let sent = home.sent() - before;
    assert!(
        sent < image.size + image.size / 2,
        "{sent} bytes from home for an image of {}",
        image.size
    );
    wait_until_served(&registry, &image, Some(&hosts[1]));
    let digest = image.digest.as_str();
    assert!(
        registry.log().contains(digest),
        "the manifest is in the region's registry"
    );
    assert!(
        north.images(&service).is_empty(),
        "and not on a node elsewhere"
    );

    // It comes back, and the warm that had failed there becomes ready.
    hosts[2].limit("1gbit");
    killed.launch();
    killed.wait_for(&service, "ready");
    wait_until("the node that came back has the image", || {
        target("killed").is_some_and(|target| target["state"] == "ready")
    });
    let images = killed.images(&service);
    assert!(
        images.iter().any(|image| image["digest"] == digest),
        "{images:#?}"
    );
    let id = service.get("/v1/warms")[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ended = service.get(&format!("/v1/warms/{id}"));
    assert_eq!(ended["status"], "ready", "{ended:#}");
    drop(south);
}

fn copied_where_a_sandbox_starts(world: &World) {
    let registry = Distribution::start(&world.folder("west"));
    let registries = format!("west={}/fleet", registry.address());
    let mut settings = STEADY.to_vec();
    settings.push(("regions.registries", &registries));
    let service = world.start_empty("west", &settings);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let node = Node::start(&service, "west", "west", &world.folder("west-node"), &[]);
    let words = ["--region", "west", "--", "echo", "hello from the west"];
    let ran = service.sandbox(&image.hash, &words).run().ok();
    assert_eq!(ran.stdout, "hello from the west\n");
    wait_until_served(&registry, &image, None);
    assert!(registry.log().contains("/v2/fleet/"), "below the prefix");
    let listed = service.sandboxes(&["ls", "--all", "--json"]).ok().json();
    assert_eq!(listed[0]["region"], "west", "{listed:#}");
    drop(node);
}
