//! Warming: which nodes, what is said, and what fails how.

use std::collections::BTreeMap;
use std::sync::Barrier;

use chalk_core::Digest;
use chalk_tests::{
    Fleet, Layout, MadeUp, Network, Node, Project, STEADY, Service, Talk, World, noise, request,
    run, targets, unique, wait_for, wait_until,
};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("images_that_are_unknown_or_ambiguous", unknown_or_ambiguous),
    ("nodes_that_are_not_there", nodes_that_are_not_there),
    ("a_warm_again_fetches_nothing", a_warm_again_fetches_nothing),
    ("two_warms_of_one_image_at_once", two_warms_at_once),
    ("several_images_share_their_layers", several_images),
    ("labels_and_names_choose_nodes", labels_and_names),
    ("a_cache_too_small_fails_its_node_only", a_cache_too_small),
    ("time_runs_out_and_a_user_goes_away", time_runs_out),
    (
        "events_are_numbered_and_can_be_resumed",
        events_are_numbered,
    ),
    ("a_drained_node_gets_no_new_work", a_drained_node),
    ("a_removed_node_ends", a_removed_node_ends),
    ("prewarmed_bases_follow_their_tags", prewarmed_bases),
];

fn image(world: &World, fleet: &Fleet, layers: &[Vec<u8>]) -> MadeUp {
    MadeUp::new(world, &fleet.service, layers)
}

fn states(warm: &Value) -> BTreeMap<String, String> {
    let state = |(node, target): (String, Value)| {
        (
            node,
            target["state"].as_str().unwrap_or_default().to_owned(),
        )
    };
    targets(warm).into_iter().map(state).collect()
}

/// Two specs on a pinned base whose hashes begin with the same eight digits, and their hashes.
fn look_alikes(base: &str) -> [(Value, String); 2] {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    // The canonical document, as `docs/hash-v1.md` has it.
    let hash = |number: u32| {
        let document = format!(
            r#"{{"base":"{base}","env":{{"N":"{number}"}},"platform":"linux/amd64","schema":"chalk.image/v1"}}"#
        );
        Digest::of(document.as_bytes()).hex()
    };
    let with_hash = |number: u32| {
        let spec = json!({
            "schema": "chalk.image/v1", "env": {"N": number.to_string()},
            "base": {"digest": base, "ref": World::BUSYBOX},
        });
        (spec, hash(number))
    };
    for number in 0.. {
        if let Some(other) = seen.insert(hash(number)[..8].to_owned(), number) {
            return [with_hash(other), with_hash(number)];
        }
    }
    unreachable!("there are only so many prefixes")
}

fn unknown_or_ambiguous(world: &World) {
    let fleet = world.fleet();
    let service = &fleet.service;
    for image in ["sha256:0123456789abcdef", "0123456789", "team/absent:1"] {
        service.warm(&["--image", image]).code(4).says(&[image]);
        let words = ["--", "true"];
        service.sandbox(image, &words).run().code(4).says(&[image]);
    }
    service.warm(&["--image", "abc"]).code(4);

    let hash = Project::toml("[image]\nbase = \"busybox\"\n");
    let pinned = service
        .image(&["hash", &hash.arg("image.toml"), "--json"])
        .ok()
        .json();
    let pair = look_alikes(pinned["base"]["digest"].as_str().unwrap());
    for (spec, hash) in &pair {
        let project = Project::new(&[("image.json", &spec.to_string())]);
        let built = service.build(&project.arg("image.json"));
        assert_eq!(built["image_hash"], format!("sha256:{hash}"));
    }
    let [(_, one), (_, two)] = pair;
    let prefix = &one[..8];
    let ambiguous = service.warm(&["--image", prefix]).code(4);
    ambiguous.says(&[prefix, "several"]);
    let words = ["--", "true"];
    service
        .sandbox(prefix, &words)
        .run()
        .code(4)
        .says(&["several"]);
    let same = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b);
    let longer = one[..=same.count()].to_owned();
    service
        .warm(&["--image", &longer, "--node", "first", "--wait"])
        .ok();
}

