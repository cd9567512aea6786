//! Progress as lines, for pipes, files and CI.

use std::io::{self, Write as _};

use chalk_core::wire::{BuildStatus, EventKind};

use super::{bytes, harmless, seconds};
use crate::build_state::{BuildState, Printed};

#[derive(Debug, Default)]
pub(crate) struct Plain {
    pulled: Vec<String>,
}

impl Plain {
    /// Prints an event, and before it the lines that are whole by it.
    pub(crate) fn event(&mut self, model: &BuildState, event: &EventKind, printed: &[Printed]) {
        for line in printed {
            print(&format!("#{} {}", line.step + 1, harmless(&line.text)));
        }
        let count = model.steps.len();
        match event {
            EventKind::Queued { ahead } => print(&format!("queued, {ahead} ahead")),
            EventKind::Started { .. } | EventKind::Log { .. } | EventKind::Pushed { .. } => {}
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
                let size = match layer_bytes {
                    0 => String::new(),
                    n => format!(", layer {}", bytes(*n)),
                };
                print(&format!("#{} DONE {}{size}", step + 1, seconds(*took)));
            }
            EventKind::StepFailed { step, message, .. } => {
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
}

fn print(line: &str) {
    // Nobody may be reading any more; the build goes on all the same.
    let _ = writeln!(io::stderr(), "{line}");
}
