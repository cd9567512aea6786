//! Builds and their steps.

use std::time::Duration;

use chalk_core::wire::{Build, BuildStatus};
use chalk_watch::metrics::{fast, slow};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{StateLabel, known};

/// Kinds of steps, as specs name them.
const KINDS: [&str; 8] = [
    "pip_install",
    "uv_pip_install",
    "uv_sync",
    "apt_install",
    "run",
    "add_file",
    "add_dir",
    "dockerfile",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    kind: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum StepEnd {
    /// It was in the cache.
    Cached,
    /// It ran.
    Ran(f64),
    /// It failed after so many seconds.
    Failed(f64),
}

/// What is counted of builds. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct BuildMetrics {
    ended: Family<StateLabel, Counter>,
    duration: Family<StateLabel, Histogram>,
    wait: Histogram,
    skip: Histogram,
    steps: Family<StepLabels, Counter>,
    step_duration: Family<KindLabel, Histogram>,
    pushed: Counter,
    pulled: Counter,
}

impl Default for BuildMetrics {
    fn default() -> Self {
        let metrics = Self {
            ended: Family::default(),
            duration: Family::new_with_constructor(slow),
            wait: slow(),
            skip: fast(),
            steps: Family::default(),
            step_duration: Family::new_with_constructor(slow),
            pushed: Counter::default(),
            pulled: Counter::default(),
        };
        // A count that begins with its first event hides that one from whoever looks at changes.
        for state in ["built", "failed", "cancelled", "reused"] {
            let label = StateLabel { state };
            drop(metrics.ended.get_or_create(&label));
            if state != "reused" {
                drop(metrics.duration.get_or_create(&label));
            }
        }
        for kind in KINDS {
            drop(metrics.step_duration.get_or_create(&KindLabel { kind }));
            for state in ["cached", "ran", "failed"] {
                drop(metrics.steps.get_or_create(&StepLabels { kind, state }));
            }
        }
        metrics
    }
}

impl BuildMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Builds that ended, by state; reused ones found their image finished";
        registry.register("builds", help, self.ended.clone());
        let help = "Time of a build from its request to its end, by state";
        registry.register_with_unit("build_duration", help, Unit::Seconds, self.duration.clone());
        let help = "Time that a build waited for a place";
        registry.register_with_unit("build_wait", help, Unit::Seconds, self.wait.clone());
        let help = "Time to answer that an image is finished, bases pinned and hash computed";
        registry.register_with_unit(
            "build_skip_duration",
            help,
            Unit::Seconds,
            self.skip.clone(),
        );
        let help = "Steps of builds, by kind and whether they ran, failed or were cached";
        registry.register("steps", help, self.steps.clone());
        let help = "Time that a step ran, without packing and pushing its layer";
        let durations = self.step_duration.clone();
        registry.register_with_unit("step_duration", help, Unit::Seconds, durations);
        let help =
            "Bytes of blobs that builds made part of the regional registry and that it lacked";
        registry.register_with_unit("build_pushed", help, Unit::Bytes, self.pushed.clone());
        let help = "Bytes of layers of bases that builds pulled";
        registry.register_with_unit("build_pulled", help, Unit::Bytes, self.pulled.clone());
    }

    /// An image was found finished.
    pub(crate) fn skipped(&self, took: Duration) {
        self.skip.observe(took.as_secs_f64());
        let label = StateLabel { state: "reused" };
        self.ended.get_or_create(&label).inc();
    }

    /// A build got its place after so many seconds.
    pub(crate) fn waited(&self, seconds: f64) {
        self.wait.observe(seconds);
    }

    /// A build ended.
    pub(crate) fn ended(&self, build: &Build) {
        let label = StateLabel {
            state: match build.status {
                BuildStatus::Built => "built",
                BuildStatus::Cancelled => "cancelled",
                _ => "failed",
            },
        };
        self.ended.get_or_create(&label).inc();
        self.duration.get_or_create(&label).observe(build.seconds);
    }

    /// A step of that kind ended.
    pub(crate) fn step(&self, kind: &str, end: StepEnd) {
        let kind = known(kind, &KINDS);
        let (state, seconds) = match end {
            StepEnd::Cached => ("cached", None),
            StepEnd::Ran(seconds) => ("ran", Some(seconds)),
            StepEnd::Failed(seconds) => ("failed", Some(seconds)),
        };
        self.steps.get_or_create(&StepLabels { kind, state }).inc();
        if let Some(seconds) = seconds {
            let duration = self.step_duration.get_or_create(&KindLabel { kind });
            duration.observe(seconds);
        }
    }

    /// Bytes went to the regional registry.
    pub(crate) fn pushed(&self, bytes: u64) {
        self.pushed.inc_by(bytes);
    }

    #[cfg(test)]
    pub(crate) fn pulled_so_far(&self) -> u64 {
        self.pulled.get()
    }

    /// Bytes of a base came.
    pub(crate) fn pulled(&self, bytes: u64) {
        self.pulled.inc_by(bytes);
    }
}
