//! The service's HTTP API as the command uses it.

mod events;
mod lines;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::{self, Problem, exit};
use chalk_watch::traces;
use futures_util::TryStreamExt as _;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use lines::Lines;

/// A connection to one service.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    /// Trace that the requests are a part of.
    traceparent: Option<String>,
}

impl Client {
    pub(crate) fn new(url: &str, token: &str) -> Result<Self, Failure> {
        let url = address(url)?;
        let mut builder = reqwest::Client::builder().connect_timeout(Duration::from_secs(10));
        if url.starts_with("http://") {
            // The host's authorities are hundreds of files, which take longer than the answer.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .build()
            .map_err(|e| Failure::new(exit::UNREACHABLE, "cannot make an HTTP client").why(e))?;
        Ok(Self {
            http,
            url,
            token: token.to_owned(),
            traceparent: traces::traceparent(),
        })
    }

    /// Address of the service, without a slash at its end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        match &self.traceparent {
            Some(trace) => request.header(traces::TRACEPARENT, trace),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(problem_of(response).await.into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::new(
            exit::UNREACHABLE,
            format!("cannot reach the service at {}", self.url),
        )
        .transient()
        .why(causes(error))
        .hint("start one with `chalk serve`, or leave --server out to work in this process")
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request).await?;
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(
                exit::UNREACHABLE,
                format!("{} did not answer as a chalk service", self.url),
            )
            .why(e)
            .hint("check the address and that client and service have the same version")
        })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(self.request(Method::GET, path)).await
    }

    /// The bytes of an answer.
    pub(crate) async fn raw(&self, path: &str) -> Result<bytes::Bytes, Failure> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.bytes().await.map_err(|e| self.unreachable(&e))
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(self.request(Method::PUT, path)).await
    }

    pub(crate) async fn put_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.json(self.request(Method::PUT, path).json(body)).await
    }

    /// A call that has no body and is answered by one.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, Failure> {
        self.json(self.request(method, path)).await
    }

    /// A call that is answered by nothing.
    pub(crate) async fn tell(&self, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        self.send(self.request(Method::POST, path).json(body))
            .await
            .map(drop)
    }

    /// Bytes that are taken when this is done. What could not be sent at all is sent again for a
    /// while; what may have arrived never is.
    pub(crate) async fn bytes(&self, path: &str, bytes: bytes::Bytes) -> Result<(), Failure> {
        let mut wait = Duration::from_millis(100);
        loop {
            let request = self.request(Method::POST, path).body(bytes.clone());
            match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => return Err(problem_of(response).await.into()),
                Err(error) if error.is_connect() && wait < Duration::from_secs(10) => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(self.request(Method::DELETE, path))
            .await
            .map(drop)
    }

    /// Sends a body of any length as it comes.
    pub(crate) async fn stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: reqwest::Body,
    ) -> Result<T, Failure> {
        self.json(self.request(Method::POST, path).body(body)).await
    }

    /// Sends a body of any length as it comes, to stand under that name.
    pub(crate) async fn put_stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: reqwest::Body,
    ) -> Result<T, Failure> {
        self.json(self.request(Method::PUT, path).body(body)).await
    }

    /// Uploads one blob.
    pub(crate) async fn put_blob(
        &self,
        digest: Digest,
        size: u64,
        body: reqwest::Body,
    ) -> Result<(), Failure> {
        let request = self
            .request(Method::PUT, &format!("/v1/blobs/{digest}"))
            .header(reqwest::header::CONTENT_LENGTH, size)
            .body(body);
        self.send(request).await.map(drop)
    }

    /// Uploads a batch of blobs, framed as [`wire::blob_batch`] says.
    pub(crate) async fn post_blobs(&self, body: Vec<u8>) -> Result<(), Failure> {
        let request = self.request(Method::POST, "/v1/blobs").body(body);
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let failure = Failure::from(problem_of(response).await);
        Err(match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                failure.hint("the service is older than this command: use the same version of both")
            }
            _ => failure,
        })
    }

    /// An answer of lines of JSON, which may take long to come.
    pub(crate) async fn lines(&self, path: &str, body: &impl Serialize) -> Result<Lines, Failure> {
        let request = self.request(Method::POST, path).json(body);
        Ok(Lines::new(self.clone(), self.send(request).await?))
    }

    /// Text of a log.
    pub(crate) async fn text(&self, path: &str) -> Result<Response, Failure> {
        self.send(self.request(Method::GET, path)).await
    }

    /// Follows a build over broken connections until it is finished. Every event is handed over
    /// once, in order.
    pub(crate) async fn follow(
        &self,
        build: &str,
        mut sink: impl FnMut(wire::Event),
    ) -> Result<wire::Build, Failure> {
        let mut events = self.events::<wire::Event>(format!("/v1/builds/{build}/events"), 0);
        loop {
            let event = events.next().await?;
            let finished = match &event.kind {
                wire::EventKind::Finished { build } => Some((**build).clone()),
                _ => None,
            };
            sink(event);
            if let Some(finished) = finished {
                return Ok(finished);
            }
        }
    }
}

/// The address of a service without a slash at its end.
pub(crate) fn address(url: &str) -> Result<String, Failure> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let what = format!("`{url}` is not the address of a service");
    Err(Failure::usage(what).hint("give http://HOST:PORT or https://HOST:PORT"))
}

/// Body that streams a file; `sent` is raised by what was handed over.
pub(crate) async fn file_body(
    path: &Path,
    sent: Arc<AtomicU64>,
) -> Result<(u64, reqwest::Body), std::io::Error> {
    let file = tokio::fs::File::open(path).await?;
    let size = file.metadata().await?.len();
    let stream = tokio_util::io::ReaderStream::with_capacity(file, 1 << 18);
    let stream = stream.inspect_ok(move |chunk| {
        sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    Ok((size, reqwest::Body::wrap_stream(stream)))
}

/// Percent-encodes everything but what may stand in one path segment (RFC 3986, section 2.3).
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

async fn problem_of(response: Response) -> Problem {
    let status = response.status();
    let url = response.url().clone();
    let body = response.bytes().await.unwrap_or_default();
    serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
        kind: match status {
            StatusCode::NOT_FOUND => wire::problem::NOT_FOUND,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => wire::problem::UNAUTHORIZED,
            _ => wire::problem::INTERNAL,
        }
        .to_owned(),
        title: format!("{url} answered {status}"),
        status: status.as_u16(),
        detail: String::from_utf8_lossy(&body).chars().take(500).collect(),
        hint: String::new(),
    })
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("team/app:v1"), "team%2Fapp%3Av1");
        assert_eq!(segment("a b%ü"), "a%20b%25%C3%BC");
    }
}
