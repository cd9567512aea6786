//! The pane that shows a log: a million lines to follow, scroll, search, mark and save.
//!
//! What tools print is made harmless when it comes in ([`ansi`]) and kept as text with its styles
//! beside it ([`lines`], [`style`]). Of all that only the rows on the screen are broken ([`wrap`]),
//! found ([`view`]) and drawn ([`draw`]), so that a frame costs the same however long the log is.

mod ansi;
mod draw;
mod lines;
mod search;
mod select;
mod style;
mod view;
mod wrap;

use std::fmt;

use ratatui::layout::Rect;
use ratatui::style::Style;

use lines::{Lines, Place};
use search::Search;
use select::{Selection, Spot};
use style::Pen;
use view::View;

/// Something that a build printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// Unix time in milliseconds.
    pub(crate) time: Option<i64>,
    /// What printed it, such as the label of a step; may be empty.
    pub(crate) source: String,
    pub(crate) stderr: bool,
    /// One line as it was printed, with or without its end. Ends of lines within it make lines.
    pub(crate) text: String,
}

/// How a log looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogStyles {
    pub(crate) text: Style,
    /// Times, and marks of what is cut off.
    pub(crate) dim: Style,
    pub(crate) stderr: Style,
    pub(crate) source: Style,
    pub(crate) matched: Style,
    pub(crate) current_match: Style,
    pub(crate) selection: Style,
    /// Whether the colours of the tools are shown. Bold, underlined and the like always are.
    pub(crate) colors: bool,
}

/// A log and the window on it.
pub(crate) struct LogPane {
    lines: Lines,
    /// The style that each stream of each source left set, by source and whether it is stderr.
    pens: Vec<[Pen; 2]>,
    view: View,
    times: bool,
    search: Option<Search>,
    /// Whether matches are still being counted.
    counting: bool,
    selection: Option<Selection>,
    drawn: Drawn,
}

/// What the last frame showed where.
#[derive(Debug, Default)]
struct Drawn {
    area: Rect,
    /// The column of the screen that text starts at.
    text_from: u16,
    /// Cells of each line that were cut off at the left.
    left: usize,
    rows: Vec<DrawnRow>,
}

/// The bytes of a line that a row of the screen showed.
#[derive(Debug, Clone, Copy)]
struct DrawnRow {
    line: u64,
    start: usize,
    end: usize,
}

impl LogPane {
    /// An empty log, which is followed, with lines wrapped and without times. At most `limit_lines`
    /// lines are kept, and fewer where they have more than 128 bytes on average.
    pub(crate) fn new(limit_lines: usize) -> Self {
        Self {
            lines: Lines::new(limit_lines),
            pens: Vec::new(),
            view: View::new(),
            times: false,
            search: None,
            counting: false,
            selection: None,
            drawn: Drawn::default(),
        }
    }

    /// Adds a line at the end, and drops some from the front where there are too many.
    pub(crate) fn push(&mut self, line: LogLine) {
        let LogLine {
            time,
            source,
            stderr,
            text,
        } = line;
        let source = self.lines.source(&source);
        if self.pens.len() <= usize::from(source) {
            self.pens
                .resize(usize::from(source) + 1, Default::default());
        }
        let mut unknown = Pen::default();
        let pen = match self.pens.get_mut(usize::from(source)) {
            Some(pens) => &mut pens[usize::from(stderr)],
            None => &mut unknown,
        };
        let (lines, search) = (&mut self.lines, self.search.as_ref());
        ansi::read(&text, pen, |text, changes| {
            let matches = search.map_or(0, |search| search.count_in(text));
            lines.push(text, changes, time, source, stderr, matches);
        });
        while self.lines.too_many() {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let first = self.lines.first();
        let mut matches = 0;
        if let Some(search) = &mut self.search {
            matches = self
                .lines
                .line(first)
                .map_or(0, |line| search.count_in(line.text));
            search.current = search.current.filter(|current| current.line != first);
        }
        self.lines.drop_first(matches);
    }

    /// Lines that are kept.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether its first lines are no longer kept.
    pub(crate) fn has_dropped(&self) -> bool {
        self.lines.first() > 0
    }

    /// The plain text of every line, for a file.
    pub(crate) fn text(&self) -> impl Iterator<Item = String> {
        self.lines
            .range(0, u64::MAX)
            .map(|line| line.text.to_owned())
    }

    /// The plain text of the last `count` lines.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let from = self.lines.next().saturating_sub(count as u64);
        self.lines
            .range(from, u64::MAX)
            .map(|line| line.text.to_owned())
            .collect()
    }

