//! What is known of a running build, without any terminal.

use std::collections::VecDeque;
use std::time::Instant;

use chalk_core::wire::{BuildStatus, EventKind, StepState};

use super::harmless;

/// Lines kept of each step's output.
const TAIL: usize = 40;

/// State of a build as its events tell it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) steps: Vec<Step>,
    pub(crate) pulls: Vec<Pull>,
    pub(crate) warnings: Vec<String>,
    pub(crate) ahead: Option<usize>,
    pub(crate) pushed: u64,
    pub(crate) outcome: Option<BuildStatus>,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) state: StepState,
    pub(crate) began: Option<Instant>,
    pub(crate) seconds: f64,
    pub(crate) layer_bytes: u64,
    pub(crate) tail: VecDeque<String>,
    pub(crate) message: String,
}

/// One base image that is pulled.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) image: String,
    pub(crate) done: u64,
    pub(crate) total: u64,
}

impl Model {
    pub(crate) fn update(&mut self, event: &EventKind) {
        match event {
            EventKind::Queued { ahead } => self.ahead = Some(*ahead),
            EventKind::Started { steps } => {
                self.ahead = None;
                self.steps = steps
                    .iter()
                    .map(|step| Step {
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
                    step.began = Some(Instant::now());
                }
            }
            EventKind::Log { step, text, .. } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    for line in text.lines().map(harmless).filter(|l| !l.trim().is_empty()) {
                        if step.tail.len() == TAIL {
                            step.tail.pop_front();
                        }
                        step.tail.push_back(line);
                    }
                }
            }
            EventKind::StepCached { step, .. } => {
                if let Some(step) = self.steps.get_mut(*step) {
                    step.state = StepState::Cached;
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
            EventKind::Finished { build } => self.outcome = Some(build.status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chalk_core::wire::{PlanState, PlanStep, Stream};

    #[test]
    fn a_step_goes_through_its_states() {
        let mut model = Model::default();
        let step = PlanStep {
            kind: "run".into(),
            key: chalk_core::Digest::of(b""),
            title: "RUN a\nb".into(),
            state: PlanState::Run,
        };
        model.update(&EventKind::Started { steps: vec![step] });
        assert_eq!(model.steps[0].title, "RUN a b");
        model.update(&EventKind::StepStarted { step: 0 });
        assert_eq!(model.steps[0].state, StepState::Running);
        for n in 0..100 {
            let text = format!("line {n}\n\n");
            model.update(&EventKind::Log {
                step: 0,
                stream: Stream::Stdout,
                text,
            });
        }
        assert_eq!(model.steps[0].tail.len(), TAIL);
        assert_eq!(
            model.steps[0].tail.back().map(String::as_str),
            Some("line 99")
        );
        model.update(&EventKind::StepDone {
            step: 0,
            seconds: 1.5,
            layer: None,
            layer_bytes: 7,
        });
        assert_eq!(
            (model.steps[0].state, model.steps[0].layer_bytes),
            (StepState::Ran, 7)
        );
        // An event for a step that was never announced must not bring the view down.
        model.update(&EventKind::StepStarted { step: 9 });
    }
}
