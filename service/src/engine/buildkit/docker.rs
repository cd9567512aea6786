//! The API of a Docker Engine (version 1.41 and later), as far as its BuildKit needs it: the gRPC
//! connection, and what brings an image from the engine into a registry, since the BuildKit inside
//! exports only into the engine.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::StreamExt as _;
use reqwest::header::{CONNECTION, UPGRADE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;

use super::connect::in_words;
use super::login::Login;

/// Longest message line of a push; the daemon's are a few hundred bytes.
const LONGEST_LINE: usize = 1 << 20;
/// Longest error document that is read.
const LONGEST_ERROR: usize = 64 << 10;

/// One Docker Engine.
#[derive(Debug, Clone)]
pub(super) struct DockerApi {
    client: Client,
}

/// A line of the answer to a push.
#[derive(Debug, Deserialize)]
struct PushLine {
    error: Option<String>,
}

/// The daemon's error document.
#[derive(Debug, Deserialize)]
struct ErrorDocument {
    message: String,
}

impl DockerApi {
    /// An engine by its socket. Connects with the first request.
    ///
    /// # Errors
    /// When no client can be made; in words.
    pub(super) fn new(socket: &Path) -> Result<Self, String> {
        let client = Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .http1_only()
            .connect_timeout(Duration::from_secs(10))
            .build();
        Ok(Self {
            client: client.map_err(|e| in_words(&e))?,
        })
    }

    fn request(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://docker{path}"))
    }

    /// A connection that speaks gRPC (HTTP/2 without negotiation).
    ///
    /// # Errors
    /// When the engine refuses it; in words.
    pub(super) async fn grpc(&self) -> Result<reqwest::Upgraded, String> {
        let request = self
            .request(reqwest::Method::POST, "/grpc")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "h2c");
        let answer = request.send().await.map_err(|e| in_words(&e))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal("hand its BuildKit out", answer).await);
        }
        answer.upgrade().await.map_err(|e| in_words(&e))
    }

    /// Pushes `repository:tag` (with the registry in front) to its registry.
    ///
    /// # Errors
    /// When engine or registry refuse; in words.
    pub(super) async fn push(
        &self,
        repository: &str,
        tag: &str,
        login: Option<&Login>,
    ) -> Result<(), String> {
        let request = self
            .request(reqwest::Method::POST, &format!("/images/{repository}/push"))
            .query(&[("tag", tag)])
            .header("X-Registry-Auth", auth_header(login));
        let answer = request.send().await.map_err(|e| in_words(&e))?;
        if !answer.status().is_success() {
            return Err(refusal("push the image", answer).await);
        }
        let mut lines = Vec::new();
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.next().await {
            lines.extend_from_slice(&piece.map_err(|e| in_words(&e))?);
            while let Some(end) = lines.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                check_push(&line)?;
            }
            if lines.len() > LONGEST_LINE {
                return Err("the engine's answer to a push has no lines".to_owned());
            }
        }
        check_push(&lines)
    }

    /// Takes a tag away, with the image when it was its last one. What BuildKit has cached stays.
    ///
    /// # Errors
    /// When the engine refuses; in words.
    pub(super) async fn untag(&self, repository: &str, tag: &str) -> Result<(), String> {
        let path = format!("/images/{repository}:{tag}");
        let request = self.request(reqwest::Method::DELETE, &path);
        let answer = request.send().await.map_err(|e| in_words(&e))?;
        match answer.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => Err(refusal("remove the image", answer).await),
        }
    }
}

fn check_push(line: &[u8]) -> Result<(), String> {
    let line = line.trim_ascii();
    match serde_json::from_slice::<PushLine>(line) {
        Ok(PushLine { error: Some(why) }) => Err(why),
        Err(error) if !line.is_empty() => Err(format!("the engine's answer is no JSON: {error}")),
        _ => Ok(()),
    }
}

async fn refusal(what: &str, answer: Response) -> String {
    let status = answer.status();
    let mut text = Vec::new();
    let mut body = answer.bytes_stream();
    while let Some(Ok(piece)) = body.next().await {
        text.extend_from_slice(&piece);
        if text.len() > LONGEST_ERROR {
            break;
        }
    }
    let why = match serde_json::from_slice::<ErrorDocument>(&text) {
        Ok(document) => document.message,
        Err(_) => String::from_utf8_lossy(&text).trim().to_owned(),
    };
    format!("the Docker Engine does not {what}: {status}: {why}")
}

/// `X-Registry-Auth` (Docker Engine API, "Authentication"). The engine wants one in any case.
fn auth_header(login: Option<&Login>) -> String {
    let document = match login {
        Some(login) => serde_json::json!({
            "username": login.user,
            "password": login.password(),
            "serveraddress": login.host,
        }),
        None => serde_json::json!({}),
    };
    URL_SAFE.encode(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_that_failed_is_told() {
        let check = |line: &str, expect: Result<(), &str>| {
            assert_eq!(check_push(line.as_bytes()), expect.map_err(str::to_owned));
        };
        check(r#"{"status":"Pushed","id":"1"}"#, Ok(()));
        check("  \n", Ok(()));
        check(
            r#"{"errorDetail":{"message":"denied"},"error":"denied"}"#,
            Err("denied"),
        );
        assert!(check_push(b"nonsense").is_err());
    }
}
