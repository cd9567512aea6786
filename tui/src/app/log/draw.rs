//! The rows of the log that are on the screen, drawn.

use std::iter::Peekable;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::lines::Line;
use super::style::{Changes, Pen};
use super::wrap::{self, clusters};
use super::{Drawn, DrawnRow, LogPane, LogStyles, Shown, Window};

/// Cells of a time and the gap after it.
const TIME: u16 = 13;
/// Cells of the widest source that is shown whole.
const SOURCE: u16 = 16;
/// Cells that text keeps, whatever else is to be shown.
const TEXT: u16 = 24;

/// Bytes of one character and its marks, beyond which the marks are left out.
const CLUSTER: usize = 64;

/// Cells before the text, the gaps after them included.
#[derive(Debug, Clone, Copy)]
struct Columns {
    time: u16,
    source: u16,
}

impl LogPane<'_> {
    /// Draws what is to be seen of the log, over all of `area`. Goes on counting the matches of a
    /// search: while [`is_counting`](Self::is_counting), another frame is due.
    pub(crate) fn draw(&mut self, area: Rect, buffer: &mut Buffer, styles: &LogStyles) {
        let area = area.intersection(buffer.area);
        for position in area.positions() {
            if let Some(cell) = buffer.cell_mut(position) {
                cell.reset();
                cell.set_style(styles.text);
            }
        }
        let (lines, window) = self.parts();
        if let Some(search) = &mut window.search {
            window.counting = search.go_on(lines);
        }
        window.draw(lines, area, buffer, styles);
        self.log.lines.settle();
    }
}

impl Window {
    fn draw(&mut self, lines: Shown<'_>, area: Rect, buffer: &mut Buffer, styles: &LogStyles) {
        let columns = self.columns(lines, area.width);
        let before = columns.time + columns.source;
        let text_area = Rect {
            x: area.x + before,
            width: area.width - before,
            ..area
        };
        self.view.resize(text_area.width.into(), area.height.into());
        let mut rows = std::mem::take(&mut self.drawn.rows);
        rows.clear();
        let top = self.view.top(lines);
        let mut row = top.row;
        let mut y = area.y;
        for line in lines.range(top.line, u64::MAX) {
            if y >= area.bottom() {
                break;
            }
            if row == 0 {
                draw_columns(&line, Rect { y, ..area }, columns, buffer, styles);
            }
            let broken = self.view.wraps.rows(&line);
            let mut looks = self.looks(&line, styles);
            while row < broken.count() && y < area.bottom() {
                let (start, end) = (broken.start(row), broken.end(row, line.text.len()));
                let place = Rect {
                    y,
                    height: 1,
                    ..text_area
                };
                if self.view.is_wrapped() {
                    let text = line.text.get(start..end).unwrap_or_default();
                    let cells = (0, place.width.into());
                    draw_text(text, start, 0, cells, place, buffer, &mut looks);
                } else {
                    draw_cut(&line, self.view.left(), place, buffer, &mut looks);
                }
                rows.push(DrawnRow {
                    line: line.number,
                    start,
                    end,
                });
                y += 1;
                row += 1;
            }
            row = 0;
        }
        self.drawn = Drawn {
            area,
            text_from: text_area.x,
            left: self.view.left(),
            rows,
        };
    }

    /// Leaves out sources, then times, where text would have too little room.
    fn columns(&self, lines: Shown<'_>, width: u16) -> Columns {
        let widest = u16::try_from(lines.source_width())
            .unwrap_or(SOURCE)
            .min(SOURCE);
        let mut columns = Columns {
            time: if self.times { TIME } else { 0 },
            source: if widest > 0 { widest + 1 } else { 0 },
        };
        if width < columns.time + columns.source + TEXT {
            columns.source = 0;
        }
        if width < columns.time + TEXT {
            columns.time = 0;
        }
        columns
    }

    fn looks<'a>(&self, line: &Line<'a>, styles: &'a LogStyles) -> Looks<'a> {
        let mut base = styles.text;
        if line.stderr {
            base = base.patch(styles.stderr);
        }
        let mut matches = Vec::new();
        if let Some(search) = &self.search {
            let current = search.current.filter(|current| current.line == line.number);
            for (start, end) in search.in_line(line.text) {
                let current = current.is_some_and(|current| current.start == start);
                let style = if current {
                    styles.current_match
                } else {
                    styles.matched
                };
                matches.push((start, end, style));
            }
        }
        let selected = self
            .selection
            .as_ref()
            .and_then(|selection| selection.in_line(line.number, line.text.len()));
        Looks {
            base,
            changes: line.changes.peekable(),
            pen: Pen::default(),
            matches: matches.into_iter().peekable(),
            selected: selected.unwrap_or((0, 0)),
            styles,
        }
    }
}

