//! Caches of nodes: what is evicted, what is kept, and why.

use chalk_tests::{MadeUp, Node, STEADY, Service, World, noise, targets, unique, wait_until};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("the_least_recently_used_goes_first", least_recently_used),
    ("pinned_and_used_images_stay", pinned_and_used),
    ("shared_layers_count_once", shared_layers),
    ("a_dry_run_touches_nothing_and_says_why", a_dry_run),
    ("evictions_race_with_starts", evictions_race_with_starts),
    (
        "a_layer_that_is_lost_is_fetched_again",
        a_layer_that_is_lost,
    ),
];

const MIB: usize = 1 << 20;

fn cached(service: &Service, node: &str) -> Value {
    service.get(&format!("/v1/nodes/{node}/cache"))
}

fn has(service: &Service, node: &str, image: &MadeUp) -> bool {
    let listing = cached(service, node);
    let images = listing["images"].as_array().unwrap();
    images
        .iter()
        .any(|held| held["digest"] == image.digest.as_str())
}

fn warm(service: &Service, image: &MadeUp, more: &[&str]) -> Value {
    let words = [&["--image", &image.hash, "--wait"], more].concat();
    let warm = service.warm(&words).ok().json();
    targets(&warm).into_values().next().unwrap()
}

/// A service with one node whose cache holds the base and some three images of four mebibytes.
fn small(world: &World, name: &str) -> (Node, Service) {
    let service = world.start_empty(name, &STEADY);
    let words = ["--cache-size", "16MiB"];
    let node = Node::start(&service, "n", "local", &world.folder(name), &words);
    (node, service)
}

fn image(world: &World, service: &Service) -> MadeUp {
    MadeUp::new(world, service, &[noise(&unique(), 4 * MIB)])
}

fn least_recently_used(world: &World) {
    let (node, service) = small(world, "lru");
    let images: Vec<MadeUp> = (0..4).map(|_| image(world, &service)).collect();
    for image in &images[..3] {
        warm(&service, image, &[]);
    }
    // Used by a sandbox, the first is not the oldest any more.
    service.sandbox(&images[0].hash, &["--", "true"]).run().ok();
    warm(&service, &images[3], &[]);
    let held: Vec<bool> = images
        .iter()
        .map(|image| has(&service, "n", image))
        .collect();
    assert_eq!(held, [true, false, true, true], "the second is the oldest");
    let usage = cached(&service, "n")["usage"].clone();
    let number = |key: &str| usage[key].as_u64().unwrap();
    assert!(number("used") <= number("size_limit"), "{usage:#}");
    assert_eq!(number("size_limit"), 16 * MIB as u64, "{usage:#}");
    assert!(number("evictions") >= 1, "{usage:#}");
    // What was evicted is fetched again, and runs.
    let again = warm(&service, &images[1], &[]);
    assert!(
        again["bytes_fetched"].as_u64().unwrap() > 4 * MIB as u64,
        "{again:#}"
    );
    assert!(
        again["bytes_present"].as_u64().unwrap() > 0,
        "the base stayed: {again:#}"
    );
    drop(node);
}

