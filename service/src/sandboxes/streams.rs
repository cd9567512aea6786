//! Output of processes on its way from a node to a client.
//!
//! What comes in goes out to the client at once; what the client does not take is not read, so that
//! the node stops sending.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use chalk_core::wire::{OutputEvent, Problem};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::tickets::{Counted, Tickets};
use crate::nodes::lines::{LineError, Lines};
use crate::nodes::session::Session;

/// Events that may wait for a client.
pub(super) const AHEAD: usize = 16;
/// Longest event, in bytes.
const LINE_LIMIT: usize = 4 << 20;

/// What of an event must be known to pass it on.
#[derive(Debug, Deserialize)]
struct Numbered {
    seq: u64,
}

/// An [`OutputEvent`] as its node wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Its number.
    pub(crate) seq: u64,
    /// One line of JSON.
    pub(crate) json: Bytes,
}

impl Event {
    /// An event of our own.
    pub(super) fn new(event: &OutputEvent) -> Self {
        let json = serde_json::to_vec(event).unwrap_or_default();
        Self {
            seq: event.seq,
            json: json.into(),
        }
    }

    /// Takes a line of a node.
    fn of(json: Bytes) -> Result<Self, LineError> {
        let wrong = |reason: String| LineError::Wrong(reason);
        let Numbered { seq } = serde_json::from_slice(&json).map_err(|e| wrong(e.to_string()))?;
        // It would end a line for clients.
        if json.contains(&b'\r') {
            return Err(wrong("it has a carriage return".to_owned()));
        }
        Ok(Self { seq, json })
    }

    /// What it says.
    ///
    /// # Errors
    /// When it is of a kind that this service does not know.
    pub(crate) fn read(&self) -> Result<OutputEvent, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }
}

/// Clients that wait for output.
#[derive(Debug, Default)]
pub(crate) struct Streams(Arc<Tickets<mpsc::Sender<Event>>>);

impl Streams {
    /// A ticket by which a node can reach a client.
    pub(super) fn issue(&self, counted: Counted, client: mpsc::Sender<Event>) -> String {
        self.0.issue(counted, client)
    }

    /// Takes a ticket back.
    pub(super) fn withdraw(&self, ticket: &str) {
        self.0.withdraw(ticket);
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
        let waiting = self.0.take(ticket, session)?;
        let (client, _counted) = (waiting.client, waiting.counted);
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
            let event = Event::of(line).map_err(|e| e.problem())?;
            tokio::select! {
                sent = client.send(event) => if sent.is_err() {
                    return Ok(());
                },
                () = session.ended() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_a_number_and_one_line() {
        let check = |line: &'static str, expect: Option<u64>| {
            let got = Event::of(Bytes::from_static(line.as_bytes())).ok();
            assert_eq!(got.map(|event| event.seq), expect, "{line:?}");
        };
        check(r#"{"seq":3,"type":"output"}"#, Some(3));
        check("{\"seq\":3,\r\"type\":\"x\"}", None);
        check(r#"{"type":"output"}"#, None);
        check("x", None);
    }
}
