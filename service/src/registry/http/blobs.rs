//! Blobs over HTTP.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::Digest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::manifests::{is_known, value};
use super::{Api, CONTENT_DIGEST, digest, text};
use crate::registry::error::EmbeddedError;

/// Size of the parts that a blob is read and sent in, and how many may wait for the client.
const PART: usize = 256 * 1024;
const PARTS_AHEAD: usize = 4;

pub(super) async fn head(api: &Arc<Api>, name: &str, of: &str) -> Result<Response, EmbeddedError> {
    let digest = digest(of)?;
    let size = find(api, name, digest).await?;
    Ok(describe(&digest, size, StatusCode::OK, Body::empty()))
}

pub(super) async fn get(
    api: &Arc<Api>,
    name: &str,
    of: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    let digest = digest(of)?;
    let size = find(api, name, digest).await?;
    if is_known(headers, &digest) {
        let mut response = describe(&digest, 0, StatusCode::NOT_MODIFIED, Body::empty());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        return Ok(response);
    }
    let range = text(headers, header::RANGE).map(|range| parse_range(range, size));
    match range {
        None | Some(Range::Whole) => {
            // Read with the digest checked: rot is found, the answer breaks off, and the blob is
            // set aside so that it can be pushed anew.
            let blob = api
                .blocking(move |api| Ok(api.registry.blobs().open_verified(&digest)?))
                .await?;
            Ok(describe(&digest, size, StatusCode::OK, stream(blob)))
        }
        Some(Range::Part { first, last }) => {
            let length = last - first + 1;
            let part = api
                .blocking(move |api| {
                    let path = api.registry.blobs().path(&digest);
                    let mut file = api.registry.blobs().open_blob(&digest)?;
                    let sought = file.seek(SeekFrom::Start(first));
                    sought.map_err(EmbeddedError::io("seek in", path))?;
                    Ok::<io::Take<File>, _>(file.take(length))
                })
                .await?;
            let body = stream(part);
            let mut response = describe(&digest, length, StatusCode::PARTIAL_CONTENT, body);
            let range = value(&format!("bytes {first}-{last}/{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            Ok(response)
        }
        Some(Range::Outside) => {
            let mut response = StatusCode::RANGE_NOT_SATISFIABLE.into_response();
            let range = value(&format!("bytes */{size}"));
            response.headers_mut().insert(header::CONTENT_RANGE, range);
            Ok(response)
        }
    }
}

pub(super) async fn delete(
    api: &Arc<Api>,
    name: &str,
    of: &str,
) -> Result<Response, EmbeddedError> {
    let digest = digest(of)?;
    let repository = name.to_owned();
    let delete = api.blocking(move |api| api.registry.delete_blob(&repository, &digest));
    match delete.await? {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(EmbeddedError::BlobUnknown(digest)),
    }
}

async fn find(api: &Arc<Api>, name: &str, digest: Digest) -> Result<u64, EmbeddedError> {
    let repository = name.to_owned();
    let size = api
        .blocking(move |api| api.registry.blob(&repository, &digest))
        .await?;
    size.ok_or(EmbeddedError::BlobUnknown(digest))
}

fn describe(digest: &Digest, length: u64, status: StatusCode, body: Body) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_DIGEST, value(&digest.to_string()));
    headers.insert(header::ETAG, value(&format!("\"{digest}\"")));
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

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// All: also what a server may ignore, such as several ranges (RFC 9110, section 14.2).
    Whole,
    /// From `first` to `last`, both included.
    Part {
        /// First byte.
        first: u64,
        /// Last byte, which there is.
        last: u64,
    },
    /// Nothing that the blob has.
    Outside,
}

/// Reads a `Range` header for something of `size` bytes.
pub(crate) fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text
        .trim()
        .strip_prefix("bytes=")
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Whole;
    };
    let end = size.saturating_sub(1);
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Range::Whole,
        (Ok(first), Ok(_)) if first >= size => Range::Outside,
        (Ok(first), Ok(last)) => Range::Part {
            first,
            last: last.min(end),
        },
        (Ok(first), Err(_)) if !last.trim().is_empty() || first < size => match last.trim() {
            "" => Range::Part { first, last: end },
            _ => Range::Whole,
        },
        (Ok(_), Err(_)) => Range::Outside,
        (Err(_), Ok(count)) if first.trim().is_empty() => match count {
            0 => Range::Outside,
            _ if size == 0 => Range::Outside,
            count => Range::Part {
                first: size.saturating_sub(count),
                last: end,
            },
        },
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str, size: u64, expect: Range| {
            assert_eq!(parse_range(text, size), expect, "{text} of {size}");
        };
        let part = |first, last| Range::Part { first, last };
        check("bytes=0-9", 10, part(0, 9));
        check("bytes=0-99", 10, part(0, 9));
        check("bytes=5-", 10, part(5, 9));
        check("bytes=-3", 10, part(7, 9));
        check("bytes=-30", 10, part(0, 9));
        check("bytes=9-9", 10, part(9, 9));
        check("bytes=10-", 10, Range::Outside);
        check("bytes=10-20", 10, Range::Outside);
        check("bytes=0-0", 0, Range::Outside);
        check("bytes=0-", 0, Range::Outside);
        check("bytes=-1", 0, Range::Outside);
        check("bytes=-0", 10, Range::Outside);
        check("bytes=5-4", 10, Range::Whole);
        check("bytes=0-1,3-4", 10, Range::Whole);
        check("bytes=a-b", 10, Range::Whole);
        check("bytes=1-b", 10, Range::Whole);
        check("bytes=-", 10, Range::Whole);
        check("items=0-1", 10, Range::Whole);
        check("", 10, Range::Whole);
    }
}
