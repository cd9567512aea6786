//! Blobs over HTTP.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::AnyDigest;
use chalk_store::{Follower, VerifiedBlob};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::manifests::{etag, is_known, value};
use super::ranges::Range;
use super::{Api, CONTENT_DIGEST, digest, text};
use crate::registry::error::EmbeddedError;

/// Size of the parts that a blob is read and sent in, and how many may wait for the client.
const PART: usize = 256 * 1024;
const PARTS_AHEAD: usize = 4;

pub(super) async fn head(
    api: &Arc<Api>,
    name: &str,
    of: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    let digest = digest(of)?;
    let (repository, wanted) = (name.to_owned(), digest.clone());
    let size = api
        .blocking(move |api| size(api, &repository, &wanted))
        .await?;
    if is_known(headers, &digest) {
        return Ok(unchanged(&digest));
    }
    Ok(describe(&digest, size, StatusCode::OK, Body::empty()))
}

/// What of a blob is sent, open and at its start.
enum Opened {
    Known,
    Whole(Box<VerifiedBlob>),
    Coming(Follower, u64),
    Part(io::Take<File>, ContentRange),
    Outside(u64),
}

/// `first` to `last`, both included, of `size` bytes.
#[derive(Clone, Copy)]
struct ContentRange {
    first: u64,
    last: u64,
    size: u64,
}

pub(super) async fn get(
    api: &Arc<Api>,
    name: &str,
    of: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    let digest = digest(of)?;
    let known = is_known(headers, &digest);
    // Of another version of the blob, which there cannot be, only the whole would do (RFC 9110,
    // section 13.1.5).
    let same = text(headers, header::IF_RANGE).is_none_or(|tag| tag == etag(&digest));
    let range = text(headers, header::RANGE).filter(|_| same);
    let (repository, wanted, range) = (name.to_owned(), digest.clone(), range.map(str::to_owned));
    let opened = api
        .blocking(move |api| {
            let size = size(api, &repository, &wanted)?;
            match range.map_or(Range::Whole, |range| Range::parse(&range, size)) {
                _ if known => Ok(Opened::Known),
                // Read with the digest checked: rot is found, the answer breaks off, and the blob
                // is set aside so that it can be pushed anew.
                Range::Whole => {
                    if let Some((coming, size)) = api.registry.follow(&wanted)? {
                        return Ok(Opened::Coming(coming, size));
                    }
                    api.registry.bring(&wanted)?;
                    let blob = api.registry.blobs().open_verified(&wanted)?;
                    Ok(Opened::Whole(Box::new(blob)))
                }
                Range::Part { first, last } => {
                    let part = open_part(api, &wanted, first, last - first + 1)?;
                    Ok(Opened::Part(part, ContentRange { first, last, size }))
                }
                Range::Outside => Ok(Opened::Outside(size)),
            }
        })
        .await?;
    match opened {
        Opened::Known => Ok(unchanged(&digest)),
        Opened::Whole(blob) => {
            let size = blob.size();
            Ok(describe(&digest, size, StatusCode::OK, stream(blob)))
        }
        Opened::Coming(coming, size) => Ok(describe(&digest, size, StatusCode::OK, stream(coming))),
        Opened::Part(part, ContentRange { first, last, size }) => {
            let (length, body) = (part.limit(), stream(part));
            let mut response = describe(&digest, length, StatusCode::PARTIAL_CONTENT, body);
            let range = value(&format!("bytes {first}-{last}/{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            Ok(response)
        }
        Opened::Outside(size) => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            let range = value(&format!("bytes */{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            Ok(response)
        }
    }
}

fn open_part(
    api: &Api,
    digest: &AnyDigest,
    first: u64,
    length: u64,
) -> Result<io::Take<File>, EmbeddedError> {
    api.registry.bring(digest)?;
    let blobs = api.registry.blobs();
    let stored = blobs.resolve(digest)?;
    let stored = stored.ok_or_else(|| EmbeddedError::BlobUnknown(digest.clone()))?;
    let mut file = blobs.open_blob(&stored)?;
    file.seek(SeekFrom::Start(first))
        .map_err(EmbeddedError::io("seek in", blobs.path(&stored)))?;
    Ok(file.take(length))
}

pub(super) async fn delete(
    api: &Arc<Api>,
    name: &str,
    of: &str,
) -> Result<Response, EmbeddedError> {
    let digest = digest(of)?;
    let (repository, wanted) = (name.to_owned(), digest.clone());
    let delete = api.blocking(move |api| api.registry.delete_blob(&repository, &wanted));
    match delete.await? {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(EmbeddedError::BlobUnknown(digest)),
    }
}

fn size(api: &Api, repository: &str, digest: &AnyDigest) -> Result<u64, EmbeddedError> {
    let size = api.registry.blob(repository, digest)?;
    size.ok_or_else(|| EmbeddedError::BlobUnknown(digest.clone()))
}

/// The answer to who has the blob already.
fn unchanged(digest: &AnyDigest) -> Response {
    let mut response = describe(digest, 0, StatusCode::NOT_MODIFIED, Body::empty());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

fn describe(digest: &AnyDigest, length: u64, status: StatusCode, body: Body) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_DIGEST, value(&digest.to_string()));
    headers.insert(header::ETAG, value(&etag(digest)));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What a digest names never changes, but who may read it can.
    let cache = HeaderValue::from_static("private, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, cache);
    response
}

/// Sends what a blocking reader gives; a failure breaks the answer off. A client that goes away
/// ends the reading.
///
/// Each part waits until the one after it was read: a reader that checks a digest finds the fault
/// only at the end, and an answer whose every byte was sent would look whole.
pub(crate) fn stream(mut reader: impl Read + Send + 'static) -> Body {
    let (parts, body) = mpsc::channel::<io::Result<Bytes>>(PARTS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut held = None;
        loop {
            let mut part = vec![0; PART];
            let next = match reader.read(&mut part) {
                Ok(0) => None,
                Ok(count) => {
                    part.truncate(count);
                    Some(Bytes::from(part))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let _ = parts.blocking_send(Err(error));
                    return;
                }
            };
            let ended = next.is_none();
            if let Some(part) = std::mem::replace(&mut held, next)
                && parts.blocking_send(Ok(part)).is_err()
            {
                return;
            }
            if ended {
                return;
            }
        }
    });
    Body::from_stream(ReceiverStream::new(body))
}
