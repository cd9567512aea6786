//! Requests, and the spans of those that go on with a trace.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use chalk_watch::metrics::fast;
use chalk_watch::traces;
use http_body::{Frame, SizeHint};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing::{Instrument as _, Span, field};

use super::known;
use crate::grpc;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    api: &'static str,
    method: &'static str,
    status: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    api: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stream {
    of: &'static str,
}

/// What is counted of requests. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct RequestMetrics {
    answers: Family<Answer, Counter>,
    duration: Family<Call, Histogram>,
    received: Counter,
    sent: Counter,
    following: Family<Stream, Gauge>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let following: Family<Stream, Gauge> = Family::default();
        for of in ["build", "warm", "sandbox"] {
            drop(following.get_or_create(&Stream { of }));
        }
        Self {
            answers: Family::default(),
            duration: Family::new_with_constructor(fast),
            received: Counter::default(),
            sent: Counter::default(),
            following,
        }
    }
}

impl RequestMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests, by API, method and status of the answer";
        registry.register("requests", help, self.answers.clone());
        let help = "Time from a request to the head of its answer, by API and method";
        let duration = self.duration.clone();
        registry.register_with_unit("request_duration", help, Unit::Seconds, duration);
        let help = "Bytes of bodies that clients sent to the embedded registry";
        let received = self.received.clone();
        registry.register_with_unit("registry_received", help, Unit::Bytes, received);
        let help = "Bytes of bodies that the embedded registry sent to clients and nodes";
        registry.register_with_unit("registry_sent", help, Unit::Bytes, self.sent.clone());
        let help = "Clients that follow events, by what they follow";
        registry.register("events_clients", help, self.following.clone());
    }

    /// Counts a client that follows the events of a build, warm or sandbox, until what is given back
    /// is dropped.
    pub(crate) fn follows(&self, of: &'static str) -> Following {
        let clients = self.following.get_or_create(&Stream { of }).clone();
        clients.inc();
        Following(clients)
    }
}

/// A client that follows events.
#[derive(Debug)]
pub(crate) struct Following(Gauge);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The API that a request is for.
fn api(request: &Request) -> &'static str {
    let path = request.uri().path();
    let below = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match path {
        "/healthz" | "/readyz" | "/metrics" => "health",
        _ if below("/v2") => "registry",
        _ if below("/v1/agent") => "nodes",
        _ if below("/v1") => "api",
        _ if grpc::is_call(request) => "grpc",
        _ => "page",
    }
}

/// Counts a request. One that carries a `traceparent` gets a span in that trace.
pub(crate) async fn count(
    State(metrics): State<Arc<RequestMetrics>>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let call = Call {
        api: api(&request),
        method: known(
            request.method().as_str(),
            &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        ),
    };
    let is_registry = call.api == "registry";
    if is_registry && *request.method() != Method::GET {
        let received = metrics.received.clone();
        request = request.map(|body| {
            Body::new(Counted {
                body,
                count: received,
            })
        });
    }
    let span = span(&request, &call);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = u32::from(response.status().as_u16());
    span.record("http.response.status_code", status);
    if is_registry {
        let sent = metrics.sent.clone();
        response = response.map(|body| Body::new(Counted { body, count: sent }));
    }
    let seconds = began.elapsed().as_secs_f64();
    metrics.duration.get_or_create(&call).observe(seconds);
    let Call { api, method } = call;
    let answer = Answer {
        api,
        method,
        status,
    };
    metrics.answers.get_or_create(&answer).inc();
    response
}

/// The span of a request that is a part of somebody's trace.
fn span(request: &Request, call: &Call) -> Span {
    let parent = request.headers().get(traces::TRACEPARENT);
    let Some(parent) = parent.and_then(|value| value.to_str().ok()) else {
        return Span::none();
    };
    let path = request.uri().path();
    // In the log the span of the request number says the same.
    let span = tracing::info_span!(
        target: traces::TARGET,
        "call",
        otel.name = format!("{} {}", call.method, call.api),
        otel.kind = "server",
        http.request.method = call.method,
        url.path = path,
        http.response.status_code = field::Empty,
    );
    traces::follow(&span, parent);
    span
}

/// A body whose bytes are counted as they go.
struct Counted {
    body: Body,
    count: Counter,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.count.inc_by(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apis_of_requests() {
        let check = |path: &str, expect: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(api(&request), expect, "{path}");
        };
        check("/metrics", "health");
        check("/v2/", "registry");
        check("/v2", "registry");
        check("/v2x", "page");
        check("/v1/builds/x/events", "api");
        check("/v1/agent/session", "nodes");
        check("/", "page");
        check("/assets/../x", "page");
    }

    #[tokio::test]
    async fn bodies_are_counted_and_keep_their_length() {
        let count = Counter::default();
        let counted = Counted {
            body: Body::from("hello"),
            count: count.clone(),
        };
        assert_eq!(counted.size_hint().exact(), Some(5));
        let bytes = axum::body::to_bytes(Body::new(counted), 100).await.unwrap();
        assert_eq!((&bytes[..], count.get()), (&b"hello"[..], 5));
    }

    #[test]
    fn those_who_follow_are_counted_while_they_do() {
        let metrics = RequestMetrics::default();
        let gauge = metrics
            .following
            .get_or_create(&Stream { of: "build" })
            .clone();
        let (one, two) = (metrics.follows("build"), metrics.follows("build"));
        assert_eq!(gauge.get(), 2);
        drop((one, two));
        assert_eq!(gauge.get(), 0);
    }
}
