//! Joining, and what the tokens are good for.

use chalk_core::wire::agent::{Order, Registered};
use chalk_core::wire::{JoinToken, MountSource, SandboxMount, SandboxRequest, problem as kinds};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::agent::{Agent, Joined, h2};
use crate::service::{Api, ok, problem, settings};

#[tokio::test]
async fn who_may_join() {
    let (api, _dir) = Api::fresh().await;
    let once = api.join_token(json!({"uses": 1, "region": "eu"})).await;
    let brief = api.join_token(json!({"ttl_seconds": 1})).await;
    let any = api.join_token(json!({})).await;
    let register = |token: &JoinToken, body: serde_json::Value| {
        let token = token.token.clone().unwrap();
        api.as_who(&token, Method::POST, "/v1/agent/register")
            .json(&body)
    };
    let node = |name: &str| json!({"name": name, "version": "1"});

    let wrong = problem(register(
        &once,
        json!({"name": "a", "version": "1", "region": "us"}),
    ))
    .await;
    assert_eq!(wrong.kind, kinds::FORBIDDEN);
    assert!(wrong.detail.contains("`eu`") && wrong.detail.contains("`us`"));
    let joined: Registered = ok(register(&once, node("a"))).await;
    assert_eq!(joined.region, "eu");
    let used_up = problem(register(&once, node("b"))).await;
    assert_eq!(used_up.status, 403);

    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(problem(register(&brief, node("b"))).await.status, 403);

    for bad in ["", "A", "a/b", "..", "a b"] {
        let wrong = problem(register(&any, node(bad))).await;
        assert_eq!(wrong.kind, kinds::BAD_REQUEST, "{bad}");
    }
    let b: Registered = ok(register(&any, node("b"))).await;
    assert_eq!(b.region, "local");
    // A name is free again while its node is not connected.
    let again: Registered = ok(register(&any, node("b"))).await;
    assert!(again.token != b.token);
    // But not from another region.
    let us = api.join_token(json!({"region": "us"})).await;
    for body in [node("a"), node("b")] {
        let taken = problem(register(&us, body)).await;
        assert_eq!((taken.status, &*taken.kind), (403, kinds::FORBIDDEN));
    }
    let old = api.as_who(&b.token, Method::GET, "/v2/");
    assert_eq!(old.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let c = Agent::new(&api, "c").await;
    let taken = problem(register(&any, node("c"))).await;
    assert_eq!((taken.status, &*taken.kind), (409, kinds::NAME_TAKEN));
    drop(c);

    // The used up and the expired are gone; texts of tokens are told once only.
    let left: Vec<JoinToken> = api.get("/v1/join-tokens").await;
    let left: Vec<_> = left.into_iter().filter(|join| join.id != us.id).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].id.clone(), &left[0].token),
        (any.id.clone(), &None)
    );
    api.delete(&format!("/v1/join-tokens/{}", any.id)).await;
    let response = register(&any, node("d")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let bad = api.request(Method::POST, "/v1/join-tokens");
    assert_eq!(problem(bad.json(&json!({"uses": 0}))).await.status, 400);
}

#[tokio::test]
async fn tokens_survive_a_restart_and_stand_nowhere_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let join = api.join_token(json!({"uses": 2})).await;
    let node = Joined::new(&api, "n", None).await;
    api.running.shutdown().await;
    let texts = [join.token.clone().unwrap(), node.token.clone()];
    let bytes = std::fs::read(dir.path().join("nodes.redb")).unwrap();
    for text in &texts {
        let found = bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes());
        assert!(!found);
    }
    let api = Api::start(settings(dir.path())).await;
    let joined: Registered = ok(api
        .as_who(&texts[0], Method::POST, "/v1/agent/register")
        .json(&json!({"name": "m", "version": "1"})))
    .await;
    assert_eq!(joined.name, "m");
    node.connect(&api).await;
}

