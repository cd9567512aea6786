//! A warm of many nodes on slow links: how long the last one takes, and how much the registry sends.

use std::fs;
use std::io::Write as _;
use std::time::Instant;

use chalk_tests::{Layout, Network, Node, Service, World, run};
use serde_json::json;

use crate::ready::tar_of;
use crate::row::{Aim, Row};

/// Of every link, in each direction.
const RATE: &str = "200mbit";
/// Nothing but what is measured goes over the links.
const QUIET: [(&str, &str); 1] = [("prewarm.images", "")];
/// Nodes.
const NODES: usize = 16;
/// Layers of the image.
const LAYERS: usize = 8;
/// Bytes of the image unless `CHALK_BENCH_SPREAD_MIB` says otherwise.
const SIZE_MIB: usize = 1024;

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let size = std::env::var("CHALK_BENCH_SPREAD_MIB").ok();
    let size = size.map_or(SIZE_MIB, |text| text.parse().unwrap());
    let mut network = Network::new();
    let home = network.host(Some(RATE));
    let service = Service::start_on(&home, &world.folder("bench-spread"), &QUIET);
    let hash = image(world, &service, size << 20);
    let nodes: Vec<Node> = (0..NODES)
        .map(|number| {
            let host = network.host(Some(RATE));
            let listen = format!("{}:7475", host.address());
            let state = world.folder("spread");
            let words = ["--mirror-listen", &listen];
            Node::start_on(
                &host,
                &service,
                &format!("n{number}"),
                "local",
                &state,
                &words,
            )
        })
        .collect();

    // One link's time: the same bytes, by a plain client on a link of its own.
    let alone = network.host(Some(RATE));
    let detail = service.get(&format!("/v1/images/{hash}"));
    let began = Instant::now();
    for layer in detail["layer_list"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        let url = format!("{}/v2/chalk/images/blobs/{digest}", service.url());
        let mut curl = alone.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
        curl.args(["--user", &format!("chalk:{}", service.token())]);
        run(curl.args(["--output", "/dev/null", &url])).ok();
    }
    let link = began.elapsed().as_secs_f64();

    let before = home.sent();
    let began = Instant::now();
    let words = ["warm", "--image", &hash, "--all", "--wait", "--json"];
    let warmed = service.image(&words).ok().json();
    let last = began.elapsed().as_secs_f64();
    let sent = (home.sent() - before) as f64;
    let ready = warmed["nodes"].as_array().unwrap().iter();
    assert_eq!(ready.filter(|node| node["state"] == "ready").count(), NODES);
    drop(nodes);
    let note = format!("{size} MiB in {LAYERS} layers, {NODES} nodes, {RATE} links");
    vec![
        Row::against(
            "warm of many nodes, last one ready, against one link's time",
            "s",
            last,
            link,
            Aim::Ratio(1.5),
        )
        .note(note),
        Row::against(
            "bytes that the registry sent meanwhile, against the image's",
            "MiB",
            sent / 1_048_576.0,
            size as f64,
            Aim::Ratio(2.0),
        ),
    ]
}

/// Builds an image of that many random bytes; its hash.
fn image(world: &World, service: &Service, bytes: usize) -> String {
    let layers: Vec<Vec<u8>> = (0..LAYERS)
        .map(|number| {
            let mut random = vec![0; bytes / LAYERS];
            let mut source = fs::File::open("/dev/urandom").unwrap();
            std::io::Read::read_exact(&mut source, &mut random).unwrap();
            tar_of(&format!("data{number}"), &random)
        })
        .collect();
    let layout = world.folder("spread-image");
    Layout::write(&layout, &json!({}), &layers);
    drop(layers);
    let path = layout.display().to_string();
    service
        .image(&["import", &path, "--as", "bench/spread:1"])
        .ok();
    let declaration = layout.join("image.toml");
    let mut file = fs::File::create(&declaration).unwrap();
    file.write_all(b"[image]\nbase = \"bench/spread:1\"\n")
        .unwrap();
    let built = service.build(&declaration.display().to_string());
    built["image_hash"].as_str().unwrap().to_owned()
}
