//! Lines broken into rows of the pane, and how long each cluster of characters is on the screen.

use std::collections::HashMap;
use std::sync::Arc;

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

use super::lines::Line;

/// Rows kept measured. Only those on the screen and around it matter.
const KEPT: usize = 16 << 10;

/// Where the rows of lines start, for one width. Lines of ASCII alone are counted out; the rows of
/// others are measured once for a width, when they come near the screen.
#[derive(Debug)]
pub(super) struct Wraps {
    /// Cells in a row, at least 1; none where lines are not wrapped.
    width: Option<usize>,
    measured: HashMap<u64, Arc<[u32]>>,
    /// Rows of all that is measured.
    held: usize,
}

/// The rows of one line.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    One,
    /// ASCII: bytes of the line, bytes of a row.
    Even {
        len: usize,
        width: usize,
    },
    /// The byte that each starts at.
    Measured(Arc<[u32]>),
}

impl Wraps {
    pub(super) fn new(width: Option<usize>) -> Self {
        Self {
            width,
            measured: HashMap::new(),
            held: 0,
        }
    }

    /// Goes over to another width.
    pub(super) fn set_width(&mut self, width: Option<usize>) {
        let width = width.map(|cells| cells.max(1));
        if self.width != width {
            *self = Self::new(width);
        }
    }

    pub(super) fn rows(&mut self, line: &Line<'_>) -> Rows {
        let Some(width) = self.width else {
            return Rows::One;
        };
        if line.text.len() <= width && line.ascii {
            return Rows::One;
        }
        if line.ascii {
            return Rows::Even {
                len: line.text.len(),
                width,
            };
        }
        if let Some(starts) = self.measured.get(&line.number) {
            return Rows::Measured(Arc::clone(starts));
        }
        let starts = measure(line.text, width);
        if self.held + starts.len() > KEPT {
            self.measured.clear();
            self.held = 0;
        }
        self.held += starts.len();
        self.measured.insert(line.number, Arc::clone(&starts));
        Rows::Measured(starts)
    }
}

impl Rows {
    /// At least 1: an empty line takes a row too.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::One => 1,
            Self::Even { len, width } => len.div_ceil(*width).max(1),
            Self::Measured(starts) => starts.len(),
        }
    }

    /// The byte that a row starts at.
    pub(super) fn start(&self, row: usize) -> usize {
        match self {
            Self::One => 0,
            Self::Even { width, .. } => row * width,
            Self::Measured(starts) => starts.get(row).map_or(0, |start| *start as usize),
        }
    }

    /// The byte after a row, in a line of `len` bytes.
    pub(super) fn end(&self, row: usize, len: usize) -> usize {
        if row + 1 < self.count() {
            self.start(row + 1)
        } else {
            len
        }
    }

    /// The row that a byte stands in.
    pub(super) fn row_of(&self, byte: usize) -> usize {
        match self {
            Self::One => 0,
            Self::Even { width, .. } => (byte / width).min(self.count() - 1),
            Self::Measured(starts) => starts
                .partition_point(|start| *start as usize <= byte)
                .saturating_sub(1),
        }
    }
}

/// Where the rows of a text start. A cluster too wide for what is left of a row goes to the next;
/// one too wide for any row has one of its own.
fn measure(text: &str, width: usize) -> Arc<[u32]> {
    let mut starts = vec![0];
    let mut cells = 0;
    for cluster in clusters(text) {
        if cells > 0 && cells + cluster.width > width {
            starts.push(cluster.at as u32);
            cells = 0;
        }
        cells += cluster.width;
    }
    starts.into()
}

/// What a reader takes for one character.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster<'a> {
    /// The byte of the text that it starts at.
    pub(super) at: usize,
    pub(super) text: &'a str,
    /// Cells; none for a mark that has nothing to stand on.
    pub(super) width: usize,
}

/// The clusters of a text, in order; together they are the text.
pub(super) fn clusters(text: &str) -> impl Iterator<Item = Cluster<'_>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = bytes.get(at)?;
        // Between two characters of ASCII there is always a border.
        let alone = first.is_ascii() && bytes.get(at + 1).is_none_or(u8::is_ascii);
        let rest = text.get(at..)?;
        let cluster = if alone {
            rest.get(..1)?
        } else {
            rest.graphemes(true).next()?
        };
        let start = at;
        at += cluster.len();
        Some(Cluster {
            at: start,
            text: cluster,
            width: if alone { 1 } else { width(cluster) },
        })
    })
}

