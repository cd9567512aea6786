//! A big base image, from its registry to where steps can run on it.

use std::fs;

use chalk_tests::World;

use super::big_image::{self, LAYERS};
use super::declarations::Declaration;
use super::engines::{Ours, Peer, Upstream};
use crate::row::{Aim, Row, Times, fitting, number, rounds};

/// One run takes minutes.
const ROUNDS: usize = 1;
/// Bytes of the files of the base in MiB, unless `CHALK_BENCH_BASE_MIB` says otherwise, or the disk
/// has no room for it.
const SIZE_MIB: usize = 10240;
/// Room on the disk by that size: the registry's compressed layers, an engine's copy of them, and
/// its files.
const ROOM: usize = 3;
/// Name of the image.
const NAME: &str = "big";

pub(crate) fn measure(world: &World) -> Vec<Row> {
    let wanted = number("CHALK_BENCH_BASE_MIB", SIZE_MIB);
    let folder = world.folder("big-base");
    let size = fitting(&folder, wanted, ROOM);
    let upstream = Upstream::start(world);
    let check = big_image::write(world.busybox_layout(), &folder, size << 20);
    upstream.put(&folder, NAME);
    fs::remove_dir_all(folder).unwrap();
    let reference = upstream.reference(NAME);
    let base = Declaration::bare(&reference);
    let (mut ours, mut docker) = (vec![], vec![]);
    for round in 0..rounds(ROUNDS) {
        let service = Ours::new(world);
        let (time, _) = service.build_new(&base.clone().command("true").project());
        ours.push(time / 1000.0);
        if round == 0 {
            service.build_new(&base.clone().command(&check).project());
        }
        service.remove();
        let peer = Peer::docker(world);
        docker.push(peer.pull(&reference) / 1000.0);
        if round == 0 {
            peer.run(&reference, &check);
        }
        peer.remove();
    }
    let count = ours.len();
    let [ours, docker] = [ours, docker].map(|times| Times::of(times).median());
    let less = match size < wanted {
        true => format!("; the disk had no room for {wanted} MiB"),
        false => String::new(),
    };
    vec![
        Row::against(
            &format!("a base image of {size} MiB pulled and a step run on it, against `docker pull`"),
            "s",
            ours,
            docker,
            Aim::Ratio(0.5),
        )
        .note(format!(
            "{LAYERS} layers, gzip, from a registry on loopback; the image that the step makes is published, durable, too; {count} runs{less}"
        )),
    ]
}