fn nodes_that_are_not_there(world: &World) {
    let fleet = world.fleet();
    let hash = &fleet.base.hash;
    let warm = |words: &[&str]| fleet.service.warm(&[&["--image", hash], words].concat());
    warm(&["--node", "nobody"])
        .code(4)
        .says(&["nobody", "first"]);
    warm(&["--label", "disk=tape"]).code(4).says(&["disk=tape"]);
    warm(&["--region", "moon"]).code(4).says(&["moon"]);
    // Both must fit.
    warm(&["--node", "second", "--label", "disk=ssd"]).code(4);
    warm(&["--all", "--node", "first"]).code(2);
    warm(&["--label", "disk"]).code(2).says(&["disk"]);
    warm(&["--timeout", "soon"]).code(2).says(&["soon"]);
    let words = ["--node", "nobody", "--", "true"];
    fleet.sandbox(&words).run().code(4).says(&["nobody"]);
}

fn a_warm_again_fetches_nothing(world: &World) {
    let fleet = world.fleet();
    let image = image(
        world,
        fleet,
        &[noise(&unique(), 100_000), noise(&unique(), 50_000)],
    );
    let warm = || {
        let words = ["--image", &image.hash, "--node", "first", "--wait"];
        let warm = fleet.service.warm(&words).ok().json();
        targets(&warm)["first"].clone()
    };
    let first = warm();
    for key in [
        "node",
        "region",
        "state",
        "bytes_fetched",
        "bytes_present",
        "verified",
        "seconds",
    ] {
        assert!(!first[key].is_null(), "{key} is missing: {first:#}");
    }
    assert_eq!(first["state"], "ready");
    assert_eq!(first["verified"], true);
    let (fetched, present) = (
        first["bytes_fetched"].as_u64(),
        first["bytes_present"].as_u64(),
    );
    // The base's layer was there; manifest and config come on top.
    let new = 150_000..170_000;
    assert!(new.contains(&fetched.unwrap()), "{first:#}");
    assert!(present.unwrap() > 0, "{first:#}");
    let again = warm();
    assert_eq!(again["bytes_fetched"], 0, "{again:#}");
    assert!(
        again["bytes_present"].as_u64().unwrap() >= image.size,
        "{again:#}"
    );
    let plan = fleet.service.image(&["plan", &image.hash, "--json"]);
    if plan.status.success() {
        assert_eq!(plan.json()["nodes_warm"], json!(["first"]), "{plan}");
    }
    let declaration = image.layout.join("image.toml").display().to_string();
    let plan = fleet
        .service
        .image(&["plan", &declaration, "--json"])
        .ok()
        .json();
    assert_eq!(plan["nodes_warm"], json!(["first"]), "{plan:#}");
}

fn two_warms_at_once(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    // Slow enough that the second finds the first under way.
    let away = network.host(Some("8mbit"));
    let service = Service::start_on(&home, &world.folder("at-once"), &STEADY);
    let layers: Vec<_> = (0..4).map(|_| noise(&unique(), 2 << 20)).collect();
    let image = MadeUp::new(world, &service, &layers);
    let state = world.folder("at-once-node");
    let node = Node::start_on(&away, &service, "n", "local", &state, &[]);
    let before = home.sent();
    let together = Barrier::new(2);
    let warm = || {
        together.wait();
        let words = ["--image", &image.hash, "--wait"];
        targets(&service.warm(&words).ok().json())["n"].clone()
    };
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(warm);
        (warm(), other.join().unwrap())
    });
    let sent = home.sent() - before;
    let fetched = |target: &Value| target["bytes_fetched"].as_u64().unwrap();
    assert_eq!(one["state"], "ready", "{one:#}");
    assert_eq!(two["state"], "ready", "{two:#}");
    assert!(
        sent < image.size + image.size / 2,
        "{sent} bytes came for an image of {}",
        image.size
    );
    // A receipt tells what was fetched for its warm, so both may tell of the same bytes.
    let cache = service.get("/v1/nodes/n/cache");
    let items = cache["items"].as_array().unwrap().iter();
    let mut layers: Vec<&str> = items
        .filter(|item| item["kind"] == "layer")
        .map(|item| item["digest"].as_str().unwrap())
        .collect();
    let all = layers.len();
    layers.dedup();
    assert_eq!(layers.len(), all, "a layer is there twice");
    let most = fetched(&one).max(fetched(&two));
    let whole = image.size..image.size + 100_000;
    assert!(whole.contains(&most), "{one:#} {two:#}");
    drop(node);
}

