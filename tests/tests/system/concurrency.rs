//! Several clients, and clients that do not stay.

use chalk_tests::{Project, Service, Talk, World, run, tool, unique, wait_for, wait_until};
use serde_json::Value;

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};
use crate::restarts::process_with;

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
    let mark = sleep_mark();
    let project = project(&format!(
        "sleep {mark}; cat /proc/sys/kernel/random/uuid > /stamp"
    ));
    let file = project.arg("image.toml");
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| service.build(&file));
        wait_for_process(&mark, true);
        let second = scope.spawn(|| build_late(service, &file));
        wait_until_shared(service, &file);
        wake(&mark);
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

/// Builds as a second client, under a name by which the service tells that it was asked.
#[track_caller]
fn build_late(service: &Service, file: &str) -> Value {
    let words = ["build", file, "--json", "--name", "shared/late:1"];
    service.image(&words).ok().result()
}

/// Waits until the request of [`build_late`] is part of the build that runs.
#[track_caller]
fn wait_until_shared(service: &Service, file: &str) {
    let hash = service.image(&["hash", file, "--json"]).ok().json()["image_hash"].clone();
    let hash = hash.as_str().unwrap();
    wait_until("the build is shared", || {
        let found = builds(service, hash);
        found.iter().any(|build| {
            let name = build["name"].as_str().unwrap_or_default();
            build["status"] == "running" && name.ends_with("shared/late:1")
        })
    });
}

/// Ends a `sleep` of a step, which goes on with what follows.
#[track_caller]
fn wake(mark: &str) {
    let process = process_with(mark);
    run(&mut tool("kill", [&process])).ok();
}

fn a_client_that_goes_away(world: &World) {
    let service = world.service();
    for signal in ["-KILL", "-INT"] {
        let mark = sleep_mark();
        let project = project(&format!("echo up; sleep {mark}; true"));
        let file = project.arg("image.toml");
        let mut leaving = follow(world, service, &file);
        wait_for_process(&mark, true);
        let staying = std::thread::scope(|scope| {
            let staying = scope.spawn(|| build_late(service, &file));
            wait_until_shared(service, &file);
            leaving.signal(signal);
            leaving.end();
            wake(&mark);
            staying.join().unwrap()
        });
        assert_eq!(staying["status"], "built", "{signal}: {staying:#}");
    }
}

/// Builds in the background, and waits until the client follows a step that says `up`: it listens to
/// signals by then.
#[track_caller]
fn follow(world: &World, service: &Service, file: &str) -> Talk {
    let build = ["compute", "image", "build", file, "--progress", "plain"];
    let output = world.folder("follow").join("build");
    let talk = Talk::start(&mut service.chalk().args(build).into_command(), &output);
    talk.wait_for_error("up");
    talk
}

fn an_interrupted_client_ends_its_build(world: &World) {
    let service = world.service();
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let mark = sleep_mark();
        let project = project(&format!("echo up; sleep {mark}"));
        let file = project.arg("image.toml");
        let mut client = follow(world, service, &file);
        wait_for_process(&mark, true);
        client.signal(signal);
        assert_eq!(client.end(), code, "after {signal}");
        // Nobody waits for this build any more.
        wait_for_process(&mark, false);
        let hash = service.image(&["hash", &file, "--json"]).ok().json()["image_hash"].clone();
        let hash = hash.as_str().unwrap();
        wait_until("the build is cancelled", || {
            let found = builds(service, hash);
            found.iter().all(|build| build["status"] == "cancelled")
        });
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
        wait_for("a state of the build", || {
            let build = service.get(&format!("/v1/builds/{id}"));
            what(&build).then_some(build)
        })
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