fn pinned_and_used(world: &World) {
    let (node, service) = small(world, "pins");
    let images: Vec<MadeUp> = (0..4).map(|_| image(world, &service)).collect();
    warm(&service, &images[0], &["--pin"]);
    let id = service.detach(&images[1].hash, &["--", "sleep", "1000"]);
    wait_until("it runs", || {
        service.get(&format!("/v1/sandboxes/{id}"))["state"] == "running"
    });
    warm(&service, &images[2], &[]);
    warm(&service, &images[3], &[]);
    assert!(has(&service, "n", &images[0]), "pinned");
    assert!(has(&service, "n", &images[1]), "in use");
    assert!(!has(&service, "n", &images[2]), "neither");
    let big = MadeUp::new(world, &service, &[noise(&unique(), 8 * MIB)]);
    let words = ["--image", &big.hash, "--wait"];
    let refused = service.warm(&words).code(1);
    let target = targets(&refused.json())["n"].clone();
    assert_eq!(
        target["error"]["type"], "urn:chalk:cache-too-small",
        "{target:#}"
    );
    let said = target["error"].to_string();
    assert!(said.contains("pinned") || said.contains("in use"), "{said}");
    // Removing takes the pin along.
    service.nodes(&["cache", "rm", "n", &images[0].hash]).ok();
    assert!(!has(&service, "n", &images[0]));
    // What is in use is refused, and stays as it is, its pin too.
    warm(&service, &images[1], &["--pin"]);
    let in_use = service.nodes(&["cache", "rm", "n", &images[1].hash]);
    assert!(!in_use.status.success(), "{in_use}");
    in_use.says(&["use"]);
    let listing = cached(&service, "n");
    let mut held = listing["images"].as_array().unwrap().iter();
    let held = held.find(|held| held["digest"] == images[1].digest.as_str());
    assert_eq!(held.unwrap()["pins"], json!(["warm"]), "{listing:#}");
    service.sandboxes(&["exec", &id, "--", "ls", "/bin"]).ok();
    service.sandboxes(&["stop", "--grace", "0s", &id]).ok();
    wait_until("nothing uses it any more", || {
        let removed = service.nodes(&["cache", "rm", "n", &images[1].hash]);
        removed.status.success()
    });
    assert!(!has(&service, "n", &images[1]));
    warm(&service, &big, &[]);
    drop(node);
}

fn shared_layers(world: &World) {
    let service = world.start_empty("shared", &STEADY);
    let node = Node::start(&service, "n", "local", &world.folder("shared"), &[]);
    let common = noise(&unique(), 4 * MIB);
    let images: Vec<MadeUp> = (0..3)
        .map(|_| MadeUp::new(world, &service, &[common.clone(), noise(&unique(), 10_000)]))
        .collect();
    let mut used = Vec::new();
    for image in &images {
        warm(&service, image, &[]);
        used.push(cached(&service, "n")["usage"]["used"].as_u64().unwrap());
    }
    // A layer of ten kilobytes, and whatever a filesystem takes on top.
    assert!(
        used[1] - used[0] < 500_000 && used[2] - used[1] < 500_000,
        "{used:?}"
    );
    let usage = cached(&service, "n")["usage"].clone();
    assert_eq!(usage["layers"], 5, "{usage:#}");
    assert_eq!(usage["images"], 3, "{usage:#}");
    // It stays as long as one image has it, whatever takes the others away.
    warm(&service, &images[2], &["--pin"]);
    service.nodes(&["cache", "rm", "n", &images[0].hash]).ok();
    service.nodes(&["cache", "gc", "n"]).ok();
    let usage = cached(&service, "n")["usage"].clone();
    assert_eq!(usage["images"], 1, "{usage:#}");
    assert_eq!(
        usage["layers"], 3,
        "the base, the common one, its own: {usage:#}"
    );
    let again = warm(&service, &images[2], &[]);
    assert_eq!(again["bytes_fetched"], 0, "{again:#}");
    let words = ["--", "sh", "-c", "cat /*-* | wc -c"];
    let rest = service.sandbox(&images[2].hash, &words).run().ok();
    assert_eq!(rest.stdout, format!("{}\n", 4 * MIB + 10_000));
    // It goes with the last one.
    wait_until("nothing uses it any more", || {
        let removed = service.nodes(&["cache", "rm", "n", &images[2].hash]);
        removed.status.success()
    });
    let usage = cached(&service, "n")["usage"].clone();
    assert_eq!((&usage["layers"], &usage["used"]), (&json!(0), &json!(0)));
    drop(node);
}