fn several_images(world: &World) {
    let fleet = world.fleet();
    let shared = noise(&unique(), 1 << 20);
    let images: Vec<MadeUp> = (0..3)
        .map(|_| image(world, fleet, &[shared.clone(), noise(&unique(), 10_000)]))
        .collect();
    let mut words = Vec::new();
    for image in &images {
        words.extend(["--image", &image.hash]);
    }
    words.extend(["--all", "--wait"]);
    let warm = fleet.service.warm(&words).ok().json();
    let targets = warm["nodes"].as_array().unwrap();
    assert_eq!(targets.len(), 6, "each image on each node: {warm:#}");
    for node in ["first", "second"] {
        let own = targets.iter().filter(|target| target["node"] == node);
        let fetched: u64 = own
            .map(|target| target["bytes_fetched"].as_u64().unwrap())
            .sum();
        // What they share once, though it is wanted three times at once.
        assert!(fetched < 2 << 20, "{fetched} bytes: {warm:#}");
    }
}

fn labels_and_names(world: &World) {
    let fleet = world.fleet();
    let image = image(world, fleet, &[noise(&unique(), 1000)]);
    let ready = |words: &[&str]| {
        let words = [&["--image", &image.hash, "--wait"], words].concat();
        let states = states(&fleet.service.warm(&words).ok().json());
        states.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(ready(&["--label", "disk=ssd"]), ["first"]);
    assert_eq!(ready(&["--node", "second"]), ["second"]);
    assert_eq!(ready(&["--region", "local"]), ["first", "second"]);
    assert_eq!(ready(&[]), ["first", "second"]);
    assert_eq!(
        ready(&["--node", "first", "--node", "second"]),
        ["first", "second"]
    );
}

fn a_cache_too_small(world: &World) {
    let service = world.start_empty("small", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 4 << 20)]);
    let small = ["--cache-size", "1MiB"];
    let small = Node::start(&service, "small", "local", &world.folder("small"), &small);
    let words = ["--image", &image.hash, "--wait"];
    let failed = service.warm(&words).code(1);
    let target = targets(&failed.json())["small"].clone();
    assert_eq!(target["state"], "failed", "{target:#}");
    assert_eq!(
        target["error"]["type"], "urn:chalk:cache-too-small",
        "{target:#}"
    );
    assert_eq!(
        target["retries_left"], 0,
        "no try will go better: {target:#}"
    );

    let big = Node::start(&service, "big", "local", &world.folder("big"), &[]);
    let partly = service.warm(&words).code(5).says(&["small"]);
    let states = states(&partly.json());
    assert_eq!(states["big"], "ready", "{partly}");
    assert_eq!(states["small"], "failed", "{partly}");
    // A sandbox says the same, and its node's name.
    let words = ["--node", "small", "--", "true"];
    let refused = service.sandbox(&image.hash, &words).run();
    assert!(!refused.status.success(), "{refused}");
    refused.says(&["cache"]);
    // Nothing of the failed pull takes room.
    let usage = service.get("/v1/nodes/small/cache")["usage"].clone();
    assert_eq!(usage["used"], 0, "{usage:#}");
    drop((small, big));
}

