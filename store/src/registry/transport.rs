//! One request: sent, authorised, retried, and its answer read within limits.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::Client;
use super::auth::Scopes;
use super::challenge::challenge;
use super::endpoint::{Endpoint, host_of, is_insecure, is_loopback};
use super::error::RegistryError;

/// Errors and listings are read up to here.
pub(super) const ANSWER_LIMIT: u64 = 4 << 20;

/// A request that can be sent again.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) payload: Payload,
    /// How often at most; `None` means as the settings say.
    pub(super) tries: Option<u32>,
    /// Whether no proxy stands before the server.
    pub(super) direct: bool,
}

/// What a request carries.
#[derive(Clone)]
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    Stream(Arc<dyn Upload>),
}

/// A body that is read while it is sent, from the start each time it is asked for.
pub(super) trait Upload: Send + Sync {
    /// Bytes in all.
    fn length(&self) -> u64;
    /// The body; `sent` is raised by what has been handed over.
    fn body(&self, sent: Arc<AtomicU64>) -> reqwest::Body;
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) url: Url,
    pub(super) body: Bytes,
}

impl Attempt {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            payload: Payload::None,
            tries: None,
            direct: false,
        }
    }

    pub(super) fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    pub(super) fn form(url: Url, fields: &[(String, String)]) -> Self {
        // The query part of a URL has the very encoding of a form.
        let mut encoder = url.clone();
        encoder.query_pairs_mut().clear().extend_pairs(fields);
        let form = encoder.query().unwrap_or_default().to_owned();
        let mut attempt = Self::new(Method::POST, url);
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        attempt.headers.insert(CONTENT_TYPE, kind);
        attempt.payload = Payload::Bytes(form.into());
        attempt
    }
}

/// Failure of one try.
enum Broken {
    /// May pass.
    Transient(String),
    /// Will not.
    Final(String),
}

impl Client {
    pub(super) fn idle(&self) -> Duration {
        self.inner.options.idle_timeout
    }

