//! The HTTP API: `/v1` as [`chalk_core::wire`] says, `/v2` the registry, health, and the page at `/`.

mod agent;
mod allows;
mod audit;
mod body;
mod builds;
mod errors;
mod fleet;
mod gc;
mod guard;
mod images;
mod metrics;
pub(crate) mod nodes;
mod openapi;
mod page;
mod problem;
mod projects;
mod refusals;
mod registry_token;
mod registry_view;
mod sandbox_files;
pub(crate) mod sandboxes;
mod specs;
mod sse;
mod tokens;
mod volume_objects;
mod warms;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, Method, StatusCode, Uri, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use chalk_core::wire::{self, Info, problem as kinds};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, AllowPrivateNetwork, CorsLayer};

pub(crate) use audit::Peer;
pub(crate) use builds::begin as begin_build;
pub(crate) use guard::Guard;
pub(crate) use metrics::router as metrics_router;
use openapi::Call;
use openapi::Of::{Flag, Number, Text};
pub(crate) use page::{PackError, Page};
pub(crate) use problem::ApiError;

use crate::grpc;
use crate::metrics::count;
use crate::service::Service;

type Api = State<Arc<Service>>;

const TEXT: &str = "text/plain";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// How long a browser may remember what it asked before a request of a foreign page.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// One call of the API.
pub(crate) struct Route {
    /// Method.
    method: Method,
    /// Path with `{parameters}`.
    path: &'static str,
    handler: MethodRouter<Arc<Service>>,
    call: Call,
}

impl Route {
    fn new(
        method: Method,
        path: &'static str,
        handler: MethodRouter<Arc<Service>>,
        call: Call,
    ) -> Self {
        Self {
            method,
            path,
            handler,
            call,
        }
    }
}

/// Every call but those below `/v2`.
pub(crate) fn routes() -> Vec<Route> {
    let mut routes = image_routes();
    routes.extend(fleet::node_routes());
    routes.extend(fleet::warm_routes());
    routes.extend(fleet::sandbox_routes());
    routes.extend(fleet::agent_routes());
    routes.extend(tokens::routes());
    routes.extend(projects::routes());
    routes.extend(audit::routes());
    routes.extend(registry_token::routes());
    routes.extend(volume_objects::routes());
    routes.extend(gc::routes());
    routes
}

/// Calls about the service, builds and images.
fn image_routes() -> Vec<Route> {
    let route = Route::new;
    let (get_, post_, put_, delete_) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    vec![
        route(
            get_.clone(),
            "/healthz",
            get(healthz),
            Call::new("Whether the process lives").gives_other(TEXT),
        ),
        route(
            get_.clone(),
            "/readyz",
            get(readyz),
            Call::new("Whether the service takes requests").gives_other(TEXT),
        ),
        route(
            get_.clone(),
            "/metrics",
            get(metrics::metrics),
            Call::new("What the service counts, for Prometheus").gives_other(TEXT),
        ),
        route(
            get_.clone(),
            "/v1/openapi.json",
            get(openapi),
            Call::new("This document").gives_other("application/json"),
        ),
        route(
            get_.clone(),
            "/v1/info",
            get(info),
            Call::new("What the service is").gives::<wire::Info>(),
        ),
        route(
            post_.clone(),
            "/v1/resolve",
            post(specs::resolve),
            Call::new("Pin every base of a spec")
                .takes::<wire::ResolveRequest>()
                .gives::<wire::Resolved>(),
        ),
        route(
            post_.clone(),
            "/v1/plan",
            post(specs::plan),
            Call::new("Say what a build would do")
                .takes::<wire::ResolveRequest>()
                .gives::<wire::Plan>(),
        ),
        route(
            post_.clone(),
            "/v1/blobs/missing",
            post(specs::missing),
            Call::new("Say which blobs the store lacks")
                .takes::<wire::BlobList>()
                .gives::<wire::BlobList>(),
        ),
        route(
            post_.clone(),
            "/v1/blobs",
            post(specs::upload_batch),
            Call::new("Upload many small blobs: of each its SHA-256 (32 bytes), its length (4 bytes, big-endian) and its bytes")
                .takes_bytes()
                .answers(201),
        ),
        route(
            put_.clone(),
            "/v1/blobs/{digest}",
            put(specs::upload),
            Call::new("Upload a blob").takes_bytes().answers(201),
        ),
        route(
            post_.clone(),
            "/v1/builds",
            post(builds::start),
            Call::new("Build an image, share a build of it, or find it built")
                .takes::<wire::BuildRequest>()
                .gives::<wire::BuildReply>(),
        ),
        route(
            get_.clone(),
            "/v1/builds",
            get(builds::list),
            Call::new("List builds, newest first")
                .query(&[
                    ("limit", Number, "most builds to list; 50 unless given"),
                    ("name", Text, "only builds under this name"),
                    ("hash", Text, "only builds of images whose hash begins so"),
                ])
                .gives::<Vec<wire::Build>>(),
        ),
        route(
            get_.clone(),
            "/v1/builds/{id}",
            get(builds::get),
            Call::new("Describe a build").gives::<wire::Build>(),
        ),
        route(
            delete_.clone(),
            "/v1/builds/{id}",
            delete(builds::cancel),
            Call::new("Cancel a build; its events tell when it has ended")
                .query(&[("leave", Flag, "true: only if no client follows it any more")])
                .gives::<wire::Build>(),
        ),
        route(
            get_.clone(),
            "/v1/builds/{id}/events",
            get(builds::events),
            Call::new("Follow the events of a build; `Last-Event-ID` counts before `after`")
                .query(&[("after", Number, "number of the last event that is not wanted")])
                .gives_other("text/event-stream"),
        ),
        route(
            get_.clone(),
            "/v1/builds/{id}/logs",
            get(builds::logs),
            Call::new("Output of a build")
                .query(&[
                    ("step", Number, "only of this step, counted from 0"),
                    ("follow", Flag, "`true` to go on until the build ends"),
                ])
                .gives_other(TEXT),
        ),
        route(
            get_.clone(),
            "/v1/images",
            get(images::list),
            Call::new("List images, newest first")
                .query(&[("name", Text, "only images of this repository, or repository:tag")])
                .gives::<Vec<wire::Image>>(),
        ),
        route(
            get_.clone(),
            "/v1/storage",
            get(specs::storage),
            Call::new("Say what the store of blobs takes").gives::<wire::Storage>(),
        ),
        route(
            get_.clone(),
            "/v1/images/{id}",
            get(images::get),
            Call::new("Describe an image, by hash prefix or name").gives::<wire::ImageDetail>(),
        ),
        route(
            get_,
            "/v1/images/{id}/manifest",
            get(images::manifest),
            Call::new("Read the OCI manifest of an image, byte for byte").gives_other(MANIFEST),
        ),
        route(
            delete_,
            "/v1/images/{id}",
            delete(images::delete),
            Call::new(
                "Delete an image with its names and attached specs, or only a name; blobs stay until garbage is collected",
            )
            .answers(204),
        ),
        route(
            put_,
            "/v1/images/{id}/names/{name}",
            put(images::name),
            Call::new("Name an image").gives::<wire::Image>(),
        ),
        route(
            post_.clone(),
            "/v1/images/{id}/verify",
            post(builds::verify),
            Call::new("Build an image anew and compare it with the published one")
                .takes::<wire::VerifyRequest>()
                .gives::<wire::Build>(),
        ),
        route(
            post_,
            "/v1/imports",
            post(images::import),
            Call::new("Take in an OCI archive, a `docker save` archive or a root file system")
                .query(&[
                    ("ref", Text, "reference that specs may then use as base"),
                    ("platform", Text, "linux/amd64 unless given"),
                    ("image", Text, "which image of an archive that holds several"),
                ])
                .takes_bytes()
                .gives::<wire::Imported>(),
        ),
    ]
}

