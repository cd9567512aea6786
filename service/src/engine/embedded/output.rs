//! The output of a step on its way to the log: secrets masked, cut at line ends, the last lines
//! kept for the report of a failure. Memory is bounded whatever the step prints.

use std::collections::VecDeque;

use chalk_core::wire::{EventKind, Stream};

use crate::secrets::redact::{Redaction, Redactor};

/// A line is cut when it is longer.
const LONGEST_LINE: usize = 16 * 1024;
/// Lines kept for the report of a failure, and characters of each.
const TAIL_LINES: usize = 40;
const TAIL_WIDTH: usize = 2000;

/// Takes the output of one step and gives `Log` events.
pub(in crate::engine) struct StepLog<'a> {
    step: usize,
    emit: &'a (dyn Fn(EventKind) + Send + Sync),
    stdout: Held,
    stderr: Held,
    tail: VecDeque<String>,
}

/// What of a stream was not emitted yet.
struct Held {
    /// Holds what may be the beginning of a secret.
    redactor: Redactor,
    /// Masked, but its line has not ended.
    line: Vec<u8>,
}

impl<'a> StepLog<'a> {
    /// A log for a step in which nothing of `redaction` shows.
    pub(in crate::engine) fn new(
        step: usize,
        redaction: &Redaction,
        emit: &'a (dyn Fn(EventKind) + Send + Sync),
    ) -> Self {
        let held = || Held {
            redactor: redaction.stream(),
            line: Vec::new(),
        };
        Self {
            step,
            emit,
            stdout: held(),
            stderr: held(),
            tail: VecDeque::new(),
        }
    }

    /// Takes bytes as they came.
    pub(in crate::engine) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        self.take(stream, bytes, false);
    }

    /// Adds a line of the engine's own.
    pub(in crate::engine) fn note(&mut self, text: &str) {
        self.take(Stream::Stderr, text.as_bytes(), false);
        self.take(Stream::Stderr, b"\n", false);
    }

    /// Gives out what is held back, and the last lines of the output.
    pub(in crate::engine) fn finish(mut self) -> Vec<String> {
        self.take(Stream::Stdout, b"", true);
        self.take(Stream::Stderr, b"", true);
        self.tail.into()
    }

    fn take(&mut self, stream: Stream, bytes: &[u8], last: bool) {
        let held = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        held.redactor.push(bytes, &mut held.line);
        if last {
            held.redactor.finish(&mut held.line);
        }
        let whole = match held.line.iter().rposition(|b| *b == b'\n') {
            _ if last => held.line.len(),
            Some(end) => end + 1,
            None => 0,
        };
        // What is left over is one unfinished line; a very long one is not waited for.
        let cut = match held.line.len() - whole {
            rest if rest > LONGEST_LINE => char_start(&held.line),
            _ => whole,
        };
        if cut == 0 {
            return;
        }
        let text: Vec<u8> = held.line.drain(..cut).collect();
        let text = without_redrawn(&String::from_utf8_lossy(&text));
        for line in text.lines() {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(line.chars().take(TAIL_WIDTH).collect());
        }
        (self.emit)(EventKind::Log {
            step: self.step,
            stream,
            text,
        });
    }
}

/// Keeps of each line what a terminal would show in the end: a progress bar redraws its line.
fn without_redrawn(text: &str) -> String {
    if !text.contains('\r') {
        return text.to_owned();
    }
    let shown = text.split_inclusive('\n').map(|line| {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (line, ""),
        };
        let last = line.trim_end_matches('\r').rsplit('\r').next();
        format!("{}{end}", last.unwrap_or_default())
    });
    shown.collect()
}

/// Where the last, perhaps unfinished, character of `bytes` begins, so that it is not cut apart.
fn char_start(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::engine::Secret;

    /// Feeds `pieces` and gives the emitted texts and the tail.
    fn run(secrets: &[&str], pieces: &[&[u8]]) -> (Vec<String>, Vec<String>) {
        let texts = Mutex::new(Vec::new());
        let emit = |event: EventKind| {
            if let EventKind::Log { text, .. } = event {
                texts.lock().unwrap().push(text);
            }
        };
        let secrets = secrets
            .iter()
            .enumerate()
            .map(|(i, s)| (i.to_string(), Secret::new(*s)))
            .collect();
        let redaction = Redaction::new(&secrets).unwrap();
        let mut log = StepLog::new(0, &redaction, &emit);
        for piece in pieces {
            log.write(Stream::Stdout, piece);
        }
        let tail = log.finish();
        (texts.into_inner().unwrap(), tail)
    }

    #[test]
    fn cuts_at_line_ends() {
        let check = |pieces: &[&[u8]], expect: &[&str]| {
            assert_eq!(run(&[], pieces).0, expect);
        };
        check(&[b"a\nb\n"], &["a\nb\n"]);
        check(&[b"a", b"b\nc", b"d"], &["ab\n", "cd"]);
        check(&[b""], &[]);
        check(&[b"\xff\xfe\n"], &["\u{fffd}\u{fffd}\n"]);
        check(&[b"a\r\nb\n"], &["a\nb\n"]);
        check(&[b"10%\r50%", b"\r100%\nnext\r"], &["100%\n", "next"]);
        check(&["ü".as_bytes()[..1].into(), &"ü".as_bytes()[1..]], &["ü"]);
    }

    #[test]
    fn long_lines_are_bounded_and_keep_characters_whole() {
        let line = "é".repeat(20_000);
        let (texts, tail) = run(
            &[],
            &[&line.as_bytes()[..30_001], &line.as_bytes()[30_001..]],
        );
        assert_eq!(texts.concat(), line);
        assert!(texts.len() > 1 && !texts[0].contains('\u{fffd}'));
        assert!(tail.iter().all(|l| l.chars().count() <= TAIL_WIDTH));
    }

    #[test]
    fn secrets_are_masked_in_events_and_tail() {
        let (texts, tail) = run(&["hunter2"], &[b"a hun", b"ter2 b\nhunt", b"er", b"2"]);
        assert_eq!(texts, ["a *** b\n", "***"]);
        assert_eq!(tail, ["a *** b", "***"]);
    }

    #[test]
    fn keeps_the_last_lines() {
        let text: String = (0..100).map(|i| format!("line {i}\n")).collect();
        let tail = run(&[], &[text.as_bytes()]).1;
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail[TAIL_LINES - 1], "line 99");
        assert_eq!(run(&[], &[b"10%\r50%\r100%\r\n"]).1, ["100%"]);
    }
}
