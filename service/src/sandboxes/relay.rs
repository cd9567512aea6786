//! What clients want of sandboxes that run, passed on to their nodes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use base64::Engine as _;
use chalk_core::wire::agent::Ask;
use chalk_core::wire::{
    ExecRequest, Problem, ProcessStatus, Sandbox, SandboxEnd, SandboxProcess, SandboxState,
    TerminalSize, problem,
};

use super::check::refused;
use super::{ASK, Entry, Sandboxes, not_running};
use crate::ledger::{Changes, Table};
use crate::nodes::{not_kept, session};

/// How long a process may take to read a piece of its input.
const INPUT: Duration = Duration::from_secs(24 * 3600);
/// Bytes of input that go to a node at once.
const PIECE: usize = 64 * 1024;
/// Seconds between stop signal and kill, unless said.
const GRACE: f64 = 10.0;
/// Most of them.
const GRACE_LIMIT: f64 = 3600.0;
/// How long a node may take to end a sandbox beyond the grace.
const STOP: Duration = Duration::from_secs(30);

impl Sandboxes {
    /// A sandbox that runs, or is about to.
    pub(super) fn running(&self, prefix: &str) -> Result<Sandbox, Problem> {
        let sandbox = self.get(prefix)?;
        if sandbox.state.is_final() {
            return Err(not_running(&sandbox));
        }
        Ok(sandbox)
    }

