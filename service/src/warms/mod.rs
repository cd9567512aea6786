//! Warms: bringing images to nodes ahead of any sandbox.
//!
//! What is asked for is written down before it is answered, so that a service that is killed goes
//! on with it when it starts again: nodes that connect get their orders anew, and know those that
//! they have by their identifiers.

mod log;
mod record;
mod state;
mod waves;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::Report;
use chalk_core::wire::{Problem, Warm, WarmEvent, WarmEventKind, WarmRequest, WarmStatus, problem};
use chalk_watch::traces;

use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::ids::Ids;
use crate::ledger::{Changes, Ledger, LedgerError, Table};
use crate::metrics::WarmMetrics;
use crate::nodes::{Nodes, Selection, not_kept};
use crate::regions::{ImageAt, Regions};
use crate::settings;
use log::Follower;
pub(crate) use log::Line;
use record::{Header, Image, Stored, key, trouble};
use state::State;
use waves::Limits;

/// Seconds that a warm may take, unless said.
const TIMEOUT: u64 = 24 * 3600;
/// Most targets of a warm.
const TARGETS: usize = 100_000;
/// How much further events are numbered after a restart than was written down.
const EVENT_GAP: u64 = 1_000_000;
/// How often is looked whether all warms have ended.
const IDLE_POLL: Duration = Duration::from_millis(20);
/// For how long changes are gathered before they are written down.
const SAVE: Duration = Duration::from_millis(25);
/// Pause before changes are given to the ledger again that were not kept.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// Time between two notes of how long each warm runs.
const NOTE: Duration = Duration::from_secs(60);
/// Tries of a copy to a region's registry.
const COPY_TRIES: u32 = 8;
/// Pause before the second of them; each is twice the one before.
const COPY_PAUSE: Duration = Duration::from_secs(1);
/// Time between two looks at what time brings.
const TICK: Duration = Duration::from_millis(500);
/// Time between two events of one copy.
const COPY_PROGRESS: Duration = Duration::from_millis(250);

/// All warms.
#[derive(Debug)]
pub(crate) struct Warms {
    ledger: Arc<Ledger>,
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    settings: settings::Warm,
    ids: Ids,
    metrics: WarmMetrics,
    state: Mutex<State>,
    /// Warms that are only in the ledger, with the number of their targets.
    past: Mutex<BTreeMap<String, usize>>,
    /// Something is to be written down.
    changed: Notify,
}

/// Events of a warm.
pub(crate) enum Events {
    /// Of one that runs.
    Live(Follower),
    /// Of one that is only in the ledger: its end, if that is wanted.
    Past(Option<Line>),
}

impl Events {
    /// The next events; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Vec<Line>> {
        match self {
            Self::Live(follower) => follower.next().await,
            Self::Past(line) => line.take().map(|line| vec![line]),
        }
    }
}

fn unknown(id: &str) -> Problem {
    Problem {
        status: 404,
        ..trouble(
            problem::NOT_FOUND,
            "no such warm",
            format!("there is no warm `{id}`"),
        )
    }
}

impl Warms {
    /// Digests of the images that are on their way to nodes.
    pub(crate) fn wanted(&self) -> BTreeSet<Digest> {
        self.state().wanted()
    }

