//! The pane that shows a log: a million lines to follow, scroll, search, mark and save.
//!
//! What tools print is made harmless when it comes in ([`ansi`]) and kept once, as compressed text
//! with its styles beside it ([`lines`], [`chunk`], [`style`]). Of all that only the rows on the screen
//! are broken ([`wrap`]), found ([`view`]) and drawn ([`draw`]), so that a frame costs the same however
//! long the log is.

mod ansi;
mod chunk;
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

use chunk::New;
use lines::{Lines, Place, Shown};
use search::Search;
use select::{Selection, Spot};
use style::Pen;
use view::View;

pub(crate) use lines::LogCopy;

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

/// What something printed, from its start to its end, as far as it is kept.
pub(crate) struct Log {
    lines: Lines,
    /// The style that each stream of each source left set, by source and whether it is stderr.
    pens: Vec<[Pen; 2]>,
}

/// A window on a log, or on what one source printed of it.
pub(crate) struct Window {
    /// The number of the source.
    of: Option<u16>,
    view: View,
    times: bool,
    search: Option<Search>,
    /// Whether matches are still being counted.
    counting: bool,
    selection: Option<Selection>,
    drawn: Drawn,
}

/// A log through a window.
pub(crate) struct LogPane<'a> {
    log: &'a mut Log,
    window: &'a mut Window,
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

impl Log {
    /// An empty log. At most `limit_lines` lines are kept, and fewer where they take more than 96
    /// bytes of memory on average, compressed.
    pub(crate) fn new(limit_lines: usize) -> Self {
        Self {
            lines: Lines::new(limit_lines),
            pens: Vec::new(),
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
        let lines = &mut self.lines;
        ansi::read(&text, pen, |text, changes| {
            lines.push(New {
                text,
                changes,
                time,
                source,
                stderr,
            });
        });
    }

    /// Lines that are kept.
    pub(crate) fn len(&self) -> usize {
        Shown::new(&self.lines, None).len()
    }

    /// Whether a source printed something.
    pub(crate) fn has(&self, source: &str) -> bool {
        self.lines.known_source(source).is_some()
    }

    /// A window on all of it, or on what `source` printed; it is followed, with lines wrapped and
    /// without times.
    pub(crate) fn window(&mut self, source: Option<&str>) -> Window {
        Window {
            of: source.map(|source| self.lines.source(source)),
            view: View::new(),
            times: false,
            search: None,
            counting: false,
            selection: None,
            drawn: Drawn::default(),
        }
    }

    /// The plain text of the last `count` lines that a source printed.
    pub(crate) fn tail(&self, source: &str, count: usize) -> Vec<String> {
        let Some(source) = self.lines.known_source(source) else {
            return Vec::new();
        };
        let shown = Shown::new(&self.lines, Some(source));
        let from = shown.next().saturating_sub(count as u64);
        let lines = shown.range(from, u64::MAX);
        lines.map(|line| line.text.to_owned()).collect()
    }
}

impl Window {
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
}

impl<'a> LogPane<'a> {
    /// A log through a window that was made for it.
    pub(crate) fn new(log: &'a mut Log, window: &'a mut Window) -> Self {
        Self { log, window }
    }

    /// The lines, and the window to move over them.
    fn parts(&mut self) -> (Shown<'_>, &mut Window) {
        let shown = Shown::new(&self.log.lines, self.window.of);
        (shown, &mut *self.window)
    }

    fn shown(&self) -> Shown<'_> {
        Shown::new(&self.log.lines, self.window.of)
    }

    /// Lines that are kept.
    pub(crate) fn len(&self) -> usize {
        self.shown().len()
    }

    /// Whether its first lines are no longer kept.
    pub(crate) fn has_dropped(&self) -> bool {
        self.shown().first() > 0
    }

    /// The plain text of every line, for a file.
    pub(crate) fn copy(&self) -> LogCopy {
        self.shown().copy()
    }

    /// Shows the end of the log and what comes after it, or stays at what is shown.
    pub(crate) fn set_follow(&mut self, follow: bool) {
        let (lines, window) = self.parts();
        if follow {
            window.view.follow();
        } else {
            window.view.stay(lines);
        }
    }

    /// Whether the end of the log is shown, whatever comes.
    pub(crate) fn is_following(&self) -> bool {
        self.window.view.follows()
    }

    /// Lines that came since following stopped.
    pub(crate) fn unread(&self) -> usize {
        self.window.view.unread(self.shown())
    }

    /// Moves by rows of the screen, upwards where negative. Upwards stops following; down to the end
    /// starts it again.
    pub(crate) fn scroll_by(&mut self, rows: isize) {
        let (lines, window) = self.parts();
        window.view.scroll(lines, rows);
    }

    /// Moves by screens, all but one row of them.
    pub(crate) fn page_by(&mut self, pages: isize) {
        let rows = isize::try_from(self.window.view.height()).unwrap_or(isize::MAX);
        self.scroll_by(pages.saturating_mul((rows - 1).max(1)));
    }

    #[expect(clippy::wrong_self_convention, reason = "a movement, not a conversion")]
    pub(crate) fn to_top(&mut self) {
        let (lines, window) = self.parts();
        window.view.go_to_top(lines);
    }

