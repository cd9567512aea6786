//! Masks values in a stream of bytes, however it is cut into pieces.
//!
//! All forms of all values ([`forms`]) are looked for at once by an automaton (Aho and Corasick),
//! in several readings of the stream ([`views`]). What may yet turn out to be a part of a value is
//! held back, and nothing else: its length is bounded by that of the longest form.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;

use super::forms::SHORTEST;
use super::forms::{self, is_blank};
use super::views::{Decoder, Reading};
use crate::engine::Secret;

/// Stands where a value stood.
pub(crate) const MASK: &[u8] = b"***";
/// Blanks in a row that are taken for a part of a value.
const LONGEST_GAP: usize = 64;

/// Values cannot be masked, so that a build must not see them.
#[derive(Debug, thiserror::Error)]
#[error("the secrets of the build cannot be masked in its log: {0}")]
pub(crate) struct Unmaskable(String);

fn unmaskable(why: impl std::fmt::Display) -> Unmaskable {
    Unmaskable(why.to_string())
}

/// What must not be seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redaction {
    forms: Option<Arc<Forms>>,
    /// Names of secrets that are too short to be masked.
    short: Vec<String>,
}

/// All forms of all values.
#[derive(Debug)]
struct Forms {
    exact: Search,
    joined: Search,
    begins: Begins,
}

/// With which two bytes something can begin that must be looked at: most text is passed over by this.
struct Begins(Vec<u64>);

impl std::fmt::Debug for Begins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Begins")
    }
}

impl Begins {
    fn new(exact: &[Vec<u8>], joined: &[Vec<u8>]) -> Self {
        let mut begins = Self(vec![0; (1 << 16) / 64]);
        for (texts, between) in [(exact, &b"%+\\"[..]), (joined, &b" \t\r\n"[..])] {
            for text in texts {
                let [first, second, ..] = text[..] else {
                    continue;
                };
                begins.add(first, second);
                for other in between {
                    begins.add(first, *other);
                }
            }
        }
        for encoded in *b"%+\\" {
            for second in 0..=u8::MAX {
                begins.add(encoded, second);
            }
        }
        begins
    }

    fn add(&mut self, first: u8, second: u8) {
        let at = usize::from(u16::from_be_bytes([first, second]));
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// How many of the first bytes nothing begins with.
    fn pass(&self, bytes: &[u8]) -> usize {
        let begins = |pair: &[u8]| {
            let at = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
            self.0[at / 64] >> (at % 64) & 1 == 1
        };
        // What the last byte begins is not known yet.
        let last = bytes.len().saturating_sub(1);
        bytes.windows(2).position(begins).unwrap_or(last)
    }
}

/// Finds texts.
struct Search {
    automaton: NFA,
    start: StateID,
    /// By state: length of the longest beginning of a text that the input ends with.
    depths: Vec<u32>,
    /// Bytes that a text begins with.
    first: [bool; 256],
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The automaton holds the values.
        f.debug_struct("Search").finish_non_exhaustive()
    }
}

impl Redaction {
    /// Masks the values of `secrets`, and each of their lines, since tools print them so.
    ///
    /// # Errors
    /// When the values are too many for an automaton; see [`super::TOTAL`].
    pub(crate) fn new(secrets: &BTreeMap<String, Secret>) -> Result<Self, Unmaskable> {
        let short = |(_, value): &(&String, &Secret)| {
            let value = value.expose().trim_ascii();
            !value.is_empty() && value.len() < SHORTEST
        };
        let short = secrets.iter().filter(short).map(|(name, _)| name.clone());
        let short = short.collect();
        let values = || secrets.values().map(Secret::expose);
        let exact: Vec<_> = values().flat_map(forms::exact).collect();
        if exact.is_empty() {
            return Ok(Self { forms: None, short });
        }
        let joined: Vec<_> = values().flat_map(forms::joined).collect();
        let forms = Forms {
            exact: Search::new(&exact)?,
            joined: Search::new(&joined)?,
            begins: Begins::new(&exact, &joined),
        };
        Ok(Self {
            forms: Some(Arc::new(forms)),
            short,
        })
    }

    /// What the log of a step says that is given a secret too short to be masked.
    pub(crate) fn warning(&self, name: &str) -> Option<String> {
        self.short.iter().any(|short| short == name).then(|| {
            format!(
                "the secret `{name}` has fewer than {SHORTEST} bytes, which are not masked in this log"
            )
        })
    }

