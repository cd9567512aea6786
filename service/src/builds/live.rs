//! A build that waits or runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::{Build, DEFAULT_PROJECT, EventKind};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::log::EventLog;
use super::watched::Watched;
use super::{Builds, Wanted, record};
use crate::engine::{EventSink, Job};
use crate::metrics::BuildMetrics;
use crate::places::Name;
use crate::resolve::uses_secrets;

/// A build that waits or runs.
#[derive(Debug)]
pub(crate) struct Live {
    id: String,
    hash: Digest,
    project: Arc<str>,
    forced_from: Option<usize>,
    verifies: bool,
    grace: Duration,
    watched: Watched,
    log: Arc<EventLog>,
    cancel: CancellationToken,
    /// Some request wants the build whether it is followed or not.
    detached: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: Build,
    /// Names to give to the image.
    names: Vec<Name>,
    job: Option<Job>,
    why_cancelled: Option<String>,
    /// Whether the service stops under it.
    interrupted: bool,
    followers: usize,
    /// Clients that asked for it and have not come to follow it yet.
    expected: usize,
    /// Counts clients that came: to join it, and to follow it.
    epoch: u64,
    /// Closing: nobody may share it any more.
    closing: bool,
}

impl Live {
    pub(super) fn new(
        record: Build,
        log: EventLog,
        wanted: &Wanted,
        grace: Duration,
        metrics: &BuildMetrics,
    ) -> Self {
        Self {
            watched: Watched::new(&record, metrics.clone()),
            id: record.id.clone(),
            hash: wanted.image_hash,
            project: wanted.project.clone(),
            forced_from: wanted.forced_from(),
            verifies: wanted.verify,
            grace,
            log: Arc::new(log),
            cancel: CancellationToken::new(),
            detached: AtomicBool::new(!wanted.cancel_on_disconnect),
            state: Mutex::new(State {
                record,
                names: wanted.name.iter().cloned().collect(),
                job: None,
                why_cancelled: None,
                interrupted: false,
                followers: 0,
                // The one that asked for it.
                expected: 1,
                epoch: 0,
                closing: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: a panic elsewhere leaves the state sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn hash(&self) -> Digest {
        self.hash
    }

    /// Project that it is for.
    pub(super) fn project(&self) -> &str {
        &self.project
    }

    /// Whether it has ended, and only its record is not kept yet.
    pub(super) fn is_over(&self) -> bool {
        self.state().record.status.is_final()
    }

    /// As [`Wanted::forced_from`].
    pub(super) fn forced_from(&self) -> Option<usize> {
        self.forced_from
    }

    /// Whether it compares with the published image in place of publishing one.
    pub(super) fn verifies(&self) -> bool {
        self.verifies
    }

    /// Whether all steps run even when cached that are to, by [`Wanted::forced_from`].
    pub(super) fn runs(&self, from: Option<usize>) -> bool {
        from.is_none_or(|from| self.forced_from.is_some_and(|own| own <= from))
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    /// The span of the build, of which its id is known to the log.
    pub(super) fn span(&self) -> Span {
        self.watched.span()
    }

    /// What is counted and traced of it.
    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }

    pub(super) fn log(&self) -> Arc<EventLog> {
        self.log.clone()
    }

    pub(super) fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The build as it is now.
    pub(crate) fn snapshot(&self) -> Build {
        let mut build = self.state().record.clone();
        if !build.status.is_final() {
            build.seconds = record::seconds_since(&build.created);
        }
        build
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Build)) {
        change(&mut self.state().record);
    }

    /// Whether another request may share it.
    pub(super) fn open(&self) -> bool {
        !self.cancel.is_cancelled() && !self.state().closing
    }

    /// Takes one more request in. Call under the queue's lock, when [`open`](Self::open).
    pub(super) fn join(&self, wanted: &Wanted) {
        if !wanted.cancel_on_disconnect {
            self.detached.store(true, Ordering::Relaxed);
        }
        let mut state = self.state();
        // A client that leaves meanwhile is not the last one.
        state.expected += 1;
        state.epoch += 1;
        if let Some(name) = &wanted.name
            && !state.names.contains(name)
        {
            state.names.push(name.clone());
            if state.record.name.is_none() {
                state.record.name = Some(name.to_string());
            }
        }
    }

    /// Closes it for further requests and gives the names that were asked for.
    pub(super) fn close(&self) -> Vec<Name> {
        let mut state = self.state();
        state.closing = true;
        std::mem::take(&mut state.names)
    }

    pub(super) fn set_job(&self, wanted: Wanted) {
        let own = *wanted.project != *DEFAULT_PROJECT && uses_secrets(&wanted.spec);
        let job = Job {
            apart: own.then(|| wanted.project.to_string()),
            id: self.id.clone(),
            spec: wanted.spec,
            image_hash: wanted.image_hash,
            secrets: wanted.secrets,
            force: wanted.force,
            compression: wanted.compression,
            verify: wanted.verify,
        };
        self.state().job = Some(job);
    }

    /// What the engine is to do; the secrets are in nobody else's hands after this.
    pub(super) fn take_job(&self) -> Option<Job> {
        self.state().job.take()
    }

    /// Makes it end; the first reason counts.
    pub(super) fn cancel(&self, why: &str) {
        let mut state = self.state();
        if state.why_cancelled.is_none() {
            tracing::info!(build = self.id, why, "build is cancelled");
            state.why_cancelled = Some(why.to_owned());
        }
        drop(state);
        self.cancel.cancel();
    }

    /// Says that its end, if it comes now, is the service's.
    pub(super) fn interrupt(&self) {
        let mut state = self.state();
        state.interrupted = state.why_cancelled.is_none();
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.state().interrupted
    }

    pub(super) fn why_cancelled(&self) -> Option<String> {
        self.state().why_cancelled.clone()
    }

    pub(super) fn cancels_when_left(&self) -> bool {
        !self.detached.load(Ordering::Relaxed)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    /// Whether nobody follows it now, nobody came since `epoch`, and nobody wants it all the same.
    pub(super) fn left_since(&self, epoch: u64) -> bool {
        let state = self.state();
        let over = state.record.status.is_final();
        !over && self.cancels_when_left() && state.followers == 0 && state.epoch == epoch
    }

    /// Whether nobody follows it now, nobody is about to, and nobody wants it all the same.
    pub(super) fn left_for_good(&self) -> bool {
        let state = self.state();
        let over = state.record.status.is_final();
        !over && self.cancels_when_left() && state.followers == 0 && state.expected == 0
    }
}

impl EventSink for Live {
    fn emit(&self, event: EventKind) {
        let mut state = self.state();
        self.watched.event(&state.record, &event);
        if !matches!(event, EventKind::Log { .. }) {
            record::apply(&mut state.record, &event);
        }
        // Under the lock, so that record and log agree on the order.
        self.log.append(event);
        drop(state);
        if let Some(fault) = self.log.fault() {
            self.cancel(&fault);
        }
    }
}

/// One client that follows a build.
pub(crate) struct FollowGuard {
    live: Arc<Live>,
    builds: Weak<Builds>,
}

impl FollowGuard {
    pub(super) fn new(live: Arc<Live>, builds: &Arc<Builds>) -> Self {
        let mut state = live.state();
        state.followers += 1;
        state.expected = state.expected.saturating_sub(1);
        state.epoch += 1;
        drop(state);
        Self {
            live,
            builds: Arc::downgrade(builds),
        }
    }
}

impl Drop for FollowGuard {
    fn drop(&mut self) {
        let mut state = self.live.state();
        state.followers -= 1;
        let last = state.followers == 0;
        drop(state);
        if last
            && self.live.cancels_when_left()
            && let Some(builds) = self.builds.upgrade()
        {
            builds.watch_left(&self.live);
        }
    }
}
