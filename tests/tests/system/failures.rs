//! Steps that fail, hang, leave processes behind or write odd names.

use std::fs;

use chalk_tests::{Layout, Project, World, run, unique, wait_until};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_failing_step_shows_its_end_and_keeps_what_came_before",
        a_failing_step,
    ),
    (
        "a_step_that_hangs_is_ended_with_all_it_started",
        a_step_that_hangs,
    ),
    (
        "processes_of_a_step_end_with_it",
        processes_of_a_step_end_with_it,
    ),
    (
        "names_and_output_that_are_not_utf8",
        names_and_output_that_are_not_utf8,
    ),
    (
        "output_beyond_the_limit_is_dropped_with_a_notice",
        output_beyond_the_limit,
    ),
    (
        "a_killed_step_says_its_signal",
        a_killed_step_says_its_signal,
    ),
    ("steps_cannot_reach_the_host", steps_cannot_reach_the_host),
];

/// A declaration of the small base with commands.
pub(crate) fn busybox(steps: &[&str]) -> Project {
    let commands: String = steps
        .iter()
        .map(|step| format!("  '''{step}''',\n"))
        .collect();
    Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\n{commands}]\n"
    ))
}

/// Whether a process of the host has `word` among its arguments.
pub(crate) fn is_running(word: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == word.as_bytes())
    })
}

/// Waits until a process with that argument is there, or gone.
#[track_caller]
pub(crate) fn wait_for_process(word: &str, there: bool) {
    wait_until(&format!("a process with `{word}`: {there}"), || {
        is_running(word) == there
    });
}

/// Seconds for `sleep` that no other process sleeps: they identify it.
pub(crate) fn sleep_mark() -> String {
    let unique = unique();
    let (process, number) = unique.split_once('-').unwrap();
    format!("7{number:0>3}.{process}")
}

pub(crate) fn states(result: &Value) -> Vec<&str> {
    let steps = result["steps"].as_array().expect("steps");
    steps
        .iter()
        .map(|step| step["state"].as_str().unwrap_or_default())
        .collect()
}

fn a_failing_step(world: &World) {
    let service = world.service();
    let mark = unique();
    let good = format!("echo prepared {mark} > /prepared");
    let bad = "seq 1 300; echo out of cheese >&2; exit 7";
    let project = busybox(&[&good, bad, "echo never"]);
    let file = project.arg("image.toml");
    let failed = service
        .image(&["build", &file, "--json", "--progress", "plain"])
        .code(1);
    let failed = failed.says(&["out of cheese", "300", "exit code 7"]);
    let result = failed.result();
    assert_eq!(result["status"], "failed", "{failed}");
    assert_eq!(states(&result)[..2], ["ran", "failed"], "{failed}");
    assert!(!states(&result)[2..].contains(&"ran"), "{failed}");
    // Quiet still says why.
    let quiet = service
        .image(&["build", &file, "--progress", "quiet"])
        .code(1);
    assert!(quiet.stderr.contains("out of cheese"), "{quiet}");

    let project = busybox(&[&good, "test -s /prepared"]);
    let fixed = service.build(&project.arg("image.toml"));
    assert_eq!(states(&fixed), ["cached", "ran"], "{fixed:#}");
}

fn a_step_that_hangs(world: &World) {
    let mut service = world.start("hang", &[("build.step_timeout", "3s")]);
    let (own, child) = (sleep_mark(), sleep_mark());
    // A process that ignores SIGTERM and one in a session of its own.
    let project = busybox(&[&format!(
        "trap '' TERM; setsid sleep {child} & sleep {own}; sleep {own}"
    )]);
    let failed = service
        .image(&["build", &project.arg("image.toml"), "--json"])
        .code(1);
    let failed = failed.says(&["time limit of 3 s", "build.step_timeout"]);
    assert_eq!(failed.result()["status"], "failed", "{failed}");
    wait_for_process(&own, false);
    wait_for_process(&child, false);
    service.stop();
    service.assert_clean();
}

fn processes_of_a_step_end_with_it(world: &World) {
    let service = world.service();
    let mark = sleep_mark();
    let project = busybox(&[&format!(
        "setsid sleep {mark} >/dev/null 2>&1 & echo started {mark}"
    )]);
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "built", "{built:#}");
    wait_for_process(&mark, false);
}