/// The bytes of what covers a cell of a text, counted from 0; the end of the text, twice, where it is
/// not that long. Marks that take no cell go with what is before them, or with what is first.
pub(super) fn at_cell(text: &str, cell: usize) -> (usize, usize) {
    let mut cells = 0;
    let mut found = None;
    for cluster in clusters(text) {
        if cluster.width == 0 {
            continue;
        }
        if let Some(start) = found {
            return (start, cluster.at);
        }
        if cells + cluster.width > cell {
            found = Some(if cells == 0 { 0 } else { cluster.at });
        }
        cells += cluster.width;
    }
    let start = if cells == 0 { 0 } else { text.len() };
    (found.unwrap_or(start), text.len())
}

/// Cells that a text takes, counted as ratatui counts them when it compares screens.
pub(super) fn width(text: &str) -> usize {
    // Terminals show these two marks of half-width katakana in a cell of their own.
    let marks = text.matches(['\u{ff9e}', '\u{ff9f}']).count();
    text.width() + marks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ratatui::buffer::CellWidth as _;

    use super::super::lines::Lines;
    use super::*;

    fn rows(text: &str, width: usize) -> Vec<String> {
        let mut lines = Lines::new(10);
        super::super::lines::tests::push(&mut lines, text, None, 0);
        let line = lines.all().line(0).unwrap();
        let rows = Wraps::new(Some(width)).rows(&line);
        (0..rows.count())
            .map(|row| text[rows.start(row)..rows.end(row, text.len())].to_owned())
            .collect()
    }

    #[test]
    fn lines_are_broken_at_the_border() {
        let check = |text: &str, width, expect: &[&str]| assert_eq!(rows(text, width), expect);
        check("", 4, &[""]);
        check("abcd", 4, &["abcd"]);
        check("abcde", 4, &["abcd", "e"]);
        check("abcdefgh", 4, &["abcd", "efgh"]);
        check("abc", 1, &["a", "b", "c"]);
        check("漢字漢", 4, &["漢字", "漢"]);
        // A wide character does not fit into the last cell.
        check("a漢字漢", 4, &["a漢", "字漢"]);
        check("漢字", 1, &["漢", "字"]);
        check(
            "e\u{301}e\u{301}e\u{301}",
            2,
            &["e\u{301}e\u{301}", "e\u{301}"],
        );
        check("👩‍👩‍👧👩‍👩‍👧", 3, &["👩‍👩‍👧", "👩‍👩‍👧"]);
        check("🇩🇪🇫🇷", 2, &["🇩🇪", "🇫🇷"]);
        check("\u{301}ab", 2, &["\u{301}ab"]);
    }

    #[test]
    fn a_cell_is_covered_by_a_character_and_its_marks() {
        let check = |text: &str, cell, expect| assert_eq!(at_cell(text, cell), expect, "{text:?}");
        check("abc", 1, (1, 2));
        check("abc", 3, (3, 3));
        check("a漢b", 1, (1, 4));
        check("a漢b", 2, (1, 4));
        check("a漢b", 3, (4, 5));
        check("e\u{301}x", 0, (0, 3));
        check("\u{301}ab", 0, (0, 3));
        check("\u{301}ab", 1, (3, 4));
        check("\u{301}", 0, (0, 2));
        check("", 0, (0, 0));
    }

    proptest! {
        #[test]
        fn rows_are_the_text_and_fit(text in "[ -~é漢👩\u{200d}\u{301}🇩ｶﾞ한]{0,60}", width in 1_usize..20) {
            let rows = rows(&text, width);
            prop_assert_eq!(rows.concat(), text.as_str());
            for row in &rows {
                let cells: usize = clusters(row).map(|cluster| cluster.width).sum();
                let wide = clusters(row).filter(|cluster| cluster.width > 0).count();
                prop_assert!(cells <= width || wide == 1, "{:?}", row);
            }
            for cluster in clusters(&text) {
                prop_assert_eq!(cluster.width, usize::from(cluster.text.cell_width()));
            }
            let whole: Vec<_> = text.graphemes(true).collect();
            prop_assert_eq!(clusters(&text).map(|cluster| cluster.text).collect::<Vec<_>>(), whole);
        }
    }
}