    /// Masks in one text.
    pub(crate) fn text(&self, text: String) -> String {
        if self.forms.is_none() {
            return text;
        }
        let mut stream = self.stream();
        let mut out = Vec::with_capacity(text.len());
        stream.push(text.as_bytes(), &mut out);
        stream.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Masks in a stream.
    pub(crate) fn stream(&self) -> Redactor {
        Redactor {
            views: self.forms.clone().map(Views::new),
            held: Vec::new(),
            at: 1,
            hits: Vec::new(),
            masked: 0,
        }
    }
}

impl Search {
    fn new(texts: &[Vec<u8>]) -> Result<Self, Unmaskable> {
        let automaton = NFA::builder().prefilter(false).build(texts);
        let automaton = automaton.map_err(unmaskable)?;
        let mut first = [false; 256];
        let mut depths = Vec::new();
        let start = automaton.start_state(Anchored::No).map_err(unmaskable)?;
        for text in texts {
            if let Some(byte) = text.first() {
                first[usize::from(*byte)] = true;
            }
            let mut state = start;
            for (length, byte) in (1..).zip(text) {
                state = automaton.next_state(Anchored::No, state, *byte);
                let at = state.as_usize();
                if depths.len() <= at {
                    depths.resize(at + 1, 0);
                }
                depths[at] = length;
            }
        }
        Ok(Self {
            automaton,
            start,
            depths,
            first,
        })
    }

    fn depth(&self, state: StateID) -> usize {
        self.depths.get(state.as_usize()).copied().unwrap_or(0) as usize
    }
}

/// Masks one stream. What it holds back goes with [`finish`](Self::finish); it is never printed.
pub(crate) struct Redactor {
    /// None when there is nothing to mask.
    views: Option<Views>,
    /// What was taken and not given out.
    held: Vec<u8>,
    /// Where in the stream that begins, counted from 1.
    at: u64,
    /// Where values stand from there on.
    hits: Vec<Range<u64>>,
    /// Where what was masked last ends.
    masked: u64,
}

impl Redactor {
    /// Takes bytes, and gives out what is certain.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(views) = &mut self.views else {
            out.extend_from_slice(bytes);
            return;
        };
        let begin = self.at + self.held.len() as u64;
        let mut next = 0;
        while let Some(byte) = bytes.get(next) {
            let passed = views.pass(&bytes[next..]);
            if passed == 0 {
                views.push(*byte, begin + next as u64, &mut self.hits);
            }
            next += passed.max(1);
        }
        let certain = views.pending().unwrap_or(begin + bytes.len() as u64);
        self.held.extend_from_slice(bytes);
        self.give(certain, out);
    }

    /// Gives out the rest.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.give(self.at + self.held.len() as u64, out);
    }

    /// Gives out what stands before `end`. What touches or overlaps is masked as one.
    fn give(&mut self, end: u64, out: &mut Vec<u8>) {
        let length = |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(0);
        self.hits.sort_unstable_by_key(|hit| hit.start);
        let now = self.hits.partition_point(|hit| hit.start < end);
        for hit in self.hits.drain(..now) {
            let from = self.at.max(self.masked);
            if from < hit.start {
                out.extend_from_slice(
                    &self.held[length(self.at, from)..length(self.at, hit.start)],
                );
            }
            if self.masked < hit.start {
                out.extend_from_slice(MASK);
                // What stands before it is out.
                self.masked = hit.start;
            }
            self.masked = self.masked.max(hit.end);
        }
        let from = self.at.max(self.masked);
        if from < end {
            out.extend_from_slice(&self.held[length(self.at, from)..length(self.at, end)]);
        }
        self.held.drain(..length(self.at, end));
        self.at = self.at.max(end);
    }
}

/// The readings of a stream.
#[derive(Debug)]
struct Views {
    forms: Arc<Forms>,
    plain: View,
    joined: View,
    /// Blanks in a row.
    gap: usize,
    /// Other bytes on the line.
    on_line: usize,
    decoded: [Decoded; 2],
}

/// One reading of a stream.
#[derive(Debug)]
struct View {
    decoder: Decoder,
    state: StateID,
    /// Where the bytes stand that may be the beginning of a form.
    starts: VecDeque<u64>,
}

/// A reading that is followed only where it differs from the plain one.
#[derive(Debug)]
struct Decoded {
    view: View,
    differs: bool,
}

