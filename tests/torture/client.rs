//! HTTP as the clients of a trial speak it.

use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::blob_batch::BatchEncoder;
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::payload::{MANIFEST, digest};

/// Longest that one call may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often an upload that tore is taken up again.
const TRIES: usize = 6;

/// What came instead of success: in words. Nothing is known of what was asked for then.
pub(crate) type Fallible<T> = Result<T, String>;

/// A client of the service or of another registry.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Expects success.
    pub(crate) fn ok(self) -> Fallible<Self> {
        match self.status.is_success() {
            true => Ok(self),
            false => Err(format!(
                "{}: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            )),
        }
    }

    fn json(&self) -> Fallible<Value> {
        serde_json::from_slice(&self.body).map_err(|error| error.to_string())
    }
}

impl Client {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()
            .expect("a client");
        Self {
            http,
            url: url.to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// Sends a request; `path` may be a whole URL.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(reqwest::header::HeaderName, String)],
        body: Vec<u8>,
    ) -> Fallible<Answer> {
        let url = match path.starts_with("http") {
            true => path.to_owned(),
            false => format!("{}{path}", self.url),
        };
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = request.body(body).send().await.map_err(in_words)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(in_words)?.to_vec();
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    /// Sends JSON and expects JSON.
    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> Fallible<Value> {
        let headers = [(CONTENT_TYPE, "application/json".to_owned())];
        let body = body.to_string().into_bytes();
        self.send(method, path, &headers, body).await?.ok()?.json()
    }

    /// Collects garbage.
    pub(crate) async fn collect(&self) -> Fallible<()> {
        let headers = [(CONTENT_TYPE, "application/json".to_owned())];
        let answer = self.send(Method::POST, "/v1/gc", &headers, b"{}".to_vec());
        let answer = answer.await?.ok()?;
        let text = String::from_utf8_lossy(&answer.body);
        // What comes last says how it went.
        match text.lines().last() {
            Some(last) if last.contains("\"done\"") => Ok(()),
            last => Err(format!(
                "a collection ended so: {}",
                last.unwrap_or("not at all")
            )),
        }
    }

    /// A document of the API; none when there is none.
    pub(crate) async fn get(&self, path: &str) -> Fallible<Option<Value>> {
        let answer = self.send(Method::GET, path, &[], Vec::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => answer.ok()?.json().map(Some),
        }
    }

    /// Deletes; `false` when there was nothing.
    pub(crate) async fn delete(&self, path: &str) -> Fallible<bool> {
        let answer = self.send(Method::DELETE, path, &[], Vec::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(false),
            _ => answer.ok().map(|_| true),
        }
    }

    /// Uploads a file that a spec names: alone, or in a batch with others, as its digest has it.
    pub(crate) async fn put_file(&self, text: &str) -> Fallible<()> {
        let digest = Digest::of(text.as_bytes());
        let sent = match companions(&digest) {
            0 => {
                let (path, body) = (format!("/v1/blobs/{digest}"), text.as_bytes().to_vec());
                self.send(Method::PUT, &path, &[], body).await?
            }
            count => {
                let others = (0..count).map(|number| format!("{number} beside {digest}"));
                let mut batch = BatchEncoder::default();
                for text in others.chain([text.to_owned()]) {
                    if !batch.push(&Digest::of(text.as_bytes()), text.as_bytes()) {
                        return Err("a batch of small files is too large".into());
                    }
                }
                let body = batch.into_body();
                self.send(Method::POST, "/v1/blobs", &[], body).await?
            }
        };
        sent.ok().map(drop)
    }

    /// Pushes a blob in one piece, or in several; goes on where an upload tore.
    pub(crate) async fn push_blob(
        &self,
        repository: &str,
        bytes: &[u8],
        piece: usize,
    ) -> Fallible<()> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self
            .send(Method::POST, &path, &[], Vec::new())
            .await?
            .ok()?;
        let mut at = location(&begun)?;
        let mut sent = 0;
        let mut tries = 0;
        while piece > 0 && sent < bytes.len() {
            let end = bytes.len().min(sent + piece);
            let headers = [
                (CONTENT_TYPE, "application/octet-stream".to_owned()),
                (CONTENT_RANGE, format!("{sent}-{}", end - 1)),
            ];
            let body = bytes[sent..end].to_vec();
            let done = self.send(Method::PATCH, &at, &headers, body).await;
            match done.and_then(Answer::ok) {
                Ok(answer) => {
                    at = location(&answer)?;
                    sent = end;
                }
                Err(error) if tries >= TRIES => return Err(error),
                Err(_) => {
                    tries += 1;
                    let status = self.send(Method::GET, &at, &[], Vec::new()).await;
                    if let Ok(status) = status.and_then(Answer::ok) {
                        sent = received(&status)?;
                        at = location(&status)?;
                        if sent > bytes.len() {
                            return Err(format!("the upload has {sent} bytes of {}", bytes.len()));
                        }
                    }
                }
            }
        }
        let joint = if at.contains('?') { '&' } else { '?' };
        let last = format!("{at}{joint}digest={}", digest(bytes));
        let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned())];
        let rest = bytes[sent..].to_vec();
        self.send(Method::PUT, &last, &headers, rest)
            .await?
            .ok()
            .map(drop)
    }

    /// Begins the upload of a blob and sends bytes, but does not end it; its path.
    pub(crate) async fn begin_upload(&self, repository: &str, bytes: &[u8]) -> Fallible<String> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.send(Method::POST, &path, &[], Vec::new());
        let at = location(&begun.await?.ok()?)?;
        let headers = [(CONTENT_TYPE, "application/octet-stream".to_owned())];
        let sent = self.send(Method::PATCH, &at, &headers, bytes.to_vec());
        let at = location(&sent.await?.ok()?)?;
        // After a restart, the same path has another host.
        let path = at
            .split_once("://")
            .and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned()));
        Ok(path.unwrap_or(at))
    }

    /// Whether an upload can be gone on with.
    pub(crate) async fn has_upload(&self, path: &str) -> Fallible<bool> {
        let answer = self.send(Method::GET, path, &[], Vec::new()).await?;
        // A registry whose paths are signed may not know one of before its restart: no matter which.
        match answer.status.is_client_error() {
            true => Ok(false),
            false => answer.ok().map(|_| true),
        }
    }

    /// Pushes a manifest.
    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        bytes: Vec<u8>,
    ) -> Fallible<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let headers = [(CONTENT_TYPE, MANIFEST.to_owned())];
        self.send(Method::PUT, &path, &headers, bytes)
            .await?
            .ok()
            .map(drop)
    }

    /// A manifest's digest and bytes; none when there is none.
    pub(crate) async fn manifest(
        &self,
        repository: &str,
        reference: &str,
    ) -> Fallible<Option<(String, Vec<u8>)>> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let headers = [(ACCEPT, MANIFEST.to_owned())];
        let answer = self.send(Method::GET, &path, &headers, Vec::new()).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.ok()?;
        Ok(Some((digest(&answer.body), answer.body)))
    }

    /// A blob; none when there is none.
    ///
    /// # Errors
    /// Also when the bytes end early.
    pub(crate) async fn blob(&self, repository: &str, digest: &str) -> Fallible<Option<Vec<u8>>> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let answer = self.send(Method::GET, &path, &[], Vec::new()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => answer.ok().map(|answer| Some(answer.body)),
        }
    }

    /// Names of all repositories.
    pub(crate) async fn repositories(&self) -> Fallible<Vec<String>> {
        let found = self.get("/v2/_catalog?n=1000").await?.unwrap_or_default();
        Ok(texts(&found["repositories"]))
    }

    /// Tags of a repository.
    pub(crate) async fn tags(&self, repository: &str) -> Fallible<Vec<String>> {
        let path = format!("/v2/{repository}/tags/list");
        let found = self.get(&path).await?.unwrap_or_default();
        Ok(texts(&found["tags"]))
    }
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|one| one.as_str().map(str::to_owned))
        .collect()
}

fn location(answer: &Answer) -> Fallible<String> {
    let found = answer
        .headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    found
        .map(str::to_owned)
        .ok_or_else(|| "an upload without a location".to_owned())
}

/// Bytes that an upload has.
fn received(answer: &Answer) -> Fallible<usize> {
    let range = answer
        .headers
        .get(RANGE)
        .and_then(|value| value.to_str().ok());
    let last = range.and_then(|range| range.split_once('-')?.1.parse::<usize>().ok());
    let last = last.ok_or_else(|| "an upload without a range".to_owned())?;
    // `0-0` stands for nothing and for one byte.
    Ok(if last == 0 { 0 } else { last + 1 })
}

/// An error with its causes.
fn in_words(error: reqwest::Error) -> String {
    let mut text = error.without_url().to_string();
    text.truncate(200);
    text
}

/// How many other files go into the batch of a file: none, few or many, which the store syncs
/// differently.
fn companions(digest: &Digest) -> usize {
    [0, 2, 20][usize::from(digest.as_bytes()[0] % 3)]
}
