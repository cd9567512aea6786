//! Lines that lie together: text with what is known of each line beside it, compressed when no more
//! come, so that a million lines take a small part of their length.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use super::style::{Changes, Pen, encode};

/// Bytes of text after which a chunk is full.
const CHUNK: usize = 64 << 10;
/// Lines after which it is full, too.
const LINES: usize = 4096;
/// Compression of full chunks: the quickest, at several hundred MB/s.
const LEVEL: i32 = 1;
/// Bytes that a compressed chunk takes beside its contents, roughly.
const BESIDE: usize = 192;

/// Some lines that lie together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Number of the first line, dropped or not.
    pub(super) first: u64,
    /// Lines dropped from its front.
    pub(super) dropped: usize,
    /// Lines, dropped or not.
    pub(super) len: usize,
    /// Unix milliseconds that the times of the lines count from.
    base: Option<i64>,
    /// The source of all of its lines, where it is one.
    pub(super) only: Option<u16>,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Lines may still come.
    Open(Body),
    Packed {
        packed: Packed,
        /// Its contents, while they are looked at.
        body: OnceCell<Box<Body>>,
        /// Whether they were looked at since the last [`Chunk::settle`].
        used: Cell<bool>,
    },
}

/// The contents of a chunk.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Body {
    /// The lines, each with its `\n`, so that one search goes over all of them.
    pub(super) text: String,
    pens: Vec<u8>,
    ends: Vec<Meta>,
}

/// What is known of a line beside its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A line that comes in.
#[derive(Debug, Clone, Copy)]
pub(super) struct New<'a> {
    /// Without ends of lines.
    pub(super) text: &'a str,
    pub(super) changes: &'a [(usize, Pen)],
    /// Unix time in milliseconds.
    pub(super) time: Option<i64>,
    pub(super) source: u16,
    pub(super) stderr: bool,
}

/// A line of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) text: &'a str,
    pub(super) ascii: bool,
    pub(super) changes: Changes<'a>,
    pub(super) time: Option<i64>,
    pub(super) source: u16,
    pub(super) stderr: bool,
}

impl Chunk {
    /// `more`: whether chunks before it are full, so that this one will be too.
    pub(super) fn new(first: u64, more: bool) -> Self {
        Self {
            first,
            dropped: 0,
            len: 0,
            base: None,
            only: None,
            kept: Kept::Open(Body {
                text: String::with_capacity(if more { CHUNK } else { 0 }),
                ..Body::default()
            }),
        }
    }

    /// Adds a line; gives it back when it has no room for it.
    pub(super) fn push(&mut self, line: New<'_>) -> bool {
        let fits = line.time.is_none_or(|time| self.holds(time));
        let Kept::Open(body) = &mut self.kept else {
            return false;
        };
        let full = body.text.len() + line.text.len() >= CHUNK || self.len >= LINES;
        if self.len > 0 && (full || !fits) {
            return false;
        }
        if self.base.is_none() {
            self.base = line.time;
        }
        self.only = match self.len {
            0 => Some(line.source),
            _ => self.only.filter(|only| *only == line.source),
        };
        self.len += 1;
        body.text.push_str(line.text);
        encode(line.changes, &mut body.pens);
        let ascii = if line.text.is_ascii() { ASCII } else { 0 };
        let delta = line.time.and_then(|time| delta(self.base, time));
        body.ends.push(Meta {
            text: body.text.len() as u32,
            pens: body.pens.len() as u32,
            time: delta.unwrap_or(NO_TIME),
            source: line.source,
            flags: ascii | if line.stderr { STDERR } else { 0 },
        });
        body.text.push('\n');
        true
    }

    fn holds(&self, time: i64) -> bool {
        self.base.is_none() || delta(self.base, time).is_some()
    }

    /// Compresses it: no more lines come.
    pub(super) fn close(&mut self) {
        if let Kept::Open(body) = &self.kept {
            self.kept = Kept::Packed {
                packed: Packed::new(body),
                body: OnceCell::new(),
                used: Cell::new(false),
            };
        }
    }

    /// Bytes that it takes, without what is unpacked for a while.
    pub(super) fn held(&self) -> usize {
        match &self.kept {
            Kept::Open(body) => {
                body.text.len() + body.pens.len() + body.ends.len() * size_of::<Meta>()
            }
            Kept::Packed { packed, .. } => packed.0.len() + BESIDE,
        }
    }