impl Views {
    fn new(forms: Arc<Forms>) -> Self {
        let exact = |reading| View::new(reading, &forms.exact);
        let decoded = |reading| Decoded {
            view: exact(reading),
            differs: false,
        };
        Self {
            plain: exact(Reading::Plain),
            joined: View::new(Reading::Joined, &forms.joined),
            gap: 0,
            on_line: 0,
            decoded: [decoded(Reading::Percent), decoded(Reading::Escaped)],
            forms,
        }
    }

    /// How many of the first bytes no reading need look at.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let begun = self.decoded.iter().any(|decoded| decoded.differs);
        if begun || !self.plain.starts.is_empty() || !self.joined.starts.is_empty() {
            return 0;
        }
        let passed = self.forms.begins.pass(bytes);
        let mut before = bytes[..passed].iter().rev();
        match before.find(|byte| **byte == b'\n' || !is_blank(**byte)) {
            None => {}
            Some(b'\n') => self.on_line = 0,
            Some(_) => self.on_line = 1,
        }
        passed
    }

    /// Takes a byte; adds where a value is that ends with it.
    fn push(&mut self, byte: u8, at: u64, hits: &mut Vec<Range<u64>>) {
        let exact = &self.forms.exact;
        for Decoded { view, differs } in &mut self.decoded {
            if !*differs {
                if !view.decoder.begins(byte) {
                    continue;
                }
                *differs = true;
                view.state = self.plain.state;
                view.starts.clone_from(&self.plain.starts);
            }
            view.push(exact, byte, at, hits);
        }
        self.plain.push(exact, byte, at, hits);
        for Decoded { view, differs } in &mut self.decoded {
            *differs = *differs && !view.agrees(&self.plain);
        }
        if is_blank(byte) {
            self.pass_blank(byte);
        } else {
            self.gap = 0;
            self.on_line = self.on_line.saturating_add(1);
            self.joined.push(&self.forms.joined, byte, at, hits);
        }
    }

    /// What begins with the last byte of a line, by chance mostly, is not followed.
    fn pass_blank(&mut self, byte: u8) {
        self.gap += 1;
        let mut forget = self.gap > LONGEST_GAP;
        if byte == b'\n' {
            forget |= self.joined.starts.len() == 1 && self.on_line > 1;
            self.on_line = 0;
        }
        if forget {
            self.joined.state = self.forms.joined.start;
            self.joined.starts.clear();
        }
    }

    /// Where something stands that may become a value.
    fn pending(&self) -> Option<u64> {
        let decoded = self.decoded.iter().filter(|decoded| decoded.differs);
        let views = decoded.map(|decoded| &decoded.view);
        let views = views.chain([&self.plain, &self.joined]);
        views.filter_map(View::pending).min()
    }
}

impl View {
    fn new(reading: Reading, search: &Search) -> Self {
        Self {
            decoder: Decoder::new(reading),
            state: search.start,
            starts: VecDeque::new(),
        }
    }

    fn push(&mut self, search: &Search, byte: u8, at: u64, hits: &mut Vec<Range<u64>>) {
        let Self {
            decoder,
            state,
            starts,
        } = self;
        decoder.push(byte, at, &mut |byte, start, end| {
            if starts.is_empty() && !search.first[usize::from(byte)] {
                return;
            }
            *state = search.automaton.next_state(Anchored::No, *state, byte);
            starts.push_back(start);
            let depth = search.depth(*state);
            starts.drain(..starts.len().saturating_sub(depth));
            if search.automaton.is_match(*state) {
                let found = (0..search.automaton.match_len(*state)).map(|index| {
                    let text = search.automaton.match_pattern(*state, index);
                    search.automaton.pattern_len(text)
                });
                let longest = found.max().unwrap_or(0);
                let first = starts.len().saturating_sub(longest);
                if let Some(start) = starts.get(first) {
                    hits.push(*start..end);
                }
            }
        });
    }

    fn pending(&self) -> Option<u64> {
        let begun = self.decoder.pending();
        let starts = self.starts.front().copied();
        begun.into_iter().chain(starts).min()
    }

    /// Whether what follows is the same to both.
    fn agrees(&self, plain: &Self) -> bool {
        self.decoder.pending().is_none()
            && self.state == plain.state
            && self.starts.front() == plain.starts.front()
    }
}

#[cfg(test)]
mod tests;
