//! The events of one build, kept in `builds/<id>/events.jsonl`: one JSON document per line, and
//! line n holds event n.
//!
//! One [`EventLog`] writes while the build lives; any number of [`Follower`]s read the file, each
//! at its own pace, and are woken when there is more. So a slow client costs one read buffer and
//! never holds the build up.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chalk_core::wire::{Build, Event, EventKind};
use chalk_store::failpoint::{Step, around};
use tokio::sync::watch;

/// Longest text of one log event, in bytes; longer output becomes several events.
const TEXT_LIMIT: usize = 64 * 1024;
/// What a follower reads at once, in bytes.
const READ_SIZE: usize = 256 * 1024;

/// Output that nobody follows is written to the file at most this long after it came, as long as
/// more comes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(250);

/// How far a log has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    events: u64,
    closed: bool,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct EventLog {
    writer: Mutex<Writer>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Writer {
    file: BufWriter<File>,
    events: u64,
    /// Bytes of output that may still be kept.
    room: u64,
    limit: u64,
    flushed: Instant,
    /// Why nothing more is kept: the disk failed.
    fault: Option<String>,
}

impl EventLog {
    /// Starts the log of a new build; `limit` bounds the output that is kept, in bytes.
    pub(crate) fn create(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self::over(file, 0, limit))
    }

    /// Goes on with the log of a build that was interrupted.
    pub(crate) fn resume(path: &Path, recovered: &Recovered) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_len(recovered.bytes)?;
        Ok(Self::over(file, recovered.events, 0))
    }

    fn over(file: File, events: u64, limit: u64) -> Self {
        let progress = Progress {
            events,
            closed: false,
        };
        Self {
            writer: Mutex::new(Writer {
                file: BufWriter::with_capacity(READ_SIZE, file),
                events,
                room: limit,
                limit,
                flushed: Instant::now(),
                fault: None,
            }),
            progress: watch::Sender::new(progress),
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // Counters and file stay in step even if a thread panicked between two events.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an event. Output beyond the limit is dropped, with one notice.
    pub(crate) fn append(&self, kind: EventKind) {
        let mut writer = self.writer();
        match kind {
            EventKind::Log { step, stream, text } => {
                for piece in pieces(&text) {
                    let bytes = piece.len() as u64;
                    if writer.room < bytes {
                        writer.cut();
                        break;
                    }
                    writer.room -= bytes;
                    let text = piece.to_owned();
                    writer.write(EventKind::Log { step, stream, text });
                }
                if writer.flushed.elapsed() >= FLUSH_INTERVAL {
                    writer.flush();
                }
            }
            other => {
                let lasting = !matches!(other, EventKind::Pulling { .. });
                writer.write(other);
                if lasting {
                    writer.flush();
                }
            }
        }
        let events = writer.events;
        drop(writer);
        self.progress.send_modify(|p| p.events = events);
    }

    /// Keeps the last event, brings everything to the disk, and then tells the followers. Blocks.
    pub(crate) fn close(&self, build: Build) {
        let mut writer = self.writer();
        writer.write(EventKind::Finished {
            build: Box::new(build),
        });
        writer.flush();
        let synced = around(Step::BuildEventsSync, || writer.file.get_ref().sync_data());
        if let Err(error) = synced {
            writer.fail(&error);
        }
        let events = writer.events;
        drop(writer);
        self.progress.send_modify(|p| {
            *p = Progress {
                events,
                closed: true,
            };
        });
    }

    /// Why the log could not be kept, if it could not.
    pub(crate) fn fault(&self) -> Option<String> {
        self.writer().fault.clone()
    }

    fn flush(&self) {
        self.writer().flush();
    }
}

impl Writer {
    fn write(&mut self, kind: EventKind) {
        if self.fault.is_some() {
            return;
        }
        let event = Event {
            seq: self.events + 1,
            time: jiff::Timestamp::now().to_string(),
            kind,
        };
        let written = serde_json::to_vec(&event)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                self.file.write_all(&line)
            });
        match written {
            Ok(()) => self.events += 1,
            Err(error) => self.fail(&error),
        }
    }

    fn flush(&mut self) {
        self.flushed = Instant::now();
        if self.fault.is_none()
            && let Err(error) = self.file.flush()
        {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "cannot keep the events of a build");
        self.fault = Some(format!("its events cannot be kept: {error}"));
    }

    /// Ends the output that is kept.
    fn cut(&mut self) {
        if self.limit == 0 {
            return;
        }
        let limit = self.limit;
        (self.room, self.limit) = (0, 0);
        self.write(EventKind::Warning {
            message: format!(
                "the output is longer than {}; the rest is not kept (setting `build.log_limit`)",
                bytesize::ByteSize(limit)
            ),
        });
        self.flush();
    }
}

