//! From what a builder reports (vertexes and their output) to the events of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bollard_buildkit_proto::google::protobuf::Timestamp;
use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
use chalk_core::lower::{Action, MountSource, Op};
use chalk_core::wire::{EventKind, StepState, Stream};

use crate::engine::embedded::build::Build;
use crate::engine::embedded::output::StepLog;

/// Word of the events for a step that a builder had.
const BY_BUILDER: &str = "builder";
/// Number of the error stream.
const STDERR: i64 = 2;
/// Most bytes of a captured output.
const CAPTURE_LIMIT: usize = 1 << 20;

/// An operation: stage and position in it.
pub(super) type OpId = (usize, usize);

/// The name by which a vertex of an operation is known again: `1.3.0 RUN make`.
pub(super) fn vertex_name((stage, op): OpId, part: usize, title: &str) -> String {
    format!("{stage}.{op}.{part} {title}")
}

fn op_of(name: &str) -> Option<(OpId, usize)> {
    let (numbers, _) = name.split_once(' ')?;
    let mut numbers = numbers.split('.').map(str::parse::<usize>);
    match (
        numbers.next(),
        numbers.next(),
        numbers.next(),
        numbers.next(),
    ) {
        (Some(Ok(stage)), Some(Ok(op)), Some(Ok(part)), None) => Some(((stage, op), part)),
        _ => None,
    }
}

/// Why an operation did not end well.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failed {
    pub(super) op: OpId,
    pub(super) message: String,
    pub(super) exit_code: Option<i32>,
    pub(super) seconds: f64,
    pub(super) tail: Vec<String>,
}

/// A vertex whose output is wanted.
struct Captured {
    name: String,
    digests: BTreeSet<String>,
    output: Vec<u8>,
}

/// What is known of an operation.
#[derive(Default)]
struct Progress {
    /// Of vertexes that will be reported.
    parts: usize,
    /// Those that ended, and whether the builder had their result.
    ended: BTreeMap<usize, bool>,
    /// Wall time of those that ran.
    spent: Duration,
    running: Option<Instant>,
    told_start: bool,
    told_end: bool,
}

/// Follows the solves of one build on one builder.
pub(super) struct Watch<'a> {
    build: &'a Build<'a>,
    emit: &'a (dyn Fn(EventKind) + Send + Sync),
    /// Vertexes by digest: operation and part.
    vertices: BTreeMap<String, (OpId, usize)>,
    ops: BTreeMap<OpId, Progress>,
    logs: BTreeMap<OpId, StepLog<'a>>,
    /// The vertex whose output is captured.
    captured: Option<Captured>,
    /// The first operation that failed, and why.
    failed: Option<(OpId, String)>,
    /// Errors of vertexes that belong to no operation.
    other: Option<String>,
    /// What was told of vertexes that ended.
    seen: BTreeSet<String>,
}

impl<'a> Watch<'a> {
    /// Sees nothing yet.
    pub(super) fn new(build: &'a Build<'a>, emit: &'a (dyn Fn(EventKind) + Send + Sync)) -> Self {
        Self {
            build,
            emit,
            vertices: BTreeMap::new(),
            ops: BTreeMap::new(),
            logs: BTreeMap::new(),
            captured: None,
            failed: None,
            other: None,
            seen: BTreeSet::new(),
        }
    }

    /// Says of how many vertexes an operation consists.
    pub(super) fn expect(&mut self, op: OpId, parts: usize) {
        self.ops.entry(op).or_default().parts = parts;
    }

    /// Begins to keep the standard output of the vertex of that name, instead of taking it for a log.
    pub(super) fn capture(&mut self, name: &str) {
        self.captured = Some(Captured {
            name: name.to_owned(),
            digests: BTreeSet::new(),
            output: Vec::new(),
        });
    }

    /// What the captured vertex wrote; nothing is captured any more.
    pub(super) fn output(&mut self) -> Vec<u8> {
        let captured = self.captured.take();
        captured.map(|captured| captured.output).unwrap_or_default()
    }

    /// Adds a line of our own to the log of an operation.
    pub(super) fn note(&mut self, op: OpId, text: &str) {
        self.log(op).note(text);
    }

    /// Takes a report.
    pub(super) fn see(&mut self, report: &StatusResponse) {
        for vertex in &report.vertexes {
            self.vertex(vertex);
        }
        for log in &report.logs {
            self.line(log);
        }
    }

