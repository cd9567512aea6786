//! Server-sent events (HTML standard, "Server-sent events").

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};

use super::problem::{ApiError, ApiResult};
use crate::metrics::Following;

/// A comment goes out after this much silence, so that nobody in between cuts the connection.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client that lost the connection waits before it comes back.
const RETRY: Duration = Duration::from_secs(1);

/// The answer that carries events; `None` stands for a while in which nothing happened. The client
/// counts until it is gone.
pub(super) fn answer(
    events: impl Stream<Item = Option<Bytes>> + Send + 'static,
    following: Following,
) -> Response {
    let first = Bytes::from(format!("retry: {}\n\n", RETRY.as_millis()));
    let sent = events.map(move |event| {
        let _counts = &following;
        event.unwrap_or(Bytes::from_static(b": waiting\n\n"))
    });
    let body = stream::once(async { first }).chain(sent);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Tells nginx not to hold events back.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let body = Body::from_stream(body.map(Ok::<_, Infallible>));
    (headers, body).into_response()
}

/// Adds an event.
pub(super) fn frame(text: &mut Vec<u8>, seq: u64, json: &[u8]) {
    text.extend_from_slice(format!("id: {seq}\ndata: ").as_bytes());
    text.extend_from_slice(json);
    text.extend_from_slice(b"\n\n");
}

/// Number of the last event that is not wanted. A client that comes back asks for the same address,
/// but says in the header how far it got.
pub(super) fn after(headers: &HeaderMap, query: Option<u64>) -> ApiResult<u64> {
    match headers.get("last-event-id") {
        Some(value) => number(value),
        None => Ok(query.unwrap_or(0)),
    }
}

fn number(value: &HeaderValue) -> ApiResult<u64> {
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        ApiError::bad_request(
            "the request is wrong",
            "Last-Event-ID is not the number of an event",
            "",
        )
    })
}
