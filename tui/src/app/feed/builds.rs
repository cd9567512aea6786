//! Events of builds and warms, over broken connections and services that come back.

use std::time::Duration;

use chalk_core::wire::{Event, EventKind, Warm, WarmEvent, WarmEventKind, WarmStatus};

use super::Shared;
use crate::app::event::Feed;
use crate::client::segment;

/// Time in which events are gathered before they are told together.
const GATHER: Duration = Duration::from_millis(15);
/// Most events that are told together.
const BATCH: usize = 500;
/// Wait before a lost stream is begun again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows a build to its end.
pub(super) async fn follow(shared: Shared, id: String) {
    let path = format!("/v1/builds/{}/events", segment(&id));
    let mut after = 0;
    loop {
        let Some(client) = shared.client().await else {
            return;
        };
        let mut stream = client.events::<Event>(path.clone(), after);
        let failure = loop {
            let first = match stream.next().await {
                Ok(event) => event,
                Err(failure) => break failure,
            };
            let mut events = vec![first];
            let gathered = tokio::time::sleep(GATHER);
            tokio::pin!(gathered);
            let mut failed = None;
            while events.len() < BATCH && !ends(&events) {
                // Dropping the wait loses nothing: the stream keeps what it has read.
                tokio::select! {
                    biased;
                    next = stream.next() => match next {
                        Ok(event) => events.push(event),
                        Err(failure) => {
                            failed = Some(failure);
                            break;
                        }
                    },
                    () = &mut gathered => break,
                }
            }
            after = events.last().map_or(after, |event| event.seq);
            let over = ends(&events);
            let id = id.clone();
            shared.tell(Feed::BuildEvents { id, events }).await;
            if over {
                shared.hurry.notify_one();
                return;
            }
            if let Some(failure) = failed {
                break failure;
            }
        };
        if !failure.transient && failure.code != chalk_core::wire::exit::UNREACHABLE {
            let trouble = failure.into();
            shared.tell(Feed::BuildLost { id, trouble }).await;
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn ends(events: &[Event]) -> bool {
    matches!(
        events.last().map(|event| &event.kind),
        Some(EventKind::Finished { .. })
    )
}

/// Follows a warm until it is left: a retry, or a node that comes back, opens an ended one again.
pub(super) async fn follow_warm(shared: Shared, id: String) {
    let path = format!("/v1/warms/{}", segment(&id));
    let mut after = 0;
    loop {
        let Some(client) = shared.client().await else {
            return;
        };
        match client.get::<Warm>(&path).await {
            Ok(warm) => {
                let over = warm.status != WarmStatus::Running;
                shared.tell(Feed::Warm(Box::new(warm))).await;
                if over {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            Err(failure) if failure.transient => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(failure) => return shared.failed(failure).await,
        }
        let mut stream = client.events::<WarmEvent>(format!("{path}/events"), after);
        while let Ok(event) = stream.next().await {
            after = event.seq;
            let mut over = matches!(event.kind, WarmEventKind::Finished { .. });
            let mut events = vec![event];
            let gathered = tokio::time::sleep(GATHER * 4);
            tokio::pin!(gathered);
            while events.len() < BATCH && !over {
                tokio::select! {
                    biased;
                    next = stream.next() => match next {
                        Ok(event) => {
                            after = event.seq;
                            over = matches!(event.kind, WarmEventKind::Finished { .. });
                            events.push(event);
                        }
                        Err(_) => break,
                    },
                    () = &mut gathered => break,
                }
            }
            let id = id.clone();
            shared.tell(Feed::WarmEvents { id, events }).await;
            if over {
                shared.hurry.notify_one();
                break;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
