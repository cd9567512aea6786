//! The example of the README, cold and after changes.

use chalk_tests::{Project, World, unique};

use super::declarations::Declaration;
use super::engines::{Ours, Peer, Upstream};
use super::same;
use crate::row::{Aim, Row, Times, rounds, timed};

/// Runs of what takes long.
const ROUNDS: usize = 3;
/// Runs of what takes milliseconds.
const QUICK_ROUNDS: usize = 20;
/// Packages of one file without dependencies, one for each round.
const MORE: [&str; 6] = [
    "tabulate",
    "colorama",
    "toml",
    "iniconfig",
    "toolz",
    "wcwidth",
];
/// Name of the images.
const NAME: &str = "quickstart";

/// Everything empty: caches of layers and packages, and the registry that is pushed to.
pub(crate) fn cold(world: &World) -> Vec<Row> {
    let upstream = Upstream::start(world);
    let declared = Declaration::quickstart(&upstream.reference("python"));
    let project = declared.project();
    let (mut ours, mut docker, mut alone, mut buildah) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds(ROUNDS) {
        let service = Ours::new(world);
        let (time, built) = service.build_new(&project);
        ours.push(time);
        let peer = Peer::docker(world);
        let build = peer.build(&project, NAME);
        alone.push(build);
        docker.push(build + peer.push(NAME));
        if round == 0 {
            let theirs = peer.files(world, NAME);
            same::assert_installed(&service.files(world, &built), &theirs);
        }
        drop((service, peer));
        let peer = Peer::buildah(world);
        buildah.push(peer.build(&project, NAME) + peer.push(NAME));
    }
    let rounds = ours.len();
    let [ours, docker, alone, buildah] = [ours, docker, alone, buildah].map(seconds);
    vec![
        Row::against(
            "cold build and push of the quickstart, against `docker build` + `docker push`",
            "s",
            ours,
            docker,
            Aim::Ratio(0.5),
        )
        .note(format!(
            "{rounds} runs; base from a registry on loopback; layers by zstd, docker's by gzip"
        )),
        Row::against(
            "the same against `docker build` without the push",
            "s",
            ours,
            alone,
            Aim::None,
        ),
        Row::against(
            "the same against `buildah bud` + `buildah push`",
            "s",
            ours,
            buildah,
            Aim::None,
        ),
    ]
}

fn seconds(times: Vec<f64>) -> f64 {
    Times::of(times).median() / 1000.0
}

/// Engines that have built and pushed the quickstart.
struct Warm {
    /// Engines look there for the base each time.
    _upstream: Upstream,
    ours: Ours,
    docker: Peer,
    declared: Declaration,
    project: Project,
}

impl Warm {
    fn new(world: &World) -> Self {
        let upstream = Upstream::start(world);
        let declared = Declaration::quickstart(&upstream.reference("python"));
        let warm = Self {
            _upstream: upstream,
            ours: Ours::new(world),
            docker: Peer::docker(world),
            project: declared.project(),
            declared,
        };
        warm.ours.build_new(&warm.project);
        warm.docker.build(&warm.project, NAME);
        warm.docker.push(NAME);
        warm
    }

    /// Builds and pushes other declarations with both; the medians in seconds. The last results are
    /// compared.
    fn changed(&self, world: &World, change: impl Fn(usize) -> Declaration) -> (f64, f64) {
        let (mut ours, mut docker, mut last) = (vec![], vec![], None);
        for round in 0..rounds(ROUNDS) {
            let project = change(round).project();
            let (time, built) = self.ours.build_new(&project);
            ours.push(time);
            last = Some(built);
            docker.push(self.docker.build(&project, NAME) + self.docker.push(NAME));
        }
        let built = last.expect("a round");
        let theirs = self.docker.files(world, NAME);
        same::assert_installed(&self.ours.files(world, &built), &theirs);
        (seconds(ours), seconds(docker))
    }
}

/// The same declaration again, whole commands.
pub(crate) fn unchanged(world: &World) -> Vec<Row> {
    let warm = Warm::new(world);
    let buildah = Peer::buildah(world);
    buildah.build(&warm.project, NAME);
    let (mut ours, mut docker, mut other) = (vec![], vec![], vec![]);
    let mut version = vec![];
    for _ in 0..rounds(QUICK_ROUNDS) {
        let (time, built) = warm.ours.build(&warm.project);
        assert_eq!(built["status"], "reused", "{built:#}");
        ours.push(time);
        let mut chalk = warm.ours.service.chalk().arg("--version").into_command();
        version.push(timed(&mut chalk).0);
        docker.push(warm.docker.build(&warm.project, NAME));
        other.push(buildah.build(&warm.project, NAME));
    }
    let [ours, docker, other, version] =
        [ours, docker, other, version].map(|times| Times::of(times).median());
    vec![
        Row::against(
            "nothing changed, whole command, against `docker build`",
            "ms",
            ours,
            docker,
            Aim::Ratio(0.1),
        )
        .note(format!("of which starting `chalk` takes {version:.1} ms")),
        Row::against(
            "the same against `buildah bud`",
            "ms",
            ours,
            other,
            Aim::None,
        ),
    ]
}

/// One package more.
pub(crate) fn package(world: &World) -> Vec<Row> {
    let warm = Warm::new(world);
    let change = |round: usize| {
        let declared = warm.declared.clone();
        declared.package(MORE.get(round).expect("as many rounds as packages"))
    };
    let (ours, docker) = warm.changed(world, change);
    vec![
        Row::against(
            "one pip package added, pushed, against `docker build` + `docker push`",
            "s",
            ours,
            docker,
            Aim::Ratio(0.35),
        )
        .note("every run adds another package"),
    ]
}

/// The last command changed.
pub(crate) fn command(world: &World) -> Vec<Row> {
    let warm = Warm::new(world);
    let change = |_: usize| {
        let declared = warm.declared.clone();
        declared.last_command(&format!("echo {} > /root/changed", unique()))
    };
    let (ours, docker) = warm.changed(world, change);
    vec![Row::against(
        "last command changed, pushed, against `docker build` + `docker push`",
        "s",
        ours,
        docker,
        Aim::Ratio(0.7),
    )]
}
