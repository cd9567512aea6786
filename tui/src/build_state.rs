//! What is known of a build from its events, without any terminal: the one model behind the app and
//! every `--progress` of the command.

use std::collections::VecDeque;

use chalk_core::wire::{BuildStatus, Event, EventKind, PlanState, Problem, StepState, Stream};
use jiff::Timestamp;

use crate::progress::harmless;

/// Lines kept of each step's output.
const TAIL: usize = 40;
/// Bytes of a line that has no end, after which it is taken for one: a step can print anything.
const LONGEST: usize = 64 << 10;

/// State of a build as its events tell it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuildState {
    pub(crate) steps: Vec<Step>,
    pub(crate) pulls: Vec<Pull>,
    pub(crate) warnings: Vec<String>,
    /// Builds before it, while it waits.
    pub(crate) ahead: Option<usize>,
    /// Bytes that went to the registry.
    pub(crate) pushed: u64,
    pub(crate) outcome: Option<BuildStatus>,
    /// Why it failed.
    pub(crate) error: Option<Problem>,
    /// Number of the last event.
    pub(crate) seq: u64,
    /// Pieces of output that still lack their end of line, by step and stream.
    open: Vec<(usize, Stream, String)>,
}

/// A line that a step printed, as it printed it, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Printed {
    pub(crate) step: usize,
    pub(crate) stream: Stream,
    pub(crate) text: String,
}

/// One step.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) state: StepState,
    /// What the plan was.
    pub(crate) planned: PlanState,
    /// Where its result was found, for a cached step: `local` or `registry`.
    pub(crate) source: Option<String>,
    /// By the service's clock.
    pub(crate) began: Option<Timestamp>,
    pub(crate) seconds: f64,
    pub(crate) layer_bytes: u64,
    pub(crate) tail: VecDeque<String>,
    pub(crate) message: String,
}

/// One base image that is pulled.
#[derive(Debug, Clone)]
pub(crate) struct Pull {
    pub(crate) image: String,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

impl BuildState {
    /// Takes an event; gives the lines that are whole by it.
    pub(crate) fn update(&mut self, event: &Event) -> Vec<Printed> {
        let printed = self.printed(&event.kind);
        for line in &printed {
            if let Some(step) = self.steps.get_mut(line.step) {
                step.keep(&line.text);
            }
        }
        self.change(event);
        printed
    }

    fn printed(&mut self, event: &EventKind) -> Vec<Printed> {
        let ended = |step: Option<usize>| {
            move |(at, ..): &mut (usize, Stream, String)| step.is_none_or(|step| *at == step)
        };
        let line = |(step, stream, text)| Printed { step, stream, text };
        match event {
            EventKind::Log { step, stream, text } => {
                let (step, stream) = (*step, *stream);
                let same = |(s, t, _): &(usize, Stream, String)| (*s, *t) == (step, stream);
                let known = self.open.iter().position(same);
                let mut rest = known
                    .map(|at| self.open.swap_remove(at).2)
                    .unwrap_or_default();
                rest.push_str(text);
                let whole = match rest.rfind('\n') {
                    Some(at) => at + 1,
                    None if rest.len() > LONGEST => rest.len(),
                    None => 0,
                };
                let lines = rest[..whole].lines();
                let lines = lines.map(|text| line((step, stream, text.to_owned())));
                let lines = lines.collect();
                if whole < rest.len() {
                    self.open.push((step, stream, rest.split_off(whole)));
                }
                lines
            }
            EventKind::StepDone { step, .. } | EventKind::StepFailed { step, .. } => {
                let ended = self.open.extract_if(.., ended(Some(*step)));
                ended.map(line).collect()
            }
            EventKind::Finished { .. } => {
                let ended = self.open.extract_if(.., ended(None));
                ended.map(line).collect()
            }
            _ => Vec::new(),
        }
    }

