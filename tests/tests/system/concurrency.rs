//! Several clients, and clients that do not stay.

use std::time::{Duration, Instant};

use chalk_tests::{Project, Service, World, unique};
use serde_json::Value;

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    ("two_clients_share_one_build", two_clients_share_one_build),
    (
        "a_client_that_goes_away_leaves_the_other_its_build",
        a_client_that_goes_away,
    ),
    (
        "an_interrupted_client_ends_its_build",
        an_interrupted_client_ends_its_build,
    ),
    ("a_build_is_cancelled", a_build_is_cancelled),
    ("a_full_queue_refuses", a_full_queue_refuses),
    ("builds_wait_for_a_place", builds_wait_for_a_place),
    (
        "a_command_without_service_works_in_its_own_process",
        without_service,
    ),
];

fn project(command: &str) -> Project {
    Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo prepared {}\", '''{command}''']\n",
        unique()
    ))
}

fn builds(service: &Service, hash: &str) -> Vec<Value> {
    service
        .get(&format!("/v1/builds?hash={hash}"))
        .as_array()
        .unwrap()
        .clone()
}

fn two_clients_share_one_build(world: &World) {
    let service = world.service();
    let mark = sleep_mark().replace('.', "");
    let project = project(&format!(
        "sleep 2.{mark}; cat /proc/sys/kernel/random/uuid > /stamp"
    ));
    let file = project.arg("image.toml");
    let (first, second) = std::thread::scope(|scope| {
        let build = || service.build(&file);
        let first = scope.spawn(build);
        wait_for_process(&format!("2.{mark}"), true);
        let second = scope.spawn(build);
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(first["status"], "built");
    let hash = first["image_hash"].as_str().unwrap();
    let ran: Vec<Value> = builds(service, hash)
        .into_iter()
        .filter(|build| build["status"] == "built")
        .collect();
    assert_eq!(ran.len(), 1, "one build ran: {ran:#?}");
}

fn a_client_that_goes_away(world: &World) {
    let service = world.service();
    for signal in ["-KILL", "-INT"] {
        let mark = sleep_mark().replace('.', "");
        let project = project(&format!("sleep 3.{mark}"));
        let file = project.arg("image.toml");
        let build = ["compute", "image", "build", &file];
        let mut leaving = service.chalk().args(build).start();
        wait_for_process(&format!("3.{mark}"), true);
        let staying = std::thread::scope(|scope| {
            let staying = scope.spawn(|| service.build(&file));
            std::thread::sleep(Duration::from_millis(500));
            leaving.signal(signal);
            leaving.wait();
            staying.join().unwrap()
        });
        assert_eq!(staying["status"], "built", "{signal}: {staying:#}");
    }
}

fn an_interrupted_client_ends_its_build(world: &World) {
    let service = world.service();
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let mark = sleep_mark();
        let project = project(&format!("sleep {mark}"));
        let file = project.arg("image.toml");
        let mut client = service
            .chalk()
            .args(["compute", "image", "build", &file])
            .start();
        wait_for_process(&mark, true);
        client.signal(signal);
        assert_eq!(client.wait(), code, "after {signal}");
        // Nobody waits for this build any more.
        wait_for_process(&mark, false);
        let hash = service.image(&["hash", &file, "--json"]).ok().json()["image_hash"].clone();
        let hash = hash.as_str().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let found = builds(service, hash);
            if found.iter().all(|build| build["status"] == "cancelled") {
                break;
            }
            assert!(Instant::now() < until, "{found:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn a_build_is_cancelled(world: &World) {
    let service = world.service();
    let mark = sleep_mark();
    let project = project(&format!("sleep {mark}"));
    let file = project.arg("image.toml");
    let detached = service
        .image(&["build", &file, "--detach", "--json"])
        .ok()
        .result();
    let id = detached["id"].as_str().expect("an id");
    wait_for_process(&mark, true);
    let reaches = |what: &dyn Fn(&Value) -> bool| {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let build = service.get(&format!("/v1/builds/{id}"));
            if what(&build) {
                return build;
            }
            assert!(Instant::now() < until, "{build:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    reaches(&|build| build["steps"][0]["state"] == "ran");
    service.image(&["cancel", id]).ok();
    wait_for_process(&mark, false);
    let build = reaches(&|build| build["status"] != "running");
    assert_eq!(build["status"], "cancelled", "{build:#}");
    assert_eq!(
        build["steps"][0]["state"], "ran",
        "what was done is kept: {build:#}"
    );
    service.image(&["cancel", "no-such-build"]).code(4);
}

fn a_full_queue_refuses(world: &World) {
    let service = world.start(
        "queue",
        &[("build.parallel", "1"), ("build.queue_limit", "1")],
    );
    let marks = [sleep_mark(), sleep_mark(), sleep_mark()];
    let projects = marks
        .each_ref()
        .map(|mark| project(&format!("sleep {mark}")));
    let start = |project: &Project| {
        service.image(&["build", &project.arg("image.toml"), "--detach", "--json"])
    };
    let first = start(&projects[0]).ok().result();
    wait_for_process(&marks[0], true);
    let second = start(&projects[1]).ok().result();
    start(&projects[2]).code(3).says(&["queue"]);
    let waiting = service.get(&format!("/v1/builds/{}", second["id"].as_str().unwrap()));
    assert_eq!(waiting["status"], "queued", "{waiting:#}");
    for build in [&second, &first] {
        service
            .image(&["cancel", build["id"].as_str().unwrap()])
            .ok();
    }
    wait_for_process(&marks[0], false);
}

fn builds_wait_for_a_place(world: &World) {
    let service = world.start("places", &[("build.parallel", "1")]);
    let projects: Vec<Project> = (0..4).map(|_| project("sleep 0.3")).collect();
    std::thread::scope(|scope| {
        let builds: Vec<_> = projects
            .iter()
            .map(|project| scope.spawn(|| service.build(&project.arg("image.toml"))))
            .collect();
        for build in builds {
            assert_eq!(build.join().unwrap()["status"], "built");
        }
    });
}

fn without_service(world: &World) {
    let state = world.state("alone");
    let project = project("echo alone");
    let file = project.arg("image.toml");
    let build = || {
        let arguments = ["compute", "image", "build", &file, "--json"];
        chalk_tests::Chalk::on(&state)
            .args(arguments)
            .run()
            .ok()
            .result()
    };
    assert_eq!(build()["status"], "built");
    assert_eq!(build()["status"], "reused");
    // Two at once: one has the state directory, the other talks to it or waits.
    let other = self::project("sleep 1");
    let file = other.arg("image.toml");
    let results = std::thread::scope(|scope| {
        let builds = [0, 1].map(|_| {
            scope.spawn(|| {
                let arguments = ["compute", "image", "build", &file, "--json"];
                chalk_tests::Chalk::on(&state)
                    .args(arguments)
                    .run()
                    .ok()
                    .result()
            })
        });
        builds.map(|build| build.join().unwrap())
    });
    assert_eq!(results[0]["digest"], results[1]["digest"]);
}
