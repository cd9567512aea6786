//! Warms: waves and chains, failures, lost nodes, restarts.

use std::time::Duration;

use chalk_core::wire::agent::{Order, Report};
use chalk_core::wire::{
    CacheUsage, Node, Warm, WarmEvent, WarmEventKind, WarmRequest, WarmState, WarmStatus,
    problem as kinds,
};
use reqwest::Method;
use serde_json::json;

use crate::agent::{Agent, Joined};
use crate::service::{Api, events, everywhere, ok, problem, settings, until};

/// Node and state of each target.
fn states(warm: &Warm) -> Vec<(&str, WarmState)> {
    let targets = warm.nodes.iter();
    targets.map(|t| (t.node.as_str(), t.state)).collect()
}

async fn serving(api: &Api, names: &[&str]) -> Vec<Agent> {
    let mut agents = Vec::new();
    for name in names {
        let joined = Joined::new(api, name, None).await.serving();
        agents.push(joined.connect(api).await);
    }
    agents
}

/// Waits until the service has heard all that a node said, and then that so many sandboxes run.
async fn heard(api: &Api, node: &Agent, sandboxes: usize) {
    let usage = CacheUsage::default();
    node.report(&Report::Heartbeat { usage, sandboxes }).await;
    until(async || {
        let node = api.node(&node.joined.name).await;
        (node.sandboxes == sandboxes).then_some(())
    })
    .await;
}

#[tokio::test]
async fn chains_grow_and_events_are_resumed() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut nodes = serving(&api, &["a", "b", "c"]).await;
    let warm = api.warm(&everywhere(&image)).await;
    assert_eq!(warm.status, WarmStatus::Running);
    assert_eq!(warm.nodes.len(), 3);

    // One from the registry, the next from the one before when that one pulls.
    let (id_a, at, pin) = nodes[0].warm().await;
    assert!(at.peers.is_empty() && at.node_login && pin.is_none());
    assert_eq!(at.registry, api.running.addr.to_string());
    assert_eq!(at.repository, "chalk/images");
    assert_eq!((at.digest, at.image_hash), (image.digest, Some(image.hash)));
    assert!(!nodes[1].is_told().await && !nodes[2].is_told().await);
    nodes[0].pulling(&id_a, 10, 100).await;
    let (id_b, at_b, _) = nodes[1].warm().await;
    assert_eq!(at_b.peers, ["http://a.example:1"]);
    assert!(!nodes[2].is_told().await);
    nodes[0].warmed(&id_a, &at, 100, 0).await;
    // Each node has a connection of its own: what they say may come in another order.
    until(async || {
        let warm: Warm = api.get(&format!("/v1/warms/{}", warm.id)).await;
        (warm.nodes[0].state == WarmState::Ready).then_some(())
    })
    .await;
    nodes[1].pulling(&id_b, 1, 100).await;
    let (id_c, at_c, _) = nodes[2].warm().await;
    assert_eq!(at_c.peers, ["http://b.example:1", "http://a.example:1"]);
    nodes[1].warmed(&id_b, &at_b, 60, 40).await;
    nodes[2].warmed(&id_c, &at_c, 0, 100).await;
    let warm = api.until_warm(&warm.id, WarmStatus::Ready).await;
    let b = &warm.nodes[1];
    assert_eq!(
        (b.bytes_fetched, b.bytes_present, b.verified),
        (60, 40, true)
    );
    assert_eq!((b.bytes_from_mirrors, b.digests_verified), (30, 4));
    assert_eq!((b.done, b.total, b.seconds), (100, 100, 0.5));
    assert!(warm.finished.is_some());

    let read = async |after: u64| {
        let path = format!("/v1/warms/{}/events?after={after}", warm.id);
        let text = api.request(Method::GET, &path).send().await.unwrap();
        events::<WarmEvent>(&text.text().await.unwrap())
    };
    let all = read(0).await;
    let (last, end) = all.last().unwrap().clone();
    match end.kind {
        WarmEventKind::Finished { warm: ended } => assert_eq!(*ended, warm),
        other => panic!("{other:?}"),
    }
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(read(last).await.is_empty());
    let rest = read(last - 1).await;
    assert_eq!(rest.len(), 1);

    // Once more: all have it, and are asked at once.
    let again = api.warm(&everywhere(&image)).await;
    for node in &mut nodes {
        let (id, at, _) = node.warm().await;
        node.warmed(&id, &at, 0, 100).await;
    }
    let again = api.until_warm(&again.id, WarmStatus::Ready).await;
    assert!(
        again
            .nodes
            .iter()
            .all(|t| t.bytes_present == 100 && t.verified)
    );
}

