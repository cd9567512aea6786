//! What a build tells while it runs, and afterwards: progress modes, events, logs, JSON keys.

use std::num::NonZero;

use chalk_tests::{Project, World, run, tool, unique, wait_until};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("modes", modes),
    ("a_terminal_gets_a_live_view", a_terminal_gets_a_live_view),
    (
        "events_are_numbered_and_resumed",
        events_are_numbered_and_resumed,
    ),
    (
        "a_client_that_reconnects_misses_nothing",
        a_client_that_reconnects_misses_nothing,
    ),
    ("logs_are_kept", logs_are_kept),
    ("json_keys_of_the_contract", json_keys_of_the_contract),
];

fn project(commands: &[&str]) -> Project {
    let commands: Vec<String> = commands
        .iter()
        .map(|command| format!("'''{command}'''"))
        .collect();
    Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [{}]\n",
        commands.join(", ")
    ))
}

fn modes(world: &World) {
    let service = world.service();
    let build = |mode: &str| {
        let project = project(&[&format!("echo some words {}", unique())]);
        service.image(&["build", &project.arg("image.toml"), "--progress", mode])
    };
    let plain = build("plain").ok();
    assert!(plain.stderr.contains("some words"), "{plain}");
    assert!(!plain.stderr.contains('\x1b'), "no escape codes: {plain}");
    assert_eq!(plain.stdout.lines().count(), 1, "one result: {plain}");
    assert!(
        plain.stdout.contains(service.address()),
        "the pullable reference: {plain}"
    );

    let auto = build("auto").ok();
    assert!(
        auto.stderr.contains("some words"),
        "plain where there is no terminal: {auto}"
    );

    let quiet = build("quiet").ok();
    assert_eq!(quiet.stderr, "", "{quiet}");
    assert!(!quiet.stdout.is_empty(), "{quiet}");

    build("tty").code(2).says(&["terminal"]);

    let raw = build("rawjson").ok();
    let events: Vec<Value> = raw
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index as u64 + 1, "{raw}");
        assert!(
            event["time"].is_string() && event["type"].is_string(),
            "{event}"
        );
    }
    assert!(
        events
            .iter()
            .any(|e| e["type"] == "log" && e["text"].to_string().contains("some words"))
    );
    assert_eq!(events.last().unwrap()["type"], "finished");
}

fn a_terminal_gets_a_live_view(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = project(&[&format!("echo in a terminal {mark}")]);
    let binary = std::env::var("CHALK_TEST_BIN").unwrap();
    let command = format!(
        "stty cols 100 rows 30; {binary} --state {} compute image build {}",
        service.state().display(),
        project.arg("image.toml")
    );
    let mut script = tool(
        "script",
        ["--quiet", "--return", "--command", &command, "/dev/null"],
    );
    script.env("TERM", "xterm-256color").env_remove("NO_COLOR");
    let shown = run(&mut script).ok();
    assert!(
        shown.stdout.contains('\x1b'),
        "a live view moves the cursor: {shown}"
    );
    let hidden = shown.stdout.matches("\x1b[?25l").count();
    let visible = shown.stdout.matches("\x1b[?25h").count();
    assert!(visible >= hidden, "the cursor comes back: {shown}");

    // Of an image that is there already nothing stays on the screen but its reference.
    let again = run(&mut script).ok();
    let [rows, columns] = [30, 100].map(|count| NonZero::new(count).unwrap());
    let mut terminal = vt100::Parser::new(rows, columns, 0);
    terminal.process(again.stdout.as_bytes());
    let screen = terminal.screen().contents();
    let lines: Vec<&str> = screen.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with(service.address()), "{lines:?}");
}

