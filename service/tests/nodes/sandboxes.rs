//! Sandboxes: placement, records, and the way to their processes.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use chalk_core::Digest;
use chalk_core::wire::agent::{Ask, Order, Report, SandboxReport};
use chalk_core::wire::{
    NodeState, OutputEvent, OutputEventKind, Sandbox, SandboxEnd, SandboxProcess, SandboxReply,
    SandboxRequest, SandboxState, Stream, problem as kinds,
};
use futures_util::StreamExt;
use reqwest::{Body, Method, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::{Agent, Joined};
use crate::service::{Api, Image, events, ok, problem, settings, until};

pub(crate) fn request(image: &Image) -> SandboxRequest {
    SandboxRequest {
        image: image.hash.hex(),
        args: vec!["true".into()],
        ..SandboxRequest::default()
    }
}

pub(crate) async fn start(api: &Api, request: &SandboxRequest) -> Sandbox {
    match api.post("/v1/sandboxes", request).await {
        SandboxReply::Accepted(sandbox) => *sandbox,
        other => panic!("{other:?}"),
    }
}

fn report(id: &str, state: SandboxState) -> SandboxReport {
    SandboxReport {
        id: id.to_owned(),
        state,
        args: vec!["/bin/true".into()],
        warm: true,
        started: Some("2026-01-01T00:00:00Z".into()),
        finished: None,
        exit_code: (state == SandboxState::Exited).then_some(3),
        ended_by: None,
        error: None,
        warnings: Vec::new(),
    }
}

impl Agent {
    pub(crate) async fn sandbox(&mut self) -> (String, SandboxRequest) {
        self.wait(|order| match order {
            Order::StartSandbox { id, request, .. } => Some((id, *request)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn says(&self, id: &str, state: SandboxState) {
        self.report(&Report::Sandbox(report(id, state))).await;
    }

    /// The next ticket, with what is wanted.
    async fn follow(&mut self) -> (String, u64) {
        let (request, ask) = self.ask().await;
        self.answer(request, json!(null)).await;
        match ask {
            Ask::Follow { ticket, after, .. } => (ticket, after),
            other => panic!("{other:?}"),
        }
    }

    /// Opens the stream of a ticket; events go into the channel.
    fn stream(
        &self,
        ticket: &str,
    ) -> (
        mpsc::Sender<Result<Bytes, std::io::Error>>,
        tokio::task::JoinHandle<StatusCode>,
    ) {
        let (send, body) = mpsc::channel(1);
        let url = format!("{}/v1/agent/streams/{ticket}", self.joined.url);
        let request = self.http.post(url).bearer_auth(&self.joined.token);
        let request = request.body(Body::wrap_stream(ReceiverStream::new(body)));
        let sent = tokio::spawn(async move { request.send().await.unwrap().status() });
        (send, sent)
    }
}

fn output(seq: u64, text: &str) -> Bytes {
    line(&OutputEvent {
        seq,
        kind: OutputEventKind::Output {
            stream: Stream::Stdout,
            data: base64::engine::general_purpose::STANDARD.encode(text),
        },
    })
}

fn exited(seq: u64) -> Bytes {
    line(&OutputEvent {
        seq,
        kind: OutputEventKind::Exited {
            code: 3,
            signal: None,
            ended_by: None,
        },
    })
}

fn line(event: &OutputEvent) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap();
    line.push(b'\n');
    line.into()
}

#[tokio::test]
async fn sandboxes_go_where_the_image_is() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut cold = Agent::new(&api, "cold").await;
    let mut warm = Agent::new(&api, "warm").await;
    let mut eu = Joined::new(&api, "eu", Some("eu"))
        .await
        .connect(&api)
        .await;
    warm.cached(1, true, &[image.digest]).await;
    let hash = image.hash;
    until(async || {
        let plan: chalk_core::wire::Plan = api.post("/v1/plan", json!({"spec": image.spec})).await;
        (plan.nodes_warm == ["warm"]).then_some(())
    })
    .await;
    for _ in 0..2 {
        let sandbox = start(&api, &request(&image)).await;
        assert_eq!((sandbox.node.as_str(), sandbox.warm), ("warm", true));
        assert_eq!(sandbox.image_hash, Some(hash));
        let (id, asked) = warm.sandbox().await;
        assert_eq!((id, asked.args), (sandbox.id, vec!["true".to_owned()]));
    }
    let check = async |change: &dyn Fn(&mut SandboxRequest), node: &str| {
        let mut request = request(&image);
        change(&mut request);
        assert_eq!(start(&api, &request).await.node, node);
    };
    check(&|r| r.node = Some("cold".into()), "cold").await;
    check(&|r| r.region = Some("eu".into()), "eu").await;
    check(
        &|r| {
            r.labels.insert("name".into(), "eu".into());
        },
        "eu",
    )
    .await;
    assert!(!cold.sandbox().await.0.is_empty() && !eu.sandbox().await.0.is_empty());
    // What it is pulled by, too.
    let pulled = format!("{}/chalk/images:{}", api.running.addr, image.hash.hex());
    check(&|r| r.image.clone_from(&pulled), "warm").await;
    let pulled = format!("{}/chalk/images@{}", api.running.addr, image.digest);
    check(&|r| r.image.clone_from(&pulled), "warm").await;
    api.publish("imports/docker.io/library/base", "v1", b"layer")
        .await;
    let sandbox = async {
        let mut request = request(&image);
        request.image = "base:v1".into();
        start(&api, &request).await
    };
    assert_eq!(sandbox.await.image, "base:v1");

    // A drained node gets none, however warm it is.
    api.post::<chalk_core::wire::Node>("/v1/nodes/warm/drain", json!({}))
        .await;
    let sandbox = start(&api, &request(&image)).await;
    assert!(sandbox.node != "warm");
    let refused = async |change: &dyn Fn(&mut SandboxRequest), kind: &str, words: &str| {
        let mut request = request(&image);
        change(&mut request);
        let sent = api.request(Method::POST, "/v1/sandboxes").json(&request);
        let problem = problem(sent).await;
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(problem.detail.contains(words), "{problem:?}");
    };
    refused(
        &|r| r.node = Some("warm".into()),
        kinds::NO_NODE,
        "warm (local, draining)",
    )
    .await;
    refused(&|r| r.node = Some("n9".into()), kinds::NO_NODE, "n9").await;
    refused(&|r| r.image = "nothing".into(), kinds::NOT_FOUND, "nothing").await;
    refused(
        &|r| r.limits.cpus = Some(-1.0),
        kinds::SANDBOX_REFUSED,
        "cpus",
    )
    .await;
    let all: Vec<Sandbox> = api.get("/v1/sandboxes").await;
    assert!(all.len() == 9 && all[0].id > all[1].id);
    let of: Vec<Sandbox> = api.get("/v1/sandboxes?node=eu").await;
    assert_eq!(of.len(), 2);
    let of: Vec<Sandbox> = api.get("/v1/sandboxes?image=base:v1").await;
    assert_eq!(of.len(), 1);
}

#[tokio::test]
async fn mounted_files_are_asked_for() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let file = Digest::of(b"file");
    let inner = Digest::of(b"inner");
    let tree = json!([{"path": "a", "type": "file", "digest": inner, "mode": "0644"}]);
    let tree = tree.to_string().into_bytes();
    let dir = Digest::of(&tree);
    let mut request = request(&image);
    let mounts = json!([
        {"dest": "/app/f", "source": {"type": "file", "digest": file}},
        {"dest": "/app/d", "source": {"type": "dir", "digest": dir}},
    ]);
    request.mounts = serde_json::from_value(mounts).unwrap();
    let needs = async |request: &SandboxRequest| match api.post("/v1/sandboxes", request).await {
        SandboxReply::NeedsBlobs(list) => list.digests,
        other => panic!("{other:?}"),
    };
    let mut expect = vec![file, dir];
    expect.sort();
    assert_eq!(needs(&request).await, expect);
    api.blobs.put(&tree).unwrap();
    let mut expect = vec![file, inner];
    expect.sort();
    assert_eq!(needs(&request).await, expect);
    api.blobs.put(b"file").unwrap();
    api.blobs.put(b"inner").unwrap();
    start(&api, &request).await;
    assert_eq!(node.sandbox().await.1.mounts, request.mounts);
}

#[tokio::test]
async fn records_follow_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.nodes.lost_after = Duration::from_secs(8);
    let api = Api::start(settings.clone()).await;
    let image = api.image("x").await;
    let node = Agent::new(&api, "n").await;
    let beats = node.beats();
    let until_state = async |api: &Api, id: &str, state: SandboxState| {
        until(async || {
            let sandbox: Sandbox = api.get(&format!("/v1/sandboxes/{id}")).await;
            (sandbox.state == state).then_some(sandbox)
        })
        .await
    };
    let ended = start(&api, &request(&image)).await.id;
    node.says(&ended, SandboxState::Running).await;
    node.says(&ended, SandboxState::Exited).await;
    let sandbox = until_state(&api, &ended, SandboxState::Exited).await;
    assert_eq!(
        (sandbox.exit_code, sandbox.args),
        (Some(3), vec!["/bin/true".to_owned()])
    );
    let (runs, forgotten, lost) = (
        start(&api, &request(&image)).await.id,
        start(&api, &request(&image)).await.id,
        start(&api, &request(&image)).await.id,
    );
    node.says(&runs, SandboxState::Running).await;
    until_state(&api, &runs, SandboxState::Running).await;
    drop(beats);
    let mut joined = node.kill();
    api.running.shutdown().await;

    // The service is another one, and the node was killed and has lost one of its sandboxes.
    let api = Api::start(settings.clone()).await;
    joined.epoch = "2".into();
    joined.sandboxes = vec![
        report(&runs, SandboxState::Running),
        report(&lost, SandboxState::Lost),
        report("nobody-knows-it", SandboxState::Running),
    ];
    let mut node = joined.connect(&api).await;
    let beats = node.beats();
    let (_, ask) = node.ask().await;
    assert!(matches!(ask, Ask::Remove { sandbox } if sandbox == "nobody-knows-it"));
    until_state(&api, &lost, SandboxState::Lost).await;
    let sandbox = until_state(&api, &forgotten, SandboxState::Lost).await;
    assert_eq!(sandbox.error.unwrap().kind, kinds::NODE_LOST);
    until_state(&api, &runs, SandboxState::Running).await;
    let living: Vec<Sandbox> = api.get("/v1/sandboxes").await;
    assert_eq!(living.len(), 1);
    let all: Vec<Sandbox> = api.get("/v1/sandboxes?all=true").await;
    assert_eq!(all.len(), 4);

    // A node that goes away takes its sandboxes along, and brings them back.
    drop(beats);
    let joined = node.kill();
    until_state(&api, &runs, SandboxState::Lost).await;
    let node = joined.connect(&api).await;
    let sandbox = until_state(&api, &runs, SandboxState::Running).await;
    assert_eq!((&sandbox.error, &sandbox.finished), (&None, &None));
    api.delete("/v1/nodes/n").await;
    // What it says in its last moments brings nothing back.
    node.says(&runs, SandboxState::Running).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sandbox = until_state(&api, &runs, SandboxState::Lost).await;
    assert!(sandbox.error.unwrap().detail.contains("removed"));
}

#[tokio::test]
async fn output_is_passed_on_and_resumed() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let id = start(&api, &request(&image)).await.id;
    node.sandbox().await;
    node.says(&id, SandboxState::Running).await;
    let path = format!(
        "/v1/sandboxes/{}/processes/main/output",
        &id[..id.len() - 2]
    );

    let client = tokio::spawn(api.request(Method::GET, &path).send());
    let (ticket, after) = node.follow().await;
    assert_eq!(after, 0);
    // Only the node that the ticket was given to may use it.
    let other = Agent::new(&api, "other").await;
    let (_, refused) = other.stream(&ticket);
    assert_eq!(refused.await.unwrap(), 404);
    let (send, sent) = node.stream(&ticket);
    let both = [&output(1, "a")[..], &output(2, "b")[..]].concat();
    send.send(Ok(both[..30].to_vec().into())).await.unwrap();
    send.send(Ok(both[30..].to_vec().into())).await.unwrap();
    let mut response = client.await.unwrap().unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while !text.contains("id: 2") {
        let chunk = response.chunk().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let got = events::<OutputEvent>(&text);
    assert_eq!(got.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2]);
    // The client goes away, and the node is told.
    drop(response);
    assert_eq!(sent.await.unwrap(), 200);

    // And comes back.
    let again = api.request(Method::GET, &path).header("last-event-id", "2");
    let client = tokio::spawn(again.send());
    let (ticket, after) = node.follow().await;
    assert_eq!(after, 2);
    let (send, sent) = node.stream(&ticket);
    send.send(Ok(exited(3))).await.unwrap();
    drop(send);
    assert_eq!(sent.await.unwrap(), 200);
    let text = client.await.unwrap().unwrap().text().await.unwrap();
    let got = events::<OutputEvent>(&text);
    assert!(matches!(
        got[..],
        [(
            3,
            OutputEvent {
                kind: OutputEventKind::Exited { code: 3, .. },
                ..
            }
        )]
    ));

    // A node that sends something else is refused.
    let client = tokio::spawn(api.request(Method::GET, &path).send());
    let (ticket, _) = node.follow().await;
    let (send, sent) = node.stream(&ticket);
    send.send(Ok(Bytes::from_static(b"{\"no\":1}\n")))
        .await
        .unwrap();
    assert_eq!(sent.await.unwrap(), 400);
    let text = client.await.unwrap().unwrap().text().await.unwrap();
    assert!(events::<OutputEvent>(&text).is_empty());

    // What the node says of a process it does not know, and that it is gone.
    let client = tokio::spawn(problem(
        api.request(Method::GET, &path.replace("main", "x1")),
    ));
    let (request, _) = node.ask().await;
    let error = json!({"type": kinds::NOT_FOUND, "title": "no such process", "status": 404});
    node.report(&Report::Answer {
        request,
        value: None,
        error: Some(serde_json::from_value(error).unwrap()),
    })
    .await;
    assert_eq!(client.await.unwrap().title, "no such process");
    node.kill();
    api.until_node("n", NodeState::Lost).await;
    let lost = problem(api.request(Method::GET, &path)).await;
    assert_eq!(lost.kind, kinds::NODE_LOST);
}

