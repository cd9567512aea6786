//! Sandboxes that wait for what further commands and files bring.

use std::time::Duration;

use chalk_core::wire::{
    ExecRequest, OutputEventKind, SandboxEnd, SandboxRequest, SandboxState, problem,
};
use chalk_node::agent::{FileError, Sandboxes as _};
use futures_util::StreamExt as _;

use crate::support::{Node, until};

async fn idle(node: &Node, id: &str, change: impl FnOnce(&mut SandboxRequest)) {
    node.start_with(id, "", |request| {
        request.args.clear();
        request.idle = true;
        change(request);
    });
    until("the state", || {
        node.state(id) == Some(SandboxState::Running)
    })
    .await;
}

fn shell(script: &str) -> ExecRequest {
    ExecRequest {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecRequest::default()
    }
}

async fn read(node: &Node, id: &str, path: &str) -> Result<Vec<u8>, FileError> {
    let mut pieces = node.sandboxes.read_file(id, path).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend(piece.expect("whole"));
    }
    Ok(bytes)
}

fn errno(error: FileError) -> i32 {
    match error {
        FileError::Failed(failure) => failure.errno,
        FileError::Problem(problem) => panic!("{problem:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_sandbox_lives_until_it_is_stopped_and_lets_its_processes_end() {
    let node = Node::start().await;
    idle(&node, "one", |_| ()).await;
    let script = "trap 'sleep 0.2; echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let exec = node.sandboxes.exec("one", "p1".into(), shell(script)).await;
    exec.expect("starts");
    node.until("one", "p1", "up").await;
    let stop = node
        .sandboxes
        .stop("one", Duration::from_secs(30), SandboxEnd::Stopped);
    stop.await.expect("taken");
    let report = node.ended("one").await;
    assert_eq!(report.ended_by, Some(SandboxEnd::Stopped));
    assert_eq!(report.exit_code, Some(143));
    assert_eq!(node.seen("one", "p1").await.stdout, "up\nbye\n");

    // One that does not listen holds it up for the grace only.
    idle(&node, "two", |_| ()).await;
    let deaf = shell("trap '' TERM; echo up; while :; do sleep 0.05; done");
    node.sandboxes
        .exec("two", "p1".into(), deaf)
        .await
        .expect("starts");
    node.until("two", "p1", "up").await;
    let stop = node
        .sandboxes
        .stop("two", Duration::from_millis(300), SandboxEnd::Stopped);
    stop.await.expect("taken");
    assert_eq!(node.ended("two").await.exit_code, Some(137));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_say_what_they_are_and_how_they_ended() {
    let node = Node::start().await;
    idle(&node, "one", |_| ()).await;
    let exec = async |name: &str, request: ExecRequest| {
        let started = node.sandboxes.exec("one", name.into(), request).await;
        started.expect("starts");
    };
    let mut limited = shell("echo up; sleep 1000");
    limited.timeout_seconds = Some(0.3);
    limited.env.insert("SECRET".into(), "word".into());
    exec("limited", limited).await;
    exec("signalled", shell("kill -KILL $$")).await;
    exec("coded", shell("exit 7")).await;
    let missing = ExecRequest {
        args: vec!["no-such-program".into()],
        ..ExecRequest::default()
    };
    exec("missing", missing).await;
    exec("running", shell("echo up; exec sleep 1000")).await;
    node.until("one", "running", "up").await;
    for name in ["limited", "signalled", "coded", "missing"] {
        node.seen("one", name).await;
    }
    let processes = node.sandboxes.processes("one").await.expect("known");
    let found: Vec<String> = processes
        .iter()
        .map(|status| {
            let end = match &status.end {
                None => "runs".to_owned(),
                Some(OutputEventKind::Exited {
                    code,
                    signal,
                    ended_by,
                }) => {
                    format!("{code} {signal:?} {ended_by:?}")
                }
                Some(OutputEventKind::Failed { error }) => error.kind.clone(),
                Some(other) => panic!("no end: {other:?}"),
            };
            format!("{}: {end}", status.process)
        })
        .collect();
    let expect = [
        "coded: 7 None None".to_owned(),
        "limited: 124 Some(9) Some(TimedOut)".to_owned(),
        format!("missing: {}", problem::COMMAND_NOT_FOUND),
        "running: runs".to_owned(),
        "signalled: 137 Some(9) None".to_owned(),
    ];
    assert_eq!(found, expect);
    assert_eq!(processes[0].args[2], "exit 7");
    assert!(!format!("{processes:?}").contains("word"));
    for wrong in [0.0, -1.0, f64::NAN] {
        let mut request = shell("true");
        request.timeout_seconds = Some(wrong);
        let refused = node.sandboxes.exec("one", "wrong".into(), request).await;
        assert_eq!(refused.expect_err("no time").kind, problem::BAD_REQUEST);
    }
    node.sandboxes.remove("one").await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_go_in_whole_and_come_out_with_the_rights_of_the_user() {
    let node = Node::start().await;
    idle(&node, "one", |request| {
        request.user = Some("app".into());
        request.workdir = Some("/tmp".into());
    })
    .await;
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = node
        .sandboxes
        .write_file("one", "here", Some(0o640))
        .await
        .expect("opens");
    for piece in bytes.chunks(100_001) {
        writer.write(piece.to_vec().into()).await.expect("taken");
    }
    // Nothing is there before it is whole.
    assert_eq!(
        errno(read(&node, "one", "here").await.expect_err("too early")),
        2
    );
    assert_eq!(writer.commit().await.expect("written"), bytes.len() as u64);
    assert!(read(&node, "one", "/tmp/here").await.expect("read") == bytes);
    let stat = shell("stat -c '%U %a %s' here; ls -A | grep -c upload");
    node.sandboxes
        .exec("one", "stat".into(), stat)
        .await
        .expect("starts");
    let seen = node.seen("one", "stat").await;
    assert_eq!(seen.stdout, "app 640 4000000\n0\n");

    let mut left = node
        .sandboxes
        .write_file("one", "here", None)
        .await
        .expect("opens");
    left.write("half".into()).await.expect("taken");
    drop(left);
    let gone = shell("while ls -A | grep -q upload; do sleep 0.01; done; stat -c %s here");
    node.sandboxes
        .exec("one", "gone".into(), gone)
        .await
        .expect("starts");
    assert_eq!(node.seen("one", "gone").await.stdout, "4000000\n");

    assert_eq!(
        errno(
            read(&node, "one", "/etc/shadow")
                .await
                .expect_err("not theirs")
        ),
        13
    );
    let refused = node.sandboxes.write_file("one", "/etc/x", None).await;
    assert_eq!(refused.map(drop).map_err(errno), Err(13));
    // The writable layer of a sandbox has 64 MiB here.
    let mut large = node
        .sandboxes
        .write_file("one", "large", None)
        .await
        .expect("opens");
    let mut why = None;
    for _ in 0..100 {
        if let Err(error) = large.write(vec![1; 1 << 20].into()).await {
            why = Some(errno(error));
            break;
        }
    }
    let why = match why {
        Some(why) => Some(why),
        None => large.commit().await.err().map(errno),
    };
    assert_eq!(why, Some(28));

    node.sandboxes.remove("one").await.expect("removed");
    let error = read(&node, "one", "here").await.expect_err("gone");
    assert!(matches!(error, FileError::Problem(p) if p.kind == problem::NOT_FOUND));
}
