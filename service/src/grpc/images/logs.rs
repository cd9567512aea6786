//! The output of a build, a page at a time.

use std::collections::BTreeMap;

use chalk_core::wire::{Event, EventKind, Stream};
use jiff::Timestamp;
use tonic::Status;

use super::super::proto::chalk::common::v1::LogEntry;
use super::super::times;
use crate::builds::Events;

/// Lines of a page unless the client says how many.
const PAGE: usize = 1000;
/// Most lines of a page.
const PAGE_LIMIT: usize = 10_000;
/// Most bytes of the lines of a page, well below what clients take in one message.
const BYTES: usize = 8 << 20;

/// What is wanted of the output.
pub(super) struct Wanted {
    /// From this time on.
    pub(super) from: Option<Timestamp>,
    /// Before this time.
    pub(super) until: Option<Timestamp>,
    /// Lines at most.
    pub(super) limit: usize,
    /// Where the page begins.
    pub(super) start: Place,
}

/// A line of the output: the number of its event, and its place among the event's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) seq: u64,
    line: usize,
}

impl Place {
    fn token(self) -> String {
        format!("{}.{}", self.seq, self.line)
    }

    fn parse(token: &str) -> Option<Self> {
        let (seq, line) = token.split_once('.')?;
        Some(Self {
            seq: seq.parse().ok()?,
            line: line.parse().ok()?,
        })
    }
}

impl Wanted {
    /// # Errors
    /// When limit or page token are wrong.
    pub(super) fn new(
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        limit: i32,
        token: Option<&str>,
    ) -> Result<Self, Status> {
        let limit = match usize::try_from(limit) {
            Ok(0) => PAGE,
            Ok(limit) => limit.min(PAGE_LIMIT),
            Err(_) => return Err(Status::invalid_argument("limit: expected 0 or more")),
        };
        let start = match token.filter(|token| !token.is_empty()) {
            None => Place::default(),
            Some(token) => Place::parse(token).ok_or_else(|| {
                Status::invalid_argument("page_token: expected one that a page before gave")
            })?,
        };
        Ok(Self {
            from,
            until,
            limit,
            start,
        })
    }
}

/// A page, and where the next one begins, if there is more.
///
/// # Errors
/// When the events cannot be read.
pub(super) async fn page(
    mut events: Events,
    wanted: &Wanted,
) -> std::io::Result<(Vec<LogEntry>, Option<String>)> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    while let Some(lines) = events.next(false).await? {
        for line in lines {
            let Ok(event) = serde_json::from_str::<Event>(&line.json) else {
                continue;
            };
            let EventKind::Log { step, stream, text } = event.kind else {
                continue;
            };
            let time: Option<Timestamp> = event.time.parse().ok();
            let outside = |time: Timestamp| {
                wanted.from.is_some_and(|from| time < from)
                    || wanted.until.is_some_and(|until| time >= until)
            };
            if time.is_some_and(outside) {
                continue;
            }
            for (number, text) in text.lines().enumerate() {
                let place = Place {
                    seq: event.seq,
                    line: number,
                };
                if place.seq == wanted.start.seq && number < wanted.start.line {
                    continue;
                }
                if entries.len() == wanted.limit || bytes > BYTES {
                    return Ok((entries, Some(place.token())));
                }
                bytes += text.len();
                entries.push(entry(place, time, step, stream, text));
            }
        }
    }
    Ok((entries, None))
}

fn entry(
    place: Place,
    time: Option<Timestamp>,
    step: usize,
    stream: Stream,
    text: &str,
) -> LogEntry {
    // Programs write progress to standard error, so that it says nothing of how bad a line is.
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    LogEntry {
        id: place.token(),
        severity: Some("INFO".to_owned()),
        timestamp: time.map(times::proto),
        message: text.to_owned(),
        labels: BTreeMap::from([
            ("step".to_owned(), (step + 1).to_string()),
            ("stream".to_owned(), stream.to_owned()),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tokens() {
        let place = Place { seq: 17, line: 3 };
        assert_eq!(Place::parse(&place.token()), Some(place));
        for token in ["", "1", ".", "1.x", "-1.0"] {
            assert_eq!(Place::parse(token), None, "{token}");
        }
        assert!(Wanted::new(None, None, -1, None).is_err());
        assert!(Wanted::new(None, None, 0, Some("x")).is_err());
        let wanted = Wanted::new(None, None, i32::MAX, Some("")).ok().unwrap();
        assert_eq!((wanted.limit, wanted.start), (PAGE_LIMIT, Place::default()));
    }
}
