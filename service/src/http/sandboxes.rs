//! Sandboxes: start, list, follow, and everything that is done with one that runs.

use axum::body::Bytes;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chalk_core::Reference;
use chalk_core::wire::{
    BlobList, ExecRequest, ProcessStatus, Sandbox, SandboxProcess, SandboxReply, SandboxRequest,
    SignalRequest, StopRequest, TerminalSize,
};
use futures_util::stream;
use serde::Deserialize;

use super::Api;
use super::audit::Made;
use super::body::{Json, Path, Query, Stream, data};
use super::problem::{ApiError, ApiResult};
use super::sse;
use crate::access::Principal;
use crate::catalog::CatalogError;
use crate::places::{self, IMAGES};
use crate::projects::Scope;
use crate::regions::ImageAt;
use crate::sandboxes::{self, Wanted};
use crate::service::Service;

/// The image that a text means: a hash prefix or name, what one of our registries gives it by, or
/// the reference of an imported base.
async fn image(service: &Service, scope: &Scope, text: &str) -> ApiResult<ImageAt> {
    let catalog = service.catalog();
    let error = match catalog.resolve(scope, text).await {
        Ok(_) => return super::warms::image(service, scope, text).await,
        Err(error @ CatalogError::NotFound(_)) => error,
        Err(error) => return Err(error.into()),
    };
    let Ok(reference) = text.parse::<Reference>() else {
        return Err(error.into());
    };
    let name = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or("latest").to_owned(),
    };
    let (imports, tag) = places::import(&reference);
    let imported = match reference.digest() {
        Some(_) => name.clone(),
        None => tag,
    };
    let own = service
        .fleet()
        .regions()
        .repository(&reference)
        .map(|repository| (repository, name));
    for (repository, name) in own.into_iter().chain([(imports, imported)]) {
        if !scope.reads(&repository) {
            let hash = format!("sha256:{name}").parse();
            let by_hash = repository == IMAGES && hash.is_ok_and(|hash| scope.has_image(&hash));
            let digest = name.parse();
            let by_digest = repository == IMAGES && digest.is_ok_and(|d| scope.has_blob(&d));
            if !by_hash && !by_digest {
                continue;
            }
        }
        let head = catalog.regional().head_manifest(&repository, &name).await?;
        if let Some(head) = head {
            let hash = format!("sha256:{name}").parse().ok();
            return Ok(ImageAt {
                digest: head.digest,
                hash: hash.filter(|_| repository == IMAGES),
                repository,
                name: text.to_owned(),
            });
        }
    }
    Err(error.into())
}

pub(super) async fn start(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Json(request): Json<SandboxRequest>,
) -> ApiResult<Response> {
    let reply = create(&service, &scope, request, &scope).await?;
    let made = match &reply {
        SandboxReply::Accepted(sandbox) => Made::New(sandbox.id.clone()),
        SandboxReply::NeedsBlobs(_) => Made::Nothing,
    };
    Ok((Extension(made), axum::Json(reply)).into_response())
}