fn events_are_numbered_and_resumed(world: &World) {
    let service = world.service();
    let project = project(&[&format!(
        "for i in $(seq 1 40); do echo line $i {}; done",
        unique()
    )]);
    let built = service.build(&project.arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap();
    let builds = service.get(&format!("/v1/builds?hash={hash}"));
    let id = builds[0]["id"]
        .as_str()
        .expect("a build of that hash")
        .to_owned();
    let all = service.events(&id, 0);
    let last = all.len() as u64;
    assert_eq!(
        all.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        (1..=last).collect::<Vec<_>>()
    );
    for (number, event) in &all {
        assert_eq!(event["seq"], *number);
    }
    assert_eq!(all.last().unwrap().1["type"], "finished");
    for after in [1, last / 2, last - 1] {
        assert_eq!(
            service.events(&id, after),
            all[after as usize..],
            "after {after}"
        );
    }
}

fn a_client_that_reconnects_misses_nothing(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = project(&[&format!(
        "for i in $(seq 1 30); do echo line $i {mark}; sleep 0.1; done"
    )]);
    let detached = service
        .image(&["build", &project.arg("image.toml"), "--detach", "--json"])
        .ok();
    let id = detached.result()["id"]
        .as_str()
        .expect("the id of the build")
        .to_owned();
    let url = format!("{}/v1/builds/{id}/events", service.url());
    // Connections of half a second, each going on from the last number that it saw.
    let mut seen: Vec<Value> = Vec::new();
    wait_until("the end of the build", || {
        let after = seen
            .last()
            .map_or(0, |event| event["seq"].as_u64().unwrap());
        let mut curl = tool("curl", ["--silent", "--no-buffer", "--max-time", "0.5"]);
        curl.args([
            "--header",
            &format!("Authorization: Bearer {}", service.token()),
        ]);
        curl.args(["--header", &format!("Last-Event-ID: {after}")])
            .arg(&url);
        let part = run(&mut curl).stdout;
        // The last block may have been cut in the middle.
        let whole = part.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
        let data = whole.lines().filter_map(|line| line.strip_prefix("data:"));
        seen.extend(data.map(|data| serde_json::from_str::<Value>(data).expect("JSON")));
        seen.last().is_some_and(|event| event["type"] == "finished")
    });
    let numbers: Vec<u64> = seen
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let text: String = seen
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    for line in 1..=30 {
        assert_eq!(
            text.matches(&format!("line {line} {mark}")).count(),
            1,
            "line {line}"
        );
    }
    assert_eq!(seen.last().unwrap()["build"]["status"], "built");
}

fn logs_are_kept(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = project(&[
        &format!("echo first {mark}"),
        &format!("echo second {mark} >&2"),
    ]);
    let built = service.build(&project.arg("image.toml"));
    let hash = built["image_hash"].as_str().unwrap();
    let logs = service.image(&["logs", hash]).ok();
    assert!(logs.stdout.contains(&format!("first {mark}")), "{logs}");
    assert!(logs.stdout.contains(&format!("second {mark}")), "{logs}");
    let second = service.image(&["logs", hash, "--step", "2"]).ok();
    assert!(!second.stdout.contains("first"), "{second}");
    assert!(
        second.stdout.contains(&format!("second {mark}")),
        "{second}"
    );
    service.image(&["logs", "0123456789abcdef"]).code(4);
}

#[track_caller]
fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value.get(key).is_some(), "`{key}` is missing in {value:#}");
    }
}

fn json_keys_of_the_contract(world: &World) {
    let service = world.service();
    let mark = unique();
    let one = project(&[&format!("echo {mark}")]);
    let two = project(&[&format!("echo {mark}"), "echo more"]);
    let (one, two) = (one.arg("image.toml"), two.arg("image.toml"));
    let hash_keys = ["recipe_hash", "image_hash", "base", "platform", "steps"];

    let offline = service
        .image(&["hash", &one, "--offline", "--json"])
        .ok()
        .json();
    has_keys(&offline, &hash_keys);
    assert!(
        offline["image_hash"].is_null(),
        "no digest was asked for: {offline:#}"
    );
    let hash = service.image(&["hash", &one, "--json"]).ok().json();
    has_keys(&hash, &hash_keys);
    has_keys(&hash["base"], &["ref", "digest"]);
    has_keys(&hash["steps"][0], &["kind", "key"]);
    assert_eq!(hash["recipe_hash"], offline["recipe_hash"]);
    assert_eq!(hash["base"]["ref"], World::BUSYBOX);

    let plan = service.image(&["plan", &one, "--json"]).ok().json();
    has_keys(&plan, &hash_keys);
    has_keys(&plan, &["upload_bytes", "nodes_warm"]);
    assert_eq!(plan["steps"][0]["state"], "run");
    assert_eq!(plan["image_hash"], hash["image_hash"]);

    let built = service.build(&one);
    has_keys(
        &built,
        &[
            "status",
            "image_hash",
            "image",
            "digest",
            "seconds",
            "steps",
        ],
    );
    has_keys(&built["steps"][0], &["kind", "key", "state", "seconds"]);
    assert_eq!(built["image_hash"], hash["image_hash"]);
    assert_eq!(built["steps"][0]["key"], hash["steps"][0]["key"]);
    let plan = service.image(&["plan", &two, "--json"]).ok().json();
    assert_eq!(
        (&plan["steps"][0]["state"], &plan["steps"][1]["state"]),
        (&"cached".into(), &"run".into())
    );

    let diff = service.image(&["diff", &one, &two, "--json"]).ok().json();
    has_keys(&diff, &["equal", "first_step", "changes", "reruns"]);
    assert_eq!(diff["equal"], false);
    has_keys(&diff["changes"][0], &["path", "before", "after"]);
    let same = service.image(&["diff", &one, &one, "--json"]).ok().json();
    assert_eq!(same["equal"], true, "{same:#}");
}