    fn vertex(&mut self, vertex: &Vertex) {
        if let Some(captured) = &mut self.captured
            && captured.name == vertex.name
        {
            // Not the digest that we know: builders may write a definition anew.
            captured.digests.insert(vertex.digest.clone());
        }
        let known = self.vertices.get(&vertex.digest).copied();
        let Some((op, part)) = known.or_else(|| op_of(&vertex.name)) else {
            if !vertex.error.is_empty() {
                self.other.get_or_insert_with(|| vertex.error.clone());
            }
            return;
        };
        self.vertices.insert(vertex.digest.clone(), (op, part));
        if !vertex.error.is_empty() {
            self.failed.get_or_insert((op, vertex.error.clone()));
            return;
        }
        if vertex.cached {
            self.ended(op, part, true);
        } else if vertex.completed.is_some() {
            if self.seen.insert(vertex.digest.clone()) {
                self.started(op);
                let spent = elapsed(vertex.started.as_ref(), vertex.completed.as_ref());
                self.ops.entry(op).or_default().spent += spent;
            }
            self.ended(op, part, false);
        } else if vertex.started.is_some() {
            self.started(op);
        }
    }

    fn started(&mut self, op: OpId) {
        let progress = self.ops.entry(op).or_default();
        progress.running.get_or_insert_with(Instant::now);
        if !progress.told_start && !progress.told_end {
            progress.told_start = true;
            self.build.begin(self.position(op));
        }
    }

    fn ended(&mut self, op: OpId, part: usize, cached: bool) {
        let progress = self.ops.entry(op).or_default();
        // A builder that had the result already of what it ran before in this build.
        progress.ended.entry(part).or_insert(cached);
        if progress.ended.len() < progress.parts || progress.told_end {
            return;
        }
        progress.told_end = true;
        progress.running = None;
        let (spent, all_cached) = (
            progress.spent.as_secs_f64(),
            progress.ended.values().all(|cached| *cached),
        );
        if let Some(log) = self.logs.remove(&op) {
            log.finish();
        }
        let Some(step) = self.position(op) else {
            return;
        };
        match all_cached {
            true => self.build.cached(step, BY_BUILDER),
            false => self.done(step, spent),
        }
    }

    fn done(&self, step: usize, seconds: f64) {
        self.build.record(step, |record| {
            record.state = StepState::Ran;
            record.seconds = seconds;
        });
        // Its layer comes when the whole image is there.
        (self.emit)(EventKind::StepDone {
            step,
            seconds,
            layer: None,
            layer_bytes: 0,
        });
    }

    /// Tells of operations that a builder did not even look at, since it had what follows, and of
    /// those that it has nothing to do with.
    pub(super) fn settle(&mut self, op: OpId, is_config: bool) {
        let progress = self.ops.entry(op).or_default();
        if std::mem::replace(&mut progress.told_end, true) {
            return;
        }
        let started = progress.told_start;
        let seconds = progress.spent.as_secs_f64();
        if let Some(log) = self.logs.remove(&op) {
            log.finish();
        }
        let Some(step) = self.position(op) else {
            return;
        };
        let mut open = false;
        self.build.record(step, |record| {
            open = matches!(record.state, StepState::Waiting | StepState::Running);
        });
        match open {
            true if is_config || started => {
                if !started {
                    self.build.begin(Some(step));
                }
                self.done(step, seconds);
            }
            true => self.build.cached(step, BY_BUILDER),
            false => {}
        }
    }

    fn line(&mut self, line: &VertexLog) {
        if let Some(captured) = &mut self.captured
            && captured.digests.contains(&line.vertex)
        {
            if line.stream != STDERR {
                let room = CAPTURE_LIMIT.saturating_sub(captured.output.len());
                let taken = line.msg.len().min(room);
                captured.output.extend_from_slice(&line.msg[..taken]);
            }
            return;
        }
        let Some((op, _)) = self.vertices.get(&line.vertex).copied() else {
            return;
        };
        let stream = match line.stream {
            STDERR => Stream::Stderr,
            _ => Stream::Stdout,
        };
        self.log(op).write(stream, &line.msg);
    }

