//! Output of one process, kept on disk up to a limit: the oldest goes first.
//!
//! A log is a directory of segments. A segment is named by the number of its first event and holds
//! [`records`]. Readers find what they have not seen yet by number; where it was dropped meanwhile,
//! they are told how much. Nothing is dropped as long as somebody follows and reads ([`followers`]).

mod followers;
mod records;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::wire::{OutputEvent, OutputEventKind, Stream};
use tokio::sync::watch;

use followers::Followers;
use records::{Record, Records};

/// Into how many segments the kept output is divided: as much goes at a time.
const SEGMENTS: u64 = 8;

/// Least bytes of a segment.
const MIN_SEGMENT: u64 = 64 << 10;

/// The output of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    segment_limit: u64,
    state: Mutex<State>,
    /// Number of the last event; grows by the end, too.
    last: watch::Sender<u64>,
    followers: Followers,
}

#[derive(Debug, Default)]
struct State {
    segments: VecDeque<Segment>,
    file: Option<File>,
    /// Number of the last record.
    last: u64,
    /// Bytes of output before the first segment.
    dropped: u64,
    /// Bytes that could not be written, and are not in any segment.
    lost: u64,
    end: Option<OutputEventKind>,
}

#[derive(Debug, Clone)]
struct Segment {
    first: u64,
    path: PathBuf,
    /// Bytes of output in it, headers left out.
    bytes: u64,
    /// Bytes of the file.
    size: u64,
}

impl Log {
    /// Begins a log in `dir`, which is made; keeps `limit` bytes. `followed` says that whoever
    /// started the process will follow it.
    pub(super) fn create(dir: PathBuf, limit: u64, followed: bool) -> io::Result<Log> {
        fs::create_dir_all(&dir)?;
        Ok(Log::with(dir, limit, State::default(), followed))
    }

    /// A log that keeps nothing, for a process that will not run.
    pub(super) fn nowhere() -> Log {
        Log::with(PathBuf::new(), 0, State::default(), false)
    }

    /// Reads a log of an earlier life of the node, cut off where a record is not whole. It takes
    /// no more output, and ends with `end`.
    pub(super) fn recover(dir: PathBuf, end: OutputEventKind) -> io::Result<Log> {
        let mut firsts: Vec<u64> = fs::read_dir(&dir)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        firsts.sort_unstable();
        let mut state = State::default();
        for first in firsts {
            let path = dir.join(first.to_string());
            let mut records = Records::new(File::open(&path)?);
            let mut bytes = 0;
            while let Some(record) = records.next()? {
                bytes += record.bytes.len() as u64;
                state.last = record.number;
            }
            state.segments.push_back(Segment {
                first,
                path,
                bytes,
                size: records.offset(),
            });
        }
        let log = Log::with(dir, 0, state, false);
        log.end(end);
        Ok(log)
    }

    fn with(dir: PathBuf, limit: u64, state: State, followed: bool) -> Log {
        let last = watch::Sender::new(state.last);
        Log(Arc::new(Inner {
            dir,
            segment_limit: (limit / SEGMENTS).max(MIN_SEGMENT),
            state: Mutex::new(state),
            last,
            followers: Followers::new(followed),
        }))
    }

    /// Waits until the next [`write`](Self::write) drops nothing that a follower is about to read.
    pub(super) async fn room(&self) {
        if let Some(last) = self.at_stake() {
            self.0.followers.pass(last).await;
        }
    }

    /// Number of the last event that the next write would drop.
    fn at_stake(&self) -> Option<u64> {
        let state = self.state();
        let full = state.segments.back()?.size >= self.0.segment_limit;
        let all = state.segments.len() as u64 >= SEGMENTS;
        (full && all).then(|| state.segments.get(1).map_or(state.last, |s| s.first - 1))
    }

