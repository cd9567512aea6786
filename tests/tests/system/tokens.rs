//! Tokens: by which nodes join, and what theirs are good for.

use std::fs;

use chalk_tests::{Chalk, Node, Project, STEADY, Service, Talk, World, request, wait_until};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("join_tokens_expire_and_are_used_up", join_tokens),
    ("a_nodes_token_is_good_for_its_work_only", a_nodes_token),
    ("a_name_that_is_taken", a_name_that_is_taken),
];

/// Makes a join token.
fn token(service: &Service, words: &[&str]) -> (String, String) {
    let made = service
        .nodes(&[&["token", "create"], words].concat())
        .ok()
        .json();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

fn agent(service: &Service, world: &World, name: &str, file: &str) -> Chalk {
    let words = [
        "node",
        "--server",
        service.url(),
        "--name",
        name,
        "--join-token-file",
        file,
    ];
    Chalk::on(&world.folder(name)).args(words)
}

/// Expects that a node may not join, and says so.
#[track_caller]
fn refused(service: &Service, world: &World, token: &str, more: &[&str], said: &[&str]) {
    let file = Project::new(&[("token", token)]);
    let chalk = agent(service, world, "refused", &file.arg("token")).args(more);
    chalk.run().code(3).says(said);
    let nodes = service.get("/v1/nodes");
    let nodes = nodes.as_array().unwrap();
    assert!(
        nodes.iter().all(|node| node["name"] != "refused"),
        "{nodes:#?}"
    );
}

/// Starts a node by a join token and waits until it is there.
fn joins(service: &Service, world: &World, name: &str, token: &str, more: &[&str]) -> Talk {
    let file = Project::new(&[("token", token)]);
    let chalk = agent(service, world, name, &file.arg("token")).args(more);
    let output = world.folder("agent").join(name);
    let talk = Talk::start(&mut chalk.into_command(), &output);
    wait_until("the node is ready", || {
        let nodes = service.get("/v1/nodes");
        let mut nodes = nodes.as_array().unwrap().iter();
        nodes.any(|node| node["name"] == name && node["state"] == "ready")
    });
    assert!(!talk.output().contains(token) && !talk.errors().contains(token));
    talk
}

fn join_tokens(world: &World) {
    let service = world.start_empty("tokens", &STEADY);
    refused(&service, world, "chj_wrong", &[], &["token"]);
    refused(&service, world, "", &[], &["token"]);

    let (id, once) = token(&service, &["--uses", "1"]);
    let first = joins(&service, world, "one", &once, &[]);
    refused(&service, world, &once, &[], &["token"]);
    let listed = service.nodes(&["token", "ls"]).ok();
    assert!(!listed.stdout.contains(&once), "the token is shown once");
    drop(first);

    let (_, short) = token(&service, &["--ttl", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    refused(&service, world, &short, &[], &["token"]);

    let (_, south) = token(&service, &["--region", "south"]);
    refused(&service, world, &south, &["--region", "north"], &["south"]);
    let node = joins(&service, world, "two", &south, &[]);
    assert_eq!(service.get("/v1/nodes/two")["region"], "south");
    drop(node);

    let (revoked, many) = token(&service, &[]);
    assert_ne!(id, revoked);
    service.nodes(&["token", "revoke", &revoked]).ok();
    refused(&service, world, &many, &[], &["token"]);
    service.nodes(&["token", "revoke", &revoked]).code(4);
    // Only its digest is kept.
    let mut grep = chalk_tests::tool("grep", ["-rl", &many]);
    let found = chalk_tests::run(grep.arg(service.state()));
    assert_eq!(found.stdout, "", "the token stands in the state directory");
    for bad in [["--uses", "0"], ["--ttl", "soon"]] {
        service
            .nodes(&[&["token", "create"], &bad[..]].concat())
            .code(2);
    }
    // A join token is no key to anything else.
    let (_, join) = token(&service, &[]);
    for path in ["/v1/nodes", "/v1/images", "/v2/", "/v1/info"] {
        let answer = request(&format!("{}{path}", service.url()), Some(&join), &[]);
        assert!(matches!(answer.status, 401 | 403), "{path}: {answer:?}");
    }
}

/// The token that a node keeps in its state directory.
fn kept_token(node: &Node) -> String {
    let mut find = chalk_tests::tool("grep", ["-rhoE", "chn_[A-Za-z0-9_-]+"]);
    let found = chalk_tests::run(find.arg(node.state())).ok().stdout;
    found.lines().next().expect("the node's token").to_owned()
}

fn a_nodes_token(world: &World) {
    let service = world.start_empty("node-token", &STEADY);
    let state = world.folder("node-token-node");
    let node = Node::start(&service, "n", "local", &state, &[]);
    let token = kept_token(&node);
    let mut find = chalk_tests::tool("grep", ["-rl", &token]);
    let files = chalk_tests::run(find.arg(&state)).ok().stdout;
    for file in files.lines() {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} has mode {mode:o}");
    }
    let call = |method: &str, path: &str| {
        let url = format!("{}{path}", service.url());
        let words = ["--request", method, "--json", "{}", "--max-time", "300"];
        request(&url, Some(&token), &words).status
    };
    for (method, path) in [
        ("GET", "/v1/nodes"),
        ("GET", "/v1/images"),
        ("GET", "/v1/builds"),
        ("POST", "/v1/builds"),
        ("POST", "/v1/warms"),
        ("POST", "/v1/sandboxes"),
        ("GET", "/v1/sandboxes"),
        ("POST", "/v1/join-tokens"),
        ("DELETE", "/v1/nodes/n"),
        ("PUT", "/v1/prewarm"),
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("PUT", "/v2/team/app/manifests/1"),
        ("DELETE", "/v2/team/app/manifests/1"),
        ("POST", "/v1/agent/register"),
    ] {
        let status = call(method, path);
        assert!(matches!(status, 401 | 403), "{method} {path}: {status}");
    }
    assert_eq!(call("GET", "/v2/"), 200, "but it pulls");
    let nobody: Value = request(
        &format!("{}/v1/agent/session", service.url()),
        None,
        &["--json", "{}"],
    )
    .json();
    assert_eq!(nobody["status"], 401, "{nobody:#}");
    // Removed, it is good for nothing.
    service.nodes(&["rm", "n"]).ok();
    assert_eq!(call("GET", "/v2/"), 401);
    drop(node);
}

fn a_name_that_is_taken(world: &World) {
    let service = world.start_empty("taken", &STEADY);
    let admin = service.state().join("token").display().to_string();
    let node = Node::start(&service, "same", "local", &world.folder("same"), &[]);
    let other = agent(&service, world, "same", &admin).run().code(3);
    other.says(&["same"]);
    assert_eq!(service.get("/v1/nodes/same")["state"], "ready");
    for bad in ["Upper", "with space", "-x"] {
        let words = ["node", "--server", service.url(), "--name"];
        let chalk = Chalk::on(&world.folder("bad")).args(words).arg(bad);
        let refused = chalk.args(["--join-token-file", &admin]).run();
        assert!(!refused.status.success(), "{refused}");
    }
    drop(node);
}