#[tokio::test]
async fn a_node_may_do_little() {
    let (api, _dir) = Api::fresh().await;
    let node = Joined::new(&api, "n", None).await;
    let image = api.image("x").await;
    let status = async |method: Method, path: &str| {
        let sent = api.as_who(&node.token, method, path).send().await.unwrap();
        sent.status().as_u16()
    };
    let check = async |method: Method, path: &str, expect: u16| {
        assert_eq!(
            status(method.clone(), path).await,
            expect,
            "{method} {path}"
        );
    };
    let manifest = format!("/v2/chalk/images/manifests/{}", image.digest);
    check(Method::GET, "/v2/", 200).await;
    // It was not told to have it.
    check(Method::GET, &manifest, 404).await;
    check(Method::GET, &format!("/v1/blobs/{}", image.hash), 404).await;
    check(Method::DELETE, &manifest, 403).await;
    check(Method::POST, "/v2/chalk/images/blobs/uploads/", 403).await;
    check(Method::GET, "/v1/nodes", 403).await;
    check(Method::DELETE, "/v1/nodes/n", 403).await;
    check(Method::POST, "/v1/join-tokens", 403).await;
    check(Method::POST, "/v1/agent/register", 403).await;
    check(Method::PUT, &format!("/v1/blobs/{}", image.digest), 403).await;
    check(Method::GET, "/v1/openapi.json", 403).await;
    // As the password of any user, for the registry only.
    let url = format!("{}/v2/", api.url());
    let basic = h2().get(url).basic_auth("any", Some(&node.token));
    assert_eq!(basic.send().await.unwrap().status(), StatusCode::OK);
    let nodes = h2().get(format!("{}/v1/nodes", api.url()));
    let nodes = nodes.basic_auth("any", Some(&node.token));
    assert_eq!(nodes.send().await.unwrap().status(), 401);

    // What it is told to have it gets, and what that is made of, and nothing else.
    let mut agent = node.clone().connect(&api).await;
    let blob = api.blobs.put(b"hello").unwrap();
    let path = format!("/v1/blobs/{}", blob.digest);
    check(Method::GET, &path, 404).await;
    let start = SandboxRequest {
        image: image.hash.to_string(),
        mounts: vec![SandboxMount {
            dest: "/x".to_owned(),
            source: MountSource::File {
                digest: blob.digest,
                executable: false,
            },
            writable: false,
        }],
        ..SandboxRequest::default()
    };
    let _: serde_json::Value = api.post("/v1/sandboxes", &start).await;
    let started = |order| matches!(order, Order::StartSandbox { .. }).then_some(());
    agent.wait(started).await;
    check(Method::GET, &manifest, 200).await;
    check(Method::HEAD, &manifest, 200).await;
    let found = api.as_who(&node.token, Method::GET, &manifest).send().await;
    let found: serde_json::Value = found.unwrap().json().await.unwrap();
    let layer = found["layers"][0]["digest"].as_str().unwrap();
    let other = api.image("y").await;
    for (path, expect) in [
        (format!("/v2/chalk/images/blobs/{layer}"), 200),
        (format!("/v2/chalk/images/blobs/{}", blob.digest), 404),
        (
            format!("/v2/chalk/images/manifests/{}", image.hash.hex()),
            404,
        ),
        (format!("/v2/chalk/images/manifests/{}", other.digest), 404),
        ("/v2/chalk/images/tags/list".to_owned(), 404),
        (format!("/v2/other/manifests/{}", image.digest), 404),
        (format!("/v1/blobs/{layer}"), 404),
    ] {
        check(Method::GET, &path, expect).await;
    }
    let got = api
        .as_who(&node.token, Method::GET, &path)
        .send()
        .await
        .unwrap();
    assert_eq!(got.headers()["content-length"], "5");
    assert_eq!(got.bytes().await.unwrap(), "hello");

    // Others have no sessions; and no session goes over HTTP/1.1.
    let session = "/v1/agent/session";
    assert_eq!(
        problem(api.request(Method::POST, session)).await.kind,
        kinds::FORBIDDEN
    );
    let refused = problem(api.as_who(&node.token, Method::POST, session)).await;
    assert!(refused.title.contains("HTTP/2"), "{refused:?}");
}

#[tokio::test]
async fn a_removed_node_is_told_so_and_comes_back_by_a_new_token_only() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let before = api.join_token(json!({})).await;
    let register = |api: &Api, token: &JoinToken, name: &str| {
        let token = token.token.clone().unwrap();
        api.as_who(&token, Method::POST, "/v1/agent/register")
            .json(&json!({"name": name, "version": "1"}))
    };
    let away: Registered = ok(register(&api, &before, "n")).await;
    api.delete("/v1/nodes/n").await;
    api.running.shutdown().await;

    let api = Api::start(settings(dir.path())).await;
    let session = "/v1/agent/session";
    let removed = problem(api.as_who(&away.token, Method::POST, session)).await;
    assert_eq!((removed.status, &*removed.kind), (401, kinds::NODE_REMOVED));
    let pull = api.as_who(&away.token, Method::GET, "/v2/");
    assert_eq!(pull.send().await.unwrap().status(), 401);
    let refused = problem(register(&api, &before, "n")).await;
    assert_eq!((refused.status, &*refused.kind), (403, kinds::NODE_REMOVED));
    let _: Registered = ok(register(&api, &before, "other")).await;

    let since = api.join_token(json!({})).await;
    let back: Registered = ok(register(&api, &since, "n")).await;
    let pull = api.as_who(&back.token, Method::GET, "/v2/");
    assert_eq!(pull.send().await.unwrap().status(), 200);
    // The machine of before is another one.
    let removed = problem(api.as_who(&away.token, Method::POST, session)).await;
    assert_eq!(removed.kind, kinds::NODE_REMOVED);
}

#[tokio::test]
async fn a_session_that_was_opened_before_another_machine_joined_is_not_that_machine() {
    let (api, _dir) = Api::fresh().await;
    let old = Joined::new(&api, "n", None).await;
    let (reports, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(4);
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = h2().post(format!("{}/v1/agent/session", api.url()));
    let session = request
        .bearer_auth(&old.token)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(session.status(), StatusCode::OK);
    let new = Joined::new(&api, "n", None).await;
    let hello = json!({"report": "hello", "version": "1", "epoch": "1",
        "usage": chalk_core::wire::CacheUsage::default()});
    let line = format!("{hello}\n");
    reports.send(Ok(line.into())).await.unwrap();
    assert_eq!(session.text().await.unwrap_or_default(), "");
    new.connect(&api).await;
}