    /// Takes output. What the disk does not take is dropped: the process goes on.
    pub(super) fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state();
        if state.end.is_some() || bytes.is_empty() {
            return;
        }
        if let Err(error) = self.append(&mut state, stream, bytes) {
            if state.lost == 0 {
                tracing::warn!(dir = %self.0.dir.display(), %error, "output cannot be kept");
            }
            state.lost += bytes.len() as u64;
            // What may have been written in part is not continued.
            state.file = None;
            return;
        }
        let last = state.last;
        drop(state);
        self.0.last.send_replace(last);
    }

    fn append(&self, state: &mut State, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let number = state.last + 1;
        let full = state
            .segments
            .back()
            .is_none_or(|segment| segment.size >= self.0.segment_limit);
        if full || state.file.is_none() {
            let path = self.0.dir.join(number.to_string());
            state.file = Some(File::create(&path)?);
            state.segments.retain(|segment| segment.first != number);
            state.segments.push_back(Segment {
                first: number,
                path,
                bytes: 0,
                size: 0,
            });
            while state.segments.len() as u64 > SEGMENTS
                && let Some(old) = state.segments.pop_front()
            {
                state.dropped += old.bytes;
                let _ = fs::remove_file(&old.path);
            }
        }
        let record = Record::encode(number, stream, bytes)?;
        if let Some(file) = &mut state.file {
            file.write_all(&record)?;
        }
        if let Some(segment) = state.segments.back_mut() {
            segment.bytes += bytes.len() as u64;
            segment.size += record.len() as u64;
        }
        state.last = number;
        Ok(())
    }

    /// Ends the log; only the first end counts.
    pub(super) fn end(&self, kind: OutputEventKind) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        state.end = Some(kind);
        state.file = None;
        let last = state.last + 1;
        drop(state);
        self.0.last.send_replace(last);
    }

    /// Removes everything that is kept; whoever still reads is told how much that was.
    pub(super) fn discard(&self) {
        let mut state = self.state();
        state.file = None;
        state.dropped += state.segments.drain(..).map(|s| s.bytes).sum::<u64>();
        drop(state);
        remove(&self.0.dir);
    }

    /// How the process ended; `None` while it runs.
    pub(super) fn how_ended(&self) -> Option<OutputEventKind> {
        self.state().end.clone()
    }

    /// Waits until the process has ended.
    pub(super) async fn ended(&self) {
        let mut last = self.0.last.subscribe();
        while !self.has_ended() && last.changed().await.is_ok() {}
    }

    /// Whether the process has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.state().end.is_some()
    }

    /// A reader of everything after event `after`; with `follow`, up to the end of the process.
    pub(super) fn reader(&self, after: u64, follow: bool) -> Reader {
        Reader {
            log: self.clone(),
            follower: follow.then(|| self.0.followers.join(after)),
            seen: after,
            seen_bytes: if after == 0 { Some(0) } else { None },
            told_lost: 0,
            file: None,
            ended: false,
            changed: self.0.last.subscribe(),
        }
    }

    /// Whether the segment that begins with that event is there.
    fn keeps(&self, first: u64) -> bool {
        let state = self.state();
        state.segments.iter().any(|segment| segment.first == first)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a log at its own pace.
#[derive(Debug)]
pub(super) struct Reader {
    log: Log,
    /// Its name among the followers.
    follower: Option<u64>,
    /// Number of the last event that was given.
    seen: u64,
    /// Bytes of output up to there, if it is known.
    seen_bytes: Option<u64>,
    told_lost: u64,
    file: Option<Open>,
    ended: bool,
    changed: watch::Receiver<u64>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(name) = self.follower {
            self.log.0.followers.leave(name);
        }
    }
}

/// An open segment.
#[derive(Debug)]
struct Open {
    /// Number of its first event.
    first: u64,
    records: Records,
}

/// What a reader is to do next.
enum Next {
    Give(OutputEventKind, u64),
    Open(u64, PathBuf),
    Read,
    Wait,
}

impl Reader {
    /// The next event; `None` after the end, and for one that does not follow when there is no more
    /// by now.
    pub(super) async fn next(&mut self) -> io::Result<Option<OutputEvent>> {
        // Who asks for more has taken what it got.
        if let Some(name) = self.follower {
            self.log.0.followers.read(name, self.seen);
        }
        loop {
            if self.ended {
                return Ok(None);
            }
            self.changed.mark_unchanged();
            match self.plan() {
                Next::Give(kind, seq) => {
                    self.ended = matches!(
                        kind,
                        OutputEventKind::Exited { .. } | OutputEventKind::Failed { .. }
                    );
                    self.seen = self.seen.max(seq);
                    return Ok(Some(OutputEvent { seq, kind }));
                }
                Next::Open(first, path) => match File::open(path) {
                    Ok(file) => {
                        let records = Records::new(file);
                        self.file = Some(Open { first, records });
                    }
                    // Dropped since: plan anew.
                    Err(error)
                        if error.kind() == io::ErrorKind::NotFound && !self.log.keeps(first) => {}
                    Err(error) => return Err(error),
                },
                Next::Read => return self.read().map(Some),
                Next::Wait if self.follower.is_some() => {
                    if self.changed.changed().await.is_err() {
                        return Ok(None);
                    }
                }
                Next::Wait => return Ok(None),
            }
        }
    }

    fn plan(&mut self) -> Next {
        let state = self.log.state();
        if self.seen >= state.last {
            if state.lost > self.told_lost {
                let bytes = state.lost - self.told_lost;
                self.told_lost = state.lost;
                return Next::Give(OutputEventKind::Dropped { bytes }, self.seen);
            }
            return match &state.end {
                Some(end) => Next::Give(end.clone(), state.last + 1),
                None => Next::Wait,
            };
        }
        let first_kept = state
            .segments
            .front()
            .map_or(state.last + 1, |segment| segment.first);
        if self.seen + 1 < first_kept {
            // All up to the first kept event is gone.
            let bytes = state.dropped - self.seen_bytes.unwrap_or(0).min(state.dropped);
            self.seen_bytes = Some(state.dropped);
            self.file = None;
            return Next::Give(OutputEventKind::Dropped { bytes }, first_kept - 1);
        }
        let wanted = state
            .segments
            .iter()
            .rev()
            .find(|segment| segment.first <= self.seen + 1);
        match (wanted, &self.file) {
            (Some(segment), Some(open)) if open.first == segment.first => Next::Read,
            (Some(segment), _) => Next::Open(segment.first, segment.path.clone()),
            (None, _) => Next::Wait,
        }
    }

    /// The next record that was not seen yet.
    fn read(&mut self) -> io::Result<OutputEvent> {
        while let Some(open) = &mut self.file
            && let Some(record) = open.records.next()?
        {
            if record.number <= self.seen {
                continue;
            }
            self.seen = record.number;
            self.seen_bytes = self
                .seen_bytes
                .map(|bytes| bytes + record.bytes.len() as u64);
            return Ok(OutputEvent {
                seq: record.number,
                kind: OutputEventKind::Output {
                    stream: record.stream,
                    data: encode(&record.bytes),
                },
            });
        }
        Err(io::Error::other("a record of output was cut off"))
    }
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Removes everything of a log.
pub(super) fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove old output");
    }
}

#[cfg(test)]
mod tests;
