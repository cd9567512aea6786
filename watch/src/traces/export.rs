//! The way of spans to a collector.

use std::collections::HashMap;
use std::env;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Layer;

use super::{TARGET, TRACEPARENT, TraceError};

/// Variables that name a collector: the address of spans, and that of everything.
const OF_SPANS: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const OF_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// What the end of the program waits for a collector that does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    provider: SdkTracerProvider,
}

/// Where spans go.
fn address(endpoint: Option<&str>) -> Option<String> {
    let variable = |name| env::var(name).ok().filter(|text: &String| !text.is_empty());
    let below = |base: &str| format!("{}/v1/traces", base.trim_end_matches('/'));
    if variable("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return None;
    }
    match endpoint {
        Some(base) => Some(below(base)),
        None => variable(OF_SPANS).or_else(|| variable(OF_ALL).map(|base| below(&base))),
    }
}

impl Exporter {
    pub(super) fn start(
        name: &'static str,
        endpoint: Option<&str>,
    ) -> Result<Option<Self>, TraceError> {
        let Some(address) = address(endpoint) else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&address)
            .build()
            .map_err(|error| TraceError {
                endpoint: address,
                why: error.to_string(),
            })?;
        let mut resource = Resource::builder();
        if env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(name);
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.with_attribute(version).build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self { provider }))
    }

    pub(super) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        let tracer = self.provider.tracer("chalk");
        let ours = FilterFn::new(|metadata| metadata.is_span() && metadata.target() == TARGET);
        OpenTelemetryLayer::new(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
            .boxed()
    }

    pub(super) fn end(self) {
        // It says so in the log when it cannot send.
        let _ = self.provider.shutdown_with_timeout(PATIENCE);
    }
}

pub(super) fn traceparent() -> Option<String> {
    // Not that of `Span::current()`, which may be for the log alone and then has none.
    let context = Context::current();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

pub(super) fn follow(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // Fails only where nothing is recorded.
        let _ = span.set_parent(context);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    /// Trace and span that a `traceparent` names.
    fn parts(traceparent: &str) -> (String, String) {
        let mut parts = traceparent.split('-').skip(1).map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap())
    }

    #[test]
    fn a_trace_goes_on_in_another_process() {
        let exporter = Exporter {
            provider: SdkTracerProvider::builder().build(),
        };
        let log = tracing_subscriber::fmt::layer::<Registry>().with_writer(std::io::sink);
        let all = vec![log.boxed(), exporter.layer()];
        let subscriber = tracing_subscriber::registry().with(all);
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(traceparent(), None);
            let call = tracing::info_span!(target: TARGET, "call");
            follow(&call, &format!("00-{TRACE}-{PARENT}-01"));
            let build = call.in_scope(|| {
                // A span of the log between the two.
                tracing::info_span!("request").in_scope(|| {
                    let (trace, call) = parts(&traceparent().unwrap());
                    assert_eq!(trace, TRACE);
                    assert_ne!(call, PARENT);
                    let build = tracing::info_span!(target: TARGET, parent: None, "build");
                    follow(&build, &format!("00-{trace}-{call}-01"));
                    build
                })
            });
            assert_eq!(traceparent(), None);
            let (trace, _) = build.in_scope(|| parts(&traceparent().unwrap()));
            assert_eq!(trace, TRACE);
            let other = tracing::info_span!(target: TARGET, parent: None, "other");
            follow(&other, "no trace");
            let (trace, _) = other.in_scope(|| parts(&traceparent().unwrap()));
            assert_ne!(trace, TRACE);
        });
    }
}
