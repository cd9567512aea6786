//! One build: its stages, in parallel where they do not depend on each other, and only those
//! that the result needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chalk_core::lower::{
    Action, Build as Lowered, BuildStage, CopySource, Installed, MountSource, lower,
};
use chalk_core::spec::{BaseImage, StageBase};
use chalk_core::tree::Tree;
use chalk_core::wire::{BuildStep, EventKind, PlanState, PlanStep, StepState};
use chalk_core::{Digest, Spec};
use chalk_sandbox::userns::{self, Standing};
use chalk_store::BlobStore;
use futures_util::future::{BoxFuture, Shared as SharedFuture};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::caches::Caches;
use super::push::Pusher;
use super::scratch::Scratch;
use super::stage::StageDone;
use super::{PARALLEL, Shared, forced, missing_blobs, storage};
use crate::bases::Base;
use crate::engine::{EngineError, EventSink, Job, Outcome};
use crate::secrets::redact::Redaction;

/// Largest JSON of a directory tree.
pub(in crate::engine) const TREE_LIMIT: u64 = 256 << 20;

/// Says that a stage did not come to its end; why is noted in the build.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Stop;

/// A stage on its way.
pub(in crate::engine) type StageFuture<'a> =
    SharedFuture<BoxFuture<'a, Result<Arc<StageDone>, Stop>>>;

/// What the stages of one build share.
pub(in crate::engine) struct Build<'a> {
    pub(in crate::engine) shared: &'a Shared,
    pub(in crate::engine) job: &'a Job,
    pub(in crate::engine) events: &'a dyn EventSink,
    /// Of the build; also triggered when one stage fails.
    pub(in crate::engine) cancel: CancellationToken,
    pub(in crate::engine) stages: Vec<BuildStage>,
    /// By stage: the image that it starts from, if it starts from one.
    pub(in crate::engine) bases: Vec<Option<Arc<Base>>>,
    /// By stage and operation: whether it must run.
    pub(in crate::engine) forced: Vec<Vec<bool>>,
    pub(in crate::engine) pusher: Pusher<'a>,
    pub(in crate::engine) scratch: Scratch,
    /// What no output of a step may show.
    pub(in crate::engine) redaction: Redaction,
    /// Where new layers are packed to.
    pub(in crate::engine) store: BlobStore,
    /// Empty cache directories, where those of the builder are not to be used.
    own_caches: Option<Caches>,
    records: Mutex<Vec<BuildStep>>,
    failure: Mutex<Option<EngineError>>,
}

/// What carries the stages of a build out.
#[async_trait]
pub(in crate::engine) trait Executor: Send + Sync {
    /// Checks, before anything is done, that it can.
    ///
    /// # Errors
    /// What is missing.
    fn check(&self, lowered: &Lowered) -> Result<(), EngineError>;

    /// Carries out the last stage and what it needs; tells of steps that start, are cached, end or
    /// fail.
    ///
    /// # Errors
    /// When it ends early; the reason is noted by [`Build::stop`].
    async fn run(&self, build: &Build<'_>) -> Result<Arc<StageDone>, Stop>;
}

/// The executor of this process.
pub(in crate::engine) struct Here;

#[async_trait]
impl Executor for Here {
    fn check(&self, lowered: &Lowered) -> Result<(), EngineError> {
        check_rights(lowered)
    }

