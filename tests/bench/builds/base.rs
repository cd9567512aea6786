//! A big base image, from its registry to where steps can run on it.

use std::fs;

use chalk_tests::{Layout, World};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;

use super::copied::mixed;
use super::declarations::Declaration;
use super::engines::{Ours, Peer, Upstream};
use super::same;
use crate::row::{Aim, Row, Times, number, rounds};

/// One run takes minutes.
const ROUNDS: usize = 1;
/// Bytes of the files of the base in MiB, unless `CHALK_BENCH_BASE_MIB` says otherwise: 10240 is
/// the case as it is meant, for which the disk needs about seven times as much.
const SIZE_MIB: usize = 2048;
/// Layers that they are in.
const LAYERS: usize = 8;
/// Bytes of one file.
const FILE: usize = 16 << 20;
/// Name of the image.
const NAME: &str = "big";

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let size = number("CHALK_BENCH_BASE_MIB", SIZE_MIB);
    let upstream = Upstream::start(world);
    let layout = image(world, size << 20);
    upstream.put(layout.folder(), NAME);
    let reference = upstream.reference(NAME);
    let project = Declaration::bare(&reference).command("true").project();
    let (mut ours, mut docker) = (vec![], vec![]);
    for round in 0..rounds(ROUNDS) {
        let service = Ours::new(world);
        let (time, built) = service.build_new(&project);
        ours.push(time / 1000.0);
        let peer = Peer::docker(world);
        docker.push(peer.pull(&reference) / 1000.0);
        if round == 0 {
            peer.build(&project, NAME);
            peer.push(NAME);
            let theirs = peer.files(world, NAME);
            same::assert_copied(&service.files(world, &built), &theirs, "data/");
        }
    }
    fs::remove_dir_all(layout.folder()).unwrap();
    let count = ours.len();
    let [ours, docker] = [ours, docker].map(|times| Times::of(times).median());
    vec![
        Row::against(
            &format!("a base image of {size} MiB pulled and a step run on it, against `docker pull`"),
            "s",
            ours,
            docker,
            Aim::Ratio(0.5),
        )
        .note(format!(
            "{LAYERS} layers, gzip, from a registry on loopback; the image that the step makes is published, too; {count} runs"
        )),
    ]
}

/// The small base with so many bytes of files above it.
fn image(world: &World, bytes: usize) -> Layout {
    let mut random = StdRng::seed_from_u64(3);
    let mut layers = Layout::open(world.busybox_layout()).layers();
    for layer in 0..LAYERS {
        let mut tar = tar::Builder::new(Vec::with_capacity(bytes / LAYERS + (1 << 20)));
        for number in 0..(bytes / LAYERS).div_ceil(FILE) {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(FILE as u64);
            header.set_mtime(1_700_000_000);
            let path = format!("data/{layer}/{number}.bin");
            let contents = mixed(&mut random, FILE);
            tar.append_data(&mut header, path, &contents[..]).unwrap();
        }
        layers.push(tar.into_inner().unwrap());
    }
    Layout::write(
        &world.folder("big-base"),
        &json!({"Env": ["PATH=/bin"]}),
        &layers,
    )
}
