//! How fast specs and files are hashed.

use std::fs::File;
use std::io::Write as _;
use std::time::Instant;

use chalk_core::Digest;
use chalk_core::spec::{Base, BaseImage, Spec, Step, StepKind};
use chalk_tests::{Chalk, Project, World, run, tool};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

use crate::row::{Aim, Row, Times, rounds, timed};

/// Steps of the spec.
const STEPS: usize = 50;
/// Hashes of it.
const HASHES: usize = 2000;
/// Bytes of the file.
const FILE: usize = 1 << 30;
/// Runs of the command.
const ROUNDS: usize = 5;

/// A spec as services and clients hold it, with one value changed each time.
pub(crate) fn spec(_: &World) -> Vec<Row> {
    let mut spec = Spec::new(Base::Image(BaseImage {
        reference: World::PYTHON.parse().unwrap(),
        digest: Some(Digest::of(b"base")),
        platform: None,
    }));
    spec.steps = (0..STEPS)
        .map(|number| {
            Step::new(StepKind::Run {
                command: format!("apt-get install -y package-{number} && echo {number} >> /log"),
            })
        })
        .collect();
    let times = (0..HASHES).map(|number| {
        spec.env.insert("NUMBER".to_owned(), number.to_string());
        let start = Instant::now();
        std::hint::black_box(spec.image_hash());
        start.elapsed().as_secs_f64() * 1e6
    });
    let times = Times::of(times.collect());
    vec![
        Row::alone(
            &format!("hash of a {STEPS}-step spec"),
            "µs",
            times.median(),
            Aim::Most(20.0),
        )
        .note(format!(
            "canonical JSON and SHA-256; p99 {:.1} µs",
            times.at(0.99)
        )),
    ]
}

/// A big file, by the whole command.
pub(crate) fn sha256(world: &World) -> Vec<Row> {
    let text = "[image]\nbase = \"scratch\"\n[[step]]\nadd_local_file = { src = \"big\", dest = \"/big\", strategy = \"copy\" }\n";
    let project = Project::toml(text);
    let mut big = File::create(project.file("big")).unwrap();
    let (mut random, mut piece) = (StdRng::seed_from_u64(5), vec![0; 1 << 20]);
    for _ in 0..FILE >> 20 {
        random.fill_bytes(&mut piece);
        big.write_all(&piece).unwrap();
    }
    drop(big);
    let state = world.folder("bench-sha256");
    let file = project.arg("image.toml");
    let rates = (0..rounds(ROUNDS)).map(|_| {
        let chalk = Chalk::on(&state).args(["compute", "image", "hash", &file, "--json"]);
        let (time, _) = timed(&mut chalk.into_command());
        FILE as f64 / 1e3 / time
    });
    let ours = Times::of(rates.collect()).median();
    let theirs = (0..rounds(ROUNDS)).map(|_| {
        let words = [
            "speed", "-mr", "-seconds", "1", "-bytes", "65536", "-evp", "sha256",
        ];
        let said = run(&mut tool("openssl", words)).ok().stdout;
        // `+F:number:name:bytes a second`
        let line = said.lines().find(|line| line.starts_with("+F:"));
        let rate = line
            .and_then(|line| line.rsplit(':').next())
            .expect("a rate");
        rate.parse::<f64>().expect("a number") / 1e6
    });
    let theirs = Times::of(theirs.collect()).median();
    vec![
        Row::against(
            "SHA-256 of a 1 GiB file, against `openssl speed -evp sha256`",
            "MB/s",
            ours,
            theirs,
            Aim::Least(0.9),
        )
        .note("the whole `chalk compute image hash`, file in the page cache; openssl in memory"),
    ]
}
