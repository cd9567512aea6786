//! A node with containerd runs no sandboxes: its containers are those of Kubernetes or nerdctl, and
//! its unpacked layers are containerd's to mount. The service knows that of it and chooses others;
//! what is asked of it all the same is refused.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::wire::agent::{ImageRef, SandboxReport};
use chalk_core::wire::{
    ExecRequest, Problem, ProcessStatus, SandboxEnd, SandboxProcess, SandboxRequest, SandboxState,
    TerminalSize, problem,
};
use tokio::sync::broadcast;

use crate::agent::{FileBytes, FileError, FileWriter, Output, Sandboxes};

/// Changes that a slow listener may lag behind.
const CHANGES: usize = 64;

/// No sandboxes.
pub(super) struct NoSandboxes {
    /// Those that were asked for, until the service removes them.
    refused: Mutex<BTreeMap<String, SandboxReport>>,
    changes: broadcast::Sender<SandboxReport>,
}

impl Default for NoSandboxes {
    fn default() -> Self {
        Self {
            refused: Mutex::default(),
            changes: broadcast::channel(CHANGES).0,
        }
    }
}

impl NoSandboxes {
    fn refused(&self) -> MutexGuard<'_, BTreeMap<String, SandboxReport>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no() -> Problem {
    Problem {
        kind: problem::SANDBOX_REFUSED.to_owned(),
        title: "this node runs no sandboxes".to_owned(),
        status: 400,
        detail:
            "its runtime is containerd: it keeps images for the containers of Kubernetes or nerdctl"
                .to_owned(),
        hint: "choose a node with the runtime `chalk`; see `chalk compute node ls`".to_owned(),
    }
}

#[async_trait]
impl Sandboxes for NoSandboxes {
    fn start(&self, id: String, _: ImageRef, request: SandboxRequest) {
        let report = SandboxReport {
            id: id.clone(),
            state: SandboxState::Failed,
            args: request.args,
            warm: false,
            started: None,
            finished: Some(jiff::Timestamp::now().to_string()),
            exit_code: None,
            ended_by: None,
            error: Some(no()),
            warnings: Vec::new(),
        };
        self.refused().insert(id, report.clone());
        let _ = self.changes.send(report);
    }

    fn reports(&self) -> Vec<SandboxReport> {
        self.refused().values().cloned().collect()
    }

    fn changes(&self) -> broadcast::Receiver<SandboxReport> {
        self.changes.subscribe()
    }

    fn running(&self) -> usize {
        0
    }

    async fn exec(&self, _: &str, _: String, _: ExecRequest) -> Result<SandboxProcess, Problem> {
        Err(no())
    }

    async fn input(&self, _: &str, _: &str, _: Bytes, _: bool) -> Result<(), Problem> {
        Err(no())
    }

    async fn resize(&self, _: &str, _: &str, _: TerminalSize) -> Result<(), Problem> {
        Err(no())
    }

    async fn signal(&self, _: &str, _: &str, _: &str) -> Result<(), Problem> {
        Err(no())
    }

    async fn processes(&self, _: &str) -> Result<Vec<ProcessStatus>, Problem> {
        Err(no())
    }

    async fn read_file(&self, _: &str, _: &str) -> Result<FileBytes, FileError> {
        Err(no().into())
    }

    async fn write_file(
        &self,
        _: &str,
        _: &str,
        _: Option<u32>,
    ) -> Result<Box<dyn FileWriter>, FileError> {
        Err(no().into())
    }

    async fn stop(&self, _: &str, _: Duration, _: SandboxEnd) -> Result<(), Problem> {
        Err(no())
    }

    async fn remove(&self, sandbox: &str) -> Result<(), Problem> {
        self.refused().remove(sandbox);
        Ok(())
    }

    async fn output(&self, _: &str, _: &str, _: u64, _: bool) -> Result<Output, Problem> {
        Err(no())
    }

    async fn end_all(&self) {}
}
