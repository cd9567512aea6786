//! Blobs that the service lacks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chalk_core::Digest;
use chalk_core::wire::exit;
use futures_util::StreamExt as _;

use crate::client::{Client, file_body};
use crate::declaration::{Upload, UploadFrom};
use crate::error::Failure;

/// Blobs that are uploaded at once.
const UPLOADS: usize = 4;

/// Counts the bytes that were sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sends the blobs that are missing, several at once.
pub(super) async fn upload(
    client: &Client,
    missing: &[Digest],
    uploads: &BTreeMap<Digest, Upload>,
    sent: &Sent,
) -> Result<(), Failure> {
    let missing = missing.to_vec();
    let mut sending = futures_util::stream::iter(missing.into_iter().map(|digest| async move {
        let Some(upload) = uploads.get(&digest) else {
            return Err(Failure::usage(format!(
                "the service needs {digest}, which is not declared here"
            ))
            .why("a spec without its files can be built only where its files are known")
            .hint("use the declaration (image.toml or Dockerfile) that the spec was made from"));
        };
        match &upload.from {
            UploadFrom::Bytes(bytes) => {
                let body = reqwest::Body::from(bytes.clone());
                client.put_blob(digest, bytes.len() as u64, body).await?;
                sent.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            UploadFrom::File(path) => {
                let (size, body) = file_body(path, sent.0.clone()).await.map_err(|e| {
                    Failure::usage(format!("cannot read {}", path.display())).why(e)
                })?;
                client
                    .put_blob(digest, size, body)
                    .await
                    .map_err(|failure| {
                        if failure.code == exit::USAGE {
                            return failure.hint(format!(
                                "{} may have changed while it was read; try again",
                                path.display()
                            ));
                        }
                        failure
                    })
            }
        }
    }))
    .buffer_unordered(UPLOADS);
    while let Some(done) = sending.next().await {
        done?;
    }
    Ok(())
}
