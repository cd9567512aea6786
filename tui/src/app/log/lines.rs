//! The lines of a log, a million of them in little more memory than their text: chunks of text with
//! the end of each line beside it, dropped from the front when there are too many.

use std::collections::{HashMap, VecDeque};

use super::style::{Changes, Pen, encode};
use super::wrap;

/// Bytes of text after which a chunk is full.
const CHUNK: usize = 64 << 10;

/// Bytes of text kept for each line of the limit, on average: a log of long lines is cut to fewer of
/// them, so that a limit on lines is one on memory too.
const BYTES_PER_LINE: usize = 128;
const LEAST_BYTES: usize = 1 << 20;

/// Numbers of lines count from the first that was ever pushed, and stay when lines are dropped.
#[derive(Debug)]
pub(super) struct Lines {
    chunks: VecDeque<Chunk>,
    first: u64,
    next: u64,
    /// Of text, ends of lines included.
    bytes: usize,
    limit_lines: usize,
    limit_bytes: usize,
    sources: Vec<String>,
    numbers: HashMap<String, u16>,
    /// Cells of the widest source.
    source_width: usize,
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

/// Some lines that lie together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Number of the first line, dropped or not.
    first: u64,
    /// Lines dropped from its front.
    dropped: usize,
    /// The lines, each with its `\n`, so that one search goes over all of them.
    text: String,
    pens: Vec<u8>,
    ends: Vec<Meta>,
    /// Unix milliseconds that the times of the lines count from.
    base: Option<i64>,
    /// Matches of the running search in what is not dropped, where they were counted.
    pub(super) matches: Option<usize>,
}

/// What is known of a line beside its text.
#[derive(Debug, Clone, Copy)]
struct Meta {
    /// Where its `\n` stands in the text.
    text: u32,
    /// The end of its changes of style.
    pens: u32,
    /// Milliseconds from the chunk's base.
    time: i32,
    source: u16,
    flags: u8,
}

const NO_TIME: i32 = i32::MIN;
const STDERR: u8 = 1;
const ASCII: u8 = 2;

