//! One build from its place in the queue to its end.

use std::sync::Arc;
use std::time::Duration;

use chalk_core::wire::{Build, BuildStatus, Problem, StepState, problem};
use futures_util::FutureExt;
use tracing::{Instrument as _, Span};

use super::{Builds, BuildsError, Live, blocking};
use crate::engine::{EngineError, Outcome};

/// How long the end of a build that the disk did not take waits for the next try.
const KEEP_PAUSE: Duration = Duration::from_millis(500);

/// Runs a build that has a place, and gives the place to the next.
pub(super) async fn run(builds: Arc<Builds>, live: Arc<Live>) {
    live.watched().runs(&live.snapshot());
    tracing::info!("build runs");
    live.change(|build| build.status = BuildStatus::Running);
    let result = carry_out(&builds, &live).await;
    finish(&builds, &live, result).await;
    builds.next(&live);
}

/// Ends a build that was cancelled while it waited.
pub(super) async fn drop_waiting(builds: Arc<Builds>, live: Arc<Live>) {
    live.take_job();
    finish(&builds, &live, Err(cancelled(&live))).await;
}

async fn carry_out(builds: &Arc<Builds>, live: &Arc<Live>) -> Result<Outcome, Problem> {
    let Some(job) = live.take_job() else {
        return Err(fault("the build has nothing to do".to_owned()));
    };
    if live.cancelled().is_cancelled() {
        return Err(cancelled(live));
    }
    let building = builds.engine.build(&job, live.as_ref(), live.cancelled());
    // A panic of the engine must not take the place in the queue along.
    let built = std::panic::AssertUnwindSafe(building).catch_unwind().await;
    let outcome = match built {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(EngineError::Cancelled)) => return Err(cancelled(live)),
        Ok(Err(error)) => return Err(error.problem()),
        Err(_) => {
            return Err(fault(
                "the engine panicked; see the service's log".to_owned(),
            ));
        }
    };
    // What counts is what the registry has now.
    match builds.catalog.find(&job.image_hash).await {
        Ok(Some(_)) if job.verify => {}
        Ok(Some(_)) => {
            let handed = builds
                .catalog
                .hand_to(&builds.projects, live.project(), &job.image_hash);
            handed.await.map_err(|error| fault(error.to_string()))?;
        }
        Ok(None) => {
            let detail = "the image is not in the regional registry under its hash";
            return Err(fault(detail.to_owned()));
        }
        Err(error) => return Err(fault(error.to_string())),
    }
    Ok(outcome)
}

async fn finish(builds: &Arc<Builds>, live: &Arc<Live>, result: Result<Outcome, Problem>) {
    let mut result = result;
    // From here on nobody can join, so no name is forgotten.
    for name in live.close() {
        if result.is_ok()
            && let Err(error) = builds.catalog.name(&live.hash(), &name).await
        {
            result = Err(fault(format!(
                "the image was built but cannot be named {name}: {error}"
            )));
        }
    }
    if result.is_err() && matches!(builds.catalog.find(&live.hash()).await, Ok(None)) {
        builds.projects.release_image(live.project(), &live.hash());
    }
    live.change(|build| end(build, result, builds.catalog.pullable(&build.image_hash)));
    let build = live.snapshot();
    match &build.error {
        Some(error) if build.status == BuildStatus::Failed => {
            tracing::warn!(detail = error.detail, "build failed");
        }
        Some(error) => tracing::info!(why = error.detail, "build was cancelled"),
        None => tracing::info!(seconds = build.seconds, "build ended"),
    }
    live.watched().ends(&build);
    let log = live.log();
    let closed = blocking(move || {
        log.close(build);
        Ok(())
    });
    let kept = match closed.await {
        Ok(()) => keep(builds, live).await,
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        tracing::error!(%error, "the end of a build cannot be kept yet");
        let later = keep_later(builds.clone(), live.clone());
        builds.tasks.spawn(later.instrument(Span::current()));
        return;
    }
    builds.queue().live.remove(live.id());
}

/// Keeps the record of a build that has ended.
async fn keep(builds: &Arc<Builds>, live: &Arc<Live>) -> Result<(), BuildsError> {
    let (this, build) = (builds.clone(), live.snapshot());
    blocking(move || {
        this.index.put_build(&build)?;
        this.prune()
    })
    .await
}

/// Keeps it as soon as the disk takes it. Until then clients see it as it ended, and not as the
/// index last had it, which would be on its way for ever.
async fn keep_later(builds: Arc<Builds>, live: Arc<Live>) {
    while !builds.queue().stopping {
        tokio::time::sleep(KEEP_PAUSE).await;
        if keep(&builds, &live).await.is_ok() {
            break;
        }
    }
    builds.queue().live.remove(live.id());
}

/// Writes the end of a build into its record.
pub(super) fn end(build: &mut Build, result: Result<Outcome, Problem>, image: String) {
    build.finished = Some(jiff::Timestamp::now().to_string());
    build.seconds = super::record::seconds_since(&build.created);
    match result {
        Ok(outcome) => {
            build.status = BuildStatus::Built;
            build.image = Some(image);
            build.digest = Some(outcome.manifest);
            build.steps = outcome.steps;
            build.verification = outcome.verification;
        }
        Err(error) => {
            build.status = match error.kind.as_str() {
                problem::CANCELLED | problem::INTERRUPTED => BuildStatus::Cancelled,
                _ => BuildStatus::Failed,
            };
            for step in &mut build.steps {
                if step.state == StepState::Running {
                    step.state = StepState::Failed;
                }
            }
            build.error = Some(error);
        }
    }
}

fn cancelled(live: &Live) -> Problem {
    let why = live.why_cancelled().unwrap_or_default();
    let kind = match live.is_interrupted() {
        true => problem::INTERRUPTED,
        false => problem::CANCELLED,
    };
    Problem {
        kind: kind.to_owned(),
        title: "build cancelled".to_owned(),
        status: 503,
        detail: why,
        hint: String::new(),
    }
}

fn fault(detail: String) -> Problem {
    Problem {
        kind: problem::INTERNAL.to_owned(),
        title: "a fault of the service".to_owned(),
        status: 500,
        detail,
        hint: "see the service's log".to_owned(),
    }
}
