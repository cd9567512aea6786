//! What views draw on: a buffer with the theme and signs, and a note of what can be pointed at where.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr as _;

use crate::app::event::Target;
use crate::app::glyphs::Glyphs;
use crate::app::model::{List, Span};
use crate::app::theme::{Role, Theme};

/// What lies where on a frame, the topmost last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hits(Vec<(Rect, Target)>);

impl Hits {
    pub(crate) fn put(&mut self, area: Rect, target: Target) {
        self.0.push((area, target));
    }

    /// What lies at a cell.
    pub(crate) fn at(&self, column: u16, row: u16) -> Option<&Target> {
        let inside = |area: &Rect| area.contains((column, row).into());
        let mut hits = self.0.iter().rev();
        hits.find(|(area, _)| inside(area))
            .map(|(_, target)| target)
    }

    /// What was under it can no longer be pointed at.
    pub(crate) fn cover(&mut self) {
        self.0.clear();
    }
}

/// A frame that is drawn.
pub(crate) struct Screen<'a> {
    pub(crate) buffer: &'a mut Buffer,
    pub(crate) theme: &'a Theme,
    pub(crate) glyphs: &'a Glyphs,
    pub(crate) hits: Hits,
    /// Where text is typed.
    pub(crate) cursor: Option<(u16, u16)>,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) width: Width,
    pub(crate) right: bool,
}

/// How wide a column is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Width {
    /// So many cells.
    Fixed(u16),
    /// A share of what is left, and at least so many cells.
    Share(u16, u16),
    /// So many cells, where the table has at least so many in all.
    If(u16, u16),
}

/// A column of fixed width.
pub(crate) fn fixed(title: &'static str, width: u16) -> Column {
    Column {
        title,
        width: Width::Fixed(width),
        right: false,
    }
}

impl Column {
    pub(crate) fn right(mut self) -> Self {
        self.right = true;
        self
    }

    /// Only where the table is so wide.
    pub(crate) fn from(mut self, wide: u16) -> Self {
        if let Width::Fixed(width) = self.width {
            self.width = Width::If(width, wide);
        }
        self
    }
}

/// A column that takes a share of what is left.
pub(crate) fn share(title: &'static str, part: u16, least: u16) -> Column {
    Column {
        title,
        width: Width::Share(part, least),
        right: false,
    }
}