fn time_runs_out(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    let far = network.host(Some("1mbit"));
    let service = Service::start_on(&home, &world.folder("slow"), &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 4 << 20)]);
    let state = world.folder("far");
    let node = Node::start_on(&far, &service, "far", "local", &state, &[]);
    let words = ["--image", &image.hash, "--wait", "--timeout", "2s"];
    let failed = service.warm(&words).code(1);
    let target = targets(&failed.json())["far"].clone();
    assert_eq!(target["error"]["type"], "urn:chalk:timed-out", "{target:#}");

    // Whoever goes away stops waiting, not the warm; another can follow it, and cancel it.
    let words = ["compute", "image", "warm", "--image", &image.hash, "--wait"];
    let output = world.folder("talk").join("warm");
    let mut warm = Talk::start(&mut service.chalk().args(words).into_command(), &output);
    let id = wait_for("a warm that runs", || {
        let warms = service.get("/v1/warms");
        let warm = &warms[0];
        (warm["status"] == "running" && warm["nodes"][0]["state"] == "pulling")
            .then(|| warm["id"].as_str().unwrap().to_owned())
    });
    // It says so once it follows, and listens to signals from then on.
    warm.wait_for_error("far");
    warm.signal("-INT");
    assert_eq!(warm.end(), Some(130), "{}", warm.errors());
    assert_eq!(service.get(&format!("/v1/warms/{id}"))["status"], "running");
    service.image(&["warm", "--cancel", &id]).ok();
    let cancelled = service.get(&format!("/v1/warms/{id}"));
    assert_eq!(cancelled["status"], "cancelled", "{cancelled:#}");
    far.limit("1gbit");
    let words = ["--image", &image.hash, "--wait"];
    service.warm(&words).ok();
    drop(node);
}

fn events_are_numbered(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    let away = network.host(None);
    let service = Service::start_on(&home, &world.folder("events"), &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 300_000)]);
    let mut node = Node::start_on(&away, &service, "n", "local", &world.folder("n"), &[]);
    // With no node at all, the command would bring one.
    let state = world.folder("other");
    let other = Node::start_on(&home, &service, "other", "local", &state, &[]);
    node.stop();
    node.wait_for(&service, "lost");
    // Asked for by name, a node may be away for a while. Without `--wait` the warm is only begun.
    let begun = service.warm(&["--image", &image.hash, "--node", "n"]);
    let id = begun.ok().json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/warms/{id}/events");
    let bearer = format!("Authorization: Bearer {}", service.token());
    let mut curl = home.command("curl");
    curl.args(["--silent", "--no-buffer", "--noproxy", "*"]);
    curl.args(["--header", &bearer, &format!("{}{path}", service.url())]);
    let mut follower = Talk::start(&mut curl, &world.folder("events").join("stream"));
    follower.wait_for("queued");
    // So slow that the follower sees the pull before its end.
    away.limit("256kbit");
    node.launch();
    follower.wait_for("\"state\":\"pulling\"");
    away.limit("1gbit");
    assert_eq!(follower.end(), Some(0));
    let said = follower.output();
    let all: Vec<(u64, Value)> = said
        .split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let number = field("id:")?.trim().parse().ok()?;
            Some((number, serde_json::from_str(field("data:")?).unwrap()))
        })
        .collect();
    let numbers: Vec<u64> = all.iter().map(|(number, _)| *number).collect();
    // There may be gaps: what is overtaken is told to nobody who comes later.
    assert!(
        numbers.is_sorted_by(|one, next| one < next),
        "numbers that grow: {said}"
    );
    let (end, last) = all.last().unwrap();
    assert_eq!(last["type"], "finished", "{last:#}");
    assert_eq!(last["warm"]["status"], "ready", "{last:#}");
    let states = all.iter().filter(|(_, event)| event["type"] == "target");
    let states: Vec<&str> = states
        .map(|(_, event)| event["target"]["state"].as_str().unwrap())
        .collect();
    assert_eq!(states.last(), Some(&"ready"), "{said}");
    assert!(states.contains(&"pulling"), "{said}");
    // Whoever lost the connection misses nothing, and sees nothing twice.
    let rest = service.follow(&path, end - 1);
    assert_eq!(rest.len(), 1, "{rest:#?}");
    assert_eq!((&rest[0].0, &rest[0].1["warm"]), (end, &last["warm"]));
    service.image(&["warm", "--follow", &id]).ok();
    let listed = service.image(&["warms", "--json"]).ok();
    assert!(listed.stdout.contains(&id), "{listed}");
    let mut curl = home.command("curl");
    curl.args(["--silent", "--noproxy", "*", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code}", "--header", &bearer]);
    let missing = run(curl.arg(format!("{}/v1/warms/absent", service.url())));
    assert_eq!(missing.ok().stdout, "404");
    drop(other);
}

