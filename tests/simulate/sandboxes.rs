//! The sandboxes of a simulated node: they start, say a few lines, and end after a while. No command
//! runs in them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use chalk_core::wire::agent::{ImageRef, SandboxReport};
use chalk_core::wire::{
    ExecRequest, OutputEvent, OutputEventKind, Problem, ProcessStatus, SandboxEnd, SandboxProcess,
    SandboxRequest, SandboxState, Stream, TerminalSize, problem,
};
use chalk_node::agent::{FileBytes, FileError, FileWriter, Output, Sandboxes};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::{broadcast, watch};

use crate::cache::SimulatedImages;
use crate::chance;
use crate::engine::Pace;

/// Changes that wait for the session.
const WAITING: usize = 16;
/// Seconds that a sandbox lives: least and most.
const LIFE: (f64, f64) = (20.0, 1200.0);
/// Exit codes of programs that end by themselves.
const CODES: [&i32; 6] = [&0, &0, &0, &0, &1, &137];
/// Exit code of a program that SIGTERM ended.
const TERMINATED: i32 = 143;

/// The sandboxes of a node.
pub(crate) struct SimulatedSandboxes {
    images: Arc<SimulatedImages>,
    pace: Arc<Pace>,
    all: Arc<Mutex<BTreeMap<String, watch::Sender<SandboxReport>>>>,
    changes: broadcast::Sender<SandboxReport>,
}

impl SimulatedSandboxes {
    pub(crate) fn new(images: Arc<SimulatedImages>, pace: Arc<Pace>) -> Self {
        Self {
            images,
            pace,
            all: Arc::default(),
            changes: broadcast::Sender::new(WAITING),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, watch::Sender<SandboxReport>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, sandbox: &str) -> Result<watch::Receiver<SandboxReport>, Problem> {
        let all = self.all();
        let found = all.get(sandbox).ok_or_else(|| Problem {
            kind: problem::NOT_FOUND.to_owned(),
            title: "no such sandbox".to_owned(),
            status: 404,
            detail: format!("the node has no sandbox `{sandbox}`"),
            hint: String::new(),
        })?;
        Ok(found.subscribe())
    }

    fn end(&self, sandbox: &str, code: i32, reason: Option<SandboxEnd>) {
        if let Some(state) = self.all().get(sandbox) {
            end(state, &self.changes, code, reason);
        }
    }
}

/// Ends a sandbox unless it has ended.
fn end(
    state: &watch::Sender<SandboxReport>,
    changes: &broadcast::Sender<SandboxReport>,
    code: i32,
    reason: Option<SandboxEnd>,
) {
    let ended = state.send_if_modified(|report| {
        if report.state.is_final() {
            return false;
        }
        report.state = SandboxState::Exited;
        report.finished = Some(Timestamp::now().to_string());
        report.exit_code = Some(code);
        report.ended_by = reason;
        true
    });
    if ended {
        // Nobody listens while there is no session; the next one begins with all reports.
        let _ = changes.send(state.borrow().clone());
    }
}

fn simulated() -> Problem {
    Problem {
        kind: problem::SANDBOX_REFUSED.to_owned(),
        title: "this node is simulated".to_owned(),
        status: 400,
        detail: "nothing really runs in its sandboxes, so no command can be run in them".to_owned(),
        hint: "use `chalk node` for a real one".to_owned(),
    }
}

#[async_trait]
impl Sandboxes for SimulatedSandboxes {
    fn start(&self, id: String, image: ImageRef, request: SandboxRequest) {
        use chalk_node::agent::Images as _;

        let mut all = self.all();
        if all.contains_key(&id) {
            return;
        }
        let mut args = request.entrypoint.unwrap_or_default();
        args.extend(request.args);
        if args.is_empty() {
            args = vec!["python".to_owned(), "/app/main.py".to_owned()];
        }
        let state = watch::Sender::new(SandboxReport {
            id: id.clone(),
            state: SandboxState::Starting,
            args,
            warm: self.images.has(image.digest),
            started: None,
            finished: None,
            exit_code: None,
            ended_by: None,
            error: None,
            warnings: Vec::new(),
        });
        all.insert(id.clone(), state.clone());
        let (changes, pace) = (self.changes.clone(), self.pace.clone());
        let timeout = request.limits.timeout_seconds;
        tokio::spawn(async move {
            let mut rng = chance::of(0, format_args!("sandbox {id}"));
            let warm = state.borrow().warm;
            tokio::time::sleep(pace.seconds(if warm { 0.05 } else { 3.0 })).await;
            let begun = state.send_if_modified(|report| {
                let starts = report.state == SandboxState::Starting;
                if starts {
                    report.state = SandboxState::Running;
                    report.started = Some(Timestamp::now().to_string());
                }
                starts
            });
            if begun {
                let _ = changes.send(state.borrow().clone());
            }
            let life = chance::spread(&mut rng, LIFE.0, LIFE.1);
            let code = *chance::one(&mut rng, &CODES);
            match timeout.filter(|timeout| *timeout < life) {
                Some(timeout) => {
                    tokio::time::sleep(Duration::from_secs_f64(timeout.max(0.0))).await;
                    end(&state, &changes, TERMINATED, Some(SandboxEnd::TimedOut));
                }
                None => {
                    tokio::time::sleep(pace.seconds(life)).await;
                    let reason = (code == 137).then_some(SandboxEnd::OutOfMemory);
                    end(&state, &changes, code, reason);
                }
            }
        });
    }