    /// Shows the end of the log and what comes after it, or stays at what is shown.
    pub(crate) fn set_follow(&mut self, follow: bool) {
        if follow {
            self.view.follow();
        } else {
            self.view.stay(&self.lines);
        }
    }

    /// Whether the end of the log is shown, whatever comes.
    pub(crate) fn is_following(&self) -> bool {
        self.view.follows()
    }

    /// Lines that came since following stopped.
    pub(crate) fn unread(&self) -> usize {
        self.view.unread(&self.lines)
    }

    /// Moves by rows of the screen, upwards where negative. Upwards stops following; down to the end
    /// starts it again.
    pub(crate) fn scroll_by(&mut self, rows: isize) {
        self.view.scroll(&self.lines, rows);
    }

    /// Moves by screens, all but one row of them.
    pub(crate) fn page_by(&mut self, pages: isize) {
        let rows = isize::try_from(self.view.height()).unwrap_or(isize::MAX);
        self.scroll_by(pages.saturating_mul((rows - 1).max(1)));
    }

    #[expect(clippy::wrong_self_convention, reason = "a movement, not a conversion")]
    pub(crate) fn to_top(&mut self) {
        self.view.go_to_top(&self.lines);
    }

    /// To the end of the log, which is followed from there.
    #[expect(clippy::wrong_self_convention, reason = "a movement, not a conversion")]
    pub(crate) fn to_bottom(&mut self) {
        self.set_follow(true);
    }

    /// Shows what is further left of lines that are not wrapped.
    pub(crate) fn scroll_left(&mut self, cells: usize) {
        let by = isize::try_from(cells).unwrap_or(isize::MAX);
        self.view.scroll_sideways(-by, 0);
    }

    /// Shows what is further right of lines that are not wrapped, up to the end of the longest on
    /// the screen.
    pub(crate) fn scroll_right(&mut self, cells: usize) {
        let widths = self
            .drawn
            .rows
            .iter()
            .filter_map(|row| self.lines.line(row.line));
        let widest = widths.map(|line| wrap::width(line.text)).max().unwrap_or(0);
        let by = isize::try_from(cells).unwrap_or(isize::MAX);
        self.view.scroll_sideways(by, widest);
    }

    pub(crate) fn toggle_wrap(&mut self) {
        self.view.set_wrap(!self.view.is_wrapped());
    }

    pub(crate) fn is_wrapped(&self) -> bool {
        self.view.is_wrapped()
    }

    pub(crate) fn toggle_times(&mut self) {
        self.times = !self.times;
    }

    pub(crate) fn shows_times(&self) -> bool {
        self.times
    }

    /// Searches the whole log, and what comes, for a text; for nothing when it is empty. Capitals
    /// count when there are some in it. Meant to be called as the text is typed: the current match
    /// stays as long as it matches, and the first is the nearest from the top of the screen on, or
    /// else above it.
    pub(crate) fn search(&mut self, query: &str) {
        let before = self.search.as_ref().and_then(|search| search.current);
        let origin = match before {
            Some(current) => current.place(),
            None => self.view.top_place(&self.lines),
        };
        self.search = Search::new(query, &mut self.lines);
        self.counting = false;
        if let Some(search) = &mut self.search {
            search.current = search
                .at_or_after(&mut self.lines, origin)
                .or_else(|| search.before(&mut self.lines, origin));
            if let Some(found) = search.current {
                self.view.reveal(&self.lines, found);
            }
            self.counting = search.go_on(&mut self.lines);
        }
    }