#[tokio::test]
async fn nobody_is_sent_to_a_node_whose_blobs_are_gone() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut nodes = serving(&api, &["a", "b", "c", "d"]).await;
    // What it says in a session counts in that order.
    let says = async |node: &Agent, revision: usize, kept: bool| {
        let first = revision == 1;
        node.reports_cache(revision as u64, first, &[image.digest], kept)
            .await;
        heard(&api, node, revision).await;
    };
    says(&nodes[0], 1, false).await;
    let warm = async |node: &str| {
        let request = WarmRequest {
            images: vec![image.hash.to_string()],
            nodes: vec![node.to_owned()],
            ..WarmRequest::default()
        };
        api.warm(&request).await
    };
    warm("b").await;
    let (id, at, _) = nodes[1].warm().await;
    assert!(at.peers.is_empty(), "{:?}", at.peers);
    // In the middle of a warm it has them again, and then others of that warm go to it.
    says(&nodes[0], 2, true).await;
    warm("c").await;
    let (_, at_c, _) = nodes[2].warm().await;
    assert_eq!(at_c.peers, ["http://a.example:1"]);
    // And away once more: the next one goes to whoever has them.
    says(&nodes[0], 3, false).await;
    nodes[1].warmed(&id, &at, 100, 0).await;
    heard(&api, &nodes[1], 1).await;
    warm("d").await;
    let (_, at_d, _) = nodes[3].warm().await;
    assert_eq!(at_d.peers, ["http://b.example:1"]);
}

#[tokio::test]
async fn events_are_told_while_they_happen() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let warm = api.warm(&everywhere(&image)).await;
    let path = format!("/v1/warms/{}/events", warm.id);
    let mut stream = api.request(Method::GET, &path).send().await.unwrap();
    let mut text = String::new();
    let mut read = async |until: &str| {
        while !text.contains(until) {
            let chunk = stream.chunk().await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    };
    read("\"queued\"").await;
    let (id, at, _) = node.warm().await;
    node.pulling(&id, 5, 10).await;
    read("\"type\":\"pulling\"").await;
    node.warm_failed(&id, 2).await;
    read("\"retries_left\":2").await;
    node.warmed(&id, &at, 10, 0).await;
    read("\"type\":\"finished\"").await;
    assert!(stream.chunk().await.unwrap().is_none());
}

#[tokio::test]
async fn nodes_without_mirrors_go_in_waves() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.warm.registry_pulls = 2;
    let api = Api::start(settings).await;
    let image = api.image("x").await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        nodes.push(Agent::new(&api, name).await);
    }
    let warm = api.warm(&everywhere(&image)).await;
    let first = nodes[0].warm().await;
    let second = nodes[1].warm().await;
    assert!(!nodes[2].is_told().await && !nodes[3].is_told().await);
    nodes[0].pulling(&first.0, 1, 2).await;
    assert!(!nodes[2].is_told().await);
    nodes[0].warmed(&first.0, &first.1, 2, 0).await;
    let third = nodes[2].warm().await;
    assert!(!nodes[3].is_told().await);
    // One that fails makes room, too.
    nodes[1].warm_failed(&second.0, 0).await;
    let fourth = nodes[3].warm().await;
    nodes[2].warmed(&third.0, &third.1, 2, 0).await;
    nodes[3].warmed(&fourth.0, &fourth.1, 2, 0).await;
    let warm = api.until_warm(&warm.id, WarmStatus::Partly).await;
    let failed = &warm.nodes[1];
    assert_eq!(failed.error.as_ref().unwrap().kind, kinds::DISK_FULL);
    assert_eq!(states(&warm)[1], ("b", WarmState::Failed));

    // Only what failed begins again.
    let path = format!("/v1/warms/{}/retry", warm.id);
    let again: Warm = api.post(&path, json!({})).await;
    assert_eq!(again.status, WarmStatus::Running);
    let (id, at, _) = nodes[1].warm().await;
    assert!(!nodes[0].is_told().await);
    nodes[1].warmed(&id, &at, 2, 0).await;
    api.until_warm(&warm.id, WarmStatus::Ready).await;
}

