//! What the service has no events for is asked for again and again: often what is looked at, seldom
//! the rest. An answer that is the same as the last is not even parsed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use crate::app::event::Feed;
use crate::app::model::View;
use crate::client::{Client, segment};
use crate::error::Failure;

/// Most nodes whose caches are listed beside the rest, for when an image was last used.
const LISTED: usize = 4;

/// Something that is asked for.
struct Subject {
    path: &'static str,
    /// Time between two answers while it is looked at, and otherwise.
    near: Duration,
    far: Duration,
    read: fn(&[u8]) -> Result<Feed, serde_json::Error>,
    /// Whether it belongs to a view.
    seen: fn(&View) -> bool,
    last: Option<Instant>,
    hash: u64,
}

fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    feed: fn(T) -> Feed,
) -> Result<Feed, serde_json::Error> {
    serde_json::from_slice(bytes).map(feed)
}

fn subjects() -> Vec<Subject> {
    let seconds = Duration::from_secs_f64;
    let subject = |path, near, far, read, seen| Subject {
        path,
        near: seconds(near),
        far: seconds(far),
        read,
        seen,
        last: None,
        hash: 0,
    };
    let fleet = |view: &View| {
        matches!(
            view,
            View::Cache | View::Matrix | View::Node(_) | View::Images | View::Image(_)
        )
    };
    vec![
        subject(
            "/v1/builds?limit=200",
            0.5,
            1.5,
            |b| parse(b, Feed::Builds),
            |view| matches!(view, View::Builds | View::Build(_) | View::Spec),
        ),
        subject(
            "/v1/images",
            2.0,
            15.0,
            |b| parse(b, Feed::Images),
            |view| matches!(view, View::Images | View::Matrix),
        ),
        subject("/v1/nodes", 1.0, 10.0, |b| parse(b, Feed::Nodes), fleet),
        subject("/v1/caches", 2.0, 30.0, |b| parse(b, Feed::Caches), fleet),
        subject(
            "/v1/regions",
            10.0,
            60.0,
            |b| parse(b, Feed::Regions),
            fleet,
        ),
        subject(
            "/v1/storage",
            5.0,
            60.0,
            |b| parse(b, Feed::Storage),
            |view| matches!(view, View::Cache),
        ),
        subject(
            // A warm tells of every node: many of a big fleet are much.
            "/v1/warms?limit=30",
            2.0,
            20.0,
            |b| parse(b, Feed::Warms),
            |view| matches!(view, View::Warms | View::Warm(_)),
        ),
        subject(
            "/v1/prewarm",
            3.0,
            60.0,
            |b| parse(b, Feed::Prewarm),
            |view| matches!(view, View::Prewarm),
        ),
    ]
}

/// Asks as long as the app runs; says by `lost` when the service is not reached.
pub(super) async fn poll(shared: Shared, lost: Arc<Notify>) {
    let mut subjects = subjects();
    let mut listings: Option<Instant> = None;
    let mut attention = shared.attention.subscribe();
    loop {
        let Some(client) = shared.client().await else {
            return;
        };
        let view = attention.borrow_and_update().clone();
        let now = Instant::now();
        let mut broken = false;
        for subject in &mut subjects {
            let wait = if (subject.seen)(&view) {
                subject.near
            } else {
                subject.far
            };
            if subject.last.is_some_and(|last| now < last + wait) {
                continue;
            }
            subject.last = Some(now);
            match client.raw(subject.path).await {
                Ok(bytes) => tell(&shared, subject, &bytes).await,
                Err(failure) if failure.transient => {
                    broken = true;
                    break;
                }
                // A service that is older than the app lacks the call, and the app what it tells.
                Err(_) => {}
            }
        }
        if broken {
            for subject in &mut subjects {
                subject.last = None;
                subject.hash = 0;
            }
            lost.notify_one();
            let mut client = shared.client.clone();
            // Until it is noticed, so that it is not said twice.
            let _ = client.wait_for(Option::is_none).await;
            continue;
        }
        let images = matches!(view, View::Images | View::Image(_) | View::Node(_));
        let stale = listings.is_none_or(|last| now >= last + Duration::from_secs(10));
        if images && stale {
            listings = Some(now);
            list_caches(&shared, &client).await;
        }
        let pause = tokio::time::sleep(Duration::from_millis(200));
        tokio::select! {
            () = pause => {}
            () = shared.hurry.notified() => {
                for subject in &mut subjects {
                    if (subject.seen)(&attention.borrow()) {
                        subject.last = None;
                    }
                }
            }
        }
    }
}

async fn tell(shared: &Shared, subject: &mut Subject, bytes: &Bytes) {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let hash = hasher.finish();
    if hash == subject.hash {
        return;
    }
    match (subject.read)(bytes) {
        Ok(feed) => {
            subject.hash = hash;
            shared.tell(feed).await;
        }
        Err(error) => {
            let failure = Failure::new(
                chalk_core::wire::exit::UNREACHABLE,
                format!("{} is not answered as by a chalk service", subject.path),
            );
            shared.failed(failure.why(error)).await;
        }
    }
}

/// What the caches of a few nodes hold, which tells when images were last used. Of many nodes nobody
/// is asked.
async fn list_caches(shared: &Shared, client: &Client) {
    let Ok(nodes) = client.get::<Vec<chalk_core::wire::Node>>("/v1/nodes").await else {
        return;
    };
    if nodes.len() > LISTED {
        return;
    }
    for node in nodes {
        if node.state == chalk_core::wire::NodeState::Lost {
            continue;
        }
        let path = format!("/v1/nodes/{}/cache", segment(&node.name));
        if let Ok(listing) = client.get(&path).await {
            shared.tell(Feed::Listing(Box::new(listing))).await;
        }
    }
}
