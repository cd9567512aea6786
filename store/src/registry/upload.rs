//! One blob on its way to one registry (spec.md, "Pushing blobs").

use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use chalk_core::{Digest, Reference};
use futures_util::{StreamExt as _, stream};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::Client;
use super::auth::Scopes;
use super::endpoint::{Endpoint, host_of};
use super::error::RegistryError;
use super::progress::Progress;
use super::push::Pushed;
use super::transport::{ANSWER_LIMIT, Answer, Attempt, Payload, Upload, excerpt};
use crate::blobs::Blob;

/// Up to here a blob goes in a single `PUT`; beyond, in a `PATCH` that can be resumed.
const SINGLE_PUT_LIMIT: u64 = 4 << 20;
const READ_SIZE: usize = 256 * 1024;

/// Answer to the start of an upload.
pub(super) enum Start {
    Mounted,
    Session(Url),
}

pub(super) async fn start(
    client: &Client,
    endpoint: &Endpoint,
    repository: &str,
    digest: &Digest,
    mount_from: Option<&str>,
) -> Result<Start, RegistryError> {
    let mut url = endpoint.url(&format!("{repository}/blobs/uploads/"))?;
    let mut scopes = Scopes::push(repository);
    if let Some(from) = mount_from {
        let mount = [("mount", digest.to_string()), ("from", from.to_owned())];
        url.query_pairs_mut().extend_pairs(mount);
        scopes = Scopes::mount(repository, from);
    }
    let what = format!("upload to {repository}");
    let attempt = Attempt::new(Method::POST, url);
    let answer = client
        .fetch(endpoint, &scopes, attempt, ANSWER_LIMIT, &what)
        .await?;
    match answer.status {
        StatusCode::CREATED if mount_from.is_some() => Ok(Start::Mounted),
        StatusCode::ACCEPTED => Ok(Start::Session(next_location(endpoint, &answer, &what)?)),
        _ => Err(client.refused(endpoint, &answer, &what).await),
    }
}

/// Where an upload goes on, by the `Location` of an answer.
fn next_location(endpoint: &Endpoint, answer: &Answer, what: &str) -> Result<Url, RegistryError> {
    let protocol = |detail: &str| RegistryError::Protocol {
        host: endpoint.host(),
        what: what.to_owned(),
        detail: detail.to_owned(),
    };
    let location = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| protocol("answered without a Location"))?;
    let url = answer
        .url
        .join(location)
        .map_err(|_| protocol("answered with a Location that is no URL"))?;
    let raised = endpoint.raised(url);
    raised.ok_or_else(|| protocol("wants the upload without TLS at another host"))
}

/// One blob on its way to one registry.
pub(super) struct Push<'a> {
    pub(super) client: &'a Client,
    pub(super) endpoint: &'a Endpoint,
    pub(super) repository: &'a str,
    pub(super) blob: Blob,
    pub(super) path: PathBuf,
    pub(super) progress: &'a Progress,
}

