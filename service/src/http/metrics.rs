//! `/metrics`.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Api;
use super::problem::{ApiError, ApiResult};
use crate::service::Service;

/// What the service counted.
pub(super) async fn metrics(State(service): Api, headers: HeaderMap) -> ApiResult<Response> {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    let text = service.metrics().text(&service, accept).await;
    let (kind, text) =
        text.map_err(|error| ApiError::internal("the metrics cannot be read", &error))?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The same, and nothing else, for all who reach the address.
pub(crate) fn router(service: std::sync::Arc<Service>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(service)
}
