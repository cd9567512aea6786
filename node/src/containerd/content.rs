//! Blobs in containerd's content store.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use chalk_core::Digest;
use chalk_store::Blob;
use chalk_store::registry::MANIFEST_LIMIT;
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::api::containerd::services::content::v1 as api;
use super::client::{Containerd, found};
use crate::cache::Result;

/// Bytes that go to containerd at once. It takes messages of 16 MiB.
pub(super) const PIECE: usize = 1 << 20;

pub(super) type Labels = BTreeMap<String, String>;

/// What writing a blob begins with.
pub(super) enum Opened {
    /// It is there.
    There,
    /// Somebody else is writing it.
    Busy,
    /// It can be written, from the ingest's position on.
    Ingest(Box<Ingest>),
}

/// What came of a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Committed {
    /// It is there, verified by containerd.
    There,
    /// The bytes do not have the digest.
    WrongBytes,
}

/// A blob on its way in.
pub(super) struct Ingest {
    containerd: Containerd,
    requests: mpsc::Sender<api::WriteContentRequest>,
    answers: Streaming<api::WriteContentResponse>,
    offset: u64,
}

impl Containerd {
    /// Size of a blob that is there.
    pub(super) async fn size_of(&self, digest: &Digest) -> Result<Option<u64>> {
        let info = self.info(digest).await?;
        Ok(info.map(|info| info.size.unsigned_abs()))
    }

    async fn info(&self, digest: &Digest) -> Result<Option<api::Info>> {
        let request = api::InfoRequest {
            digest: digest.to_string(),
        };
        let mut content = self.content();
        let answer = found(self.watched(content.info(request)).await?);
        let answer = answer.map_err(|status| self.failure("look for a blob", &status))?;
        Ok(answer.and_then(|answer| answer.into_inner().info))
    }

    /// All blobs of the namespace, with their sizes.
    pub(super) async fn blobs(&self) -> Result<BTreeMap<String, u64>> {
        const DOING: &str = "list blobs";
        let request = api::ListContentRequest::default();
        let answer = self.call(DOING, self.content().list(request)).await?;
        let mut parts = answer.into_inner();
        let mut all = BTreeMap::new();
        while let Some(part) = self.call(DOING, parts.message()).await? {
            let sizes = part.info.into_iter();
            all.extend(sizes.map(|info| (info.digest, info.size.unsigned_abs())));
        }
        Ok(all)
    }

    /// A text that is there, such as a manifest; verified. One that is damaged is removed, and counts
    /// as absent.
    pub(super) async fn text(&self, digest: &Digest) -> Result<Option<String>> {
        const DOING: &str = "read a blob";
        let Some(size) = self.size_of(digest).await? else {
            return Ok(None);
        };
        if size <= MANIFEST_LIMIT {
            let request = api::ReadContentRequest {
                digest: digest.to_string(),
                offset: 0,
                size: 0,
            };
            let answer = found(self.watched(self.content().read(request)).await?);
            let answer = answer.map_err(|status| self.failure(DOING, &status))?;
            let Some(answer) = answer else {
                return Ok(None);
            };
            let mut parts = answer.into_inner();
            let mut bytes = BytesMut::new();
            while let Some(part) = self.call(DOING, parts.message()).await? {
                bytes.extend_from_slice(&part.data);
                if bytes.len() as u64 > size {
                    break;
                }
            }
            if Digest::of(&bytes) == *digest
                && let Ok(text) = String::from_utf8(bytes.to_vec())
            {
                return Ok(Some(text));
            }
        }
        tracing::warn!(%digest, "containerd has other bytes under this digest; they are removed");
        self.remove_blob(digest).await?;
        Ok(None)
    }

    /// Removes a blob whose bytes are wrong.
    pub(super) async fn remove_blob(&self, digest: &Digest) -> Result<()> {
        let request = api::DeleteContentRequest {
            digest: digest.to_string(),
        };
        let removed = self.watched(self.content().delete(request)).await?;
        let removed = found(removed).map(drop);
        removed.map_err(|status| self.failure("remove a damaged blob", &status))
    }

    /// Writes a small blob, such as a manifest, with labels; those labels are set where it is there
    /// already.
    pub(super) async fn put(&self, kind: &str, bytes: &str, labels: &Labels) -> Result<()> {
        let digest = Digest::of(bytes.as_bytes());
        let blob = Blob {
            digest,
            size: bytes.len() as u64,
        };
        let name = format!("{kind}-{digest}");
        loop {
            match self.open(&name, &blob).await? {
                Opened::There => return self.label(&digest, labels).await,
                Opened::Busy => wait().await,
                Opened::Ingest(mut ingest) => {
                    if ingest.offset() < blob.size {
                        ingest
                            .restart(Bytes::copy_from_slice(bytes.as_bytes()))
                            .await?;
                    }
                    match ingest.commit(&blob, labels.clone()).await? {
                        Committed::There => return self.label(&digest, labels).await,
                        // Somebody left other bytes under that name.
                        Committed::WrongBytes => self.abort(&name).await?,
                    }
                }
            }
        }
    }

