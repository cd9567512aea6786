//! Files of sandboxes on their way between them and the service.

use std::sync::Arc;

use chalk_core::wire::agent::FileAnswer;
use chalk_core::wire::{Problem, problem};
use futures_util::StreamExt as _;

use super::Agent;
use super::parts::{FileBytes, FileError, FileWriter};

/// Opens a file, and sends it in the background to whoever has `ticket`.
pub(super) async fn read(
    agent: &Arc<Agent>,
    ticket: String,
    sandbox: &str,
    path: &str,
) -> Result<FileAnswer, Problem> {
    match agent.sandboxes.read_file(sandbox, path).await {
        Ok(bytes) => {
            send(agent, ticket, bytes);
            Ok(FileAnswer::Open)
        }
        Err(error) => answer(error),
    }
}

fn send(agent: &Arc<Agent>, ticket: String, bytes: FileBytes) {
    let Some(open) = agent.line.open() else {
        // The session that asked is over, and with it the ticket.
        return;
    };
    tokio::spawn(async move {
        tokio::select! {
            sent = open.connection.send_file(&open.token, &ticket, bytes) => {
                if let Err(error) = sent {
                    tracing::debug!(%error, "who read a file went away");
                }
            }
            () = open.over.cancelled() => {}
        }
    });
}

/// Opens a file, and writes to it what whoever has `ticket` sends.
pub(super) async fn write(
    agent: &Arc<Agent>,
    ticket: &str,
    sandbox: &str,
    path: &str,
    mode: Option<u32>,
) -> Result<FileAnswer, Problem> {
    match agent.sandboxes.write_file(sandbox, path, mode).await {
        Ok(writer) => match fill(agent, ticket, writer).await {
            Ok(bytes) => Ok(FileAnswer::Written { bytes }),
            Err(error) => answer(error),
        },
        Err(error) => answer(error),
    }
}

async fn fill(
    agent: &Arc<Agent>,
    ticket: &str,
    mut writer: Box<dyn FileWriter>,
) -> Result<u64, FileError> {
    let open = agent.line.open().ok_or_else(|| broke_off("the session"))?;
    let response = open.connection.take_file(&open.token, ticket).await;
    let mut chunks = response
        .map_err(|error| broke_off(&error.to_string()))?
        .bytes_stream();
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk,
            () = open.over.cancelled() => return Err(broke_off("the session").into()),
        };
        match chunk {
            Some(Ok(chunk)) => writer.write(chunk).await?,
            // Not the end of the file: a body that its sender has not ended is told from one.
            Some(Err(error)) => return Err(broke_off(&error.to_string()).into()),
            None => return writer.commit().await,
        }
    }
}

fn answer(error: FileError) -> Result<FileAnswer, Problem> {
    match error {
        FileError::Failed(failure) => Ok(FileAnswer::Failed(failure)),
        FileError::Problem(problem) => Err(problem),
    }
}

fn broke_off(why: &str) -> Problem {
    Problem {
        kind: problem::UNAVAILABLE.to_owned(),
        title: "the bytes of the file broke off".to_owned(),
        status: 503,
        detail: format!("nothing was written: {why}"),
        hint: "write it again".to_owned(),
    }
}
