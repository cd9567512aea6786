//! What nodes and registries are spared in warms.

use chalk_core::wire::agent::Order;
use chalk_core::wire::{Warm, WarmRequest, WarmStatus};
use reqwest::Method;

use crate::agent::Agent;
use crate::service::{Api, everywhere, ok, settings};

#[tokio::test]
async fn a_node_gets_no_more_orders_than_it_can_wait_for() {
    let (api, _dir) = Api::fresh().await;
    let mut images = Vec::new();
    for n in 0..80 {
        images.push(api.image(&format!("image {n}")).await.hash.to_string());
    }
    let mut node = Agent::new(&api, "n").await;
    let request = WarmRequest {
        images,
        ..WarmRequest::default()
    };
    let warm = api.warm(&request).await;
    let mut orders = Vec::new();
    for _ in 0..64 {
        orders.push(node.warm().await);
    }
    assert!(!node.is_told().await);
    // The others come as those are over, also over a break.
    for (id, at, _) in orders.split_off(54) {
        node.warmed(&id, &at, 1, 0).await;
        orders.push(node.warm().await);
    }
    let mut node = node.kill().connect(&api).await;
    for _ in 0..70 {
        let (id, at, _) = node.warm().await;
        node.warmed(&id, &at, 1, 0).await;
    }
    api.until_warm(&warm.id, WarmStatus::Ready).await;
}

#[tokio::test]
async fn a_registry_has_one_limit_for_all_images() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.warm.registry_pulls = 1;
    let api = Api::start(settings).await;
    let (x, y) = (api.image("x").await, api.image("y").await);
    let mut a = Agent::new(&api, "a").await;
    let mut b = Agent::new(&api, "b").await;
    let on = |image, node: &str| WarmRequest {
        nodes: vec![node.to_owned()],
        ..everywhere(image)
    };
    let of_a = api.warm(&on(&x, "a")).await;
    let (id_a, at_a, _) = a.warm().await;
    let of_b = api.warm(&on(&y, "b")).await;
    assert!(!b.is_told().await);
    a.pulling(&id_a, 1, 2).await;
    assert!(!b.is_told().await);
    // Whoever waits for its next try makes room.
    a.warm_failed(&id_a, 3).await;
    let (id_b, at_b, _) = b.warm().await;
    let third = api.image("z").await;
    let mut c = Agent::new(&api, "c").await;
    let of_c = api.warm(&on(&third, "c")).await;
    a.pulling(&id_a, 1, 2).await;
    b.warmed(&id_b, &at_b, 1, 0).await;
    api.until_warm(&of_b.id, WarmStatus::Ready).await;
    assert!(!c.is_told().await);
    a.warmed(&id_a, &at_a, 1, 0).await;
    let (id_c, at_c, _) = c.warm().await;
    c.warmed(&id_c, &at_c, 1, 0).await;
    api.until_warm(&of_a.id, WarmStatus::Ready).await;
    api.until_warm(&of_c.id, WarmStatus::Ready).await;
}

#[tokio::test]
async fn the_end_of_a_warm_orders_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.warm.registry_pulls = 1;
    let api = Api::start(settings).await;
    let image = api.image("x").await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Agent::new(&api, name).await);
    }
    let warm = api.warm(&everywhere(&image)).await;
    let (id, ..) = nodes[0].warm().await;
    let path = format!("/v1/warms/{}", warm.id);
    let cancelled: Warm = ok(api.request(Method::DELETE, &path)).await;
    assert_eq!(cancelled.status, WarmStatus::Cancelled);
    let order = nodes[0].wait(|order| match order {
        Order::CancelWarm { id } => Some(id),
        _ => None,
    });
    assert_eq!(order.await, id);
    assert!(!nodes[1].is_told().await && !nodes[2].is_told().await);
    // A node that goes on all the same is told once more.
    nodes[0].pulling(&id, 1, 2).await;
    let order = nodes[0].wait(|order| match order {
        Order::CancelWarm { id } => Some(id),
        _ => None,
    });
    assert_eq!(order.await, id);
}