    /// Forgets what was unpacked and not looked at since the last time.
    pub(super) fn settle(&mut self) {
        if let Kept::Packed { body, used, .. } = &mut self.kept
            && !used.replace(false)
        {
            body.take();
        }
    }

    /// Its contents, which stay unpacked for a while.
    pub(super) fn body(&self) -> &Body {
        match &self.kept {
            Kept::Open(body) => body,
            Kept::Packed { packed, body, used } => {
                used.set(true);
                body.get_or_init(|| Box::new(packed.unpack()))
            }
        }
    }

    /// Reads its contents once.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Body) -> T) -> T {
        match &self.kept {
            Kept::Open(body) => read(body),
            Kept::Packed { packed, body, .. } => match body.get() {
                Some(body) => read(body),
                None => read(&packed.unpack()),
            },
        }
    }

    /// A copy of its contents, which costs little where they are compressed.
    pub(super) fn pack(&self) -> Packed {
        match &self.kept {
            Kept::Open(body) => Packed::new(body),
            Kept::Packed { packed, .. } => packed.clone(),
        }
    }

    /// A line, counted from the chunk's first.
    pub(super) fn line(&self, index: usize) -> Option<Found<'_>> {
        let body = self.body();
        let meta = body.ends.get(index)?;
        let before = index.checked_sub(1).and_then(|at| body.ends.get(at));
        let pens = before.map_or(0, |before| before.pens as usize);
        Some(Found {
            text: body.line(index)?,
            ascii: meta.flags & ASCII != 0,
            changes: Changes::new(body.pens.get(pens..meta.pens as usize)?),
            time: self
                .base
                .filter(|_| meta.time != NO_TIME)
                .map(|base| base + i64::from(meta.time)),
            source: meta.source,
            stderr: meta.flags & STDERR != 0,
        })
    }
}

fn delta(base: Option<i64>, time: i64) -> Option<i32> {
    let delta = i32::try_from(time.checked_sub(base?)?).ok()?;
    (delta != NO_TIME).then_some(delta)
}

impl Body {
    /// Lines that it has.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn line(&self, index: usize) -> Option<&str> {
        let end = self.ends.get(index)?.text as usize;
        self.text.get(self.start(index)..end)
    }

    /// Where a line starts in the text.
    pub(super) fn start(&self, index: usize) -> usize {
        let before = index.checked_sub(1).and_then(|at| self.ends.get(at));
        before.map_or(0, |before| before.text as usize + 1)
    }

    /// The line that a byte of the text stands in.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.ends.partition_point(|meta| (meta.text as usize) < at)
    }

    /// What printed a line.
    pub(super) fn source(&self, index: usize) -> Option<u16> {
        self.ends.get(index).map(|meta| meta.source)
    }

    /// The lines of a source, as indices.
    pub(super) fn lines_of(&self, source: u16) -> impl Iterator<Item = usize> {
        let lines = self.ends.iter().enumerate();
        lines.filter_map(move |(index, meta)| (meta.source == source).then_some(index))
    }
}

/// The contents of a chunk, compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed(Arc<[u8]>);

/// First byte: how the rest is kept.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

impl Packed {
    fn new(body: &Body) -> Self {
        let plain = body.to_bytes();
        let mut bytes = vec![ZSTD];
        match zstd::bulk::compress(&plain, LEVEL) {
            Ok(packed) if packed.len() < plain.len() => {
                bytes.extend((plain.len() as u32).to_le_bytes());
                bytes.extend(packed);
            }
            _ => {
                bytes[0] = PLAIN;
                bytes.extend(plain);
            }
        }
        Self(bytes.into())
    }

    /// What it was made from. Nothing but a fault of the memory makes it empty.
    pub(super) fn unpack(&self) -> Body {
        let body = match self.0.split_first() {
            Some((&PLAIN, plain)) => Body::of_bytes(plain),
            Some((&ZSTD, rest)) => rest.split_first_chunk().and_then(|(size, packed)| {
                let size = u32::from_le_bytes(*size) as usize;
                let plain = zstd::bulk::decompress(packed, size).ok()?;
                Body::of_bytes(&plain)
            }),
            _ => None,
        };
        body.unwrap_or_default()
    }
}

