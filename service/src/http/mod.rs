//! The HTTP API: `/v1` as [`chalk_core::wire`] says, `/v2` the registry, and health.

mod body;
mod builds;
mod errors;
mod guard;
mod images;
mod problem;
mod specs;

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use chalk_core::wire::{Info, problem as kinds};
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) use guard::Guard;
use problem::ApiError;

use crate::service::Service;

type Api = State<Arc<Service>>;

/// One call of the API.
pub(crate) struct Route {
    /// Method.
    pub(crate) method: Method,
    /// Path with `{parameters}`.
    pub(crate) path: &'static str,
    handler: MethodRouter<Arc<Service>>,
}

/// Every call but those below `/v2`.
pub(crate) fn routes() -> Vec<Route> {
    let route = |method, path, handler| Route {
        method,
        path,
        handler,
    };
    vec![
        route(Method::GET, "/healthz", get(healthz)),
        route(Method::GET, "/readyz", get(readyz)),
        route(Method::GET, "/v1/info", get(info)),
        route(Method::POST, "/v1/resolve", post(specs::resolve)),
        route(Method::POST, "/v1/plan", post(specs::plan)),
        route(Method::POST, "/v1/blobs/missing", post(specs::missing)),
        route(Method::PUT, "/v1/blobs/{digest}", put(specs::upload)),
        route(Method::POST, "/v1/builds", post(builds::start)),
        route(Method::GET, "/v1/builds", get(builds::list)),
        route(Method::GET, "/v1/builds/{id}", get(builds::get)),
        route(Method::DELETE, "/v1/builds/{id}", delete(builds::cancel)),
        route(Method::GET, "/v1/builds/{id}/events", get(builds::events)),
        route(Method::GET, "/v1/builds/{id}/logs", get(builds::logs)),
        route(Method::GET, "/v1/images", get(images::list)),
        route(Method::GET, "/v1/images/{id}", get(images::get)),
        route(Method::DELETE, "/v1/images/{id}", delete(images::delete)),
        route(
            Method::PUT,
            "/v1/images/{id}/names/{name}",
            put(images::name),
        ),
        route(Method::POST, "/v1/imports", post(images::import)),
    ]
}

/// The whole router; `registry` is the embedded registry below `/v2`, unless an external one has its
/// place.
pub(crate) fn router(service: Arc<Service>, guard: Arc<Guard>, registry: Option<Router>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(service)
        .merge(registry.unwrap_or_default())
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
        .layer(CatchPanicLayer::custom(panicked))
}

async fn healthz() -> &'static str {
    "ok"
}

async fn readyz(State(service): Api) -> Result<&'static str, ApiError> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    Ok("ok")
}

async fn info(State(service): Api) -> Json<Info> {
    Json(service.info())
}

async fn no_such_path(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(
        "no such call",
        format!("there is no {method} {}", uri.path()),
    )
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        kinds::METHOD_NOT_ALLOWED,
        405,
        "no such call",
        format!("{} does not take {method}", uri.path()),
        "GET /v1/openapi.json describes every call",
    )
}

// The signature is the layer's.
#[allow(clippy::needless_pass_by_value)]
fn panicked(cause: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    let words = cause
        .downcast_ref::<&str>()
        .map(|words| (*words).to_owned())
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(words, "a handler panicked");
    let error = ApiError::new(
        kinds::INTERNAL,
        StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
        "a fault of the service",
        "",
        "see the service's log",
    );
    error.into_response()
}