    /// Warms of an earlier service; those that ran go on as soon as their nodes connect. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(
        ledger: Arc<Ledger>,
        nodes: Arc<Nodes>,
        regions: Arc<Regions>,
        settings: settings::Warm,
    ) -> Result<Self, LedgerError> {
        let limits = Limits {
            direct: settings.registry_pulls,
            chain: u32::try_from(settings.chain).unwrap_or(u32::MAX),
        };
        let metrics = WarmMetrics::default();
        let mut state = State::new(nodes.clone(), regions.clone(), limits, metrics.clone());
        let mut past = BTreeMap::new();
        let ids = Ids::default();
        for (id, mut header) in ledger.all::<Header>(Table::Warms, "")? {
            ids.follow(&id);
            if header.status != WarmStatus::Running && !header.awaits {
                past.insert(id, header.targets);
                continue;
            }
            let targets = ledger.all::<Stored>(Table::Targets, &format!("{id}/"))?;
            header.last_event += EVENT_GAP;
            let targets = targets.into_iter().map(|(_, stored)| stored);
            state.begin(header, targets.collect());
        }
        Ok(Self {
            ledger,
            nodes,
            regions,
            settings,
            ids,
            metrics,
            state: Mutex::new(state),
            past: Mutex::new(past),
            changed: Notify::new(),
        })
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &WarmMetrics {
        &self.metrics
    }

    /// How many warms run.
    pub(crate) fn running(&self) -> usize {
        let state = self.state();
        let running = |live: &&state::Live| live.header.status == WarmStatus::Running;
        state.live.values().filter(running).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn past(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what runs, and then does what may not be done under the lock.
    fn with<T>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        let copies = std::mem::take(&mut state.to_copy);
        let ended = !state.ended.is_empty();
        drop(state);
        for (region, image) in copies {
            tokio::spawn(copy(self.clone(), region, image));
        }
        if ended {
            self.save();
        }
        self.changed.notify_one();
        result
    }

    /// Has what changed written down, and forgets what is over.
    fn save(self: &Arc<Self>) {
        let (kept, written, ended) = {
            // Given to the ledger under the lock: what is older is never written after what is newer.
            let mut state = self.state();
            let (changes, written) = state.changes();
            let ended = std::mem::take(&mut state.ended);
            if changes.is_empty() && ended.is_empty() {
                return;
            }
            (self.ledger.begin(changes), written, ended)
        };
        let this = self.clone();
        tokio::spawn(async move {
            let Err(error) = kept.await else {
                return this.retire(&ended);
            };
            tracing::error!(%error, "the state of warms was not kept");
            tokio::time::sleep(SAVE_AGAIN).await;
            this.state().write_again(&written, ended);
            this.changed.notify_one();
        });
    }

    /// Leaves warms that are over to the ledger, and the oldest of those to nobody.
    fn retire(&self, ended: &[String]) {
        let mut state = self.state();
        let mut past = self.past();
        for id in ended {
            let over = state.live.get(id).is_some_and(|live| {
                live.header.status != WarmStatus::Running && !live.header.awaits
            });
            // One that goes on again has been changed after it was written.
            if over && let Some(live) = state.live.remove(id) {
                past.insert(id.clone(), live.header.targets);
            }
        }
        drop(state);
        let mut changes = Changes::new();
        while past.len() > self.settings.keep
            && let Some((id, targets)) = past.pop_first()
        {
            changes = changes.remove(Table::Warms, &id);
            for at in 0..targets {
                changes = changes.remove(Table::Targets, &key(&id, at));
            }
        }
        self.ledger.later(changes);
    }

    /// Brings images to nodes, for a project.
    ///
    /// # Errors
    /// When the request is wrong, no node fits, or the ledger fails.
    pub(crate) async fn start(
        self: &Arc<Self>,
        project: &Arc<str>,
        request: &WarmRequest,
        images: Vec<ImageAt>,
    ) -> Result<Warm, Problem> {
        let narrowed =
            !request.nodes.is_empty() || !request.labels.is_empty() || request.region.is_some();
        if request.all && narrowed {
            return Err(Problem::wrong_request(
                "all: means every node, and does not go together with nodes, labels and region"
                    .to_owned(),
            ));
        }
        if request.timeout_seconds == Some(0) {
            return Err(Problem::wrong_request(
                "timeout_seconds: expected at least 1".to_owned(),
            ));
        }
        let mut seen = BTreeSet::new();
        let images = images.into_iter().filter_map(|image| {
            let hash = image.hash.filter(|hash| seen.insert(*hash))?;
            Some(Image {
                hash,
                digest: image.digest,
                repository: image.repository,
                name: image.name,
            })
        });
        let images: Vec<Image> = images.collect();
        if images.is_empty() {
            return Err(Problem::wrong_request(
                "images: expected at least one".to_owned(),
            ));
        }
        let chosen = self.nodes.select(Selection {
            nodes: &request.nodes,
            labels: &request.labels,
            region: request.region.as_deref(),
        })?;
        if images.len().saturating_mul(chosen.len()) > TARGETS {
            return Err(Problem::wrong_request(format!(
                "{} images on {} nodes are more than {TARGETS} targets: warm fewer at once",
                images.len(),
                chosen.len()
            )));
        }
        let mut targets = Vec::new();
        for (at, image) in images.iter().enumerate() {
            targets.extend(chosen.iter().map(|node| Stored::new(node, at, image.hash)));
        }
        let header = Header {
            id: self.ids.next(),
            status: WarmStatus::Running,
            images,
            created: jiff::Timestamp::now().to_string(),
            project: Some(project.to_string()),
            finished: None,
            pin: request.pin,
            timeout: request.timeout_seconds.unwrap_or(TIMEOUT),
            spent: 0.0,
            last_event: 0,
            targets: targets.len(),
            awaits: false,
            traceparent: traces::traceparent(),
        };
        let mut changes = Changes::new().put(Table::Warms, &header.id, &header);
        for (at, stored) in targets.iter().enumerate() {
            changes = changes.put(Table::Targets, &key(&header.id, at), stored);
        }
        let kept = self.ledger.commit(changes).await;
        kept.map_err(|e| not_kept(&e))?;
        let id = header.id.clone();
        let shown = self.with(|state| {
            state.begin(header, targets);
            state.shown(&id)
        });
        shown.ok_or_else(|| unknown(&id))
    }

    /// A warm.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn get(&self, id: &str) -> Result<Warm, Problem> {
        if let Some(warm) = self.state().shown(id) {
            return Ok(warm);
        }
        let (header, targets) = self.kept(id).await?;
        Ok(header.shown(&targets))
    }

    /// A warm that is only in the ledger.
    async fn kept(&self, id: &str) -> Result<(Header, Vec<Stored>), Problem> {
        if !self.past().contains_key(id) {
            return Err(unknown(id));
        }
        let (ledger, wanted) = (self.ledger.clone(), id.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let header = ledger.get::<Header>(Table::Warms, &wanted)?;
            let targets = ledger.all::<Stored>(Table::Targets, &format!("{wanted}/"))?;
            Ok((header, targets))
        });
        let read = read.await.unwrap_or(Err(LedgerError::Stopping));
        let (header, targets) = read.map_err(|e| not_kept(&e))?;
        let targets = targets.into_iter().map(|(_, stored)| stored).collect();
        Ok((header.ok_or_else(|| unknown(id))?, targets))
    }

    /// Whether a warm is one of a project, or of any.
    ///
    /// # Errors
    /// When it is not, or the ledger fails.
    pub(crate) async fn seen(&self, project: Option<&str>, id: &str) -> Result<(), Problem> {
        let (owner, _) = self.about(id).await?;
        match project.is_none_or(|project| *project == *owner) {
            true => Ok(()),
            false => Err(unknown(id)),
        }
    }

    /// Warms of a project or of all, newest first, of images whose hash begins with `hash`: at most `limit`, and no further
    /// ones when those have [`TARGETS`] targets together.
    ///
    /// # Errors
    /// When the ledger fails.
    pub(crate) async fn list(
        &self,
        project: Option<&str>,
        limit: usize,
        hash: Option<&str>,
    ) -> Result<Vec<Warm>, Problem> {
        let mut ids: BTreeSet<String> = self.past().keys().cloned().collect();
        ids.extend(self.state().live.keys().cloned());
        let (mut warms, mut targets) = (Vec::new(), 0);
        for id in ids.iter().rev() {
            if warms.len() >= limit || targets >= TARGETS {
                break;
            }
            // One may be forgotten meanwhile.
            let Ok((owner, images)) = self.about(id).await else {
                continue;
            };
            if project.is_some_and(|project| *project != *owner) {
                continue;
            }
            if !images
                .iter()
                .any(|image| hash.is_none_or(|hash| image.hex().starts_with(hash)))
            {
                continue;
            }
            if let Ok(warm) = self.get(id).await {
                targets += warm.nodes.len();
                warms.push(warm);
            }
        }
        Ok(warms)
    }

    /// Project and images of a warm.
    async fn about(&self, id: &str) -> Result<(Arc<str>, Vec<Digest>), Problem> {
        let about = |header: &Header| {
            let images = header.images.iter().map(|image| image.hash);
            (header.project().into(), images.collect())
        };
        if let Some(live) = self.state().live.get(id) {
            return Ok(about(&live.header));
        }
        let (ledger, wanted) = (self.ledger.clone(), id.to_owned());
        let read = tokio::task::spawn_blocking(move || ledger.get(Table::Warms, &wanted));
        let read = read.await.unwrap_or(Err(LedgerError::Stopping));
        let header: Option<Header> = read.map_err(|e| not_kept(&e))?;
        Ok(about(&header.ok_or_else(|| unknown(id))?))
    }

    /// Events of a warm after the one numbered `after`.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn follow(&self, id: &str, after: u64) -> Result<Events, Problem> {
        if let Some(live) = self.state().live.get(id) {
            return Ok(Events::Live(Follower::new(live.log.clone(), after)));
        }
        let (header, targets) = self.kept(id).await?;
        if after >= header.last_event {
            return Ok(Events::Past(None));
        }
        let event = WarmEvent {
            seq: header.last_event,
            time: header.finished.clone().unwrap_or_default(),
            kind: WarmEventKind::Finished {
                warm: Box::new(header.shown(&targets)),
            },
        };
        let json = serde_json::to_string(&event).unwrap_or_default();
        Ok(Events::Past(Some(Line {
            seq: event.seq,
            json: json.into(),
        })))
    }

    /// Ends a warm: what is not ready is given up.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn cancel(self: &Arc<Self>, id: &str) -> Result<Warm, Problem> {
        match self.with(|state| state.cancel(id)) {
            Some(warm) => Ok(warm),
            None => self.get(id).await,
        }
    }

    /// Lets what failed begin again.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn retry(self: &Arc<Self>, id: &str) -> Result<Warm, Problem> {
        let live = self.state().live.contains_key(id);
        if !live {
            let (mut header, targets) = self.kept(id).await?;
            header.last_event += 1;
            self.past().remove(id);
            self.with(|state| {
                // Somebody may have done the same meanwhile.
                if !state.live.contains_key(id) {
                    state.begin(header, targets);
                }
            });
        }
        let warm = self.with(|state| state.retry(id));
        self.save();
        warm.ok_or_else(|| unknown(id))
    }

    /// A node is connected.
    pub(crate) fn up(self: &Arc<Self>, node: &str) {
        self.with(|state| state.up(node));
    }

    /// A node is not connected any more.
    pub(crate) fn down(self: &Arc<Self>, node: &str) {
        self.with(|state| state.down(node));
    }

    /// A node was removed.
    pub(crate) fn removed(self: &Arc<Self>, node: &str) {
        self.with(|state| state.removed(node));
    }

    /// A node reports.
    pub(crate) fn report(self: &Arc<Self>, node: &str, report: &Report) {
        self.with(|state| match report {
            Report::Pulling {
                id,
                done,
                total,
                layers,
            } => state.pulling(node, id, *done, *total, layers),
            Report::Warmed { id, receipt } => state.warmed(node, id, receipt),
            Report::WarmFailed {
                id,
                error,
                retries_left,
            } => state.failed(node, id, error, *retries_left),
            Report::Cache { put, .. } => state.cached(node, put),
            _ => {}
        });
    }

    /// What time brings, until the task is dropped. Begins what an earlier service left.
    pub(crate) async fn run(self: Arc<Self>) {
        let pause = TICK.min(self.nodes.lost_after() / 4);
        let mut ticks = tokio::time::interval(pause.max(Duration::from_millis(20)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notes = tokio::time::interval(NOTE);
        notes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.with(State::tick),
                _ = notes.tick() => self.with(State::touch),
                () = self.changed.notified() => {
                    // What changes together is written together.
                    tokio::time::sleep(SAVE).await;
                    self.save();
                }
            }
        }
    }

    /// Has everything written down.
    ///
    /// # Errors
    /// When the ledger fails.
    pub(crate) async fn flush(&self) -> Result<(), LedgerError> {
        let kept = {
            let mut state = self.state();
            state.touch();
            let (changes, _) = state.changes();
            self.ledger.begin(changes)
        };
        kept.await
    }

    /// Waits until no warm runs.
    pub(crate) async fn idle(&self) {
        loop {
            let running = |live: &state::Live| live.header.status == WarmStatus::Running;
            if !self.state().live.values().any(running) {
                return;
            }
            tokio::time::sleep(IDLE_POLL).await;
        }
    }
}

