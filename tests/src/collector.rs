//! A made-up OpenTelemetry collector: takes spans by OTLP over HTTP, as protobuf, and keeps them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;

/// A collector. It ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Kept,
    _runtime: tokio::runtime::Runtime,
}

type Kept = Arc<Mutex<Vec<TracedSpan>>>;

/// A span as it came.
#[derive(Debug, Clone)]
pub struct TracedSpan {
    /// Program that sent it.
    pub service: String,
    /// What it is of.
    pub name: String,
    /// Identifier of its trace.
    pub trace: String,
    /// Its own identifier.
    pub id: String,
    /// That of the span that it is a part of; empty for the first of a trace.
    pub parent: String,
    /// Whether it is that of a request, seen by who sends or by who answers it.
    pub kind: SpanKind,
    /// Attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Begin and end, in nanoseconds since 1970.
    pub times: (u64, u64),
}

impl Collector {
    /// Starts one on a free port.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let spans = Kept::default();
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(spans.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url: format!("http://{address}"),
            spans,
            _runtime: runtime,
        }
    }

    /// Base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Variables that make a program send to it, and soon.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        pairs.map(owned).into()
    }

    /// What came so far.
    pub fn spans(&self) -> Vec<TracedSpan> {
        self.spans.lock().expect("no panic").clone()
    }
}

async fn take(State(kept): State<Kept>, headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
    let kind = headers
        .get("content-type")
        .map(axum::http::HeaderValue::as_bytes);
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    if kind != Some(b"application/x-protobuf") {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, Vec::new());
    }
    let mut kept = kept.lock().expect("no panic");
    for resource in request.resource_spans {
        let of = resource
            .resource
            .map(|r| texts(r.attributes))
            .unwrap_or_default();
        let service = of.get("service.name").cloned().unwrap_or_default();
        let spans = resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        kept.extend(spans.map(|span| TracedSpan {
            service: service.clone(),
            kind: span.kind(),
            name: span.name,
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            attributes: texts(span.attributes),
            error: span.status.filter(|s| s.code == 2).map(|s| s.message),
            times: (span.start_time_unix_nano, span.end_time_unix_nano),
        }));
    }
    let answer = ExportTraceServiceResponse::default().encode_to_vec();
    (StatusCode::OK, answer)
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| {
        let value = match pair.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::BoolValue(value)) => value.to_string(),
            Some(Value::IntValue(value)) => value.to_string(),
            Some(Value::DoubleValue(value)) => value.to_string(),
            other => format!("{other:?}"),
        };
        (pair.key, value)
    };
    attributes.into_iter().map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
