//! Search over the whole log: what a reader types is text, not a pattern, and capitals count only
//! when there are some in it.

use std::collections::VecDeque;

use regex::{Regex, RegexBuilder};

use super::chunk::{Body, Chunk};
use super::lines::{Place, Shown};

/// Characters of a query that count.
const LONGEST: usize = 500;

/// Bytes of text that one frame may search while a new search goes over a big log.
const PER_FRAME: usize = 3 << 20;
/// What finding a match costs, in bytes searched.
const MATCH_COST: usize = 32;

/// A running search. How often each chunk of lines matches is kept, so that counts, the number of the
/// current match, and the way to the next one never go over the whole log again.
#[derive(Debug)]
pub(super) struct Search {
    query: String,
    regex: Regex,
    pub(super) current: Option<Match>,
    /// What was counted in each chunk, from that of number `from` on.
    counted: VecDeque<Option<Counted>>,
    from: u64,
}

/// Matches of a chunk, as long as it has these lines.
#[derive(Debug, Clone, Copy)]
struct Counted {
    matches: usize,
    dropped: usize,
    len: usize,
}

/// Where a query was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) line: u64,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Match {
    pub(super) fn place(self) -> Place {
        Place {
            line: self.line,
            byte: self.start,
        }
    }
}

impl Search {
    /// A search for `query`; none when nothing is asked for. `before` is the search that it takes the
    /// place of: where that found nothing, one for more than it asked for finds nothing either.
    pub(super) fn new(query: &str, before: Option<Self>) -> Option<Self> {
        let query: String = query
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST)
            .collect();
        if query.is_empty() {
            return None;
        }
        let regex = RegexBuilder::new(&regex::escape(&query))
            .case_insensitive(!query.chars().any(char::is_uppercase))
            .build()
            .ok()?;
        let narrower = before.filter(|before| query.starts_with(&before.query));
        let (counted, from) = match narrower {
            Some(before) => {
                let nothing = |c: Option<Counted>| c.filter(|counted| counted.matches == 0);
                (
                    before.counted.into_iter().map(nothing).collect(),
                    before.from,
                )
            }
            None => (VecDeque::new(), 0),
        };
        Some(Self {
            query,
            regex,
            current: None,
            counted,
            from,
        })
    }

    /// Counts what is not counted yet, as much as a frame has time for. Whether something is left.
    pub(super) fn go_on(&mut self, lines: Shown<'_>) -> bool {
        self.align(lines);
        let first = lines.first();
        self.current = self.current.filter(|current| current.line >= first);
        let mut budget = PER_FRAME;
        for (index, chunk) in lines.chunks().iter().enumerate() {
            if self.known(index, chunk).is_some() {
                continue;
            }
            if budget == 0 {
                return true;
            }
            if !lines.shows(index) {
                self.count_as(index, chunk, 0);
                continue;
            }
            let (count, len) = chunk.read(|body| {
                let found = self.in_chunk(lines, index, chunk, body, chunk.dropped);
                (found.count(), body.text.len())
            });
            self.count_as(index, chunk, count);
            budget = budget.saturating_sub(len + count * MATCH_COST);
        }
        false
    }

    /// Brings what is counted to the chunks that there are.
    fn align(&mut self, lines: Shown<'_>) {
        while self.from < lines.gone() && self.counted.pop_front().is_some() {
            self.from += 1;
        }
        self.from = self.from.max(lines.gone());
        self.counted.resize(lines.chunks().len(), None);
    }

    /// How often a chunk matches, if it was counted as it is.
    fn known(&self, index: usize, chunk: &Chunk) -> Option<usize> {
        let counted = (*self.counted.get(index)?)?;
        let same = (counted.dropped, counted.len) == (chunk.dropped, chunk.len);
        same.then_some(counted.matches)
    }

    fn count_as(&mut self, index: usize, chunk: &Chunk, matches: usize) {
        if let Some(counted) = self.counted.get_mut(index) {
            *counted = Some(Counted {
                matches,
                dropped: chunk.dropped,
                len: chunk.len,
            });
        }
    }

    /// The matches of a line, as bytes of it.
    pub(super) fn in_line(&self, text: &str) -> impl Iterator<Item = (usize, usize)> {
        self.regex
            .find_iter(text)
            .map(|found| (found.start(), found.end()))
    }

    /// The matches in the shown lines of a chunk from one on, as bytes of its text. None goes over
    /// the end of a line, since no query has one.
    fn in_chunk(
        &self,
        lines: Shown<'_>,
        index: usize,
        chunk: &Chunk,
        body: &Body,
        line: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let from = body.start(line);
        let text = body.text.get(from..).unwrap_or_default();
        let all = chunk.only.is_some() && lines.shows(index);
        self.regex
            .find_iter(text)
            .map(move |found| (from + found.start(), from + found.end()))
            .filter(move |(start, _)| all || lines.has(body, body.line_of(*start)))
    }

    fn found(
        lines: Shown<'_>,
        index: usize,
        body: &Body,
        (start, end): (usize, usize),
    ) -> Option<Match> {
        let line = body.line_of(start);
        let from = body.start(line);
        Some(Match {
            line: lines.number(index, body, line)?,
            start: start - from,
            end: end - from,
        })
    }

    /// The first match at `from` or after it.
    pub(super) fn at_or_after(&mut self, lines: Shown<'_>, from: Place) -> Option<Match> {
        self.align(lines);
        let from = from.max(Place {
            line: lines.first(),
            byte: 0,
        });
        let (first, line) = lines.locate(from.line)?;
        for (index, chunk) in lines.chunks().iter().enumerate().skip(first) {
            if self.known(index, chunk) == Some(0) || !lines.shows(index) {
                continue;
            }
            let found = chunk.read(|body| {
                let (line, byte) = if index == first {
                    (line, body.start(line) + from.byte)
                } else {
                    (chunk.dropped, 0)
                };
                let mut found = self.in_chunk(lines, index, chunk, body, line);
                let found = found.find(|(start, _)| *start >= byte)?;
                Self::found(lines, index, body, found)
            });
            match found {
                Some(found) => return Some(found),
                None if index > first => self.count_as(index, chunk, 0),
                None => {}
            }
        }
        None
    }

    /// The last match that starts before `to`.
    pub(super) fn before(&mut self, lines: Shown<'_>, to: Place) -> Option<Match> {
        self.align(lines);
        let (last, limit) = match lines.locate(to.line) {
            Some((chunk, line)) => (chunk, Some((line, to.byte))),
            None if to.line >= lines.next() => (lines.chunks().len().checked_sub(1)?, None),
            None => return None,
        };
        for index in (0..=last).rev() {
            let chunk = lines.chunks().get(index)?;
            if self.known(index, chunk) == Some(0) || !lines.shows(index) {
                continue;
            }
            let limit = limit.filter(|_| index == last);
            let found = chunk.read(|body| {
                let end = limit.map_or(usize::MAX, |(line, byte)| body.start(line) + byte);
                let found = self.in_chunk(lines, index, chunk, body, chunk.dropped);
                let found = found.take_while(|(start, _)| *start < end).last()?;
                Self::found(lines, index, body, found)
            });
            if found.is_some() {
                return found;
            }
            if limit.is_none() {
                self.count_as(index, chunk, 0);
            }
        }
        None
    }

    /// The number of the current match, from 1, or 0 where there is none, and how many matches there
    /// are; both of what is counted by now.
    pub(super) fn counts(&self, lines: Shown<'_>) -> (usize, usize) {
        let chunks = lines.chunks();
        let count = |(index, chunk)| self.known(index, chunk).unwrap_or(0);
        let total = chunks.iter().enumerate().map(count).sum();
        let number = self.current.and_then(|current| {
            let (index, line) = lines.locate(current.line)?;
            let chunk = chunks.get(index)?;
            let within = chunk.read(|body| {
                let place = body.start(line) + current.start;
                let found = self.in_chunk(lines, index, chunk, body, chunk.dropped);
                found.take_while(|(start, _)| *start <= place).count()
            });
            let before: usize = chunks.iter().enumerate().take(index).map(count).sum();
            Some(before + within)
        });
        // Where the current match is not among those counted by now.
        let number = number.unwrap_or(0);
        (number, usize::max(number, total))
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Lines;
    use super::super::lines::tests::push;
    use super::*;

    fn log(texts: &[&str]) -> Lines {
        let mut lines = Lines::new(1_000_000);
        for text in texts {
            push(&mut lines, text, None, 0);
        }
        lines
    }

    fn all(query: &str, lines: &Lines) -> Vec<(u64, usize, usize)> {
        found(query, lines.all())
    }

    fn found(query: &str, lines: Shown<'_>) -> Vec<(u64, usize, usize)> {
        let Some(mut search) = Search::new(query, None) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        let mut from = Place::default();
        while let Some(found) = search.at_or_after(lines, from) {
            out.push((found.line, found.start, found.end));
            from = Place {
                line: found.line,
                byte: found.end,
            };
        }
        let mut back = Vec::new();
        let mut to = Place {
            line: u64::MAX,
            byte: 0,
        };
        while let Some(found) = search.before(lines, to) {
            back.push((found.line, found.start, found.end));
            to = found.place();
        }
        back.reverse();
        assert_eq!(out, back);
        while search.go_on(lines) {}
        assert_eq!(search.counts(lines), (0, out.len()));
        out
    }

    #[test]
    fn a_query_is_text_and_its_capitals_count() {
        let check = |query: &str, text: &str, expect: &[(usize, usize)]| {
            let found: Vec<_> = all(query, &log(&[text]))
                .iter()
                .map(|m| (m.1, m.2))
                .collect();
            assert_eq!(found, expect, "{query:?} in {text:?}");
        };
        check("error", "Error: ERROR error", &[(0, 5), (7, 12), (13, 18)]);
        check("Error", "Error: ERROR error", &[(0, 5)]);
        check("a.c", "abc a.c", &[(4, 7)]);
        check("[1/2]", "step [1/2]", &[(5, 10)]);
        check("aa", "aaaaa", &[(0, 2), (2, 4)]);
        check("straße", "STRASSE Straße", &[(8, 15)]);
        check("ÜBER", "über ÜBER", &[(6, 11)]);
        check("über", "über ÜBER", &[(0, 5), (6, 11)]);
        check("漢", "a漢b", &[(1, 4)]);
        check("", "a", &[]);
        check("\n", "a", &[]);
        check("x", "", &[]);
    }

    #[test]
    fn no_match_goes_over_the_end_of_a_line() {
        assert_eq!(
            all("ab", &log(&["a", "b", "ab", "xab"])),
            [(2, 0, 2), (3, 1, 3)]
        );
        assert_eq!(all("a\nb", &log(&["a", "b", "ab"])), [(2, 0, 2)]);
    }

    #[test]
    fn every_match_of_many_chunks_is_found_from_both_ends() {
        let mut lines = Lines::new(30_000);
        let sources = [lines.source("a"), lines.source("b")];
        let source = |number: usize| sources[usize::from(number.is_multiple_of(3))];
        for number in 0..40_000 {
            let text = format!("line number {number}");
            push(&mut lines, &text, None, source(number));
        }
        assert!(lines.all().chunks().len() > 7);
        let expect: Vec<u64> = (12_340..12_350).collect();
        let numbers = |found: Vec<(u64, usize, usize)>| -> Vec<u64> {
            found.iter().map(|found| found.0).collect()
        };
        assert_eq!(numbers(all("number 1234", &lines)), expect);
        assert_eq!(all("number 9999", &lines), []);
        // In the lines of one source, by their own numbers.
        let shown = Shown::new(&lines, Some(sources[1]));
        let expect: Vec<u64> = (12_340..12_350)
            .filter(|n: &u64| n.is_multiple_of(3))
            .map(|n| n / 3)
            .collect();
        assert_eq!(numbers(found("number 1234", shown)), expect);
    }

    #[test]
    fn a_longer_query_looks_only_where_the_shorter_one_was() {
        let mut lines = Lines::new(100_000);
        for number in 0..50_000 {
            push(&mut lines, &format!("line number {number}"), None, 0);
        }
        let lines = lines.all();
        let mut search = Search::new("number 1234", None).unwrap();
        while search.go_on(lines) {}
        let counted = |search: &Search| search.counted.iter().flatten().count();
        let chunks = lines.chunks().len();
        assert_eq!(counted(&search), chunks);
        let mut search = Search::new("number 12345", Some(search)).unwrap();
        assert_eq!(counted(&search), chunks - 2);
        while search.go_on(lines) {}
        assert_eq!(search.counts(lines), (0, 1));
        let mut search = Search::new("umber 1234", Some(search)).unwrap();
        assert_eq!(counted(&search), 0);
        while search.go_on(lines) {}
        assert_eq!(search.counts(lines), (0, 11));
    }

    #[test]
    fn a_long_query_is_searched_for_its_start() {
        let lines = log(&[&"é".repeat(2_000)]);
        assert_eq!(all(&"é".repeat(900), &lines).len(), 4);
    }
}
