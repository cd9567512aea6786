//! Some lines at the bottom of a terminal that are drawn again and again.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crossterm::style::ContentStyle;
use crossterm::{QueueableCommand as _, cursor, terminal};
use unicode_width::UnicodeWidthChar as _;

/// What is done within this time is not shown as it goes on.
const QUICK: Duration = Duration::from_millis(300);

/// A line; what does not fit is cut off.
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) style: ContentStyle,
}

impl Line {
    pub(crate) fn new(text: impl Into<String>, style: ContentStyle) -> Self {
        Self {
            text: text.into(),
            style,
        }
    }
}

/// The region on standard error.
#[derive(Debug)]
pub(crate) struct Region {
    /// Lines that the last frame took.
    height: u16,
    color: bool,
}

impl Region {
    pub(crate) fn new() -> Self {
        Self {
            height: 0,
            color: std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }

    /// Lines that fit.
    pub(crate) fn room(&self) -> usize {
        let (_, rows) = size();
        usize::from(rows.saturating_sub(1)).max(1)
    }

    /// Columns of the terminal.
    pub(crate) fn columns(&self) -> usize {
        usize::from(size().0)
    }

    /// Draws lines over those of the last frame.
    pub(crate) fn draw(&mut self, lines: &[Line]) {
        let _ = self.write(lines, size().0);
    }

    /// Draws lines, which may be more than fit, and leaves them on the screen.
    pub(crate) fn leave(&mut self, lines: &[Line]) {
        let _ = self.write(&[], 80);
        self.draw(lines);
        self.height = 0;
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

/// One line on standard error while something takes long, where that is a terminal.
pub(crate) struct StatusLine {
    region: Option<Region>,
    began: Instant,
}

impl StatusLine {
    pub(crate) fn new() -> Self {
        Self {
            region: io::stderr().is_terminal().then(Region::new),
            began: Instant::now(),
        }
    }

    /// Shows a text in place of the one before; what is over soon is not worth a word.
    pub(crate) fn show(&mut self, text: &str) {
        if let Some(region) = &mut self.region
            && self.began.elapsed() > QUICK
        {
            region.draw(&[Line::new(text, ContentStyle::new())]);
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if let Some(region) = &mut self.region
            && region.height > 0
        {
            region.draw(&[]);
        }
    }
}

fn size() -> (u16, u16) {
    terminal::size().unwrap_or((80, 24))
}

/// The first `columns` columns of a text, with an ellipsis when something is cut.
pub(crate) fn shorten(text: &str, columns: usize) -> String {
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