/// Cuts a text at line ends, or at least at characters, into pieces of at most [`TEXT_LIMIT`].
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = rest.len().min(TEXT_LIMIT);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        if end < rest.len()
            && let Some(line) = rest[..end].rfind('\n')
        {
            end = line + 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// One kept event as it is sent on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Number of the event.
    pub(crate) seq: u64,
    /// Its JSON.
    pub(crate) json: String,
}

/// A reading end.
#[derive(Debug)]
pub(crate) struct Follower {
    file: Arc<File>,
    offset: u64,
    partial: Vec<u8>,
    next: u64,
    after: u64,
    live: Option<(Arc<EventLog>, watch::Receiver<Progress>)>,
}

impl Follower {
    /// Reads the events after number `after`, and waits for more while `live` is open.
    pub(crate) fn open(path: &Path, after: u64, live: Option<Arc<EventLog>>) -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(File::open(path)?),
            offset: 0,
            partial: Vec::new(),
            next: 1,
            after,
            live: live.map(|log| {
                let progress = log.progress.subscribe();
                (log, progress)
            }),
        })
    }

    /// The next events, in order; `None` after the last. Waits for new ones if `wait`. Dropping the
    /// future loses no event.
    pub(crate) async fn next(&mut self, wait: bool) -> io::Result<Option<Vec<Line>>> {
        loop {
            // What is known before reading: if it says closed, the file is whole.
            let before = match &mut self.live {
                Some((log, progress)) => {
                    let now = *progress.borrow_and_update();
                    log.flush();
                    Some(now)
                }
                None => None,
            };
            let (read, lines) = self.read().await?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            if read > 0 {
                continue;
            }
            let open = before.is_some_and(|p| !p.closed);
            match &mut self.live {
                Some((_, progress)) if open && wait => {
                    if progress.changed().await.is_err() {
                        return Ok(None);
                    }
                }
                _ => return Ok(None),
            }
        }
    }

    /// Reads one piece of the file: how many bytes there were, and the whole lines.
    async fn read(&mut self) -> io::Result<(usize, Vec<Line>)> {
        let (file, offset) = (self.file.clone(), self.offset);
        let piece = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; READ_SIZE];
            let read = file.read_at(&mut buffer, offset)?;
            buffer.truncate(read);
            Ok::<_, io::Error>(buffer)
        })
        .await
        .map_err(io::Error::other)??;
        self.offset += piece.len() as u64;
        let mut lines = Vec::new();
        let mut rest = piece.as_slice();
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            self.partial.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.partial);
            let seq = self.next;
            self.next += 1;
            if seq > self.after {
                let json = String::from_utf8(line).map_err(io::Error::other)?;
                lines.push(Line { seq, json });
            }
        }
        self.partial.extend_from_slice(rest);
        Ok((piece.len(), lines))
    }
}

/// What the log of an earlier service holds.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Number of sound events.
    pub(crate) events: u64,
    /// Their bytes; what stands behind them is torn.
    pub(crate) bytes: u64,
    /// The events without their output, in order.
    pub(crate) kinds: Vec<EventKind>,
    /// When the last of them was, empty when there is none.
    pub(crate) last: String,
}

/// Reads a log as far as it is sound: a crash may have torn its end.
pub(crate) fn recover(path: &Path) -> io::Result<Recovered> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut recovered = Recovered::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Ok(recovered);
        }
        match serde_json::from_slice::<Event>(&line) {
            Ok(event) if event.seq == recovered.events + 1 => {
                recovered.events += 1;
                recovered.bytes += read as u64;
                recovered.last = event.time;
                if !matches!(
                    event.kind,
                    EventKind::Log { .. } | EventKind::Pulling { .. }
                ) {
                    recovered.kinds.push(event.kind);
                }
            }
            _ => return Ok(recovered),
        }
    }
}

