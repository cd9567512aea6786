//! The lines of a log, a million of them in less memory than their text: compressed chunks, dropped
//! from the front when there are too many. What one source printed is a selection of the same lines
//! and no copy of them.

use std::collections::{HashMap, VecDeque};
use std::io;

use super::chunk::{Body, Chunk, New, Packed};
use super::style::Changes;
use super::wrap;

/// Bytes of memory for each line of the limit, on average: a log of long lines that do not compress
/// is cut to fewer of them, so that a limit on lines is one on memory too.
const BYTES_PER_LINE: usize = 96;
const LEAST_BYTES: usize = 1 << 20;

/// Numbers of lines count from the first that was ever pushed, and stay when lines are dropped.
#[derive(Debug)]
pub(super) struct Lines {
    chunks: VecDeque<Chunk>,
    /// Chunks that were dropped.
    gone: u64,
    first: u64,
    next: u64,
    /// Of text, ends of lines included.
    bytes: usize,
    /// Bytes of memory that the chunks before the last take.
    held: usize,
    limit_lines: usize,
    limit_bytes: usize,
    sources: Vec<Source>,
    numbers: HashMap<String, u16>,
    /// Cells of the widest source.
    source_width: usize,
}

/// Something that prints. Its lines have numbers of their own, which count from its first.
#[derive(Debug, Default)]
struct Source {
    label: String,
    first: u64,
    next: u64,
    /// Where its lines lie, in order.
    pieces: VecDeque<Piece>,
}

/// The lines of a source in a chunk.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Number of the chunk, from the first that ever was.
    chunk: u64,
    /// Number of the first line in it, dropped or not.
    first: u64,
}

/// One line, as it is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) number: u64,
    pub(super) text: &'a str,
    pub(super) ascii: bool,
    pub(super) changes: Changes<'a>,
    /// Unix time in milliseconds.
    pub(super) time: Option<i64>,
    pub(super) source: &'a str,
    pub(super) stderr: bool,
}

/// A byte of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) byte: usize,
}

impl Lines {
    /// An empty log of at most `limit_lines` lines, at least one.
    pub(super) fn new(limit_lines: usize) -> Self {
        let limit_lines = limit_lines.max(1);
        Self {
            chunks: VecDeque::new(),
            gone: 0,
            first: 0,
            next: 0,
            bytes: 0,
            held: 0,
            limit_lines,
            limit_bytes: limit_lines.saturating_mul(BYTES_PER_LINE).max(LEAST_BYTES),
            sources: vec![Source::default()],
            numbers: HashMap::from([(String::new(), 0)]),
            source_width: 0,
        }
    }

    /// The number of a source; of the empty one where there are too many.
    pub(super) fn source(&mut self, label: &str) -> u16 {
        if let Some(number) = self.numbers.get(label) {
            return *number;
        }
        let Ok(number) = u16::try_from(self.sources.len()) else {
            return 0;
        };
        let text = super::ansi::plain(label);
        self.source_width = self.source_width.max(wrap::width(&text));
        self.sources.push(Source {
            label: text,
            ..Source::default()
        });
        self.numbers.insert(label.to_owned(), number);
        number
    }

    /// The number of a source that printed something.
    pub(super) fn known_source(&self, label: &str) -> Option<u16> {
        self.numbers.get(label).copied()
    }

    /// Adds a line, and drops some from the front where there are too many.
    pub(super) fn push(&mut self, line: New<'_>) {
        if !self.chunks.back_mut().is_some_and(|chunk| chunk.push(line)) {
            if let Some(full) = self.chunks.back_mut() {
                full.close();
                self.held += full.held();
                self.settle();
            }
            let mut chunk = Chunk::new(self.next, !self.chunks.is_empty());
            chunk.push(line);
            self.chunks.push_back(chunk);
        }
        let chunk = self.gone + self.chunks.len() as u64 - 1;
        if let Some(source) = self.sources.get_mut(usize::from(line.source)) {
            if source
                .pieces
                .back()
                .is_none_or(|piece| piece.chunk != chunk)
            {
                let first = source.next;
                source.pieces.push_back(Piece { chunk, first });
            }
            source.next += 1;
        }
        self.bytes += line.text.len() + 1;
        self.next += 1;
        while self.too_many() {
            self.drop_first();
        }
    }

    fn too_many(&self) -> bool {
        let len = (self.next - self.first) as usize;
        let held = self.held + self.chunks.back().map_or(0, Chunk::held);
        len > self.limit_lines || (held > self.limit_bytes && len > 1)
    }

