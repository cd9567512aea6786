//! The sandboxes of a node: from an image in the cache to the end of the last process.
//!
//! Everything of one sandbox lies in a directory of its name: its record, and the output of each
//! of its processes. Both outlive the node's process; the sandbox itself does not, and is reported
//! as lost by the next one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::wire::agent::{ImageRef, SandboxReport};
use chalk_core::wire::{
    ExecRequest, OutputEventKind, Problem, ProcessStatus, SandboxEnd, SandboxProcess,
    SandboxRequest, SandboxState, TerminalSize,
};
use tokio::sync::{broadcast, watch};

use crate::agent::{FileBytes, FileError, FileWriter, Output, Sandboxes as Interface};
use crate::files::Files;
use crate::metrics::StartMetrics;
use crate::mounts::Mounts;

mod brief;
mod cdi;
mod config;
mod disk;
mod exec;
mod files;
mod groups;
mod host_files;
mod images;
mod log;
mod loop_device;
mod plan;
mod problems;
mod process;
mod records;
mod run;
mod slots;

pub use config::ImageConfig;
pub use images::{Leased, Leases};

use log::Log;
use process::Process;
use records::Records;
use slots::Slots;

/// Name of the first process of every sandbox.
const MAIN: &str = "main";

/// Most reports that a slow listener may lag behind.
const CHANGES: usize = 4096;

/// What sandboxes are told when they are started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSettings {
    /// Directory of their records and output.
    pub records: PathBuf,
    /// Directory of their disks; emptied at the start.
    pub disks: PathBuf,
    /// Bytes that a writable layer may take, unless the request says otherwise.
    pub disk: u64,
    /// Bytes of output that are kept of one process.
    pub log_limit: u64,
    /// Directories of CDI specs.
    pub cdi_dirs: Vec<PathBuf>,
}

/// The sandboxes of a node. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes(Arc<Shared>);

struct Shared {
    settings: SandboxSettings,
    mounts: Mounts,
    images: Arc<dyn Leases>,
    files: Files,
    slots: Arc<Slots>,
    records: Records,
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    changes: broadcast::Sender<SandboxReport>,
    metrics: StartMetrics,
}

/// One sandbox.
struct Entry {
    id: String,
    report: watch::Sender<SandboxReport>,
    processes: Mutex<BTreeMap<String, Arc<Process>>>,
    /// Those of them that were started later and have ended, the first that did so first.
    ended: Mutex<VecDeque<String>>,
    /// What the main process was made of, once it is known.
    main: Mutex<Option<config::Process>>,
    stop: Mutex<Stop>,
    cancel: tokio_util::sync::CancellationToken,
}

/// Who wants the sandbox to end.
#[derive(Default)]
struct Stop {
    reason: Option<SandboxEnd>,
}