fn a_drained_node(world: &World) {
    let service = world.start_empty("drain", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let node = |name: &str| Node::start(&service, name, "local", &world.folder(name), &[]);
    let (stays, mut drained) = (node("stays"), node("drained"));
    service.nodes(&["drain", "drained"]).ok();
    drained.wait_for(&service, "draining");
    let words = ["--image", &image.hash, "--wait"];
    let warm = service.warm(&words).ok().json();
    assert_eq!(states(&warm).into_keys().collect::<Vec<_>>(), ["stays"]);
    for _ in 0..3 {
        let id = service.detach(&image.hash, &["--", "true"]);
        assert_eq!(service.get(&format!("/v1/sandboxes/{id}"))["node"], "stays");
    }
    let words = ["--node", "drained", "--", "true"];
    service
        .sandbox(&image.hash, &words)
        .run()
        .code(4)
        .says(&["drained"]);
    // It stays so over a restart of the node.
    drained.stop();
    drained.launch();
    drained.wait_for(&service, "draining");
    service.nodes(&["undrain", "drained"]).ok();
    drained.wait_for(&service, "ready");
    let words = ["--image", &image.hash, "--wait", "--node", "drained"];
    service.warm(&words).ok();
    service
        .nodes(&["drain", "absent"])
        .code(4)
        .says(&["absent"]);
    drop(stays);
}

fn a_removed_node_ends(world: &World) {
    let service = world.start_empty("remove", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let node = Node::start(&service, "goes", "local", &world.folder("goes"), &[]);
    let id = service.detach(&image.hash, &["--", "sleep", "1000"]);
    service.nodes(&["rm", "goes"]).ok();
    wait_until("the end of the removed node", || !node.runs());
    assert_eq!(service.nodes(&["ls"]).ok().json(), json!([]));
    let sandbox = service.get(&format!("/v1/sandboxes/{id}"));
    assert_ne!(sandbox["state"], "running", "{sandbox:#}");
    service.nodes(&["rm", "goes"]).code(4);
}

fn prewarmed_bases(world: &World) {
    let settings = [
        ("nodes.heartbeat", "1s"),
        ("prewarm.interval", "1s"),
        ("prewarm.images", "example.com/base:1"),
    ];
    let service = world.start_empty("prewarm", &settings);
    let import = |content: &str| {
        let layout = world.folder("base");
        let layers = [noise(content, 100_000)];
        Layout::write(&layout, &json!({}), &layers);
        let path = layout.display().to_string();
        let words = ["import", &path, "--as", "example.com/base:1", "--json"];
        let imported = service.image(&words).ok().json();
        imported["digest"].as_str().unwrap().to_owned()
    };
    let node = Node::start(&service, "keeps", "local", &world.folder("keeps"), &[]);
    let kept = |digest: &str| {
        wait_until(&format!("{digest} is kept ready"), || {
            let images = node.images(&service);
            let image = images.iter().find(|image| image["digest"] == digest);
            image.is_some_and(|image| image["pins"].as_array().is_some_and(|p| !p.is_empty()))
        });
    };
    let first = import("one");
    kept(&first);
    let second = import("two");
    assert_ne!(first, second);
    kept(&second);
    wait_until("the old one is not pinned any more", || {
        let images = node.images(&service);
        let old = images
            .iter()
            .find(|image| image["digest"] == first.as_str());
        old.is_none_or(|image| image["pins"] == json!([]))
    });
    let state = || service.get("/v1/prewarm");
    wait_until("the service knows", || {
        state()["states"][0]["nodes_ready"] == 1
    });
    // Another list, by the API.
    let url = format!("{}/v1/prewarm", service.url());
    let body = r#"{"images": ["127.0.0.1:1/absent:1"]}"#;
    let words = ["--request", "PUT", "--json", body];
    let put = request(&url, Some(service.token()), &words);
    assert_eq!(put.status, 200, "{put:?}");
    wait_until("the one that is absent is told", || {
        state()["states"][0]["error"].is_string()
    });
    wait_until("what is off the list is not pinned any more", || {
        let images = node.images(&service);
        images.iter().all(|image| image["pins"] == json!([]))
    });
}