#[cfg(test)]
mod tests {
    use chalk_core::wire::Stream;

    use super::*;
    use crate::builds::record::tests::build;

    fn log_of(text: &str) -> EventKind {
        EventKind::Log {
            step: 0,
            stream: Stream::Stdout,
            text: text.into(),
        }
    }

    async fn all(follower: &mut Follower, wait: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(more) = follower.next(wait).await.unwrap() {
            lines.extend(more);
        }
        lines
    }

    #[tokio::test]
    async fn followers_see_every_event_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = Arc::new(EventLog::create(&path, 1 << 30).unwrap());
        let mut early = Follower::open(&path, 0, Some(log.clone())).unwrap();
        let reader = tokio::spawn(async move { all(&mut early, true).await });
        let writer = log.clone();
        tokio::task::spawn_blocking(move || {
            for i in 0..5000 {
                writer.append(log_of(&format!("line {i} {}\n", "x".repeat(i % 500))));
            }
            writer.close(build("a"));
        })
        .await
        .unwrap();
        let lines = reader.await.unwrap();
        assert_eq!(lines.len(), 5001);
        for (line, seq) in lines.iter().zip(1..) {
            let event: Event = serde_json::from_str(&line.json).unwrap();
            assert_eq!((line.seq, event.seq), (seq, seq));
        }
        let mut late = Follower::open(&path, 4990, None).unwrap();
        assert_eq!(all(&mut late, true).await, lines[4990..]);
        let mut past = Follower::open(&path, 9999, Some(log)).unwrap();
        assert_eq!(all(&mut past, true).await, []);
    }

    #[tokio::test]
    async fn output_over_the_limit_is_dropped_with_one_notice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::create(&path, 100).unwrap();
        for _ in 0..5 {
            log.append(log_of(&"x".repeat(60)));
        }
        log.append(EventKind::StepStarted { step: 1 });
        log.append(log_of("short"));
        log.close(build("a"));
        let kinds: Vec<String> = all(&mut Follower::open(&path, 0, None).unwrap(), false)
            .await
            .iter()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(&line.json).unwrap();
                value["type"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(kinds, ["log", "warning", "step_started", "finished"]);
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let check = |tail: &[u8]| {
            let path = dir.path().join("events.jsonl");
            let _ = std::fs::remove_file(&path);
            let log = EventLog::create(&path, 100).unwrap();
            log.append(EventKind::StepStarted { step: 0 });
            log.append(log_of("a\n"));
            log.append(EventKind::StepStarted { step: 1 });
            drop(log);
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(tail).unwrap();
            let recovered = recover(&path).unwrap();
            assert_eq!((recovered.events, recovered.kinds.len()), (3, 2));
            let log = EventLog::resume(&path, &recovered).unwrap();
            log.close(build("a"));
            let again = recover(&path).unwrap();
            assert_eq!(again.events, 4);
            assert_eq!(again.bytes, std::fs::metadata(&path).unwrap().len());
        };
        check(b"");
        check(b"{\"seq\":4,\"time\"");
        check(b"\0\0\0\0\0\0");
        check(b"{\"seq\":9,\"time\":\"\",\"type\":\"step_started\",\"step\":1}\n");
        check(b"garbage\n");
    }

    #[test]
    fn long_texts_are_cut_at_lines_or_characters() {
        let check = |text: &str, expect: &[usize]| {
            let lengths: Vec<usize> = pieces(text).map(str::len).collect();
            assert_eq!(lengths, expect);
            assert_eq!(pieces(text).collect::<String>(), text);
        };
        check("", &[]);
        check("a\nb", &[3]);
        let line = format!("{}\n", "x".repeat(TEXT_LIMIT - 10));
        check(&line.repeat(2), &[TEXT_LIMIT - 9, TEXT_LIMIT - 9]);
        check(&"\u{e4}".repeat(TEXT_LIMIT), &[TEXT_LIMIT, TEXT_LIMIT]);
        check(
            &format!("a{}", "\u{e4}".repeat(TEXT_LIMIT / 2)),
            &[TEXT_LIMIT - 1, 2],
        );
    }
}