    fn change(&mut self, event: &Event) {
        self.seq = self.seq.max(event.seq);
        match &event.kind {
            EventKind::Queued { ahead } => self.ahead = Some(*ahead),
            EventKind::Started { steps } => {
                self.ahead = None;
                self.steps = steps
                    .iter()
                    .map(|step| Step {
                        planned: step.state,
                        source: None,
                        title: harmless(&step.title.replace('\n', " ")),
                        state: StepState::Waiting,
                        began: None,
                        seconds: 0.0,
                        layer_bytes: 0,
                        tail: VecDeque::new(),
                        message: String::new(),
                    })
                    .collect();
            }
            EventKind::Pulling { image, done, total } => {
                match self.pulls.iter_mut().find(|p| p.image == *image) {
                    Some(pull) => (pull.done, pull.total) = (*done, *total),
                    None => {
                        self.pulls.push(Pull {
                            image: image.clone(),
                            done: *done,
                            total: *total,
                        });
                    }
                }
            }
            EventKind::StepStarted { step } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.state = StepState::Running;
                    step.began = event.time.parse().ok();
                }
            }
            EventKind::Log { .. } => {}
            EventKind::StepCached { step, source } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.state = StepState::Cached;
                    step.source = Some(source.clone());
                }
            }
            EventKind::StepDone {
                step,
                seconds,
                layer_bytes,
                ..
            } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.state = StepState::Ran;
                    step.seconds = *seconds;
                    step.layer_bytes = *layer_bytes;
                }
            }
            EventKind::StepFailed {
                step,
                message,
                seconds,
                ..
            } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.state = StepState::Failed;
                    step.seconds = *seconds;
                    step.message = harmless(message);
                }
            }
            EventKind::Pushed { bytes, present, .. } => {
                self.pushed += if *present { 0 } else { *bytes };
            }
            EventKind::Warning { message } => self.warnings.push(harmless(message)),
            EventKind::Finished { build } => {
                let now = event.time.parse().ok();
                for step in self
                    .steps
                    .iter_mut()
                    .filter(|s| s.state == StepState::Running)
                {
                    // It was cut off, and takes no more time.
                    step.seconds = now.map_or(0.0, |now| step.seconds(now));
                    step.began = None;
                }
                self.ahead = None;
                self.outcome = Some(build.status);
                self.error.clone_from(&build.error);
            }
        }
    }

    /// The first step that failed.
    pub(crate) fn failed(&self) -> Option<usize> {
        self.steps.iter().position(|s| s.state == StepState::Failed)
    }

    /// The last step that runs.
    pub(crate) fn running(&self) -> Option<usize> {
        self.steps
            .iter()
            .rposition(|s| s.state == StepState::Running)
    }

    /// Steps that need no more work.
    pub(crate) fn done(&self) -> usize {
        let done = |s: &&Step| matches!(s.state, StepState::Cached | StepState::Ran);
        self.steps.iter().filter(done).count()
    }
}

impl Step {
    /// Keeps a line for the end of its output.
    fn keep(&mut self, line: &str) {
        let line = harmless(line);
        if line.trim().is_empty() {
            return;
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// Seconds that it took, or has taken until `now`.
    pub(crate) fn seconds(&self, now: Timestamp) -> f64 {
        match (self.state, self.began) {
            (StepState::Running, Some(began)) => now.duration_since(began).as_secs_f64().max(0.0),
            _ => self.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chalk_core::wire::{PlanStep, Stream};

    #[test]
    fn a_step_goes_through_its_states() {
        let mut model = BuildState::default();
        let mut seq = 0;
        let mut tell = |model: &mut BuildState, kind| {
            seq += 1;
            model.update(&Event {
                seq,
                time: "2026-01-01T00:00:00Z".into(),
                kind,
            })
        };
        let step = PlanStep {
            kind: "run".into(),
            key: chalk_core::Digest::of(b""),
            title: "RUN a\nb".into(),
            state: PlanState::Run,
        };
        tell(&mut model, EventKind::Started { steps: vec![step] });
        assert_eq!(model.steps[0].title, "RUN a b");
        tell(&mut model, EventKind::StepStarted { step: 0 });
        assert_eq!(model.steps[0].state, StepState::Running);
        for n in 0..100 {
            let text = format!("line {n}\n\n");
            tell(
                &mut model,
                EventKind::Log {
                    step: 0,
                    stream: Stream::Stdout,
                    text,
                },
            );
        }
        assert_eq!(model.steps[0].tail.len(), TAIL);
        assert_eq!(
            model.steps[0].tail.back().map(String::as_str),
            Some("line 99")
        );
        tell(
            &mut model,
            EventKind::StepDone {
                step: 0,
                seconds: 1.5,
                layer: None,
                layer_bytes: 7,
            },
        );
        assert_eq!(
            (model.steps[0].state, model.steps[0].layer_bytes),
            (StepState::Ran, 7)
        );
        // Lines come in pieces, and their last one may lack its end.
        let log = |stream, text: &str| EventKind::Log {
            step: 0,
            stream,
            text: text.to_owned(),
        };
        let line = |stream, text: &str| Printed {
            step: 0,
            stream,
            text: text.to_owned(),
        };
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        assert_eq!(tell(&mut model, log(out, "a\nb")), [line(out, "a")]);
        assert_eq!(tell(&mut model, log(err, "e")), []);
        assert_eq!(tell(&mut model, log(out, "c\nd")), [line(out, "bc")]);
        let failed = EventKind::StepFailed {
            step: 0,
            exit_code: Some(1),
            message: "exit code 1".into(),
            seconds: 1.0,
            tail: Vec::new(),
        };
        assert_eq!(tell(&mut model, failed), [line(err, "e"), line(out, "d")]);
        assert_eq!(model.steps[0].tail.back().map(String::as_str), Some("d"));
        let endless = "x".repeat(LONGEST + 1);
        assert_eq!(tell(&mut model, log(out, &endless)).len(), 1);
        // An event for a step that was never announced must not bring the view down.
        tell(&mut model, EventKind::StepStarted { step: 9 });
    }
}
