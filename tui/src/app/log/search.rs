//! Search over the whole log: what a reader types is text, not a pattern, and capitals count only
//! when there are some in it.

use regex::{Regex, RegexBuilder};

use super::lines::{Chunk, Lines, Place};

/// Characters of a query that count.
const LONGEST: usize = 500;

/// Bytes of text that one frame may search while a new search goes over a big log.
const PER_FRAME: usize = 4 << 20;
/// What finding a match costs, in bytes searched.
const MATCH_COST: usize = 32;

/// A running search. How often each chunk of lines matches is kept with the chunk, so that counts,
/// the number of the current match, and the way to the next one never go over the whole log again.
#[derive(Debug)]
pub(super) struct Search {
    regex: Regex,
    pub(super) current: Option<Match>,
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
    /// A search for `query`; none when nothing is asked for. What earlier searches counted is
    /// forgotten.
    pub(super) fn new(query: &str, lines: &mut Lines) -> Option<Self> {
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
        for chunk in lines.chunks_mut() {
            chunk.matches = None;
        }
        Some(Self {
            regex,
            current: None,
        })
    }

    /// Counts what is not counted yet, as much as a frame has time for. Whether something is left.
    pub(super) fn go_on(&self, lines: &mut Lines) -> bool {
        let mut budget = PER_FRAME;
        for chunk in lines.chunks_mut().filter(|chunk| chunk.matches.is_none()) {
            if budget == 0 {
                return true;
            }
            let count = self.count(chunk);
            budget = budget.saturating_sub(chunk.text().len() + count * MATCH_COST);
        }
        false
    }

    fn count(&self, chunk: &mut Chunk) -> usize {
        let count = self.in_chunk(chunk, chunk.kept_from()).count();
        chunk.matches = Some(count);
        count
    }

    /// How often a line matches.
    pub(super) fn count_in(&self, text: &str) -> usize {
        self.regex.find_iter(text).count()
    }

    /// The matches of a line, as bytes of it.
    pub(super) fn in_line(&self, text: &str) -> impl Iterator<Item = (usize, usize)> {
        self.regex
            .find_iter(text)
            .map(|found| (found.start(), found.end()))
    }

    /// The matches of a chunk from the start of a line on, as bytes of its text. None goes over the
    /// end of a line, since no query has one.
    fn in_chunk(&self, chunk: &Chunk, from: usize) -> impl Iterator<Item = (usize, usize)> {
        let text = chunk.text().get(from..).unwrap_or_default();
        self.regex
            .find_iter(text)
            .map(move |found| (from + found.start(), from + found.end()))
    }

    fn found(chunk: &Chunk, (start, end): (usize, usize)) -> Match {
        let place = chunk.place(start);
        Match {
            line: place.line,
            start: place.byte,
            end: place.byte + (end - start),
        }
    }

    /// The first match at `from` or after it.
    pub(super) fn at_or_after(&self, lines: &mut Lines, from: Place) -> Option<Match> {
        let from = from.max(Place {
            line: lines.first(),
            byte: 0,
        });
        let first = lines.chunk_of(from.line)?;
        for (index, chunk) in lines.chunks_mut().enumerate().skip(first) {
            if chunk.matches == Some(0) {
                continue;
            }
            let found = if index == first {
                let line = chunk.start_of(from.line);
                self.in_chunk(chunk, line)
                    .find(|(start, _)| *start >= line + from.byte)
            } else {
                self.in_chunk(chunk, chunk.kept_from()).next()
            };
            match found {
                Some(found) => return Some(Self::found(chunk, found)),
                None if index > first => chunk.matches = Some(0),
                None => {}
            }
        }
        None
    }

    /// The last match that starts before `to`.
    pub(super) fn before(&self, lines: &mut Lines, to: Place) -> Option<Match> {
        let last = match lines.chunk_of(to.line) {
            Some(chunk) => chunk,
            None if to.line >= lines.next() => lines.chunks().len().checked_sub(1)?,
            None => return None,
        };
        for index in (0..=last).rev() {
            let chunk = lines.chunk_mut(index)?;
            if chunk.matches == Some(0) {
                continue;
            }
            let found = self
                .in_chunk(chunk, chunk.kept_from())
                .map(|found| Self::found(chunk, found))
                .take_while(|found| found.place() < to)
                .last();
            if found.is_some() {
                return found;
            }
            if index < last {
                chunk.matches = Some(0);
            }
        }
        None
    }

    /// The number of the current match, from 1, or 0 where there is none, and how many matches there
    /// are; both of what is counted by now.
    pub(super) fn counts(&self, lines: &Lines) -> (usize, usize) {
        let count = |chunk: &Chunk| chunk.matches.unwrap_or(0);
        let total = lines.chunks().iter().map(count).sum();
        let number = self.current.and_then(|current| {
            let index = lines.chunk_of(current.line)?;
            let chunk = lines.chunks().get(index)?;
            let place = chunk.start_of(current.line) + current.start;
            let within = self
                .in_chunk(chunk, chunk.kept_from())
                .take_while(|(start, _)| *start <= place)
                .count();
            let before: usize = lines.chunks().iter().take(index).map(count).sum();
            Some(before + within)
        });
        // Where the current match is not among those counted by now.
        let number = number.unwrap_or(0);
        (number, usize::max(number, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(texts: &[&str]) -> Lines {
        let mut lines = Lines::new(1_000_000);
        for text in texts {
            lines.push(text, &[], None, 0, false, 0);
        }
        lines
    }

    fn all(query: &str, lines: &mut Lines) -> Vec<(u64, usize, usize)> {
        let Some(search) = Search::new(query, lines) else {
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
            let found: Vec<_> = all(query, &mut log(&[text]))
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
            all("ab", &mut log(&["a", "b", "ab", "xab"])),
            [(2, 0, 2), (3, 1, 3)]
        );
        assert_eq!(all("a\nb", &mut log(&["a", "b", "ab"])), [(2, 0, 2)]);
    }

    #[test]
    fn every_match_of_many_chunks_is_found_from_both_ends() {
        let texts: Vec<_> = (0..40_000)
            .map(|number| format!("line number {number}"))
            .collect();
        let mut lines = log(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(lines.chunks().len() > 8);
        let found = all("number 1234", &mut lines);
        let numbers: Vec<_> = found.iter().map(|m| m.0).collect();
        let expect: Vec<u64> = std::iter::once(1234).chain(12_340..12_350).collect();
        assert_eq!(numbers, expect);
        for _ in 0..12_345 {
            lines.drop_first(0);
        }
        assert_eq!(all("number 1234", &mut lines).len(), 5);
    }

    #[test]
    fn a_long_query_is_searched_for_its_start() {
        let mut lines = log(&[&"é".repeat(2_000)]);
        assert_eq!(all(&"é".repeat(900), &mut lines).len(), 4);
    }
}
