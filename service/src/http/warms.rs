//! Warms: start, list, follow, retry, cancel.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chalk_core::wire::{Warm, WarmRequest};
use futures_util::{Stream, stream};
use serde::Deserialize;

use super::Api;
use super::audit::Made;
use super::body::{Json, Path, Query};
use super::problem::{ApiError, ApiResult};
use super::sse;
use crate::projects::Scope;
use crate::regions::ImageAt;
use crate::service::Service;
use crate::warms::Events;

/// Warms that are listed unless the client says how many.
const LIST: usize = 50;
/// Most warms that are listed.
const LIST_LIMIT: usize = 1000;

/// The image that a hash prefix or name means.
pub(super) async fn image(service: &Service, scope: &Scope, text: &str) -> ApiResult<ImageAt> {
    let catalog = service.catalog();
    let hash = catalog.resolve(scope, text).await?.hash();
    let image = catalog.show(scope, &hash).await?;
    Ok(ImageAt::built(hash, image.digest, catalog.public()))
}

pub(super) async fn start(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Json(request): Json<WarmRequest>,
) -> ApiResult<Response> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let mut images = Vec::new();
    for text in &request.images {
        images.push(image(&service, &scope, text).await?);
    }
    let warms = service.fleet().warms();
    let warm = warms.start(scope.project(), &request, images).await?;
    let made = Extension(Made::New(warm.id.clone()));
    Ok((made, axum::Json(warm)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    image: Option<String>,
}

pub(super) async fn list(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Vec<Warm>>> {
    let limit = query.limit.unwrap_or(LIST).min(LIST_LIMIT);
    let hash = match &query.image {
        Some(text) => Some(service.catalog().resolve(&scope, text).await?.hash().hex()),
        None => None,
    };
    let warms = service.fleet().warms();
    let listed = warms.list(scope.only(), limit, hash.as_deref()).await?;
    Ok(axum::Json(listed))
}

pub(super) async fn get(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Warm>> {
    let warms = service.fleet().warms();
    warms.seen(scope.only(), &id).await?;
    Ok(axum::Json(warms.get(&id).await?))
}

pub(super) async fn retry(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Warm>> {
    let warms = service.fleet().warms();
    warms.seen(scope.only(), &id).await?;
    Ok(axum::Json(warms.retry(&id).await?))
}

pub(super) async fn cancel(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Warm>> {
    let warms = service.fleet().warms();
    warms.seen(scope.only(), &id).await?;
    Ok(axum::Json(warms.cancel(&id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<u64>,
}

pub(super) async fn events(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = sse::after(&headers, query.after)?;
    service.fleet().warms().seen(scope.only(), &id).await?;
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
