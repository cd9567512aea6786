//! Progress as lines, for pipes, files and CI.

use std::io::{self, Write as _};

use chalk_core::wire::{BuildStatus, EventKind};

use super::{bytes, harmless, seconds};
use crate::build_state::BuildState;

#[derive(Debug, Default)]
pub(crate) struct Plain {
    /// Pieces of output that still lack their end of line, by step and stream.
    open: Vec<(usize, chalk_core::wire::Stream, String)>,
    pulled: Vec<String>,
}

impl Plain {
    pub(crate) fn event(&mut self, model: &BuildState, event: &EventKind) {
        let count = model.steps.len();
        match event {
            EventKind::Queued { ahead } => print(&format!("queued, {ahead} ahead")),
            EventKind::Started { .. } | EventKind::Pushed { .. } => {}
            EventKind::Pulling { image, done, total } => {
                let ended = *total > 0 && done >= total;
                if ended && !self.pulled.contains(image) {
                    self.pulled.push(image.clone());
                    print(&format!("pulled {image} ({})", bytes(*total)));
                }
            }
            EventKind::StepStarted { step } => {
                if let Some(view) = model.steps.get(*step) {
                    print(&format!(
                        "#{} [{}/{count}] {}",
                        step + 1,
                        step + 1,
                        view.title
                    ));
                }
            }
            EventKind::Log { step, stream, text } => self.log(*step, *stream, text),
            EventKind::StepCached { step, source } => {
                if let Some(view) = model.steps.get(*step) {
                    let n = step + 1;
                    print(&format!(
                        "#{n} [{n}/{count}] {}\n#{n} CACHED ({source})",
                        view.title
                    ));
                }
            }
            EventKind::StepDone {
                step,
                seconds: took,
                layer_bytes,
                ..
            } => {
                self.flush(*step);
                let size = match layer_bytes {
                    0 => String::new(),
                    n => format!(", layer {}", bytes(*n)),
                };
                print(&format!("#{} DONE {}{size}", step + 1, seconds(*took)));
            }
            EventKind::StepFailed { step, message, .. } => {
                self.flush(*step);
                print(&format!("#{} FAILED {}", step + 1, harmless(message)));
            }
            EventKind::Warning { message } => print(&format!("warning: {}", harmless(message))),
            EventKind::Finished { build } => {
                let word = match build.status {
                    BuildStatus::Built => "built",
                    BuildStatus::Reused => "reused",
                    BuildStatus::Cancelled => "cancelled",
                    _ => "failed",
                };
                print(&format!("{word} in {}", seconds(build.seconds)));
            }
        }
    }

    fn log(&mut self, step: usize, stream: chalk_core::wire::Stream, text: &str) {
        let place = self
            .open
            .iter()
            .position(|(s, t, _)| (*s, *t) == (step, stream));
        let mut rest = place
            .map(|i| self.open.swap_remove(i).2)
            .unwrap_or_default();
        rest.push_str(text);
        let whole = rest.rfind('\n').map_or(0, |i| i + 1);
        for line in rest[..whole].lines() {
            print(&format!("#{} {}", step + 1, harmless(line)));
        }
        if whole < rest.len() {
            self.open.push((step, stream, rest.split_off(whole)));
        }
    }

    fn flush(&mut self, step: usize) {
        for (s, _, text) in &self.open {
            if *s == step {
                print(&format!("#{} {}", s + 1, harmless(text)));
            }
        }
        self.open.retain(|(s, ..)| *s != step);
    }
}

fn print(line: &str) {
    // Nobody may be reading any more; the build goes on all the same.
    let _ = writeln!(io::stderr(), "{line}");
}
