//! From the order to start a sandbox to the exit of its command.

use std::time::Duration;

use chalk_tests::{Node, Service, World, run};
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
    let docker = repeated(DOCKER_STARTS, || {
        docker
            .run(["run", "--rm", "--network", "host", image, "true"])
            .ok();
    });

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
            "`true` through the API against `docker run --rm`",
            &api,
            &docker,
            0.03,
        )
        .note(format!("{STARTS} and {DOCKER_STARTS} starts, host network")),
        against(
            "`true` through the API against `runc run` with seccomp",
            &api,
            &runc,
            0.5,
        )
        .note("on an unpacked bundle; one kept connection"),
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
            docker.median(),
            Aim::None,
        ),
    ]
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
