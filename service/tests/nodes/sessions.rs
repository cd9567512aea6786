//! The life of sessions, and what the service knows of nodes by them.

use std::time::Duration;

use chalk_core::wire::agent::{Ask, Order, Report};
use chalk_core::wire::{
    CacheListing, CacheUsage, GcReport, Node, NodeState, Plan, Region, problem as kinds,
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::agent::{Agent, Joined};
use crate::service::{Api, everywhere, problem, settings, until};

fn welcome(order: Order) -> (Option<u64>, bool) {
    match order {
        Order::Welcome {
            cache_known,
            draining,
            heartbeat_seconds,
            peer_token,
        } => {
            assert!(heartbeat_seconds == 1 && peer_token.len() > 40);
            (cache_known, draining)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nodes_are_listed_as_they_report() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let eu = Joined::new(&api, "b", Some("eu")).await.serving();
    let mut b = eu.connect(&api).await;
    let _a = Agent::new(&api, "a").await;
    assert_eq!(welcome(b.order().await), (None, false));
    let usage = CacheUsage {
        size_limit: 100,
        used: 7,
        ..CacheUsage::default()
    };
    let beat = Report::Heartbeat {
        usage,
        sandboxes: 3,
    };
    b.report(&beat).await;
    let nodes = until(async || {
        let nodes: Vec<Node> = api.get("/v1/nodes").await;
        nodes.iter().any(|n| n.sandboxes == 3).then_some(nodes)
    })
    .await;
    let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let b_node = &nodes[1];
    assert_eq!((b_node.cache.used, b_node.region.as_str()), (7, "eu"));
    assert_eq!(b_node.labels["name"], "b");
    assert_eq!(b_node.mirror.as_deref(), Some("http://b.example:1"));
    let regions: Vec<Region> = api.get("/v1/regions").await;
    let regions: Vec<_> = regions
        .iter()
        .map(|r| (&*r.name, r.home, r.nodes))
        .collect();
    assert_eq!(regions, [("eu", true, 1), ("local", true, 1)]);

    // The plan says who has an image.
    b.cached(1, true, &[image.digest]).await;
    let plan = async || -> Plan { api.post("/v1/plan", json!({"spec": image.spec})).await };
    until(async || (plan().await.nodes_warm == ["b"]).then_some(())).await;
    b.report(&Report::Cache {
        revision: 2,
        whole: false,
        put: Vec::new(),
        gone: vec![image.digest],
    })
    .await;
    until(async || plan().await.nodes_warm.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_node_that_connects_again_tells_only_what_changed() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let node = Joined::new(&api, "n", None).await;
    let first = node.clone().connect(&api).await;
    first.cached(7, true, &[image.digest]).await;
    until(async || {
        let node = api.node("n").await;
        let warm = api.warm(&everywhere(&image)).await;
        (node.state == NodeState::Ready && warm.nodes.len() == 1).then_some(())
    })
    .await;
    let again = first.kill();
    api.until_node("n", NodeState::Lost).await;
    let mut second = again.connect(&api).await;
    assert_eq!(welcome(second.order().await), (Some(7), false));
    let mut again = second.kill();
    api.until_node("n", NodeState::Lost).await;
    again.epoch = "2".into();
    let mut third = again.connect(&api).await;
    assert_eq!(welcome(third.order().await), (None, false));
}

#[tokio::test]
async fn a_new_session_takes_the_place_of_the_old_one() {
    let (api, _dir) = Api::fresh().await;
    let node = Joined::new(&api, "n", None).await;
    let mut first = node.clone().connect(&api).await;
    let mut second = node.open().await.unwrap();
    welcome(second.order().await);
    while first.try_order().await.is_some() {}
    assert_eq!(api.node("n").await.state, NodeState::Ready);
    // The end of the first takes nothing from the second.
    let drain = async { api.post::<Node>("/v1/nodes/n/drain", json!({})).await };
    let (node, draining) = tokio::join!(drain, second.drain());
    assert_eq!(node.state, NodeState::Draining);
    assert!(draining);
}

#[tokio::test]
async fn a_silent_node_is_lost_and_a_broken_one_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.nodes.lost_after = Duration::from_secs(8);
    let api = Api::start(settings).await;
    let mut silent = Agent::new(&api, "silent").await;
    let alive = Agent::new(&api, "alive").await;
    let _beats = alive.beats();
    while silent.try_order().await.is_some() {}
    api.until_node("silent", NodeState::Lost).await;
    assert_eq!(api.node("alive").await.state, NodeState::Ready);

    let long = Agent::new(&api, "long").await;
    for _ in 0..18 {
        long.raw(&vec![b'x'; 1 << 20]).await;
    }
    api.until_node("long", NodeState::Lost).await;
    let garbage = Agent::new(&api, "garbage").await;
    garbage.raw(b"{\"report\":\"of another version\"}\n").await;
    garbage.raw(b"{\"report\":\"cache\"}\n").await;
    api.until_node("garbage", NodeState::Lost).await;
}

#[tokio::test]
async fn a_service_that_was_held_up_takes_no_node_for_silent() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.nodes.lost_after = Duration::from_millis(1500);
    let api = Api::start(settings).await;
    let mut node = Agent::new(&api, "n").await;
    for _ in 0..4 {
        node.report(&Report::Heartbeat {
            usage: CacheUsage::default(),
            sandboxes: 0,
        })
        .await;
        // The service runs on this thread.
        std::thread::sleep(Duration::from_millis(1700));
        assert!(!node.is_told().await);
        assert_eq!(api.node("n").await.state, NodeState::Ready);
    }
    // Its session is still the first one.
    api.post::<Node>("/v1/nodes/n/drain", json!({})).await;
    assert!(node.drain().await);
}

#[tokio::test]
async fn nothing_that_happens_meanwhile_brings_a_removed_node_back() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    for round in 0..8 {
        let name = format!("n{round}");
        let joined = Joined::new(&api, &name, None).await;
        let path = format!("/v1/nodes/{name}");
        let mut calls = Vec::new();
        for call in 0..16 {
            let what = if call == 5 {
                String::new()
            } else {
                "/drain".into()
            };
            let method = if call == 5 {
                Method::DELETE
            } else {
                Method::POST
            };
            calls.push(tokio::spawn(
                api.request(method, &format!("{path}{what}")).send(),
            ));
        }
        let opened = tokio::spawn(joined.open());
        for call in calls {
            call.await.unwrap().unwrap();
        }
        drop(opened.await.unwrap());
    }
    api.running.shutdown().await;
    let api = Api::start(settings(dir.path())).await;
    let nodes: Vec<Node> = api.get("/v1/nodes").await;
    assert!(nodes.is_empty(), "{nodes:?}");
}

#[tokio::test]
async fn drained_and_removed_nodes_stay_so() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let node = Joined::new(&api, "n", None).await;
    let gone = Joined::new(&api, "gone", None).await;
    let mut agent = gone.clone().connect(&api).await;
    api.post::<Node>("/v1/nodes/n/drain", json!({})).await;
    api.delete("/v1/nodes/gone").await;
    let last = agent
        .wait(|order| matches!(order, Order::Removed).then_some(order))
        .await;
    assert_eq!(last, Order::Removed);
    assert!(agent.try_order().await.is_none());
    api.running.shutdown().await;

    let api = Api::start(settings(dir.path())).await;
    let mut gone = gone;
    gone.url = api.url();
    assert_eq!(gone.open().await.err(), Some(StatusCode::UNAUTHORIZED));
    let mut joined = node;
    joined.url = api.url();
    let mut agent = joined.open().await.unwrap();
    assert_eq!(welcome(agent.order().await), (None, true));
    api.until_node("n", NodeState::Draining).await;
    let image = api.image("x").await;
    let none = api
        .request(Method::POST, "/v1/warms")
        .json(&everywhere(&image));
    let none = problem(none).await;
    assert_eq!(none.kind, kinds::NO_NODE);
    assert!(none.detail.contains("n (local, draining)"), "{none:?}");
    api.post::<Node>("/v1/nodes/n/undrain", json!({})).await;
    assert!(!agent.drain().await);
    let unknown = problem(api.request(Method::DELETE, "/v1/nodes/gone")).await;
    assert_eq!(unknown.kind, kinds::NOT_FOUND);
}