#[tokio::test]
async fn requests_that_cannot_be() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let refused = async |request: WarmRequest| {
        problem(api.request(Method::POST, "/v1/warms").json(&request)).await
    };
    let none = refused(everywhere(&image)).await;
    assert_eq!((none.kind.as_str(), none.status), (kinds::NO_NODE, 409));
    assert!(none.detail.contains("no nodes at all"), "{none:?}");
    let _eu = Joined::new(&api, "eu1", Some("eu"))
        .await
        .connect(&api)
        .await;
    let base = everywhere(&image);
    let check = async |change: &dyn Fn(&mut WarmRequest), kind: &str, words: &str| {
        let mut request = base.clone();
        change(&mut request);
        let problem = refused(request).await;
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(problem.detail.contains(words), "{problem:?}");
    };
    check(
        &|r| r.nodes = vec!["n9".into()],
        kinds::NO_NODE,
        "there are eu1 (eu, ready)",
    )
    .await;
    check(
        &|r| r.region = Some("us".into()),
        kinds::NO_NODE,
        "in region `us`",
    )
    .await;
    check(
        &|r| {
            r.labels.insert("gpu".into(), "yes".into());
        },
        kinds::NO_NODE,
        "with label gpu=yes",
    )
    .await;
    check(
        &|r| {
            r.all = true;
            r.region = Some("eu".into());
        },
        kinds::BAD_REQUEST,
        "all",
    )
    .await;
    check(&|r| r.images.clear(), kinds::BAD_REQUEST, "at least one").await;
    check(
        &|r| r.images.push("0123456789".into()),
        kinds::NOT_FOUND,
        "0123456789",
    )
    .await;
    check(
        &|r| r.timeout_seconds = Some(0),
        kinds::BAD_REQUEST,
        "timeout",
    )
    .await;
    // The same image twice is one.
    let mut twice = base.clone();
    twice.images.push(image.hash.hex());
    twice.labels.insert("name".into(), "eu1".into());
    let warm = api.warm(&twice).await;
    assert_eq!(warm.nodes.len(), 1);
    let unknown = problem(api.request(Method::GET, "/v1/warms/none")).await;
    assert_eq!(unknown.kind, kinds::NOT_FOUND);
    let listed: Vec<Warm> = api.get(&format!("/v1/warms?image={}", image.hash)).await;
    assert_eq!(listed, [warm]);
    let other = api.image("y").await;
    let listed: Vec<Warm> = api.get(&format!("/v1/warms?image={}", other.hash)).await;
    assert!(listed.is_empty());
}

#[tokio::test]
async fn a_lost_node_fails_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.nodes.lost_after = Duration::from_secs(8);
    let api = Api::start(settings).await;
    let image = api.image("x").await;
    let mut nodes = serving(&api, &["a", "b"]).await;
    let (_beats, beats_of_b) = (nodes[0].beats(), nodes[1].beats());
    let warm = api.warm(&everywhere(&image)).await;
    let (id, at, _) = nodes[0].warm().await;
    nodes[0].pulling(&id, 1, 9).await;
    let (id_b, _, _) = nodes[1].warm().await;
    nodes[1].pulling(&id_b, 1, 9).await;
    drop(beats_of_b);
    let lost = nodes.pop().unwrap().kill();
    nodes[0].warmed(&id, &at, 9, 0).await;
    let partly = api.until_warm(&warm.id, WarmStatus::Partly).await;
    let error = partly.nodes[1].error.clone().unwrap();
    assert_eq!(error.kind, kinds::NODE_LOST);

    // The service may end meanwhile; what was lost is not forgotten.
    let mut back = lost.connect(&api).await;
    let (id, at, _) = back.warm().await;
    assert_eq!(at.peers, ["http://a.example:1"]);
    let running: Warm = api.get(&format!("/v1/warms/{}", warm.id)).await;
    assert_eq!(running.status, WarmStatus::Running);
    back.warmed(&id, &at, 5, 4).await;
    let ready = api.until_warm(&warm.id, WarmStatus::Ready).await;
    assert_eq!(ready.nodes[1].bytes_fetched, 5);
}

#[tokio::test]
async fn a_short_break_costs_nothing() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let warm = api.warm(&everywhere(&image)).await;
    let (id, _, _) = node.warm().await;
    let joined = node.kill();
    api.until_node("n", chalk_core::wire::NodeState::Lost).await;
    let mut node = joined.connect(&api).await;
    let (again, at, _) = node.warm().await;
    // The same order: the node goes on with what it does.
    assert_eq!(again, id);
    node.warmed(&id, &at, 1, 0).await;
    api.until_warm(&warm.id, WarmStatus::Ready).await;
}

