//! The agent: joins a service, holds the one connection to it, and carries out what it is told.
//!
//! [`Agent::run`] lives as long as the node: it joins with a join token where it has no credentials
//! yet, opens a session, and opens the next one when that breaks, for ever. What the service orders
//! runs beside the session and outlives it; what came of it is said in whichever session is open
//! then.

mod asks;
mod backoff;
mod call;
mod credentials;
mod files;
mod line;
mod lines;
mod parts;
mod prewarm;
mod session;
#[cfg(test)]
mod simulated;
mod streams;
mod warms;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chalk_core::wire::agent::Register;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use backoff::Backoff;
use call::Connection;
use line::OpenLine;
use prewarm::Prewarm;
use session::SessionError;
use warms::Warms;

pub use call::CallError;
pub use credentials::{Credentials, CredentialsError};
pub use line::Line;
pub use lines::{LineError, Lines, Received};
pub use parts::{
    Access, AccessWatch, CacheDelta, FileBytes, FileError, FileWriter, Images, Output, PullCost,
    PullFailure, PullOrder, PullProgress, Sandboxes,
};

use crate::settings::{Join, NodeSettings};

/// First and longest wait between two tries to reach the service.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// Why an agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The credentials cannot be kept.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The service does not take the node.
    #[error("the service does not take this node: {0}")]
    Refused(#[source] CallError),
    /// There is nothing to join by.
    #[error("the node `{0}` has not joined yet and was given no join token")]
    NoToken(String),
    /// The file with the join token cannot be read.
    #[error("cannot read the join token from {}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No HTTP client can be made.
    #[error(transparent)]
    Client(CallError),
}

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEnd {
    /// It was told to.
    Stopped,
    /// The node was removed from the service.
    Removed,
}

/// What an agent is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentState {
    /// It has not been connected yet.
    Joining,
    /// A session is open.
    Connected {
        /// Region of the node.
        region: String,
    },
    /// There is no session; it tries again.
    Waiting {
        /// Why the last try failed.
        reason: String,
    },
    /// It ended.
    Ended,
}