impl Push<'_> {
    fn what(&self) -> String {
        format!("blob {} to {}", self.blob.digest, self.repository)
    }

    pub(super) async fn run(&self, mount_from: Option<&str>) -> Result<Pushed, RegistryError> {
        let digest = self.blob.digest;
        let start = start(
            self.client,
            self.endpoint,
            self.repository,
            &digest,
            mount_from,
        )
        .await?;
        let session = match start {
            Start::Mounted => {
                self.progress.present(digest, self.blob.size);
                return Ok(Pushed::Mounted);
            }
            Start::Session(url) => url,
        };
        if self.blob.size <= SINGLE_PUT_LIMIT {
            self.finish(session, self.body(0)).await?;
        } else {
            let session = self.send_all(session).await?;
            self.finish(session, Payload::None).await?;
        }
        self.progress.tell(digest, self.blob.size, self.blob.size);
        Ok(Pushed::Uploaded)
    }

    /// Sends the bytes by `PATCH`; after a break asks how far they came and goes on from there.
    async fn send_all(&self, mut session: Url) -> Result<Url, RegistryError> {
        let mut offset = 0;
        let mut failures = 0;
        let tries = self.client.inner.options.retry.attempts.max(1);
        loop {
            let error = match self.patch(session.clone(), offset).await {
                Ok(next) => return Ok(next),
                Err(error) => error,
            };
            let passing = matches!(
                error,
                RegistryError::Unreachable { .. } | RegistryError::Unavailable { .. }
            );
            failures += 1;
            if !passing || failures >= tries {
                return Err(error);
            }
            tracing::debug!(%error, "upload broke off, going on");
            tokio::time::sleep(self.client.inner.options.retry.delay(failures)).await;
            (session, offset) = self.whereto(session).await?;
        }
    }

    async fn patch(&self, session: Url, offset: u64) -> Result<Url, RegistryError> {
        let mut attempt = Attempt::new(Method::PATCH, session);
        // Only this caller knows where a second try must start.
        attempt.tries = Some(1);
        attempt.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        if offset > 0 {
            let range = format!("{offset}-{}", self.blob.size.saturating_sub(1));
            attempt.headers.extend(
                HeaderValue::from_str(&range)
                    .ok()
                    .map(|v| (CONTENT_RANGE, v)),
            );
        }
        attempt.payload = self.body(offset);
        let answer = self.ask(attempt).await?;
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                next_location(self.endpoint, &answer, &self.what())
            }
            // The registry counts otherwise than we do, as after a break it did not notice yet.
            StatusCode::RANGE_NOT_SATISFIABLE => Err(RegistryError::Unavailable {
                host: host_of(&answer.url),
                what: self.what(),
                status: answer.status.as_u16(),
                detail: excerpt(&answer.body),
            }),
            _ => Err(self
                .client
                .refused(self.endpoint, &answer, &self.what())
                .await),
        }
    }

    /// Where a broken upload goes on; a new one from its start when the old is gone.
    async fn whereto(&self, session: Url) -> Result<(Url, u64), RegistryError> {
        let answer = self.ask(Attempt::get(session.clone())).await;
        if let Ok(answer) = answer
            && answer.status.is_success()
            && let Some(range) = answer.headers.get(RANGE).and_then(|v| v.to_str().ok())
            && let Some(last) = range.trim_start_matches("bytes=").strip_prefix("0-")
            && let Ok(last) = last.parse::<u64>()
            && last < self.blob.size
        {
            // `0-0` means one byte or none (spec.md allows both readings): start anew then.
            let next = match answer.headers.contains_key(LOCATION) {
                true => next_location(self.endpoint, &answer, &self.what())?,
                false => session,
            };
            if last > 0 {
                return Ok((next, last + 1));
            }
        }
        let digest = &self.blob.digest;
        match start(self.client, self.endpoint, self.repository, digest, None).await? {
            Start::Session(url) => Ok((url, 0)),
            Start::Mounted => Err(RegistryError::Protocol {
                host: self.endpoint.host(),
                what: self.what(),
                detail: "answered a new upload as if it were a mount".to_owned(),
            }),
        }
    }

    /// Ends the upload by `PUT` with the digest.
    async fn finish(&self, mut session: Url, payload: Payload) -> Result<(), RegistryError> {
        let digest = self.blob.digest.to_string();
        session.query_pairs_mut().append_pair("digest", &digest);
        let mut attempt = Attempt::new(Method::PUT, session);
        attempt.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        attempt.payload = payload;
        let answer = self.ask(attempt).await;
        match answer {
            Ok(answer) if answer.status.is_success() => Ok(()),
            failed => {
                // The answer to a `PUT` that did its work may have been lost, and the second try
                // then finds no upload: what counts is whether the blob is there.
                let at = Reference::new(&self.endpoint.registry, self.repository, None, None);
                if let Ok(at) = at
                    && matches!(self.client.has_blob(&at, &self.blob.digest).await, Ok(true))
                {
                    return Ok(());
                }
                let answer = failed?;
                Err(self
                    .client
                    .refused(self.endpoint, &answer, &self.what())
                    .await)
            }
        }
    }

    async fn ask(&self, attempt: Attempt) -> Result<Answer, RegistryError> {
        let scopes = Scopes::push(self.repository);
        self.client
            .fetch(self.endpoint, &scopes, attempt, ANSWER_LIMIT, &self.what())
            .await
    }

    fn body(&self, offset: u64) -> Payload {
        Payload::Stream(Arc::new(FileBody {
            path: self.path.clone(),
            blob: self.blob,
            offset,
            progress: self.progress.clone(),
        }))
    }
}

/// A blob's file from an offset to its end.
struct FileBody {
    path: PathBuf,
    blob: Blob,
    offset: u64,
    progress: Progress,
}

impl Upload for FileBody {
    fn length(&self) -> u64 {
        self.blob.size - self.offset
    }

    fn body(&self, sent: Arc<AtomicU64>) -> reqwest::Body {
        let (path, offset) = (self.path.clone(), self.offset);
        let open = async move {
            let mut file = tokio::fs::File::open(path).await?;
            file.set_max_buf_size(READ_SIZE);
            file.seek(SeekFrom::Start(offset)).await?;
            Ok::<_, std::io::Error>(file)
        };
        let parts = stream::once(open).flat_map(|opened| match opened {
            Ok(file) => stream::try_unfold(file, |mut file| async move {
                let mut part = BytesMut::with_capacity(READ_SIZE);
                let count = file.read_buf(&mut part).await?;
                Ok::<_, std::io::Error>((count > 0).then(|| (part.freeze(), file)))
            })
            .boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        });
        let (blob, progress) = (self.blob, self.progress.clone());
        let counted = parts.inspect(move |part| {
            if let Ok(part) = part {
                let count = part.len() as u64;
                let done = sent.fetch_add(count, Ordering::Relaxed) + count;
                progress.tell(blob.digest, (offset + done).min(blob.size), blob.size);
            }
        });
        reqwest::Body::wrap_stream(counted)
    }
}
