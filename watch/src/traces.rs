//! Spans of one piece of work over command, service and nodes (OpenTelemetry), sent to a collector by
//! OTLP over HTTP.
//!
//! A span is a `tracing` span of the target [`TARGET`]; others are for the log alone. The work goes on
//! in another process with the span's [`traceparent`] (W3C Trace Context), which that process gives to
//! [`follow`]. Where no collector is named, or the feature `otlp` is off, nothing is recorded.

#[cfg(feature = "otlp")]
mod export;

use tracing::Span;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Layer;

/// Target of the spans that are sent.
pub const TARGET: &str = "chalk::trace";

/// Header and variable by which a trace goes on in another process.
pub const TRACEPARENT: &str = "traceparent";

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent to {endpoint}: {why}")]
pub struct TraceError {
    /// Address of the collector.
    pub endpoint: String,
    /// Why not.
    pub why: String,
}

/// Sends the spans of this process, if a collector is named.
#[derive(Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otlp")]
    exporter: Option<export::Exporter>,
}

impl Traces {
    /// Sends to the collector at `endpoint` (a base URL: `/v1/traces` is added), else to the one that
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT` names, else to none. The
    /// specification's other variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`,
    /// `OTEL_SERVICE_NAME`, `OTEL_BSP_*`, `OTEL_SDK_DISABLED`) count, too. `name` says which program this is.
    ///
    /// Starts threads.
    ///
    /// # Errors
    /// When the address is none, or no thread can be started.
    pub fn start(name: &'static str, endpoint: Option<&str>) -> Result<Self, TraceError> {
        #[cfg(feature = "otlp")]
        {
            let exporter = export::Exporter::start(name, endpoint)?;
            Ok(Self { exporter })
        }
        #[cfg(not(feature = "otlp"))]
        match endpoint {
            None => Ok(Self::default()),
            Some(endpoint) => Err(TraceError {
                endpoint: endpoint.to_owned(),
                why: format!("{name} was built without the feature `otlp`"),
            }),
        }
    }

    /// Whether spans are sent.
    pub fn are_on(&self) -> bool {
        #[cfg(feature = "otlp")]
        return self.exporter.is_some();
        #[cfg(not(feature = "otlp"))]
        false
    }

    /// Takes spans from `tracing`.
    pub(crate) fn layer(&self) -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
        #[cfg(feature = "otlp")]
        return self.exporter.as_ref().map(export::Exporter::layer);
        #[cfg(not(feature = "otlp"))]
        None
    }

    /// Sends what is left. Blocks; not to be called within an async runtime.
    pub fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.end();
        }
    }
}

/// What another process needs to go on with the innermost span that is sent and that the caller is
/// in; `None` when nothing is recorded.
pub fn traceparent() -> Option<String> {
    #[cfg(feature = "otlp")]
    return export::traceparent();
    #[cfg(not(feature = "otlp"))]
    None
}

/// Makes `span` a part of the trace that another process began. What is no `traceparent` is passed
/// over: the span then begins a trace of its own.
pub fn follow(span: &Span, traceparent: &str) {
    #[cfg(feature = "otlp")]
    export::follow(span, traceparent);
    #[cfg(not(feature = "otlp"))]
    let _ = (span, traceparent);
}

/// Says that what a span stands for failed.
///
/// The span needs the fields `otel.status_code` and `otel.status_description`.
pub fn failed(span: &Span, why: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", why);
}
