//! Build steps that take all they can get, and what they are told.

use std::fs;
use std::path::Path;

use chalk_tests::{Project, Service, World, unique};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_step_that_takes_all_memory_is_told", takes_all_memory),
    ("a_step_that_forks_without_end_is_told", forks_without_end),
    ("cores_of_a_step_are_counted", cores),
    ("no_control_group_is_left", no_group_is_left),
];

fn limited(world: &World, name: &str) -> Service {
    let settings = [
        ("build.memory", "64MiB"),
        ("build.pids", "40"),
        ("build.cpus", "0.5"),
    ];
    world.start(name, &settings)
}

fn project(command: &str) -> Project {
    Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = ['''echo {}; {command}''']\n",
        unique()
    ))
}

fn attempt(service: &Service, command: &str) -> chalk_tests::Ran {
    let project = project(command);
    let file = project.arg("image.toml");
    service.image(&["build", &file, "--progress", "plain"])
}

fn takes_all_memory(world: &World) {
    let service = limited(world, "memory");
    let hog = "x=0123456789abcdef; while :; do x=$x$x; done";
    let ran = attempt(&service, hog).code(1);
    ran.says(&["64.0 MiB", "`build.memory`"]);
    // A part of a step that dies is noted, and what fits, runs.
    let part = format!("sh -c '{hog}'; echo went on");
    let ran = attempt(&service, &part).ok();
    ran.says(&["went on although", "`build.memory`"]);
    attempt(&service, "true").ok();
}

fn forks_without_end(world: &World) {
    let service = limited(world, "pids");
    let bomb = "n=0; while [ $n -lt 200 ]; do sleep 5 & n=$((n+1)); done; wait";
    let ran = attempt(&service, &format!("({bomb}) || exit 3")).code(1);
    ran.says(&["limit of 40 processes", "`build.pids`"]);
    attempt(&service, "true").ok();
}

fn cores(world: &World) {
    let service = limited(world, "cores");
    // The step sees its own group at the top of what it sees.
    let read = "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; \
                cat /proc/self/cgroup; n=0; while [ $n -lt 300000 ]; do n=$((n+1)); done";
    let ran = attempt(&service, read).ok();
    assert!(ran.stderr.contains(":/"), "{ran}");
    let limit = |group: &Path| {
        let v2 = fs::read_to_string(group.join("cpu.max"));
        let v1 = fs::read_to_string(group.join("cpu.cfs_quota_us"));
        v2.or(v1).unwrap_or_default()
    };
    // While one runs, its group says so on the host.
    let project = project("sleep 8");
    let file = project.arg("image.toml");
    let mut running = service
        .chalk()
        .args(["compute", "image", "build", &file])
        .start();
    let mut found = String::new();
    chalk_tests::wait_until("the group of the step", || {
        for top in ["/sys/fs/cgroup/chalk", "/sys/fs/cgroup/cpu/chalk"] {
            for life in fs::read_dir(top).into_iter().flatten().flatten() {
                if !life.file_name().to_string_lossy().starts_with("builds-") {
                    continue;
                }
                for step in fs::read_dir(life.path()).into_iter().flatten().flatten() {
                    let limit = limit(&step.path());
                    if limit.starts_with("50000") {
                        found = limit;
                    }
                }
            }
        }
        !found.is_empty()
    });
    assert_eq!(running.wait(), Some(0));
}

/// Groups of builds of that state directory.
fn groups(service: &Service) -> Vec<String> {
    let engine = service.state().join("engine");
    let digest = chalk_core::Digest::of(engine.as_os_str().as_encoded_bytes()).hex();
    let name = format!("builds-{}", &digest[..16]);
    let mut found = Vec::new();
    for top in ["", "memory", "pids", "cpu", "cpuacct", "unified"] {
        let dir = Path::new("/sys/fs/cgroup")
            .join(top)
            .join("chalk")
            .join(&name);
        for step in fs::read_dir(dir).into_iter().flatten().flatten() {
            if step.path().is_dir() {
                found.push(step.path().display().to_string());
            }
        }
    }
    found
}

fn no_group_is_left(world: &World) {
    let mut service = limited(world, "groups");
    let project = project("sleep 1000");
    let file = project.arg("image.toml");
    let words = ["compute", "image", "build", &file, "--detach"];
    service.chalk().args(words).run().ok();
    chalk_tests::wait_until("a group", || !groups(&service).is_empty());
    service.kill();
    assert!(!groups(&service).is_empty(), "nobody took it away");
    service.start_again(&[]);
    chalk_tests::wait_until("no group", || groups(&service).is_empty());
    attempt(&service, "false").code(1);
    assert!(groups(&service).is_empty(), "{:?}", groups(&service));
}