    fn drop_first(&mut self) {
        let Some(chunk) = self.chunks.front_mut() else {
            return;
        };
        let body = chunk.body();
        let len = body.line(chunk.dropped).map_or(0, str::len);
        let source = body.source(chunk.dropped).unwrap_or(0);
        chunk.dropped += 1;
        self.bytes = self.bytes.saturating_sub(len + 1);
        self.first += 1;
        if let Some(source) = self.sources.get_mut(usize::from(source)) {
            source.first += 1;
        }
        if chunk.dropped < chunk.len {
            return;
        }
        let held = chunk.held();
        self.chunks.pop_front();
        if !self.chunks.is_empty() {
            self.held = self.held.saturating_sub(held);
        }
        for source in &mut self.sources {
            let gone = source.pieces.front();
            if gone.is_some_and(|piece| piece.chunk == self.gone) {
                source.pieces.pop_front();
            }
        }
        self.gone += 1;
    }

    /// Forgets what was unpacked and is no longer looked at.
    pub(super) fn settle(&mut self) {
        self.chunks.iter_mut().for_each(Chunk::settle);
    }

    /// All lines.
    #[cfg(test)]
    pub(super) fn all(&self) -> Shown<'_> {
        Shown::new(self, None)
    }
}

/// The lines that are shown of a log: all, or those of one source. Numbers are those of the selection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    lines: &'a Lines,
    of: Option<u16>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(lines: &'a Lines, of: Option<u16>) -> Self {
        Self { lines, of }
    }

    fn source(self) -> Option<&'a Source> {
        self.lines.sources.get(usize::from(self.of?))
    }

    pub(super) fn len(self) -> usize {
        (self.next() - self.first()) as usize
    }

    /// Number of the first line that is kept.
    pub(super) fn first(self) -> u64 {
        self.source()
            .map_or(self.lines.first, |source| source.first)
    }

    /// Number of the line that is pushed next.
    pub(super) fn next(self) -> u64 {
        self.source().map_or(self.lines.next, |source| source.next)
    }

    /// Bytes of text, ends of lines included: no log has more rows than that.
    pub(super) fn bytes(self) -> usize {
        self.lines.bytes
    }

    /// Cells of the widest source; none where all lines are of one.
    pub(super) fn source_width(self) -> usize {
        match self.of {
            Some(_) => 0,
            None => self.lines.source_width,
        }
    }

    /// A line that is kept.
    pub(super) fn line(self, number: u64) -> Option<Line<'a>> {
        let (chunk, index) = self.locate(number)?;
        self.take(self.lines.chunks.get(chunk)?, index, number)
    }

    fn take(self, chunk: &'a Chunk, index: usize, number: u64) -> Option<Line<'a>> {
        let found = chunk.line(index)?;
        let source = match self.of {
            Some(_) => None,
            None => self.lines.sources.get(usize::from(found.source)),
        };
        Some(Line {
            number,
            text: found.text,
            ascii: found.ascii,
            changes: found.changes,
            time: found.time,
            source: source.map_or("", |source| &source.label),
            stderr: found.stderr,
        })
    }

    /// The lines from `from` up to, not including, `to`.
    pub(super) fn range(self, from: u64, to: u64) -> impl Iterator<Item = Line<'a>> {
        let from = from.max(self.first());
        let mut at = self.locate(from);
        (from..to.min(self.next())).map_while(move |number| {
            let (chunk, index) = at?;
            let found = self.take(self.lines.chunks.get(chunk)?, index, number);
            at = self.after(chunk, index);
            found
        })
    }

    /// Where the next line lies.
    fn after(self, mut chunk: usize, index: usize) -> Option<(usize, usize)> {
        let mut from = index + 1;
        loop {
            let here = self.lines.chunks.get(chunk)?;
            let next = match (self.of, here.only) {
                (Some(of), None) => {
                    let body = here.body();
                    (from..body.len()).find(|at| body.source(*at) == Some(of))
                }
                (Some(of), Some(only)) if of != only => None,
                _ => (from < here.len).then_some(from),
            };
            if let Some(next) = next {
                return Some((chunk, next));
            }
            (chunk, from) = (chunk + 1, 0);
        }
    }

    /// Index of the chunk that a line lies in, and of the line in it.
    pub(super) fn locate(self, number: u64) -> Option<(usize, usize)> {
        if !(self.first()..self.next()).contains(&number) {
            return None;
        }
        let lines = self.lines;
        let Some(source) = self.source() else {
            let chunks = &lines.chunks;
            let after = chunks.partition_point(|chunk| chunk.first <= number);
            let at = after.checked_sub(1)?;
            return Some((at, (number - chunks.get(at)?.first) as usize));
        };
        let after = source.pieces.partition_point(|piece| piece.first <= number);
        let piece = source.pieces.get(after.checked_sub(1)?)?;
        let at = (piece.chunk - lines.gone) as usize;
        let chunk = lines.chunks.get(at)?;
        let nth = (number - piece.first) as usize;
        let of = self.of?;
        if chunk.only == Some(of) {
            return Some((at, nth));
        }
        Some((at, chunk.body().lines_of(of).nth(nth)?))
    }

    /// The number of a line of a chunk, if it is shown.
    pub(super) fn number(self, chunk: usize, body: &Body, index: usize) -> Option<u64> {
        let here = self.lines.chunks.get(chunk)?;
        let Some(of) = self.of else {
            return Some(here.first + index as u64);
        };
        if !self.has(body, index) {
            return None;
        }
        let first = self.first_in(chunk)?;
        let before = match here.only {
            Some(_) => index,
            None => body.lines_of(of).take_while(|at| *at < index).count(),
        };
        Some(first + before as u64)
    }

    /// Whether a line of a chunk is shown.
    pub(super) fn has(self, body: &Body, index: usize) -> bool {
        self.of.is_none_or(|of| body.source(index) == Some(of))
    }

    /// The number of the first line that is shown of a chunk; none where none is.
    fn first_in(self, chunk: usize) -> Option<u64> {
        let Some(source) = self.source() else {
            return Some(self.lines.chunks.get(chunk)?.first);
        };
        let number = self.lines.gone + chunk as u64;
        let at = source.pieces.partition_point(|piece| piece.chunk < number);
        let piece = source.pieces.get(at)?;
        (piece.chunk == number).then_some(piece.first)
    }

    /// The chunks, of which those before `gone` are no more.
    pub(super) fn chunks(self) -> &'a VecDeque<Chunk> {
        &self.lines.chunks
    }

    /// Chunks that were dropped.
    pub(super) fn gone(self) -> u64 {
        self.lines.gone
    }

    /// Whether something of a chunk is shown.
    pub(super) fn shows(self, chunk: usize) -> bool {
        self.first_in(chunk).is_some()
    }

    /// A copy of the text, to be taken elsewhere.
    pub(super) fn copy(self) -> LogCopy {
        let chunks = self.lines.chunks.iter().enumerate();
        let chunks = chunks.filter(|(at, _)| self.shows(*at));
        LogCopy {
            chunks: chunks.map(|(_, c)| (c.pack(), c.dropped)).collect(),
            of: self.of,
        }
    }
}

