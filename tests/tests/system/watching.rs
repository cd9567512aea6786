//! What those see who watch service and nodes: metrics, the dashboard, traces, the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use chalk_tests::{
    Collector, Exposition, MadeUp, Node, Project, STEADY, Service, TracedSpan, World, noise,
    request, unique, wait_until,
};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("metrics_count_what_happens", metrics_count),
    ("metrics_are_for_those_who_may_read_them", metrics_are_read),
    ("a_node_has_metrics", a_node_has_metrics),
    ("the_dashboard_shows_what_there_is", the_dashboard),
    ("a_build_is_one_trace", a_build_is_one_trace),
    ("a_warm_goes_on_in_the_trace_of_who_asked", a_warm_is_traced),
    ("every_line_of_a_build_has_its_id", lines_have_the_id),
    ("no_token_and_no_secret_is_logged", no_token_is_logged),
];

const OK: &str = "text/plain; version=0.0.4; charset=utf-8";

fn project(mark: &str) -> Project {
    Project::toml(&format!(
        r#"
[image]
base = "busybox"
[[step]]
run_commands = ["echo one {mark}", "echo two {mark} > /two"]
"#
    ))
}

/// The metrics that the service counted.
#[track_caller]
fn metrics(service: &Service) -> Exposition {
    let url = format!("{}/metrics", service.url());
    let answer = request(&url, Some(service.token()), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    Exposition::parse(&answer.body)
}

/// The metrics at an address that asks for no token.
#[track_caller]
fn open_metrics(address: &str) -> Exposition {
    let answer = request(&format!("http://{address}/metrics"), None, &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    Exposition::parse(&answer.body)
}

/// Where a program says in its log that it serves metrics.
#[track_caller]
fn metrics_address(log: &str) -> String {
    let line = log.lines().find(|line| line.contains("metrics are served"));
    let line = line.unwrap_or_else(|| panic!("no metrics are served:\n{log}"));
    let (_, rest) = line.split_once("bound=").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

fn metrics_count(world: &World) {
    let service = world.start("counted", &[]);
    let mark = unique();
    let first = project(&mark);
    service.build(&first.arg("image.toml"));
    service.build(&first.arg("image.toml"));
    let text = fs::read_to_string(first.file("image.toml")).unwrap();
    first.write("image.toml", text.replace("/two\"", "/three\""));
    service.build(&first.arg("image.toml"));
    first.write("image.toml", text.replace("echo two", "exit 3; echo two"));
    service.image(&["build", &first.arg("image.toml")]).code(1);
    let mut copy = service.skopeo("copy");
    let image = service.get("/v1/images")[0].clone();
    let hash = image["image_hash"].as_str().unwrap().replace("sha256:", "");
    let from = format!("docker://{}/chalk/images:{hash}", service.address());
    let to = format!("oci:{}", world.folder("counted-copy").display());
    chalk_tests::run(copy.arg(from).arg(to)).ok();

    let found = metrics(&service);
    let value = |name: &str, labels: &[(&str, &str)]| found.value(name, labels);
    assert_eq!(value("chalk_builds_total", &[("state", "built")]), 2.0);
    assert_eq!(value("chalk_builds_total", &[("state", "reused")]), 1.0);
    assert_eq!(value("chalk_builds_total", &[("state", "failed")]), 1.0);
    assert_eq!(value("chalk_build_skip_duration_seconds_count", &[]), 1.0);
    assert_eq!(value("chalk_build_duration_seconds_count", &[]), 3.0);
    assert!(value("chalk_build_duration_seconds_sum", &[("state", "built")]) > 0.0);
    let steps = |state: &str| value("chalk_steps_total", &[("state", state), ("kind", "run")]);
    assert_eq!(
        (steps("ran"), steps("cached"), steps("failed")),
        (3.0, 2.0, 1.0)
    );
    let ran = value("chalk_step_duration_seconds_count", &[("kind", "run")]);
    assert_eq!(ran, 4.0);
    assert!(value("chalk_build_pushed_bytes_total", &[]) > 0.0);
    let pulls = [("api", "registry"), ("method", "GET"), ("status", "200")];
    assert!(value("chalk_requests_total", &pulls) >= 3.0);
    let seconds = [("api", "registry"), ("method", "GET")];
    assert!(value("chalk_request_duration_seconds_count", &seconds) >= 3.0);
    assert!(value("chalk_registry_sent_bytes_total", &[]) > image["size"].as_f64().unwrap());
    assert!(value("chalk_store_blobs", &[]) > 3.0 && value("chalk_store_bytes", &[]) > 1e5);
    assert_eq!(
        value("chalk_builds_running", &[]) + value("chalk_builds_queued", &[]),
        0.0
    );
    assert_eq!(value("chalk_nodes", &[("state", "ready")]), 0.0);
    assert!(value("process_cpu_seconds_total", &[]) > 0.0);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
    check_labels(&found);
}

/// Labels have few values, and none that a user chose.
#[track_caller]
fn check_labels(found: &Exposition) {
    let mut series = 0;
    for (name, family) in &found.families {
        for sample in &family.samples {
            series += 1;
            for (label, value) in &sample.labels {
                let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
                let short = value.len() <= 24 && value.chars().all(plain);
                assert!(short, "{name}: {label}={value}");
            }
        }
    }
    assert!(series < 1000, "{series} series");
}

fn metrics_are_read(world: &World) {
    let service = world.start_empty("readers", &[("metrics.listen", "127.0.0.1:0")]);
    let url = format!("{}/metrics", service.url());
    assert_eq!(request(&url, None, &[]).status, 401);
    let token = |role: &str| {
        let made = ["token", "create", "--name", "m", "--role", role, "--json"];
        let made = service.chalk().args(made).run().ok().json();
        made["token"].as_str().unwrap().to_owned()
    };
    let answer = request(&url, Some(&token("read")), &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type, OK);
    let open = ["-H", "Accept: application/openmetrics-text; version=1.0.0"];
    let answer = request(&url, Some(service.token()), &open);
    let text = answer.body;
    assert!(
        text.ends_with("# EOF\n") && text.contains("# UNIT "),
        "{text}"
    );

    let address = metrics_address(&service.log());
    let found = open_metrics(&address);
    assert_eq!(found.value("chalk_builds_running", &[]), 0.0);
    for other in ["/v1/builds", "/v1/info", "/v2/", "/"] {
        let answer = request(
            &format!("http://{address}{other}"),
            Some(service.token()),
            &[],
        );
        assert_eq!(answer.status, 404, "{other}");
    }
}

fn a_node_has_metrics(world: &World) {
    let service = world.start("node-metrics", &STEADY);
    let image = MadeUp::new(world, &service, &[noise("node-metrics", 300_000)]);
    let words = ["--set", "node.metrics_listen=127.0.0.1:0"];
    let node = Node::start(
        &service,
        "watched",
        "local",
        &world.folder("watched"),
        &words,
    );
    service
        .warm(&["--image", &image.hash, "--all", "--wait"])
        .ok();
    service.sandbox(&image.hash, &["--", "true"]).run().ok();
    let address = metrics_address(&node.log());
    let found = open_metrics(&address);
    let value = |name: &str, labels: &[(&str, &str)]| found.value(name, labels);
    assert_eq!(value("chalk_node_connected", &[]), 1.0);
    assert!(value("chalk_node_fetched_bytes_total", &[("from", "registry")]) >= 300_000.0);
    assert_eq!(
        value("chalk_node_fetched_bytes_total", &[("from", "mirror")]),
        0.0
    );
    assert!(value("chalk_node_cache_used_bytes", &[]) >= 300_000.0);
    assert!(value("chalk_node_cache_limit_bytes", &[]) > value("chalk_node_cache_used_bytes", &[]));
    assert_eq!(value("chalk_node_cache_images", &[]), 1.0);
    assert_eq!(
        value("chalk_node_cache_lookups_total", &[("result", "miss")]),
        1.0
    );
    assert!(value("chalk_node_cache_lookups_total", &[("result", "hit")]) >= 1.0);
    assert_eq!(
        value("chalk_node_sandbox_starts_total", &[("result", "started")]),
        1.0
    );
    let cached = [("image", "cached")];
    assert_eq!(
        value("chalk_node_sandbox_start_duration_seconds_count", &cached),
        1.0
    );
    assert_eq!(value("chalk_node_sandboxes", &[]), 0.0);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
    check_labels(&found);
    let answer = request(&format!("http://{address}/v2/"), None, &[]);
    assert_eq!(answer.status, 404);
    let of_service = metrics(&service);
    assert_eq!(of_service.value("chalk_nodes", &[("state", "ready")]), 1.0);
    assert_eq!(
        of_service.value("chalk_warms_total", &[("state", "ready")]),
        1.0
    );
    assert_eq!(
        of_service.value("chalk_sandboxes_ended_total", &[("state", "exited")]),
        1.0
    );
}

/// Names of metrics in a query.
fn named(query: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !word(c));
    let ours = words.filter(|w| w.starts_with("chalk_") || w.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

fn the_dashboard(world: &World) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/chalk.json");
    let dashboard: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut shown = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        let says = panel["description"].as_str().unwrap_or_default();
        assert!(says.len() > 5 && panel["title"].is_string(), "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        for target in targets {
            let names = named(target["expr"].as_str().unwrap());
            assert!(!names.is_empty(), "{target}");
            shown.extend(names);
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        shown.extend(named(&variable["query"].to_string()));
    }
    let service = world.start_empty("dashboard", &STEADY);
    let words = ["--set", "node.metrics_listen=127.0.0.1:0"];
    let node = Node::start(&service, "shown", "local", &world.folder("shown"), &words);
    // The first request is counted when it is answered.
    metrics(&service);
    let of_service = metrics(&service);
    let of_node = open_metrics(&metrics_address(&node.log()));
    let names = |of: &Exposition| -> BTreeSet<String> {
        of.names().into_iter().map(str::to_owned).collect()
    };
    let there: BTreeSet<String> = &names(&of_service) | &names(&of_node);
    let missing: Vec<_> = shown.difference(&there).collect();
    assert!(
        missing.is_empty(),
        "the dashboard shows what is not there: {missing:?}"
    );
    // What is counted is shown, too.
    let families = of_service.families.keys().chain(of_node.families.keys());
    let ours = families.filter(|name| name.starts_with("chalk_"));
    let hidden: Vec<_> = ours
        .filter(|name| !shown.iter().any(|shown| shown.starts_with(*name)))
        .collect();
    assert!(hidden.is_empty(), "the dashboard lacks {hidden:?}");
}

/// A span of somebody else, and its trace.
const OUTSIDE: &str = "b7ad6b7169203331";
const OUTSIDE_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Waits for spans that fit and those that they are parts of, and gives all that came.
#[track_caller]
fn trace(
    collector: &Collector,
    what: &str,
    whole: impl Fn(&[TracedSpan]) -> bool,
) -> Vec<TracedSpan> {
    wait_until(what, || {
        let spans = collector.spans();
        let there = |id: &String| spans.iter().any(|span| span.id == *id);
        let known = |id: &String| id.is_empty() || id == OUTSIDE || there(id);
        whole(&spans) && spans.iter().all(|span| known(&span.parent))
    });
    collector.spans()
}

fn count(spans: &[TracedSpan], service: &str, name: &str) -> usize {
    let fits = |span: &&TracedSpan| span.service == service && span.name == name;
    spans.iter().filter(fits).count()
}

fn a_build_is_one_trace(world: &World) {
    let collector = Collector::new();
    let environment = collector.environment();
    let service = Service::start_in(&world.state("traced"), &[], &environment);
    let mark = unique();
    let project = project(&mark);
    let file = project.arg("image.toml");
    let build = || {
        let mut chalk = service.chalk().args(["image", "build", &file, "--json"]);
        for (name, value) in &environment {
            chalk = chalk.env(name, value);
        }
        chalk.run()
    };
    let result = build().ok().result();
    let spans = trace(&collector, "the spans of a build", |spans| {
        count(spans, "chalk", "chalk image build") == 1
            && count(spans, "chalk-service", "build") == 1
    });
    let by_id: BTreeMap<&str, &TracedSpan> = spans.iter().map(|s| (s.id.as_str(), s)).collect();
    let root = spans.iter().find(|s| s.service == "chalk").unwrap();
    assert_eq!(root.parent, "", "{root:?}");
    for span in &spans {
        assert_eq!(span.trace, root.trace, "{span:#?}");
        assert!(span.times.0 <= span.times.1, "{span:?}");
    }
    let found = spans.iter().find(|s| s.name == "build").unwrap();
    assert_eq!(found.attributes["build"], result["id"].as_str().unwrap());
    assert_eq!(found.attributes["state"], "built");
    assert_eq!(found.error, None);
    let asked = by_id[found.parent.as_str()];
    assert_eq!(
        (asked.name.as_str(), asked.parent.as_str()),
        ("POST api", root.id.as_str())
    );
    assert_eq!(asked.attributes["url.path"], "/v1/builds");
    assert_eq!(asked.attributes["http.response.status_code"], "200");
    let steps: Vec<_> = spans.iter().filter(|s| s.parent == found.id).collect();
    let names: Vec<_> = steps.iter().map(|s| s.name.as_str()).collect();
    let expect = [
        format!("RUN echo one {mark}"),
        format!("RUN echo two {mark} > /two"),
    ];
    assert_eq!(names, expect, "{spans:#?}");
    for (at, step) in steps.iter().enumerate() {
        assert_eq!(step.attributes["step"], (at + 1).to_string());
        assert_eq!(
            (
                step.attributes["kind"].as_str(),
                step.attributes["state"].as_str()
            ),
            ("run", "ran")
        );
        assert!(step.times.0 >= found.times.0 && step.times.1 <= found.times.1);
    }

    // Another build: a step from the cache, and one that fails.
    let text = fs::read_to_string(project.file("image.toml")).unwrap();
    project.write("image.toml", text.replace("echo two", "exit 3; echo two"));
    build().code(1);
    let spans = trace(&collector, "the spans of another build", |spans| {
        count(spans, "chalk", "chalk image build") == 2
            && count(spans, "chalk-service", "build") == 2
    });
    let second: Vec<_> = spans.iter().filter(|s| s.trace != root.trace).collect();
    let failed = second.iter().find(|s| s.name == "build").unwrap();
    assert_eq!(failed.attributes["state"], "failed");
    assert!(failed.error.is_some());
    let steps = second.iter().filter(|s| s.parent == failed.id);
    let states: Vec<_> = steps
        .map(|s| (s.attributes["state"].as_str(), s.error.is_some()))
        .collect();
    assert_eq!(states, [("cached", false), ("failed", true)]);
    let command = second.iter().find(|s| s.service == "chalk").unwrap();
    assert!(command.error.is_some() && command.trace == failed.trace);

    // Whoever runs the command can have it be a part of a trace.
    let parent = format!("00-{OUTSIDE_TRACE}-{OUTSIDE}-01");
    let mut chalk = service
        .chalk()
        .args(["image", "plan", &file])
        .env("TRACEPARENT", parent);
    for (name, value) in &environment {
        chalk = chalk.env(name, value);
    }
    chalk.run().ok();
    let spans = trace(&collector, "a span in a given trace", |spans| {
        count(spans, "chalk", "chalk image plan") == 1
    });
    let plan = spans.iter().find(|s| s.name == "chalk image plan").unwrap();
    assert_eq!(plan.trace, OUTSIDE_TRACE);
    assert_eq!(plan.parent, OUTSIDE);
}

fn a_warm_is_traced(world: &World) {
    let collector = Collector::new();
    let environment = collector.environment();
    let service = Service::start_in(&world.state("traced-warm"), &STEADY, &environment);
    let image = MadeUp::new(world, &service, &[noise("traced", 100_000)]);
    let state = world.folder("traced-node");
    let _node = Node::start_in(&service, "traced", &state, &[], &environment);
    let run = |words: &[&str]| {
        let mut chalk = service.chalk().args(words);
        for (name, value) in &environment {
            chalk = chalk.env(name, value);
        }
        chalk.run().ok()
    };
    run(&["image", "warm", "--image", &image.hash, "--all", "--wait"]);
    let spans = trace(&collector, "the spans of a warm", |spans| {
        count(spans, "chalk", "chalk image warm") == 1 && count(spans, "chalk-node", "warm") == 1
    });
    let of = |service: &str, name: &str| {
        let fits = |s: &&TracedSpan| s.service == service && s.name == name;
        spans
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("no {name}: {spans:#?}"))
    };
    let (command, warm) = (of("chalk", "chalk image warm"), of("chalk-node", "warm"));
    let asked = spans.iter().find(|s| s.id == warm.parent).unwrap();
    assert_eq!(
        (asked.service.as_str(), asked.parent.as_str()),
        ("chalk-service", command.id.as_str())
    );
    assert_eq!(warm.attributes["image"], image.digest);
    let fetched: u64 = warm.attributes["bytes_fetched"].parse().unwrap();
    assert!(fetched >= 100_000, "{warm:?}");
    let layers = spans.iter().filter(|s| s.parent == warm.id);
    let layers: Vec<_> = layers.map(|s| s.name.as_str()).collect();
    assert_eq!(layers, ["layer", "layer"], "{spans:#?}");

    run(&["sandbox", "run", "--image", &image.hash, "--", "true"]);
    let spans = trace(&collector, "the spans of a sandbox", |spans| {
        count(spans, "chalk", "chalk sandbox") == 1 && count(spans, "chalk-node", "sandbox") == 1
    });
    let named = |name: &str| spans.iter().find(|s| s.name == name).unwrap();
    assert_eq!(named("sandbox").trace, named("chalk sandbox").trace);
    assert_eq!(named("start").parent, named("sandbox").id);
}

fn lines_have_the_id(world: &World) {
    let service = world.start("json-log", &[("log.format", "json")]);
    let mark = unique();
    let project = project(&mark);
    let file = project.arg("image.toml");
    let built = service.build(&file);
    let text = fs::read_to_string(project.file("image.toml")).unwrap();
    project.write("image.toml", text.replace("echo one", "exit 3; echo one"));
    service.image(&["build", &file]).code(1);
    let log = service.log();
    let lines: Vec<Value> = log
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let id = built["id"].as_str().unwrap();
    let of: Vec<_> = lines.iter().filter(|line| line["build"] == id).collect();
    let said: Vec<_> = of
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(
        said,
        ["build is queued", "build runs", "build ended"],
        "{log}"
    );
    // From when a build is taken until it ended nothing else was done here.
    let mut open = None;
    for line in &lines {
        let message = line["message"].as_str().unwrap();
        if message == "build is queued" {
            open = Some(line["build"].as_str().unwrap().to_owned());
        }
        if let Some(id) = &open {
            assert_eq!(line["build"], id.as_str(), "{line}");
            assert!(
                line["time"].is_string() && line["level"].is_string(),
                "{line}"
            );
        }
        if message == "build ended" || message == "build failed" {
            open = None;
        }
    }
    let failed = lines.iter().any(|line| line["message"] == "build failed");
    assert!(failed && open.is_none(), "{log}");
}

/// Words that begin as tokens of that kind do, in small files below a folder.
fn tokens_in(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(about) = entry.metadata() else {
            continue;
        };
        if about.is_dir() {
            tokens_in(&path, prefix, found);
        } else if about.is_file() && about.len() < 100_000 {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            let words = text.split(|c| !word(c)).filter(|w| w.starts_with(prefix));
            found.extend(words.map(str::to_owned));
        }
    }
}

fn no_token_is_logged(world: &World) {
    let all = [("CHALK_LOG".to_owned(), "trace".to_owned())];
    let settings = [STEADY[0], STEADY[1], ("log.format", "json")];
    let service = Service::start_in(&world.state("silent"), &settings, &all);
    let image = MadeUp::new(world, &service, &[noise("silent", 1000)]);
    let secret = format!("hunter2-{}-in-the-log", unique());
    let project = Project::toml(
        r#"
[image]
base = "busybox"
[[step]]
run_commands = ["cat /run/secrets/key; exit 3"]
secrets = ["key"]
"#,
    );
    let file = project.arg("image.toml");
    let build = service
        .chalk()
        .args(["image", "build", &file, "--secret", "key"]);
    build.env("key", &secret).run().code(1);
    let state = world.folder("silent-node");
    let node = Node::start_in(&service, "silent", &state, &[], &all);
    service
        .warm(&["--image", &image.hash, "--all", "--wait"])
        .ok();
    let env = format!("PASSWORD={secret}");
    service
        .sandbox(&image.hash, &["--env", &env, "--", "true"])
        .run()
        .ok();

    let mut never: BTreeSet<String> = [secret, service.token().to_owned()].into();
    let client = [
        "token", "create", "--name", "m", "--role", "build", "--json",
    ];
    let client = service.chalk().args(client).run().ok().json();
    let join = service.nodes(&["token", "create"]).ok().json();
    for (made, key) in [
        (&client, "token"),
        (&client, "client_secret"),
        (&join, "token"),
    ] {
        never.insert(made[key].as_str().unwrap().to_owned());
    }
    let token = client["token"].as_str().unwrap();
    let login = format!("any:{token}");
    let answer = request(&format!("{}/v2/", service.url()), None, &["--user", &login]);
    assert_eq!(answer.status, 200);
    let answer = request(&format!("{}/v1/builds", service.url()), Some(token), &[]);
    assert_eq!(answer.status, 200);
    let known = never.len();
    tokens_in(&state, "chn_", &mut never);
    assert!(never.len() > known, "the node's own token was not found");
    for (of, log) in [("service", service.log()), ("node", node.log())] {
        assert!(log.lines().count() > 50, "the {of} logged nothing:\n{log}");
        for word in &never {
            assert!(
                !log.contains(word.as_str()),
                "the log of the {of} has {word}"
            );
        }
        for pair in [&login, &format!("chalk:{}", service.token())] {
            let pair = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, pair);
            assert!(!log.contains(&pair), "the log of the {of} has a login");
        }
    }
}
