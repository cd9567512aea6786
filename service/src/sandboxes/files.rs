//! Files of sandboxes on their way between clients and nodes. Nothing of them is kept here: what a
//! client does not take is not read from the node, and the other way round.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use chalk_core::wire::agent::{Ask, FileAnswer, FileFailure};
use chalk_core::wire::{Problem, Sandbox, problem};
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::mpsc;

use super::tickets::{Counted, Tickets};
use super::{ASK, Sandboxes};
use crate::nodes::session::Session;

/// Pieces of a file that may wait for a client.
const AHEAD: usize = 16;
/// How long a file may be on its way into a sandbox.
const WRITE: Duration = Duration::from_secs(24 * 3600);

/// The bytes of a file on their way in; an error where they break off.
type FileStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The system inside said no.
    #[error("{}", .0.detail)]
    Failed(FileFailure),
    /// There is no such sandbox, it does not run, or its node is gone.
    #[error("{}: {}", .0.title, .0.detail)]
    Problem(Problem),
}

impl From<Problem> for FileError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// What comes out of a file: `None` is its end, as told from a node that went away.
type Piece = Option<Bytes>;

/// What a node is to do with a ticket.
enum Way {
    Out(mpsc::Sender<Piece>),
    In(FileStream),
}

/// Files that nodes are to send or take.
#[derive(Default)]
pub(crate) struct Transfers(Arc<Tickets<Way>>);

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").finish_non_exhaustive()
    }
}

impl Transfers {
    /// Passes a file that a node sends on to the client that holds the ticket.
    ///
    /// # Errors
    /// When nobody waits with such a ticket, or the file breaks off.
    pub(crate) async fn pass_on(
        &self,
        ticket: &str,
        session: &Session,
        body: Body,
    ) -> Result<(), Problem> {
        let waiting = self.0.take(ticket, session)?;
        let (Way::Out(client), _counted) = (waiting.client, waiting.counted) else {
            return Err(wrong_way());
        };
        let mut pieces = body.into_data_stream();
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                () = client.closed() => return Ok(()),
                () = session.ended() => return Ok(()),
            };
            let piece = match piece {
                Some(Err(error)) => return Err(broke_off(&error.to_string())),
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => Some(piece),
                None => None,
            };
            let last = piece.is_none();
            tokio::select! {
                sent = client.send(piece) => if sent.is_err() || last {
                    return Ok(());
                },
                () = session.ended() => return Ok(()),
            }
        }
    }

    /// The file that the client with that ticket sends, as a body for its node.
    ///
    /// # Errors
    /// When nobody waits with such a ticket.
    pub(crate) fn hand_over(&self, ticket: &str, session: &Session) -> Result<Body, Problem> {
        let waiting = self.0.take(ticket, session)?;
        let (Way::In(pieces), counted) = (waiting.client, waiting.counted) else {
            return Err(wrong_way());
        };
        // Counts as long as the body lives.
        let pieces = stream::unfold((pieces, counted), |(mut pieces, counted)| async move {
            let piece = pieces.next().await?;
            Some((piece, (pieces, counted)))
        });
        Ok(Body::from_stream(pieces))
    }
}

/// A file on its way to a client.
#[derive(Debug)]
pub(crate) struct FileReader(mpsc::Receiver<Piece>);

impl FileReader {
    /// The next bytes; `None` at the end of the file.
    ///
    /// # Errors
    /// When it breaks off.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self.0.recv().await {
            Some(piece) => Ok(piece),
            None => Err(broke_off("its node or sandbox went away")),
        }
    }
}

impl Sandboxes {
    /// Files that nodes are to send or take.
    pub(crate) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Reads a file of a sandbox.
    ///
    /// # Errors
    /// When it cannot be read, the sandbox does not run, or its node is gone.
    pub(crate) async fn read_file(
        &self,
        prefix: &str,
        path: &str,
    ) -> Result<FileReader, FileError> {
        let sandbox = self.running(prefix)?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let ask = |ticket| Ask::ReadFile {
            ticket,
            sandbox: sandbox.id.clone(),
            path: path.to_owned(),
        };
        match self.transfer(&sandbox, Way::Out(sender), ask, ASK).await? {
            FileAnswer::Open => Ok(FileReader(pieces)),
            other => Err(odd(&other)),
        }
    }

    /// Writes a file of a sandbox: it is there when this is done, and nothing has changed when this
    /// fails. Gives how many bytes it has.
    ///
    /// # Errors
    /// When it cannot be written, `bytes` break off, the sandbox does not run, or its node is gone.
    pub(crate) async fn write_file(
        &self,
        prefix: &str,
        path: &str,
        mode: Option<u32>,
        bytes: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    ) -> Result<u64, FileError> {
        let sandbox = self.running(prefix)?;
        let ask = |ticket| Ask::WriteFile {
            ticket,
            sandbox: sandbox.id.clone(),
            path: path.to_owned(),
            mode,
        };
        match self.transfer(&sandbox, Way::In(bytes), ask, WRITE).await? {
            FileAnswer::Written { bytes } => Ok(bytes),
            other => Err(odd(&other)),
        }
    }

    async fn transfer(
        &self,
        sandbox: &Sandbox,
        way: Way,
        ask: impl FnOnce(String) -> Ask,
        limit: Duration,
    ) -> Result<FileAnswer, FileError> {
        self.told(&sandbox.id).await;
        let session = self.nodes.session(&sandbox.node)?;
        let counted = Counted::new(&session)?;
        let ticket = self.transfers.0.issue(counted, way);
        let answer = session.ask(ask(ticket.clone()), limit).await;
        let answer = answer.and_then(|value| read(&sandbox.node, value));
        match answer {
            Ok(FileAnswer::Failed(failure)) => {
                self.transfers.0.withdraw(&ticket);
                Err(FileError::Failed(failure))
            }
            Ok(answer) => Ok(answer),
            Err(problem) => {
                self.transfers.0.withdraw(&ticket);
                Err(problem.into())
            }
        }
    }
}

fn read(node: &str, value: Value) -> Result<FileAnswer, Problem> {
    serde_json::from_value(value).map_err(|error| Problem {
        kind: problem::INTERNAL.to_owned(),
        title: format!("node `{node}` answered something else"),
        status: 500,
        detail: error.to_string(),
        hint: String::new(),
    })
}

fn odd(answer: &FileAnswer) -> FileError {
    let problem = Problem {
        kind: problem::INTERNAL.to_owned(),
        title: "the node answered something else".to_owned(),
        status: 500,
        detail: format!("{answer:?}"),
        hint: String::new(),
    };
    problem.into()
}

fn broke_off(why: &str) -> Problem {
    Problem {
        kind: problem::UNAVAILABLE.to_owned(),
        title: "the file broke off".to_owned(),
        status: 503,
        detail: why.to_owned(),
        hint: "read it again".to_owned(),
    }
}

fn wrong_way() -> Problem {
    Problem {
        kind: problem::BAD_REQUEST.to_owned(),
        title: "the ticket is for the other direction".to_owned(),
        status: 400,
        detail: String::new(),
        hint: String::new(),
    }
}
