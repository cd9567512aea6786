//! Following the output of a process.

use std::sync::Arc;

use chalk_core::wire::agent::Ask;
use chalk_core::wire::{OutputEvent, OutputEventKind, Problem, Sandbox, SandboxState};
use tokio::sync::mpsc;

use super::streams::{AHEAD, Event};
use super::tickets::Counted;
use super::{ASK, Sandboxes};

/// Identifier of the main process.
const MAIN: &str = "main";

/// Output on its way to a client.
#[derive(Debug)]
pub(crate) struct Output {
    events: mpsc::Receiver<Event>,
    _counted: Option<Followed>,
}

impl Output {
    /// The next event; `None` at the end, which without the end of the process means that the node
    /// went away.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) process: String,
    pub(crate) after: u64,
    pub(crate) follow: bool,
}

/// Counts a client among those that follow a sandbox.
#[derive(Debug)]
struct Followed {
    sandboxes: Arc<Sandboxes>,
    id: String,
}

impl Followed {
    fn new(sandboxes: &Arc<Sandboxes>, id: &str) -> Self {
        if let Some(entry) = sandboxes.state().entries.get_mut(id) {
            entry.followers += 1;
            entry.epoch += 1;
        }
        Self {
            sandboxes: sandboxes.clone(),
            id: id.to_owned(),
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let left = {
            let mut state = self.sandboxes.state();
            let Some(entry) = state.entries.get_mut(&self.id) else {
                return;
            };
            entry.followers -= 1;
            entry.followers == 0 && entry.stored.stop_on_disconnect && !entry.is_over()
        };
        if left {
            let grace = self.sandboxes.settings.disconnect_grace;
            self.sandboxes.watch_left(&self.id, grace);
        }
    }
}

impl Sandboxes {
    /// Output of a process.
    ///
    /// # Errors
    /// When there is no such sandbox or process, or its node is gone.
    pub(crate) async fn follow(
        self: &Arc<Self>,
        prefix: &str,
        wanted: Wanted,
    ) -> Result<Output, Problem> {
        let id = self.find(prefix)?;
        let (client, events) = mpsc::channel(AHEAD);
        let counted = (wanted.process == MAIN).then(|| Followed::new(self, &id));
        let output = Output {
            events,
            _counted: counted,
        };
        let ordered = self.state().entries.get(&id).is_some_and(|e| e.ordered);
        if ordered {
            self.connect(&id, &wanted, client).await?;
            return Ok(output);
        }
        // Its image is on the way to its region: the client is told as soon as its node knows it.
        let (this, id) = (self.clone(), id);
        tokio::spawn(async move {
            tokio::select! {
                () = this.told(&id) => {}
                () = client.closed() => return,
            }
            let (after, failed) = (wanted.after, client.clone());
            if let Err(error) = this.connect(&id, &wanted, client).await {
                let _ = failed.send(end(after, error)).await;
            }
        });
        Ok(output)
    }

    /// Has the node of a sandbox send output to a client.
    async fn connect(
        &self,
        id: &str,
        wanted: &Wanted,
        client: mpsc::Sender<Event>,
    ) -> Result<(), Problem> {
        let sandbox = self.get(id)?;
        if self.is_nowhere(&sandbox) {
            let _ = client
                .send(end(wanted.after, Self::why_lost(&sandbox)))
                .await;
            return Ok(());
        }
        let session = self.nodes.session(&sandbox.node)?;
        let counted = Counted::new(&session)?;
        let ticket = self.streams.issue(counted, client);
        let ask = Ask::Follow {
            ticket: ticket.clone(),
            sandbox: sandbox.id,
            process: wanted.process.clone(),
            after: wanted.after,
            follow: wanted.follow,
        };
        let asked = session.ask(ask, ASK).await;
        if let Err(error) = asked {
            self.streams.withdraw(&ticket);
            return Err(error);
        }
        Ok(())
    }

    /// Whether no node has anything of a sandbox.
    fn is_nowhere(&self, sandbox: &Sandbox) -> bool {
        let ordered = self
            .state()
            .entries
            .get(&sandbox.id)
            .is_some_and(|e| e.ordered);
        let gone = self.nodes.session(&sandbox.node).is_err();
        match sandbox.state {
            SandboxState::Failed => !ordered || gone,
            SandboxState::Lost => true,
            _ => false,
        }
    }
}

/// The one event of a process that never was, or was lost.
fn end(after: u64, error: Problem) -> Event {
    Event::new(&OutputEvent {
        seq: after.saturating_add(1),
        kind: OutputEventKind::Failed { error },
    })
}
