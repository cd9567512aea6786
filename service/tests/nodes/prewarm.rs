//! Images that every node keeps ready.

use std::time::Duration;

use chalk_core::wire::agent::{ImageRef, Order};
use chalk_core::wire::{Prewarm, problem as kinds};
use reqwest::Method;
use serde_json::json;

use crate::agent::Agent;
use crate::service::{Api, ok, problem, settings, until};

async fn list(node: &mut Agent, count: usize) -> Vec<ImageRef> {
    node.wait(|order| match order {
        Order::Prewarm { images } if images.len() == count => Some(images),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn imports_and_images_of_other_registries_are_kept_ready() {
    let far = Api::fresh().await;
    let host = far.0.running.addr.to_string();
    let (upstream, _) = far.0.publish("team/base", "v1", b"first").await;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.prewarm.interval = Duration::from_millis(100);
    settings.prewarm.images = vec!["base:v1".into(), "127.0.0.1:9/no/image:x".into()];
    let login =
        json!({"auths": {host.as_str(): {"username": "x", "password": far.0.running.token}}});
    let credentials = dir.path().join("login.json");
    std::fs::write(&credentials, login.to_string()).unwrap();
    settings.registry.credentials = Some(credentials);
    let api = Api::start(settings.clone()).await;
    let place = "imports/docker.io/library/base";
    let (imported, _) = api.publish(place, "v1", b"layer").await;
    let mut node = Agent::new(&api, "n").await;
    let images = list(&mut node, 1).await;
    assert_eq!(
        (images[0].digest, images[0].repository.as_str()),
        (imported, place)
    );
    let state = until(async || {
        let list: Prewarm = api.get("/v1/prewarm").await;
        let tried = list.states.iter().all(|state| state.checked.is_some());
        tried.then_some(list.states)
    })
    .await;
    assert_eq!(state[0].digest, Some(imported));
    assert!(
        state[0].error.is_none() && state[1].error.is_some(),
        "{state:?}"
    );
    node.cached(1, true, &[imported]).await;
    until(async || {
        let list: Prewarm = api.get("/v1/prewarm").await;
        (list.states[0].nodes_ready == 1).then_some(())
    })
    .await;

    // Tags move.
    let (moved, _) = api.publish(place, "v1", b"another layer").await;
    assert_eq!(list(&mut node, 1).await[0].digest, moved);

    // Another list, from another registry.
    let reference = format!("{host}/team/base:v1");
    let set = api.request(Method::PUT, "/v1/prewarm");
    let set: Prewarm = ok(set.json(&json!({"images": [reference]}))).await;
    assert_eq!(set.images, [reference.as_str()]);
    let images = list(&mut node, 1).await;
    assert_eq!(images[0].digest, upstream);
    let name = upstream.to_string();
    let there = api.regional.manifest(&images[0].repository, &name);
    assert!(there.await.unwrap().is_some());
    let (moved, _) = far.0.publish("team/base", "v1", b"second").await;
    assert_eq!(list(&mut node, 1).await[0].digest, moved);
    let wrong = api.request(Method::PUT, "/v1/prewarm");
    let wrong = problem(wrong.json(&json!({"images": ["A B"]}))).await;
    assert_eq!(wrong.kind, kinds::BAD_REQUEST);

    // After a restart it is known at once, whether the registry can be asked or not.
    far.0.running.shutdown().await;
    let joined = node.kill();
    api.running.shutdown().await;
    let api = Api::start(settings).await;
    let mut node = joined.connect(&api).await;
    assert_eq!(list(&mut node, 1).await[0].digest, moved);
}

#[tokio::test]
async fn nodes_take_turns_with_what_they_lack() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.prewarm.interval = Duration::from_millis(100);
    settings.prewarm.images = vec!["base:v1".into()];
    settings.warm.registry_pulls = 1;
    let api = Api::start(settings).await;
    let place = "imports/docker.io/library/base";
    let (digest, _) = api.publish(place, "v1", b"layer").await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let joined = crate::agent::Joined::new(&api, name, None).await.serving();
        nodes.push(joined.connect(&api).await);
    }
    // The registry is asked by one, and the others have it from that one.
    let told = async |node: &mut Agent, within: Duration| {
        let images = tokio::time::timeout(within, list(node, 1)).await;
        images.ok().map(|images| images[0].peers.clone())
    };
    assert_eq!(
        told(&mut nodes[0], Duration::from_secs(20)).await,
        Some(vec![])
    );
    for node in &mut nodes[1..] {
        assert_eq!(told(node, Duration::from_millis(300)).await, None);
    }
    nodes[0].cached(1, true, &[digest]).await;
    for node in &mut nodes[1..] {
        let peers = told(node, Duration::from_secs(20)).await;
        assert_eq!(peers, Some(vec!["http://a.example:1".to_owned()]));
    }
}