#[tokio::test]
async fn a_slow_client_holds_up_its_stream_only() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let id = start(&api, &request(&image)).await.id;
    let path = format!("/v1/sandboxes/{id}/processes/main/output");
    let client = tokio::spawn(api.request(Method::GET, &path).send());
    node.sandbox().await;
    let (ticket, _) = node.follow().await;
    let (send, _sent) = node.stream(&ticket);
    let response = client.await.unwrap().unwrap();
    // Nobody reads: after what fits into buffers the node can send no more.
    let big = "x".repeat(1 << 20);
    let mut taken = 0;
    let pause = Duration::from_millis(500);
    while tokio::time::timeout(pause, send.send(Ok(output(taken + 1, &big))))
        .await
        .is_ok()
    {
        taken += 1;
        assert!(taken < 200, "nothing holds the node up");
    }
    // Its session, and another stream on the same connection, go on.
    node.says(&id, SandboxState::Running).await;
    until(async || {
        let sandbox: Sandbox = api.get(&format!("/v1/sandboxes/{id}")).await;
        (sandbox.state == SandboxState::Running).then_some(())
    })
    .await;
    let client = tokio::spawn(api.request(Method::GET, &path).send());
    let (ticket, _) = node.follow().await;
    let (other, _other) = node.stream(&ticket);
    other.send(Ok(exited(1))).await.unwrap();
    drop(other);
    let text = client.await.unwrap().unwrap().text().await.unwrap();
    assert_eq!(events::<OutputEvent>(&text).len(), 1);
    // And the slow one gets all of it, when it reads.
    let mut read = response.bytes_stream();
    let mut bytes = 0;
    while bytes < usize::try_from(taken).unwrap() << 20 {
        bytes += read.next().await.unwrap().unwrap().len();
    }
}