    fn log(&mut self, op: OpId) -> &mut StepLog<'a> {
        let (build, emit) = (self.build, self.emit);
        let step = self.position_or_next(op);
        let log = || {
            let mut log = StepLog::new(step, &build.redaction, emit);
            let (stage, at) = op;
            let op = build.stages.get(stage).and_then(|stage| stage.ops.get(at));
            for name in op.map(secrets).unwrap_or_default() {
                if let Some(warning) = build.redaction.warning(name) {
                    log.note(&warning);
                }
            }
            log
        };
        self.logs.entry(op).or_insert_with(log)
    }

    fn position(&self, (stage, op): OpId) -> Option<usize> {
        let op = self.build.stages.get(stage)?.ops.get(op)?;
        self.build.position(op.step, &op.key)
    }

    fn position_or_next(&self, id: OpId) -> usize {
        let (stage, op) = id;
        let stages = &self.build.stages;
        let step = stages.get(stage).and_then(|stage| stage.ops.get(op));
        let step = step.map_or(0, |op| op.step);
        let last = || step.min(self.build.last_step());
        self.position(id).unwrap_or_else(last)
    }

    /// The operation that has run for longer than a step may.
    pub(super) fn overdue(&self, limit: Duration) -> Option<OpId> {
        let late = |progress: &Progress| progress.running.is_some_and(|at| at.elapsed() > limit);
        let found = self.ops.iter().find(|(_, progress)| late(progress));
        found.map(|(op, _)| *op)
    }

    /// The operation that failed, if one did.
    pub(super) fn failure(&mut self) -> Option<Failed> {
        let (op, error) = self.failed.take()?;
        Some(self.fail(op, &error))
    }

    /// Why a vertex failed that belongs to no operation, such as an image that cannot be pulled.
    pub(super) fn other_failure(&mut self) -> Option<String> {
        self.other.take()
    }

    /// A builder's words without values of secrets.
    pub(super) fn masked(&self, words: String) -> String {
        self.build.redaction.text(words)
    }

    /// Ends an operation with an error.
    pub(super) fn fail(&mut self, op: OpId, error: &str) -> Failed {
        let tail = self.logs.remove(&op).map(StepLog::finish);
        let exit_code = exit_code(error);
        let message = match exit_code {
            Some(code) => format!("exit code {code}"),
            None => self.masked(plain(error)),
        };
        let progress = self.ops.entry(op).or_default();
        let running = progress.running.map_or(Duration::ZERO, |at| at.elapsed());
        Failed {
            op,
            message,
            exit_code,
            seconds: (progress.spent + running).as_secs_f64(),
            tail: tail.unwrap_or_default(),
        }
    }

    /// Forgets what ran where a builder died, since another one begins anew.
    pub(super) fn forget(&mut self) {
        self.vertices.clear();
        self.seen.clear();
        self.captured = None;
        (self.failed, self.other) = (None, None);
        for (op, progress) in &mut self.ops {
            if !progress.told_end {
                progress.running = None;
                progress.spent = Duration::ZERO;
                progress.ended.clear();
                if let Some(log) = self.logs.remove(op) {
                    log.finish();
                }
            }
        }
    }
}

/// Names of the secrets that an operation is given.
fn secrets(op: &Op) -> Vec<&str> {
    let (names, mounts) = match &op.action {
        Action::Run(run) => (&run.secrets, run.mounts.as_slice()),
        Action::Install(install) => (&install.secrets, [].as_slice()),
        _ => return Vec::new(),
    };
    let mounted = mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Secret { id, .. } => Some(id),
        _ => None,
    });
    names.iter().chain(mounted).map(String::as_str).collect()
}

/// The code in BuildKit's words for a process that failed.
fn exit_code(error: &str) -> Option<i32> {
    let (_, code) = error.rsplit_once("exit code: ")?;
    let digits: String = code.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// BuildKit's words without what repeats the command.
fn plain(error: &str) -> String {
    match error.strip_prefix("executor failed running [") {
        Some(rest) => rest.rsplit_once("]: ").map_or(rest, |(_, why)| why),
        None => error,
    }
    .to_owned()
}

fn elapsed(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Duration {
    let nanos = |at: &Timestamp| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    let spent = match (from, to) {
        (Some(from), Some(to)) => nanos(to) - nanos(from),
        _ => 0,
    };
    Duration::from_nanos(u64::try_from(spent).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_operations() {
        let name = vertex_name((1, 12), 2, "RUN echo 3.4.5");
        assert_eq!(op_of(&name), Some(((1, 12), 2)));
        for other in [
            "[internal] load",
            "1.2 RUN",
            "1.2.3",
            "1.2.3.4 RUN",
            "a.b.c x",
        ] {
            assert_eq!(op_of(other), None, "{other}");
        }
    }

    #[test]
    fn exit_codes_are_found_in_buildkits_words() {
        let check = |text: &str, expect: Option<i32>| assert_eq!(exit_code(text), expect);
        check(
            "executor failed running [/bin/sh -c exit 3]: exit code: 3",
            Some(3),
        );
        check(
            "process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
            Some(1),
        );
        check("failed to compute cache key: not found", None);
        check("exit code: x", None);
        assert_eq!(
            plain("executor failed running [a ]: b]: runc did not start"),
            "runc did not start"
        );
    }
}