    /// Sends with the right login; asks for a new one once when the registry wants it.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        mut attempt: Attempt,
        what: &str,
    ) -> Result<Response, RegistryError> {
        if endpoint.mirror {
            attempt.tries = Some(attempt.tries.unwrap_or(2).min(2));
        }
        // An upload may continue at another server, whose URL is then its own key.
        let owned = endpoint.owns(&attempt.url);
        if owned {
            attempt.authorization = self.authorization(endpoint, scopes).await?;
        }
        let response = self.send_plain(&attempt, what).await?;
        // A server that we were redirected to does not say where this registry's login goes.
        if !owned || !endpoint.owns(response.url()) {
            return Ok(response);
        }
        let used = attempt.authorization.take();
        let fresh = match response.status() {
            StatusCode::UNAUTHORIZED => match challenge(response.headers()) {
                Some(challenge) => {
                    self.challenged(endpoint, scopes, used.as_ref(), challenge)
                        .await?
                }
                None => None,
            },
            StatusCode::FORBIDDEN => match &used {
                Some(used) => self.forbidden(endpoint, scopes, used).await,
                None => None,
            },
            _ => None,
        };
        if fresh.is_none() {
            return Ok(response);
        }
        attempt.authorization = fresh;
        self.send_plain(&attempt, what).await
    }

    /// As [`send`](Self::send), then reads the whole answer, again if the connection breaks.
    pub(super) async fn fetch(
        &self,
        endpoint: &Endpoint,
        scopes: &Scopes,
        attempt: Attempt,
        limit: u64,
        what: &str,
    ) -> Result<Answer, RegistryError> {
        let mut tries = 1;
        loop {
            let response = self.send(endpoint, scopes, attempt.clone(), what).await?;
            let (status, url) = (response.status(), response.url().clone());
            let headers = response.headers().clone();
            match read_limited(response, limit, what, self.idle()).await {
                Ok(body) => {
                    return Ok(Answer {
                        status,
                        headers,
                        url,
                        body,
                    });
                }
                Err(RegistryError::Unreachable { .. })
                    if tries < self.tries(endpoint, &attempt) =>
                {
                    tokio::time::sleep(self.inner.options.retry.delay(tries)).await;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn tries(&self, endpoint: &Endpoint, attempt: &Attempt) -> u32 {
        let most = attempt.tries.unwrap_or(self.inner.options.retry.attempts);
        if endpoint.mirror { most.min(2) } else { most }
    }

    /// Sends as it is; retries what may pass; gives any other answer, whatever its status.
    pub(super) async fn send_plain(
        &self,
        attempt: &Attempt,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let retry = &self.inner.options.retry;
        let tries = attempt.tries.unwrap_or(retry.attempts).max(1);
        let host = host_of(&attempt.url);
        let mut number = 1;
        loop {
            let mut delay = retry.delay(number);
            match self.send_once(attempt).await {
                Ok(response) if is_transient(response.status()) => {
                    let asked = retry_after(response.headers(), SystemTime::now());
                    let status = response.status();
                    if number >= tries || asked.is_some_and(|asked| asked > retry.max_delay) {
                        let body = read_limited(response, ANSWER_LIMIT, what, self.idle()).await;
                        return Err(RegistryError::Unavailable {
                            host,
                            what: what.to_owned(),
                            status: status.as_u16(),
                            detail: body.map_or_else(|e| e.to_string(), |b| excerpt(&b)),
                        });
                    }
                    delay = asked.unwrap_or(delay);
                    tracing::debug!(host, what, %status, ?delay, "registry asks to come again");
                }
                Ok(response) => return Ok(response),
                Err(Broken::Transient(cause)) if number < tries => {
                    tracing::debug!(host, what, cause, ?delay, "request failed, trying again");
                }
                Err(Broken::Transient(cause) | Broken::Final(cause)) => {
                    return Err(unreachable(host, cause));
                }
            }
            tokio::time::sleep(delay).await;
            number += 1;
        }
    }

    /// The HTTP client for a server.
    fn http(&self, url: &Url) -> &reqwest::Client {
        if url.host_str().is_some_and(is_loopback) {
            &self.inner.direct
        } else if is_insecure(&self.inner.options, &host_of(url)) {
            &self.inner.lenient
        } else {
            &self.inner.proxied
        }
    }

    async fn send_once(&self, attempt: &Attempt) -> Result<Response, Broken> {
        let http = match attempt.direct {
            true => &self.inner.direct,
            false => self.http(&attempt.url),
        };
        let mut request = http
            .request(attempt.method.clone(), attempt.url.clone())
            .headers(attempt.headers.clone());
        if let Some(value) = &attempt.authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let sent = Arc::new(AtomicU64::new(0));
        let mut total = 0;
        match &attempt.payload {
            // Some servers insist on a length for a POST or PUT without a body.
            Payload::None if attempt.method == Method::GET || attempt.method == Method::HEAD => {}
            Payload::None => request = request.header(CONTENT_LENGTH, 0),
            Payload::Bytes(bytes) => request = request.body(bytes.clone()),
            Payload::Stream(upload) => {
                total = upload.length();
                request = request
                    .header(CONTENT_LENGTH, total)
                    .body(upload.body(Arc::clone(&sent)));
            }
        }
        let options = &self.inner.options;
        let mut response = std::pin::pin!(request.send());
        let mut seen = 0;
        loop {
            let limit = match attempt.method {
                Method::GET | Method::HEAD => options.idle_timeout,
                _ if sent.load(Ordering::Relaxed) < total => options.idle_timeout,
                _ => options.commit_timeout,
            };
            match tokio::time::timeout(limit, &mut response).await {
                Ok(answer) => return answer.map_err(|e| broken(&e)),
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == seen {
                        let seconds = limit.as_secs();
                        return Err(Broken::Transient(format!("no answer within {seconds} s")));
                    }
                    seen = now;
                }
            }
        }
    }

    /// Turns an answer that a caller has no use for into an error.
    pub(super) async fn refused(
        &self,
        endpoint: &Endpoint,
        answer: &Answer,
        what: &str,
    ) -> RegistryError {
        let detail = excerpt(&answer.body);
        let host = host_of(&answer.url);
        match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
                registry: endpoint.login.clone(),
                what: what.to_owned(),
                detail: format!("{}: {detail}", answer.status),
                credentials: self.told(endpoint).await,
            },
            StatusCode::NOT_FOUND => RegistryError::NotFound {
                what: what.to_owned(),
                registry: endpoint.registry.clone(),
                notes: format!(" ({detail})"),
            },
            status => RegistryError::Protocol {
                host,
                what: what.to_owned(),
                detail: format!("answered {status}: {detail}"),
            },
        }
    }

    /// Reads a streamed answer's body, to report it as [`refused`](Self::refused) does.
    pub(super) async fn refused_stream(
        &self,
        endpoint: &Endpoint,
        response: Response,
        what: &str,
    ) -> RegistryError {
        let (status, headers) = (response.status(), response.headers().clone());
        let url = response.url().clone();
        let body = match read_limited(response, ANSWER_LIMIT, what, self.idle()).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let answer = Answer {
            status,
            headers,
            url,
            body,
        };
        self.refused(endpoint, &answer, what).await
    }
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` as seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Reads a body of at most `limit` bytes, each part of it within `idle`.
pub(super) async fn read_limited(
    mut response: Response,
    limit: u64,
    what: &str,
    idle: Duration,
) -> Result<Bytes, RegistryError> {
    let host = host_of(response.url());
    let too_large = || RegistryError::TooLarge {
        host: host.clone(),
        what: what.to_owned(),
        limit,
    };
    // The announced length of an answer to HEAD is not that of its (empty) body.
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(part) = next_part(&mut response, idle).await? {
        if (body.len() + part.len()) as u64 > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// The next part of a body; [`RegistryError::Unreachable`] when the connection broke.
pub(super) async fn next_part(
    response: &mut Response,
    idle: Duration,
) -> Result<Option<Bytes>, RegistryError> {
    let part = tokio::time::timeout(idle, response.chunk()).await;
    let host = || host_of(response.url());
    match part {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(error)) => Err(unreachable(host(), innermost(&error))),
        Err(_) => {
            let cause = format!("no data for {} s", idle.as_secs());
            Err(unreachable(host(), cause))
        }
    }
}

pub(super) fn unreachable(host: String, cause: String) -> RegistryError {
    RegistryError::Unreachable {
        host,
        cause,
        notes: String::new(),
    }
}

fn broken(error: &reqwest::Error) -> Broken {
    let cause = innermost(error);
    let lower = cause.to_lowercase();
    if lower.contains("certificate") {
        let hint = "the CA bundle setting adds certificate authorities";
        return Broken::Final(format!("{cause} ({hint})"));
    }
    if lower.contains("corrupt message") || lower.contains("invalidcontenttype") {
        let hint = "if it speaks plain HTTP, name it among the insecure registries";
        return Broken::Final(format!("{cause} ({hint})"));
    }
    if error.is_builder() || error.is_redirect() {
        return Broken::Final(cause);
    }
    Broken::Transient(cause)
}

/// The innermost cause: the outer ones repeat the URL, which may hold an upload's key.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(next) = cause.and_then(|c| c.source()) {
        cause = Some(next);
    }
    match cause {
        Some(cause) => cause.to_string(),
        None => {
            // `without_url` takes the error by value.
            if error.is_timeout() {
                "timed out".to_owned()
            } else {
                "request failed".to_owned()
            }
        }
    }
}

/// What a registry says in an error body: the messages of its JSON form ("Error Codes" of the
/// distribution specification), else the start of the text.
pub(super) fn excerpt(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Problem>,
    }
    #[derive(serde::Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(parsed) if !parsed.errors.is_empty() => {
            let each = parsed
                .errors
                .iter()
                .map(|e| format!("{} {}", e.code, e.message));
            each.collect::<Vec<_>>().join("; ")
        }
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    // Hostile text must not steer a terminal.
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    match clean.trim() {
        "" => "no explanation".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_retry_after() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |text: &str, expect: Option<u64>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            let got = retry_after(&headers, now).map(|d| d.as_secs());
            assert_eq!(got, expect, "{text}");
        };
        check("0", Some(0));
        check("120", Some(120));
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
        check("Sun, 06 Nov 1994 08:49:07 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }

    #[test]
    fn excerpts_errors() {
        let check = |body: &str, expect: &str| assert_eq!(excerpt(body.as_bytes()), expect);
        check("", "no explanation");
        check(
            r#"{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}"#,
            "DENIED no; X",
        );
        check("<html>\u{1b}[31m bad\r\n", "<html> [31m bad");
        check(&"x".repeat(1000), &"x".repeat(300));
    }
}