impl Sandboxes {
    /// Takes up what an earlier life of the node left, and makes ready for new sandboxes. Must be
    /// called within a Tokio runtime.
    ///
    /// # Errors
    /// When directories or control groups cannot be used.
    pub async fn start(
        settings: SandboxSettings,
        mounts: Mounts,
        images: Arc<dyn Leases>,
        files: Files,
    ) -> Result<Sandboxes, Problem> {
        let unusable = |error: &io::Error| {
            problems::node_failed("the records of sandboxes cannot be used", error)
        };
        let dir = settings.records.clone();
        let (records, old) = tokio::task::spawn_blocking(move || Records::open(&dir))
            .await
            .map_err(io::Error::other)
            .and_then(|opened| opened)
            .map_err(|error| unusable(&error))?;
        // Control groups of an earlier life are removed here, with what may still run in them.
        let (disks, disk, within) = (settings.disks.clone(), settings.disk, mounts.clone());
        let slots = tokio::task::spawn_blocking(move || Slots::start(within, &disks, disk))
            .await
            .map_err(|error| unusable(&io::Error::other(error)))??;
        let shared = Shared {
            settings,
            mounts,
            images,
            files,
            slots,
            records,
            entries: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES),
            metrics: StartMetrics::default(),
        };
        let recover = move || {
            for report in old {
                let entry = shared.recover(report);
                shared.lock().insert(entry.id.clone(), entry);
            }
            shared
        };
        // All that was kept of their output is read.
        let shared = tokio::task::spawn_blocking(recover)
            .await
            .map_err(|error| unusable(&io::Error::other(error)))?;
        Ok(Sandboxes(Arc::new(shared)))
    }

    /// What is counted of starts.
    pub(crate) fn metrics(&self) -> &StartMetrics {
        &self.0.metrics
    }

    /// Waits until a sandbox has a final state, and gives it.
    ///
    /// # Errors
    /// When there is no such sandbox.
    pub async fn ended(&self, sandbox: &str) -> Result<SandboxReport, Problem> {
        let mut report = self.0.entry(sandbox)?.report.subscribe();
        let ended = report.wait_for(|report| report.state.is_final()).await;
        ended
            .map(|report| report.clone())
            .map_err(|error| problems::node_failed("the sandbox is gone", &error))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: &str) -> Result<Arc<Entry>, Problem> {
        self.lock().get(id).cloned().ok_or_else(|| {
            problems::not_found(
                "there is no such sandbox",
                &format!("no `{id}` on this node"),
            )
        })
    }

    fn process(&self, sandbox: &str, process: &str) -> Result<Arc<Process>, Problem> {
        let entry = self.entry(sandbox)?;
        let processes = entry.processes();
        processes.get(process).cloned().ok_or_else(|| {
            let detail = format!("no `{process}` in `{sandbox}`");
            problems::not_found("there is no such process", &detail)
        })
    }

    /// Changes what is known of a sandbox, for everybody to see.
    fn update(&self, entry: &Entry, change: impl FnOnce(&mut SandboxReport)) {
        let changed = entry.change(change, |report| self.records.put(report));
        let _ = self.changes.send(changed);
    }

    /// A sandbox of an earlier life.
    fn recover(&self, mut report: SandboxReport) -> Arc<Entry> {
        brief::shorten(&mut report);
        if !report.state.is_final() {
            report.state = SandboxState::Lost;
            report.finished = Some(now());
            report.error = Some(problems::lost());
            self.records.put(&report);
        }
        let end = match (&report.exit_code, &report.error) {
            (Some(code), _) => OutputEventKind::Exited {
                code: *code,
                // Was not written down.
                signal: None,
                ended_by: report.ended_by,
            },
            (None, error) => OutputEventKind::Failed {
                error: error.clone().unwrap_or_else(problems::lost),
            },
        };
        let mut processes = BTreeMap::new();
        for name in self.records.processes(&report.id) {
            let end = if name == MAIN {
                end.clone()
            } else {
                OutputEventKind::Failed {
                    error: problems::lost(),
                }
            };
            match Log::recover(self.records.output(&report.id, &name), end) {
                Ok(log) => {
                    processes.insert(name, Arc::new(Process::ended(log)));
                }
                Err(error) => tracing::warn!(%error, id = report.id, "output cannot be read"),
            }
        }
        Arc::new(Entry {
            id: report.id.clone(),
            report: watch::Sender::new(report),
            processes: Mutex::new(processes),
            ended: Mutex::default(),
            main: Mutex::default(),
            stop: Mutex::default(),
            cancel: tokio_util::sync::CancellationToken::new(),
        })
    }
}

impl Entry {
    fn new(id: String, main: Process) -> Entry {
        let report = SandboxReport {
            id: id.clone(),
            state: SandboxState::Starting,
            args: Vec::new(),
            warm: false,
            started: None,
            finished: None,
            exit_code: None,
            ended_by: None,
            error: None,
            warnings: Vec::new(),
        };
        Entry {
            id,
            report: watch::Sender::new(report),
            processes: Mutex::new(BTreeMap::from([(MAIN.to_owned(), Arc::new(main))])),
            ended: Mutex::default(),
            main: Mutex::default(),
            stop: Mutex::default(),
            cancel: tokio_util::sync::CancellationToken::new(),
        }
    }

    /// Changes its report and has it `kept` before anybody who waits for the change is told: they
    /// may go on to remove what is kept.
    fn change(
        &self,
        change: impl FnOnce(&mut SandboxReport),
        kept: impl FnOnce(&SandboxReport),
    ) -> SandboxReport {
        let mut changed = None;
        self.report.send_modify(|report| {
            change(report);
            brief::shorten(report);
            kept(report);
            changed = Some(report.clone());
        });
        changed.unwrap_or_else(|| self.report.borrow().clone())
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn main(&self) -> MutexGuard<'_, Option<config::Process>> {
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) -> MutexGuard<'_, Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> SandboxState {
        self.report.borrow().state
    }
}

