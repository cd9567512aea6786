//! Places that are made ahead of time: what becomes of those that nobody takes, or that die.

use std::collections::BTreeSet;
use std::time::Duration;

use chalk_core::wire::{SandboxEnd, SandboxState, problem};
use chalk_node::agent::Sandboxes as _;

use crate::support::{Node, groups, until};

fn disks(node: &Node) -> usize {
    let disks = std::fs::read_dir(node.dir.join("disks"));
    disks.expect("readable").count()
}

/// Processes in the control groups of the node.
fn processes(node: &Node) -> BTreeSet<i32> {
    let groups = groups(&node.dir);
    let lists = groups
        .iter()
        .filter_map(|group| std::fs::read_to_string(group.join("cgroup.procs")).ok());
    lists
        .flat_map(|list| {
            list.lines()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_that_are_stopped_while_their_disk_is_made_leave_nothing() {
    let node = Node::start().await;
    for number in 0..12 {
        let id = format!("s{number}");
        // Of another size than those that are ready.
        node.start_with(&id, "sleep 1000", |request| {
            request.limits.disk = Some((32 + number) << 20);
        });
        tokio::time::sleep(Duration::from_millis(number)).await;
        let stop = node
            .sandboxes
            .stop(&id, Duration::ZERO, SandboxEnd::Stopped)
            .await;
        stop.expect("taken");
        assert_eq!(node.ended(&id).await.ended_by, Some(SandboxEnd::Stopped));
    }
    node.sandboxes.end_all().await;
    until("no disk", || disks(&node) == 0).await;
    until("no group", || groups(&node.dir).is_empty()).await;
    let dir = node.dir.display().to_string();
    for device in std::fs::read_dir("/sys/block").expect("readable").flatten() {
        let file = device.path().join("loop/backing_file");
        let file = std::fs::read_to_string(file).unwrap_or_default();
        assert!(!file.contains(&dir), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_died_is_replaced() {
    let node = Node::start().await;
    for round in 0..4 {
        until("places", || !processes(&node).is_empty()).await;
        for pid in processes(&node) {
            let pid = rustix::process::Pid::from_raw(pid).expect("a process");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // The node may have noticed, or not yet.
        tokio::time::sleep(Duration::from_millis(round * 30)).await;
        let id = format!("s{round}");
        let (report, seen) = node.run(&id, "echo ran").await;
        assert_eq!(report.exit_code, Some(0), "{report:?}");
        assert_eq!(seen.stdout, "ran\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_is_refused_and_not_made_of_memory() {
    let node = Node::start().await;
    let (report, _) = node
        .run_with("huge", "true", |request| {
            request.limits.disk = Some(20 << 40);
        })
        .await;
    assert_eq!(report.state, SandboxState::Failed, "{report:?}");
    let error = report.error.expect("told");
    assert_eq!(
        (error.kind.as_str(), error.status),
        (problem::BAD_REQUEST, 400)
    );
    let (report, _) = node.run("usual", "true").await;
    assert_eq!(report.exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_starts_nothing_more() {
    let node = Node::start().await;
    node.sandboxes.end_all().await;
    let (report, seen) = node.run("late", "true").await;
    assert_eq!(report.state, SandboxState::Failed);
    let error = report.error.expect("told");
    assert_eq!(error.title, "the node is ending");
    assert!(seen.end.is_some());
    assert_eq!(disks(&node), 0);
}
