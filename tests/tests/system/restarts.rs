//! Services and nodes that are killed, restarted, or whose clocks jump, with work under way.

use std::fs;
use std::path::{Path, PathBuf};

use chalk_tests::{
    MadeUp, Network, Node, STEADY, Service, Talk, World, noise, request, tool, unique, wait_for,
    wait_until,
};
use serde_json::{Value, json};

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    (
        "fifty_warms_outlive_the_service_that_is_killed",
        fifty_warms,
    ),
    (
        "a_sandbox_outlives_a_restart_of_the_service",
        a_sandbox_outlives,
    ),
    (
        "a_node_killed_takes_its_sandboxes_along",
        a_node_killed_takes_its_sandboxes,
    ),
    (
        "a_node_killed_while_it_starts_one",
        a_node_killed_while_starting,
    ),
    ("a_node_that_restarts_keeps_its_cache", a_node_that_restarts),
    ("a_node_that_stops_ends_its_sandboxes", a_node_that_stops),
    ("clocks_that_jump", clocks_that_jump),
];

/// How many warms of the service have each status.
fn statuses(service: &Service) -> (usize, usize) {
    let warms = service.get("/v1/warms?limit=100");
    let warms = warms.as_array().unwrap();
    let with = |status: &str| warms.iter().filter(|warm| warm["status"] == status).count();
    (with("ready"), warms.len())
}

fn fifty_warms(world: &World) {
    const NODES: usize = 5;
    const IMAGES: usize = 10;
    let mut network = Network::new();
    let home = network.host(None);
    let mut service = Service::start_on(&home, &world.folder("fifty"), &STEADY);
    let images: Vec<MadeUp> = (0..IMAGES)
        .map(|_| MadeUp::new(world, &service, &[noise(&unique(), 200_000)]))
        .collect();
    let nodes: Vec<Node> = (0..NODES)
        .map(|number| {
            let name = format!("n{number}");
            let host = network.host(None);
            Node::start_on(&host, &service, &name, "local", &world.folder(&name), &[])
        })
        .collect();
    // Fifty times some 200 KB and five times the base: minutes on this link.
    home.limit("256kbit");
    let url = format!("{}/v1/warms", service.url());
    for image in &images {
        for node in &nodes {
            let body = json!({"images": [image.hash], "nodes": [node.name()]}).to_string();
            let mut curl = home.command("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
                "--json",
                &body,
            ]);
            let header = format!("Authorization: Bearer {}", service.token());
            chalk_tests::run(curl.args(["--header", &header, &url])).ok();
        }
    }
    let (ready, all) = statuses(&service);
    assert_eq!(all, NODES * IMAGES);
    assert!(ready < all, "some still run");
    service.kill();
    home.limit("1gbit");
    service.start_again(&[]);
    let (_, all) = statuses(&service);
    assert_eq!(all, NODES * IMAGES, "no warm is forgotten");
    wait_until("all warms are ready", || {
        statuses(&service).0 == NODES * IMAGES
    });
    for node in &nodes {
        let images = node.images(&service).len();
        assert!(images >= IMAGES, "{} has {images} images", node.name());
    }
}

