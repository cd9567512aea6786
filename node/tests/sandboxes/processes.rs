//! Processes of a sandbox as clients reach them.

use std::time::Duration;

use chalk_core::wire::{ExecRequest, SandboxState, TerminalSize, problem};
use chalk_node::agent::Sandboxes as _;

use crate::support::{Node, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_types_into_a_terminal_without_input_holds_nothing_up() {
    let node = Node::start().await;
    for round in 0..20 {
        let id = format!("s{round}");
        node.start_with(&id, "echo up", |request| {
            request.tty = Some(TerminalSize { rows: 30, cols: 90 });
        });
        let typists: Vec<_> = (0..4)
            .map(|_| {
                let (sandboxes, id) = (node.sandboxes.clone(), id.clone());
                tokio::spawn(async move { sandboxes.input(&id, "main", "x".into(), false).await })
            })
            .collect();
        assert_eq!(node.ended(&id).await.exit_code, Some(0));
        for typist in typists {
            let error = typist.await.expect("no panic").expect_err("no input");
            let kinds = [problem::BAD_REQUEST, problem::NOT_RUNNING];
            assert!(kinds.contains(&error.kind.as_str()), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_further_processes_the_last_are_kept() {
    let node = Node::start().await;
    node.script("one", "sleep 1000");
    until("the state", || {
        node.state("one") == Some(SandboxState::Running)
    })
    .await;
    let started = async |name: &str, script: &str| {
        let request = ExecRequest {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            ..ExecRequest::default()
        };
        let started = node.sandboxes.exec("one", name.to_owned(), request).await;
        started.expect("starts");
    };
    started("long", "echo up; exec sleep 1000").await;
    node.until("one", "long", "up").await;
    for number in 0..70 {
        let name = format!("p{number}");
        started(&name, &format!("echo {number}")).await;
        assert_eq!(node.seen("one", &name).await.stdout, format!("{number}\n"));
    }
    let output = node.dir.join("records/one/output");
    let kept = || std::fs::read_dir(&output).expect("readable").count();
    // Beside them the main process and the one that still runs.
    until("few", || kept() <= 66).await;
    assert_eq!(kept(), 66);
    let gone = node.sandboxes.output("one", "p0", 0, false).await;
    let Err(error) = gone else {
        panic!("forgotten, yet there");
    };
    assert_eq!(error.kind, problem::NOT_FOUND);
    for (name, expect) in [("p6", "6\n"), ("p69", "69\n")] {
        assert_eq!(node.seen("one", name).await.stdout, expect);
    }
    let signal = node.sandboxes.signal("one", "long", "KILL").await;
    signal.expect("there");
    node.seen("one", "long").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_commands_are_run_whole_and_reported_in_short() {
    let node = Node::start().await;
    let long = "x".repeat(100 << 10);
    let (report, seen) = node
        .run_with("one", "echo ${#1} $#", |request| {
            request
                .args
                .extend(["sh".to_owned(), long, "more".to_owned()]);
        })
        .await;
    assert_eq!(seen.stdout, "102400 2\n");
    let length: usize = report.args.iter().map(String::len).sum();
    assert!(length <= 4 << 10, "{length}");
    assert!(report.args[4].ends_with('\u{2026}'), "{report:?}");
    let stop = tokio::time::timeout(Duration::from_secs(60), node.sandboxes.remove("one"));
    stop.await.expect("ends").expect("removed");
}