impl Lines {
    /// An empty log of at most `limit_lines` lines, at least one.
    pub(super) fn new(limit_lines: usize) -> Self {
        let limit_lines = limit_lines.max(1);
        Self {
            chunks: VecDeque::new(),
            first: 0,
            next: 0,
            bytes: 0,
            limit_lines,
            limit_bytes: limit_lines.saturating_mul(BYTES_PER_LINE).max(LEAST_BYTES),
            sources: vec![String::new()],
            numbers: HashMap::from([(String::new(), 0)]),
            source_width: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        (self.next - self.first) as usize
    }

    /// Number of the first line that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the line that is pushed next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of text, ends of lines included: no log has more rows than that.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Cells of the widest source.
    pub(super) fn source_width(&self) -> usize {
        self.source_width
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
        self.sources.push(text);
        self.numbers.insert(label.to_owned(), number);
        number
    }

    /// Whether a line has to be dropped.
    pub(super) fn too_many(&self) -> bool {
        self.len() > self.limit_lines || (self.bytes > self.limit_bytes && self.len() > 1)
    }

    /// Adds a line without ends of lines in it, in which the running search, if any, has `matches`.
    pub(super) fn push(
        &mut self,
        text: &str,
        changes: &[(usize, Pen)],
        time: Option<i64>,
        source: u16,
        stderr: bool,
        matches: usize,
    ) {
        let fits = self.chunks.back().is_some_and(|chunk| {
            chunk.text.len() + text.len() < CHUNK && time.is_none_or(|time| chunk.holds(time))
        });
        if !fits {
            let more = match self.chunks.back_mut() {
                Some(full) => {
                    full.text.shrink_to_fit();
                    full.pens.shrink_to_fit();
                    full.ends.shrink_to_fit();
                    true
                }
                None => false,
            };
            self.chunks.push_back(Chunk::new(self.next, more));
        }
        let Some(chunk) = self.chunks.back_mut() else {
            return;
        };
        if chunk.base.is_none() {
            chunk.base = time;
        }
        chunk.text.push_str(text);
        encode(changes, &mut chunk.pens);
        let ascii = if text.is_ascii() { ASCII } else { 0 };
        chunk.ends.push(Meta {
            text: chunk.text.len() as u32,
            pens: chunk.pens.len() as u32,
            time: time.and_then(|time| chunk.delta(time)).unwrap_or(NO_TIME),
            source,
            flags: ascii | if stderr { STDERR } else { 0 },
        });
        chunk.text.push('\n');
        if let Some(count) = &mut chunk.matches {
            *count += matches;
        }
        self.bytes += text.len() + 1;
        self.next += 1;
    }

    /// Drops the first line, in which the running search, if any, has `matches`.
    pub(super) fn drop_first(&mut self, matches: usize) {
        let Some(chunk) = self.chunks.front_mut() else {
            return;
        };
        self.bytes -= chunk.line_end(chunk.dropped) + 1 - chunk.line_start(chunk.dropped);
        chunk.dropped += 1;
        if let Some(count) = &mut chunk.matches {
            *count = count.saturating_sub(matches);
        }
        self.first += 1;
        if chunk.dropped == chunk.ends.len() {
            self.chunks.pop_front();
        }
    }

    /// A line that is kept.
    pub(super) fn line(&self, number: u64) -> Option<Line<'_>> {
        let chunk = self.chunks.get(self.chunk_of(number)?)?;
        let index = (number - chunk.first) as usize;
        let meta = chunk.ends.get(index)?;
        let pens = match index
            .checked_sub(1)
            .and_then(|before| chunk.ends.get(before))
        {
            Some(before) => before.pens as usize,
            None => 0,
        };
        Some(Line {
            number,
            text: chunk
                .text
                .get(chunk.line_start(index)..meta.text as usize)?,
            ascii: meta.flags & ASCII != 0,
            changes: Changes::new(chunk.pens.get(pens..meta.pens as usize)?),
            time: chunk
                .base
                .filter(|_| meta.time != NO_TIME)
                .map(|base| base + i64::from(meta.time)),
            source: self
                .sources
                .get(usize::from(meta.source))
                .map_or("", String::as_str),
            stderr: meta.flags & STDERR != 0,
        })
    }

    /// The lines from `from` up to, not including, `to`.
    pub(super) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = Line<'_>> {
        (from.max(self.first)..to.min(self.next)).filter_map(|number| self.line(number))
    }

    pub(super) fn chunks(&self) -> &VecDeque<Chunk> {
        &self.chunks
    }

    pub(super) fn chunks_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        self.chunks.iter_mut()
    }

    pub(super) fn chunk_mut(&mut self, index: usize) -> Option<&mut Chunk> {
        self.chunks.get_mut(index)
    }

    /// Index of the chunk that a line lies in.
    pub(super) fn chunk_of(&self, number: u64) -> Option<usize> {
        if !(self.first..self.next).contains(&number) {
            return None;
        }
        self.chunks
            .partition_point(|chunk| chunk.first <= number)
            .checked_sub(1)
    }
}

impl Chunk {
    /// `more`: whether chunks before it are full, so that this one will be too.
    fn new(first: u64, more: bool) -> Self {
        Self {
            first,
            dropped: 0,
            text: String::with_capacity(if more { CHUNK } else { 0 }),
            pens: Vec::new(),
            ends: Vec::new(),
            base: None,
            // Nothing in it yet.
            matches: Some(0),
        }
    }

    fn delta(&self, time: i64) -> Option<i32> {
        let delta = i32::try_from(time.checked_sub(self.base?)?).ok()?;
        (delta != NO_TIME).then_some(delta)
    }

    fn holds(&self, time: i64) -> bool {
        self.base.is_none() || self.delta(time).is_some()
    }