    fn reports(&self) -> Vec<SandboxReport> {
        self.all()
            .values()
            .map(|state| state.borrow().clone())
            .collect()
    }

    fn changes(&self) -> broadcast::Receiver<SandboxReport> {
        self.changes.subscribe()
    }

    fn running(&self) -> usize {
        let running =
            |state: &&watch::Sender<SandboxReport>| state.borrow().state == SandboxState::Running;
        self.all().values().filter(running).count()
    }

    async fn exec(
        &self,
        sandbox: &str,
        _: String,
        _: ExecRequest,
    ) -> Result<SandboxProcess, Problem> {
        self.find(sandbox)?;
        Err(simulated())
    }

    async fn input(&self, sandbox: &str, _: &str, _: Bytes, _: bool) -> Result<(), Problem> {
        self.find(sandbox).map(drop)
    }

    async fn resize(&self, sandbox: &str, _: &str, _: TerminalSize) -> Result<(), Problem> {
        self.find(sandbox).map(drop)
    }

    async fn signal(&self, sandbox: &str, _: &str, _: &str) -> Result<(), Problem> {
        self.find(sandbox)?;
        self.end(sandbox, TERMINATED, None);
        Ok(())
    }

    async fn processes(&self, sandbox: &str) -> Result<Vec<ProcessStatus>, Problem> {
        self.find(sandbox).map(|_| Vec::new())
    }

    async fn read_file(&self, sandbox: &str, _: &str) -> Result<FileBytes, FileError> {
        self.find(sandbox)?;
        Err(simulated().into())
    }

    async fn write_file(
        &self,
        sandbox: &str,
        _: &str,
        _: Option<u32>,
    ) -> Result<Box<dyn FileWriter>, FileError> {
        self.find(sandbox)?;
        Err(simulated().into())
    }

    async fn stop(&self, sandbox: &str, _: Duration, reason: SandboxEnd) -> Result<(), Problem> {
        self.find(sandbox)?;
        self.end(sandbox, TERMINATED, Some(reason));
        Ok(())
    }

    async fn remove(&self, sandbox: &str) -> Result<(), Problem> {
        self.find(sandbox)?;
        self.end(sandbox, TERMINATED, Some(SandboxEnd::Stopped));
        self.all().remove(sandbox);
        Ok(())
    }

    async fn output(
        &self,
        sandbox: &str,
        process: &str,
        after: u64,
        follow: bool,
    ) -> Result<Output, Problem> {
        let mut watched = self.find(sandbox)?;
        if process != "main" {
            return Err(simulated());
        }
        let args = watched.borrow().args.join(" ");
        let lines = [
            format!("\x1b[32mINFO\x1b[0m  {args}: simulated sandbox {sandbox} is up\n"),
            "\x1b[32mINFO\x1b[0m  nothing really runs here\n".to_owned(),
        ];
        let events: Vec<OutputEvent> = (1..)
            .zip(lines)
            .filter(|(seq, _)| *seq > after)
            .map(|(seq, line)| OutputEvent {
                seq,
                kind: OutputEventKind::Output {
                    stream: Stream::Stdout,
                    data: base64::prelude::BASE64_STANDARD.encode(line),
                },
            })
            .collect();
        let end = async move {
            if !follow && !watched.borrow().state.is_final() {
                return None;
            }
            let report = watched
                .wait_for(|report| report.state.is_final())
                .await
                .ok()?;
            let kind = OutputEventKind::Exited {
                code: report.exit_code.unwrap_or_default(),
                signal: None,
                ended_by: report.ended_by,
            };
            Some(OutputEvent { seq: 3, kind })
        };
        let end = stream::once(end).filter_map(std::future::ready);
        Ok(Box::pin(stream::iter(events).chain(end)))
    }

    async fn end_all(&self) {
        for state in self.all().values() {
            end(state, &self.changes, TERMINATED, Some(SandboxEnd::Stopped));
        }
    }
}