/// The token by which nodes let each other read blobs, as they were told last.
async fn peer_token(agent: &mut Agent) -> String {
    let told = agent.wait(|order| match order {
        Order::Welcome { peer_token, .. } => Some(peer_token),
        Order::PeerToken { token } => Some(token),
        _ => None,
    });
    told.await
}

#[tokio::test]
async fn a_removed_node_cannot_read_the_blobs_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(settings(dir.path())).await;
    let joined = Joined::new(&api, "stays", Some("eu")).await;
    let mut stays = joined.clone().connect(&api).await;
    let mut goes = Joined::new(&api, "goes", Some("eu"))
        .await
        .connect(&api)
        .await;
    let mut far = Joined::new(&api, "far", Some("us"))
        .await
        .connect(&api)
        .await;
    let before = peer_token(&mut goes).await;
    assert_eq!(peer_token(&mut stays).await, before);
    assert_ne!(peer_token(&mut far).await, before);
    api.delete("/v1/nodes/goes").await;
    let after = peer_token(&mut stays).await;
    assert_ne!(after, before);
    // Only nodes of its region knew it.
    assert!(!far.is_told().await);
    api.running.shutdown().await;

    let api = Api::start(settings(dir.path())).await;
    let mut stays = joined.connect(&api).await;
    assert_eq!(peer_token(&mut stays).await, after);
    api.running.shutdown().await;
}

