//! Warms: images that the service wants here, by the identifier of the order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::{ImageRef, Report};
use chalk_core::wire::{Problem, Receipt};
use chalk_watch::traces;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field};

use super::backoff::Backoff;
use super::parts::{Images, PullCost, PullFailure, PullOrder, PullProgress};

/// Tries after the first one.
const RETRIES: u32 = 8;
/// Progress of one warm is said at most this often.
const PROGRESS: Duration = Duration::from_millis(250);
/// A line that was handed over so long ago has arrived, or the connection would be known to be dead.
const PERHAPS_LOST: Duration = Duration::from_secs(60);
/// Ended warms that are remembered, so that the same order again is answered as before.
const REMEMBERED: usize = 1024;

/// The warms of a node.
pub(super) struct Warms {
    images: Arc<dyn Images>,
    jobs: Mutex<Jobs>,
    changed: Notify,
}

#[derive(Default)]
struct Jobs {
    by_id: BTreeMap<String, Job>,
    /// Counts orders, so that a job that was replaced cannot write into its successor.
    turn: u64,
}

struct Job {
    turn: u64,
    digest: Digest,
    state: State,
    /// Whether the state has yet to be said.
    unsaid: bool,
    said: Option<Instant>,
    peers: watch::Sender<Vec<String>>,
    cancel: CancellationToken,
}

enum State {
    Pulling(PullProgress),
    Waiting(Problem, u32),
    Failed(Problem),
    Ready(Receipt),
}

impl State {
    fn is_final(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Ready(_))
    }

    /// Whether not even the layers are known. A service that hears of a pull sends others here for
    /// the layers, so it must not hear of it before.
    fn is_beginning(&self) -> bool {
        matches!(self, Self::Pulling(progress) if progress.total == 0)
    }
}

