//! Byte ranges that clients name: which bytes of a blob they ask for (RFC 9110, section 14), and
//! which bytes of an upload they send (spec.md, "Pushing a blob in chunks").

use std::num::IntErrorKind;

/// What a `Range` header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// All: also what a server may ignore, such as several ranges (RFC 9110, section 14.2).
    Whole,
    /// Part of it, which there is.
    Part {
        /// First byte.
        first: u64,
        /// Last byte, included.
        last: u64,
    },
    /// Nothing that the blob has.
    Outside,
}

impl Range {
    /// Reads a `Range` header about something of `size` bytes.
    pub(crate) fn parse(text: &str, size: u64) -> Self {
        let Some((unit, range)) = text.trim().split_once('=') else {
            return Self::Whole;
        };
        if !unit.trim_end().eq_ignore_ascii_case("bytes") || range.contains(',') {
            return Self::Whole;
        }
        let Some((first, last)) = range.split_once('-') else {
            return Self::Whole;
        };
        let end = size.saturating_sub(1);
        match (first.trim(), last.trim()) {
            ("", count) => match number(count) {
                None => Self::Whole,
                Some(0) => Self::Outside,
                Some(_) if size == 0 => Self::Outside,
                Some(count) => Self::Part {
                    first: size.saturating_sub(count),
                    last: end,
                },
            },
            (first, last) => {
                let Some(first) = number(first) else {
                    return Self::Whole;
                };
                let last = match last {
                    "" => u64::MAX,
                    last => match number(last) {
                        Some(last) => last,
                        None => return Self::Whole,
                    },
                };
                if first > last || first >= size {
                    return Self::Outside;
                }
                Self::Part {
                    first,
                    last: last.min(end),
                }
            }
        }
    }
}

/// Bytes of an upload that a request says it holds: where they start, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) length: u64,
}

impl Chunk {
    /// Reads the `Content-Range` of a chunk, which here is `first-last`; the form of RFC 9110,
    /// `bytes first-last/size`, is understood, too. `None` when it is neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let bare = match text.split_once(' ') {
            Some((unit, range)) if unit.eq_ignore_ascii_case("bytes") => {
                let (range, size) = range.trim_start().split_once('/')?;
                if size != "*" {
                    number(size)?;
                }
                range
            }
            Some(_) => return None,
            None => text,
        };
        let (first, last) = bare.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        Some(Self {
            start: first,
            length: last.checked_sub(first)?.checked_add(1)?,
        })
    }
}

/// A number of digits alone; one that no file reaches counts as the largest.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match digits.parse() {
        Ok(number) => Some(number),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Some(u64::MAX),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        let check = |text: &str, size: u64, expect: Range| {
            assert_eq!(Range::parse(text, size), expect, "{text} of {size}");
        };
        let part = |first, last| Range::Part { first, last };
        check("bytes=0-9", 10, part(0, 9));
        check("bytes=0-99", 10, part(0, 9));
        check("bytes=5-", 10, part(5, 9));
        check("bytes=-3", 10, part(7, 9));
        check("bytes=-30", 10, part(0, 9));
        check("bytes=9-9", 10, part(9, 9));
        check("Bytes= 1 - 2 ", 10, part(1, 2));
        check("bytes=0-99999999999999999999999", 10, part(0, 9));
        check("bytes=-99999999999999999999999", 10, part(0, 9));
        check("bytes=99999999999999999999999-", 10, Range::Outside);
        check("bytes=10-", 10, Range::Outside);
        check("bytes=10-20", 10, Range::Outside);
        check("bytes=0-0", 0, Range::Outside);
        check("bytes=0-", 0, Range::Outside);
        check("bytes=-1", 0, Range::Outside);
        check("bytes=-0", 10, Range::Outside);
        check("bytes=5-4", 10, Range::Outside);
        check("bytes=0-1,3-4", 10, Range::Whole);
        check("bytes=a-b", 10, Range::Whole);
        check("bytes=1-b", 10, Range::Whole);
        check("bytes=+1-2", 10, Range::Whole);
        check("bytes=-", 10, Range::Whole);
        check("items=0-1", 10, Range::Whole);
        check("", 10, Range::Whole);
    }

    #[test]
    fn chunks() {
        let check = |text: &str, expect: Option<(u64, u64)>| {
            let expect = expect.map(|(start, length)| Chunk { start, length });
            assert_eq!(Chunk::parse(text), expect, "{text}");
        };
        check("0-9", Some((0, 10)));
        check("10-19", Some((10, 10)));
        check("7-7", Some((7, 1)));
        check("bytes 10-19/30", Some((10, 10)));
        check("bytes 10-19/*", Some((10, 10)));
        check("bytes 10-19", None);
        check("bytes=10-19", None);
        check("items 10-19/30", None);
        check("10-9", None);
        check("10-8", None);
        check("a-b", None);
        check("+1-2", None);
        check("10", None);
        check("-5", None);
        check("5-", None);
        check("", None);
        check("0-18446744073709551615", None);
        check("0-18446744073709551614", Some((0, u64::MAX)));
    }

    proptest! {
        /// What a range means, said by the numbers themselves.
        #[test]
        fn ranges_are_within_the_blob(first in 0..20_u64, last in 0..20_u64, size in 0..20_u64) {
            let bytes: Vec<u64> = (0..size).collect();
            let of = |range: Range| match range {
                Range::Whole => bytes.clone(),
                Range::Part { first, last } => bytes[first as usize..=last as usize].to_vec(),
                Range::Outside => Vec::new(),
            };
            let wanted = |test: &dyn Fn(u64) -> bool| -> Vec<u64> {
                bytes.iter().copied().filter(|&at| test(at)).collect()
            };
            let got = of(Range::parse(&format!("bytes={first}-{last}"), size));
            prop_assert_eq!(got, wanted(&|at| first <= at && at <= last));
            let got = of(Range::parse(&format!("bytes={first}-"), size));
            prop_assert_eq!(got, wanted(&|at| first <= at));
            let got = of(Range::parse(&format!("bytes=-{last}"), size));
            prop_assert_eq!(got, wanted(&|at| at + last >= size));
        }

        #[test]
        fn nothing_panics(text in "(bytes[ =])?[-0-9 ,/*+a]{0,24}", size in any::<u64>()) {
            if let Range::Part { first, last } = Range::parse(&text, size) {
                prop_assert!(first <= last && last < size);
            }
            if let Some(chunk) = Chunk::parse(&text) {
                prop_assert!(chunk.length > 0);
                prop_assert!(chunk.start.checked_add(chunk.length - 1).is_some());
            }
        }

        #[test]
        fn chunks_read_as_written(start in 0..u64::MAX / 2, length in 1..u64::MAX / 2) {
            let last = start + length - 1;
            let chunk = Some(Chunk { start, length });
            prop_assert_eq!(Chunk::parse(&format!("{start}-{last}")), chunk);
            prop_assert_eq!(Chunk::parse(&format!("bytes {start}-{last}/*")), chunk);
        }
    }
}
