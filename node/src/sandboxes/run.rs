//! One sandbox from start to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chalk_core::wire::agent::ImageRef;
use chalk_core::wire::{Problem, SandboxEnd, SandboxRequest, SandboxState};
use chalk_sandbox::{Exit, SandboxError, Status};
use chalk_watch::traces;
use tracing::{Instrument as _, Span};

use super::log::Log;
use super::plan::Plan;
use super::problems::{bad_request, ending, node_failed, not_running};
use super::process::{self, Process, how_ended};
use super::{Entry, MAIN, Shared, below, disk, now, plan};

/// Makes a sandbox known and starts it in the background.
pub(super) fn start(shared: &Arc<Shared>, id: String, image: ImageRef, request: SandboxRequest) {
    if below(&shared.settings.records, &id).is_none() {
        tracing::error!(id, "no name for a sandbox");
        return;
    }
    let output = shared.records.output(&id, MAIN);
    let followed = request.stop_on_disconnect || request.tty.is_some();
    let log = Log::create(output, shared.settings.log_limit, followed);
    let (log, trouble) = match log {
        Ok(log) => (log, None),
        Err(error) => (Log::nowhere(), Some(error)),
    };
    let entry = Arc::new(Entry::new(id.clone(), Process::new(log)));
    {
        let mut entries = shared.lock();
        if entries.contains_key(&id) {
            // The same order once more, after a connection was lost.
            return;
        }
        entries.insert(id, Arc::clone(&entry));
    }
    let shared = Arc::clone(shared);
    let span = span(&entry.id, &image);
    let work = async move {
        shared.update(&entry, |_| ());
        let result = match trouble {
            Some(error) => Err(node_failed(
                "the output of the sandbox cannot be kept",
                &error,
            )),
            // Looked at when it is known: the end of all finds it, or it finds that.
            None if shared.slots.is_closed() => Err(ending()),
            None => run(&shared, &entry, &image, &request).await,
        };
        finish(&shared, &entry, result);
    };
    tokio::spawn(work.instrument(span));
}

/// The span of a sandbox, in the trace of whoever asked for it.
fn span(id: &str, image: &ImageRef) -> Span {
    let span = tracing::info_span!(
        target: traces::TARGET,
        parent: None,
        "sandbox",
        sandbox = id,
        image = %image.digest,
    );
    if let Some(parent) = &image.traceparent {
        traces::follow(&span, parent);
    }
    span
}

/// Ends a sandbox: its stop signal, and after `grace` the kill. Does not wait for the end.
pub(super) fn stop(entry: &Arc<Entry>, grace: Duration, reason: SandboxEnd) {
    let first = entry.stop().reason.replace(reason);
    if let Some(first) = first {
        // The first reason is why it ends; a second stop can only be quicker.
        entry.stop().reason = Some(first);
    }
    let main = entry.main().as_ref().map(|m| (m.stop_signal, m.is_idle()));
    let process = entry.processes().get(MAIN).cloned();
    let (Some((signal, idle)), Some(process), false) = (main, process, grace.is_zero()) else {
        entry.cancel.cancel();
        return;
    };
    let entry = Arc::clone(entry);
    tokio::spawn(async move {
        let gentle = async {
            if idle {
                // All that is done in it is done by the others, which end with the main process.
                end_others(&entry, signal).await;
            }
            if process.signal(signal).await.is_err() {
                return;
            }
            let mut report = entry.report.subscribe();
            let _ = report.wait_for(|report| report.state.is_final()).await;
        };
        if tokio::time::timeout(grace, gentle).await.is_err() {
            entry.cancel.cancel();
        }
    });
}

/// Sends a signal to all processes but the main one, and waits until they have ended.
async fn end_others(entry: &Entry, signal: i32) {
    let others: Vec<Arc<Process>> = {
        let processes = entry.processes();
        let others = processes.iter().filter(|(name, _)| *name != MAIN);
        others.map(|(_, process)| process.clone()).collect()
    };
    let others = others.iter().filter(|process| !process.log().has_ended());
    let ends = others.map(|process| async move {
        if process.signal(signal).await.is_ok() {
            process.log().ended().await;
        }
    });
    futures_util::future::join_all(ends).await;
}

/// How the main process ended, and whether memory ran out.
struct Ended {
    how: process::Ended,
    warning: Option<String>,
}

async fn run(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    image: &ImageRef,
    request: &SandboxRequest,
) -> Result<Ended, Problem> {
    check(request)?;
    if let Some(ended) = attempt(shared, entry, image, request, true).await? {
        return Ok(ended);
    }
    tracing::warn!(
        id = entry.id,
        "the place of a sandbox ended before the sandbox began; another one is taken"
    );
    let ended = attempt(shared, entry, image, request, false).await?;
    ended.ok_or_else(|| not_running("the sandbox is gone", ""))
}