fn a_sandbox_outlives(world: &World) {
    let mut service = world.start_empty("outlives", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let node = Node::start(&service, "stays", "local", &world.folder("stays"), &[]);
    let mark = sleep_mark();
    let script = format!(
        "n=0; while [ ! -e /tmp/end ]; do n=$((n+1)); echo line $n; sleep 0.02; done; echo last; : {mark}; exit 9"
    );
    let id = service.detach(&image.hash, &["--", "sh", "-c", &script]);
    let output = world.folder("outlives-talk").join("logs");
    let words = ["compute", "sandbox", "logs", "--follow", &id];
    let mut logs = Talk::start(&mut service.chalk().args(words).into_command(), &output);
    logs.wait_for("line 5\n");
    for crash in [true, false] {
        if crash {
            service.kill();
        } else {
            service.stop();
        }
        service.start_again(&[]);
        node.wait_for(&service, "ready");
        wait_until("the sandbox runs", || {
            service.get(&format!("/v1/sandboxes/{id}"))["state"] == "running"
        });
    }
    service
        .sandboxes(&["exec", &id, "--", "touch", "/tmp/end"])
        .ok();
    wait_until("the end of the sandbox", || {
        service.get(&format!("/v1/sandboxes/{id}"))["state"] == "exited"
    });
    let sandbox = service.get(&format!("/v1/sandboxes/{id}"));
    assert_eq!(sandbox["exit_code"], 9, "{sandbox:#}");
    let check = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&"last"));
        for (number, line) in lines[..lines.len() - 1].iter().enumerate() {
            assert_eq!(*line, format!("line {}", number + 1), "no line is missing");
        }
    };
    check(&service.sandboxes(&["logs", &id]).ok().stdout);
    // Who followed goes on where it was, with nothing twice.
    assert!(matches!(logs.end(), Some(0 | 9)), "{}", logs.errors());
    check(&logs.output());
    drop(node);
}

/// Process whose arguments have `word`, and no other process's do.
pub(crate) fn process_with(word: &str) -> String {
    let found = chalk_tests::run(&mut tool("pgrep", ["-f", "-x", &format!("sleep {word}")]));
    let first = found.stdout.lines().next().map(str::to_owned);
    first.unwrap_or_else(|| panic!("no process has `{word}`"))
}

/// Directories of the control groups that a process is in, save the roots.
pub(crate) fn groups(process: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let root = Path::new("/sys/fs/cgroup");
    let mut found = Vec::new();
    for line in text.lines() {
        let path = line.splitn(3, ':').nth(2).unwrap().trim_start_matches('/');
        if path.is_empty() {
            continue;
        }
        // Version 2 alone, version 1, and both side by side.
        let hierarchies = fs::read_dir(root).unwrap().flatten();
        let tops = hierarchies
            .map(|entry| entry.path())
            .chain([root.to_owned()]);
        found.extend(
            tops.map(|top| top.join(path))
                .filter(|group| group.is_dir()),
        );
    }
    found
}

/// Mounts in any mount namespace of this machine that lie below a folder.
fn mounts_below(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let mounts = process.path().join("task");
        for task in fs::read_dir(mounts).into_iter().flatten().flatten() {
            let mounts = fs::read_to_string(task.path().join("mountinfo")).unwrap_or_default();
            let lines = mounts.lines().filter(|line| line.contains(&folder));
            found.extend(lines.map(|line| format!("{}: {line}", task.path().display())));
        }
    }
    found
}