    /// Waits until the node of a sandbox was told of it.
    pub(super) async fn told(&self, id: &str) {
        let changed = self.state().entries.get(id).map(|e| e.changed.subscribe());
        let Some(mut changed) = changed else {
            return;
        };
        loop {
            let waits = |entry: &Entry| !entry.ordered && !entry.is_over();
            let waits = self.state().entries.get(id).is_some_and(waits);
            if !waits || changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn ask(&self, sandbox: &Sandbox, ask: Ask, limit: Duration) -> Result<(), Problem> {
        self.told(&sandbox.id).await;
        self.nodes.ask(&sandbox.node, ask, limit).await.map(drop)
    }

    /// Starts a further command in a sandbox.
    ///
    /// # Errors
    /// When it does not run, or the node refuses or is gone.
    pub(crate) async fn exec(
        &self,
        prefix: &str,
        exec: ExecRequest,
    ) -> Result<SandboxProcess, Problem> {
        let sandbox = self.running(prefix)?;
        if exec.args.is_empty() || exec.args.iter().any(|arg| arg.contains('\0')) {
            return Err(refused("args: expected a command".to_owned()));
        }
        let sound = |seconds: f64| seconds.is_finite() && seconds > 0.0;
        if exec.timeout_seconds.is_some_and(|seconds| !sound(seconds)) {
            return Err(refused("timeout_seconds: expected more than 0".to_owned()));
        }
        let process = format!("x{:08x}", rand::random::<u32>());
        let ask = Ask::Exec {
            sandbox: sandbox.id.clone(),
            process: process.clone(),
            exec,
        };
        self.ask(&sandbox, ask, ASK).await?;
        Ok(SandboxProcess {
            sandbox: sandbox.id,
            process,
        })
    }

    /// The further processes of a sandbox, which need not run any more: those that run, and those
    /// that ended last.
    ///
    /// # Errors
    /// When there is no such sandbox, or its node is gone.
    pub(crate) async fn processes(&self, prefix: &str) -> Result<Vec<ProcessStatus>, Problem> {
        let sandbox = self.get(prefix)?;
        self.told(&sandbox.id).await;
        let ask = Ask::Processes {
            sandbox: sandbox.id,
        };
        let value = self.nodes.ask(&sandbox.node, ask, ASK).await?;
        serde_json::from_value(value).map_err(|error| Problem {
            kind: problem::INTERNAL.to_owned(),
            title: format!("node `{}` answered something else", sandbox.node),
            status: 500,
            detail: error.to_string(),
            hint: String::new(),
        })
    }

    /// Gives bytes to a process; done when they are taken.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub(crate) async fn input(
        &self,
        prefix: &str,
        process: &str,
        bytes: &Bytes,
        close: bool,
    ) -> Result<(), Problem> {
        let sandbox = self.running(prefix)?;
        let mut pieces: Vec<&[u8]> = bytes.chunks(PIECE).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let last = pieces.len() - 1;
        for (at, piece) in pieces.into_iter().enumerate() {
            let ask = Ask::Input {
                sandbox: sandbox.id.clone(),
                process: process.to_owned(),
                data: base64::engine::general_purpose::STANDARD.encode(piece),
                close: close && at == last,
            };
            self.ask(&sandbox, ask, INPUT).await?;
        }
        Ok(())
    }

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub(crate) async fn resize(
        &self,
        prefix: &str,
        process: &str,
        size: TerminalSize,
    ) -> Result<(), Problem> {
        let sandbox = self.running(prefix)?;
        let ask = Ask::Resize {
            sandbox: sandbox.id.clone(),
            process: process.to_owned(),
            size,
        };
        self.ask(&sandbox, ask, ASK).await
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub(crate) async fn signal(
        &self,
        prefix: &str,
        process: &str,
        signal: String,
    ) -> Result<(), Problem> {
        let sandbox = self.running(prefix)?;
        let ask = Ask::Signal {
            sandbox: sandbox.id.clone(),
            process: process.to_owned(),
            signal,
        };
        self.ask(&sandbox, ask, ASK).await
    }

    /// Ends a sandbox, and waits for its end. One that has ended stays as it is.
    ///
    /// # Errors
    /// When there is none, or its node is gone or does not end it in time.
    pub(crate) async fn stop(
        &self,
        prefix: &str,
        grace_seconds: Option<f64>,
    ) -> Result<Sandbox, Problem> {
        let grace = grace_seconds.unwrap_or(GRACE);
        if !(0.0..=GRACE_LIMIT).contains(&grace) {
            let detail = format!("grace_seconds: expected 0 to {GRACE_LIMIT}");
            return Err(refused(detail));
        }
        let id = self.find(prefix)?;
        self.end(&id, grace, SandboxEnd::Stopped).await?;
        let limit = Duration::try_from_secs_f64(grace).unwrap_or_default() + STOP;
        match tokio::time::timeout(limit, self.over(&id)).await {
            Ok(()) => self.get(&id),
            Err(_) => Err(Problem {
                kind: problem::TIMED_OUT.to_owned(),
                title: "the sandbox did not end".to_owned(),
                status: 504,
                detail: format!("sandbox `{id}` has not ended after {limit:?}"),
                hint: "see its node's log".to_owned(),
            }),
        }
    }

    /// Has a sandbox end.
    async fn end(&self, id: &str, grace_seconds: f64, reason: SandboxEnd) -> Result<(), Problem> {
        let node = {
            let state = self.state();
            match state.entries.get(id) {
                Some(entry) if !entry.is_over() => {
                    let node = entry.sandbox().node.clone();
                    entry.ordered.then_some(node)
                }
                _ => return Ok(()),
            }
        };
        let Some(node) = node else {
            // Its image is on the way to its region, and its node knows nothing of it.
            self.change(id, |sandbox| {
                sandbox.state = SandboxState::Failed;
                sandbox.finished = Some(jiff::Timestamp::now().to_string());
                sandbox.ended_by = Some(reason);
            });
            return Ok(());
        };
        let ask = Ask::Stop {
            sandbox: id.to_owned(),
            grace_seconds,
            reason,
        };
        self.nodes.ask(&node, ask, ASK).await.map(drop)
    }

    /// Waits until a sandbox has ended.
    async fn over(&self, id: &str) {
        let changed = self.state().entries.get(id).map(|e| e.changed.subscribe());
        let Some(mut changed) = changed else {
            return;
        };
        loop {
            let over = self.state().entries.get(id).is_none_or(Entry::is_over);
            if over || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Forgets a sandbox; one that lives is ended with `force`.
    ///
    /// # Errors
    /// When there is none, it lives, or its node is gone.
    pub(crate) async fn remove(&self, prefix: &str, force: bool) -> Result<(), Problem> {
        let sandbox = self.get(prefix)?;
        let id = sandbox.id.clone();
        if !sandbox.state.is_final() {
            if !force {
                return Err(Problem {
                    kind: problem::BAD_REQUEST.to_owned(),
                    title: "the sandbox lives".to_owned(),
                    status: 409,
                    detail: format!("sandbox `{id}` has not ended"),
                    hint: "stop it first, or remove it with `--force` (`force=true`)".to_owned(),
                });
            }
            self.end(&id, 0.0, SandboxEnd::Stopped).await?;
        }
        let remove = Ask::Remove {
            sandbox: id.clone(),
        };
        match self.nodes.session(&sandbox.node) {
            Ok(session) => match session.ask(remove, ASK).await {
                Err(error) if error.kind != problem::NOT_FOUND => return Err(error),
                _ => {}
            },
            // It is told when it comes back: it then reports a sandbox that nobody knows.
            Err(_) if sandbox.state.is_final() => {}
            Err(error) => return Err(error),
        }
        // Under the lock under which its record changes: nothing of before is written after.
        let kept = {
            let mut state = self.state();
            state.living.remove(&id);
            if let Some(entry) = state.entries.remove(&id) {
                entry.tell();
            }
            let changes = Changes::new().remove(Table::Sandboxes, &id);
            self.ledger.begin(changes)
        };
        kept.await.map_err(|e| not_kept(&e))
    }

    /// Ends a sandbox if nobody follows it for a while.
    pub(super) fn watch_left(self: &Arc<Self>, id: &str, grace: Duration) {
        let epoch = self.state().entries.get(id).map(|entry| entry.epoch);
        let (this, id) = (Arc::downgrade(self), id.to_owned());
        // A client may also go while the runtime stops.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(grace).await;
                let Some(this) = this.upgrade() else {
                    return;
                };
                let left = {
                    let state = this.state();
                    let entry = state.entries.get(&id);
                    entry.is_some_and(|entry| {
                        !entry.is_over() && entry.followers == 0 && Some(entry.epoch) == epoch
                    })
                };
                if !left {
                    return;
                }
                // Its node may be away: then it is asked again.
                if let Err(error) = this.end(&id, GRACE, SandboxEnd::Disconnected).await {
                    tracing::debug!(
                        sandbox = id,
                        why = error.detail,
                        "sandbox is not stopped yet"
                    );
                }
            }
        });
    }

    /// Why nothing can be had of a sandbox that its node does not know, or no more.
    pub(super) fn why_lost(sandbox: &Sandbox) -> Problem {
        sandbox
            .error
            .clone()
            .unwrap_or_else(|| session::lost(&sandbox.node, "does not know the sandbox"))
    }
}
