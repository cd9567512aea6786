//! The simulator, which serves the real API over made-up things: what is measured and shown with it
//! must be what a service would say.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use chalk_tests::{World, events, get, request, tool, wait_for};
use serde_json::{Value, json};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("builds_and_warms_come_to_an_end", builds_and_warms),
    ("the_same_seed_makes_the_same_names", same_names),
];

/// A running simulator.
struct Simulator {
    child: Child,
    url: String,
    token: String,
    state: PathBuf,
}

impl Simulator {
    /// Starts one with five nodes and twenty images.
    fn start(seed: u32, builds: u32) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chalk-simulate"))
            .args([
                "--nodes", "5", "--images", "20", "--speed", "40", "--rate", "3000",
            ])
            .args(["--seed", &seed.to_string(), "--builds", &builds.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let mut said = |what: &str| {
            let found = lines.find_map(|line| Some(line.split_once(what)?.1.trim().to_owned()));
            found.unwrap_or_else(|| panic!("it never said `{what}`"))
        };
        let url = said("simulated on ");
        let state = PathBuf::from(said("state "));
        let token = std::fs::read_to_string(said("token ")).unwrap();
        let token = token.trim().to_owned();
        Self {
            child,
            url,
            token,
            state,
        }
    }

    fn get(&self, path: &str) -> Value {
        let response = get(&format!("{}{path}", self.url), &self.token);
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    fn all(&self, path: &str) -> Vec<Value> {
        self.get(path).as_array().unwrap().clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.url);
        let body = body.to_string();
        let kind = "Content-Type: application/json";
        let response = request(
            &url,
            Some(&self.token),
            &["--header", kind, "--data", &body],
        );
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// Ends it as a user does, and looks that it leaves nothing behind.
    fn stop(mut self) {
        tool("kill", ["-INT", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(self.child.wait().unwrap().success());
        assert!(
            !self.state.exists(),
            "{} is still there",
            self.state.display()
        );
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // Errors mean that it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn texts(list: &[Value], field: &str) -> BTreeSet<String> {
    let texts = list.iter().filter_map(|one| one[field].as_str());
    texts.map(str::to_owned).collect()
}

fn builds_and_warms(_: &World) {
    let simulator = Simulator::start(7, 3);
    let nodes = simulator.all("/v1/nodes");
    assert_eq!(nodes.len(), 5, "{nodes:#?}");
    assert!(
        nodes
            .iter()
            .all(|node| node["cache"]["images"].as_u64() > Some(0)),
        "{nodes:#?}"
    );

    let images = simulator.all("/v1/images");
    assert!(images.len() >= 20, "{}", images.len());
    let oldest = images.last().unwrap();
    let hash = oldest["image_hash"].as_str().unwrap();
    let detail = simulator.get(&format!("/v1/images/{hash}"));
    let layers = detail["layer_list"].as_array().unwrap();
    let size: u64 = layers
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap())
        .sum();
    assert_eq!(Some(size), oldest["size"].as_u64(), "{detail:#}");
    assert!(
        !detail["spec"]["steps"].as_array().unwrap().is_empty(),
        "{detail:#}"
    );

    let running = wait_for("a build that runs", || {
        let builds = simulator.all("/v1/builds");
        builds
            .into_iter()
            .find(|build| build["status"] == "running")
    });
    let id = running["id"].as_str().unwrap();
    let told = events(
        None,
        &format!("{}/v1/builds/{id}/events", simulator.url),
        &simulator.token,
        0,
    );
    let numbers: Vec<u64> = told.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>());
    let (_, last) = told.last().unwrap();
    assert_eq!(last["type"], "finished", "{last:#}");
    let status = last["build"]["status"].as_str().unwrap();
    assert!(
        ["built", "failed", "cancelled"].contains(&status),
        "{last:#}"
    );
    assert!(
        told.iter().any(|(_, event)| event["type"] == "started"),
        "{told:#?}"
    );
    counted(&simulator);
    wait_for("a build that went well", || {
        let builds = simulator.all("/v1/builds");
        let built = builds.iter().find(|build| build["status"] == "built")?;
        // What was built is there as any other image is.
        let hash = built["image_hash"].as_str().unwrap();
        let detail = simulator.get(&format!("/v1/images/{hash}"));
        assert_eq!(detail["digest"], built["digest"]);
        Some(())
    });

    let warm = simulator.post("/v1/warms", &json!({"images": [hash], "all": true}));
    let path = format!("/v1/warms/{}", warm["id"].as_str().unwrap());
    let warm = wait_for("the end of a warm", || {
        let warm = simulator.get(&path);
        (warm["status"] != "running").then_some(warm)
    });
    assert_eq!(warm["status"], "ready", "{warm:#}");
    for target in warm["nodes"].as_array().unwrap() {
        let bytes = |field: &str| target[field].as_u64().unwrap();
        assert_eq!(
            bytes("bytes_fetched") + bytes("bytes_present"),
            size,
            "{target:#}"
        );
        assert_eq!(target["verified"], true, "{target:#}");
    }
    simulator.stop();
}

/// A build of a client's own prints what its command says, and can be cancelled.
fn counted(simulator: &Simulator) {
    let build = |command: &str| {
        let steps = json!([{"kind": "run", "command": command}]);
        let spec = json!({"schema": "chalk.image/v1", "base": "scratch", "steps": steps});
        let reply = simulator.post("/v1/builds", &json!({ "spec": spec }));
        assert_eq!(reply["reply"], "accepted", "{reply:#}");
        format!("/v1/builds/{}", reply["id"].as_str().unwrap())
    };
    let end = |path: &str| {
        wait_for("the end of a build", || {
            let build = simulator.get(path);
            build["finished"].is_string().then_some(build)
        })
    };
    let path = build("seq 20000");
    assert_eq!(end(&path)["status"], "built");
    let logs = get(&format!("{}{path}/logs", simulator.url), &simulator.token);
    let numbers: Vec<String> = (1..=20_000).map(|number| number.to_string()).collect();
    assert!(logs.body.lines().eq(numbers), "{} bytes", logs.body.len());

    assert_eq!(end(&build("exit 1"))["status"], "failed");

    let path = build("seq 100000000");
    let url = format!("{}{path}", simulator.url);
    let cancelled = request(&url, Some(&simulator.token), &["--request", "DELETE"]);
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(end(&path)["status"], "cancelled");
}

fn same_names(_: &World) {
    let named = |seed: u32| {
        let simulator = Simulator::start(seed, 0);
        let nodes = texts(&simulator.all("/v1/nodes"), "name");
        let images = texts(&simulator.all("/v1/images"), "image_hash");
        simulator.stop();
        (nodes, images)
    };
    let once = named(7);
    assert_eq!((once.0.len(), once.1.len()), (5, 20));
    assert_eq!(once, named(7));
    let other = named(8);
    assert_ne!(once.0, other.0);
    assert!(once.1.is_disjoint(&other.1));
}
