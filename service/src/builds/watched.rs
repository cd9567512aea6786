//! What is counted and traced of a build: its events say it all, whichever engine tells them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chalk_core::wire::{Build, BuildStatus, EventKind};
use chalk_watch::traces;
use tracing::{Span, field};

use super::record;
use crate::metrics::{BuildMetrics, StepEnd};

/// Characters of a step's title in the name of its span.
const TITLE: usize = 100;

/// Watches one build.
#[derive(Debug)]
pub(super) struct Watched {
    metrics: BuildMetrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// From the request to the end.
    span: Span,
    /// Of the steps that run.
    steps: BTreeMap<usize, Span>,
    /// Bytes of each base that came.
    pulled: BTreeMap<String, u64>,
}

impl Watched {
    /// Begins the span of a build: in the trace of the request that is being answered, if it has one.
    pub(super) fn new(build: &Build, metrics: BuildMetrics) -> Self {
        // Of the highest level, so that every line of the build has its id, however few are logged. A
        // child would keep the span of the request open until the build ends.
        let asked = traces::traceparent();
        let span = tracing::error_span!(
            target: traces::TARGET,
            parent: None,
            "build",
            build = build.id,
            image = %build.image_hash,
            state = field::Empty,
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
        );
        if let Some(asked) = asked {
            traces::follow(&span, &asked);
        }
        Self {
            metrics,
            state: Mutex::new(State {
                span,
                steps: BTreeMap::new(),
                pulled: BTreeMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The span of the build.
    pub(super) fn span(&self) -> Span {
        self.state().span.clone()
    }

    /// The build has a place.
    pub(super) fn runs(&self, build: &Build) {
        self.metrics.waited(record::seconds_since(&build.created));
    }

    /// Something happens; `build` is as it was before.
    pub(super) fn event(&self, build: &Build, event: &EventKind) {
        let mut state = self.state();
        let kind = |step: usize| build.steps.get(step).map_or("", |step| step.kind.as_str());
        match event {
            EventKind::StepStarted { step } => {
                let span = state.begin(build, *step);
                state.steps.insert(*step, span);
            }
            EventKind::StepCached { step, source } => {
                let span = state.begin(build, *step);
                span.record("state", "cached");
                span.record("source", source.as_str());
                self.metrics.step(kind(*step), StepEnd::Cached);
            }
            EventKind::StepDone {
                step,
                seconds,
                layer_bytes,
                ..
            } => {
                let begun = state.steps.remove(step);
                let span = begun.unwrap_or_else(|| state.begin(build, *step));
                span.record("state", "ran");
                span.record("seconds", *seconds);
                span.record("layer_bytes", *layer_bytes);
                self.metrics.step(kind(*step), StepEnd::Ran(*seconds));
            }
            EventKind::StepFailed {
                step,
                message,
                seconds,
                ..
            } => {
                let begun = state.steps.remove(step);
                let span = begun.unwrap_or_else(|| state.begin(build, *step));
                span.record("state", "failed");
                span.record("seconds", *seconds);
                traces::failed(&span, message);
                self.metrics.step(kind(*step), StepEnd::Failed(*seconds));
            }
            EventKind::Pulling { image, done, .. } => {
                let known = state.pulled.entry(image.clone()).or_default();
                // A transfer that began anew starts from nothing.
                let new = done.saturating_sub(if done < known { 0 } else { *known });
                *known = *done;
                self.metrics.pulled(new);
            }
            EventKind::Pushed { bytes, present, .. } => {
                if !present {
                    self.metrics.pushed(*bytes);
                }
            }
            EventKind::Queued { .. }
            | EventKind::Started { .. }
            | EventKind::Log { .. }
            | EventKind::Warning { .. }
            | EventKind::Finished { .. } => {}
        }
    }

    /// The build ended.
    pub(super) fn ends(&self, build: &Build) {
        self.metrics.ended(build);
        let mut state = self.state();
        for (_, span) in std::mem::take(&mut state.steps) {
            span.record("state", "cancelled");
        }
        let word = match build.status {
            BuildStatus::Built => "built",
            BuildStatus::Cancelled => "cancelled",
            _ => "failed",
        };
        state.span.record("state", word);
        if let Some(error) = &build.error {
            traces::failed(&state.span, &error.detail);
        }
        // Whoever still follows the build does not hold up the end of its span.
        state.span = Span::none();
    }
}

impl State {
    /// The span of a step, counted from 1 as people do.
    fn begin(&self, build: &Build, step: usize) -> Span {
        let known = build.steps.get(step);
        let (kind, title) = known.map_or(("", ""), |s| (s.kind.as_str(), s.title.as_str()));
        let name: String = title.chars().take(TITLE).collect();
        tracing::info_span!(
            target: traces::TARGET,
            parent: &self.span,
            "step",
            otel.name = name,
            step = step + 1,
            kind,
            state = field::Empty,
            source = field::Empty,
            seconds = field::Empty,
            layer_bytes = field::Empty,
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builds::record::tests::build;

    #[test]
    fn bytes_of_a_base_are_counted_once() {
        let metrics = BuildMetrics::default();
        let build = build("a");
        let watched = Watched::new(&build, metrics.clone());
        for done in [10, 25, 25, 5, 7] {
            let image = "docker.io/library/busybox:latest".to_owned();
            let total = 25;
            watched.event(&build, &EventKind::Pulling { image, done, total });
        }
        // 25 bytes, then, begun anew, 7.
        assert_eq!(metrics.pulled_so_far(), 32);
    }
}