/// The style of each byte of a line, asked for from its start to its end.
struct Looks<'a> {
    base: Style,
    changes: Peekable<Changes<'a>>,
    pen: Pen,
    matches: Peekable<std::vec::IntoIter<(usize, usize, Style)>>,
    selected: (usize, usize),
    styles: &'a LogStyles,
}

impl Looks<'_> {
    fn at(&mut self, byte: usize) -> Style {
        while let Some((_, pen)) = self.changes.next_if(|(at, _)| *at <= byte) {
            self.pen = pen;
        }
        while self.matches.next_if(|(_, end, _)| *end <= byte).is_some() {}
        let mut style = self.base.patch(self.pen.style(self.styles.colors));
        if let Some((start, _, matched)) = self.matches.peek()
            && *start <= byte
        {
            style = style.patch(*matched);
        }
        if (self.selected.0..self.selected.1).contains(&byte) {
            let twice = style.add_modifier.contains(Modifier::REVERSED)
                && self
                    .styles
                    .selection
                    .add_modifier
                    .contains(Modifier::REVERSED);
            style = style.patch(self.styles.selection);
            if twice {
                // What was reversed stands out by not being so.
                style = style.remove_modifier(Modifier::REVERSED);
            }
        }
        style
    }
}

/// Draws the clusters of `text`, which starts at byte `at` of its line and at cell `from`, as far as
/// they lie within `cells`, of which the first is at the left of `place`.
fn draw_text(
    text: &str,
    at: usize,
    from: usize,
    cells: (usize, usize),
    place: Rect,
    buffer: &mut Buffer,
    looks: &mut Looks<'_>,
) {
    let (first, end) = cells;
    let mut cell = from;
    for cluster in clusters(text) {
        let (start, after) = (cell, cell + cluster.width);
        cell = after;
        if start >= end {
            break;
        }
        if cluster.width == 0 || start < first || after > end {
            // A mark with nothing to stand on, or half a character at the border.
            continue;
        }
        let style = looks.at(at + cluster.at);
        let x = place.x + (start - first) as u16;
        let mut symbol = cluster.text;
        if symbol.len() > CLUSTER {
            let first = symbol.chars().next().map_or(0, char::len_utf8);
            symbol = symbol
                .get(..first)
                .filter(|s| wrap::width(s) == cluster.width)
                .unwrap_or("?");
        }
        if let Some(cell) = buffer.cell_mut((x, place.y)) {
            cell.set_symbol(symbol).set_style(style);
        }
        for hidden in 1..cluster.width as u16 {
            if let Some(cell) = buffer.cell_mut((x + hidden, place.y)) {
                cell.reset();
                cell.set_style(style);
            }
        }
    }
}

/// Draws the part of a line that is not cut off at the left or the right, with marks where it is.
fn draw_cut(line: &Line<'_>, left: usize, place: Rect, buffer: &mut Buffer, looks: &mut Looks<'_>) {
    let room = usize::from(place.width);
    let cut_left = left > 0 && !line.text.is_empty();
    let cut_right = if line.ascii {
        line.text.len() > left + room
    } else {
        let mut cells = 0;
        clusters(line.text).any(|cluster| {
            cells += cluster.width;
            cells > left + room
        })
    };
    // Of ASCII, what is cut off need not be looked at.
    let skipped = if line.ascii {
        left.min(line.text.len())
    } else {
        0
    };
    let text = line.text.get(skipped..).unwrap_or_default();
    let (mut first, mut end) = (left, left + room);
    let mut inner = place;
    if cut_left && room > 0 {
        first += 1;
        inner.x += 1;
        mark("<", place.x, place.y, buffer, looks.styles);
    }
    if cut_right && room > 0 {
        end -= 1;
        mark(">", place.right() - 1, place.y, buffer, looks.styles);
    }
    draw_text(text, skipped, skipped, (first, end), inner, buffer, looks);
}

fn mark(symbol: &str, x: u16, y: u16, buffer: &mut Buffer, styles: &LogStyles) {
    if let Some(cell) = buffer.cell_mut((x, y)) {
        cell.set_symbol(symbol)
            .set_style(styles.text.patch(styles.dim));
    }
}

fn draw_columns(
    line: &Line<'_>,
    row: Rect,
    columns: Columns,
    buffer: &mut Buffer,
    styles: &LogStyles,
) {
    if columns.time > 0
        && let Some(time) = line.time
    {
        buffer.set_string(row.x, row.y, clock(time), styles.text.patch(styles.dim));
    }
    if columns.source > 0 {
        let x = row.x + columns.time;
        let room = usize::from(columns.source - 1);
        buffer.set_stringn(
            x,
            row.y,
            line.source,
            room,
            styles.text.patch(styles.source),
        );
    }
}

/// The time of day of a Unix time in milliseconds, in UTC.
pub(super) fn clock(time: i64) -> String {
    let of_day = time.rem_euclid(24 * 60 * 60 * 1000);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}
