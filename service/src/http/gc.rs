//! Garbage collection on demand.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use chalk_core::wire::{CollectEvent, CollectRequest};
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;

use super::audit::Made;
use super::body::Json;
use super::openapi::Call;
use super::problem::{ApiError, ApiResult};
use super::{Api, Method, Route};
use crate::gc::{CollectError, Collected};

const LINES: &str = "application/x-ndjson";
/// An empty line goes out after this much silence, so that nobody in between cuts the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(
        Method::POST,
        "/v1/gc",
        post(collect),
        Call::new(
            "Collect garbage, or say what would go and why the rest stays: lines of JSON, the last of which is `done` or `failed`",
        )
        .takes::<CollectRequest>()
        .gives_other(LINES),
    )]
}

/// Collects in a task of its own, which does not end when the client goes.
async fn collect(State(service): Api, Json(request): Json<CollectRequest>) -> ApiResult<Response> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let (sender, receiver) = oneshot::channel();
    let (collector, stop) = (service.collector().clone(), service.stop().clone());
    tokio::spawn(async move {
        let collected = stop.run_until_cancelled(collector.collect(request.dry_run));
        let collected = collected.await.unwrap_or(Err(CollectError::Stopping));
        if let Ok(done) = &collected
            && !request.dry_run
        {
            let summary = &done.summary;
            tracing::info!(
                freed_bytes = summary.freed_bytes,
                "garbage is collected on demand"
            );
        }
        let _ = sender.send(collected);
    });
    let waiting = stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match tokio::time::timeout(KEEP_ALIVE, &mut receiver).await {
            Err(_) => Some((Bytes::from_static(b"\n"), Some(receiver))),
            Ok(done) => {
                let done = done.unwrap_or(Err(CollectError::Stopping));
                Some((lines(done), None))
            }
        }
    });
    let body = Body::from_stream(waiting.map(Ok::<_, Infallible>));
    let mut response = ([(CONTENT_TYPE, LINES)], body).into_response();
    if request.dry_run {
        response.extensions_mut().insert(Made::Nothing);
    }
    Ok(response)
}

fn lines(collected: Result<Collected, CollectError>) -> Bytes {
    let mut lines = Vec::new();
    let mut line = |event: &CollectEvent| {
        // The types have no maps with other keys than texts, so that this cannot fail.
        lines.extend(serde_json::to_vec(event).unwrap_or_default());
        lines.push(b'\n');
    };
    match collected {
        Ok(Collected { items, summary }) => {
            for item in items {
                line(&CollectEvent::Item(item));
            }
            line(&CollectEvent::Done(summary));
        }
        Err(error) => {
            let problem = ApiError::from(error).told();
            line(&CollectEvent::Failed { problem });
        }
    }
    lines.into()
}