impl Warms {
    pub(super) fn new(images: Arc<dyn Images>) -> Self {
        Self {
            images,
            jobs: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an order. One that is known changes nothing but the peers; its state is said again.
    /// One that failed for good begins anew, as does one whose image was evicted since.
    pub(super) fn order(self: &Arc<Self>, id: &str, image: ImageRef, pin: Option<String>) {
        let mut jobs = self.jobs();
        if let Some(job) = jobs.by_id.get_mut(id)
            && job.digest == image.digest
            && match &job.state {
                State::Pulling(_) | State::Waiting(..) => true,
                State::Ready(_) => self.images.has(image.digest),
                State::Failed(_) => false,
            }
        {
            job.peers.send_replace(image.peers);
            job.unsaid = true;
            self.changed.notify_one();
            return;
        }
        if let Some(old) = jobs.by_id.get(id) {
            old.cancel.cancel();
        }
        jobs.turn += 1;
        let turn = jobs.turn;
        let (peers, _) = watch::channel(image.peers.clone());
        let job = Job {
            turn,
            digest: image.digest,
            state: State::Pulling(PullProgress::default()),
            unsaid: true,
            said: None,
            peers,
            cancel: CancellationToken::new(),
        };
        let work = Work {
            warms: self.clone(),
            id: id.to_owned(),
            turn,
            image,
            pin,
            peers: job.peers.subscribe(),
            cancel: job.cancel.clone(),
        };
        jobs.by_id.insert(id.to_owned(), job);
        jobs.forget_old();
        drop(jobs);
        self.changed.notify_one();
        let span = work.span();
        tokio::spawn(work.run().instrument(span));
    }

    /// Ends and forgets a warm.
    pub(super) fn cancel(&self, id: &str) {
        if let Some(job) = self.jobs().by_id.remove(id) {
            job.cancel.cancel();
        }
    }

    /// Ends all.
    pub(super) fn cancel_all(&self) {
        let mut jobs = self.jobs();
        for job in jobs.by_id.values() {
            job.cancel.cancel();
        }
        jobs.by_id.clear();
    }

    /// A new session: what is under way is said to it, what ended without being said, and what was
    /// said so lately that it may have been lost with the session before.
    pub(super) fn begin_session(&self) {
        let now = Instant::now();
        for job in self.jobs().by_id.values_mut() {
            let lately = job.said.is_some_and(|said| now < said + PERHAPS_LOST);
            job.unsaid |= lately || !job.state.is_final();
            job.said = None;
        }
        self.changed.notify_one();
    }

    /// What is to be said now, and when to ask again at the latest.
    pub(super) fn take_reports(&self) -> (Vec<Report>, Option<Instant>) {
        let now = Instant::now();
        let mut again: Option<Instant> = None;
        let mut reports = Vec::new();
        for (id, job) in &mut self.jobs().by_id {
            if !job.unsaid || job.state.is_beginning() {
                continue;
            }
            if let (State::Pulling(_), Some(said)) = (&job.state, job.said)
                && now < said + PROGRESS
            {
                let due = said + PROGRESS;
                again = Some(again.map_or(due, |known| known.min(due)));
                continue;
            }
            job.unsaid = false;
            job.said = Some(now);
            reports.push(report(id, &job.state));
        }
        (reports, again)
    }

    /// A report that could not be handed over is said in the next session.
    pub(super) fn not_said(&self, report: &Report) {
        let (Report::Warmed { id, .. } | Report::WarmFailed { id, .. }) = report else {
            return;
        };
        if let Some(job) = self.jobs().by_id.get_mut(id) {
            job.unsaid = true;
        }
    }

    /// Waits until there may be something to say.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, id: &str, turn: u64, state: State) {
        if let Some(job) = self.jobs().by_id.get_mut(id)
            && job.turn == turn
        {
            job.state = state;
            job.unsaid = true;
            self.changed.notify_one();
        }
    }
}

impl Jobs {
    fn forget_old(&mut self) {
        let ended = |job: &Job| job.state.is_final() && !job.unsaid;
        let count = self.by_id.values().filter(|job| ended(job)).count();
        let mut surplus = count.saturating_sub(REMEMBERED);
        // Identifiers sort by time.
        self.by_id.retain(|_, job| {
            let drop = surplus > 0 && ended(job);
            surplus -= usize::from(drop);
            !drop
        });
    }
}

fn report(id: &str, state: &State) -> Report {
    let id = id.to_owned();
    match state {
        State::Pulling(progress) => Report::Pulling {
            id,
            done: progress.done,
            total: progress.total,
            layers: progress.layers.clone(),
        },
        State::Waiting(error, retries_left) => Report::WarmFailed {
            id,
            error: error.clone(),
            retries_left: *retries_left,
        },
        State::Failed(error) => Report::WarmFailed {
            id,
            error: error.clone(),
            retries_left: 0,
        },
        State::Ready(receipt) => Report::Warmed {
            id,
            receipt: receipt.clone(),
        },
    }
}

/// One warm at work.
struct Work {
    warms: Arc<Warms>,
    id: String,
    turn: u64,
    image: ImageRef,
    pin: Option<String>,
    peers: watch::Receiver<Vec<String>>,
    cancel: CancellationToken,
}

impl Work {
    /// The span of the warm, in the trace of whoever asked for it.
    fn span(&self) -> Span {
        let span = tracing::info_span!(
            target: traces::TARGET,
            parent: None,
            "warm",
            warm = self.id,
            image = %self.image.digest,
            bytes_fetched = field::Empty,
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
        );
        if let Some(parent) = &self.image.traceparent {
            traces::follow(&span, parent);
        }
        span
    }

    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut retries_left = RETRIES;
        let mut spent = Spent::default();
        loop {
            let begin = Instant::now();
            let Some((result, cost)) = self.pull().await else {
                return;
            };
            let failure = match result {
                Ok(receipt) => {
                    let receipt = spent.added_to(receipt);
                    Span::current().record("bytes_fetched", receipt.bytes_fetched);
                    return self.set(State::Ready(receipt));
                }
                Err(failure) => failure,
            };
            spent.add(cost, begin.elapsed());
            tracing::warn!(name = %self.image.name, error = %failure, "warm failed");
            if !failure.transient || retries_left == 0 {
                traces::failed(&Span::current(), &failure.to_string());
                return self.set(State::Failed(failure.problem));
            }
            self.set(State::Waiting(failure.problem, retries_left));
            retries_left -= 1;
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.cancel.cancelled() => return,
            }
            self.set(State::Pulling(PullProgress::default()));
        }
    }

    /// One try, and what it cost; `None` when it was cancelled.
    async fn pull(&self) -> Option<(Result<Receipt, PullFailure>, PullCost)> {
        let (progress, mut watched) = watch::channel(PullProgress::default());
        let pull = self.warms.images.pull(PullOrder {
            image: self.image.clone(),
            peers: self.peers.clone(),
            pin: self.pin.clone(),
            progress,
            cancel: self.cancel.clone(),
        });
        tokio::pin!(pull);
        let mut more = true;
        loop {
            tokio::select! {
                result = &mut pull => {
                    let cost = watched.borrow().cost;
                    return (!self.cancel.is_cancelled()).then_some((result, cost));
                }
                () = self.cancel.cancelled() => return None,
                changed = watched.changed(), if more => {
                    more = changed.is_ok();
                    let progress = watched.borrow_and_update().clone();
                    self.set(State::Pulling(progress));
                }
            }
        }
    }

    fn set(&self, state: State) {
        self.warms.set(&self.id, self.turn, state);
    }
}

/// What the failed tries of a warm cost.
#[derive(Default)]
struct Spent {
    cost: PullCost,
    time: Duration,
}

impl Spent {
    fn add(&mut self, cost: PullCost, time: Duration) {
        self.cost.fetched += cost.fetched;
        self.cost.from_mirrors += cost.from_mirrors;
        self.cost.verified += cost.verified;
        self.cost.layers += cost.layers;
        self.time += time;
    }