#[tokio::test]
async fn two_warms_of_one_image_share() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let first = api.warm(&everywhere(&image)).await;
    let (id, at, _) = node.warm().await;
    let second = api.warm(&everywhere(&image)).await;
    assert!(first.id != second.id && !node.is_told().await);
    node.pulling(&id, 1, 2).await;
    // One of them is given up, which takes nothing from the other.
    let cancelled: Warm = ok(api.request(Method::DELETE, &format!("/v1/warms/{}", first.id))).await;
    assert_eq!(cancelled.status, WarmStatus::Cancelled);
    assert!(!node.is_told().await);
    node.warmed(&id, &at, 2, 0).await;
    api.until_warm(&second.id, WarmStatus::Ready).await;

    let third = api.warm(&everywhere(&api.image("y").await)).await;
    let (id, ..) = node.warm().await;
    let cancelled: Warm = ok(api.request(Method::DELETE, &format!("/v1/warms/{}", third.id))).await;
    assert_eq!(
        cancelled.nodes[0].error.as_ref().unwrap().kind,
        kinds::CANCELLED
    );
    let order = node.wait(|order| match order {
        Order::CancelWarm { id } => Some(id),
        _ => None,
    });
    assert_eq!(order.await, id);
    // Reports that come too late change nothing.
    node.pulling(&id, 1, 2).await;
    let listed: Vec<Warm> = api.get("/v1/warms").await;
    let listed: Vec<_> = listed.iter().map(|w| w.status).collect();
    assert_eq!(
        listed,
        [
            WarmStatus::Cancelled,
            WarmStatus::Ready,
            WarmStatus::Cancelled
        ]
    );
}

#[tokio::test]
async fn what_takes_too_long_fails_and_pins_are_ordered() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let mut request = everywhere(&image);
    request.timeout_seconds = Some(1);
    request.pin = true;
    let warm = api.warm(&request).await;
    let (id, _, pin) = node.warm().await;
    assert_eq!(pin.as_deref(), Some("warm"));
    let failed = api.until_warm(&warm.id, WarmStatus::Failed).await;
    assert_eq!(
        failed.nodes[0].error.as_ref().unwrap().kind,
        kinds::TIMED_OUT
    );
    let cancelled = node.wait(|order| match order {
        Order::CancelWarm { id } => Some(id),
        _ => None,
    });
    assert_eq!(cancelled.await, id);
}

#[tokio::test]
async fn fifty_warms_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let mut warms = Vec::new();
    let mut node = Agent::new(&api, "n").await;
    let other = Joined::new(&api, "other", None).await.connect(&api).await;
    let mut orders = Vec::new();
    for n in 0..50 {
        let image = api.image(&format!("image {n}")).await;
        warms.push(api.warm(&everywhere(&image)).await);
        orders.push(node.warm().await);
    }
    // Some are ready on one node, one has failed there.
    for (id, at, _) in &orders[..10] {
        node.warmed(id, at, 7, 0).await;
    }
    node.warm_failed(&orders[10].0, 0).await;
    until(async || {
        let warm: Warm = api.get(&format!("/v1/warms/{}", warms[10].id)).await;
        (warm.nodes[0].state == WarmState::Failed).then_some(())
    })
    .await;
    let (joined, other) = (node.kill(), other.kill());
    api.running.shutdown().await;

    let api = Api::start(settings(dir.path())).await;
    let listed: Vec<Warm> = api.get("/v1/warms?limit=100").await;
    assert_eq!(listed.len(), 50);
    assert!(listed.iter().all(|warm| warm.status == WarmStatus::Running));
    let mut node = joined.connect(&api).await;
    other.connect(&api).await.obey();
    let mut told = std::collections::BTreeSet::new();
    for _ in 11..50 {
        let (id, at, _) = node.warm().await;
        told.insert(id.clone());
        node.warmed(&id, &at, 7, 0).await;
    }
    let expect: std::collections::BTreeSet<_> =
        orders[11..].iter().map(|(id, ..)| id.clone()).collect();
    assert_eq!(told, expect);
    for (n, warm) in warms.iter().enumerate() {
        let expect = if n == 10 {
            WarmStatus::Partly
        } else {
            WarmStatus::Ready
        };
        let warm = api.until_warm(&warm.id, expect).await;
        assert_eq!(warm.nodes[0].bytes_fetched, if n == 10 { 0 } else { 7 });
    }
}