#[tokio::test]
async fn what_clients_want_is_passed_on() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let id = start(&api, &request(&image)).await.id;
    node.sandbox().await;
    node.says(&id, SandboxState::Running).await;
    let base = format!("/v1/sandboxes/{id}");
    let empty = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 204, "{:?}", response.text().await);
    };
    let clients = async {
        let exec: SandboxProcess = api
            .post(&format!("{base}/exec"), json!({"args": ["sh"]}))
            .await;
        let process = format!("{base}/processes/{}", exec.process);
        let input = api.request(Method::POST, &format!("{process}/input?close=true"));
        empty(input.body(vec![b'y'; 100_000])).await;
        let resize = api.request(Method::POST, &format!("{process}/resize"));
        empty(resize.json(&json!({"rows": 5, "cols": 7}))).await;
        let signal = api.request(Method::POST, &format!("{process}/signal"));
        empty(signal.json(&json!({"signal": "HUP"}))).await;
        let lives = problem(api.request(Method::DELETE, &base)).await;
        assert_eq!(lives.status, 409);
        let stopped: Sandbox = api
            .post(&format!("{base}/stop"), json!({"grace_seconds": 1.5}))
            .await;
        assert_eq!(stopped.state, SandboxState::Exited);
        let over = api.request(Method::POST, &format!("{base}/exec"));
        let over = problem(over.json(&json!({"args": ["sh"]}))).await;
        assert_eq!(over.kind, kinds::NOT_RUNNING);
        empty(api.request(Method::DELETE, &base)).await;
        let gone = problem(api.request(Method::GET, &base)).await;
        assert_eq!(gone.kind, kinds::NOT_FOUND);
    };
    let answers = async {
        let (request, ask) = node.ask().await;
        let Ask::Exec { process, exec, .. } = ask else {
            panic!("{ask:?}");
        };
        assert_eq!(exec.args, ["sh"]);
        node.answer(request, json!({"sandbox": id, "process": process}))
            .await;
        let (mut taken, mut closed) = (0, false);
        while !closed {
            let (request, ask) = node.ask().await;
            let Ask::Input { data, close, .. } = ask else {
                panic!("{ask:?}");
            };
            let data = base64::engine::general_purpose::STANDARD.decode(data);
            taken += data.unwrap().len();
            closed = close;
            node.answer(request, json!(null)).await;
        }
        assert_eq!(taken, 100_000);
        let (request, ask) = node.ask().await;
        assert!(matches!(ask, Ask::Resize { size, .. } if size.rows == 5 && size.cols == 7));
        node.answer(request, json!(null)).await;
        let (request, ask) = node.ask().await;
        assert!(matches!(ask, Ask::Signal { signal, .. } if signal == "HUP"));
        node.answer(request, json!(null)).await;
        let (request, ask) = node.ask().await;
        assert!(
            matches!(
                ask,
                Ask::Stop {
                    grace_seconds: 1.5,
                    reason: SandboxEnd::Stopped,
                    ..
                }
            ),
            "{ask:?}"
        );
        node.answer(request, json!(null)).await;
        node.says(&id, SandboxState::Exited).await;
        let (request, ask) = node.ask().await;
        assert!(matches!(ask, Ask::Remove { .. }));
        node.answer(request, json!(null)).await;
    };
    tokio::join!(clients, answers);
}

