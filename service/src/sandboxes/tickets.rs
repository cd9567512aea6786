//! Tickets: how a node that opens all connections itself reaches the client that waits for it.
//!
//! The client's side puts down what it waits with and gets a ticket; the node is told of it, and opens
//! a stream with the ticket.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::wire::{Problem, problem};
use rand::Rng as _;

use crate::nodes::session::Session;

/// How long a node may take to open a stream.
const OPEN: Duration = Duration::from_secs(30);
/// Clients that may follow output of one node, or have files on the way to or from it, at once.
const CLIENTS: usize = 200;

/// Counts a client among those that have a stream with a node.
#[derive(Debug)]
pub(super) struct Counted(Arc<Session>);

impl Counted {
    /// One more.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn new(session: &Arc<Session>) -> Result<Self, Problem> {
        let before = session.followers.fetch_add(1, Ordering::Relaxed);
        let counted = Self(session.clone());
        if before < CLIENTS {
            return Ok(counted);
        }
        Err(Problem {
            kind: problem::UNAVAILABLE.to_owned(),
            title: "too many follow".to_owned(),
            status: 503,
            detail: format!(
                "{CLIENTS} clients follow output of node `{}` or move files already",
                session.node()
            ),
            hint: "try again later".to_owned(),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that waits for its stream.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) client: T,
    pub(super) counted: Counted,
}

/// Clients that wait, by ticket.
#[derive(Debug)]
pub(super) struct Tickets<T>(Mutex<BTreeMap<String, Waiting<T>>>);

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Send + 'static> Tickets<T> {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, Waiting<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket by which a node can reach a client.
    pub(super) fn issue(self: &Arc<Self>, counted: Counted, client: T) -> String {
        let random: [u8; 16] = rand::rng().random();
        let ticket = hex::encode(random);
        let waiting = Waiting { client, counted };
        self.waiting().insert(ticket.clone(), waiting);
        let (this, issued) = (Arc::downgrade(self), ticket.clone());
        tokio::spawn(async move {
            tokio::time::sleep(OPEN).await;
            if let Some(this) = this.upgrade() {
                this.withdraw(&issued);
            }
        });
        ticket
    }

    /// Takes a ticket back.
    pub(super) fn withdraw(&self, ticket: &str) {
        self.waiting().remove(ticket);
    }

    /// The client that waits for a node with that ticket.
    ///
    /// # Errors
    /// When nobody does.
    pub(super) fn take(&self, ticket: &str, session: &Session) -> Result<Waiting<T>, Problem> {
        let mut waiting = self.waiting();
        let found = waiting.get(ticket);
        let ours = found.is_some_and(|found| found.counted.0.node() == session.node());
        let taken = if ours { waiting.remove(ticket) } else { None };
        taken.ok_or_else(|| Problem {
            kind: problem::NOT_FOUND.to_owned(),
            title: "nobody waits for that stream".to_owned(),
            status: 404,
            detail: "the ticket is unknown, or its client is gone".to_owned(),
            hint: String::new(),
        })
    }
}