    fn line_start(&self, index: usize) -> usize {
        match index
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
        {
            Some(before) => before.text as usize + 1,
            None => 0,
        }
    }

    fn line_end(&self, index: usize) -> usize {
        self.ends
            .get(index)
            .map_or(self.text.len(), |meta| meta.text as usize)
    }

    /// The text, the dropped lines included.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where the kept lines start in the text.
    pub(super) fn kept_from(&self) -> usize {
        self.line_start(self.dropped)
    }

    /// Where a line starts in the text.
    pub(super) fn start_of(&self, number: u64) -> usize {
        self.line_start((number - self.first) as usize)
    }

    /// The line that a byte of the text stands in, and the byte within it.
    pub(super) fn place(&self, at: usize) -> Place {
        let index = self.ends.partition_point(|meta| (meta.text as usize) < at);
        Place {
            line: self.first + index as u64,
            byte: at - self.line_start(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lines: &mut Lines, text: &str, time: Option<i64>) {
        lines.push(text, &[], time, 0, false, 0);
        while lines.too_many() {
            lines.drop_first(0);
        }
    }

    fn texts(lines: &Lines) -> Vec<&str> {
        lines.range(0, u64::MAX).map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_kept_up_to_the_limit() {
        let mut lines = Lines::new(3);
        for text in ["a", "", "ü", "d", "e"] {
            push(&mut lines, text, None);
        }
        assert_eq!(texts(&lines), ["ü", "d", "e"]);
        assert_eq!((lines.first(), lines.next(), lines.len()), (2, 5, 3));
        assert!(lines.line(1).is_none() && lines.line(5).is_none());
        assert!(lines.line(3).unwrap().ascii && !lines.line(2).unwrap().ascii);
        assert_eq!(Lines::new(0).limit_lines, 1);
    }

    #[test]
    fn long_lines_count_for_more() {
        let mut lines = Lines::new(100);
        let long = "x".repeat(30_000);
        for _ in 0..100 {
            push(&mut lines, &long, None);
        }
        assert_eq!(lines.len(), LEAST_BYTES / 30_001);
        assert_eq!(lines.bytes(), lines.len() * 30_001);
    }

    #[test]
    fn many_chunks_are_one_log() {
        let mut lines = Lines::new(30_000);
        for number in 0..50_000 {
            push(&mut lines, &format!("line {number}"), None);
        }
        assert!(lines.chunks().len() > 3);
        for number in [20_000, 20_001, 33_333, 49_999] {
            assert_eq!(lines.line(number).unwrap().text, format!("line {number}"));
            let chunk = &lines.chunks()[lines.chunk_of(number).unwrap()];
            let place = chunk.place(chunk.start_of(number) + 3);
            assert_eq!(
                place,
                Place {
                    line: number,
                    byte: 3
                }
            );
        }
        let front = &lines.chunks()[0];
        assert!(front.text()[front.kept_from()..].starts_with("line 20000\n"));
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
            push(&mut lines, "x", time);
        }
        let back: Vec<_> = lines.range(0, u64::MAX).map(|line| line.time).collect();
        assert_eq!(back, times);
    }

    #[test]
    fn sources_are_kept_once() {
        let mut lines = Lines::new(10);
        let (a, b) = (lines.source("\u{1b}[1mstep 1"), lines.source("漢字"));
        assert_eq!(lines.source("\u{1b}[1mstep 1"), a);
        lines.push("x", &[], None, a, true, 0);
        lines.push("y", &[], None, b, false, 0);
        let line = lines.line(0).unwrap();
        assert_eq!((line.source, line.stderr), ("step 1", true));
        let line = lines.line(1).unwrap();
        assert_eq!((line.source, line.stderr), ("漢字", false));
        assert_eq!(lines.source_width(), 6);
        for number in 0..70_000 {
            lines.source(&number.to_string());
        }
        assert_eq!(lines.source("one more"), 0);
    }
}
