//! From an image in the registry to a node that can start it.

use std::fs;

use chalk_tests::{Layout, Node, Service, World, run, tool, unique};
use serde_json::{Value, json};

use crate::peers;
use crate::row::{Aim, Row, times};

/// Repetitions of each case.
const ROUNDS: usize = 3;
/// Loads a big package, as a first start does.
const IMPORT: [&str; 3] = ["python3", "-c", "import pandas"];

/// The quickstart image, in gzip since Docker 20.10 reads no zstd.
pub(crate) fn quickstart(service: &Service) -> Value {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/quickstart/image.toml"
    );
    let build = ["build", file, "--compression", "gzip", "--json"];
    service.image(&build).ok().result()
}

/// Warms an image and returns the receipt of the node.
pub(crate) fn warm(service: &Service, hash: &str, node: &Node) -> Value {
    let words = ["warm", "--image", hash, "--wait", "--json", "--node"];
    let ran = service.image(&[&words[..], &[node.name()]].concat()).ok();
    ran.json()["nodes"][0].clone()
}

fn forget(service: &Service, hash: &str, node: &Node) {
    let words = ["compute", "node", "cache", "rm", node.name()];
    service.chalk().args(words).arg(hash).run().ok();
}

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let service = world.start("bench-ready", &[]);
    let built = quickstart(&service);
    let hash = built["image_hash"].as_str().unwrap();
    let image = built["image"].as_str().unwrap();
    let folder = world.folder("bench-ready-peers");
    let node = Node::start(&service, "ready", "local", &world.folder("node"), &[]);

    let ours = times(
        ROUNDS,
        || (),
        || {
            warm(&service, hash, &node);
        },
    );
    let first = ours.at(1.0);
    let ours = times(
        ROUNDS,
        || forget(&service, hash, &node),
        || {
            warm(&service, hash, &node);
        },
    );

    let unpack = times(
        ROUNDS,
        || {
            run(tool("rm", ["-rf"])
                .arg(folder.join("oci"))
                .arg(folder.join("bundle")))
            .ok();
        },
        || {
            peers::skopeo_copy(&service, image, &folder.join("oci"));
            peers::umoci_unpack(&folder.join("oci"), &folder.join("bundle"));
        },
    );

    let docker = world.docker();
    docker.login(&service);
    let clear = || {
        docker.run(["system", "prune", "--all", "--force"]).ok();
    };
    let pull = times(ROUNDS, clear, || {
        docker.run(["pull", "--quiet", image]).ok();
    });
    let docker_import = times(ROUNDS, clear, || {
        docker.run(["pull", "--quiet", image]).ok();
        let words = ["run", "--rm", "--network", "host", image];
        docker.run([&words[..], &IMPORT].concat()).ok();
    });
    let our_import = times(
        ROUNDS,
        || {
            forget(&service, hash, &node);
            warm(&service, hash, &node);
        },
        || {
            let words = [
                "compute",
                "sandbox",
                "run",
                "--node",
                node.name(),
                "--image",
                hash,
                "--",
            ];
            service.chalk().args(words).args(IMPORT).run().ok();
        },
    );

    let (fetched, fresh) = shared(world, &service, &node);
    vec![
        Row::against(
            "image in the registry to startable, against `skopeo copy` + `umoci unpack`",
            "ms",
            ours.median(),
            unpack.median(),
            Aim::Ratio(0.25),
        )
        .note(format!(
            "quickstart, gzip, whole `warm --wait` command; first on a new node {first:.0} ms"
        )),
        Row::against(
            "the same against `docker pull`",
            "ms",
            ours.median(),
            pull.median(),
            Aim::Ratio(0.5),
        ),
        Row::against(
            "first `import pandas` on a freshly warmed node, against `docker pull` + `docker run`",
            "ms",
            our_import.median(),
            docker_import.median(),
            Aim::Ratio(0.3),
        ),
        Row::against(
            "bytes moved for an image that shares 90 % of its layers, against the bytes that are new",
            "bytes",
            fetched,
            fresh,
            Aim::Ratio(1.1),
        ),
    ]
}

/// Bytes fetched for the second of two images that share nine of ten layers, and the size of the
/// tenth.
fn shared(world: &World, service: &Service, node: &Node) -> (f64, f64) {
    const LAYER: usize = 8 << 20;
    let layer = |name: &str| {
        let mut seed: u64 = name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte));
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 24) as u8
        })
        .take(LAYER)
        .collect();
        tar_of(name, &bytes)
    };
    let mut layers: Vec<Vec<u8>> = (0..10).map(|n| layer(&format!("layer{n}"))).collect();
    let mut hashes = Vec::new();
    for (name, last) in [("first", "tenth"), ("second", "another")] {
        layers[9] = layer(last);
        let layout = world.folder(name);
        Layout::write(&layout, &json!({}), &layers);
        let reference = format!("bench/{name}:{}", unique());
        let path = layout.display().to_string();
        service.image(&["import", &path, "--as", &reference]).ok();
        let file = layout.join("image.toml");
        fs::write(&file, format!("[image]\nbase = \"{reference}\"\n")).unwrap();
        let built = service.build(&file.display().to_string());
        hashes.push(built["image_hash"].as_str().unwrap().to_owned());
    }
    warm(service, &hashes[0], node);
    let receipt = warm(service, &hashes[1], node);
    (
        receipt["bytes_fetched"].as_f64().unwrap(),
        layers[9].len() as f64,
    )
}

/// A tar with one file.
pub(crate) fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::with_capacity(bytes.len() + 4096));
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, name, bytes).unwrap();
    tar.into_inner().unwrap()
}
