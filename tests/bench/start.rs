//! From the order to start a sandbox to the exit of its command.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chalk_tests::{Docker, Network, Node, Service, World, run, tool};
use serde_json::{Value, json};

use crate::peers::{self, Bundle};
use crate::ready::{quickstart, warm};
use crate::row::{Aim, Row, Times, times};

/// Starts of ours, and of runc.
const STARTS: usize = 200;
/// Starts by `docker run`, which take twenty times as long.
const DOCKER_STARTS: usize = 20;
/// Starts before those that count.
const WARM_UP: usize = 5;

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let service = world.start("bench-start", &[]);
    let built = quickstart(&service);
    let hash = built["image_hash"].as_str().unwrap();
    let image = built["image"].as_str().unwrap();
    let folder = world.folder("bench-start-peers");
    let node = Node::start(&service, "start", "local", &world.folder("node"), &[]);
    warm(&service, hash, &node);

    peers::skopeo_copy(&service, image, &folder.join("oci"));
    peers::umoci_unpack(&folder.join("oci"), &folder.join("bundle"));
    let bundle = Bundle::new(&folder.join("bundle"), &folder.join("runc"), &["true"]);
    let runc = repeated(STARTS, || {
        run(&mut bundle.command()).ok();
    });

    let docker = world.docker();
    docker.login(&service);
    docker.run(["pull", "--quiet", image]).ok();
    let host_docker = repeated(DOCKER_STARTS, || {
        docker
            .run(["run", "--rm", "--network", "host", image, "true"])
            .ok();
    });
    let bridged = bridged_docker(world, &folder.join("oci"));

    let alone = on_a_node(&node, hash);
    let api = by_api(&service, hash);
    let words = ["compute", "sandbox", "run", "--image", hash, "--", "true"];
    let command = repeated(STARTS, || {
        service.chalk().args(words).run().ok();
    });
    let against = |name: &str, ours: &Times, peer: &Times, most| {
        Row::against(name, "ms", ours.median(), peer.median(), Aim::Ratio(most))
    };
    vec![
        against(
            "`true` on a node against `docker run --rm`",
            &alone,
            &bridged,
            0.03,
        )
        .note(format!(
            "{STARTS} and {DOCKER_STARTS} starts; from the order to the known end; docker with its own bridge"
        )),
        Row::against(
            "the same against `docker run --rm --network host`",
            "ms",
            alone.median(),
            host_docker.median(),
            Aim::None,
        ),
        against(
            "`true` on a node against `runc run` with seccomp",
            &alone,
            &runc,
            0.3,
        )
        .note("on an unpacked bundle"),
        against(
            "`true` through the API against `runc run` with seccomp",
            &api,
            &runc,
            0.5,
        )
        .note("one kept connection"),
        Row::against(
            "p99 through the API against its p50",
            "ms",
            api.at(0.99),
            api.median(),
            Aim::Ratio(3.0),
        ),
        Row::against(
            "`chalk compute sandbox run`, whole command, against `docker run --rm`",
            "ms",
            command.median(),
            bridged.median(),
            Aim::None,
        ),
    ]
}

/// `docker run --rm` as it is, on a daemon with a bridge.
fn bridged_docker(world: &World, layout: &Path) -> Times {
    let mut network = Network::new();
    let host = network.host(None);
    let docker = Docker::bridged(&host, &world.folder("docker-bridged"));
    let archive = world.folder("archive").join("image.tar");
    let (from, to) = (
        format!("oci:{}:it", layout.display()),
        format!("docker-archive:{}:bench:1", archive.display()),
    );
    run(&mut tool("skopeo", ["copy", "--quiet", &from, &to])).ok();
    docker
        .run(["load", "--quiet", "--input", &archive.display().to_string()])
        .ok();
    repeated(DOCKER_STARTS, || {
        docker.run(["run", "--rm", "bench:1", "true"]).ok();
    })
}

/// Starts on the layers of a warm node, by the program that measures sandboxes without a service.
fn on_a_node(node: &Node, hash: &str) -> Times {
    let program = std::env::var_os("CHALK_BENCH_STARTS").expect("CHALK_BENCH_STARTS");
    let cache = node.state().join("node/cache");
    let images = fs::read_dir(cache.join("images")).unwrap();
    let image = images
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .map(|json| serde_json::from_slice::<Value>(&json).unwrap())
        .find(|image| image["image_hash"] == hash)
        .expect("it is warm");
    let mut measure = Command::new(program);
    measure.args(["--json", &STARTS.to_string(), "true"]);
    for layer in image["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap().replace("sha256:", "");
        measure.arg(cache.join("layers").join(digest).join("image.erofs"));
    }
    let found = run(&mut measure).ok().json();
    let times = found["one after the other"].as_array().unwrap();
    Times::of(times.iter().map(|time| time.as_f64().unwrap()).collect())
}

fn repeated(count: usize, mut run: impl FnMut()) -> Times {
    for _ in 0..WARM_UP {
        run();
    }
    times(count, || (), run)
}

/// Times from the request to the event that tells of the exit, over one connection.
fn by_api(service: &Service, hash: &str) -> Times {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let start = async || {
        let url = format!("{}/v1/sandboxes", service.url());
        let request = json!({"image": hash, "args": ["true"]});
        let posted = client.post(url).bearer_auth(service.token()).json(&request);
        let answer = posted.send().await.unwrap().error_for_status().unwrap();
        let accepted: Value = answer.json().await.unwrap();
        let id = accepted["id"].as_str().unwrap();
        let url = format!(
            "{}/v1/sandboxes/{id}/processes/main/output?follow=true",
            service.url()
        );
        let mut events = client
            .get(url)
            .bearer_auth(service.token())
            .send()
            .await
            .unwrap();
        let mut said = Vec::new();
        while let Some(part) = events.chunk().await.unwrap() {
            said.extend_from_slice(&part);
        }
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(r#""type":"exited","code":0"#), "{said}");
    };
    runtime.block_on(async {
        let mut found = Vec::new();
        for number in 0..WARM_UP + STARTS {
            let began = std::time::Instant::now();
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, start()).await.unwrap();
            if number >= WARM_UP {
                found.push(crate::row::milliseconds(began.elapsed()));
            }
        }
        Times::of(found)
    })
}
