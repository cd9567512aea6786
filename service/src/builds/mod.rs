//! The queue of builds: single flight by image hash, a limit on what runs and what waits,
//! cancellation, and the record and events of every build.
//!
//! - Requests of one project for one hash share one build while it is queued or runs. A request that
//!   forces steps shares only with others that force them, since a plain build may take its layers
//!   from the cache; a plain request is content with a forced build. Secrets and compression of the
//!   first request count.
//! - A build ends early when it is cancelled by [`Builds::cancel`], when its last follower is gone
//!   (only if every request for it asked so), and when the service stops.
//! - A build's directory `builds/<id>/` holds `build.json`, its record, and `events.jsonl`
//!   ([`log`]). The index holds the record, too, to list it.

mod documents;
pub(crate) mod live;
mod log;
pub(crate) mod record;
mod recovery;
mod run;
mod watched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use chalk_core::wire::{Build, BuildStatus, Event, EventKind, Problem};
use chalk_core::{Digest, Spec};
use chalk_store::failpoint::{Step, around};
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, Span};

use crate::catalog::{Catalog, CatalogError};
use crate::engine::{Compression, Engine, EventSink, Secret};
use crate::ids::Ids;
use crate::index::{Index, IndexError};
use crate::metrics::BuildMetrics;
use crate::places::Name;
use crate::projects::Projects;
use crate::settings;
use crate::state::StateError;

pub(crate) use live::{FollowGuard, Live};
pub(crate) use log::{Follower, Line};

/// How often is looked whether all builds have ended.
const IDLE_POLL: Duration = Duration::from_millis(20);
/// How often, and how many times, is looked whether a client that left is off the line.
const LEAVE_PAUSE: Duration = Duration::from_millis(20);
const LEAVE_TRIES: usize = 50;
/// Reused builds that are remembered, so that a client can ask for them by id.
const REUSED: usize = 256;

/// Why a build is not taken, or not found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildsError {
    /// The service stops.
    #[error("the service stops and takes no more builds")]
    Stopping,
    /// Too many wait.
    #[error("{0} builds wait already (setting `build.queue_limit`)")]
    Full(usize),
    /// No such build.
    #[error("there is no build `{0}`")]
    Unknown(String),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A quota of the project is used up.
    #[error("{}", .0.detail)]
    Quota(Box<Problem>),
    /// A name cannot be given.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A document cannot be kept with a build.
    #[error(transparent)]
    State(#[from] StateError),
    /// The directory of the build cannot be used.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A build that is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Spec with every base pinned.
    pub(crate) spec: Spec,
    pub(crate) image_hash: Digest,
    pub(crate) recipe_hash: Digest,
    pub(crate) name: Option<Name>,
    /// Project that it is for.
    pub(crate) project: Arc<str>,
    pub(crate) force: bool,
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) cancel_on_disconnect: bool,
    pub(crate) compression: Option<Compression>,
    /// As [`Job::verify`](crate::engine::Job::verify).
    pub(crate) verify: bool,
}

impl Wanted {
    /// From where on steps run even when they are cached: nowhere, or the number of steps before.
    /// Zero is more than the first step: the stages of a Dockerfile, too.
    pub(crate) fn forced_from(&self) -> Option<usize> {
        if self.force {
            return Some(0);
        }
        let step = self.spec.steps.iter().position(|step| step.force)?;
        Some(step + 1)
    }
}

/// All builds.
pub(crate) struct Builds {
    dir: PathBuf,
    settings: settings::Build,
    engine: Arc<dyn Engine>,
    catalog: Arc<Catalog>,
    projects: Arc<Projects>,
    index: Arc<Index>,
    metrics: BuildMetrics,
    queue: Mutex<Queue>,
    tasks: TaskTracker,
    ids: Ids,
}

#[derive(Default)]
struct Queue {
    /// Builds that wait or run, by id.
    live: BTreeMap<String, Arc<Live>>,
    waiting: VecDeque<Arc<Live>>,
    /// Hashes of the builds that run, each once.
    running: BTreeSet<Digest>,
    reused: VecDeque<Build>,
    stopping: bool,
}

impl Queue {
    /// Whether a build of that hash may run now. Two of one hash (one of them forced) follow each
    /// other, so that what the later one publishes is what stays.
    fn has_place(&self, hash: &Digest, parallel: usize) -> bool {
        self.running.len() < parallel && !self.running.contains(hash)
    }