/// Starts a sandbox, or says which blobs of its mounts are missing to whoever named them (`mounts`).
///
/// # Errors
/// When the request is wrong, there is no such image, or no node can take it.
pub(crate) async fn create(
    service: &Service,
    scope: &Scope,
    request: SandboxRequest,
    mounts: &Scope,
) -> ApiResult<SandboxReply> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let image = image(service, scope, &request.image).await?;
    let digests = sandboxes::missing(service.blobs(), mounts, &request).await?;
    if !digests.is_empty() {
        return Ok(SandboxReply::NeedsBlobs(BlobList { digests }));
    }
    let sandboxes = service.fleet().sandboxes();
    let sandbox = sandboxes.start(scope.project(), request, image).await?;
    Ok(SandboxReply::Accepted(Box::new(sandbox)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    all: bool,
    node: Option<String>,
    image: Option<String>,
}

pub(super) async fn list(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Vec<Sandbox>>> {
    let mut hash = None;
    if let Some(text) = &query.image {
        hash = match service.catalog().resolve(&scope, text).await {
            Ok(id) => Some(id.hash()),
            Err(CatalogError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
    }
    let fits = |sandbox: &Sandbox| match (&query.image, hash) {
        (None, _) => true,
        (Some(_), Some(hash)) => sandbox.image_hash == Some(hash),
        (Some(text), None) => sandbox.image == *text,
    };
    let sandboxes = service.fleet().sandboxes();
    Ok(axum::Json(sandboxes.list(
        &scope,
        query.all,
        query.node.as_deref(),
        fits,
    )))
}

pub(super) async fn get(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Sandbox>> {
    let sandboxes = service.fleet().sandboxes();
    Ok(axum::Json(sandboxes.get(&sandboxes.seen(&scope, &id)?)?))
}

pub(super) async fn stop(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Json(request): Json<StopRequest>,
) -> ApiResult<axum::Json<Sandbox>> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    Ok(axum::Json(
        sandboxes.stop(&id, request.grace_seconds).await?,
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    #[serde(default)]
    force: bool,
}

pub(super) async fn remove(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> ApiResult<StatusCode> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    sandboxes.remove(&id, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn exec(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> ApiResult<axum::Json<SandboxProcess>> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    Ok(axum::Json(sandboxes.exec(&id, request).await?))
}

pub(super) async fn processes(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Vec<ProcessStatus>>> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    Ok(axum::Json(sandboxes.processes(&id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputQuery {
    after: Option<u64>,
    follow: Option<bool>,
}

pub(super) async fn output(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((id, process)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let wanted = Wanted {
        process,
        after: sse::after(&headers, query.after)?,
        follow: query.follow.unwrap_or(true),
    };
    let fleet = service.fleet();
    let id = fleet.sandboxes().seen(&scope, &id)?;
    let output = fleet.sandboxes().follow(&id, wanted).await?;
    let events = stream::unfold(
        (output, fleet.stop().clone()),
        |(mut output, stop)| async move {
            let next = tokio::select! {
                next = tokio::time::timeout(sse::KEEP_ALIVE, output.next()) => next,
                () = stop.cancelled() => return None,
            };
            let event = match next {
                Err(_) => None,
                Ok(event) => {
                    let event = event?;
                    let mut text = Vec::with_capacity(event.json.len() + 40);
                    sse::frame(&mut text, event.seq, &event.json);
                    Some(Bytes::from(text))
                }
            };
            Some((event, (output, stop)))
        },
    );
    let following = service.metrics().requests().follows("sandbox");
    Ok(sse::answer(events, following))
}

/// Where a node sends output for a client.
pub(super) async fn pass_on(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Path(ticket): Path<String>,
    request: Request,
) -> ApiResult<StatusCode> {
    let (node, _) = super::agent::node(who)?;
    let fleet = service.fleet();
    let session = fleet.nodes().session(&node)?;
    let streams = fleet.sandboxes().streams();
    let passed = streams.pass_on(&ticket, &session, request.into_body());
    tokio::select! {
        passed = passed => passed?,
        () = fleet.stop().cancelled() => {}
    }
    Ok(StatusCode::OK)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InputQuery {
    #[serde(default)]
    close: bool,
}

pub(super) async fn input(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((id, process)): Path<(String, String)>,
    Query(query): Query<InputQuery>,
    request: Request,
) -> ApiResult<StatusCode> {
    let limit = service.settings().limits.request.as_u64();
    let mut stream = Stream::new(request.headers(), limit, "limits.request")?;
    let mut body = data(request.into_body());
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    let mut held = Bytes::new();
    // What has come is given on while the client sends more; the end goes with the last of it.
    while let Some(chunk) = stream.next(&mut body).await? {
        if !held.is_empty() {
            sandboxes.input(&id, &process, &held, false).await?;
        }
        held = chunk;
    }
    sandboxes.input(&id, &process, &held, query.close).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn resize(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((id, process)): Path<(String, String)>,
    Json(size): Json<TerminalSize>,
) -> ApiResult<StatusCode> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    sandboxes.resize(&id, &process, size).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn signal(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path((id, process)): Path<(String, String)>,
    Json(request): Json<SignalRequest>,
) -> ApiResult<StatusCode> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    sandboxes.signal(&id, &process, request.signal).await?;
    Ok(StatusCode::NO_CONTENT)
}
