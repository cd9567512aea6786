//! Output of processes on its way from a node to a client.
//!
//! A client that follows a process gets a ticket, its node is told of it, and opens a stream with
//! the ticket. What comes in goes out to the client at once; what the client does not take is not
//! read, so that the node stops sending.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use chalk_core::wire::{Problem, problem};
use rand::Rng as _;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::http::frame;
use crate::nodes::lines::{LineError, Lines};
use crate::nodes::session::Session;

/// Frames that may wait for a client.
pub(super) const AHEAD: usize = 16;
/// Longest event, in bytes.
const LINE_LIMIT: usize = 4 << 20;
/// How long a node may take to open a stream.
const OPEN: Duration = Duration::from_secs(30);

/// What of an event must be known to pass it on.
#[derive(Debug, Deserialize)]
struct Numbered {
    seq: u64,
}

/// A client that waits for its stream.
#[derive(Debug)]
struct Waiting {
    node: Arc<str>,
    client: mpsc::Sender<Bytes>,
    counted: Counted,
}

/// Counts a client among those that follow output of a node.
#[derive(Debug)]
pub(super) struct Counted(Arc<Session>);

impl Counted {
    /// One more; gives how many there were, too.
    pub(super) fn new(session: &Arc<Session>) -> (Self, usize) {
        let before = session.followers.fetch_add(1, Ordering::Relaxed);
        (Self(session.clone()), before)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Clients that wait for their streams, by ticket.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<BTreeMap<String, Waiting>>);

impl Streams {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket by which a node can reach a client.
    pub(super) fn issue(self: &Arc<Self>, counted: Counted, client: mpsc::Sender<Bytes>) -> String {
        let random: [u8; 16] = rand::rng().random();
        let ticket = hex::encode(random);
        let node = counted.0.node().clone();
        self.waiting().insert(
            ticket.clone(),
            Waiting {
                node,
                client,
                counted,
            },
        );
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

    /// Passes the events in `body` on to the client that holds the ticket, until either is gone.
    ///
    /// # Errors
    /// When nobody waits with such a ticket, or the node sends something else than events.
    pub(crate) async fn pass_on(
        &self,
        ticket: &str,
        session: &Session,
        body: Body,
    ) -> Result<(), Problem> {
        let client = {
            let mut waiting = self.waiting();
            match waiting.get(ticket) {
                Some(found) if found.node == *session.node() => waiting.remove(ticket),
                _ => None,
            }
        };
        let Some(Waiting {
            client,
            counted: _counted,
            ..
        }) = client
        else {
            return Err(Problem {
                kind: problem::NOT_FOUND.to_owned(),
                title: "nobody waits for that stream".to_owned(),
                status: 404,
                detail: "the ticket is unknown, or its client is gone".to_owned(),
                hint: String::new(),
            });
        };
        let mut lines = Lines::new(body, LINE_LIMIT);
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = client.closed() => return Ok(()),
                () = session.ended() => return Ok(()),
            };
            let Some(line) = line.map_err(|e| e.problem())? else {
                return Ok(());
            };
            let frame = event(&line).map_err(|e| e.problem())?;
            tokio::select! {
                sent = client.send(frame) => if sent.is_err() {
                    return Ok(());
                },
                () = session.ended() => return Ok(()),
            }
        }
    }
}

/// A node's event in the form in which clients get it.
fn event(line: &[u8]) -> Result<Bytes, LineError> {
    let wrong = |reason: String| LineError::Wrong(reason);
    let Numbered { seq } = serde_json::from_slice(line).map_err(|e| wrong(e.to_string()))?;
    // It would end a line for clients.
    if line.contains(&b'\r') {
        return Err(wrong("it has a carriage return".to_owned()));
    }
    let mut text = Vec::with_capacity(line.len() + 40);
    frame(&mut text, seq, line);
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_cannot_leave_their_frame() {
        let check = |line: &str, expect: Option<&str>| {
            let got = event(line.as_bytes()).ok();
            let got = got.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            assert_eq!(got.as_deref(), expect, "{line:?}");
        };
        check(
            r#"{"seq":3,"type":"output"}"#,
            Some("id: 3\ndata: {\"seq\":3,\"type\":\"output\"}\n\n"),
        );
        check("{\"seq\":3,\r\"type\":\"x\"}", None);
        check(r#"{"type":"output"}"#, None);
        check("x", None);
    }
}
