//! Serving blobs to other nodes: `GET` and `HEAD` of `/v2/NAME/blobs/DIGEST` (OCI distribution
//! specification, "Pulling blobs"), whatever the name, and nothing else.
//!
//! A blob that is on its way is served as it comes, so that a chain of nodes fills at the rate of
//! one link. One that waits for its turn is waited for a little; then the answer is 503 with
//! `Retry-After`, which tells the other node that it will come. Bytes of a blob on its way are not
//! verified yet: the receiver checks every digest, as it does with any mirror.

pub(crate) mod listen;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use chalk_core::Digest;
use futures_util::stream;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;

pub use listen::Bounds;

use crate::agent::AccessWatch;
use crate::cache::Cache;
use crate::pull::{Filled, Keeping, Spool, in_flight};

/// Bytes read and sent at once.
const CHUNK: u64 = 256 << 10;
/// How long a blob that waits for its turn is waited for: less than other nodes wait for a byte.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a blob on its way may stand still before its readers are told to go elsewhere.
const STALL: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Mirror {
    cache: Cache,
    access: AccessWatch,
}

/// Serves on `listener` within `bounds` until it is dropped. Calls need the bearer token that the
/// service gives to the nodes of a region; as long as there is none, all are refused.
pub async fn serve(listener: TcpListener, cache: Cache, access: AccessWatch, bounds: Bounds) {
    listen::serve(listener, router(cache, access), bounds).await;
}

fn router(cache: Cache, access: AccessWatch) -> Router {
    let mirror = Mirror { cache, access };
    Router::new()
        .route("/v2/", get(|| async { "{}" }))
        .route("/v2/{*path}", get(blob))
        .layer(from_fn_with_state(mirror.clone(), authorised))
        .with_state(mirror)
}

async fn authorised(State(mirror): State<Mirror>, request: Request, next: Next) -> Response {
    let sent = request.headers().get(AUTHORIZATION);
    let sent = sent.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let access = mirror.access.borrow().clone();
    let fits = match (sent, access) {
        (Some(sent), Some(access)) if !access.peer_token.is_empty() => {
            bool::from(sent.ct_eq(access.peer_token.as_bytes()))
        }
        _ => false,
    };
    if fits {
        return next.run(request).await;
    }
    let mut answer = refusal(
        StatusCode::UNAUTHORIZED,
        "UNAUTHORIZED",
        "a token is needed",
    );
    let headers = answer.headers_mut();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// An error as the distribution specification has it.
fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]});
    (
        status,
        [(CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

fn unknown() -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "BLOB_UNKNOWN",
        "this node does not have the blob",
    )
}

async fn blob(
    State(mirror): State<Mirror>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let digest = path.rsplit_once("/blobs/").and_then(|(name, digest)| {
        let sound = chalk_core::reference::is_repository(name);
        digest.parse::<Digest>().ok().filter(|_| sound)
    });
    let Some(digest) = digest else {
        return refusal(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "only blobs are served",
        );
    };
    let cache = mirror.cache;
    let head = method == Method::HEAD;
    match kept(&cache, digest).await {
        Some((spool, size)) => answer(spool, size, digest, head, &headers),
        None => match coming(&cache, &digest).await {
            Coming::Spool(spool, size) => answer(spool, size, digest, head, &headers),
            Coming::Queued => {
                let mut answer = refusal(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "UNAVAILABLE",
                    "the blob is about to come",
                );
                let after = HeaderValue::from_static("1");
                answer.headers_mut().insert(RETRY_AFTER, after);
                answer
            }
            // It may have become whole in between.
            Coming::Not => match kept(&cache, digest).await {
                Some((spool, size)) => answer(spool, size, digest, head, &headers),
                None => unknown(),
            },
        },
    }
}

/// A blob that is kept, as a spool that is whole.
async fn kept(cache: &Cache, digest: Digest) -> Option<(Arc<Spool>, u64)> {
    let opened = cache.blocking(move |inner| {
        let mut state = inner.lock();
        let Some(blob) = state.blobs.get_mut(&digest) else {
            return Ok(None);
        };
        blob.used = SystemTime::now();
        let size = blob.size;
        let file = std::fs::File::open(inner.disk.blob(&digest)).ok();
        Ok(file.map(|file| (Arc::new(Spool::whole(file)), size)))
    });
    opened.await.ok().flatten()
}

enum Coming {
    Spool(Arc<Spool>, u64),
    Queued,
    Not,
}

/// A blob that is on its way, waited for while it is queued.
async fn coming(cache: &Cache, digest: &Digest) -> Coming {
    let Some(flight) = in_flight(cache, digest) else {
        return Coming::Not;
    };
    if flight.size() > cache.inner.settings.mirror_bytes {
        return Coming::Not;
    }
    let mut keeping = flight.spool();
    let decided = keeping.wait_for(|keeping| !matches!(keeping, Keeping::Undecided));
    match tokio::time::timeout(PATIENCE, decided).await {
        Ok(Ok(keeping)) => match &*keeping {
            Keeping::In(spool) => Coming::Spool(Arc::clone(spool), flight.size()),
            Keeping::Undecided | Keeping::Not => Coming::Not,
        },
        Ok(Err(_)) => Coming::Not,
        Err(_) => Coming::Queued,
    }
}

/// Answers with a blob, or the range of it that was asked for.
fn answer(
    spool: Arc<Spool>,
    size: u64,
    digest: Digest,
    head: bool,
    headers: &HeaderMap,
) -> Response {
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let (status, from, to) = match asked.map(|range| parse_range(range, size)) {
        Some(Range::Part(from, to)) => (StatusCode::PARTIAL_CONTENT, from, to),
        Some(Range::Beyond) => {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let mut answer = refusal(status, "BLOB_UPLOAD_INVALID", "no such range");
            let range = HeaderValue::from_str(&format!("bytes */{size}"));
            answer
                .headers_mut()
                .extend(range.ok().map(|v| (CONTENT_RANGE, v)));
            return answer;
        }
        Some(Range::Whole) | None => (StatusCode::OK, 0, size),
    };
    let body = match head {
        true => Body::empty(),
        false => Body::from_stream(stream::unfold((spool, from, to), next_chunk)),
    };
    let text = digest.to_string();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(to - from));
    let values = [
        (ETAG, format!("\"{text}\"")),
        ("docker-content-digest".parse().unwrap_or(ETAG), text),
    ];
    for (name, value) in values {
        headers.extend(HeaderValue::from_str(&value).ok().map(|v| (name, v)));
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{size}", to - 1);
        let range = HeaderValue::from_str(&range);
        headers.extend(range.ok().map(|v| (CONTENT_RANGE, v)));
    }
    answer
}