/// The agent of a node.
pub struct Agent {
    settings: NodeSettings,
    mirror: Option<String>,
    epoch: String,
    images: Arc<dyn Images>,
    sandboxes: Arc<dyn Sandboxes>,
    warms: Arc<Warms>,
    prewarm: Arc<Prewarm>,
    draining: AtomicBool,
    access: watch::Sender<Option<Access>>,
    state: watch::Sender<AgentState>,
    line: Line,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("name", &self.settings.name)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent for that cache and those sandboxes. `mirror` is the base URL under which the node
    /// serves blobs to others, if it does; `access` is told where the service is and what it takes,
    /// and `line` leads there while a session is open.
    pub fn new(
        settings: NodeSettings,
        mirror: Option<String>,
        images: Arc<dyn Images>,
        sandboxes: Arc<dyn Sandboxes>,
        access: watch::Sender<Option<Access>>,
        line: Line,
    ) -> Arc<Self> {
        let epoch: [u8; 12] = rand::random();
        Arc::new(Self {
            mirror,
            epoch: base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, epoch),
            warms: Arc::new(Warms::new(images.clone())),
            prewarm: Arc::new(Prewarm::new(images.clone())),
            images,
            sandboxes,
            draining: AtomicBool::new(false),
            access,
            state: watch::Sender::new(AgentState::Joining),
            line,
            settings,
        })
    }

    /// What it is at.
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.subscribe()
    }

    /// Whether the service has drained the node.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Works until it is stopped or the node is removed. A service that cannot be reached is tried
    /// for ever.
    ///
    /// # Errors
    /// When the node cannot join: no token, one that the service does not take, or a state
    /// directory that keeps nothing.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<AgentEnd, AgentError> {
        let end = self.work(&stop).await;
        self.warms.cancel_all();
        self.prewarm.cancel_all();
        self.state.send_replace(AgentState::Ended);
        if matches!(end, Ok(AgentEnd::Removed)) {
            tracing::warn!(node = self.settings.name, "the node was removed");
            self.sandboxes.end_all().await;
            Credentials::forget(&self.settings.dir)?;
        }
        end
    }

    async fn work(self: &Arc<Self>, stop: &CancellationToken) -> Result<AgentEnd, AgentError> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut ever_connected = false;
        let mut credentials = Credentials::load(&self.settings.dir)?.filter(|known| {
            let moved = |region: &String| *region != known.region;
            known.name == self.settings.name && !self.settings.region.as_ref().is_some_and(moved)
        });
        loop {
            // A connection that broke is never used again.
            let connection = Connection::new(&self.settings).map_err(AgentError::Client)?;
            if credentials.is_none() {
                let joined = tokio::select! {
                    joined = self.join(&connection) => joined,
                    () = stop.cancelled() => return Ok(AgentEnd::Stopped),
                };
                match joined {
                    Ok(fresh) => credentials = Some(fresh),
                    Err(AgentError::Refused(error))
                        if (ever_connected || is_busy(&error)) && !error.is_removed() =>
                    {
                        self.wait(&error.to_string(), &mut backoff, stop).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            if let Some(known) = &credentials {
                let result = self.session(&connection, known, stop, || {
                    ever_connected = true;
                    backoff.reset();
                });
                match result.await {
                    Ok(session::End::Removed) => return Ok(AgentEnd::Removed),
                    Ok(session::End::Closed) => {
                        let reason = "the service closed the connection";
                        self.wait(reason, &mut backoff, stop).await;
                    }
                    // While it was away. To join again is for people to decide.
                    Err(SessionError::Call(error)) if error.is_removed() => {
                        return Ok(AgentEnd::Removed);
                    }
                    Err(SessionError::Call(error)) if error.is_unauthorized() => {
                        if self.settings.join == Join::Never && !ever_connected {
                            return Err(AgentError::Refused(error));
                        }
                        if self.settings.join != Join::Never {
                            // The service lost its records.
                            credentials = None;
                        }
                        self.wait(&error.to_string(), &mut backoff, stop).await;
                    }
                    Err(error) => self.wait(&error.to_string(), &mut backoff, stop).await,
                }
            }
            if stop.is_cancelled() {
                return Ok(AgentEnd::Stopped);
            }
        }
    }

    /// Joins; tries again while the service cannot be reached.
    async fn join(&self, connection: &Connection) -> Result<Credentials, AgentError> {
        let token = self.join_token()?;
        let register = Register {
            name: self.settings.name.clone(),
            region: self.settings.region.clone(),
            labels: self.settings.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let stop = CancellationToken::new();
        loop {
            match connection.register(&token, &register).await {
                Ok(joined) => {
                    let credentials = Credentials {
                        name: joined.name,
                        region: joined.region,
                        token: joined.token,
                    };
                    credentials.save(&self.settings.dir)?;
                    tracing::info!(
                        node = credentials.name,
                        region = credentials.region,
                        "joined"
                    );
                    return Ok(credentials);
                }
                Err(CallError::Unreachable { reason, .. }) => {
                    self.wait(&reason, &mut backoff, &stop).await;
                }
                Err(error) => return Err(AgentError::Refused(error)),
            }
        }
    }

    fn join_token(&self) -> Result<String, AgentError> {
        match &self.settings.join {
            Join::Token(token) => Ok(token.trim().to_owned()),
            Join::File(path) => std::fs::read_to_string(path)
                .map(|token| token.trim().to_owned())
                .map_err(|source| AgentError::TokenFile {
                    path: path.clone(),
                    source,
                }),
            Join::Never => Err(AgentError::NoToken(self.settings.name.clone())),
        }
    }

    async fn session(
        self: &Arc<Self>,
        connection: &Connection,
        credentials: &Credentials,
        stop: &CancellationToken,
        mut welcomed: impl FnMut(),
    ) -> Result<session::End, SessionError> {
        let peer_token = self.access.borrow().as_ref().map(|a| a.peer_token.clone());
        self.access.send_replace(Some(Access {
            url: self.settings.server.clone(),
            token: credentials.token.clone(),
            peer_token: peer_token.unwrap_or_default(),
        }));
        let over = CancellationToken::new();
        self.line.set(Some(OpenLine {
            connection: connection.clone(),
            token: credentials.token.clone(),
            over: over.clone(),
        }));
        let _at_the_end = over.clone().drop_guard();
        let result = session::hold(self, connection, &credentials.token, stop, || {
            tracing::info!(node = credentials.name, "connected");
            self.state.send_replace(AgentState::Connected {
                region: credentials.region.clone(),
            });
            welcomed();
        });
        let result = result.await;
        self.line.set(None);
        result
    }

    /// Says why there is no session, and waits before the next try.
    async fn wait(&self, reason: &str, backoff: &mut Backoff, stop: &CancellationToken) {
        if stop.is_cancelled() {
            return;
        }
        let pause = backoff.next();
        tracing::warn!(
            reason,
            seconds = pause.as_secs_f64(),
            "not connected; trying again"
        );
        self.state.send_replace(AgentState::Waiting {
            reason: reason.to_owned(),
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }

    fn welcomed(&self, peer_token: String, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
        self.trust_peers_by(peer_token);
    }

    fn trust_peers_by(&self, peer_token: String) {
        self.access.send_if_modified(|access| match access {
            Some(access) if access.peer_token != peer_token => {
                access.peer_token = peer_token;
                true
            }
            _ => false,
        });
    }

    fn drain(&self, draining: bool) {
        tracing::info!(draining, "told to drain");
        self.draining.store(draining, Ordering::Relaxed);
    }
}

/// Whether the service may take the same call later.
fn is_busy(error: &CallError) -> bool {
    matches!(error, CallError::Refused(problem) if matches!(problem.status, 429 | 500..))
}
