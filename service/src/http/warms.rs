//! Warms: start, list, follow, retry, cancel.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chalk_core::wire::{Warm, WarmRequest};
use futures_util::{Stream, stream};
use serde::Deserialize;

use super::Api;
use super::body::{Json, Path, Query};
use super::problem::{ApiError, ApiResult};
use super::sse;
use crate::regions::ImageAt;
use crate::service::Service;
use crate::warms::Events;

/// Warms that are listed unless the client says how many.
const LIST: usize = 50;
/// Most warms that are listed.
const LIST_LIMIT: usize = 1000;

/// The image that a hash prefix or name means.
pub(super) async fn image(service: &Service, text: &str) -> ApiResult<ImageAt> {
    let catalog = service.catalog();
    let hash = catalog.resolve(text).await?.hash();
    let image = catalog.show(&hash).await?;
    Ok(ImageAt::built(hash, image.digest, catalog.public()))
}

pub(super) async fn start(
    State(service): Api,
    Json(request): Json<WarmRequest>,
) -> ApiResult<axum::Json<Warm>> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let mut images = Vec::new();
    for text in &request.images {
        images.push(image(&service, text).await?);
    }
    Ok(axum::Json(
        service.fleet().warms().start(&request, images).await?,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    image: Option<String>,
}

pub(super) async fn list(
    State(service): Api,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Vec<Warm>>> {
    let limit = query.limit.unwrap_or(LIST).min(LIST_LIMIT);
    let hash = match &query.image {
        Some(text) => Some(service.catalog().resolve(text).await?.hash().hex()),
        None => None,
    };
    let warms = service.fleet().warms().list(limit, hash.as_deref()).await?;
    Ok(axum::Json(warms))
}

pub(super) async fn get(
    State(service): Api,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Warm>> {
    Ok(axum::Json(service.fleet().warms().get(&id).await?))
}

pub(super) async fn retry(
    State(service): Api,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Warm>> {
    Ok(axum::Json(service.fleet().warms().retry(&id).await?))
}

pub(super) async fn cancel(
    State(service): Api,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Warm>> {
    Ok(axum::Json(service.fleet().warms().cancel(&id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<u64>,
}

pub(super) async fn events(
    State(service): Api,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = sse::after(&headers, query.after)?;
    let events = service.fleet().warms().follow(&id, after).await?;
    let stop = service.fleet().stop().clone();
    let following = service.metrics().requests().follows("warm");
    Ok(sse::answer(batches(events, stop), following))
}

fn batches(
    events: Events,
    stop: tokio_util::sync::CancellationToken,
) -> impl Stream<Item = Option<Bytes>> + Send {
    stream::unfold((events, stop), |(mut events, stop)| async move {
        let batch = tokio::select! {
            batch = tokio::time::timeout(sse::KEEP_ALIVE, events.next()) => batch,
            () = stop.cancelled() => return None,
        };
        let text = match batch {
            Err(_) => None,
            Ok(lines) => {
                let mut text = Vec::new();
                for line in lines? {
                    sse::frame(&mut text, line.seq, line.json.as_bytes());
                }
                Some(text.into())
            }
        };
        Some((text, (events, stop)))
    })
}
