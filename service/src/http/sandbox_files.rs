//! Files of sandboxes: for clients, and for the nodes on which the sandboxes are.

use std::io;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::wire::agent::FileFailure;
use chalk_core::wire::{FileWritten, problem};
use futures_util::stream;
use rustix::io::Errno;
use serde::Deserialize;

use super::Api;
use super::body::{Path, Query, Stream, data};
use super::problem::{ApiError, ApiResult};
use crate::access::Principal;
use crate::projects::Scope;
use crate::sandboxes::FileError;

impl From<FileError> for ApiError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Problem(problem) => problem.into(),
            FileError::Failed(failure) => refused(failure),
        }
    }
}

/// What the system inside a sandbox said no to.
fn refused(failure: FileFailure) -> ApiError {
    let (status, kind) = match Errno::from_raw_os_error(failure.errno) {
        Errno::NOENT => (404, problem::NOT_FOUND),
        Errno::ACCESS | Errno::PERM => (403, problem::FILE_FAILED),
        Errno::INVAL | Errno::NAMETOOLONG | Errno::LOOP => (400, problem::FILE_FAILED),
        Errno::NOSPC | Errno::DQUOT => (507, problem::FILE_FAILED),
        Errno::IO => (500, problem::FILE_FAILED),
        // A directory, something that is no file, a read-only place.
        _ => (409, problem::FILE_FAILED),
    };
    let title = "the file of the sandbox cannot be used";
    ApiError::new(kind, status, title, failure.detail, "")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    path: String,
}

pub(super) async fn read(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Query(query): Query<ReadQuery>,
) -> ApiResult<Response> {
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    let reader = sandboxes.read_file(&id, &query.path).await?;
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        let piece = reader.next().await;
        let piece = piece.map_err(|problem| io::Error::other(problem.detail))?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, reader)))
    });
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(pieces)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteQuery {
    path: String,
    mode: Option<String>,
}

pub(super) async fn write(
    State(service): Api,
    Extension(scope): Extension<Scope>,
    Path(id): Path<String>,
    Query(query): Query<WriteQuery>,
    request: Request,
) -> ApiResult<axum::Json<FileWritten>> {
    let mode = query.mode.map(|mode| {
        let number = u32::from_str_radix(&mode, 8).ok();
        number.filter(|mode| *mode <= 0o7777).ok_or_else(|| {
            let detail = format!("mode: `{mode}` is no octal number up to 7777");
            ApiError::bad_request("the parameters are wrong", detail, "")
        })
    });
    let mode = mode.transpose()?;
    let limit = service.settings().limits.blob.as_u64();
    let stream = Stream::new(request.headers(), limit, "limits.blob")?;
    let body = data(request.into_body());
    let pieces = stream::try_unfold((stream, body), |(mut stream, mut body)| async move {
        let piece = stream.next(&mut body).await;
        let piece = piece.map_err(|error| io::Error::other(error.told().detail))?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, (stream, body))))
    });
    let sandboxes = service.fleet().sandboxes();
    let id = sandboxes.seen(&scope, &id)?;
    let written = sandboxes.write_file(&id, &query.path, mode, Box::pin(pieces));
    let bytes = written.await?;
    Ok(axum::Json(FileWritten { bytes }))
}

/// Where a node sends a file for a client.
pub(super) async fn pass_on(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Path(ticket): Path<String>,
    request: Request,
) -> ApiResult<StatusCode> {
    let (node, _) = super::agent::node(who)?;
    let fleet = service.fleet();
    let session = fleet.nodes().session(&node)?;
    let transfers = fleet.sandboxes().transfers();
    let passed = transfers.pass_on(&ticket, &session, request.into_body());
    tokio::select! {
        passed = passed => passed?,
        () = fleet.stop().cancelled() => {}
    }
    Ok(StatusCode::OK)
}

/// Where a node gets a file of a client.
pub(super) async fn hand_over(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Path(ticket): Path<String>,
) -> ApiResult<Response> {
    let (node, _) = super::agent::node(who)?;
    let fleet = service.fleet();
    let session = fleet.nodes().session(&node)?;
    let body = fleet.sandboxes().transfers().hand_over(&ticket, &session)?;
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, body).into_response())
}