#[async_trait]
impl Interface for Sandboxes {
    fn start(&self, id: String, image: ImageRef, request: SandboxRequest) {
        run::start(&self.0, id, image, request);
    }

    fn reports(&self) -> Vec<SandboxReport> {
        let entries = self.0.lock();
        entries
            .values()
            .map(|entry| entry.report.borrow().clone())
            .collect()
    }

    fn changes(&self) -> broadcast::Receiver<SandboxReport> {
        self.0.changes.subscribe()
    }

    fn running(&self) -> usize {
        let entries = self.0.lock();
        entries
            .values()
            .filter(|entry| !entry.state().is_final())
            .count()
    }

    async fn exec(
        &self,
        sandbox: &str,
        process: String,
        exec: ExecRequest,
    ) -> Result<SandboxProcess, Problem> {
        exec::start(&self.0, sandbox, process, exec).await
    }

    async fn input(
        &self,
        sandbox: &str,
        process: &str,
        data: Bytes,
        close: bool,
    ) -> Result<(), Problem> {
        self.0.process(sandbox, process)?.input(&data, close).await
    }

    async fn resize(
        &self,
        sandbox: &str,
        process: &str,
        size: TerminalSize,
    ) -> Result<(), Problem> {
        self.0.process(sandbox, process)?.resize(size).await
    }

    async fn signal(&self, sandbox: &str, process: &str, signal: &str) -> Result<(), Problem> {
        let signal = config::signal(signal)?;
        self.0.process(sandbox, process)?.signal(signal).await
    }

    async fn processes(&self, sandbox: &str) -> Result<Vec<ProcessStatus>, Problem> {
        let entry = self.0.entry(sandbox)?;
        let processes = entry.processes();
        let further = processes.iter().filter(|(name, _)| *name != MAIN);
        Ok(further
            .map(|(name, process)| process.status(name.clone()))
            .collect())
    }

    async fn read_file(&self, sandbox: &str, path: &str) -> Result<FileBytes, FileError> {
        files::read(&self.0.entry(sandbox)?, path).await
    }

    async fn write_file(
        &self,
        sandbox: &str,
        path: &str,
        mode: Option<u32>,
    ) -> Result<Box<dyn FileWriter>, FileError> {
        files::write(&self.0.entry(sandbox)?, path, mode).await
    }

    async fn stop(
        &self,
        sandbox: &str,
        grace: Duration,
        reason: SandboxEnd,
    ) -> Result<(), Problem> {
        run::stop(&self.0.entry(sandbox)?, grace, reason);
        Ok(())
    }

    async fn remove(&self, sandbox: &str) -> Result<(), Problem> {
        let entry = self.0.entry(sandbox)?;
        run::stop(&entry, Duration::ZERO, SandboxEnd::Stopped);
        self.ended(sandbox).await?;
        self.0.lock().remove(sandbox);
        self.0.records.remove(sandbox).await;
        // Who still reads its output does not look for it for ever.
        let processes: Vec<Arc<Process>> = entry.processes().values().cloned().collect();
        let discard = move || processes.iter().for_each(|process| process.log().discard());
        let _ = tokio::task::spawn_blocking(discard).await;
        Ok(())
    }

    async fn output(
        &self,
        sandbox: &str,
        process: &str,
        after: u64,
        follow: bool,
    ) -> Result<Output, Problem> {
        let process = self.0.process(sandbox, process)?;
        let reader = process.log().reader(after, follow);
        let events = futures_util::stream::unfold(reader, |mut reader| async move {
            match reader.next().await {
                Ok(event) => event.map(|event| (event, reader)),
                Err(error) => {
                    tracing::warn!(%error, "output cannot be read");
                    None
                }
            }
        });
        Ok(Box::pin(events))
    }

    async fn end_all(&self) {
        self.0.slots.close();
        let entries: Vec<Arc<Entry>> = self.0.lock().values().cloned().collect();
        for entry in &entries {
            if !entry.state().is_final() {
                run::stop(entry, Duration::ZERO, SandboxEnd::Stopped);
            }
        }
        for entry in &entries {
            let mut report = entry.report.subscribe();
            let _ = report.wait_for(|report| report.state.is_final()).await;
        }
        drop(entries);
        self.0.slots.emptied().await;
    }
}

/// The time for people.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// The directory of `name` below `parent`; `None` when that is no single name.
fn below(parent: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(std::path::Component::Normal(part)), None) if part == name => Some(parent.join(name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
