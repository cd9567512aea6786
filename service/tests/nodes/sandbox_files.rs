//! Names of sandboxes, and files on their way into and out of them.

use std::time::Duration;

use bytes::Bytes;
use chalk_core::wire::agent::{Ask, FileAnswer, FileFailure};
use chalk_core::wire::{
    FileWritten, ProcessStatus, Sandbox, SandboxReply, SandboxState, problem as kinds,
};
use reqwest::{Body, Method, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::Agent;
use crate::sandboxes::{request, start};
use crate::service::{Api, problem, until};

type Pieces = mpsc::Sender<Result<Bytes, std::io::Error>>;

/// A body that is sent piece by piece.
fn pieces() -> (Pieces, Body) {
    let (send, body) = mpsc::channel(1);
    (send, Body::wrap_stream(ReceiverStream::new(body)))
}

impl Agent {
    fn file_url(&self, ticket: &str) -> String {
        format!("{}/v1/agent/files/{ticket}", self.joined.url)
    }

    /// Sends a file.
    fn send_file(&self, ticket: &str, body: Body) -> JoinHandle<StatusCode> {
        let request = self.http.post(self.file_url(ticket));
        let request = request.bearer_auth(&self.joined.token).body(body);
        tokio::spawn(async move { request.send().await.unwrap().status() })
    }

    async fn answers_file(&self, request: u64, answer: FileAnswer) {
        self.answer(request, serde_json::to_value(answer).unwrap())
            .await;
    }
}

fn failed(errno: i32) -> FileAnswer {
    FileAnswer::Failed(FileFailure {
        errno,
        detail: "cannot read /f".into(),
    })
}

#[tokio::test]
async fn a_name_belongs_to_one_living_sandbox() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let node = Agent::new(&api, "n").await;
    let mut named = request(&image);
    named.name = Some("box".into());
    named.tags.insert("k".into(), "v".into());
    let first = start(&api, &named).await;
    assert_eq!(first.tags["k"], "v");
    let taken = problem(api.request(Method::POST, "/v1/sandboxes").json(&named)).await;
    assert_eq!((&*taken.kind, taken.status), (kinds::NAME_TAKEN, 409));
    assert!(taken.detail.contains(&first.id), "{taken:?}");
    let found: Sandbox = api.get("/v1/sandboxes/box").await;
    assert_eq!(found.id, first.id);
    let all: Vec<Sandbox> = api.get("/v1/sandboxes?all=true").await;
    assert_eq!(all.len(), 1);

    // Only the living count.
    node.says(&first.id, SandboxState::Exited).await;
    let second = until(async || {
        let sent = api.request(Method::POST, "/v1/sandboxes").json(&named);
        let response = sent.send().await.unwrap();
        match response.json().await {
            Ok(SandboxReply::Accepted(sandbox)) => Some(*sandbox),
            _ => None,
        }
    })
    .await;
    let found: Sandbox = api.get("/v1/sandboxes/box").await;
    assert_eq!(found.id, second.id);
    named.name = Some("Box".into());
    let refused = problem(api.request(Method::POST, "/v1/sandboxes").json(&named)).await;
    assert_eq!(refused.kind, kinds::SANDBOX_REFUSED);
}

