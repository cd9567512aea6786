//! Progress as a live region at the bottom of a terminal.

use std::io::{self, Write as _};
use std::time::Instant;

use chalk_core::wire::{BuildStatus, EventKind, StepState};
use crossterm::style::{Attribute, Color, ContentStyle, Stylize as _};
use crossterm::{QueueableCommand as _, cursor, terminal};
use unicode_width::UnicodeWidthChar as _;

use super::model::{Model, Step};
use super::{bytes, seconds};

/// Lines of output shown under a running step.
const LOG_LINES: usize = 6;

#[derive(Debug)]
pub(crate) struct Tty {
    began: Instant,
    /// Lines that the last frame took.
    height: u16,
    color: bool,
}

struct Line {
    text: String,
    style: ContentStyle,
}

impl Tty {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            height: 0,
            color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }

    pub(crate) fn event(&mut self, event: &EventKind) {
        if let EventKind::Queued { .. } = event {
            self.began = Instant::now();
        }
    }

    /// Draws the region anew over the last one.
    pub(crate) fn draw(&mut self, model: &Model) {
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        let mut lines = self.lines(model);
        let room = usize::from(rows.saturating_sub(1)).max(1);
        if lines.len() > room {
            // The heading and what runs now matter most; finished steps scroll away first.
            let cut = lines.len() - room;
            lines.drain(1..=cut);
        }
        let _ = self.write(&lines, columns);
    }

    /// Draws the end and leaves it on the screen.
    pub(crate) fn end(&mut self, model: &Model) {
        let _ = self.write(&[], 80);
        let (columns, _) = terminal::size().unwrap_or((80, 24));
        let lines = self.lines(model);
        let _ = self.write(&lines, columns);
        self.height = 0;
    }

    fn lines(&mut self, model: &Model) -> Vec<Line> {
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

    fn step(&self, lines: &mut Vec<Line>, index: usize, step: &Step, model: &Model) {
        let plain = ContentStyle::new();
        let (mark, style, note) = match step.state {
            StepState::Waiting if model.outcome.is_some() => {
                (" ", plain.attribute(Attribute::Dim), "not run".to_owned())
            }
            StepState::Waiting => (" ", plain.attribute(Attribute::Dim), String::new()),
            StepState::Running => {
                let took = step.began.map_or(0.0, |b| b.elapsed().as_secs_f64());
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

    fn write(&mut self, lines: &[Line], columns: u16) -> io::Result<()> {
        let mut out = io::stderr().lock();
        let mut frame = Vec::new();
        frame.queue(terminal::BeginSynchronizedUpdate)?;
        if self.height > 0 {
            frame.queue(cursor::MoveUp(self.height))?;
        }
        frame.queue(cursor::MoveToColumn(0))?;
        frame.queue(terminal::Clear(terminal::ClearType::FromCursorDown))?;
        for line in lines {
            let text = shorten(&line.text, usize::from(columns.max(2)) - 1);
            if self.color {
                write!(frame, "{}", line.style.apply(text))?;
            } else {
                write!(frame, "{text}")?;
            }
            write!(frame, "\r\n")?;
        }
        frame.queue(terminal::EndSynchronizedUpdate)?;
        self.height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        out.write_all(&frame)?;
        out.flush()
    }
}

/// The first `columns` columns of a text, with an ellipsis when something is cut.
fn shorten(text: &str, columns: usize) -> String {
    let width = |c: char| c.width().unwrap_or(0);
    if text.chars().map(width).sum::<usize>() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += width(c);
        if used + 1 > columns {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::shorten;

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abcd", 3), "ab…");
        assert_eq!(shorten("漢字漢字", 5), "漢字…");
    }
}
