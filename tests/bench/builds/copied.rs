//! Directories of this machine copied into an image.

use std::fs;
use std::path::Path;

use chalk_tests::{Project, World};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

use super::declarations::{DATA, Declaration};
use super::engines::{Ours, Peer, Upstream};
use super::same;
use crate::process::{memory, reset_peak};
use crate::row::{Aim, Row, Times, number, rounds};

/// One run takes minutes.
const ROUNDS: usize = 1;
/// Size of the directory of big files in MiB, unless `CHALK_BENCH_COPY_MIB` says otherwise.
const SIZE_MIB: usize = 2048;
/// Size of one of its files.
const FILE: usize = 16 << 20;
/// Small files, unless `CHALK_BENCH_COPY_FILES` says otherwise.
const FILES: usize = 100_000;
/// Files in one of their directories.
const FILES_IN_ONE: usize = 100;
/// Most that the service may need beyond what it had before, in MB.
const MEMORY: f64 = 64.0;
/// Name of the images.
const NAME: &str = "copied";

/// Few big files.
pub(crate) fn directory(world: &World) -> Vec<Row> {
    let size = number("CHALK_BENCH_COPY_MIB", SIZE_MIB);
    let mut random = StdRng::seed_from_u64(1);
    let fill = move |folder: &Path| {
        for number in 0..(size << 20).div_ceil(FILE) {
            let file = folder.join(format!("{number}.bin"));
            fs::write(file, mixed(&mut random, FILE)).unwrap();
        }
    };
    let what = format!("a directory of {size} MiB");
    measure(world, &what, "half of it noise, half hex digits", fill)
}

/// Many small files.
pub(crate) fn files(world: &World) -> Vec<Row> {
    let count = number("CHALK_BENCH_COPY_FILES", FILES);
    let mut random = StdRng::seed_from_u64(2);
    let fill = move |folder: &Path| {
        for number in 0..count {
            let below = folder.join((number / FILES_IN_ONE).to_string());
            if number % FILES_IN_ONE == 0 {
                fs::create_dir(&below).unwrap();
            }
            let size = random.random_range(64..4096);
            fs::write(below.join(format!("{number}.py")), mixed(&mut random, size)).unwrap();
        }
    };
    let what = format!("{count} small files");
    measure(world, &what, "64 to 4,095 bytes each", fill)
}

/// Bytes of which the first half is noise, and the rest hex digits of noise.
pub(crate) fn mixed(random: &mut StdRng, size: usize) -> Vec<u8> {
    const PIECE: usize = 32 << 10;
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = Vec::with_capacity(size + 2 * PIECE);
    let piece = PIECE.min(size.div_ceil(2));
    let mut noise = vec![0; piece];
    while bytes.len() < size {
        random.fill_bytes(&mut noise);
        bytes.extend_from_slice(&noise);
        random.fill_bytes(&mut noise);
        let digits = noise.iter().map(|byte| DIGITS[usize::from(byte & 15)]);
        bytes.extend(digits);
    }
    bytes.truncate(size);
    bytes
}

fn measure(world: &World, what: &str, about: &str, mut fill: impl FnMut(&Path)) -> Vec<Row> {
    let upstream = Upstream::start(world);
    let base = Declaration::bare(&upstream.reference("busybox"));
    let (first, declared) = (base.clone().command("true").project(), base.copy());
    let folder = world.folder("bench-copied");
    fill(&folder);
    let (mut ours, mut built_alone, mut pushed, mut extra) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds(ROUNDS) {
        let project = declared.project();
        with_data(&project, &folder);
        let service = Ours::new(world);
        // The base is there, and the service has done once what every build does.
        service.build_new(&first);
        let pid = service.service.pid();
        reset_peak(pid);
        let before = memory(pid, "VmRSS");
        let (time, built) = service.build_new(&project);
        extra.push((memory(pid, "VmHWM") - before) / 1e6);
        ours.push(time / 1000.0);
        let peer = Peer::docker(world);
        peer.build(&first, "first");
        let build = peer.build(&project, NAME) / 1000.0;
        built_alone.push(build);
        pushed.push(build + peer.push(NAME) / 1000.0);
        if round == 0 {
            let theirs = peer.files(world, NAME);
            same::assert_copied(&service.files(world, &built), &theirs, "data/");
        }
    }
    fs::remove_dir_all(folder).unwrap();
    let count = ours.len();
    let [ours, built_alone, pushed, extra] =
        [ours, built_alone, pushed, extra].map(|values| Times::of(values).median());
    vec![
        Row::against(
            &format!("{what} copied in, pushed, against `docker build` + `docker push`"),
            "s",
            ours,
            pushed,
            Aim::Ratio(0.5),
        )
        .note(format!("{about}; {count} runs")),
        Row::against(
            "the same, pushed, against `docker build` without the push",
            "s",
            ours,
            built_alone,
            Aim::Ratio(0.5),
        ),
        Row::alone(
            "memory that the service needs for it at its most",
            "MB",
            extra,
            Aim::Most(MEMORY),
        )
        .note("over what it has before"),
    ]
}

/// Gives a project the folder, by a copy that shares its blocks where the file system can.
fn with_data(project: &Project, folder: &Path) {
    let copy = ["--archive", "--reflink=auto"];
    let mut copy = chalk_tests::tool("cp", copy);
    copy.arg(folder).arg(project.file(DATA));
    chalk_tests::run(&mut copy).ok();
}
