//! Output of processes on its way to those who follow it.

use std::sync::Arc;

use bytes::Bytes;
use chalk_core::wire::OutputEvent;
use futures_util::StreamExt as _;

use super::Agent;
use super::parts::Output;

/// Sends `output` to whoever has `ticket`, in the background, no faster than it is taken: the body
/// of the request is polled only as HTTP/2's windows allow.
pub(super) fn send(agent: &Arc<Agent>, ticket: String, output: Output) {
    let Some(open) = agent.line.open() else {
        // The session that asked is over, and with it the ticket.
        return;
    };
    tokio::spawn(async move {
        let lines = output.map(|event| line(&event));
        tokio::select! {
            sent = open.connection.stream(&open.token, &ticket, lines) => {
                if let Err(error) = sent {
                    tracing::debug!(%error, "a follower went away");
                }
            }
            () = open.over.cancelled() => {}
        }
    });
}

fn line(event: &OutputEvent) -> Result<Bytes, std::io::Error> {
    let mut line = serde_json::to_vec(event).map_err(std::io::Error::other)?;
    line.push(b'\n');
    Ok(line.into())
}