#[tokio::test]
async fn the_oldest_warms_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.warm.keep = 2;
    let api = Api::start(settings).await;
    Agent::new(&api, "n").await.obey();
    let image = api.image("x").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let warm = api.warm(&everywhere(&image)).await;
        api.until_warm(&warm.id, WarmStatus::Ready).await;
        ids.insert(0, warm.id);
    }
    ids.truncate(2);
    until(async || {
        let listed: Vec<Warm> = api.get("/v1/warms").await;
        let listed: Vec<_> = listed.into_iter().map(|warm| warm.id).collect();
        (listed == ids).then_some(())
    })
    .await;
    // Its end can still be followed.
    let path = format!("/v1/warms/{}/events", ids[0]);
    let text = api.request(Method::GET, &path).send().await.unwrap();
    let events = events::<WarmEvent>(&text.text().await.unwrap());
    let last = &events.last().unwrap().1.kind;
    assert!(matches!(last, WarmEventKind::Finished { .. }));
}

#[tokio::test]
async fn images_are_copied_to_the_registry_of_a_region() {
    let far = Api::fresh().await;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    let host = far.0.running.addr.to_string();
    let at = format!("{host}/mirror").parse().unwrap();
    settings.regions.registries.insert("eu".into(), at);
    let login =
        json!({"auths": {host.as_str(): {"username": "x", "password": far.0.running.token}}});
    let credentials = dir.path().join("login.json");
    std::fs::write(&credentials, login.to_string()).unwrap();
    settings.registry.credentials = Some(credentials);
    let api = Api::start(settings).await;
    let image = api.image(&"x".repeat(100_000)).await;
    let mut home = Agent::new(&api, "home").await;
    let joined = Joined::new(&api, "eu", Some("eu")).await;
    let mut eu = joined.connect(&api).await;
    let warm = api.warm(&everywhere(&image)).await;
    let path = format!("/v1/warms/{}/events", warm.id);
    let following = tokio::spawn(api.request(Method::GET, &path).send());
    let (id, at, _) = eu.warm().await;
    // A node hears only of its own registry.
    assert_eq!(
        (at.registry.as_str(), at.node_login),
        (host.as_str(), false)
    );
    assert_eq!(at.repository, "mirror/chalk/images");
    let name = format!("{host}/mirror/chalk/images:{}", image.hash.hex());
    assert_eq!(at.name, name);
    let name = image.digest.to_string();
    let there = far
        .0
        .regional
        .manifest(&at.repository, &name)
        .await
        .unwrap();
    assert_eq!(there.unwrap().digest, image.digest);
    let tagged = far
        .0
        .regional
        .manifest(&at.repository, &image.hash.hex())
        .await;
    assert!(tagged.unwrap().is_some());
    eu.warmed(&id, &at, 1, 0).await;
    let (id, at, _) = home.warm().await;
    assert_eq!(
        (at.registry, at.node_login),
        (api.running.addr.to_string(), true)
    );
    let digest = at.digest;
    home.warmed(
        &id,
        &chalk_core::wire::agent::ImageRef {
            traceparent: None,
            registry: String::new(),
            digest,
            ..eu_ref(&image)
        },
        1,
        0,
    )
    .await;
    api.until_warm(&warm.id, WarmStatus::Ready).await;
    let text = following.await.unwrap().unwrap().text().await.unwrap();
    assert!(text.contains("\"type\":\"copying\""), "{text}");

    // A registry that is gone fails the nodes of its region only.
    far.0.running.shutdown().await;
    let other = api.image("other").await;
    let warm = api.warm(&everywhere(&other)).await;
    let (id, at, _) = home.warm().await;
    home.warmed(&id, &at, 1, 0).await;
    // The copy is tried again.
    let path = format!("/v1/warms/{}", warm.id);
    let waiting = until(async || {
        let warm: Warm = api.get(&path).await;
        let target = warm.nodes.into_iter().find(|t| t.node == "eu")?;
        target.error.is_some().then_some(target)
    })
    .await;
    let error = waiting.error.unwrap();
    assert_eq!(error.kind, kinds::REGISTRY_UNREACHABLE);
    assert!(waiting.state == WarmState::Queued && waiting.retries_left > 0);
    let warm: Warm = ok(api.request(Method::DELETE, &path)).await;
    assert_eq!(warm.status, WarmStatus::Cancelled);
    let node: Node = api.node("eu").await;
    assert_eq!(node.region, "eu");
}

fn eu_ref(image: &crate::service::Image) -> chalk_core::wire::agent::ImageRef {
    chalk_core::wire::agent::ImageRef {
        traceparent: None,
        digest: image.digest,
        image_hash: None,
        registry: String::new(),
        repository: String::new(),
        name: String::new(),
        node_login: false,
        broker: false,
        api: None,
        peers: Vec::new(),
    }
}
