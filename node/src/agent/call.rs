//! Calls to the service, all over one HTTP/2 connection.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use chalk_core::Digest;
use chalk_core::wire::agent::{Register, Registered};
use chalk_core::wire::{Problem, problem};
use futures_util::Stream;
use reqwest::{Certificate, Response, StatusCode};

use crate::settings::NodeSettings;

/// How often a connection on which nothing happens is tried.
const PING: Duration = Duration::from_secs(10);
/// How long an answer to that may take.
const PING_ANSWER: Duration = Duration::from_secs(20);
/// Bytes of one answer, and of all, that the service may send before somebody takes them.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 512 << 20;
/// How long the service may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest problem document that is read.
const PROBLEM_LIMIT: usize = 64 << 10;

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answered, or the connection broke.
    #[error("cannot reach the service at {url}: {reason}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    /// The service said no.
    #[error("{}{}{}", .0.title, if .0.detail.is_empty() { "" } else { ": " }, .0.detail)]
    Refused(Problem),
    /// The client cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

impl CallError {
    /// Whether the service does not take the token.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.kind == problem::UNAUTHORIZED)
    }

    /// Whether the service says that the node was removed.
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.kind == problem::NODE_REMOVED)
    }
}

/// A connection to the service, opened with the first call.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    http: reqwest::Client,
    url: String,
}

impl Connection {
    pub(super) fn new(settings: &NodeSettings) -> Result<Self, CallError> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(PING)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING_ANSWER)
            .http2_keep_alive_while_idle(true)
            // Files on their way into sandboxes that take them slowly must not use up what orders
            // need.
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // The node's one connection goes straight to the service.
            .redirect(reqwest::redirect::Policy::none());
        if settings.server.starts_with("http://") {
            builder = builder.http2_prior_knowledge();
        }
        if let Some(path) = &settings.ca_bundle {
            for certificate in certificates(path)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(|e| CallError::Client(causes(&e)))?;
        Ok(Self {
            http,
            url: settings.server.clone(),
        })
    }

    /// Joins, with a join token.
    pub(super) async fn register(
        &self,
        token: &str,
        register: &Register,
    ) -> Result<Registered, CallError> {
        let request = self
            .http
            .post(format!("{}/v1/agent/register", self.url))
            .bearer_auth(token)
            .timeout(ANSWER)
            .json(register);
        let response = self.sound(request.send().await).await?;
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&bytes).map_err(|e| CallError::Unreachable {
            url: self.url.clone(),
            reason: format!("it did not answer as a chalk service: {e}"),
        })
    }

    /// Opens a session: `reports` is what this side says, the body of the answer what the service
    /// says.
    pub(super) async fn session<S>(&self, token: &str, reports: S) -> Result<Response, CallError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let request = self
            .http
            .post(format!("{}/v1/agent/session", self.url))
            .bearer_auth(token)
            .header("content-type", "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(reports));
        match tokio::time::timeout(ANSWER, request.send()).await {
            Ok(sent) => self.sound(sent).await,
            Err(_) => Err(CallError::Unreachable {
                url: self.url.clone(),
                reason: format!("no answer within {} seconds", ANSWER.as_secs()),
            }),
        }
    }

    /// Sends the output of a process to whoever has that ticket; done when it is all sent, or
    /// nobody wants it any more.
    pub(super) async fn stream<S>(
        &self,
        token: &str,
        ticket: &str,
        lines: S,
    ) -> Result<(), CallError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let request = self
            .http
            .post(format!("{}/v1/agent/streams/{ticket}", self.url))
            .bearer_auth(token)
            .header("content-type", "application/x-ndjson")
            .body(reqwest::Body::wrap_stream(lines));
        self.sound(request.send().await).await.map(drop)
    }

    /// Sends a file to whoever has that ticket; done when it is all sent, or nobody wants it any
    /// more.
    pub(super) async fn send_file<S>(
        &self,
        token: &str,
        ticket: &str,
        bytes: S,
    ) -> Result<(), CallError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let request = self
            .http
            .post(format!("{}/v1/agent/files/{ticket}", self.url))
            .bearer_auth(token)
            .header("content-type", "application/octet-stream")
            .body(reqwest::Body::wrap_stream(bytes));
        self.sound(request.send().await).await.map(drop)
    }

    /// The file that whoever has that ticket sends, as it comes.
    pub(super) async fn take_file(&self, token: &str, ticket: &str) -> Result<Response, CallError> {
        let request = self
            .http
            .get(format!("{}/v1/agent/files/{ticket}", self.url))
            .bearer_auth(token);
        self.sound(request.send().await).await
    }

    /// A blob, as it comes.
    pub(super) async fn blob(&self, token: &str, digest: Digest) -> Result<Response, CallError> {
        let request = self
            .http
            .get(format!("{}/v1/blobs/{digest}", self.url))
            .bearer_auth(token);
        self.sound(request.send().await).await
    }

    async fn sound(&self, sent: Result<Response, reqwest::Error>) -> Result<Response, CallError> {
        let response = sent.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(CallError::Refused(problem_of(response).await))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        CallError::Unreachable {
            url: self.url.clone(),
            reason: causes(error),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, CallError> {
    let wrong = |reason: String| CallError::Client(format!("{}: {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| wrong(causes(&e)))?;
    if certificates.is_empty() {
        return Err(wrong("holds no PEM certificate".to_owned()));
    }
    Ok(certificates)
}

async fn problem_of(mut response: Response) -> Problem {
    let status = response.status();
    let url = response.url().clone();
    let mut body = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(ANSWER, response.chunk()).await {
        body.extend_from_slice(&chunk);
        if body.len() > PROBLEM_LIMIT {
            break;
        }
    }
    serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
        kind: match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => problem::UNAUTHORIZED,
            StatusCode::NOT_FOUND => problem::NOT_FOUND,
            _ => problem::INTERNAL,
        }
        .to_owned(),
        title: format!("{url} answered {status}"),
        status: status.as_u16(),
        detail: String::new(),
        hint: String::new(),
    })
}

/// The innermost reason, which is what people need.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