fn a_node_killed_takes_its_sandboxes(world: &World) {
    let service = world.start_empty("takes", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let state = world.folder("takes-node");
    let mut node = Node::start(&service, "dies", "local", &state, &[]);
    let (own, child, ran) = (sleep_mark(), sleep_mark(), sleep_mark());
    let script = format!("trap '' TERM; setsid sleep {child} & sleep {own}; sleep {own}");
    let words = ["--memory", "64m", "--pids", "50", "--", "sh", "-c", &script];
    let id = service.detach(&image.hash, &words);
    wait_for_process(&own, true);
    wait_for_process(&child, true);
    let script = format!("exec sleep {ran}");
    let exec = ["compute", "sandbox", "exec", &id, "--", "sh", "-c", &script];
    let output = world.folder("takes-talk").join("exec");
    let mut exec = Talk::start(&mut service.chalk().args(exec).into_command(), &output);
    wait_for_process(&ran, true);
    let groups = groups(&process_with(&own));
    assert!(!groups.is_empty(), "a sandbox with limits has a group");
    node.kill();
    for mark in [&own, &child, &ran] {
        wait_for_process(mark, false);
    }
    assert!(
        exec.end().is_some_and(|code| code != 0),
        "{}",
        exec.errors()
    );
    wait_until("no mount is left", || mounts_below(&state).is_empty());
    let shown = |field: &str| service.get(&format!("/v1/sandboxes/{id}"))[field].clone();
    node.launch();
    node.wait_for(&service, "ready");
    wait_until("the sandbox is lost", || shown("state") == "lost");
    let listed = service.sandboxes(&["ls", "--json"]).ok().json();
    assert_eq!(listed, json!([]), "it lives no more");
    // The node is as good as new.
    let words = ["--node", "dies", "--", "echo", "again"];
    assert_eq!(
        service.sandbox(&image.hash, &words).run().ok().stdout,
        "again\n"
    );
    service.sandboxes(&["rm", &id]).ok();
    node.stop();
    for group in &groups {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        assert_eq!(processes, "", "{} has processes", group.display());
    }
    let mut find = tool("find", [&state]);
    let disks = chalk_tests::run(find.args(["-name", "*.img"])).ok().stdout;
    assert_eq!(disks, "", "writable layers are left");
}

fn a_node_killed_while_starting(world: &World) {
    let service = world.start_empty("starting", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let state = world.folder("starting-node");
    let mut node = Node::start(&service, "dies", "local", &state, &[]);
    service.warm(&["--image", &image.hash, "--wait"]).ok();
    let mark = sleep_mark();
    // Killed some milliseconds after the order each time: before, in and after the start.
    for pause in [0, 2, 5, 10, 20] {
        let body = json!({"image": image.hash, "args": ["sleep", mark]}).to_string();
        let url = format!("{}/v1/sandboxes", service.url());
        let posted = request(&url, Some(service.token()), &["--json", &body]);
        assert!(posted.status < 300, "{posted:?}");
        let id = posted.json()["id"].as_str().unwrap().to_owned();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        node.kill();
        wait_for_process(&mark, false);
        wait_until("no mount is left", || mounts_below(&state).is_empty());
        node.launch();
        node.wait_for(&service, "ready");
        let state = wait_for("the end of the sandbox", || {
            let state = service.get(&format!("/v1/sandboxes/{id}"))["state"].clone();
            (state != "running" && state != "starting").then_some(state)
        });
        assert!(state == "lost" || state == "failed", "{state}");
        wait_for_process(&mark, false);
    }
    let words = ["--", "echo", "fine"];
    assert_eq!(
        service.sandbox(&image.hash, &words).run().ok().stdout,
        "fine\n"
    );
}

fn a_node_that_restarts(world: &World) {
    let service = world.start_empty("keeps", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 100_000)]);
    let mut node = Node::start(&service, "keeps", "local", &world.folder("keeps"), &[]);
    let words = ["--image", &image.hash, "--wait"];
    service.warm(&words).ok();
    let shown = || service.get("/v1/nodes/keeps");
    let joined = shown()["joined"].clone();
    for crash in [false, true] {
        if crash {
            node.kill();
        } else {
            node.stop();
        }
        node.wait_for(&service, "lost");
        node.launch();
        node.wait_for(&service, "ready");
        assert_eq!(shown()["joined"], joined, "it is the same node");
        wait_until("its cache is known again", || {
            node.images(&service)
                .iter()
                .any(|held| held["digest"] == image.digest.as_str())
        });
        let warm = service.warm(&words).ok().json();
        assert_eq!(warm["nodes"][0]["bytes_fetched"], 0, "{warm:#}");
    }
}