/// The text of a log as it was, compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogCopy {
    /// With the lines dropped from the front of each.
    chunks: Vec<(Packed, usize)>,
    of: Option<u16>,
}

impl LogCopy {
    /// Writes the plain text of every line; gives how many there are.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, out: &mut impl io::Write) -> io::Result<usize> {
        let mut count = 0;
        for (packed, dropped) in &self.chunks {
            let body = packed.unpack();
            for index in *dropped..body.len() {
                if self.of.is_none_or(|of| body.source(index) == Some(of)) {
                    let text = body.line(index).unwrap_or_default();
                    out.write_all(text.as_bytes())?;
                    out.write_all(b"\n")?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Adds a line without anything beside it.
    pub(in super::super) fn push(lines: &mut Lines, text: &str, time: Option<i64>, source: u16) {
        lines.push(New {
            text,
            changes: &[],
            time,
            source,
            stderr: false,
        });
    }

    fn texts(lines: &Lines) -> Vec<&str> {
        let lines = lines.all().range(0, u64::MAX);
        lines.map(|line| line.text).collect()
    }

    /// Text that does not compress to much less.
    fn noise(seed: u64, len: usize) -> String {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b' ' + (state >> 32) as u8 % 95)
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn lines_are_kept_up_to_the_limit() {
        let mut lines = Lines::new(3);
        for text in ["a", "", "ü", "d", "e"] {
            push(&mut lines, text, None, 0);
        }
        assert_eq!(texts(&lines), ["ü", "d", "e"]);
        let all = lines.all();
        assert_eq!((all.first(), all.next(), all.len()), (2, 5, 3));
        assert!(all.line(1).is_none() && all.line(5).is_none());
        assert!(all.line(3).unwrap().ascii && !all.line(2).unwrap().ascii);
        assert_eq!(Lines::new(0).limit_lines, 1);
    }

    #[test]
    fn a_limit_on_lines_is_one_on_memory() {
        let mut lines = Lines::new(20_000);
        for number in 0..20_000 {
            push(&mut lines, &noise(number, 400), None, 0);
            assert!(lines.held <= lines.limit_bytes);
        }
        let len = lines.all().len();
        assert!((3_000..10_000).contains(&len), "{len}");
        let bytes: usize = texts(&lines).iter().map(|text| text.len() + 1).sum();
        assert_eq!(lines.bytes, bytes);
        // What compresses well may be as long as it likes.
        let mut lines = Lines::new(20_000);
        for number in 0..20_000 {
            push(
                &mut lines,
                &format!("{number} {}", "x".repeat(400)),
                None,
                0,
            );
        }
        assert_eq!(lines.all().len(), 20_000);
        assert!(lines.held < 1 << 20, "{}", lines.held);
    }

    #[test]
    fn many_chunks_are_one_log() {
        let mut lines = Lines::new(30_000);
        for number in 0..50_000 {
            push(&mut lines, &format!("line {number}"), None, 0);
        }
        let all = lines.all();
        assert!(all.chunks().len() > 3);
        for number in [20_000, 20_001, 33_333, 49_999] {
            assert_eq!(all.line(number).unwrap().text, format!("line {number}"));
            let (at, index) = all.locate(number).unwrap();
            let body = all.chunks()[at].body();
            assert_eq!(body.line_of(body.start(index) + 3), index);
            assert_eq!(all.number(at, body, index), Some(number));
        }
        let front = &all.chunks()[0];
        assert_eq!(front.body().line(front.dropped), Some("line 20000"));
        lines.settle();
        lines.settle();
        assert_eq!(lines.all().line(33_333).unwrap().text, "line 33333");
    }

    #[test]
    fn what_one_source_printed_is_as_deep_as_the_log() {
        let mut lines = Lines::new(30_000);
        let sources: Vec<u16> = ["a", "b", "c", "d"].map(|s| lines.source(s)).to_vec();
        // One after the other, then side by side.
        let of = |number: usize| match number {
            0..20_000 => 0,
            20_000..30_000 => 1,
            _ => [0, 2, 2, 1, 2][number % 5],
        };
        for number in 0..50_000 {
            push(&mut lines, &number.to_string(), None, sources[of(number)]);
        }
        for (at, source) in sources.iter().enumerate() {
            let shown = Shown::new(&lines, Some(*source));
            let expect: Vec<String> = (20_000..50_000)
                .filter(|number| of(*number) == at)
                .map(|number| number.to_string())
                .collect();
            let found: Vec<&str> = shown.range(0, u64::MAX).map(|line| line.text).collect();
            assert_eq!(found, expect);
            assert_eq!(shown.len(), expect.len());
            let numbers = shown.first()..shown.next();
            for (number, text) in numbers.clone().zip(&expect).step_by(997) {
                assert_eq!(shown.line(number).unwrap().text, text);
                let (chunk, index) = shown.locate(number).unwrap();
                let body = shown.chunks()[chunk].body();
                assert_eq!(shown.number(chunk, body, index), Some(number));
            }
            assert!(shown.line(numbers.end).is_none());
            let mut out = Vec::new();
            assert_eq!(shown.copy().write(&mut out).unwrap(), expect.len());
            let lines: Vec<&str> = std::str::from_utf8(&out).unwrap().lines().collect();
            assert_eq!(lines, expect);
        }
        assert_eq!(Shown::new(&lines, Some(99)).range(0, 0).count(), 0);
    }

    #[test]
    fn times_come_back_however_far_apart() {
        let times = [
            Some(0),
            None,
            Some(-5),
            Some(i64::MAX),
            Some(i64::MIN),
            Some(7),
            None,
        ];
        let mut lines = Lines::new(100);
        for time in times {
            push(&mut lines, "x", time, 0);
        }
        let back: Vec<_> = lines.all().range(0, u64::MAX).map(|l| l.time).collect();
        assert_eq!(back, times);
    }

    #[test]
    fn sources_are_kept_once() {
        let mut lines = Lines::new(10);
        let (a, b) = (lines.source("\u{1b}[1mstep 1"), lines.source("漢字"));
        assert_eq!(lines.source("\u{1b}[1mstep 1"), a);
        push(&mut lines, "x", None, a);
        push(&mut lines, "y", None, b);
        assert_eq!(lines.all().line(0).unwrap().source, "step 1");
        assert_eq!(lines.all().line(1).unwrap().source, "漢字");
        assert_eq!(lines.all().source_width(), 6);
        for number in 0..70_000 {
            lines.source(&number.to_string());
        }
        assert_eq!(lines.source("one more"), 0);
    }
}