#[tokio::test]
async fn a_sandbox_that_nobody_follows_any_more_is_stopped() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let mut wanted = request(&image);
    wanted.stop_on_disconnect = true;
    let id = start(&api, &wanted).await.id;
    let path = format!("/v1/sandboxes/{id}/processes/main/output");
    let client = tokio::spawn(api.request(Method::GET, &path).send());
    let (ticket, _) = node.follow().await;
    let (_send, _sent) = node.stream(&ticket);
    let response = client.await.unwrap().unwrap();
    assert!(!node.is_told().await);
    drop(response);
    let (request, ask) = node.ask().await;
    assert!(
        matches!(
            ask,
            Ask::Stop {
                reason: SandboxEnd::Disconnected,
                ..
            }
        ),
        "{ask:?}"
    );
    node.answer(request, json!(null)).await;
    node.says(&id, SandboxState::Exited).await;
    until(async || {
        let living: Vec<Sandbox> = api.get("/v1/sandboxes").await;
        living.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_oldest_ended_sandboxes_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.sandboxes.keep = 1;
    let api = Api::start(settings).await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let living = start(&api, &request(&image)).await.id;
    let first = start(&api, &request(&image)).await.id;
    let second = start(&api, &request(&image)).await.id;
    node.says(&first, SandboxState::Exited).await;
    node.says(&second, SandboxState::Exited).await;
    let (_, ask) = node.ask().await;
    assert!(matches!(ask, Ask::Remove { sandbox } if sandbox == first));
    let all: Vec<Sandbox> = api.get("/v1/sandboxes?all=true").await;
    let all: Vec<_> = all.into_iter().map(|s| s.id).collect();
    assert_eq!(all, [second, living]);
    let many = problem(api.request(Method::GET, "/v1/sandboxes/0")).await;
    assert_eq!(many.kind, kinds::AMBIGUOUS);
    let _: Sandbox = ok(api.request(Method::GET, &format!("/v1/sandboxes/{}", all[0]))).await;
}
