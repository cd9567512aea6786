//! Uploads over HTTP: in one request, in two, or chunk by chunk (spec.md, "Pushing blobs").

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_core::reference::is_repository;
use chalk_store::BlobError;
use chalk_store::sink::ChunkSink;
use chalk_store::uploads::{Session, UploadError, UploadId, Uploads};
use http_body_util::BodyExt as _;

use super::manifests::value;
use super::ranges::Chunk;
use super::{Api, CONTENT_DIGEST, Query, RegistryLimits, UPLOAD_ID, digest, text};
use crate::places::IMAGES;
use crate::registry::error::EmbeddedError;
use crate::registry::view::{self, Part, View};

/// How long a request waits for the one before it, whose client may just have vanished.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Open uploads and the repositories that they are for.
#[derive(Debug)]
pub(super) struct Sessions {
    uploads: Uploads,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Uploads of an earlier process join when they are asked for again.
    repositories: HashMap<UploadId, String>,
    swept: Option<Instant>,
}

impl Sessions {
    pub(super) fn new(uploads: Uploads, limits: &RegistryLimits) -> Self {
        let sessions = Self {
            uploads,
            table: Mutex::default(),
        };
        if let Err(error) = sessions.uploads.sweep(limits.upload_expiry) {
            tracing::warn!(%error, "expired uploads could not be removed");
        }
        sessions
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is one insert or remove: a panic elsewhere spoils nothing.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, repository: &str, limits: &RegistryLimits) -> Result<UploadId, EmbeddedError> {
        let mut table = self.table();
        let now = Instant::now();
        let full = table.repositories.len() >= limits.uploads;
        if full || table.swept.is_none_or(|at| now - at > limits.sweep_every()) {
            self.sweep(&mut table, limits)?;
        }
        if table.repositories.len() >= limits.uploads {
            return Err(EmbeddedError::TooManyUploads(limits.uploads));
        }
        let id = self.uploads.start()?;
        table.repositories.insert(id.clone(), repository.to_owned());
        Ok(id)
    }

    /// Throws away what expired, and forgets what is gone.
    fn sweep(&self, table: &mut Table, limits: &RegistryLimits) -> Result<(), EmbeddedError> {
        self.uploads.sweep(limits.upload_expiry)?;
        table
            .repositories
            .retain(|id, _| self.uploads.received(id).is_ok());
        table.swept = Some(Instant::now());
        Ok(())
    }

    /// The upload `id`, if it is one of `repository`.
    fn find(&self, repository: &str, id: &str) -> Result<UploadId, EmbeddedError> {
        let id: UploadId = id.parse().map_err(|_| EmbeddedError::UploadUnknown)?;
        self.uploads.received(&id)?;
        let mut table = self.table();
        let owner = table.repositories.entry(id.clone());
        if owner.or_insert_with(|| repository.to_owned()) == repository {
            Ok(id)
        } else {
            Err(EmbeddedError::UploadUnknown)
        }
    }

    fn forget(&self, id: &UploadId) {
        self.table().repositories.remove(id);
    }
}

/// Throws uploads away when they expire, for as long as the router is there.
pub(super) async fn keep_sweeping(api: Weak<Api>) {
    while let Some(every) = api.upgrade().map(|api| api.limits.sweep_every()) {
        tokio::time::sleep(every).await;
        let Some(api) = api.upgrade() else {
            return;
        };
        let swept = api.blocking(|api| {
            let sessions = &api.sessions;
            sessions.sweep(&mut sessions.table(), &api.limits)
        });
        if let Err(error) = swept.await {
            tracing::warn!(%error, "expired uploads could not be removed");
        }
    }
}