    async fn run(&self, build: &Build<'_>) -> Result<Arc<StageDone>, Stop> {
        build.run_stages().await
    }
}

/// Carries a build out.
///
/// # Errors
/// See [`EngineError`].
pub(in crate::engine) async fn build(
    shared: &Shared,
    executor: &dyn Executor,
    job: &Job,
    events: &dyn EventSink,
    cancel: &CancellationToken,
) -> Result<Outcome, EngineError> {
    let images = base_images(shared, &job.spec, cancel).await?;
    let find = |image: &BaseImage| {
        let base = image.digest.and_then(|digest| images.get(&digest));
        let missing = || EngineError::Spec(format!("base {} is not pinned", image.reference));
        base.cloned().ok_or_else(missing)
    };
    let lowered: Lowered = lower(&job.spec, &mut |image: &BaseImage| {
        find(image).map(|base| base.config.config.clone())
    })
    .map_err(|e| EngineError::Spec(e.to_string()))?;
    let bases = lowered
        .stages
        .iter()
        .map(|stage| match &stage.base {
            StageBase::Image(image) => find(image).map(Some),
            _ => Ok(None),
        })
        .collect::<Result<Vec<_>, _>>()?;
    executor.check(&lowered)?;
    check_files(shared, &lowered).await?;
    let steps = listed(&job.spec);
    events.emit(EventKind::Started {
        steps: steps.clone(),
    });
    let redaction = Redaction::new(&job.secrets);
    let redaction = redaction.map_err(|error| EngineError::Host(error.to_string()))?;
    let scratch = Scratch::new(&shared.scratch, &job.id)?;
    let (store, own_caches) = places(shared, job, &scratch)?;
    let Lowered {
        stages,
        config,
        author,
    } = lowered;
    let build = Build {
        shared,
        job,
        events,
        cancel: cancel.child_token(),
        forced: forced_operations(job, &stages),
        stages,
        pusher: Pusher::new(shared, events, images.into_values().collect()),
        bases,
        redaction,
        scratch,
        store,
        own_caches,
        records: Mutex::new(steps.into_iter().map(waiting).collect()),
        failure: Mutex::new(None),
    };
    let done = executor.run(&build).await;
    let outcome = match done {
        Ok(done) => {
            build.settle();
            match job.verify {
                true => build.verify(&done, config, author).await,
                false => build.publish(&done, config, author).await,
            }
        }
        Err(Stop) => Err(build.failure(cancel)),
    };
    let steps = build.records();
    build.scratch.close().await;
    shared.dirs.settle_later();
    outcome.map(|outcome| Outcome { steps, ..outcome })
}

/// Where new layers go and where steps keep their caches: with the builder's, or, where nothing of
/// a build is to be kept or reused, in its scratch directory (`None`: the builder's).
fn places(
    shared: &Shared,
    job: &Job,
    scratch: &Scratch,
) -> Result<(BlobStore, Option<Caches>), EngineError> {
    if !job.verify {
        return Ok((shared.blobs.clone(), None));
    }
    let store = BlobStore::open(scratch.dir("store")?);
    let store = store.map_err(|e| storage("make a store for the build", &e))?;
    Ok((store, Some(Caches::new(scratch.dir("caches")?))))
}

fn waiting(step: PlanStep) -> BuildStep {
    BuildStep {
        kind: step.kind,
        key: step.key,
        title: step.title,
        state: StepState::Waiting,
        seconds: 0.0,
        layer_bytes: 0,
    }
}

fn listed(spec: &Spec) -> Vec<PlanStep> {
    let steps = spec.steps_with_keys().into_iter();
    let step = |step: chalk_core::keys::KeyedStep| PlanStep {
        kind: step.kind.to_owned(),
        key: step.key,
        title: step.title,
        state: PlanState::Run,
    };
    steps.map(step).collect()
}

/// Manifest and config of every base that the spec names, by digest.
async fn base_images(
    shared: &Shared,
    spec: &Spec,
    cancel: &CancellationToken,
) -> Result<BTreeMap<Digest, Arc<Base>>, EngineError> {
    let asked = spec.base_images().into_iter().map(|image| {
        let platform = image.platform.as_ref().unwrap_or(&spec.platform);
        shared.bases.image(image, platform).boxed()
    });
    let asked: Vec<_> = asked.collect();
    let fetch = stream::iter(asked).buffer_unordered(PARALLEL).try_collect();
    tokio::select! {
        found = fetch => {
            let found: Vec<Arc<Base>> = found?;
            Ok(found.into_iter().map(|base| (base.digest, base)).collect())
        }
        () = cancel.cancelled() => Err(EngineError::Cancelled),
    }
}

/// Checks that this user may carry the stages out: processes need an isolated root, and layers of
/// bases hold files of many owners.
fn check_rights(lowered: &Lowered) -> Result<(), EngineError> {
    let Standing::Ordinary(barrier) = userns::standing() else {
        return Ok(());
    };
    let mut needs_root = lowered
        .stages
        .iter()
        .any(|stage| matches!(stage.base, StageBase::Image(_)));
    for op in lowered.stages.iter().flat_map(|stage| &stage.ops) {
        visit(&op.action, &mut |action| {
            needs_root |= matches!(action, Action::Run(_) | Action::Install(_));
        });
    }
    match needs_root {
        false => Ok(()),
        true => Err(EngineError::Host(format!(
            "builds need root or a user namespace, and {barrier}: {}; or start `chalk serve` as root and set `server` (--server, CHALK_API_SERVER) to its address; `chalk doctor` says what else this user lacks",
            barrier.remedy()
        ))),
    }
}

/// Checks that every file that the stages copy is in the store.
async fn check_files(shared: &Shared, lowered: &Lowered) -> Result<(), EngineError> {
    let (mut wanted, mut trees) = (Vec::new(), Vec::new());
    for op in lowered.stages.iter().flat_map(|stage| &stage.ops) {
        visit(&op.action, &mut |action| match action {
            Action::Copy(copy) => match &copy.from {
                CopySource::Tree(tree) => trees.push(*tree),
                CopySource::Blob { digest, .. } => wanted.push(*digest),
                CopySource::Stage(_) | CopySource::Inline(_) => {}
            },
            Action::Run(run) => {
                for mount in &run.mounts {
                    if let MountSource::Context { tree, .. } = &mount.source {
                        trees.push(*tree);
                    }
                }
            }
            Action::Install(install) => {
                if let Installed::Project { project, .. } = &install.what {
                    wanted.extend([project.pyproject, project.lock]);
                }
            }
            _ => {}
        });
    }
    let missing = missing_blobs(&shared.blobs, trees.clone()).await?;
    if !missing.is_empty() {
        return Err(EngineError::MissingBlobs(missing));
    }
    for tree in trees {
        wanted.extend(shared.files_of(tree).await?);
    }
    let missing = missing_blobs(&shared.blobs, wanted).await?;
    match missing.is_empty() {
        true => Ok(()),
        false => Err(EngineError::MissingBlobs(missing)),
    }
}

/// Calls `see` with an action and those in it.
fn visit<'a>(action: &'a Action, see: &mut dyn FnMut(&'a Action)) {
    see(action);
    if let Action::Sequence(actions) = action {
        for action in actions {
            visit(action, see);
        }
    }
}

/// Stages that an action reads.
pub(in crate::engine) fn stages_read(action: &Action) -> Vec<usize> {
    let mut read = Vec::new();
    visit(action, &mut |action| match action {
        Action::Copy(copy) => {
            if let CopySource::Stage(stage) = copy.from {
                read.push(stage);
            }
        }
        Action::Run(run) => read.extend(run.mounts.iter().filter_map(|m| match &m.source {
            MountSource::Stage { stage, .. } => Some(*stage),
            MountSource::Cache { from, .. } => from.as_ref().map(|(stage, _)| *stage),
            _ => None,
        })),
        _ => {}
    });
    read
}

/// Which operations must run: forced ones, and those that build upon or read what a forced one
/// makes, since their keys do not tell.
fn forced_operations(job: &Job, stages: &[BuildStage]) -> Vec<Vec<bool>> {
    let count = job.spec.steps_with_keys().len();
    let named = forced(&job.spec, count);
    let mut all: Vec<Vec<bool>> = Vec::with_capacity(stages.len());
    for stage in stages {
        let anew = |index: usize, all: &[Vec<bool>]| {
            all.get(index).is_some_and(|ops| ops.iter().any(|f| *f))
        };
        let mut forced = match stage.base {
            StageBase::Stage(index) => anew(index, &all),
            _ => false,
        };
        let mut ops = Vec::with_capacity(stage.ops.len());
        for op in &stage.ops {
            forced |= job.force
                || op.force
                || named.get(op.step).copied().unwrap_or(false)
                || stages_read(&op.action)
                    .iter()
                    .any(|index| anew(*index, &all));
            ops.push(forced);
        }
        all.push(ops);
    }
    all
}

impl Shared {
    /// The files that a tree of the store names.
    ///
    /// # Errors
    /// When it is not there, damaged, or no tree.
    async fn files_of(&self, tree: Digest) -> Result<Vec<Digest>, EngineError> {
        let bytes = self
            .blobs
            .run(move |blobs| blobs.read_small(tree, TREE_LIMIT))
            .await
            .map_err(|e| storage("read a directory's listing", &e))?;
        Tree::files(&bytes).map_err(|e| EngineError::Spec(format!("{tree} is {e}")))
    }
}

impl<'a> Build<'a> {
    async fn run_stages(&self) -> Result<Arc<StageDone>, Stop> {
        let mut stages: Vec<StageFuture<'_>> = Vec::with_capacity(self.stages.len());
        let last = self.stages.len().saturating_sub(1);
        for index in 0..self.stages.len() {
            let earlier = stages.clone();
            let stage = async move {
                let done = self.run_stage(index, &earlier, index == last).await;
                done.map(Arc::new).map_err(|error| self.stop(error))
            };
            stages.push(stage.boxed().shared());
        }
        match stages.pop() {
            Some(result) => result.await,
            None => Err(self.stop(EngineError::Spec("the spec has no stage".to_owned()))),
        }
    }

