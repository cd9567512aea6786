//! From a snapshot to a layer: how fast it is packed, and how far that is from what memory and
//! compressors of this machine can do.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use chalk_store::BlobStore;
use chalk_store::layer::{Compression, PackOptions, pack, pack_to};
use chalk_tests::{Project, World, is_interrupted, run, tool};
use flate2::write::GzEncoder;

use super::declarations::DATA;
use super::engines::Peer;
use crate::row::{Aim, Row, Times, rounds};

/// Runs of each.
const ROUNDS: usize = 5;
/// Runs of what takes long.
const SLOW_ROUNDS: usize = 2;

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let project = Project::new(&[("Dockerfile", &format!("FROM scratch\nCOPY {DATA} /\n"))]);
    let snapshot = project.file(DATA);
    unpack(world.python_layout(), &snapshot);
    let mut tar = Vec::new();
    let plain = PackOptions::default();
    pack_to(&snapshot, &mut tar, &plain, &mut |_| false).unwrap();
    let size = tar.len() as f64 / 1e6;

    let docker: Vec<f64> = (0..rounds(SLOW_ROUNDS))
        .map(|_| {
            let peer = Peer::docker(world);
            peer.build(&project, "packed");
            size / (peer.push("packed") / 1000.0)
        })
        .collect();
    let docker = Times::of(docker).median();

    let store = world.folder("bench-pack");
    let packed = |compression: &str| {
        let compression: Compression = compression.parse().unwrap();
        let options = PackOptions {
            compression,
            ..PackOptions::default()
        };
        rate(size, ROUNDS, || {
            // A blob that is there is not written again.
            let _ = fs::remove_dir_all(&store);
            let store = BlobStore::open(&store).unwrap();
            pack(&snapshot, &store, &options, &mut |_| false).unwrap();
        })
    };
    let (zstd, gzip, none) = (packed("zstd"), packed("gzip"), packed("none"));
    let (quick_zstd, quick_gzip) = (packed("zstd:1"), packed("gzip:1"));
    fs::remove_dir_all(&store).unwrap();

    let read = rate(size, ROUNDS, || {
        pack_to(&snapshot, &mut io::sink(), &plain, &mut |_| false).unwrap();
    });
    let sha = rate(size, ROUNDS, || {
        std::hint::black_box(chalk_core::Digest::of(&tar));
    });
    let mut copy = vec![0; tar.len()];
    let copied = rate(size, ROUNDS, || {
        copy.copy_from_slice(&tar);
        std::hint::black_box(&copy);
    });
    let one_zstd = rate(size, SLOW_ROUNDS, || {
        zstd::stream::copy_encode(&tar[..], io::sink(), 3).unwrap();
    });
    let one_gzip = rate(size, SLOW_ROUNDS, || {
        let mut encoder = GzEncoder::new(io::sink(), flate2::Compression::new(6));
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap();
    });
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let note = format!(
        "MB of its tar, {size:.0} in all; hashed twice, durable; {cores} cores; median of {ROUNDS}"
    );
    let against = |name: &str, ours, least| {
        Row::against(name, "MB/s", ours, docker, Aim::Least(least)).note(note.clone())
    };
    let limit = |name: &str, rate| Row::alone(name, "MB/s", rate, Aim::None);
    vec![
        against(
            "packing a layer from a snapshot by zstd, against `docker push`",
            zstd,
            10.0,
        ),
        against("the same by gzip", gzip, 4.0),
        Row::against(
            "the same without compression",
            "MB/s",
            none,
            docker,
            Aim::None,
        ),
        Row::against("the same by zstd:1", "MB/s", quick_zstd, docker, Aim::None),
        Row::against("the same by gzip:1", "MB/s", quick_gzip, docker, Aim::None),
        limit("limit: walking and reading the snapshot, one core", read),
        limit("limit: SHA-256, one core", sha),
        limit("limit: zstd 3 in memory, one core", one_zstd),
        limit("limit: deflate 6 in memory, one core", one_gzip),
        limit("limit: copying in memory, one core", copied),
    ]
}

/// Median of MB a second.
fn rate(size: f64, usual: usize, mut work: impl FnMut()) -> f64 {
    let rates = (0..rounds(usual)).map(|_| {
        assert!(!is_interrupted(), "interrupted");
        let start = Instant::now();
        work();
        size / start.elapsed().as_secs_f64()
    });
    Times::of(rates.collect()).median()
}

/// The files of a layout's only layer.
fn unpack(layout: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let blobs = blobs.map(Result::unwrap);
    let layer = blobs.max_by_key(|entry| entry.metadata().unwrap().len());
    let mut tar = tool("tar", ["--extract", "--numeric-owner", "--file"]);
    tar.arg(layer.unwrap().path()).arg("--directory").arg(into);
    run(&mut tar).ok();
}