impl Body {
    /// Column by column, each number as what it adds to the one before: so it compresses best.
    fn to_bytes(&self) -> Vec<u8> {
        let room = self.ends.len() * size_of::<Meta>() + self.pens.len() + self.text.len() + 8;
        let mut bytes = Vec::with_capacity(room);
        for count in [self.ends.len(), self.pens.len()] {
            bytes.extend((count as u32).to_le_bytes());
        }
        let mut column = |of: fn(&Meta) -> u32| {
            let mut last = 0_u32;
            for meta in &self.ends {
                let value = of(meta);
                bytes.extend(value.wrapping_sub(last).to_le_bytes());
                last = value;
            }
        };
        column(|meta| meta.text);
        column(|meta| meta.pens);
        column(|meta| meta.time.cast_unsigned());
        column(|meta| u32::from(meta.source) << 8 | u32::from(meta.flags));
        bytes.extend(&self.pens);
        bytes.extend(self.text.as_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (lines, rest) = bytes.split_first_chunk::<4>()?;
        let (pens, rest) = rest.split_first_chunk::<4>()?;
        let lines = u32::from_le_bytes(*lines) as usize;
        let pens = u32::from_le_bytes(*pens) as usize;
        let (columns, rest) = rest.split_at_checked(lines.checked_mul(16)?)?;
        let column = |at: usize| {
            let numbers = columns.get(at * lines * 4..(at + 1) * lines * 4);
            let (numbers, _) = numbers.unwrap_or_default().as_chunks::<4>();
            numbers.iter().scan(0_u32, |last, number| {
                *last = last.wrapping_add(u32::from_le_bytes(*number));
                Some(*last)
            })
        };
        let ends = column(0).zip(column(1)).zip(column(2)).zip(column(3));
        let ends = ends.map(|(((text, pens), time), last)| Meta {
            text,
            pens,
            time: time.cast_signed(),
            source: (last >> 8) as u16,
            flags: last as u8,
        });
        let (pens, text) = rest.split_at_checked(pens)?;
        Some(Self {
            ends: ends.collect(),
            pens: pens.to_vec(),
            text: String::from_utf8(text.to_vec()).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            lines in prop::collection::vec(
                ("[ -~é漢]{0,40}", any::<Option<i64>>(), any::<u16>(), any::<bool>()),
                0..60,
            ),
        ) {
            let mut chunk = Chunk::new(7, false);
            let pen = Pen::default();
            let changes = [(0, pen)];
            let mut taken = Vec::new();
            for (text, time, source, stderr) in &lines {
                let (time, source, stderr) = (*time, *source, *stderr);
                let changes = if stderr { &changes[..] } else { &[] };
                if chunk.push(New { text, changes, time, source, stderr }) {
                    taken.push((text.clone(), time, source, stderr));
                }
            }
            let open = Packed::new(chunk.body()).unpack();
            prop_assert_eq!(&open, chunk.body());
            chunk.close();
            let late = New { text: "", changes: &[], time: None, source: 0, stderr: false };
            prop_assert!(!chunk.push(late));
            for (index, (text, time, source, stderr)) in taken.iter().enumerate() {
                let line = chunk.line(index).unwrap();
                prop_assert_eq!((line.text, line.time), (text.as_str(), *time));
                prop_assert_eq!((line.source, line.stderr), (*source, *stderr));
                prop_assert_eq!(line.ascii, text.is_ascii());
                prop_assert_eq!(line.changes.count(), usize::from(*stderr));
            }
            prop_assert!(chunk.line(taken.len()).is_none());
            // What was unpacked goes when nobody looks.
            chunk.settle();
            chunk.settle();
            prop_assert_eq!(chunk.read(Body::len), taken.len());
        }
    }

    #[test]
    fn damage_is_no_panic() {
        let mut chunk = Chunk::new(0, false);
        let line = New {
            text: "some text",
            changes: &[],
            time: Some(1),
            source: 1,
            stderr: false,
        };
        for _ in 0..100 {
            chunk.push(line);
        }
        let Packed(whole) = Packed::new(chunk.body());
        for end in 0..whole.len() {
            assert_eq!(Packed(whole[..end].into()).unpack().len(), 0, "{end}");
        }
    }
}