    /// To the end of the log, which is followed from there.
    #[expect(clippy::wrong_self_convention, reason = "a movement, not a conversion")]
    pub(crate) fn to_bottom(&mut self) {
        self.set_follow(true);
    }

    /// Shows what is further left of lines that are not wrapped.
    pub(crate) fn scroll_left(&mut self, cells: usize) {
        let by = isize::try_from(cells).unwrap_or(isize::MAX);
        self.window.view.scroll_sideways(-by, 0);
    }

    /// Shows what is further right of lines that are not wrapped, up to the end of the longest on
    /// the screen.
    pub(crate) fn scroll_right(&mut self, cells: usize) {
        let (lines, window) = self.parts();
        let drawn = window.drawn.rows.iter();
        let widths = drawn.filter_map(|row| lines.line(row.line));
        let widest = widths.map(|line| wrap::width(line.text)).max().unwrap_or(0);
        let by = isize::try_from(cells).unwrap_or(isize::MAX);
        window.view.scroll_sideways(by, widest);
    }

    pub(crate) fn is_wrapped(&self) -> bool {
        self.window.is_wrapped()
    }

    pub(crate) fn shows_times(&self) -> bool {
        self.window.shows_times()
    }

    /// Searches the whole log, and what comes, for a text; for nothing when it is empty. Capitals
    /// count when there are some in it. Meant to be called as the text is typed: the current match
    /// stays as long as it matches, and the first is the nearest from the top of the screen on, or
    /// else above it.
    pub(crate) fn search(&mut self, query: &str) {
        let (lines, window) = self.parts();
        let before = window.search.take();
        let origin = match before.as_ref().and_then(|search| search.current) {
            Some(current) => current.place(),
            None => window.view.top_place(lines),
        };
        window.search = Search::new(query, before);
        window.counting = false;
        if let Some(search) = &mut window.search {
            search.current = search
                .at_or_after(lines, origin)
                .or_else(|| search.before(lines, origin));
            if let Some(found) = search.current {
                window.view.reveal(lines, found);
            }
            window.counting = search.go_on(lines);
        }
    }

    /// To the next match, from the last to the first. Stops following.
    pub(crate) fn next_match(&mut self) {
        let (lines, window) = self.parts();
        let top = window.view.top_place(lines);
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
        let (lines, window) = self.parts();
        let top = window.view.top_place(lines);
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

    fn go_to_match(&mut self, find: impl FnOnce(&mut Search, Shown<'_>) -> Option<search::Match>) {
        let (lines, window) = self.parts();
        let Some(search) = &mut window.search else {
            return;
        };
        if let Some(found) = find(search, lines) {
            search.current = Some(found);
            window.view.stay(lines);
            window.view.reveal(lines, found);
        }
    }

    /// The number of the current match, from 1, or 0 when there is none, and how many there are; none
    /// when nothing is searched for. Too few while [`is_counting`](Self::is_counting).
    pub(crate) fn matches(&mut self) -> Option<(usize, usize)> {
        let (lines, window) = self.parts();
        let search = window.search.as_mut()?;
        if !window.counting {
            // What came since the last frame.
            window.counting = search.go_on(lines);
        }
        Some(search.counts(lines))
    }

    /// Whether matches of a big log are still being counted, some with each [`draw`](Self::draw).
    pub(crate) fn is_counting(&self) -> bool {
        self.window.counting
    }

    /// The button of the mouse went down on a cell of the screen.
    pub(crate) fn select_from(&mut self, x: u16, y: u16) {
        self.window.selection = self.spot(x, y).map(|from| Selection { from, to: None });
    }

    /// The mouse moved to a cell with its button down: all from where it went down is marked, both
    /// cells included, and stays where it is on the screen.
    pub(crate) fn select_to(&mut self, x: u16, y: u16) {
        let to = self.spot(x, y);
        let (lines, window) = self.parts();
        if let Some(selection) = &mut window.selection {
            selection.to = to.or(selection.to);
            window.view.stay(lines);
        }
    }

    pub(crate) fn clear_selection(&mut self) {
        self.window.selection = None;
    }

    /// What is marked: text alone, a line for each line of the log, however it was wrapped.
    pub(crate) fn selected_text(&self) -> Option<String> {
        self.window.selection.as_ref()?.text(self.shown())
    }

    /// What the last frame showed at a cell of the screen, or nearest to it.
    fn spot(&self, x: u16, y: u16) -> Option<Spot> {
        let drawn = &self.window.drawn;
        let row = usize::from(y.saturating_sub(drawn.area.y));
        let Some(row) = drawn.rows.get(row) else {
            // Below the text: its end.
            let last = drawn.rows.last()?;
            return Some(Spot {
                line: last.line,
                start: last.end,
                end: last.end,
            });
        };
        let text = self.shown().line(row.line)?.text.get(row.start..row.end)?;
        if y < drawn.area.y {
            return Some(Spot {
                line: row.line,
                start: row.start,
                end: row.start,
            });
        }
        let cell = drawn.left + usize::from(x.saturating_sub(drawn.text_from));
        let (start, end) = wrap::at_cell(text, cell);
        Some(Spot {
            line: row.line,
            start: row.start + start,
            end: row.start + end,
        })
    }
}

impl fmt::Debug for LogPane<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogPane")
            .field("lines", &self.len())
            .field("view", &self.window.view)
            .field("search", &self.window.search)
            .field("selection", &self.window.selection)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