impl Screen<'_> {
    pub(crate) fn style(&self, role: Role) -> Style {
        self.theme.style(role)
    }

    /// Writes text that is cut off with an ellipsis where it does not fit; gives the column after it.
    pub(crate) fn text(&mut self, x: u16, y: u16, wide: u16, role: Role, text: &str) -> u16 {
        let style = self.style(role);
        self.styled(x, y, wide, style, text)
    }

    pub(crate) fn styled(&mut self, x: u16, y: u16, wide: u16, style: Style, text: &str) -> u16 {
        let area = *self.buffer.area();
        if wide == 0 || y >= area.bottom() || x >= area.right() {
            return x;
        }
        let wide = wide.min(area.right() - x);
        if text.width() <= usize::from(wide) {
            return self
                .buffer
                .set_stringn(x, y, text, usize::from(wide), style)
                .0;
        }
        let (end, _) = self
            .buffer
            .set_stringn(x, y, text, usize::from(wide - 1), style);
        self.buffer
            .set_stringn(end, y, self.glyphs.ellipsis, 1, style)
            .0
    }

    /// Writes pieces one after the other; gives the column after the last.
    pub(crate) fn spans(&mut self, x: u16, y: u16, wide: u16, spans: &[Span]) -> u16 {
        let end = x.saturating_add(wide);
        let mut at = x;
        for (role, text) in spans {
            if at >= end {
                break;
            }
            at = self.text(at, y, end - at, *role, text);
        }
        at
    }

    /// Writes text that ends at the right edge.
    pub(crate) fn text_right(&mut self, area: Rect, role: Role, text: &str) {
        let wide = cells(text).min(area.width);
        self.text(area.right() - wide, area.y, wide, role, text);
    }

    /// A line across with a title in it.
    pub(crate) fn rule(&mut self, area: Rect, focused: bool, title: &[Span]) {
        let role = if focused {
            Role::BorderFocused
        } else {
            Role::Border
        };
        let line = self.glyphs.horizontal.repeat(usize::from(area.width));
        self.text(area.x, area.y, area.width, role, &line);
        if !title.is_empty() && area.width > 4 {
            let x = self.text(area.x + 1, area.y, 1, role, " ");
            let end = self.spans(x, area.y, area.width - 4, title);
            self.text(end, area.y, 1, role, " ");
        }
    }

    /// A line from top to bottom.
    pub(crate) fn divide(&mut self, x: u16, area: Rect, focused: bool) {
        let role = if focused {
            Role::BorderFocused
        } else {
            Role::Border
        };
        let sign = self.glyphs.vertical;
        for y in area.top()..area.bottom() {
            self.text(x, y, 1, role, sign);
        }
    }

    /// Words in the middle of an area that has nothing else to show.
    pub(crate) fn nothing(&mut self, area: Rect, lines: &[Span]) {
        let height = u16::try_from(lines.len()).unwrap_or(0).min(area.height);
        let top = area.y + (area.height - height) / 3;
        for (y, (role, text)) in (top..area.bottom()).zip(lines) {
            let wide = cells(text).min(area.width);
            let x = area.x + (area.width - wide) / 2;
            self.text(x, y, area.width - (x - area.x), *role, text);
        }
    }

    /// Per cents over time, the newest at the right.
    pub(crate) fn sparkline(&self, rates: &[u8], wide: u16) -> String {
        let levels = self.glyphs.levels;
        let from = rates.len().saturating_sub(usize::from(wide));
        rates[from..]
            .iter()
            .map(|rate| levels[usize::from(*rate).min(99) * levels.len() / 100])
            .collect()
    }

    /// A table with headings, of which the rows that fit are drawn. `cells` gives the pieces of each
    /// column of a row. Gives the number of rows that fit.
    pub(crate) fn table(
        &mut self,
        area: Rect,
        columns: &[Column],
        list: &mut List,
        focused: bool,
        mut cells_of: impl FnMut(&Self, &str) -> Vec<Vec<Span>>,
    ) -> u16 {
        if area.height < 2 || area.width < 4 {
            return 0;
        }
        let widths = widths(columns, area.width - 1);
        let mut x = area.x + 1;
        for (at, (column, wide)) in columns.iter().zip(&widths).enumerate() {
            if *wide == 0 {
                continue;
            }
            let sorted = at == list.sort;
            let arrow = match (sorted, list.reverse) {
                (false, _) => "",
                (true, false) => self.glyphs.down,
                (true, true) => self.glyphs.up,
            };
            let title = format!("{}{arrow}", column.title);
            let pad = if column.right {
                wide.saturating_sub(cells(&title))
            } else {
                0
            };
            self.text(x + pad, area.y, wide - pad, Role::Heading, &title);
            self.hits
                .put(Rect::new(x, area.y, *wide, 1), Target::Column(at));
            x += wide + 1;
        }
        let body = Rect::new(area.x, area.y + 1, area.width, area.height - 1);
        let window = list.window(usize::from(body.height));
        let (chosen, from) = (list.at(), window.start);
        for (y, at) in (body.y..).zip(window) {
            let Some(key) = list.keys().get(at) else {
                break;
            };
            let row = Rect::new(body.x, y, body.width, 1);
            let marked = list.is_marked(key);
            if marked {
                let sign = self.glyphs.mark;
                self.text(body.x, y, 1, Role::Marked, sign);
            }
            let mut x = body.x + 1;
            let pieces = cells_of(&*self, key);
            for ((column, wide), spans) in columns.iter().zip(&widths).zip(&pieces) {
                if *wide == 0 {
                    continue;
                }
                let long: u16 = spans.iter().map(|(_, text)| cells(text)).sum();
                let pad = if column.right {
                    wide.saturating_sub(long)
                } else {
                    0
                };
                self.spans(x + pad, y, wide - pad, spans);
                x += wide + 1;
            }
            if at == chosen {
                self.choose(row, focused);
            }
            self.hits.put(row, Target::Row(at));
        }
        self.more(body, from, list.len());
        body.height
    }

    /// Shows that a row is the chosen one.
    pub(crate) fn choose(&mut self, row: Rect, focused: bool) {
        let role = if focused {
            Role::Selected
        } else {
            Role::SelectedElsewhere
        };
        let style = self.style(role);
        self.buffer.set_style(row, style);
    }

    /// Says at the right edge of the last row how many rows lie below.
    fn more(&mut self, body: Rect, from: usize, count: usize) {
        let below = count.saturating_sub(from + usize::from(body.height));
        if below > 0 && body.height > 1 {
            let text = format!(" {}{below} ", self.glyphs.down);
            let row = Rect::new(body.x, body.bottom() - 1, body.width, 1);
            self.text_right(row, Role::Dim, &text);
        }
    }
}

/// Widths of columns that fit into so many cells, with a blank between two; 0 for those that are
/// left out.
fn widths(columns: &[Column], wide: u16) -> Vec<u16> {
    let mut widths: Vec<u16> = columns
        .iter()
        .map(|column| match column.width {
            Width::Fixed(width) => width,
            Width::Share(_, least) => least,
            Width::If(width, from) if wide >= from => width,
            Width::If(..) => 0,
        })
        .collect();
    let taken: u16 = widths.iter().filter(|w| **w > 0).map(|w| w + 1).sum();
    let mut left = (wide + 1).saturating_sub(taken);
    let mut parts: u16 = columns
        .iter()
        .map(|c| match c.width {
            Width::Share(part, _) => part,
            _ => 0,
        })
        .sum();
    for (column, width) in columns.iter().zip(&mut widths) {
        if let Width::Share(part, _) = column.width {
            let more = left * part / parts.max(1);
            *width += more;
            left -= more;
            parts -= part;
        }
    }
    widths
}

/// Cells that a text takes.
pub(crate) fn cells(text: &str) -> u16 {
    u16::try_from(text.width()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_share_what_is_left() {
        let columns = [
            fixed("A", 5),
            share("B", 2, 4),
            share("C", 1, 4),
            fixed("D", 3).from(60),
        ];
        assert_eq!(widths(&columns, 40), [5, 20, 13, 0]);
        assert_eq!(widths(&columns, 60).iter().sum::<u16>() + 3, 60);
        // Where not even the least fits, what is at the right is cut off.
        assert_eq!(widths(&columns, 10), [5, 4, 4, 0]);
    }

    #[test]
    fn the_topmost_is_pointed_at() {
        let mut hits = Hits::default();
        hits.put(Rect::new(0, 0, 10, 10), Target::Text);
        hits.put(Rect::new(2, 2, 1, 1), Target::Row(3));
        assert_eq!(hits.at(2, 2), Some(&Target::Row(3)));
        assert_eq!(hits.at(3, 2), Some(&Target::Text));
        assert_eq!(hits.at(30, 2), None);
    }
}