    /// Sets labels of a blob that is there; others that it has stay.
    pub(super) async fn label(&self, digest: &Digest, labels: &Labels) -> Result<()> {
        if labels.is_empty() {
            return Ok(());
        }
        let request = api::UpdateRequest {
            info: Some(api::Info {
                digest: digest.to_string(),
                size: 0,
                labels: labels.clone(),
            }),
            update_mask: Some(FieldMask {
                paths: labels.keys().map(|key| format!("labels.{key}")).collect(),
            }),
        };
        let mut content = self.content();
        let updated = self.call("label a blob", content.update(request));
        updated.await.map(drop)
    }

    /// Begins to write a blob, or goes on where it was left, also by another: `name` is the one that
    /// containerd's own clients use.
    pub(super) async fn open(&self, name: &str, blob: &Blob) -> Result<Opened> {
        const DOING: &str = "begin a blob";
        let (requests, queue) = mpsc::channel(4);
        let first = api::WriteContentRequest {
            action: api::WriteAction::Stat.into(),
            r#ref: name.to_owned(),
            total: blob.size.cast_signed(),
            expected: blob.digest.to_string(),
            ..api::WriteContentRequest::default()
        };
        // The queue is empty, so this does not wait.
        let _ = requests.send(first).await;
        let mut content = self.content();
        let open = async {
            let mut answers = content
                .write(ReceiverStream::new(queue))
                .await?
                .into_inner();
            let first = answers.message().await?;
            let first = first.ok_or_else(|| Status::internal("it ended the writing"))?;
            Ok::<_, Status>((answers, first))
        };
        match self.watched(open).await? {
            Ok((answers, first)) => Ok(Opened::Ingest(Box::new(Ingest {
                containerd: self.clone(),
                requests,
                answers,
                offset: first.offset.unsigned_abs(),
            }))),
            Err(status) if status.code() == Code::AlreadyExists => Ok(Opened::There),
            Err(status)
                if status.code() == Code::Unavailable
                    && std::error::Error::source(&status).is_none() =>
            {
                Ok(Opened::Busy)
            }
            Err(status) => Err(self.failure(DOING, &status)),
        }
    }

    /// Throws away what was written of a blob.
    pub(super) async fn abort(&self, name: &str) -> Result<()> {
        let request = api::AbortRequest {
            r#ref: name.to_owned(),
        };
        // The writing before may not have let go of it yet.
        for _ in 0..50 {
            let aborted = self.watched(self.content().abort(request.clone())).await?;
            match found(aborted) {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::Unavailable => wait().await,
                Err(status) => return Err(self.failure("throw away a blob", &status)),
            }
        }
        Ok(())
    }
}

/// Waits for another who writes the same blob.
pub(super) async fn wait() {
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
}

impl Ingest {
    /// Bytes that are there.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends bytes.
    pub(super) async fn write(&mut self, data: Bytes) -> Result<()> {
        let containerd = self.containerd.clone();
        let answer = self.send(api::WriteContentRequest {
            action: api::WriteAction::Write.into(),
            offset: self.offset.cast_signed(),
            data,
            ..api::WriteContentRequest::default()
        });
        let answer = containerd.call("write a blob", answer).await?;
        self.offset = answer.offset.unsigned_abs();
        Ok(())
    }

    /// Throws away what is there and begins with these bytes.
    pub(super) async fn restart(&mut self, data: Bytes) -> Result<()> {
        // containerd takes a write at 0 for just that.
        self.offset = 0;
        self.write(data).await
    }

    /// Has the blob verified and given its name.
    pub(super) async fn commit(mut self, blob: &Blob, labels: Labels) -> Result<Committed> {
        let commit = api::WriteContentRequest {
            action: api::WriteAction::Commit.into(),
            total: blob.size.cast_signed(),
            expected: blob.digest.to_string(),
            offset: self.offset.cast_signed(),
            labels,
            ..api::WriteContentRequest::default()
        };
        let containerd = self.containerd.clone();
        match containerd.watched(self.send(commit)).await? {
            Ok(_) => Ok(Committed::There),
            Err(status) => match status.code() {
                Code::AlreadyExists => Ok(Committed::There),
                // Wrong size or wrong digest.
                Code::FailedPrecondition | Code::OutOfRange => {
                    tracing::debug!(status = status.message(), digest = %blob.digest, "not taken");
                    Ok(Committed::WrongBytes)
                }
                _ => Err(containerd.failure("finish a blob", &status)),
            },
        }
    }

    async fn send(
        &mut self,
        request: api::WriteContentRequest,
    ) -> Result<api::WriteContentResponse, Status> {
        // A writing that ended says why in its last answer.
        let _ = self.requests.send(request).await;
        let answer = self.answers.message().await?;
        answer.ok_or_else(|| Status::internal("it ended the writing"))
    }
}