#[tokio::test]
async fn files_come_out_as_they_are_read() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let id = start(&api, &request(&image)).await.id;
    node.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/files?path=%2Fa%0Ab");
    let asked = async |node: &mut Agent| match node.ask().await {
        (request, Ask::ReadFile { ticket, path, .. }) => {
            assert_eq!(path, "/a\nb");
            (request, ticket)
        }
        (_, other) => panic!("{other:?}"),
    };

    let client = tokio::spawn(api.request(Method::GET, &path).send());
    let (request, ticket) = asked(&mut node).await;
    node.answers_file(request, FileAnswer::Open).await;
    let other = Agent::new(&api, "other").await;
    let stolen = other.send_file(&ticket, Body::from("not theirs")).await;
    assert_eq!(stolen.unwrap(), 404);
    let (send, body) = pieces();
    let sent = node.send_file(&ticket, body);
    send.send(Ok(Bytes::from_static(b"one "))).await.unwrap();
    let mut response = client.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    // It comes before its end is known.
    assert_eq!(response.chunk().await.unwrap().unwrap(), "one ");
    send.send(Ok(Bytes::from_static(b"two"))).await.unwrap();
    drop(send);
    assert_eq!(response.text().await.unwrap(), "two");
    assert_eq!(sent.await.unwrap(), 200);

    // One that breaks off is not taken for a short one.
    let client = tokio::spawn(api.request(Method::GET, &path).send());
    let (request, ticket) = asked(&mut node).await;
    node.answers_file(request, FileAnswer::Open).await;
    let (send, body) = pieces();
    let url = node.file_url(&ticket);
    let broken = node.http.post(url).bearer_auth(&node.joined.token);
    let broken = tokio::spawn(broken.body(body).send());
    send.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    let response = client.await.unwrap().unwrap();
    send.send(Err(std::io::Error::other("the disk broke")))
        .await
        .unwrap();
    response.bytes().await.unwrap_err();
    drop(broken);

    for (errno, status, kind) in [
        (2, 404, kinds::NOT_FOUND),
        (13, 403, kinds::FILE_FAILED),
        (21, 409, kinds::FILE_FAILED),
        (40, 400, kinds::FILE_FAILED),
        (28, 507, kinds::FILE_FAILED),
    ] {
        let client = tokio::spawn(problem(api.request(Method::GET, &path)));
        let (request, _) = asked(&mut node).await;
        node.answers_file(request, failed(errno)).await;
        let problem = client.await.unwrap();
        assert_eq!((&*problem.kind, problem.status), (kind, status));
        assert_eq!(problem.detail, "cannot read /f");
    }

    let client = tokio::spawn(
        api.request(Method::GET, &format!("/v1/sandboxes/{id}/processes"))
            .send(),
    );
    let (request, ask) = node.ask().await;
    assert!(matches!(ask, Ask::Processes { sandbox } if sandbox == id));
    node.answer(request, json!([{"process": "x1", "args": ["true"]}]))
        .await;
    let processes: Vec<ProcessStatus> = client.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!((&*processes[0].process, &processes[0].end), ("x1", &None));

    // What does not run has no files.
    node.says(&id, SandboxState::Exited).await;
    until(async || {
        let sandbox: Sandbox = api.get(&format!("/v1/sandboxes/{id}")).await;
        sandbox.state.is_final().then_some(())
    })
    .await;
    let over = problem(api.request(Method::GET, &path)).await;
    assert_eq!(over.kind, kinds::NOT_RUNNING);
}

#[tokio::test]
async fn files_go_in_and_are_told_when_they_break_off() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let id = start(&api, &request(&image)).await.id;
    node.sandbox().await;
    let path = format!("/v1/sandboxes/{id}/files?path=f&mode=755");
    let asked = async |node: &mut Agent| match node.ask().await {
        (
            request,
            Ask::WriteFile {
                ticket, path, mode, ..
            },
        ) => {
            assert_eq!((&*path, mode), ("f", Some(0o755)));
            (request, ticket)
        }
        (_, other) => panic!("{other:?}"),
    };
    let take = |node: &Agent, ticket: &str| {
        let request = node.http.get(node.file_url(ticket));
        request.bearer_auth(&node.joined.token).send()
    };

    let (send, body) = pieces();
    let client = tokio::spawn(api.request(Method::PUT, &path).body(body).send());
    let (request, ticket) = asked(&mut node).await;
    // The other direction does nothing with it.
    let wrong = node.send_file(&ticket, Body::from("x")).await.unwrap();
    assert_eq!(wrong, 400);
    drop((send, client));

    let (send, body) = pieces();
    let client = tokio::spawn(api.request(Method::PUT, &path).body(body).send());
    let (request_2, ticket) = asked(&mut node).await;
    assert!(request_2 > request);
    let mut taken = take(&node, &ticket).await.unwrap();
    send.send(Ok(Bytes::from_static(b"one "))).await.unwrap();
    assert_eq!(taken.chunk().await.unwrap().unwrap(), "one ");
    send.send(Ok(Bytes::from_static(b"two"))).await.unwrap();
    drop(send);
    assert_eq!(taken.text().await.unwrap(), "two");
    node.answers_file(request_2, FileAnswer::Written { bytes: 7 })
        .await;
    let written: FileWritten = client.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(written.bytes, 7);

    let (send, body) = pieces();
    let client = tokio::spawn(api.request(Method::PUT, &path).body(body).send());
    let (_, ticket) = asked(&mut node).await;
    let mut taken = take(&node, &ticket).await.unwrap();
    send.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    assert_eq!(taken.chunk().await.unwrap().unwrap(), "half");
    send.send(Err(std::io::Error::other("the client broke")))
        .await
        .unwrap();
    // Not the end of the file.
    taken.chunk().await.unwrap_err();
    drop(client);

    // A node that goes away is told to the client.
    let (_send, body) = pieces();
    let client = tokio::spawn(problem(api.request(Method::PUT, &path).body(body)));
    asked(&mut node).await;
    node.kill();
    let lost = tokio::time::timeout(Duration::from_secs(30), client).await;
    assert_eq!(lost.unwrap().unwrap().kind, kinds::NODE_LOST);

    for wrong in ["8", "10000", "x", "-1", ""] {
        let path = format!("/v1/sandboxes/{id}/files?path=f&mode={wrong}");
        let refused = problem(api.request(Method::PUT, &path).body("x")).await;
        assert_eq!(refused.kind, kinds::BAD_REQUEST, "{wrong}");
    }
}
