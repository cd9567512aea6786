//! What service, node and command tell those who watch them.
//!
//! - [`metrics`]: the text that Prometheus reads, and metrics of the process itself.
//! - [`traces`]: spans of one piece of work over several processes, sent to an OpenTelemetry
//!   collector where one is named.
//! - [`logs`]: the log, as text for people or as JSON, a line each.
//!
//! Labels of metrics are of few values that are known beforehand: never names, hashes or paths that
//! users choose.

pub mod logs;
pub mod metrics;
mod process;
pub mod traces;