/// Runs it in one place; `None` when that ended before anything of the sandbox ran in it, and it
/// may be tried `again`.
async fn attempt(
    shared: &Arc<Shared>,
    entry: &Arc<Entry>,
    image: &ImageRef,
    request: &SandboxRequest,
    again: bool,
) -> Result<Option<Ended>, Problem> {
    let began = Instant::now();
    let starting = tracing::info_span!(target: traces::TARGET, "start");
    let prepared = async {
        // A place is at hand, mostly; an image may have to be fetched.
        let place = async {
            let slots = &shared.slots;
            match again {
                true => slots.take(request.limits.disk).await,
                // What ended one of those that are ready may have ended all.
                false => slots.make_one(request.limits.disk).await,
            }
        };
        let (lease, slot) = tokio::join!(shared.images.lease(image), place);
        let (lease, slot) = (lease?, slot?);
        if again {
            shared.update(entry, |report| report.warm = lease.warm);
        }
        let plan = plan::make(shared, &entry.id, request, &lease, &slot.home).await?;
        Ok::<_, Problem>((lease, slot, plan))
    };
    let (lease, slot, plan) = tokio::select! {
        prepared = prepared.instrument(starting.clone()) => prepared?,
        () = entry.cancel.cancelled() => return Ok(Some(stopped_early(entry))),
    };
    let Plan {
        spec,
        process,
        held,
        limits,
        warnings,
    } = plan;
    slot.home.limit(&limits)?;
    let warned = !warnings.is_empty();
    // Told with the next change.
    entry.change(
        |report| {
            report.args.clone_from(&process.args);
            report.warnings = warnings;
        },
        |_| (),
    );
    *entry.main() = Some(process);
    let main = entry
        .processes()
        .get(MAIN)
        .cloned()
        .ok_or_else(|| not_running("the sandbox is gone", ""))?;

    let mut running = slot
        .spare
        .run(&spec)
        .map_err(|error| super::problems::of_sandbox(&error))?;
    main.connect(&mut running, request.stdin).await;
    let handle = running.handle();
    let (shared_, entry_) = (Arc::clone(shared), Arc::clone(entry));
    let started = tokio::spawn(async move {
        let runs = handle.started().await;
        drop(starting);
        if runs {
            shared_
                .metrics
                .started(began.elapsed(), entry_.report.borrow().warm);
            shared_.update(&entry_, |report| {
                report.state = SandboxState::Running;
                report.started = Some(now());
            });
        } else if warned {
            shared_.update(&entry_, |_| ());
        }
        runs
    });
    let exit = main.wait(running, &entry.cancel).await;
    // Its report comes before that of the end.
    let began = started.await.unwrap_or(true);
    let oom_kills = slot.home.oom_kills();
    // Layers stay mounted until nothing of the sandbox sees them.
    drop((held, lease));
    let died = matches!(exit, Err(SandboxError::HelperDied { .. })) && oom_kills == 0;
    // What a client wrote to it would be lost.
    let untouched = !began && !request.stdin && entry.stop().reason.is_none();
    if again && died && untouched {
        return Ok(None);
    }
    ended(entry, &exit, oom_kills).map(Some)
}

fn check(request: &SandboxRequest) -> Result<(), Problem> {
    if let Some(seconds) = request.limits.timeout_seconds
        && Duration::try_from_secs_f64(seconds).is_err()
    {
        return Err(bad_request(
            "the time limit is no number of seconds",
            &format!("{seconds} stands there"),
            "",
        ));
    }
    match request.limits.disk {
        Some(disk) if disk < disk::MIN_SIZE => Err(bad_request(
            "the limit of the disk is too small",
            "at least 4 MiB are needed",
            "",
        )),
        Some(disk) if disk > disk::MAX_SIZE => Err(bad_request(
            "the limit of the disk is too large",
            "less than 16 TiB can be had",
            "",
        )),
        _ => Ok(()),
    }
}

const KILLED: process::Ended = process::Ended {
    code: 128 + libc::SIGKILL,
    signal: Some(libc::SIGKILL),
    ended_by: None,
};

/// A stop that came before there was a process.
fn stopped_early(entry: &Entry) -> Ended {
    let how = process::Ended {
        ended_by: entry.stop().reason,
        ..KILLED
    };
    Ended { how, warning: None }
}

fn ended(
    entry: &Entry,
    exit: &Result<Exit, SandboxError>,
    oom_kills: u64,
) -> Result<Ended, Problem> {
    // The helper itself never needs much; who is killed with it was out of memory.
    let how = match exit {
        Err(SandboxError::HelperDied { .. }) if oom_kills > 0 => KILLED,
        exit => how_ended(exit)?,
    };
    let reason = entry.stop().reason;
    let timed_out = matches!(exit, Ok(exit) if exit.status == Status::TimedOut);
    let (ended_by, warning) = match (timed_out, reason, oom_kills) {
        (true, ..) => (Some(SandboxEnd::TimedOut), None),
        (_, Some(reason), _) => (Some(reason), None),
        (_, None, 0) => (None, None),
        _ if how.code == 0 => (
            None,
            Some(format!(
                "{oom_kills} process(es) were killed because the memory limit was reached"
            )),
        ),
        _ => (Some(SandboxEnd::OutOfMemory), None),
    };
    let how = process::Ended { ended_by, ..how };
    Ok(Ended { how, warning })
}

/// Makes the end known: last the output, so that who has seen its end finds the state final.
fn finish(shared: &Shared, entry: &Entry, result: Result<Ended, Problem>) {
    let told = match &result {
        Ok(ended) => Ok(ended.how),
        Err(problem) => Err(problem.clone()),
    };
    shared.update(entry, |report| {
        report.finished = Some(now());
        match result {
            Ok(ended) => {
                report.state = SandboxState::Exited;
                report.exit_code = Some(ended.how.code);
                report.ended_by = ended.how.ended_by;
                report.warnings.extend(ended.warning);
            }
            Err(problem) => {
                shared.metrics.failed();
                report.state = SandboxState::Failed;
                report.error = Some(problem);
            }
        }
    });
    // No further process outlives the main one; their own tasks say how they ended.
    if let Some(main) = entry.processes().get(MAIN) {
        main.finish(&told);
    }
}
