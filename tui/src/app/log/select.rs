//! What a reader marks with the mouse: text of lines, which stays marked wherever it moves.

use super::lines::{Place, Shown};

/// The character under the pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) line: u64,
    /// Bytes of the line; the same where the pointer was beyond the text of a row.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// From where the button went down to where the pointer is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection {
    pub(super) from: Spot,
    /// None until the pointer moved: a click alone marks nothing.
    pub(super) to: Option<Spot>,
}

impl Selection {
    /// The first place that is marked, and the one after the last.
    pub(super) fn range(&self) -> Option<(Place, Place)> {
        let to = self.to?;
        let place = |line, byte| Place { line, byte };
        let start = place(self.from.line, self.from.start).min(place(to.line, to.start));
        let end = place(self.from.line, self.from.end).max(place(to.line, to.end));
        (start < end).then_some((start, end))
    }

    /// The bytes of a line of `len` bytes that are marked.
    pub(super) fn in_line(&self, number: u64, len: usize) -> Option<(usize, usize)> {
        let (start, end) = self.range()?;
        if !(start.line..=end.line).contains(&number) {
            return None;
        }
        let from = if number == start.line { start.byte } else { 0 };
        let to = if number == end.line { end.byte } else { len };
        Some((from, to))
    }

    /// The marked text of those lines that are still there, one line of the log per line.
    pub(super) fn text(&self, lines: Shown<'_>) -> Option<String> {
        let (start, end) = self.range()?;
        let mut out: Option<String> = None;
        for line in lines.range(start.line, end.line.saturating_add(1)) {
            let Some((from, to)) = self.in_line(line.number, line.text.len()) else {
                continue;
            };
            match &mut out {
                Some(out) => out.push('\n'),
                None => out = Some(String::new()),
            }
            if let (Some(out), Some(text)) = (&mut out, line.text.get(from..to)) {
                out.push_str(text);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Lines;
    use super::super::lines::tests::push;
    use super::*;

    #[test]
    fn the_text_between_two_spots_is_marked() {
        let mut lines = Lines::new(100);
        for text in ["first", "漢字", "", "last"] {
            push(&mut lines, text, None, 0);
        }
        let spot = |line, start, end| Spot { line, start, end };
        let check = |from, to, expect: Option<&str>| {
            let text = |from, to| Selection { from, to: Some(to) }.text(lines.all());
            assert_eq!(text(from, to).as_deref(), expect);
            assert_eq!(text(to, from).as_deref(), expect);
        };
        check(spot(0, 1, 2), spot(0, 3, 4), Some("irs"));
        check(spot(0, 1, 2), spot(0, 1, 2), Some("i"));
        check(spot(0, 4, 5), spot(1, 0, 3), Some("t\n漢"));
        check(spot(0, 0, 1), spot(3, 3, 4), Some("first\n漢字\n\nlast"));
        check(spot(1, 6, 6), spot(3, 0, 1), Some("\n\nl"));
        check(spot(2, 0, 0), spot(2, 0, 0), None);
        check(spot(9, 0, 1), spot(9, 1, 2), None);
        let click = Selection {
            from: spot(0, 0, 1),
            to: None,
        };
        assert_eq!(click.text(lines.all()), None);
    }

    #[test]
    fn dropped_lines_are_no_longer_marked() {
        let mut lines = Lines::new(3);
        for text in ["a", "b", "c"] {
            push(&mut lines, text, None, 0);
        }
        let spot = |line| Spot {
            line,
            start: 0,
            end: 1,
        };
        let marked = Selection {
            from: spot(0),
            to: Some(spot(1)),
        };
        push(&mut lines, "d", None, 0);
        assert_eq!(marked.text(lines.all()).as_deref(), Some("b"));
        push(&mut lines, "d", None, 0);
        assert_eq!(marked.text(lines.all()), None);
    }
}