type Position = (Arc<Spool>, u64, u64);

/// The next bytes of a body, waiting for them where they have yet to come. An error ends the
/// connection: the other side goes on elsewhere.
async fn next_chunk((spool, from, to): Position) -> Option<(std::io::Result<Bytes>, Position)> {
    if from >= to {
        return None;
    }
    let mut filled = spool.filled.clone();
    let grown = filled.wait_for(|filled| !matches!(filled, Filled::To(n) if *n <= from));
    let until = match tokio::time::timeout(STALL, grown)
        .await
        .map(|f| f.map(|f| *f))
    {
        Ok(Ok(Filled::To(n))) => n.min(to),
        Ok(Ok(Filled::Whole)) => to,
        Ok(Ok(Filled::Broken) | Err(_)) | Err(_) => {
            let error = std::io::Error::other("the blob does not come");
            return Some((Err(error), (spool, to, to)));
        }
    };
    let count = (until - from).min(CHUNK) as usize;
    let file = Arc::clone(&spool.file);
    let read = tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, from)?;
        Ok(Bytes::from(bytes))
    });
    let read = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    Some((read, (spool, from + count as u64, to)))
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// From, and the byte behind the last one.
    Part(u64, u64),
    Beyond,
}

/// One range (RFC 9110, section 14.1.2). What is no range, or several, counts as none.
fn parse_range(text: &str, size: u64) -> Range {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Range::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            Some(0) => Range::Beyond,
            Some(_) if size == 0 => Range::Beyond,
            Some(count) => Range::Part(size.saturating_sub(count), size),
            None => Range::Whole,
        },
        (first, last) => match (number(first), last, number(last)) {
            (Some(from), _, _) if from >= size => Range::Beyond,
            (Some(from), "", _) => Range::Part(from, size),
            (Some(from), _, Some(last)) if last >= from => {
                Range::Part(from, last.saturating_add(1).min(size))
            }
            _ => Range::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, size, expect) in [
            ("bytes=0-", 10, Range::Part(0, 10)),
            ("bytes=4-", 10, Range::Part(4, 10)),
            ("bytes=4-4", 10, Range::Part(4, 5)),
            ("bytes=4-99", 10, Range::Part(4, 10)),
            ("bytes=-3", 10, Range::Part(7, 10)),
            ("bytes=-30", 10, Range::Part(0, 10)),
            ("bytes=10-", 10, Range::Beyond),
            ("bytes=0-", 0, Range::Beyond),
            ("bytes=-0", 10, Range::Beyond),
            ("bytes=5-4", 10, Range::Whole),
            ("bytes=1-2,4-5", 10, Range::Whole),
            ("bytes=18446744073709551615-", 10, Range::Beyond),
            ("bytes=0-18446744073709551615", 10, Range::Part(0, 10)),
            ("items=0-1", 10, Range::Whole),
            ("bytes=x-", 10, Range::Whole),
        ] {
            assert_eq!(parse_range(text, size), expect, "{text} of {size}");
        }
    }
}
