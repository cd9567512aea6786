//! The text that Prometheus reads.

use std::fmt;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::process::Process;

/// Media type of OpenMetrics, as `Accept` names it.
const OPEN_METRICS: &str = "application/openmetrics-text";

/// Upper bounds of buckets, in seconds, for what takes from a tenth of a millisecond to ten seconds:
/// requests, skips, starts of sandboxes. Four steps a decade around what is promised (1 ms for a skip,
/// 10 ms for a start), so that a quantile is off by less than a factor of two there.
pub const FAST: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// Upper bounds of buckets, in seconds, for what takes from a tenth of a second to an hour, the
/// longest that a step may run by default: builds, steps, warms.
pub const SLOW: [f64; 13] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0,
];

/// A histogram over [`FAST`].
pub fn fast() -> Histogram {
    Histogram::new(FAST)
}

/// A histogram over [`SLOW`].
pub fn slow() -> Histogram {
    Histogram::new(SLOW)
}

/// Metrics as they are served.
#[derive(Debug)]
pub struct Exposition {
    registry: Registry,
}

impl Exposition {
    /// Serves what `registry` has, and metrics of this process besides.
    pub fn new(mut registry: Registry) -> Self {
        registry.register_collector(Box::new(Process));
        Self { registry }
    }

    /// The metrics now, with their media type: OpenMetrics 1.0 for clients that `accept` it, else
    /// Prometheus's text format 0.0.4.
    ///
    /// # Errors
    /// When a label or number cannot be written.
    pub fn text(&self, accept: Option<&str>) -> Result<(&'static str, String), fmt::Error> {
        let mut out = String::new();
        if accept.is_some_and(|accept| accept.contains(OPEN_METRICS)) {
            text::encode(&mut out, &self.registry)?;
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            return Ok((kind, out));
        }
        prometheus_text::encode(&mut out, &self.registry)?;
        Ok((prometheus_text::CONTENT_TYPE, out))
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Unit;

    use super::*;

    #[test]
    fn both_formats_have_help_and_type() {
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("chalk");
        let duration = slow();
        registry.register_with_unit(
            "work_duration",
            "Time of work",
            Unit::Seconds,
            duration.clone(),
        );
        duration.observe(0.2);
        let exposition = Exposition::new(all);
        let (kind, text) = exposition.text(None).unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        assert!(
            text.contains("# HELP chalk_work_duration_seconds Time of work"),
            "{text}"
        );
        assert!(
            text.contains("chalk_work_duration_seconds_bucket{le=\"0.25\"} 1"),
            "{text}"
        );
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1";
        let (kind, text) = exposition.text(Some(accept)).unwrap();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        assert!(
            text.contains("# UNIT chalk_work_duration_seconds seconds"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
