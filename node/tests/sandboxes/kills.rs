//! Nodes that are killed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use chalk_core::wire::{OutputEventKind, SandboxState, problem};
use chalk_node::agent::Sandboxes as _;

use crate::support::{Node, groups, processes_with, until};

/// Has the inner test of this file, run by another process, use this directory.
const INNER: &str = "CHALK_NODE_TEST_INNER";

fn victim(directory: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own file"));
    command
        .args(["--exact", "kills::inner_node", "--ignored", "--nocapture"])
        .env(INNER, directory)
        .stdout(Stdio::null());
    command
}

/// Runs a node that is killed after `wait`, or when it said that its sandboxes run.
async fn kill_and_look(wait: Option<Duration>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let dir = directory.path();
    let mut node = victim(dir).spawn().expect("starts");
    let seconds = format!("98764.{}", node.id());
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => until("the sandboxes", || dir.join("running").exists()).await,
    }
    node.kill().expect("killed");
    node.wait().expect("ended");
    until("the end of all", || processes_with(&seconds) == 0).await;
    if !dir.join("disks").exists() {
        return;
    }
    // Places that were ready have no process with that argument.
    let empty = |group: &PathBuf| {
        let list = std::fs::read_to_string(group.join("cgroup.procs"));
        list.is_ok_and(|list| list.is_empty())
    };
    until("the end of all places", || groups(dir).iter().all(empty)).await;

    let node = Node::in_dir(dir, 16 << 20).await;
    let reports = node.sandboxes.reports();
    for report in &reports {
        assert_eq!(report.state, SandboxState::Lost, "{report:?}");
        assert_eq!(
            report.error.as_ref().expect("told").kind,
            problem::NODE_LOST
        );
        let seen = node.seen(&report.id, "main").await;
        assert!(matches!(seen.end, Some(OutputEventKind::Failed { .. })));
        if wait.is_none() {
            assert_eq!(seen.stdout, "up\n");
        }
        node.sandboxes.remove(&report.id).await.expect("removed");
    }
    if wait.is_none() {
        assert_eq!(reports.len(), 3);
    }
    // Nothing of the life before is left, and the new one works.
    let (report, _) = node.run("after", "exit 4").await;
    assert_eq!(report.exit_code, Some(4));
    node.sandboxes.remove("after").await.expect("removed");
    node.sandboxes.end_all().await;
    let left = |name: &str| std::fs::read_dir(dir.join(name)).expect("readable").count();
    until("no disk", || left("disks") == 0).await;
    until("no group", || groups(dir).is_empty()).await;
    assert_eq!(left("records"), 0);
    let name = dir.display().to_string();
    until("no loop device", || {
        let devices = std::fs::read_dir("/sys/block").expect("readable").flatten();
        let mut files = devices.filter_map(|device| {
            std::fs::read_to_string(device.path().join("loop/backing_file")).ok()
        });
        !files.any(|file| file.contains(&name))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ends_with_a_node_that_is_killed() {
    kill_and_look(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ends_with_a_node_that_is_killed_while_it_starts_sandboxes() {
    for wait in [20, 35, 50, 70, 100, 150] {
        kill_and_look(Some(Duration::from_millis(wait))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the victim of the other tests of this file"]
async fn inner_node() {
    let dir = PathBuf::from(std::env::var_os(INNER).expect("run by another test"));
    let node = Node::in_dir(&dir, 16 << 20).await;
    let seconds = format!("98764.{}", std::process::id());
    for id in ["a", "b", "c"] {
        let script = format!("setsid sleep {seconds} & echo up; sleep {seconds}");
        node.script(id, &script);
    }
    for id in ["a", "b", "c"] {
        node.until(id, "main", "up").await;
        until("the state", || {
            node.state(id) == Some(SandboxState::Running)
        })
        .await;
    }
    std::fs::write(dir.join("running"), "").expect("written");
    tokio::time::sleep(Duration::from_secs(1000)).await;
}
