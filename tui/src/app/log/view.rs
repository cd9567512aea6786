//! Which rows of the log are on the screen. A view hangs on a byte of a line, so that what is read
//! stays where it is while lines come and go and the width changes; only rows near it are ever
//! counted.

use super::lines::{Place, Shown};
use super::search::Match;
use super::wrap::{Rows, Wraps, width};

/// The window on the log.
#[derive(Debug)]
pub(super) struct View {
    pub(super) wraps: Wraps,
    wrap: bool,
    follow: bool,
    /// What the first row shows, where the end is not followed.
    top: Place,
    /// The line that was pushed next when following stopped.
    unread_from: u64,
    /// Cells cut off at the left, where lines are not wrapped.
    left: usize,
    /// Cells and rows of the text, at least 1.
    width: usize,
    height: usize,
}

/// A row of a line, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowAt {
    pub(super) line: u64,
    pub(super) row: usize,
}

impl View {
    /// Follows the end of the log, with lines wrapped; of a usual size until it is drawn.
    pub(super) fn new() -> Self {
        let (width, height) = (80, 24);
        Self {
            wraps: Wraps::new(Some(width)),
            wrap: true,
            follow: true,
            top: Place::default(),
            unread_from: 0,
            left: 0,
            width,
            height,
        }
    }

    pub(super) fn resize(&mut self, width: usize, height: usize) {
        self.width = width.max(1);
        self.height = height.max(1);
        self.wraps.set_width(self.wrap.then_some(self.width));
    }

    pub(super) fn is_wrapped(&self) -> bool {
        self.wrap
    }

    pub(super) fn set_wrap(&mut self, wrap: bool) {
        self.wrap = wrap;
        self.left = 0;
        self.wraps.set_width(wrap.then_some(self.width));
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Cuts off more or less at the left of lines that are not wrapped, of which the widest has
    /// `widest` cells.
    pub(super) fn scroll_sideways(&mut self, by: isize, widest: usize) {
        if !self.wrap {
            let furthest = widest.saturating_sub(self.width).max(self.left);
            let left = self.left.saturating_add_signed(by);
            self.left = left.min(furthest);
        }
    }

    pub(super) fn follows(&self) -> bool {
        self.follow
    }

    pub(super) fn follow(&mut self) {
        self.follow = true;
    }

    /// Stops following, with what is on the screen staying there.
    pub(super) fn stay(&mut self, lines: Shown<'_>) {
        if self.follow {
            let top = self.last_top(lines);
            self.top = self.place(lines, top);
            self.follow = false;
            self.unread_from = lines.next();
        }
    }

    pub(super) fn unread(&self, lines: Shown<'_>) -> usize {
        if self.follow {
            0
        } else {
            lines.next().saturating_sub(self.unread_from) as usize
        }
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// The row that is shown first. Where lines were dropped or the window grew, the view moves so
    /// that it is full, as far as there are lines.
    pub(super) fn top(&mut self, lines: Shown<'_>) -> RowAt {
        let last = self.last_top(lines);
        if self.follow {
            return last;
        }
        let first = RowAt {
            line: lines.first(),
            row: 0,
        };
        let wanted = self.row_at(lines, self.top);
        let top = wanted.max(first).min(last);
        if top != wanted {
            self.top = self.place(lines, top);
        }
        top
    }

    /// What the first row shows.
    pub(super) fn top_place(&mut self, lines: Shown<'_>) -> Place {
        let top = self.top(lines);
        self.place(lines, top)
    }

    /// Moves by rows, upwards where negative. Upwards stops following; down to the end starts it.
    pub(super) fn scroll(&mut self, lines: Shown<'_>, by: isize) {
        if by < 0 {
            self.stay(lines);
            let top = self.top(lines);
            let top = self.up(lines, top, by.unsigned_abs());
            self.top = self.place(lines, top);
        } else if by > 0 && !self.follow {
            let top = self.top(lines);
            let top = self.down(lines, top, by.unsigned_abs());
            if top >= self.last_top(lines) {
                self.follow = true;
            } else {
                self.top = self.place(lines, top);
            }
        }
    }

    pub(super) fn go_to_top(&mut self, lines: Shown<'_>) {
        self.stay(lines);
        self.top = Place {
            line: lines.first(),
            byte: 0,
        };
    }

    /// Moves so that a match is on the screen; not at all where it is.
    pub(super) fn reveal(&mut self, lines: Shown<'_>, found: Match) {
        let Some(line) = lines.line(found.line) else {
            return;
        };
        let at = self.row_at(lines, found.place());
        let top = self.top(lines);
        let bottom = self.down(lines, top, self.height - 1);
        if at < top || at > bottom {
            self.stay(lines);
            // With some rows above it, for what led to it.
            let top = self.up(lines, at, self.height / 3);
            self.top = self.place(lines, top);
        }
        if !self.wrap {
            let cells = |to| line.text.get(..to).map_or(0, width);
            let (start, end) = (cells(found.start), cells(found.end));
            // The outermost cells may hold the marks of what is cut off.
            if start < self.left + usize::from(self.left > 0) || end >= self.left + self.width {
                self.left = if end < self.width {
                    0
                } else {
                    start.saturating_sub(self.width / 3)
                };
            }
        }
    }

    /// The first row, when the last row of the log is the last on the screen.
    fn last_top(&mut self, lines: Shown<'_>) -> RowAt {
        let end = self.end(lines);
        self.up(lines, end, self.height - 1)
    }

    /// The last row of the log.
    fn end(&mut self, lines: Shown<'_>) -> RowAt {
        let line = lines.next().saturating_sub(1).max(lines.first());
        RowAt {
            line,
            row: self.count(lines, line) - 1,
        }
    }

    fn rows(&mut self, lines: Shown<'_>, number: u64) -> Rows {
        lines
            .line(number)
            .map_or(Rows::One, |line| self.wraps.rows(&line))
    }

    fn count(&mut self, lines: Shown<'_>, number: u64) -> usize {
        self.rows(lines, number).count()
    }

    fn row_at(&mut self, lines: Shown<'_>, place: Place) -> RowAt {
        RowAt {
            line: place.line,
            row: self.rows(lines, place.line).row_of(place.byte),
        }
    }

    fn place(&mut self, lines: Shown<'_>, at: RowAt) -> Place {
        Place {
            line: at.line,
            byte: self.rows(lines, at.line).start(at.row),
        }
    }

    fn up(&mut self, lines: Shown<'_>, from: RowAt, by: usize) -> RowAt {
        let first = RowAt {
            line: lines.first(),
            row: 0,
        };
        if by >= lines.bytes() {
            return first;
        }
        let (mut at, mut left) = (from, by);
        while left > at.row {
            if at.line <= first.line {
                return first;
            }
            left -= at.row + 1;
            at.line -= 1;
            at.row = self.count(lines, at.line) - 1;
        }
        at.row -= left;
        at
    }

    fn down(&mut self, lines: Shown<'_>, from: RowAt, by: usize) -> RowAt {
        let end = self.end(lines);
        if by >= lines.bytes() {
            return end;
        }
        let (mut at, mut left) = (from, by);
        while at < end {
            let below = self.count(lines, at.line) - 1 - at.row;
            if left <= below {
                at.row += left;
                return at;
            }
            left -= below + 1;
            at = RowAt {
                line: at.line + 1,
                row: 0,
            };
        }
        end.min(at)
    }
}