#[tokio::test]
async fn the_cache_of_a_node_is_asked_for() {
    let (api, _dir) = Api::fresh().await;
    let image = api.image("x").await;
    let mut node = Agent::new(&api, "n").await;
    let listing = json!({"node": "n", "usage": CacheUsage::default(), "images": [], "items": []});
    let report = json!({"node": "n", "dry_run": true, "freed_bytes": 5, "freed": [], "kept": [],
        "usage": CacheUsage::default()});

    let answer = async {
        let (request, ask) = node.ask().await;
        assert_eq!(ask, Ask::CacheList);
        node.answer(request, listing).await;
        let (request, ask) = node.ask().await;
        assert!(
            matches!(ask, Ask::CacheCollect { ref gc } if gc.dry_run),
            "{ask:?}"
        );
        node.answer(request, report.clone()).await;
        let (request, ask) = node.ask().await;
        let unpin = Ask::Unpin {
            digest: image.digest,
            label: "warm".into(),
        };
        assert_eq!(ask, unpin);
        node.answer(request, json!(null)).await;
        // Both at once, so that nothing comes in between.
        let (request, ask) = node.ask().await;
        let remove = Ask::CacheRemove {
            digest: image.digest,
            unpin: true,
        };
        assert_eq!(ask, remove);
        node.answer(request, report).await;
        // A question that stays open when the node goes away.
        let (_, _) = node.ask().await;
        node.kill();
    };
    let client = async {
        let listing: CacheListing = api.get("/v1/nodes/n/cache").await;
        assert_eq!(listing.node, "n");
        let gc: GcReport = api
            .post("/v1/nodes/n/cache/gc", json!({"dry_run": true}))
            .await;
        assert_eq!(gc.freed_bytes, 5);
        let path = format!("/v1/nodes/n/cache/{}", image.hash.hex());
        let unpin = api.request(Method::POST, &format!("{path}/unpin"));
        assert_eq!(unpin.send().await.unwrap().status(), 204);
        let remove = api.request(Method::DELETE, &path);
        let gc: GcReport = crate::service::ok(remove).await;
        assert_eq!(gc.freed_bytes, 5);
        let lost = problem(api.request(Method::GET, "/v1/nodes/n/cache")).await;
        assert_eq!(lost.kind, kinds::NODE_LOST);
    };
    tokio::join!(answer, client);
    let unknown = problem(api.request(Method::GET, "/v1/nodes/none/cache")).await;
    assert_eq!(unknown.kind, kinds::NOT_FOUND);
}

#[tokio::test]
async fn sessions_do_not_hold_up_the_end_of_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    // What holds it up does so for longer than the test waits.
    settings.serve.stop_timeout = Duration::from_secs(3600);
    let api = Api::start(settings).await;
    let mut node = Agent::new(&api, "n").await;
    tokio::time::timeout(Duration::from_secs(300), api.running.shutdown())
        .await
        .expect("an end");
    while node.try_order().await.is_some() {}
}