fn a_dry_run(world: &World) {
    let (node, service) = small(world, "dry");
    let (pinned, free) = (image(world, &service), image(world, &service));
    warm(&service, &pinned, &["--pin"]);
    warm(&service, &free, &[]);
    let before = cached(&service, "n");
    let dry = service
        .nodes(&["cache", "gc", "n", "--dry-run"])
        .ok()
        .json();
    let dry = dry.as_array().map_or(dry.clone(), |list| list[0].clone());
    assert_eq!(dry["dry_run"], true, "{dry:#}");
    assert_eq!(
        cached(&service, "n")["images"],
        before["images"],
        "nothing is touched"
    );
    let kept = dry["kept"].as_array().unwrap();
    assert!(!kept.is_empty(), "{dry:#}");
    for item in kept {
        let why = item["why"].as_str().unwrap();
        assert!(!why.is_empty(), "{item:#}");
    }
    assert!(
        kept.iter()
            .any(|item| item["why"].as_str().unwrap().contains("pin")),
        "{dry:#}"
    );
    let would = dry["freed_bytes"].as_u64().unwrap();
    assert!(would >= 4 * MIB as u64, "{dry:#}");
    let plain = service
        .chalk()
        .args(["node", "cache", "gc", "n", "--dry-run"])
        .run();
    assert!(plain.ok().stdout.contains("pin"));
    let real = service.nodes(&["cache", "gc", "n"]).ok().json();
    let real = real.as_array().map_or(real.clone(), |list| list[0].clone());
    assert_eq!(real["freed_bytes"].as_u64().unwrap(), would, "{real:#}");
    assert!(has(&service, "n", &pinned) && !has(&service, "n", &free));
    let listing = service
        .chalk()
        .args(["node", "cache", "ls", "n", "--all"])
        .run()
        .ok();
    assert!(listing.stdout.contains("pin"), "{listing}");
    service.nodes(&["cache", "gc", "absent"]).code(4);
    service
        .nodes(&["cache", "rm", "n", "0123456789abcdef"])
        .code(4);
    drop(node);
}

fn evictions_race_with_starts(world: &World) {
    let (node, service) = small(world, "race");
    let images: Vec<MadeUp> = (0..4).map(|_| image(world, &service)).collect();
    // Three fit. Starts of all four evict each other, while a collection takes all that may go.
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            for _ in 0..20 {
                service.nodes(&["cache", "gc", "n"]).ok();
            }
        });
        let starters: Vec<_> = images
            .iter()
            .map(|image| {
                let service = &service;
                scope.spawn(move || {
                    for round in 0..5 {
                        let script = format!("head -c 4000000 /*-* | wc -c; echo {round}");
                        // Four at once need more room than there is; that may be said. One goes
                        // well in the end.
                        wait_until("a start that finds room", || {
                            let ran = service.sandbox(&image.hash, &["--", "sh", "-c", &script]);
                            let ran = ran.run();
                            if ran.status.success() {
                                assert_eq!(ran.stdout, format!("4000000\n{round}\n"));
                                return true;
                            }
                            ran.says(&["cache"]);
                            false
                        });
                    }
                })
            })
            .collect();
        for starter in starters {
            starter.join().expect("a starter");
        }
        collector.join().expect("the collector");
    });
    node.wait_for(&service, "ready");
    let usage = cached(&service, "n")["usage"].clone();
    assert!(
        usage["used"].as_u64() <= usage["size_limit"].as_u64(),
        "{usage:#}"
    );
    service.sandbox(&images[0].hash, &["--", "true"]).run().ok();
}

fn a_layer_that_is_lost(world: &World) {
    let service = world.start_empty("loses", &STEADY);
    let state = world.folder("loses-node");
    let mut node = Node::start(&service, "n", "local", &state, &[]);
    let image = MadeUp::new(world, &service, &[noise(&unique(), MIB)]);
    warm(&service, &image, &[]);
    // As by a check of the filesystem that threw a damaged file away, or half of it.
    let damages: [fn(&str); 2] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(MIB as u64 / 2).unwrap();
        },
    ];
    for damage in damages {
        node.stop();
        let mut find = chalk_tests::tool("find", [&state]);
        let found = chalk_tests::run(find.args(["-type", "f", "-size", "+1000k"]))
            .ok()
            .stdout;
        assert!(!found.is_empty(), "the layer on disk");
        found.lines().for_each(damage);
        node.launch();
        node.wait_for(&service, "ready");
        let script = "cat /*-* | wc -c";
        let words = ["--", "sh", "-c", script];
        let ran = service.sandbox(&image.hash, &words).run().ok();
        assert_eq!(ran.stdout, format!("{MIB}\n"));
    }
}