/// The whole router; `registry` is the embedded registry below `/v2`, unless an external one has its
/// place; `calls` are the gRPC services.
pub(crate) fn router(
    service: Arc<Service>,
    guard: Arc<Guard>,
    page: Arc<Page>,
    registry: Option<Router>,
    calls: Router,
) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    let requests = service.metrics().requests().clone();
    let cors = guard.has_origins().then(|| cors(guard.clone()));
    let shown = from_fn_with_state(service.clone(), registry_view::show);
    let registry = registry.map(|registry| registry.layer(shown));
    router
        .fallback(move |request: Request| async move { no_such_call(&page, &request) })
        .method_not_allowed_fallback(no_such_method)
        .with_state(service)
        .merge(registry.unwrap_or_default())
        .merge(calls)
        .layer(from_fn_with_state(guard.clone(), guard::token))
        .layer(from_fn(grpc::connect::translate))
        .layer(tower::util::option_layer(cors))
        .layer(from_fn_with_state(guard, guard::guard))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(requests, count))
}

/// Answers browsers that ask whether a page of another origin may send a request, and lets that page
/// read the answers. Whether it may was decided before.
fn cors(guard: Arc<Guard>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            guard.allows_origin(origin)
        }))
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            HeaderName::from_static("x-request-id"),
        ])
        .allow_private_network(AllowPrivateNetwork::yes())
        .max_age(PREFLIGHT_AGE)
}

async fn healthz() -> &'static str {
    "ok"
}

async fn readyz(State(service): Api) -> Result<&'static str, ApiError> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    if !service.fleet().nodes().are_kept() {
        let hint = "see the service's log, and whether the disk of its state directory is full";
        return Err(ApiError::unavailable("the database of nodes fails", hint));
    }
    if !service.audit().is_sound() {
        let hint = "see the service's log, and whether the disk of its state directory is full";
        return Err(ApiError::unavailable("the audit log fails", hint));
    }
    Ok("ok")
}

async fn info(State(service): Api) -> Json<Info> {
    Json(service.info())
}

async fn openapi() -> Json<serde_json::Value> {
    Json(openapi::document(&routes()))
}

/// A file of the page, or nothing.
fn no_such_call(page: &Page, request: &Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    if grpc::is_call(request) {
        return grpc::unimplemented(path);
    }
    page.answer(method, path, request.headers())
        .unwrap_or_else(|| {
            ApiError::not_found("no such call", format!("there is no {method} {path}"))
                .into_response()
        })
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