    /// Cache directories of steps.
    pub(super) fn caches(&self) -> &Caches {
        self.own_caches.as_ref().unwrap_or(&self.shared.caches)
    }

    /// The stage that a stage builds upon in the end: one on an image, or on the empty base.
    pub(in crate::engine) fn root_stage(&self, mut index: usize) -> usize {
        while let StageBase::Stage(earlier) = self.stages[index].base {
            index = earlier;
        }
        index
    }

    /// Notes why the build ends, and stops what runs.
    pub(in crate::engine) fn stop(&self, error: EngineError) -> Stop {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // The first failure counts; what it stops fails too.
        if failure.is_none()
            && !(self.cancel.is_cancelled() && matches!(error, EngineError::Cancelled))
        {
            *failure = Some(error);
        }
        drop(failure);
        self.cancel.cancel();
        Stop
    }

    fn failure(&self, cancel: &CancellationToken) -> EngineError {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match failure.take() {
            Some(EngineError::Cancelled) | None => EngineError::Cancelled,
            Some(_) if cancel.is_cancelled() => EngineError::Cancelled,
            Some(error) => error,
        }
    }

    fn records(&self) -> Vec<BuildStep> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.clone()
    }

    /// Steps that nothing needed count as cached.
    fn settle(&self) {
        let open: Vec<usize> = {
            let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = |(_, record): &(usize, &BuildStep)| record.state == StepState::Waiting;
            let open = records.iter().enumerate().filter(waiting);
            open.map(|(index, _)| index).collect()
        };
        for step in open {
            self.cached(step, "local");
        }
    }

    /// Changes the record of a step.
    pub(in crate::engine) fn record(&self, step: usize, change: impl FnOnce(&mut BuildStep)) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(step) {
            change(record);
        }
    }

    /// The position of an operation in the list of steps; none for one that the base added.
    pub(in crate::engine) fn position(&self, step: usize, key: &Digest) -> Option<usize> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(step).filter(|r| r.key == *key).map(|_| step)
    }

    pub(in crate::engine) fn cached(&self, step: usize, source: &str) {
        self.record(step, |record| record.state = StepState::Cached);
        self.events.emit(EventKind::StepCached {
            step,
            source: source.to_owned(),
        });
    }
}
