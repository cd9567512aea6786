//! Unary calls by the Connect protocol, as calls of the same gRPC services.
//!
//! The compiled part of Chalk's own SDK does not speak gRPC but this: a POST over HTTP/1.1 or HTTP/2
//! whose body is the bare message (<https://connectrpc.com/docs/protocol>, "Unary-Request"). The
//! message gets the five bytes of a gRPC frame in front and goes the way of every call; of the answer,
//! the message alone comes back, or the status as JSON.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use tonic::{Code, Status};

/// Content type of messages.
const PROTO: &str = "application/proto";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Bytes of a frame's head: whether it is compressed, and the length (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
const HEAD: usize = 5;

fn is_unary(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    request.method() == Method::POST && kind.is_some_and(|kind| kind == PROTO)
}

/// Passes on everything; unary Connect calls as gRPC calls.
pub(crate) async fn translate(request: Request, next: Next) -> Response {
    if !is_unary(&request) {
        return next.run(request).await;
    }
    match framed(request) {
        Ok(request) => bare(next.run(request).await).await,
        Err(status) => error(&status, &HeaderMap::new()),
    }
}

/// The call as gRPC has it. The body is passed on as it comes, so that nothing is kept of a caller who
/// may turn out not to be allowed; for that its length must be known.
fn framed(request: Request) -> Result<Request, Status> {
    let (mut parts, body) = request.into_parts();
    let headers = &mut parts.headers;
    let length = headers.remove(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u32>().ok());
    let Some(length) = length else {
        return Err(Status::invalid_argument(
            "a unary call needs Content-Length, of less than 4 GiB",
        ));
    };
    let compressed = match headers.remove(header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            headers.insert(GRPC_ENCODING, encoding);
            true
        }
        _ => false,
    };
    if let Some(timeout) = headers.remove(TIMEOUT)
        && let Ok(timeout) = timeout.to_str()
        && let Ok(timeout) = HeaderValue::try_from(format!("{timeout}m"))
    {
        headers.insert(GRPC_TIMEOUT, timeout);
    }
    headers.remove(GRPC_ACCEPT_ENCODING);
    headers.insert(header::CONTENT_TYPE, GRPC);
    let mut head = vec![u8::from(compressed)];
    head.extend(length.to_be_bytes());
    let head = stream::iter([Ok(Bytes::from(head))]);
    let body = Body::from_stream(head.chain(body.into_data_stream()));
    Ok(Request::from_parts(parts, body))
}

/// The answer as Connect has it.
async fn bare(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let collected = match body.collect().await {
        Ok(collected) => collected,
        Err(fault) => return error(&Status::internal(fault.to_string()), &parts.headers),
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let told = [&trailers, &parts.headers].map(Status::from_header_map);
    let status = told.into_iter().flatten().next();
    let status = status.unwrap_or_else(|| Status::internal("the call ended without a status"));
    if status.code() != Code::Ok {
        return error(&status, &parts.headers);
    }
    let mut message = collected.to_bytes();
    let head = message.split_to(HEAD.min(message.len()));
    let length = head.get(1..).and_then(|length| length.try_into().ok());
    let length = length.map(|length| u32::from_be_bytes(length) as usize);
    if head.first() != Some(&0) || length != Some(message.len()) {
        return error(
            &Status::internal("the answer is no single message"),
            &parts.headers,
        );
    }
    strip(&mut parts.headers);
    let kind = HeaderValue::from_static(PROTO);
    parts.headers.insert(header::CONTENT_TYPE, kind);
    Response::from_parts(parts, Body::from(message))
}

/// Takes away what only gRPC means.
fn strip(headers: &mut HeaderMap) {
    for name in [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-encoding",
        "grpc-accept-encoding",
    ] {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
}

/// A status as Connect has it: code and message as JSON, under the HTTP status that goes with the code.
fn error(status: &Status, headers: &HeaderMap) -> Response {
    let (code, http) = code(status.code());
    let body = serde_json::json!({ "code": code, "message": status.message() });
    let http = StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (http, axum::Json(body)).into_response();
    let mut headers = headers.clone();
    strip(&mut headers);
    headers.remove(header::CONTENT_TYPE);
    response.headers_mut().extend(headers);
    response
}

/// Name and HTTP status of a code (Connect, "Error Codes").
fn code(code: Code) -> (&'static str, u16) {
    match code {
        Code::Ok | Code::Unknown => ("unknown", 500),
        Code::Cancelled => ("canceled", 499),
        Code::InvalidArgument => ("invalid_argument", 400),
        Code::DeadlineExceeded => ("deadline_exceeded", 504),
        Code::NotFound => ("not_found", 404),
        Code::AlreadyExists => ("already_exists", 409),
        Code::PermissionDenied => ("permission_denied", 403),
        Code::ResourceExhausted => ("resource_exhausted", 429),
        Code::FailedPrecondition => ("failed_precondition", 400),
        Code::Aborted => ("aborted", 409),
        Code::OutOfRange => ("out_of_range", 400),
        Code::Unimplemented => ("unimplemented", 501),
        Code::Internal => ("internal", 500),
        Code::Unavailable => ("unavailable", 503),
        Code::DataLoss => ("data_loss", 500),
        Code::Unauthenticated => ("unauthenticated", 401),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use tower::ServiceExt as _;

    use super::*;

    /// Answers a call by what its one frame holds: itself, or a refusal.
    async fn echo(request: Request) -> Response {
        assert_eq!(request.headers()[header::CONTENT_TYPE], "application/grpc");
        assert!(!request.headers().contains_key(header::CONTENT_LENGTH));
        let frame = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(frame[..HEAD], [0, 0, 0, 0, frame.len() as u8 - HEAD as u8]);
        if frame.ends_with(b"no") {
            return Status::not_found("no ä file: none").into_http();
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let body = http_body_util::Full::new(frame).with_trailers(async { Some(Ok(trailers)) });
        ([(header::CONTENT_TYPE, GRPC)], Body::new(body)).into_response()
    }

    async fn call(kind: &str, body: &'static [u8]) -> (u16, String, Bytes) {
        let router = Router::new()
            .route("/s/M", post(echo))
            .fallback(|| async { super::super::unimplemented("/s/N") })
            .layer(from_fn(translate));
        let path = if body == b"other" { "/s/N" } else { "/s/M" };
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONTENT_LENGTH, body.len())
            .body(Body::from(body))
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        let kind = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        let (status, kind) = (response.status().as_u16(), kind.to_owned());
        assert!(!response.headers().contains_key("grpc-status"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, body)
    }

    #[tokio::test]
    async fn unary_calls_go_the_way_of_grpc_calls() {
        for body in [b"message".as_slice(), b""] {
            let answer = call(PROTO, body).await;
            assert_eq!(answer, (200, PROTO.to_owned(), Bytes::from(body)));
        }
        let check = async |body: &'static [u8], http: u16, code: &str, words: &str| {
            let (status, kind, answer) = call(PROTO, body).await;
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!((status, &*kind), (http, "application/json"));
            assert_eq!(answer["code"], code);
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains(words), "{message}");
        };
        check(b"no", 404, "not_found", "no ä file: none").await;
        check(b"other", 501, "unimplemented", "s/N is not served here").await;
    }

    #[tokio::test]
    async fn a_body_without_length_is_refused() {
        let body = Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::new())]));
        let request = Request::post("/s/M").body(body).unwrap();
        assert!(framed(request).is_err());
    }
}