/// `POST`: mounts a blob, takes a whole one, or opens an upload.
pub(super) async fn start(
    api: &Arc<Api>,
    name: &str,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    let length = text(headers, header::CONTENT_LENGTH).and_then(|t| t.parse().ok());
    check_room(view, name, length.unwrap_or(0))?;
    // A digest that we do not know cannot be here: then the client uploads, as for any other.
    if let Some(wanted) = query
        .get("mount")
        .and_then(|text| text.parse::<AnyDigest>().ok())
        && mount(api, name, &wanted, query.get("from"), view).await?
    {
        return Ok(created(name, &wanted));
    }
    let whole = query.get("digest").map(digest).transpose()?;
    let algorithm = match (&whole, query.get("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, Some(text)) => text.parse()?,
        (None, None) => Algorithm::Sha256,
    };
    let repository = name.to_owned();
    let id = api
        .blocking(move |api| {
            let id = api.sessions.start(&repository, &api.limits)?;
            if algorithm != Algorithm::Sha256 {
                api.sessions.uploads.session(&id, None)?.expect(algorithm);
            }
            Ok(id)
        })
        .await?;
    let Some(expected) = whole else {
        return Ok(accepted(name, &id, 0));
    };
    let taken = take(api, &id, algorithm, headers, body).await;
    match taken {
        Ok(session) => finish(api, name, session, expected, view).await,
        Err(error) => {
            // The client was never told the name of this upload.
            let _ = drop_upload(api, id).await;
            Err(error)
        }
    }
}

/// `GET`: how far the upload is.
pub(super) async fn status(
    api: &Arc<Api>,
    name: &str,
    id: &str,
) -> Result<Response, EmbeddedError> {
    let (repository, id) = (name.to_owned(), id.to_owned());
    let (id, received) = api
        .blocking(move |api| {
            let id = api.sessions.find(&repository, &id)?;
            let received = api.sessions.uploads.received(&id)?;
            Ok((id, received))
        })
        .await?;
    let mut response = accepted(name, &id, received);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// `PATCH`: the next chunk, or all of the rest as one stream.
pub(super) async fn patch(
    api: &Arc<Api>,
    name: &str,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, EmbeddedError> {
    let id = find(api, name, id).await?;
    match take(api, &id, Algorithm::Sha256, headers, body).await {
        Ok(session) => Ok(accepted(name, &id, session.received())),
        Err(EmbeddedError::OutOfOrder { received }) => Ok(out_of_order(name, &id, received)),
        Err(error) => Err(error),
    }
}

/// `PUT`: the last chunk, if any, and the digest of the whole.
pub(super) async fn put(
    api: &Arc<Api>,
    name: &str,
    id: &str,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    let expected = digest(query.get("digest").unwrap_or_default())?;
    let id = find(api, name, id).await?;
    match take(api, &id, expected.algorithm(), headers, body).await {
        Ok(session) => finish(api, name, session, expected, view).await,
        Err(EmbeddedError::OutOfOrder { received }) => Ok(out_of_order(name, &id, received)),
        Err(error) => Err(error),
    }
}

/// `DELETE`: throws the upload away.
pub(super) async fn cancel(
    api: &Arc<Api>,
    name: &str,
    id: &str,
) -> Result<Response, EmbeddedError> {
    let id = find(api, name, id).await?;
    drop_upload(api, id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn find(api: &Arc<Api>, name: &str, id: &str) -> Result<UploadId, EmbeddedError> {
    let (repository, id) = (name.to_owned(), id.to_owned());
    api.blocking(move |api| api.sessions.find(&repository, &id))
        .await
}

async fn drop_upload(api: &Arc<Api>, id: UploadId) -> Result<(), EmbeddedError> {
    api.blocking(move |api| {
        api.sessions.uploads.cancel(&id)?;
        api.sessions.forget(&id);
        Ok(())
    })
    .await
}

/// Makes a blob of another repository part of this one; without `from`, of any (spec.md,
/// "Mounting a blob from another repository").
async fn mount(
    api: &Arc<Api>,
    name: &str,
    wanted: &AnyDigest,
    from: Option<&str>,
    view: Option<&Arc<dyn View>>,
) -> Result<bool, EmbeddedError> {
    if let Some(view) = view {
        // Whoever names no repository may have what is theirs under an image hash.
        let source = from.unwrap_or(IMAGES);
        let part = wanted.to_string();
        if !view.allows(source, Part::Blob(&part), false).await {
            return Ok(false);
        }
    }
    let told = view.cloned();
    let (repository, from) = (name.to_owned(), from.map(str::to_owned));
    let wanted = wanted.clone();
    api.blocking(move |api| {
        let there = match &from {
            Some(from) => is_repository(from) && api.registry.blob(from, &wanted)?.is_some(),
            None => true,
        };
        match there.then(|| api.registry.link_blob(&repository, &wanted)) {
            None | Some(Err(EmbeddedError::BlobUnknown(_))) => Ok(false),
            Some(linked) => {
                linked?;
                view::tell(told.as_ref(), &api.registry, &repository, &wanted)?;
                Ok(true)
            }
        }
    })
    .await
}

/// Writes a request's body to the end of an upload that may be named by `algorithm`. What came
/// before the client broke off stays.
async fn take(
    api: &Arc<Api>,
    id: &UploadId,
    algorithm: Algorithm,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Session, EmbeddedError> {
    let length = text(headers, header::CONTENT_LENGTH).and_then(|t| t.parse::<u64>().ok());
    let chunk = match text(headers, header::CONTENT_RANGE) {
        Some(range) => Some(chunk(range, length)?),
        None => None,
    };
    let mut session = open(api, id, chunk.map(|chunk| chunk.start)).await?;
    session.expect(algorithm);
    let end = chunk.map(|chunk| chunk.start.saturating_add(chunk.length));
    let limit = api.limits.blob_bytes;
    let too_large = EmbeddedError::TooLarge {
        what: "the blob",
        limit,
    };
    let mut received = session.received();
    if length.is_some_and(|length| received.saturating_add(length) > limit) {
        return Err(too_large);
    }
    let sink = ChunkSink::new(session);
    let mut broken = None;
    loop {
        let frame = match tokio::time::timeout(api.limits.idle, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                broken = Some(EmbeddedError::UploadInvalid(
                    "the upload broke off".to_owned(),
                ));
                break;
            }
            Err(_) => {
                broken = Some(EmbeddedError::UploadInvalid(
                    "the upload stalled".to_owned(),
                ));
                break;
            }
        };
        let Ok(part) = frame.into_data() else {
            continue;
        };
        received += part.len() as u64;
        if received > limit {
            broken = Some(too_large);
            break;
        }
        if end.is_some_and(|end| received > end) {
            broken = Some(EmbeddedError::SizeInvalid(
                "the chunk has more bytes than its Content-Range".to_owned(),
            ));
            break;
        }
        if !sink.send(part).await {
            break;
        }
    }
    let failed = |source: io::Error| EmbeddedError::Io {
        action: "write an upload into",
        path: api.registry.blobs().root().to_owned(),
        source,
    };
    let (session, written) = sink.finish().await.map_err(failed)?;
    written.map_err(failed)?;
    match (broken, end) {
        (None, Some(end)) if session.received() < end => Err(EmbeddedError::SizeInvalid(
            "the chunk has fewer bytes than its Content-Range".to_owned(),
        )),
        (None, _) => Ok(session),
        (Some(error), _) => Err(error),
    }
}

/// Takes an upload for writing, once the request before has let go of it.
async fn open(api: &Arc<Api>, id: &UploadId, at: Option<u64>) -> Result<Session, EmbeddedError> {
    let started = Instant::now();
    loop {
        let wanted = id.clone();
        // The outer result is of the task, the inner one of the upload.
        let opened = api
            .blocking(move |api| Ok(api.sessions.uploads.session(&wanted, at)))
            .await?;
        match opened {
            Err(UploadError::Busy(_)) if started.elapsed() < BUSY_WAIT => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return Ok(other?),
        }
    }
}

/// Gives the upload its name in the store and in the repository.
async fn finish(
    api: &Arc<Api>,
    name: &str,
    session: Session,
    expected: AnyDigest,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    if let Err(refused) = check_room(view, name, session.received()) {
        let id = session.id().clone();
        drop(session);
        drop_upload(api, id).await?;
        return Err(refused);
    }
    let told = view.cloned();
    let (repository, digest) = (name.to_owned(), expected.clone());
    api.blocking(move |api| {
        // Right or wrong, it is over.
        api.sessions.forget(session.id());
        match session.finish(&digest) {
            Err(UploadError::Blob(BlobError::Mismatch {
                expected, actual, ..
            })) => return Err(EmbeddedError::DigestMismatch { expected, actual }),
            other => other?,
        };
        api.registry.link_blob(&repository, &digest)?;
        view::tell(told.as_ref(), &api.registry, &repository, &digest)
    })
    .await?;
    Ok(created(name, &expected))
}

fn check_room(view: Option<&Arc<dyn View>>, name: &str, bytes: u64) -> Result<(), EmbeddedError> {
    let room = view.map_or(Ok(()), |view| view.room(name, bytes));
    room.map_err(EmbeddedError::Denied)
}

/// The chunk that a `Content-Range` announces, which must have the length of the body.
fn chunk(text: &str, length: Option<u64>) -> Result<Chunk, EmbeddedError> {
    let chunk = Chunk::parse(text).ok_or_else(|| {
        EmbeddedError::UploadInvalid(format!(
            "`{text}` is no Content-Range: expected `first-last`, in bytes"
        ))
    })?;
    match length {
        Some(length) if length != chunk.length => Err(EmbeddedError::SizeInvalid(format!(
            "Content-Range has {} bytes, Content-Length {length}",
            chunk.length
        ))),
        _ => Ok(chunk),
    }
}

fn created(name: &str, digest: &AnyDigest) -> Response {
    let mut response = StatusCode::CREATED.into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::LOCATION,
        value(&format!("/v2/{name}/blobs/{digest}")),
    );
    headers.insert(CONTENT_DIGEST, value(&digest.to_string()));
    response
}

/// Where the upload goes on and how far it is. `0-0` also stands for nothing at all: the form has
/// no other way to say it.
fn accepted(name: &str, id: &UploadId, received: u64) -> Response {
    let mut response = StatusCode::ACCEPTED.into_response();
    let headers = response.headers_mut();
    let location = format!("/v2/{name}/blobs/uploads/{id}");
    headers.insert(header::LOCATION, value(&location));
    let range = format!("0-{}", received.saturating_sub(1));
    headers.insert(header::RANGE, value(&range));
    headers.insert(UPLOAD_ID, value(&id.to_string()));
    response
}

fn out_of_order(name: &str, id: &UploadId, received: u64) -> Response {
    let refusal = super::Refusal::from(EmbeddedError::OutOfOrder { received });
    let mut response = refusal.into_response();
    let status = accepted(name, id, received);
    for (name, value) in status.headers() {
        if name != header::CONTENT_LENGTH {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