fn names_and_output_that_are_not_utf8(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = busybox(&[&format!(
        "printf x > \"/$(printf 'odd-\\377-{mark}')\"; printf 'bytes \\377\\376 {mark}\\n'"
    )]);
    let built = service
        .image(&[
            "build",
            &project.arg("image.toml"),
            "--json",
            "--progress",
            "plain",
        ])
        .ok();
    assert!(built.stderr.contains(&mark), "{built}");
    let folder = world.folder("odd");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!(
        "docker://{}",
        built.result()["image"].as_str().unwrap()
    ));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    let layers = Layout::open(&folder).layers();
    let mut name = b"odd-\xff-".to_vec();
    name.extend(mark.as_bytes());
    let found = layers
        .iter()
        .any(|layer| layer.windows(name.len()).any(|window| window == name));
    assert!(found, "the name is kept byte for byte");
    // The step after one with an odd name still runs and is cached.
    let again = service.build(&project.arg("image.toml"));
    assert_eq!(again["status"], "reused");
}

fn output_beyond_the_limit(world: &World) {
    let service = world.start("flood", &[("build.log_limit", "100 KiB")]);
    let project = busybox(&["yes some line of output | head -n 200000"]);
    let file = project.arg("image.toml");
    let built = service
        .image(&["build", &file, "--json", "--progress", "plain"])
        .ok();
    assert_eq!(built.result()["status"], "built", "{}", built.status);
    assert!(
        built.stderr.len() < 1_000_000,
        "{} bytes were shown",
        built.stderr.len()
    );
    assert!(
        built.stderr.to_lowercase().contains("limit"),
        "{}",
        &built.stderr[..2000]
    );
}

fn a_killed_step_says_its_signal(world: &World) {
    let service = world.service();
    let project = busybox(&[&format!("echo {}; kill -KILL $$", unique())]);
    let failed = service
        .image(&["build", &project.arg("image.toml"), "--json"])
        .code(1);
    let text = failed.stderr.to_lowercase();
    assert!(
        text.contains("sigkill") || text.contains("signal 9") || text.contains("137"),
        "{failed}"
    );
}

/// Build steps are hostile: what root in a step may not do.
fn steps_cannot_reach_the_host(world: &World) {
    let service = world.service();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let attempts = [
        ("mount -t tmpfs none /mnt", "mounting"),
        ("mount -o remount,rw /proc/sys", "remounting"),
        ("echo b > /proc/sysrq-trigger", "sysrq"),
        ("echo evil > /proc/sys/kernel/hostname", "sysctl"),
        (
            "mknod /disk b 254 0 && head -c 1 /disk > /dev/null",
            "reading a disk",
        ),
        ("dd if=/dev/mem count=1 of=/dev/null", "memory of the host"),
        (
            "chroot /proc/1/root test -d /proc/1/root/var/lib/dpkg",
            "another root",
        ),
        (
            "test $(ls /proc | grep -c '^[0-9]') -gt 20",
            "other processes",
        ),
        ("unshare -U true", "a user namespace"),
        (
            "insmod /a.sh 2>&1 | grep -qv -e 'not permitted' -e 'not implemented'",
            "kernel modules",
        ),
    ];
    let mark = unique();
    let script: Vec<String> = attempts
        .iter()
        .map(|(attempt, name)| {
            format!("if ( {attempt} ) 2>/dev/null; then echo BROKE OUT: {name} {mark}; fi")
        })
        .collect();
    let project = Project::new(&[("attempts.sh", &script.join("\n"))]);
    project.write(
        "image.toml",
        "[image]\nbase = \"busybox\"\n[[step]]\nadd_local_file = { src = \"attempts.sh\", dest = \"/a.sh\", strategy = \"copy\" }\n\
         [[step]]\nrun_commands = [\"mkdir -p /mnt; sh /a.sh\"]\n",
    );
    let built = service
        .image(&["build", &project.arg("image.toml"), "--progress", "plain"])
        .ok();
    assert!(!built.stderr.contains("BROKE OUT"), "{built}");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap(),
        host
    );
}