    /// Builds of a project that wait or run.
    fn of_project(&self, project: &str) -> usize {
        let live = self.live.values();
        live.filter(|live| *live.project() == *project && !live.is_over())
            .count()
    }
}

impl Builds {
    pub(crate) fn new(
        dir: PathBuf,
        settings: settings::Build,
        engine: Arc<dyn Engine>,
        catalog: Arc<Catalog>,
        projects: Arc<Projects>,
        index: Arc<Index>,
    ) -> Self {
        Self {
            dir,
            settings,
            engine,
            catalog,
            projects,
            index,
            metrics: BuildMetrics::default(),
            queue: Mutex::default(),
            tasks: TaskTracker::new(),
            ids: Ids::default(),
        }
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &BuildMetrics {
        &self.metrics
    }

    /// How many builds run, and how many wait.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        let queue = self.queue();
        (queue.running.len(), queue.waiting.len())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is changed by short pieces of code that do not panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build_dir(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    fn events_path(&self, id: &str) -> PathBuf {
        self.build_dir(id).join("events.jsonl")
    }

    /// A fresh record.
    fn record(&self, id: String, wanted: &Wanted) -> Build {
        Build {
            id,
            status: BuildStatus::Queued,
            image_hash: wanted.image_hash,
            recipe_hash: wanted.recipe_hash,
            name: wanted.name.as_ref().map(ToString::to_string),
            project: wanted.project.to_string(),
            image: None,
            digest: None,
            created: jiff::Timestamp::now().to_string(),
            finished: None,
            seconds: 0.0,
            steps: Vec::new(),
            error: None,
            verification: None,
        }
    }

    /// A build that found its image finished: nothing runs, nothing is written.
    pub(crate) fn reused(&self, wanted: &Wanted, digest: Digest) -> Build {
        let mut build = self.record(self.ids.next(), wanted);
        build.status = BuildStatus::Reused;
        build.image = Some(self.catalog.pullable(&wanted.image_hash));
        build.digest = Some(digest);
        build.finished = Some(build.created.clone());
        build.steps = record::all_cached(&wanted.spec);
        let mut queue = self.queue();
        queue.reused.push_back(build.clone());
        if queue.reused.len() > REUSED {
            queue.reused.pop_front();
        }
        build
    }

    /// The build that a request may share, if there is one.
    pub(crate) fn join(self: &Arc<Self>, wanted: &Wanted) -> Option<Build> {
        self.joinable(&self.queue(), wanted)
    }

    fn joinable(self: &Arc<Self>, queue: &Queue, wanted: &Wanted) -> Option<Build> {
        let shared = queue.live.values().find(|live| {
            live.hash() == wanted.image_hash
                && *live.project() == *wanted.project
                && live.verifies() == wanted.verify
                && live.runs(wanted.forced_from())
                && live.open()
        })?;
        shared.join(wanted);
        if shared.cancels_when_left() {
            // In case that this client never follows it.
            self.watch_left(shared);
        }
        tracing::info!(build = shared.id(), hash = %wanted.image_hash, "build is shared");
        Some(shared.snapshot())
    }

    /// Queues a build, or shares one.
    ///
    /// # Errors
    /// When the service stops, the queue is full, or the build's directory cannot be made.
    pub(crate) async fn start(self: &Arc<Self>, wanted: Wanted) -> Result<Build, BuildsError> {
        self.admit(&self.queue(), &wanted)?;
        let record = self.record(self.ids.next(), &wanted);
        let this = self.clone();
        let kept = record.clone();
        let log = blocking(move || {
            let log = this.make_dir(&kept)?;
            this.index.put_build(&kept)?;
            Ok(log)
        })
        .await?;
        let live = Arc::new(Live::new(
            record,
            log,
            &wanted,
            self.settings.disconnect_grace,
            &self.metrics,
        ));
        let (taken, answer) = self.enqueue(&live, wanted);
        if !taken {
            let (this, id) = (self.clone(), live.id().to_owned());
            let forget = blocking(move || this.forget(&[id])).await;
            if let Err(error) = forget {
                tracing::warn!(%error, "an unused build stays behind");
            }
        }
        answer
    }

    /// Puts a build in its place, unless things changed while its directory was made.
    fn enqueue(
        self: &Arc<Self>,
        live: &Arc<Live>,
        wanted: Wanted,
    ) -> (bool, Result<Build, BuildsError>) {
        let mut queue = self.queue();
        if let Some(shared) = self.joinable(&queue, &wanted) {
            return (false, Ok(shared));
        }
        if let Err(refused) = self.admit(&queue, &wanted) {
            return (false, Err(refused));
        }
        tracing::info!(build = live.id(), hash = %live.hash(), forced_from = ?live.forced_from(), "build is queued");
        queue.live.insert(live.id().to_owned(), live.clone());
        live.set_job(wanted);
        if queue.has_place(&live.hash(), self.settings.parallel) {
            queue.running.insert(live.hash());
            let run = run::run(self.clone(), live.clone());
            self.tasks.spawn(run.instrument(live.span()));
        } else {
            queue.waiting.push_back(live.clone());
            live.emit(EventKind::Queued {
                ahead: queue.running.len() + queue.waiting.len() - 1,
            });
        }
        if live.cancels_when_left() {
            self.watch_left(live);
        }
        (true, Ok(live.snapshot()))
    }

    fn admit(&self, queue: &Queue, wanted: &Wanted) -> Result<(), BuildsError> {
        if queue.stopping {
            return Err(BuildsError::Stopping);
        }
        let own = queue.of_project(&wanted.project);
        let room = self.projects.room(&wanted.project, 0);
        room.and_then(|()| self.projects.may_build(&wanted.project, own))
            .map_err(|problem| BuildsError::Quota(Box::new(problem)))?;
        let waits = !queue.has_place(&wanted.image_hash, self.settings.parallel);
        if waits && queue.waiting.len() >= self.settings.queue_limit {
            return Err(BuildsError::Full(queue.waiting.len()));
        }
        Ok(())
    }

    fn make_dir(&self, record: &Build) -> Result<log::EventLog, BuildsError> {
        let dir = self.build_dir(&record.id);
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| BuildsError::Io {
                action,
                path,
                source,
            }
        };
        around(Step::BuildDir, || std::fs::create_dir(&dir)).map_err(io("make", &dir))?;
        let path = dir.join("build.json");
        let json = serde_json::to_vec(record).unwrap_or_default();
        around(Step::BuildRecord, || std::fs::write(&path, json)).map_err(io("write", &path))?;
        let path = self.events_path(&record.id);
        let limit = self.settings.log_limit.as_u64();
        log::EventLog::create(&path, limit).map_err(io("make", &path))
    }

    /// A build gives its place back: the one that has waited longest and may run takes it.
    fn next(self: &Arc<Self>, ended: &Live) {
        let mut queue = self.queue();
        queue.running.remove(&ended.hash());
        let parallel = self.settings.parallel;
        let may_run = |queue: &Queue| {
            let mut waiting = queue.waiting.iter();
            waiting.position(|live| queue.has_place(&live.hash(), parallel))
        };
        while let Some(live) = may_run(&queue).and_then(|at| queue.waiting.remove(at)) {
            queue.running.insert(live.hash());
            let span = live.span();
            self.tasks
                .spawn(run::run(self.clone(), live).instrument(span));
        }
        for (position, live) in queue.waiting.iter().enumerate() {
            live.emit(EventKind::Queued {
                ahead: queue.running.len() + position,
            });
        }
    }

    /// Builds of a project that wait or run.
    pub(crate) fn live_of(&self, project: &str) -> usize {
        self.queue().of_project(project)
    }

    /// Cancels a build and gives it as it is then; one that has ended stays as it is. The events
    /// tell when it has really ended.
    ///
    /// # Errors
    /// When there is no such build, or the index fails.
    pub(crate) async fn cancel(self: &Arc<Self>, id: &str) -> Result<Build, BuildsError> {
        let live = self.queue().live.get(id).cloned();
        match live {
            Some(live) => {
                self.end(&live, "it was cancelled by a client");
                Ok(live.snapshot())
            }
            None => self.get(id).await,
        }
    }

    /// A client that followed a build goes for good: ends the build now, without the grace that a
    /// broken connection has, unless another client follows it or is about to, or it is to go on
    /// without any.
    ///
    /// # Errors
    /// When there is no such build, or the index fails.
    pub(crate) async fn leave(self: &Arc<Self>, id: &str) -> Result<Build, BuildsError> {
        let live = self.queue().live.get(id).cloned();
        let Some(live) = live else {
            return self.get(id).await;
        };
        // The leaving client's own connection may still be on its way down.
        for _ in 0..LEAVE_TRIES {
            if live.left_for_good() {
                self.end(&live, "its last client left");
                break;
            }
            tokio::time::sleep(LEAVE_PAUSE).await;
        }
        Ok(live.snapshot())
    }

    /// Makes a build end. One that waits ends at once, without a place.
    fn end(self: &Arc<Self>, live: &Arc<Live>, why: &str) {
        live.cancel(why);
        let mut queue = self.queue();
        let waiting = queue.waiting.len();
        queue.waiting.retain(|other| !Arc::ptr_eq(other, live));
        if queue.waiting.len() < waiting {
            let drop = run::drop_waiting(self.clone(), live.clone());
            self.tasks.spawn(drop.instrument(live.span()));
        }
    }

    /// Cancels a build if nobody follows it for a while.
    fn watch_left(self: &Arc<Self>, live: &Arc<Live>) {
        let (this, live) = (Arc::downgrade(self), live.clone());
        let epoch = live.epoch();
        // A client may also go while the runtime stops.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            tokio::time::sleep(live.grace()).await;
            if let Some(this) = this.upgrade()
                && live.left_since(epoch)
            {
                this.end(&live, "its last client is gone");
            }
        });
    }

    /// The build of that id.
    ///
    /// # Errors
    /// When there is none, or the index fails.
    pub(crate) async fn get(self: &Arc<Self>, id: &str) -> Result<Build, BuildsError> {
        {
            let queue = self.queue();
            if let Some(live) = queue.live.get(id) {
                return Ok(live.snapshot());
            }
            if let Some(build) = queue.reused.iter().find(|build| build.id == id) {
                return Ok(build.clone());
            }
        }
        let (this, wanted) = (self.clone(), id.to_owned());
        let found = blocking(move || Ok(this.index.build(&wanted)?)).await?;
        found.ok_or_else(|| BuildsError::Unknown(id.to_owned()))
    }

    /// Builds, newest first, from `before` on: of a project, of a name, and of an image whose hash begins with the
    /// hex digits of `hash`.
    ///
    /// # Errors
    /// When the index fails.
    pub(crate) async fn list(
        self: &Arc<Self>,
        limit: usize,
        before: Option<String>,
        project: Option<String>,
        name: Option<String>,
        hash: Option<String>,
    ) -> Result<Vec<Build>, BuildsError> {
        let live: BTreeMap<String, Build> = {
            let queue = self.queue();
            let live = queue.live.iter();
            live.map(|(id, live)| (id.clone(), live.snapshot()))
                .collect()
        };
        let this = self.clone();
        blocking(move || {
            let wanted = |kept: Build| {
                let build = live.get(&kept.id).cloned().unwrap_or(kept);
                let of_project = project.as_ref().is_none_or(|own| *own == build.project);
                let of_name = name.is_none() || build.name == name;
                let of_hash = hash
                    .as_ref()
                    .is_none_or(|hex| build.image_hash.hex().starts_with(hex.as_str()));
                (of_project && of_name && of_hash).then_some(build)
            };
            Ok(this.index.builds(limit, before.as_deref(), wanted)?)
        })
        .await
    }

    /// The events of a build after number `after`.
    ///
    /// # Errors
    /// When there is no such build, or its events cannot be read.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        id: &str,
        after: u64,
    ) -> Result<Events, BuildsError> {
        let live = self.queue().live.get(id).cloned();
        let guard = live.clone().map(|live| FollowGuard::new(live, self));
        if live.is_none() {
            let build = self.get(id).await?;
            if build.status == BuildStatus::Reused {
                return Ok(Events::Reused((after == 0).then(|| build.into())));
            }
        }
        let path = self.events_path(id);
        let log = live.map(|live| live.log());
        let opened = blocking({
            let path = path.clone();
            move || Ok(Follower::open(&path, after, log))
        });
        match opened.await? {
            Ok(follower) => Ok(Events::Kept {
                follower: Box::new(follower),
                _guard: guard,
            }),
            Err(source) => Err(BuildsError::Io {
                action: "open",
                path,
                source,
            }),
        }
    }

    /// Forgets builds: their rows, and then their directories, so that nobody is told of a build
    /// that cannot be read any more. A directory that stays for want of time is taken up again by
    /// the next start, and forgotten with the rest.
    fn forget(&self, ids: &[String]) -> Result<(), BuildsError> {
        self.index.remove_builds(ids)?;
        for id in ids {
            let dir = self.build_dir(id);
            match around(Step::BuildForget, || std::fs::remove_dir_all(&dir)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(BuildsError::Io {
                        action: "remove",
                        path: dir,
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets the oldest finished builds beyond the setting `build.keep`.
    fn prune(&self) -> Result<(), BuildsError> {
        let mut ids = self.index.build_ids()?;
        let too_many = ids.len().saturating_sub(self.settings.keep);
        ids.truncate(too_many);
        {
            let queue = self.queue();
            ids.retain(|id| !queue.live.contains_key(id));
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.forget(&ids)
    }

    /// Builds that wait or run, each with the hash of its image.
    pub(crate) fn live(&self) -> Vec<(String, Digest)> {
        let queue = self.queue();
        let live = queue.live.values();
        live.map(|live| (live.id().to_owned(), live.hash()))
            .collect()
    }

    /// When the oldest build was asked for that waits or runs.
    pub(crate) fn oldest(&self) -> Option<SystemTime> {
        let queue = self.queue();
        let created = queue.live.values().map(|live| live.snapshot().created);
        let created = created.filter_map(|time| time.parse::<jiff::Timestamp>().ok());
        created.min().map(SystemTime::from)
    }

    /// Builds that ended so long ago: id, when, and bytes of their records. Blocks.
    ///
    /// # Errors
    /// When the index fails.
    pub(crate) fn ended_before(
        &self,
        age: Duration,
    ) -> Result<Vec<(String, String, u64)>, BuildsError> {
        let now = jiff::Timestamp::now();
        let mut ended = Vec::new();
        for id in self.index.build_ids()? {
            let Some(finished) = self.index.build(&id)?.and_then(|build| build.finished) else {
                continue;
            };
            let Ok(at) = finished.parse::<jiff::Timestamp>() else {
                continue;
            };
            if Duration::try_from(now.duration_since(at)).is_ok_and(|since| since >= age) {
                let files = std::fs::read_dir(self.build_dir(&id)).into_iter().flatten();
                let sizes = files.flatten().filter_map(|file| file.metadata().ok());
                ended.push((id, finished, sizes.map(|meta| meta.len()).sum()));
            }
        }
        Ok(ended)
    }

    /// Forgets a build unless it waits or runs; whether it did. Blocks.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub(crate) fn forget_ended(&self, id: &str) -> Result<bool, BuildsError> {
        if self.queue().live.contains_key(id) {
            return Ok(false);
        }
        self.forget(&[id.to_owned()])?;
        Ok(true)
    }

    /// Waits until no build waits or runs.
    pub(crate) async fn idle(&self) {
        while !self.queue().live.is_empty() {
            tokio::time::sleep(IDLE_POLL).await;
        }
    }

    /// Takes no more builds, cancels what waits and runs, and waits for its end at most `limit`.
    /// The layers of finished steps are kept, so the next build goes on from there.
    pub(crate) async fn stop(self: &Arc<Self>, limit: Duration) {
        let live: Vec<Arc<Live>> = {
            let mut queue = self.queue();
            queue.stopping = true;
            queue.live.values().cloned().collect()
        };
        for live in &live {
            live.interrupt();
            self.end(live, "the service stopped");
        }
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("builds did not end in time and were left");
        }
    }
}

/// The events of a build.
pub(crate) enum Events {
    /// In its log.
    Kept {
        follower: Box<Follower>,
        /// Counts the client among the followers of a build that is not at its end.
        _guard: Option<FollowGuard>,
    },
    /// Nowhere, since the build ended as soon as it was asked for: the one that is left to tell.
    Reused(Option<Box<Build>>),
}

impl Events {
    /// What comes next; nothing after the end of the build, or, unless `wait`, after what there is. A
    /// call that is given up loses nothing.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn next(&mut self, wait: bool) -> io::Result<Option<Vec<Line>>> {
        let build = match self {
            Self::Kept { follower, .. } => return follower.next(wait).await,
            Self::Reused(build) => build.take(),
        };
        let Some(build) = build else {
            return Ok(None);
        };
        let event = Event {
            seq: 1,
            time: build.created.clone(),
            kind: EventKind::Finished { build },
        };
        let json = serde_json::to_string(&event)?;
        Ok(Some(vec![Line { seq: 1, json }]))
    }
}

/// Runs file and database work on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildsError> + Send + 'static,
) -> Result<T, BuildsError> {
    let span = Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(done) => done,
        Err(_) => Err(BuildsError::Stopping),
    }
}
