//! What sandboxes do when nothing goes wrong.

use std::time::Duration;

use chalk_core::wire::{
    ExecRequest, MountSource, OutputEventKind, SandboxEnd, SandboxMount, SandboxNetwork,
    SandboxState, TerminalSize, problem,
};
use chalk_node::agent::Sandboxes as _;

use crate::support::{Node, until};

fn exec(script: &str) -> ExecRequest {
    ExecRequest {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_and_request_make_the_process() {
    let node = Node::start().await;
    let script = "echo $FROM $WHO $HOSTNAME $(hostname) $(pwd) $(id -u):$(id -g) $HOME; \
                  cat /etc/hostname; echo err >&2; echo kept > /file; exit 7";
    let (report, seen) = node
        .run_with("one", script, |request| {
            request.env.insert("WHO".into(), "me".into());
            request.workdir = Some("/made/for/it".into());
            request.user = Some("app".into());
            request.user = None;
        })
        .await;
    assert_eq!(
        seen.stdout,
        "image me one one /made/for/it 0:0 /root\none\n"
    );
    assert_eq!(seen.stderr, "err\n");
    assert_eq!(
        (report.state, report.exit_code, report.ended_by),
        (SandboxState::Exited, Some(7), None)
    );
    assert!(report.warm && report.started.is_some() && report.finished.is_some());
    assert_eq!(report.warnings, Vec::<String>::new());
    assert_eq!(report.args[0], "/bin/sh");
    // The next one sees nothing of it.
    let (report, seen) = node.run("two", "ls /file").await;
    assert_eq!((report.exit_code, seen.stdout.as_str()), (Some(2), ""));
    // The image's own command.
    let (_, seen) = node
        .run_with("three", "", |request| request.args.clear())
        .await;
    assert_eq!(seen.stdout, "default\n");
    let (_, seen) = node
        .run_with("four", "id -u; echo $HOME; touch /x", |request| {
            request.user = Some("app".into());
            request.read_only = true;
        })
        .await;
    assert_eq!(seen.stdout, "1000\n/home/app\n");
    assert!(seen.stderr.contains("x"), "{}", seen.stderr);
    node.sandboxes.remove("one").await.expect("removed");
    assert_eq!(node.state("one"), None);
    let Err(problem) = node.sandboxes.output("one", "main", 0, false).await else {
        panic!("removed, yet there");
    };
    assert_eq!(problem.kind, problem::NOT_FOUND);
    assert!(!node.dir.join("records/one").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_the_hosts_or_none() {
    let node = Node::start().await;
    let links = "ls /sys/class/net; grep -c localhost /etc/hosts";
    let (_, seen) = node
        .run_with("none", links, |request| {
            request.network = SandboxNetwork::None;
        })
        .await;
    assert_eq!(seen.stdout, "lo\n2\n");
    let (_, seen) = node
        .run("host", "ls /sys/class/net; cat /etc/resolv.conf")
        .await;
    assert!(seen.stdout.contains("lo"));
    if let Ok(resolv) = std::fs::read_to_string("/etc/resolv.conf") {
        assert!(seen.stdout.contains(&resolv));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_signals_and_further_processes_reach_it() {
    let node = Node::start().await;
    node.start_with(
        "one",
        "trap 'echo hup' HUP; echo up; while read line; do echo got $line; done; echo end",
        |request| {
            request.stdin = true;
            request.env.insert("OF".into(), "main".into());
        },
    );
    let input = |data: &'static str, close| node.sandboxes.input("one", "main", data.into(), close);
    // Before there is a process, too.
    input("a\n", false).await.expect("taken");
    node.until("one", "main", "got a").await;
    until("the state", || {
        node.state("one") == Some(SandboxState::Running)
    })
    .await;

    let mut request = exec("echo $OF $MORE; cat /proc/1/comm; read x; echo $x; exit 3");
    request.stdin = true;
    request.env.insert("MORE".into(), "here".into());
    let started = node
        .sandboxes
        .exec("one", "p1".into(), request)
        .await
        .expect("starts");
    assert_eq!(started.process, "p1");
    let typed = node
        .sandboxes
        .input("one", "p1", "word\n".into(), true)
        .await;
    typed.expect("taken");
    let seen = node.seen("one", "p1").await;
    assert_eq!(seen.stdout, "main here\nchalk-sandbox\nword\n");
    let end = OutputEventKind::Exited {
        code: 3,
        signal: None,
        ended_by: None,
    };
    assert_eq!(seen.end, Some(end));
    let twice = node.sandboxes.exec("one", "p1".into(), exec("true")).await;
    assert_eq!(twice.expect_err("there already").kind, problem::BAD_REQUEST);
    let closed = node.sandboxes.input("one", "p1", "x".into(), false).await;
    assert_eq!(closed.expect_err("ended").kind, problem::NOT_RUNNING);

    input("b\n", true).await.expect("taken");
    let report = node.ended("one").await;
    assert_eq!(report.exit_code, Some(0));
    let seen = node.seen("one", "main").await;
    assert_eq!(seen.stdout, "up\ngot a\ngot b\nend\n");
    let late = node.sandboxes.exec("one", "p2".into(), exec("true")).await;
    assert_eq!(late.expect_err("ended").kind, problem::NOT_RUNNING);
    let late = node.sandboxes.signal("one", "main", "TERM").await;
    assert_eq!(late.expect_err("ended").kind, problem::NOT_RUNNING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_have_a_size_that_changes() {
    let node = Node::start().await;
    let script = "echo $TERM; stty size; trap 'stty size; exit 4' WINCH; echo ready; \
                  while :; do sleep 0.05; done";
    node.start_with("one", script, |request| {
        request.tty = Some(TerminalSize { rows: 30, cols: 90 });
        request.stdin = true;
    });
    node.until("one", "main", "ready").await;
    let size = TerminalSize { rows: 5, cols: 6 };
    node.sandboxes
        .resize("one", "main", size)
        .await
        .expect("resized");
    assert_eq!(node.ended("one").await.exit_code, Some(4));
    let seen = node.seen("one", "main").await;
    assert_eq!(seen.stdout, "xterm\r\n30 90\r\nready\r\n5 6\r\n");
    node.script("two", "sleep 1000");
    let error = node.sandboxes.resize("two", "main", size).await;
    assert_eq!(error.expect_err("no terminal").kind, problem::BAD_REQUEST);
    let stopped = node
        .sandboxes
        .stop("two", Duration::ZERO, SandboxEnd::Disconnected)
        .await;
    stopped.expect("taken");
    assert_eq!(
        node.ended("two").await.ended_by,
        Some(SandboxEnd::Disconnected)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_are_gentle_first() {
    let node = Node::start().await;
    let check = async |id: &str, script: &str, grace: Duration, code: i32| {
        node.script(id, script);
        node.until(id, "main", "ready").await;
        let stop = node.sandboxes.stop(id, grace, SandboxEnd::Stopped).await;
        stop.expect("taken");
        let report = node.ended(id).await;
        assert_eq!(
            (report.exit_code, report.ended_by),
            (Some(code), Some(SandboxEnd::Stopped)),
            "{id}"
        );
    };
    let wait = "echo ready; while :; do sleep 0.05; done";
    let long = Duration::from_secs(30);
    check("kind", &format!("trap 'exit 5' TERM; {wait}"), long, 5).await;
    check("plain", "echo ready; exec sleep 1000", long, 143).await;
    let short = Duration::from_millis(500);
    check("deaf", &format!("trap '' TERM; {wait}"), short, 137).await;
    // Before it is there.
    node.script("early", "sleep 1000");
    let stop = node
        .sandboxes
        .stop("early", Duration::from_secs(10), SandboxEnd::Stopped)
        .await;
    stop.expect("taken");
    assert_eq!(
        node.ended("early").await.ended_by,
        Some(SandboxEnd::Stopped)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_mounted() {
    let node = Node::start().await;
    let (text, program) = (
        node.blobs.put(b"text\n"),
        node.blobs.put(b"#!/bin/sh\necho ran\n"),
    );
    let tree = format!(
        r#"[{{"path":"link","target":"text","type":"symlink"}},
        {{"digest":"{program}","mode":"0755","path":"sub/run","type":"file"}},
        {{"digest":"{text}","mode":"0644","path":"text","type":"file"}}]"#
    );
    let tree = node.blobs.put(tree.as_bytes());
    let mount = |dest: &str, source: MountSource, writable| SandboxMount {
        dest: dest.to_owned(),
        source,
        writable,
    };
    let file = |digest, executable| MountSource::File { digest, executable };
    let script = "cat /app/text /app/link /one; /app/sub/run; /bin/tool; \
                  touch /app/new && echo wrong; echo x > /one && echo wrong; \
                  echo changed > /rw/text; rm /rw/link; cat /rw/text; echo more >> /rwone; \
                  cat /rwone";
    for round in ["first", "second"] {
        let (report, seen) = node
            .run_with(round, script, |request| {
                request.mounts = vec![
                    mount("/app", MountSource::Dir { digest: tree }, false),
                    mount("/rw", MountSource::Dir { digest: tree }, true),
                    mount("/one", file(text, false), false),
                    mount("/rwone", file(text, false), true),
                    mount("/bin/tool", file(program, true), false),
                ];
            })
            .await;
        assert_eq!(
            seen.stdout, "text\ntext\ntext\nran\nran\nchanged\ntext\nmore\n",
            "{} {report:?}",
            seen.stderr
        );
    }
    let (report, _) = node
        .run_with("bad", "true", |request| {
            request.mounts = vec![mount("relative", file(text, false), false)];
        })
        .await;
    assert_eq!(report.state, SandboxState::Failed);
    assert_eq!(report.error.expect("told").kind, problem::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_come_by_cdi() {
    let node = Node::start().await;
    let cdi = node.dir.join("cdi");
    std::fs::create_dir_all(&cdi).expect("made");
    std::fs::write(node.dir.join("library"), "of the host\n").expect("written");
    let spec = format!(
        "cdiVersion: 0.6.0\nkind: made.up/gpu\ncontainerEdits:\n  env: [DRIVER=made-up]\n\
         devices:\n  - name: zero\n    containerEdits:\n      env: [UNIT=0]\n      \
         additionalGids: [1234]\n      deviceNodes:\n        - path: /dev/made-up\n          \
         hostPath: /dev/zero\n      mounts:\n        - hostPath: {}\n          containerPath: \
         /usr/lib/made-up\n          options: [ro, bind]\n",
        node.dir.join("library").display()
    );
    std::fs::write(cdi.join("made-up.yaml"), spec).expect("written");
    let script = "echo $DRIVER $UNIT; head -c 3 /dev/made-up | od -An -tx1; \
                  cat /usr/lib/made-up; id -G; echo x > /usr/lib/made-up || echo refused";
    for (id, gpus, devices) in [
        ("all", Some("all"), vec![]),
        ("one", Some("1"), vec![]),
        ("name", None, vec!["made.up/gpu=zero".to_owned()]),
    ] {
        let (report, seen) = node
            .run_with(id, script, |request| {
                request.gpus = gpus.map(str::to_owned);
                request.devices = devices;
            })
            .await;
        assert_eq!(
            seen.stdout, "made-up 0\n 00 00 00\nof the host\n0 1234\nrefused\n",
            "{report:?} {seen:?}"
        );
    }
    let (report, _) = node
        .run_with("many", "true", |request| request.gpus = Some("2".into()))
        .await;
    let problem = report.error.expect("told");
    assert!(problem.detail.contains("this node has 1"), "{problem:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_nodes_environment_gets_in() {
    // `CARGO_MANIFEST_DIR` stands for secrets of the node: cargo sets it for this program.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let node = Node::start().await;
    let (_, seen) = node
        .run("one", "env | sort; ls /proc/self/fd | wc -l")
        .await;
    let names: Vec<&str> = seen
        .stdout
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    assert_eq!(names, ["FROM", "HOME", "HOSTNAME", "PATH", "PWD"]);
    // Standard streams, and the directory that `ls` reads.
    assert!(seen.stdout.ends_with("\n4\n"), "{}", seen.stdout);
}
