//! Builds: start, list, watch, cancel.

use std::convert::Infallible;
use std::time::Instant;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use chalk_core::wire::{
    BlobList, Build, BuildReply, BuildRequest, Event, EventKind, VerifyRequest, problem,
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;

use super::Api;
use super::audit::Made;
use super::body::{Json, Path, Query};
use super::problem::{ApiError, ApiResult};
use super::specs::hash_of;
use super::sse;
use crate::access::Principal;
use crate::builds::{BuildsError, Events, Line, Wanted};
use crate::engine::Compression;
use crate::places::Name;
use crate::projects::Scope;
use crate::resolve;
use crate::secrets;
use crate::service::Service;

/// Builds that are listed unless the client says how many.
const LIST: usize = 50;
/// Most builds that are listed.
const LIST_LIMIT: usize = 1000;

pub(super) async fn start(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Extension(scope): Extension<Scope>,
    Json(request): Json<BuildRequest>,
) -> ApiResult<Response> {
    let reply = begin(&service, Some(&who), &scope, request).await?;
    let made = match &reply {
        BuildReply::Accepted(build) => Made::New(build.id.clone()),
        BuildReply::Reused(build) if build.name.is_some() => Made::New(build.id.clone()),
        BuildReply::Reused(_) | BuildReply::NeedsBlobs(_) => Made::Nothing,
    };
    Ok((Extension(made), axum::Json(reply)).into_response())
}

/// Finds an image built, shares a build of it, or queues one. Secrets of the service are those of
/// `who`.
pub(crate) async fn begin(
    service: &Service,
    who: Option<&Principal>,
    scope: &Scope,
    request: BuildRequest,
) -> ApiResult<BuildReply> {
    let began = Instant::now();
    let BuildRequest {
        spec,
        name,
        force,
        secrets,
        cancel_on_disconnect,
        compression,
    } = request;
    let name = name.or_else(|| spec.name.clone());
    let name = name.map(|name| parse_name(scope, &name)).transpose()?;
    let compression = match compression {
        Some(word) => Some(word.parse::<Compression>().map_err(|e| {
            ApiError::bad_request("the request is wrong", format!("compression: {e}"), "")
        })?),
        None => None,
    };
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let recipe_hash = spec.recipe_hash();
    let (catalog, blobs) = (service.catalog(), service.blobs());
    let ours = (&**catalog, &**service.fleet().regions());
    let spec = resolve::pin_seen(service.bases(), scope, ours, blobs, spec).await?;
    let image_hash = hash_of(&spec)?;
    let mut wanted = Wanted {
        spec,
        image_hash,
        recipe_hash,
        name,
        project: scope.project().clone(),
        force,
        secrets: secrets.into_iter().map(|(k, v)| (k, v.into())).collect(),
        cancel_on_disconnect,
        compression,
        verify: false,
    };
    // Whoever has all that it is made of builds what others have built, too, and has it then.
    if !scope.has_image(&image_hash) {
        let digests = resolve::needed(blobs, scope, &wanted.spec).await?;
        if !digests.is_empty() {
            return Ok(BuildReply::NeedsBlobs(BlobList { digests }));
        }
        keep_apart(service, &wanted).await?;
    }
    if wanted.forced_from().is_none()
        && let Some(known) = service.catalog().find(&image_hash).await?
        // Of an image that rotted a part may have been set aside: then it is made anew.
        && (!service.blobs().is_damaged() || service.catalog().is_whole(&image_hash).await)
    {
        scope
            .projects()
            .keep_image(scope.project(), &image_hash)
            .await?;
        catalog.hand_over(scope, &image_hash).await?;
        if let Some(name) = &wanted.name {
            service.catalog().ensure_name(&image_hash, name).await?;
        }
        let build = service.builds().reused(&wanted, known.digest);
        service.builds().metrics().skipped(began.elapsed());
        return Ok(BuildReply::Reused(build));
    }
    let own = &service.settings().secrets;
    wanted.secrets = secrets::fill(own, who, &wanted.spec, wanted.secrets).await?;
    if let Some(build) = service.builds().join(&wanted) {
        return Ok(BuildReply::Accepted(build));
    }
    let digests = resolve::needed(service.blobs(), scope, &wanted.spec).await?;
    if !digests.is_empty() {
        return Ok(BuildReply::NeedsBlobs(BlobList { digests }));
    }
    // It is the project's before anybody can find it.
    scope
        .projects()
        .keep_image(scope.project(), &image_hash)
        .await?;
    let build = service.builds().start(wanted).await?;
    Ok(BuildReply::Accepted(build))
}

/// An image that came of secrets is its project's alone, as long as the project has it: another one's
/// build of the same declaration would be taken for it, or it for that one's.
async fn keep_apart(service: &Service, wanted: &Wanted) -> ApiResult<()> {
    if !resolve::uses_secrets(&wanted.spec)
        || service.catalog().find(&wanted.image_hash).await?.is_none()
    {
        return Ok(());
    }
    Err(ApiError::new(
        problem::CONFLICT,
        409,
        "the image is another project's",
        "its declaration uses secrets, and another project has built it with its own",
        "give the declaration something of its own, such as an environment variable with the name of the project",
    ))
}

/// Builds an image anew beside the published one, to compare the two.
pub(super) async fn verify(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Json(request): Json<VerifyRequest>,
) -> ApiResult<axum::Json<Build>> {
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let catalog = service.catalog();
    let image_hash = catalog.resolve(&scope, &id).await?.hash();
    let image = catalog.show(&scope, &image_hash).await?;
    let spec = catalog.spec(&image_hash, &image.digest).await?;
    let digests = resolve::needed(service.blobs(), &scope, &spec).await?;
    if let Some(first) = digests.first() {
        return Err(ApiError::bad_request(
            "the image cannot be built anew",
            format!(
                "{} of the files that it was made of are no longer in the store, first {first}",
                digests.len()
            ),
            "build the declaration again, which uploads them: `chalk compute image build FILE`",
        ));
    }
    let given = request.secrets.into_iter();
    let given = given.map(|(name, value)| (name, value.into())).collect();
    let own = &service.settings().secrets;
    let secrets = secrets::fill(own, Some(&who), &spec, given).await?;
    let wanted = Wanted {
        recipe_hash: spec.recipe_hash(),
        spec,
        image_hash,
        name: None,
        project: scope.project().clone(),
        force: true,
        secrets,
        cancel_on_disconnect: request.cancel_on_disconnect,
        compression: None,
        verify: true,
    };
    if let Some(build) = service.builds().join(&wanted) {
        return Ok(axum::Json(build));
    }
    Ok(axum::Json(service.builds().start(wanted).await?))
}

pub(super) fn parse_name(scope: &Scope, text: &str) -> ApiResult<Name> {
    scope
        .name(text)
        .map_err(|e| ApiError::bad_request("the name is wrong", format!("{e}"), ""))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    limit: Option<usize>,
    name: Option<String>,
    hash: Option<String>,
}

/// A build that is seen.
async fn seen(service: &Service, scope: &Scope, id: &str) -> ApiResult<Build> {
    let build = service.builds().get(id).await?;
    if !scope.sees(&build.project) {
        return Err(BuildsError::Unknown(id.to_owned()).into());
    }
    Ok(build)
}

pub(super) async fn list(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Vec<Build>>> {
    let limit = query.limit.unwrap_or(LIST).min(LIST_LIMIT);
    let name = query.name.map(|name| parse_name(&scope, &name));
    let name = name.transpose()?;
    let hash = query.hash.map(|hash| {
        let hex = hash.strip_prefix("sha256:").unwrap_or(&hash);
        hex.to_owned()
    });
    let name = name.map(|name| name.to_string());
    let project = scope.only().map(str::to_owned);
    let builds = service.builds().list(limit, None, project, name, hash);
    Ok(axum::Json(builds.await?))
}

pub(super) async fn get(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Build>> {
    Ok(axum::Json(seen(&service, &scope, &id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelQuery {
    #[serde(default)]
    leave: bool,
}

pub(super) async fn cancel(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Query(query): Query<CancelQuery>,
) -> ApiResult<axum::Json<Build>> {
    seen(&service, &scope, &id).await?;
    let builds = service.builds();
    let build = match query.leave {
        true => builds.leave(&id).await?,
        false => builds.cancel(&id).await?,
    };
    Ok(axum::Json(build))
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
    seen(&service, &scope, &id).await?;
    let events = service.builds().follow(&id, after).await?;
    let sent = batches(events, true).map(|batch| batch.map(|lines| frames(&lines)));
    let following = service.metrics().requests().follows("build");
    Ok(sse::answer(sent, following))
}

/// All events of a batch go out at once, since a long log has millions.
fn frames(lines: &[Line]) -> Bytes {
    let mut text = Vec::new();
    for Line { seq, json } in lines {
        sse::frame(&mut text, *seq, json.as_bytes());
    }
    text.into()
}

/// The events as they are kept, in batches; ends with the build if `wait`, else with what there
/// is. `None` stands for a while in which nothing happened.
fn batches(events: Events, wait: bool) -> impl Stream<Item = Option<Vec<Line>>> + Send {
    stream::unfold(events, move |mut events| async move {
        let batch = match tokio::time::timeout(sse::KEEP_ALIVE, events.next(wait)).await {
            Err(_) => None,
            Ok(Ok(batch)) => Some(batch?),
            Ok(Err(error)) => {
                tracing::error!(%error, "the events of a build cannot be read");
                return None;
            }
        };
        Some((batch, events))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogsQuery {
    step: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// The output of a build as plain text.
pub(super) async fn logs(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> ApiResult<Response> {
    seen(&service, &scope, &id).await?;
    let events = service.builds().follow(&id, 0).await?;
    let text = batches(events, query.follow).map(move |batch| {
        let mut text = String::new();
        for line in batch.unwrap_or_default() {
            if let Some(piece) = output(&line, query.step) {
                text.push_str(&piece);
            }
        }
        Ok::<_, Infallible>(Bytes::from(text))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(text)).into_response())
}

/// The output in an event, if it has some of that step.
fn output(line: &Line, wanted: Option<usize>) -> Option<String> {
    let event: Event = serde_json::from_str(&line.json).ok()?;
    match event.kind {
        EventKind::Log { step, text, .. } if wanted.is_none_or(|s| s == step) => Some(text),
        _ => None,
    }
}