    /// The receipt of all tries. The last one found the layers of those before, but the warm did
    /// not.
    fn added_to(&self, mut receipt: Receipt) -> Receipt {
        receipt.bytes_fetched += self.cost.fetched;
        receipt.bytes_from_mirrors += self.cost.from_mirrors;
        receipt.bytes_present = receipt.bytes_present.saturating_sub(self.cost.layers);
        receipt.digests_verified += self.cost.verified;
        receipt.seconds += self.time.as_secs_f64();
        receipt
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{Answer, COST, SimulatedImages, image};
    use super::*;

    async fn until(warms: &Warms, done: impl Fn(&Report) -> bool) -> Vec<Report> {
        let mut all = Vec::new();
        loop {
            let (reports, again) = warms.take_reports();
            all.extend(reports);
            if all.iter().any(&done) {
                return all;
            }
            let wait = again.map_or(Duration::from_secs(60), |t| t - Instant::now());
            let _ = tokio::time::timeout(wait, warms.changed()).await;
        }
    }

    fn is_ready(report: &Report) -> bool {
        matches!(report, Report::Warmed { .. })
    }

    #[tokio::test(start_paused = true)]
    async fn transient_failures_are_tried_again_and_counted_down() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Transient, Answer::Transient, Answer::Ready]);
        let warms = Arc::new(Warms::new(images.clone()));
        warms.order("w1", image(b"a"), None);
        let reports = until(&warms, is_ready).await;
        let left: Vec<u32> = reports
            .iter()
            .filter_map(|report| match report {
                Report::WarmFailed { retries_left, .. } => Some(*retries_left),
                _ => None,
            })
            .collect();
        assert_eq!(left, [RETRIES, RETRIES - 1]);
        assert_eq!(images.pulls(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_stays_is_not_tried_again() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Final, Answer::Ready]);
        let warms = Arc::new(Warms::new(images.clone()));
        let failed = |report: &Report| {
            matches!(
                report,
                Report::WarmFailed {
                    retries_left: 0,
                    ..
                }
            )
        };
        warms.order("w1", image(b"a"), None);
        until(&warms, failed).await;
        assert_eq!(images.pulls(), 1);
        // The same order again begins anew.
        warms.order("w1", image(b"a"), None);
        until(&warms, is_ready).await;
        assert_eq!(images.pulls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_order_again_pulls_once_and_is_answered_again() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Ready]);
        let warms = Arc::new(Warms::new(images.clone()));
        warms.order("w1", image(b"a"), None);
        warms.order("w1", image(b"a"), None);
        until(&warms, is_ready).await;
        assert!(warms.take_reports().0.is_empty());
        // It may have been lost with its session, ...
        warms.begin_session();
        let (reports, _) = warms.take_reports();
        assert!(is_ready(&reports[0]));
        // ... but is not said to every later one, ...
        tokio::time::sleep(PERHAPS_LOST).await;
        warms.begin_session();
        assert!(warms.take_reports().0.is_empty());
        // ... save when the service asks again, and when it could not be handed over.
        warms.order("w1", image(b"a"), None);
        let (reports, _) = warms.take_reports();
        assert!(is_ready(&reports[0]));
        warms.not_said(&reports[0]);
        assert_eq!(warms.take_reports().0, reports);
        assert_eq!(images.pulls(), 1);
        // An image that was evicted since is pulled again.
        images.evict(image(b"a").digest);
        images.answer([Answer::Ready]);
        warms.order("w1", image(b"a"), None);
        until(&warms, is_ready).await;
        assert_eq!(images.pulls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_warm_says_nothing_more() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Never]);
        let warms = Arc::new(Warms::new(images.clone()));
        warms.order("w1", image(b"a"), None);
        let pulling = |report: &Report| matches!(report, Report::Pulling { .. });
        until(&warms, pulling).await;
        warms.cancel("w1");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(warms.take_reports().0.is_empty());
        assert!(images.cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_throttled_and_peers_reach_the_pull() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Slow]);
        let warms = Arc::new(Warms::new(images.clone()));
        warms.order("w1", image(b"a"), None);
        let began = Instant::now();
        let mut again = image(b"a");
        again.peers = vec!["http://peer".into()];
        tokio::time::sleep(Duration::from_millis(500)).await;
        warms.order("w1", again, None);
        let reports = until(&warms, is_ready).await;
        let pulling = reports.len() - 1;
        let most = began.elapsed().as_millis() / PROGRESS.as_millis() + 2;
        assert!(pulling > 1 && pulling as u128 <= most, "{pulling}");
        assert_eq!(images.last_peers(), ["http://peer"]);
    }
    #[tokio::test(start_paused = true)]
    async fn the_receipt_is_of_all_tries() {
        let images = Arc::new(SimulatedImages::default());
        images.answer([Answer::Transient, Answer::Transient, Answer::Ready]);
        let warms = Arc::new(Warms::new(images));
        warms.order("w1", image(b"a"), None);
        let reports = until(&warms, is_ready).await;
        let Some(Report::Warmed { receipt, .. }) = reports.last() else {
            panic!("{reports:?}");
        };
        assert_eq!(receipt.bytes_fetched, 10 + 2 * COST.fetched);
        assert_eq!(receipt.bytes_from_mirrors, 2 * COST.from_mirrors);
        assert_eq!(receipt.digests_verified, 4 + 2 * COST.verified);
        // What the last try found was brought by those before it.
        assert_eq!(receipt.bytes_present, 0);
    }
}