    /// To the next match, from the last to the first. Stops following.
    pub(crate) fn next_match(&mut self) {
        let top = self.view.top_place(&self.lines);
        self.go_to_match(|search, lines| {
            let from = search.current.map_or(top, |current| Place {
                line: current.line,
                byte: current.end,
            });
            search
                .at_or_after(lines, from)
                .or_else(|| search.at_or_after(lines, Place::default()))
        });
    }

    /// To the match before, from the first to the last. Stops following.
    pub(crate) fn previous_match(&mut self) {
        let top = self.view.top_place(&self.lines);
        let end = Place {
            line: u64::MAX,
            byte: 0,
        };
        self.go_to_match(|search, lines| {
            let to = search.current.map_or(top, search::Match::place);
            search
                .before(lines, to)
                .or_else(|| search.before(lines, end))
        });
    }

    fn go_to_match(&mut self, find: impl FnOnce(&Search, &mut Lines) -> Option<search::Match>) {
        let Some(search) = &mut self.search else {
            return;
        };
        if let Some(found) = find(search, &mut self.lines) {
            search.current = Some(found);
            self.view.stay(&self.lines);
            self.view.reveal(&self.lines, found);
        }
    }

    /// The number of the current match, from 1, or 0 when there is none, and how many there are; none
    /// when nothing is searched for. Too few while [`is_counting`](Self::is_counting).
    pub(crate) fn matches(&self) -> Option<(usize, usize)> {
        self.search
            .as_ref()
            .map(|search| search.counts(&self.lines))
    }

    /// Whether matches of a big log are still being counted, some with each [`draw`](Self::draw).
    pub(crate) fn is_counting(&self) -> bool {
        self.counting
    }

    /// The button of the mouse went down on a cell of the screen.
    pub(crate) fn select_from(&mut self, x: u16, y: u16) {
        self.selection = self.spot(x, y).map(|from| Selection { from, to: None });
    }

    /// The mouse moved to a cell with its button down: all from where it went down is marked, both
    /// cells included, and stays where it is on the screen.
    pub(crate) fn select_to(&mut self, x: u16, y: u16) {
        let to = self.spot(x, y);
        if let Some(selection) = &mut self.selection {
            selection.to = to.or(selection.to);
            self.view.stay(&self.lines);
        }
    }

    pub(crate) fn clear_selection(&mut self) {
        self.selection = None;
    }

    /// What is marked: text alone, a line for each line of the log, however it was wrapped.
    pub(crate) fn selected_text(&self) -> Option<String> {
        self.selection.as_ref()?.text(&self.lines)
    }

    /// What the last frame showed at a cell of the screen, or nearest to it.
    fn spot(&self, x: u16, y: u16) -> Option<Spot> {
        let row = usize::from(y.saturating_sub(self.drawn.area.y));
        let Some(row) = self.drawn.rows.get(row) else {
            // Below the text: its end.
            let last = self.drawn.rows.last()?;
            return Some(Spot {
                line: last.line,
                start: last.end,
                end: last.end,
            });
        };
        let text = self.lines.line(row.line)?.text.get(row.start..row.end)?;
        if y < self.drawn.area.y {
            return Some(Spot {
                line: row.line,
                start: row.start,
                end: row.start,
            });
        }
        let cell = self.drawn.left + usize::from(x.saturating_sub(self.drawn.text_from));
        let (start, end) = wrap::at_cell(text, cell);
        Some(Spot {
            line: row.line,
            start: row.start + start,
            end: row.start + end,
        })
    }
}

impl fmt::Debug for LogPane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogPane")
            .field("lines", &self.len())
            .field("view", &self.view)
            .field("search", &self.search)
            .field("selection", &self.selection)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