/// Brings an image to a region's registry for all warms that wait there, in several tries if need
/// be, as long as some wait.
async fn copy(warms: Arc<Warms>, region: String, image: ImageAt) {
    let wave = (region, image.digest);
    let mut pause = COPY_PAUSE;
    for left in (0..COPY_TRIES).rev() {
        let done = try_copy(&warms, &wave, &image).await;
        let Err(error) = &done else {
            return warms.with(|state| state.copied(&wave, done));
        };
        if left == 0 || !warms.with(|state| state.copy_failed(&wave, error, left)) {
            return warms.with(|state| state.copied(&wave, done));
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn try_copy(
    warms: &Arc<Warms>,
    wave: &(String, Digest),
    image: &ImageAt,
) -> Result<(), Problem> {
    let Some(mut copying) = warms.regions.bring(&wave.0, image) else {
        return Ok(());
    };
    loop {
        let now = copying.borrow_and_update().clone();
        if now.total > 0 {
            warms.with(|state| state.copying(wave, image.hash, now.done, now.total));
        }
        if let Some(done) = now.ended {
            return done;
        }
        tokio::time::sleep(COPY_PROGRESS).await;
        if copying.changed().await.is_err() && copying.borrow().ended.is_none() {
            let detail = "the service stops".to_owned();
            return Err(trouble(problem::UNAVAILABLE, "the copy broke off", detail));
        }
    }
}
