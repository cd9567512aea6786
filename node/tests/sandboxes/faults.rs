//! What hostile and unlucky sandboxes do.

use std::time::Duration;

use chalk_core::wire::{SandboxEnd, SandboxState};
use chalk_node::agent::Sandboxes as _;

use crate::support::{Node, groups, processes_with, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_users_and_limits_that_cannot_be_are_told() {
    let node = Node::start().await;
    let check = async |id: &str,
                       change: &(dyn Fn(&mut chalk_core::wire::SandboxRequest) + Sync),
                       expect: &str| {
        let (report, seen) = node.run_with(id, "true", change).await;
        assert_eq!(report.state, SandboxState::Failed, "{id}");
        let error = report.error.expect("told");
        assert_eq!(error.status, 400, "{error:?}");
        assert!(format!("{error:?}").contains(expect), "{error:?}");
        assert!(seen.end.is_some());
    };
    check(
        "nope",
        &|r| r.args = vec!["nope".into()],
        "not found in PATH",
    )
    .await;
    check(
        "file",
        &|r| r.args = vec!["/etc/passwd".into()],
        "permission denied",
    )
    .await;
    check(
        "user",
        &|r| r.user = Some("nobody-here".into()),
        "nobody-here",
    )
    .await;
    check(
        "workdir",
        &|r| r.workdir = Some("here".into()),
        "working directory",
    )
    .await;
    check("cpus", &|r| r.limits.cpus = Some(-1.0), "-1 cores").await;
    check("disk", &|r| r.limits.disk = Some(1), "4 MiB").await;
    check(
        "time",
        &|r| r.limits.timeout_seconds = Some(f64::NAN),
        "NaN",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_bomb_hurts_only_itself() {
    let node = Node::start().await;
    let bomb = "f() { sleep 98761 & f & f; }; echo up; f 2> /dev/null; wait";
    node.start_with("bomb", bomb, |request| {
        request.limits.pids = Some(40);
    });
    node.until("bomb", "main", "up").await;
    let (report, _) = node.run("other", "true").await;
    assert_eq!(report.exit_code, Some(0));
    assert!(processes_with("98761") <= 40);
    let stop = node
        .sandboxes
        .stop("bomb", Duration::ZERO, SandboxEnd::Stopped)
        .await;
    stop.expect("taken");
    let report = node.ended("bomb").await;
    assert_eq!(report.state, SandboxState::Exited);
    until("the end of all", || processes_with("98761") == 0).await;
    // One process is one process.
    let (report, _) = node
        .run_with("single", "exec true", |request| {
            request.limits.pids = Some(1);
        })
        .await;
    assert_eq!(report.exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_the_sandboxs_own() {
    let node = Node::start().await;
    let fill = "head -c 200M /dev/zero > /big; echo $?; exec sleep 1000";
    node.start_with("full", fill, |request| request.limits.disk = Some(32 << 20));
    let seen = node.until("full", "main", "1\n").await;
    let (report, _) = node.run("other", "head -c 20M /dev/zero > /file").await;
    assert_eq!(report.exit_code, Some(0), "{seen:?}");
    let image = std::fs::read_dir(node.dir.join("disks")).expect("readable");
    for entry in image.flatten().filter(|entry| entry.path().is_file()) {
        let blocks = std::os::unix::fs::MetadataExt::blocks(&entry.metadata().expect("metadata"));
        assert!(blocks * 512 <= 65 << 20, "{entry:?} {blocks}");
    }
    node.sandboxes.remove("full").await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_of_output_neither_blocks_nor_fills_the_disk() {
    let node = Node::start().await;
    let (report, seen) = node.run("loud", "head -c 1G /dev/zero; echo end").await;
    assert_eq!(report.exit_code, Some(0));
    assert!(seen.stdout.ends_with("end\n"));
    assert_eq!(seen.dropped + seen.stdout.len() as u64, (1 << 30) + 4);
    let output = node.dir.join("records/loud/output/main");
    let kept: u64 = std::fs::read_dir(output)
        .expect("readable")
        .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
        .sum();
    assert!(kept < 3 << 20, "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_too_much_memory_is_told_why_it_ended() {
    let node = Node::start().await;
    let (report, _) = node
        .run_with("hog", "exec tail /dev/zero", |request| {
            request.limits.memory = Some(48 << 20);
        })
        .await;
    assert_eq!(
        (report.exit_code, report.ended_by),
        (Some(137), Some(SandboxEnd::OutOfMemory)),
        "{report:?}"
    );
    // A child of it is told as a warning.
    let (report, _) = node
        .run_with("parent", "tail /dev/zero; exit 0", |request| {
            request.limits.memory = Some(48 << 20);
        })
        .await;
    assert_eq!((report.exit_code, report.ended_by), (Some(0), None));
    assert!(report.warnings[0].contains("memory limit"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_limits_end_it() {
    let node = Node::start().await;
    let (report, _) = node
        .run_with(
            "slow",
            "trap '' TERM; sleep 98762; sleep 98762",
            |request| {
                request.limits.timeout_seconds = Some(0.3);
            },
        )
        .await;
    assert_eq!(
        (report.exit_code, report.ended_by),
        (Some(124), Some(SandboxEnd::TimedOut))
    );
    assert_eq!(processes_with("98762"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_starts_leave_nothing_behind() {
    let node = Node::start().await;
    let helpers = || {
        let children = format!("/proc/{}/task", std::process::id());
        std::fs::read_dir(children)
            .expect("readable")
            .flatten()
            .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
            .map(|children| children.split_whitespace().count())
            .sum::<usize>()
    };
    for number in 0..200 {
        let id = format!("s{number}");
        let script = if number % 4 == 0 {
            "sleep 98763 & exit 1"
        } else {
            "true"
        };
        let (report, _) = node.run(&id, script).await;
        assert_eq!(report.exit_code, Some(i32::from(number % 4 == 0)));
        node.sandboxes.remove(&id).await.expect("removed");
    }
    assert_eq!(processes_with("98763"), 0);
    assert!(node.sandboxes.reports().is_empty());
    let count = |name: &str| {
        std::fs::read_dir(node.dir.join(name))
            .expect("readable")
            .count()
    };
    assert_eq!(count("records"), 0);
    // What is ready for the next, which includes at most one more in the making.
    until("few disks", || count("disks") <= 10).await;
    let hierarchies = 4;
    until("few groups", || groups(&node.dir).len() <= 6 * hierarchies).await;
    node.sandboxes.end_all().await;
    until("no disk", || count("disks") == 0).await;
    until("no group", || groups(&node.dir).is_empty()).await;
    // Other tests of this process may run sandboxes of their own.
    until("few helpers", || helpers() <= 60).await;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("readable");
    assert!(
        !mounts.contains(&node.dir.display().to_string()),
        "{mounts}"
    );
}