fn a_node_that_stops(world: &World) {
    let service = world.start_empty("ends", &STEADY);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 1000)]);
    let set = ["--set", "node.stop_timeout=2s"];
    let mut node = Node::start(&service, "ends", "local", &world.folder("ends"), &set);
    let (polite, stubborn) = (sleep_mark(), sleep_mark());
    let script = format!("trap 'echo bye; exit 4' TERM; while :; do sleep 0.05; done; : {polite}");
    let polite = service.detach(&image.hash, &["--", "sh", "-c", &script]);
    let script = format!("trap '' TERM; sleep {stubborn}; sleep {stubborn}");
    let stubborn_id = service.detach(&image.hash, &["--", "sh", "-c", &script]);
    wait_for_process(&stubborn, true);
    node.stop();
    wait_for_process(&stubborn, false);
    for id in [&polite, &stubborn_id] {
        wait_until("the end of a sandbox is known", || {
            service.get(&format!("/v1/sandboxes/{id}"))["state"] == "exited"
        });
    }
}

/// Variables by which Debian's libfaketime gives a process the time that a file names. The
/// monotonic clock stays true, as that of the kernel does when somebody sets the clock.
fn faked(offset: &Path) -> Vec<(String, String)> {
    let mut folders = fs::read_dir("/usr/lib").unwrap().flatten();
    let library = folders.find_map(|folder| {
        let path = folder.path().join("faketime/libfaketime.so.1");
        path.exists().then_some(path)
    });
    let library = library.expect("libfaketime is installed");
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    variables
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

fn clocks_that_jump(world: &World) {
    let mut network = Network::new();
    let home = network.host(None);
    let away = network.host(None);
    let offset = world.folder("clock").join("offset");
    let jump = |to: &str| {
        let next = offset.with_extension("next");
        fs::write(&next, format!("{to}\n")).unwrap();
        fs::rename(&next, &offset).unwrap();
    };
    jump("+0");
    let fake = faked(&offset);
    let mut settings = STEADY.to_vec();
    settings.push(("nodes.heartbeat", "1s"));
    let service = Service::start_with(&home, &world.folder("clock"), &settings, &fake);
    let image = MadeUp::new(world, &service, &[noise(&unique(), 2 << 20)]);
    let state = world.folder("clock-node");
    let node = Node::start_with(&away, &service, "clock", &state, &fake);
    let mark = sleep_mark();
    let words = ["--timeout", "1h", "--", "sleep", &mark];
    let id = service.detach(&image.hash, &words);
    wait_for_process(&mark, true);
    service.nodes(&["cache", "gc", "clock"]).ok();
    let second = MadeUp::new(world, &service, &[noise(&unique(), 2 << 20)]);
    // Slow enough to be under way through all the jumps, which take it out of any limit.
    home.limit("256kbit");
    let warm = service
        .warm(&["--image", &second.hash, "--timeout", "2h"])
        .ok()
        .json();
    for to in ["+40d", "-9000d", "+0"] {
        jump(to);
        let now = service.get("/v1/nodes/clock")["last_seen"].clone();
        // Heartbeats go on, and are told by the new clock.
        wait_until("the next sign of life", || {
            service.get("/v1/nodes/clock")["last_seen"] != now
        });
        let shown = service.get("/v1/nodes/clock");
        assert_eq!(shown["state"], "ready", "after {to}: {shown:#}");
        let sandbox = service.get(&format!("/v1/sandboxes/{id}"));
        assert_eq!(sandbox["state"], "running", "after {to}: {sandbox:#}");
        let said = service.get(&format!("/v1/warms/{}", warm["id"].as_str().unwrap()));
        assert_ne!(said["status"], "failed", "after {to}: {said:#}");
    }
    home.limit("1gbit");
    let mut last = Value::Null;
    wait_until("the warm is ready", || {
        last = service.get(&format!("/v1/warms/{}", warm["id"].as_str().unwrap()));
        last["status"] == "ready"
    });
    let seconds = last["nodes"][0]["seconds"].as_f64().unwrap();
    // Not the forty days of a jump.
    assert!((0.0..7200.0).contains(&seconds), "{last:#}");
    service.sandboxes(&["stop", "--grace", "0s", &id]).ok();
    drop(node);
}
