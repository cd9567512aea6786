//! The output of a step on its way to the log: secrets masked, cut at line ends, the last lines
//! kept for the report of a failure. Memory is bounded whatever the step prints.

use std::collections::{BTreeMap, VecDeque};

use chalk_core::wire::{EventKind, Stream};

use crate::engine::Secret;

/// Stands in the log where a secret stood.
const MASK: &[u8] = b"***";
/// Shorter values would mask half of every log and hide nothing.
const SHORTEST_SECRET: usize = 3;
/// A line is cut when it is longer.
const LONGEST_LINE: usize = 16 * 1024;
/// Lines kept for the report of a failure, and characters of each.
const TAIL_LINES: usize = 40;
const TAIL_WIDTH: usize = 2000;

/// Takes the output of one step and gives `Log` events.
pub(in crate::engine) struct StepLog<'a> {
    step: usize,
    emit: &'a (dyn Fn(EventKind) + Send + Sync),
    secrets: Vec<Vec<u8>>,
    stdout: Held,
    stderr: Held,
    tail: VecDeque<String>,
}

/// What of a stream was not emitted yet.
#[derive(Default)]
struct Held {
    /// May be the beginning of a secret.
    unmasked: Vec<u8>,
    /// Masked, but its line has not ended.
    line: Vec<u8>,
}

impl<'a> StepLog<'a> {
    /// A log for a step in which no value of `secrets` shows. The lines of a secret are masked
    /// one by one too, since tools print them so.
    pub(in crate::engine) fn new(
        step: usize,
        secrets: &BTreeMap<String, Secret>,
        emit: &'a (dyn Fn(EventKind) + Send + Sync),
    ) -> Self {
        let mut masked: Vec<Vec<u8>> = Vec::new();
        for secret in secrets.values() {
            let value = secret.expose();
            masked.push(value.trim_ascii().to_vec());
            masked.extend(
                value
                    .split(|b| *b == b'\n')
                    .map(|l| l.trim_ascii().to_vec()),
            );
        }
        masked.retain(|value| value.len() >= SHORTEST_SECRET);
        masked.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        masked.dedup();
        Self {
            step,
            emit,
            secrets: masked,
            stdout: Held::default(),
            stderr: Held::default(),
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
        if self.secrets.is_empty() {
            held.line.extend_from_slice(bytes);
        } else {
            held.unmasked.extend_from_slice(bytes);
            let done = mask(&held.unmasked, &self.secrets, last, &mut held.line);
            held.unmasked.drain(..done);
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

/// Writes `bytes` to `out` with secrets (longest first) masked, and gives how many bytes are
/// done. What may yet become a secret is left, unless these are the `last` bytes.
fn mask(bytes: &[u8], secrets: &[Vec<u8>], last: bool, out: &mut Vec<u8>) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let whole = secrets.iter().find(|secret| rest.starts_with(secret));
        let longest = whole.map_or(0, Vec::len);
        let may_grow = |secret: &Vec<u8>| secret.len() > longest && secret.starts_with(rest);
        if !last && secrets.iter().any(may_grow) {
            return at;
        }
        if whole.is_some() {
            out.extend_from_slice(MASK);
            at += longest;
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

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
        let mut log = StepLog::new(0, &secrets, &emit);
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
    fn masks_secrets_however_they_are_split() {
        let check = |secrets: &[&str], text: &str, expect: &str| {
            for cut in 0..=text.len() {
                for second in cut..=text.len() {
                    let b = text.as_bytes();
                    let got = run(secrets, &[&b[..cut], &b[cut..second], &b[second..]]).0;
                    assert_eq!(got.concat(), expect, "cut at {cut} and {second}");
                }
            }
        };
        check(&["hunter2"], "pw=hunter2;\n", "pw=***;\n");
        check(&["hunter2"], "hunter hunter", "hunter hunter");
        check(&["abc", "abcdef"], "abcde abcdef", "***de ***");
        check(&["aab"], "aaab", "a***");
        check(&["one\ntwo three\n"], "x two three y", "x *** y");
        check(&["ab"], "ab", "ab");
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
