//! Output of tools made harmless: text that a terminal shows as it stands, and the styles beside it.
//!
//! A build step can print anything. Of all that a terminal obeys only the colours and what makes a
//! progress bar are understood here; every other sequence and control character is left out, and
//! so are characters that show nothing or turn the order of what stands around them.

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use super::style::Pen;

/// Bytes of text in one line of the store; what is longer goes on in the next line, so that no line
/// takes long to draw.
pub(super) const LONGEST: usize = 32 << 10;

/// Columns from one tab stop to the next.
const TAB: usize = 8;

/// Reads what one stream printed, line by line. `pen` is the style that the stream's earlier lines
/// left set. Calls `emit` with each line's text and the changes of style in it, by byte: once, or
/// more often where a line is too long or holds ends of lines.
pub(super) fn read(raw: &str, pen: &mut Pen, mut emit: impl FnMut(&str, &[(usize, Pen)])) {
    let raw = raw.strip_suffix('\n').unwrap_or(raw);
    if raw.len() <= LONGEST && raw.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        let change = (0, *pen);
        let changed = !raw.is_empty() && *pen != Pen::default();
        emit(
            raw,
            if changed {
                std::slice::from_ref(&change)
            } else {
                &[]
            },
        );
        return;
    }
    let mut parser = Parser::<DefaultCharAccumulator>::new();
    let mut line = Line {
        text: String::with_capacity(raw.len()),
        changes: Vec::new(),
        pen,
        overwrite: false,
        back: 0,
        tab: (0, 0),
        emit: &mut emit,
    };
    for c in raw.chars() {
        if ('\u{80}'..='\u{9f}').contains(&c) {
            // A control of the C1 set is the same as ESC and a letter (ECMA-48, 5.3).
            parser.advance(&mut line, 0x1b);
            parser.advance(&mut line, (u32::from(c) - 0x40) as u8);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                parser.advance(&mut line, byte);
            }
        }
    }
    line.end();
}

/// Text alone, for labels.
pub(super) fn plain(raw: &str) -> String {
    let mut out = String::new();
    read(raw, &mut Pen::default(), |text, _| {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(text);
    });
    out
}

/// Whether a character may reach the screen.
fn shows(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            // Soft hyphen, zero-width space, word joiner and its kin, byte order mark.
            '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2065}' | '\u{feff}'
            // Marks, embeddings, overrides and isolates of the order of text.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Ends of lines and paragraphs, notes between the lines, invisible tags.
            | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// What takes a line that is read.
type Emit<'a> = &'a mut dyn FnMut(&str, &[(usize, Pen)]);

/// A line while it is read.
struct Line<'a> {
    text: String,
    changes: Vec<(usize, Pen)>,
    pen: &'a mut Pen,
    /// A carriage return came: what is printed next takes the place of all that stands there.
    overwrite: bool,
    /// Cells that backspaces went back from the end.
    back: usize,
    /// The byte after the last tab, and its column.
    tab: (usize, usize),
    emit: Emit<'a>,
}

impl Line<'_> {
    fn end(&mut self) {
        (self.emit)(&self.text, &self.changes);
        self.clear();
    }

    fn clear(&mut self) {
        self.text.clear();
        self.changes.clear();
        self.overwrite = false;
        self.back = 0;
        self.tab = (0, 0);
    }

    /// Takes away what the next character is printed over.
    fn make_room(&mut self) {
        if self.overwrite {
            self.clear();
        }
        while self.back > 0
            && let Some(last) = self.text.pop()
        {
            // A mark goes with the character that it stands on.
            self.back -= last.width().unwrap_or(0).min(self.back);
        }
        self.back = 0;
        let len = self.text.len();
        while self.changes.last().is_some_and(|(at, _)| *at >= len) {
            self.changes.pop();
        }
        if self.tab.0 > len {
            // Counted anew from the start of the line.
            self.tab = (0, 0);
        }
    }

    fn put(&mut self, c: char) {
        if self.text.len() + c.len_utf8() > LONGEST {
            self.end();
        }
        let set = self.changes.last().map(|(_, pen)| *pen).unwrap_or_default();
        if set != *self.pen {
            self.changes.push((self.text.len(), *self.pen));
        }
        self.text.push(c);
    }

    fn column(&self) -> usize {
        let (at, column) = self.tab;
        column + self.text.get(at..).map_or(0, UnicodeWidthStr::width)
    }
}

impl Perform for Line<'_> {
    fn print(&mut self, c: char) {
        if shows(c) {
            if self.overwrite || self.back > 0 {
                self.make_room();
            }
            self.put(c);
        }
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end(),
            b'\r' => self.overwrite = true,
            0x08 if !self.overwrite => self.back += 1,
            b'\t' => {
                self.make_room();
                let (at, column) = (self.text.len(), self.column());
                let stop = (column / TAB + 1) * TAB;
                for _ in column..stop {
                    self.put(' ');
                }
                // Not so where the line was cut within the tab.
                if self.text.len() == at + stop - column {
                    self.tab = (self.text.len(), stop);
                }
            }
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: u8) {
        if ignore || !intermediates.is_empty() {
            return;
        }
        let first = params
            .iter()
            .next()
            .and_then(|param| param.first())
            .copied();
        match (action, first.unwrap_or(0)) {
            (b'm', _) => self.pen.select(params),
            // To the first column: as a carriage return.
            (b'G', 0 | 1) => self.overwrite = true,
            // Erases the line or the display: of one line that is all, or from the cursor on.
            (b'K' | b'J', 2) => self.clear(),
            (b'K' | b'J', 0) if self.overwrite => self.clear(),
            (b'K' | b'J', 0) if self.back > 0 => self.make_room(),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "ansi_tests.rs"]
pub(super) mod tests;
