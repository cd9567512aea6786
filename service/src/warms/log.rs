//! The events of a warm that runs, and those who follow them.
//!
//! Of each target only the newest state and the newest progress are kept, so that a warm of a
//! thousand nodes that lasts for hours takes no more memory than one of minutes, and whoever comes
//! late or is slow sees what is so now instead of everything that was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::wire::{WarmEvent, WarmEventKind};
use tokio::sync::watch;

/// Most events of one batch.
const BATCH: usize = 256;

/// What an event replaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    /// State of a target, by its place.
    Target(usize),
    /// Progress of a target.
    Progress(usize),
    /// Progress of a copy.
    Copy(String, Digest),
    /// The end.
    End,
}

/// An event as it goes over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) seq: u64,
    pub(crate) json: Arc<str>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    events: BTreeMap<u64, Arc<str>>,
    newest: BTreeMap<About, u64>,
    ended: bool,
}

/// The events of a warm.
#[derive(Debug)]
pub(super) struct Log {
    state: Mutex<State>,
    told: watch::Sender<u64>,
}

impl Log {
    /// No events; the first is numbered `last + 1`.
    pub(super) fn new(last: u64) -> Self {
        let state = State {
            last,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            told: watch::channel(last).0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of the newest event.
    pub(super) fn last(&self) -> u64 {
        self.state().last
    }

    /// Adds an event in the place of the one before it about the same.
    pub(super) fn add(&self, about: About, kind: WarmEventKind) {
        let mut state = self.state();
        state.last += 1;
        // The end has one time, in the event as in the record, which outlives the events.
        let ended = match &kind {
            WarmEventKind::Finished { warm } => warm.finished.clone(),
            _ => None,
        };
        let event = WarmEvent {
            seq: state.last,
            time: ended.unwrap_or_else(|| jiff::Timestamp::now().to_string()),
            kind,
        };
        let seq = event.seq;
        let json = serde_json::to_string(&event).unwrap_or_default();
        state.events.insert(seq, json.into());
        state.ended = about == About::End;
        if let About::Target(target) = about {
            // A new state says more than the progress before it.
            let progress = state.newest.remove(&About::Progress(target));
            progress.and_then(|old| state.events.remove(&old));
        }
        if let Some(old) = state.newest.insert(about, seq) {
            state.events.remove(&old);
        }
        drop(state);
        self.told.send_replace(seq);
    }
}

/// One client that follows a warm.
#[derive(Debug)]
pub(crate) struct Follower {
    log: Arc<Log>,
    after: u64,
    told: watch::Receiver<u64>,
}

impl Follower {
    /// From the event after `after` on.
    pub(super) fn new(log: Arc<Log>, after: u64) -> Self {
        let told = log.told.subscribe();
        Self { log, after, told }
    }

    /// The next events; `None` when the warm has ended and everything was given.
    pub(crate) async fn next(&mut self) -> Option<Vec<Line>> {
        loop {
            self.told.borrow_and_update();
            {
                let state = self.log.state();
                let new = state.events.range(self.after.saturating_add(1)..);
                let lines: Vec<Line> = new
                    .take(BATCH)
                    .map(|(seq, json)| Line {
                        seq: *seq,
                        json: json.clone(),
                    })
                    .collect();
                if let Some(last) = lines.last() {
                    self.after = last.seq;
                    return Some(lines);
                }
                if state.ended {
                    return None;
                }
            }
            // The log lives as long as we do.
            self.told.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_newer_takes_the_place_of_what_was() {
        let log = Arc::new(Log::new(10));
        let hash = Digest::of(b"x");
        let progress = |done| WarmEventKind::Pulling {
            node: "n".into(),
            image_hash: hash,
            done,
            total: 9,
            layers: Vec::new(),
        };
        for done in 0..5 {
            log.add(About::Progress(0), progress(done));
        }
        log.add(About::Progress(1), progress(7));
        let mut late = Follower::new(log.clone(), 0);
        let seqs = |lines: Option<Vec<Line>>| -> Vec<u64> {
            lines.into_iter().flatten().map(|l| l.seq).collect()
        };
        assert_eq!(seqs(late.next().await), [15, 16]);
        log.add(About::Target(0), progress(9));
        log.add(About::End, progress(9));
        let mut resumed = Follower::new(log.clone(), 16);
        assert_eq!(seqs(resumed.next().await), [17, 18]);
        assert!(resumed.next().await.is_none());
        assert_eq!(
            seqs(Follower::new(log.clone(), 0).next().await),
            [16, 17, 18]
        );
        assert!(Follower::new(log.clone(), u64::MAX).next().await.is_none());
        // A node came back.
        log.add(About::Target(0), progress(1));
        assert_eq!(seqs(late.next().await), [18, 19]);
        assert_eq!(log.last(), 19);
    }
}
