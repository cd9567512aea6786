//! What the service tells those who watch it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `metrics.*`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address that serves `/metrics` without a token, and nothing else; unset, only those with a
    /// token read them, at the address of the service.
    pub listen: Option<SocketAddr>,
}

/// `log.*`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Form of the log of service and node.
    pub format: LogFormat,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

impl LogFormat {
    /// The words of the setting.
    pub const WORDS: [&str; 2] = ["text", "json"];
}

/// `trace.*`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trace {
    /// Base URL of an OpenTelemetry collector that takes OTLP over HTTP; unset, the one that
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` names, if any.
    pub endpoint: Option<String>,
}
