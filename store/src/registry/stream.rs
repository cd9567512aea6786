//! Blobs as streams, from servers that the caller picks and puts in order.
//!
//! [`Client::pull_blob`] brings a blob into a store; whoever turns it into something else while it
//! comes, and knows more servers than the settings do (nodes that have it), reads it here, one
//! connection at a time, and goes on elsewhere where one breaks.

use std::time::Duration;

use bytes::Bytes;
use chalk_core::Reference;
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};

use super::Client;
use super::auth::Scopes;
use super::endpoint::{Endpoint, mirror};
use super::error::RegistryError;
use super::pull::starts_at;
use super::transport::{Attempt, next_part, unreachable};
use crate::blobs::Blob;

/// A server that may have blobs of a repository.
#[derive(Debug, Clone)]
pub struct BlobSource {
    endpoint: Endpoint,
    peer: Option<Peer>,
}

#[derive(Debug, Clone)]
struct Peer {
    url: String,
    authorization: Option<HeaderValue>,
    idle: Duration,
}

impl BlobSource {
    /// Host and port.
    pub fn host(&self) -> String {
        self.endpoint.host()
    }

    /// URL that a peer was made from; `None` for mirrors of the settings and registries.
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_ref().map(|peer| peer.url.as_str())
    }

    /// Whether this is the registry itself, behind which there is nobody to ask.
    pub fn is_origin(&self) -> bool {
        !self.endpoint.mirror
    }
}

impl Client {
    /// A server beside those of the settings, such as a node that serves its blobs. It is spoken to
    /// without a proxy, and left after `idle` without a byte.
    ///
    /// # Errors
    /// [`RegistryError::Setting`] for what is no base URL.
    pub fn peer(
        &self,
        url: &str,
        token: &str,
        idle: Duration,
    ) -> Result<BlobSource, RegistryError> {
        let endpoint = mirror(&self.inner.options, "peers", url)?;
        let mut authorization = None;
        if !token.is_empty() {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| RegistryError::Setting {
                setting: format!("token for {url}"),
                detail: "has characters that no header takes".to_owned(),
            })?;
            value.set_sensitive(true);
            authorization = Some(value);
        }
        Ok(BlobSource {
            endpoint,
            peer: Some(Peer {
                url: url.to_owned(),
                authorization,
                idle,
            }),
        })
    }

    /// The servers that the settings name for a repository: its mirrors, then the registry.
    ///
    /// # Errors
    /// [`RegistryError::Setting`].
    pub async fn blob_sources(
        &self,
        repository: &Reference,
    ) -> Result<Vec<BlobSource>, RegistryError> {
        let endpoints = self.endpoints(repository.registry()).await?;
        let source = |endpoint| BlobSource {
            endpoint,
            peer: None,
        };
        Ok(endpoints.into_iter().map(source).collect())
    }

    /// Begins to read a blob at byte `from`. One try: whether to ask again, and whom, is up to the
    /// caller. What comes is not verified, save that it is not more than the blob's size.
    ///
    /// # Errors
    /// All of [`RegistryError`] but `NoSuchPlatform` and `Store`.
    pub async fn open_blob(
        &self,
        source: &BlobSource,
        repository: &Reference,
        blob: &Blob,
        from: u64,
    ) -> Result<BlobStream, RegistryError> {
        let name = repository.repository();
        let what = format!("blob {} of {name}", blob.digest);
        let url = source
            .endpoint
            .url(&format!("{name}/blobs/{}", blob.digest))?;
        let mut attempt = Attempt::get(url);
        attempt.tries = Some(1);
        if from > 0 {
            let range = HeaderValue::from_str(&format!("bytes={from}-"));
            attempt.headers.extend(range.ok().map(|v| (RANGE, v)));
        }
        let mut idle = self.idle();
        let response = match &source.peer {
            Some(peer) => {
                idle = peer.idle;
                attempt.authorization.clone_from(&peer.authorization);
                attempt.direct = true;
                let answer = self.send_plain(&attempt, &what);
                match tokio::time::timeout(peer.idle, answer).await {
                    Ok(answer) => answer?,
                    Err(_) => {
                        let cause = format!("no answer within {} s", idle.as_secs());
                        return Err(unreachable(source.host(), cause));
                    }
                }
            }
            None => {
                let scopes = Scopes::pull(name);
                self.send(&source.endpoint, &scopes, attempt, &what).await?
            }
        };
        let skip = match response.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers(), from) => 0,
            StatusCode::PARTIAL_CONTENT => {
                return Err(RegistryError::Protocol {
                    host: source.host(),
                    what,
                    detail: "answered with another range than asked for".to_owned(),
                });
            }
            _ => return Err(self.refused_stream(&source.endpoint, response, &what).await),
        };
        let left = blob.size.saturating_sub(from);
        if response.content_length().is_some_and(|n| n > left + skip) {
            return Err(RegistryError::TooLarge {
                host: source.host(),
                what,
                limit: blob.size,
            });
        }
        Ok(BlobStream {
            response,
            skip,
            left,
            idle,
            host: source.host(),
            what,
        })
    }
}

/// The bytes of a blob from some place on.
#[derive(Debug)]
pub struct BlobStream {
    response: Response,
    /// Bytes that the server sends although we have them.
    skip: u64,
    left: u64,
    idle: Duration,
    host: String,
    what: String,
}

impl BlobStream {
    /// Headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next bytes; `None` when the blob is whole.
    ///
    /// # Errors
    /// [`RegistryError::Unreachable`] where the connection broke, stalled or ended early,
    /// [`RegistryError::TooLarge`] where more came than the blob has.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let Some(mut part) = next_part(&mut self.response, self.idle).await? else {
                if self.left == 0 {
                    return Ok(None);
                }
                let cause = format!("{} ended {} bytes too early", self.what, self.left);
                return Err(unreachable(self.host.clone(), cause));
            };
            let known = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(part.len());
            self.skip -= known as u64;
            let part = part.split_off(known);
            if part.is_empty() {
                continue;
            }
            if part.len() as u64 > self.left {
                return Err(RegistryError::TooLarge {
                    host: self.host.clone(),
                    what: self.what.clone(),
                    limit: self.left,
                });
            }
            self.left -= part.len() as u64;
            return Ok(Some(part));
        }
    }
}
