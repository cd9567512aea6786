//! Progress as a live region at the bottom of a terminal.

use std::time::Instant;

use chalk_core::wire::{BuildStatus, EventKind, StepState};
use crossterm::style::{Attribute, Color, ContentStyle, Stylize as _};
use jiff::Timestamp;

use super::region::{Line, Region, shorten};
use super::{bytes, seconds};
use crate::build_state::{BuildState, Step};

/// Lines of output shown under a running step.
const LOG_LINES: usize = 6;

#[derive(Debug)]
pub(crate) struct Tty {
    began: Instant,
    /// Whether anything was heard of the build.
    heard: bool,
    region: Region,
}

impl Tty {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            heard: false,
            region: Region::new(),
        }
    }

    pub(crate) fn event(&mut self, event: &EventKind) {
        self.heard = true;
        if let EventKind::Queued { .. } = event {
            self.began = Instant::now();
        }
    }

    /// Draws the region anew over the last one.
    pub(crate) fn draw(&mut self, model: &BuildState) {
        let mut lines = self.lines(model);
        let room = self.region.room();
        if lines.len() > room {
            // The heading and what runs now matter most; finished steps scroll away first.
            let cut = lines.len() - room;
            lines.drain(1..=cut);
        }
        self.region.draw(&lines);
    }

    /// Draws the end and leaves it on the screen; nothing of a build that never began.
    pub(crate) fn end(&mut self, model: &BuildState) {
        let lines = match self.heard {
            true => self.lines(model),
            false => Vec::new(),
        };
        self.region.leave(&lines);
    }

    fn lines(&mut self, model: &BuildState) -> Vec<Line> {
        let mut lines = Vec::new();
        let done = model
            .steps
            .iter()
            .filter(|s| matches!(s.state, StepState::Cached | StepState::Ran))
            .count();
        let elapsed = seconds(self.began.elapsed().as_secs_f64());
        let heading = match (model.outcome, model.ahead) {
            (Some(BuildStatus::Built), _) => format!("Built in {elapsed}"),
            (Some(BuildStatus::Reused), _) => format!("Reused in {elapsed}"),
            (Some(BuildStatus::Cancelled), _) => format!("Cancelled after {elapsed}"),
            (Some(_), _) => format!("Failed after {elapsed}"),
            (None, Some(ahead)) => format!("Queued, {ahead} ahead, {elapsed}"),
            (None, None) => format!("Building {elapsed} ({done}/{})", model.steps.len()),
        };
        lines.push(Line {
            text: heading,
            style: ContentStyle::new().bold(),
        });
        if model.outcome.is_none() {
            for pull in model
                .pulls
                .iter()
                .filter(|p| p.total == 0 || p.done < p.total)
            {
                let of = if pull.total > 0 {
                    format!(" of {}", bytes(pull.total))
                } else {
                    String::new()
                };
                let text = format!("   pull {} {}{of}", pull.image, bytes(pull.done));
                lines.push(Line {
                    text,
                    style: ContentStyle::new(),
                });
            }
        }
        for (index, step) in model.steps.iter().enumerate() {
            self.step(&mut lines, index, step, model);
        }
        let text = |w: &String| Line {
            text: format!(" ! {w}"),
            style: ContentStyle::new().with(Color::Yellow),
        };
        lines.extend(model.warnings.iter().map(text));
        lines
    }

    fn step(&self, lines: &mut Vec<Line>, index: usize, step: &Step, model: &BuildState) {
        let plain = ContentStyle::new();
        let (mark, style, note) = match step.state {
            StepState::Waiting if model.outcome.is_some() => {
                (" ", plain.attribute(Attribute::Dim), "not run".to_owned())
            }
            StepState::Waiting => (" ", plain.attribute(Attribute::Dim), String::new()),
            StepState::Running => {
                let took = step.seconds(Timestamp::now());
                (">", plain.with(Color::Cyan), seconds(took))
            }
            StepState::Cached => ("=", plain.with(Color::Blue), "cached".to_owned()),
            StepState::Ran => {
                let size = match step.layer_bytes {
                    0 => String::new(),
                    n => format!("  {}", bytes(n)),
                };
                (
                    "+",
                    plain.with(Color::Green),
                    format!("{}{size}", seconds(step.seconds)),
                )
            }
            StepState::Failed => (
                "x",
                plain.with(Color::Red),
                format!("failed: {}", step.message),
            ),
        };
        let text = format!(
            " {mark} {:>2} {}  {note}",
            index + 1,
            shorten(&step.title, 60)
        );
        lines.push(Line { text, style });
        let shown = match step.state {
            StepState::Running if model.outcome.is_none() => LOG_LINES,
            StepState::Failed => step.tail.len(),
            _ => 0,
        };
        for line in step.tail.iter().skip(step.tail.len().saturating_sub(shown)) {
            let style = plain.attribute(Attribute::Dim);
            lines.push(Line {
                text: format!("      {line}"),
                style,
            });
        }
    }
}
