//! Blobs that the service lacks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chalk_core::Digest;
use chalk_core::wire::blob_batch::{BatchEncoder, BatchRoom, MAX_BLOB};
use chalk_core::wire::exit;
use futures_util::StreamExt as _;

use crate::client::{Client, file_body};
use crate::declaration::{Upload, UploadFrom};
use crate::error::Failure;

/// Requests that are on their way at once.
const UPLOADS: usize = 4;

/// Counts the bytes that were sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Sends the blobs that are missing, small ones many at once, and several requests at once.
pub(super) async fn upload(
    client: &Client,
    missing: &[Digest],
    uploads: &BTreeMap<Digest, Upload>,
    sent: &Sent,
) -> Result<(), Failure> {
    let parts = parts(missing, uploads)?;
    let mut sending = futures_util::stream::iter(parts.into_iter().map(|part| async move {
        let mut found = Vec::with_capacity(part.len());
        for digest in part {
            found.push((digest, find(uploads, &digest)?));
        }
        match found.as_slice() {
            [(digest, upload)] => send_one(client, *digest, upload, sent).await,
            _ => send_batch(client, &found, sent).await,
        }
    }))
    .buffer_unordered(UPLOADS);
    while let Some(done) = sending.next().await {
        done?;
    }
    Ok(())
}

fn find<'a>(uploads: &'a BTreeMap<Digest, Upload>, digest: &Digest) -> Result<&'a Upload, Failure> {
    uploads.get(digest).ok_or_else(|| {
        Failure::usage(format!(
            "the service needs {digest}, which is not declared here"
        ))
        .why("a spec without its files can be built only where its files are known")
        .hint("use the declaration (image.toml or Dockerfile) that the spec was made from")
    })
}

/// Distributes blobs over requests: small ones into batches, others alone.
fn parts(
    missing: &[Digest],
    uploads: &BTreeMap<Digest, Upload>,
) -> Result<Vec<Vec<Digest>>, Failure> {
    let mut parts = Vec::new();
    let (mut batch, mut room) = (Vec::new(), BatchRoom::default());
    for digest in missing {
        let size = find(uploads, digest)?.size;
        if size > MAX_BLOB as u64 {
            parts.push(vec![*digest]);
            continue;
        }
        if !room.take(size) {
            parts.push(std::mem::take(&mut batch));
            room = BatchRoom::default();
            let _ = room.take(size);
        }
        batch.push(*digest);
    }
    if !batch.is_empty() {
        parts.push(batch);
    }
    Ok(parts)
}

async fn send_one(
    client: &Client,
    digest: Digest,
    upload: &Upload,
    sent: &Sent,
) -> Result<(), Failure> {
    match &upload.from {
        UploadFrom::Bytes(bytes) => {
            let body = reqwest::Body::from(bytes.clone());
            client.put_blob(digest, bytes.len() as u64, body).await?;
            sent.add(bytes.len() as u64);
            Ok(())
        }
        UploadFrom::File(path) => {
            let (size, body) = file_body(path, sent.0.clone())
                .await
                .map_err(|e| unreadable(path).why(e))?;
            let put = client.put_blob(digest, size, body).await;
            put.map_err(|failure| {
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
}

async fn send_batch(
    client: &Client,
    part: &[(Digest, &Upload)],
    sent: &Sent,
) -> Result<(), Failure> {
    let size: u64 = part.iter().map(|(_, upload)| upload.size).sum();
    let sources = part.iter().map(|(digest, upload)| match &upload.from {
        UploadFrom::Bytes(bytes) => (*digest, Source::Bytes(bytes.clone())),
        UploadFrom::File(path) => (*digest, Source::File(path.clone())),
    });
    let sources: Vec<_> = sources.collect();
    let reading = tokio::task::spawn_blocking(move || read_batch(&sources));
    let body = reading.await.map_err(|e| {
        Failure::new(exit::FAILED, "reading the files to upload broke off").why(e)
    })??;
    client.post_blobs(body).await?;
    sent.add(size);
    Ok(())
}

/// Where the bytes of one blob of a batch are.
enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// The body of a batch. Blocks.
fn read_batch(sources: &[(Digest, Source)]) -> Result<Vec<u8>, Failure> {
    let mut batch = BatchEncoder::default();
    let mut buffer = Vec::new();
    for (digest, source) in sources {
        let bytes = match source {
            Source::Bytes(bytes) => bytes,
            Source::File(path) => {
                buffer.clear();
                read_small(path, &mut buffer).map_err(|e| unreadable(path).why(e))?;
                // The service would notice too, but it does not know the file.
                if Digest::of(&buffer) != *digest {
                    return Err(changed(path));
                }
                &buffer
            }
        };
        // Sizes were counted when the batch was planned, so only a file that grew finds no room.
        if !batch.push(digest, bytes) {
            let what = format!("{digest} finds no room in its batch");
            return Err(Failure::new(exit::FAILED, what));
        }
    }
    Ok(batch.into_body())
}

/// Appends a file that was small when it was hashed; of one that grew, no more than shows it.
fn read_small(path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
    let most = MAX_BLOB as u64 + 1;
    File::open(path)?.take(most).read_to_end(into).map(drop)
}

fn unreadable(path: &Path) -> Failure {
    Failure::usage(format!("cannot read {}", path.display()))
}

fn changed(path: &Path) -> Failure {
    Failure::usage(format!("{} changed while it was read", path.display())).hint("try again")
}

#[cfg(test)]
mod tests {
    use chalk_core::wire::blob_batch::{MAX_BLOBS, MAX_BODY, decode};

    use super::*;

    fn of_size(size: u64) -> Upload {
        Upload {
            size,
            from: UploadFrom::Bytes(Vec::new()),
        }
    }

    #[test]
    fn small_blobs_go_together_and_big_ones_alone() {
        let check = |sizes: &[u64], expect: &[&[u64]]| {
            let named: Vec<Digest> = (0..sizes.len())
                .map(|number| Digest::of(&number.to_le_bytes()))
                .collect();
            let uploads = named.iter().copied().zip(sizes.iter().map(|s| of_size(*s)));
            let uploads: BTreeMap<_, _> = uploads.collect();
            let parts = parts(&named, &uploads).unwrap();
            let got: Vec<Vec<u64>> = parts
                .iter()
                .map(|part| part.iter().map(|digest| uploads[digest].size).collect())
                .collect();
            assert_eq!(got, expect);
        };
        let (most, over) = (MAX_BLOB as u64, MAX_BLOB as u64 + 1);
        check(&[], &[]);
        check(&[0], &[&[0]]);
        check(
            &[1, over, 2, 3 * over, most],
            &[&[over], &[3 * over], &[1, 2, most]],
        );
        let full = vec![most; MAX_BODY / MAX_BLOB - 1];
        check(
            &[full.as_slice(), &[most]].concat(),
            &[full.as_slice(), &[most]],
        );
        let many = [0; MAX_BLOBS];
        check(&[many.as_slice(), &[1, 2]].concat(), &[&many, &[1, 2]]);

        let error = parts(&[Digest::of(b"")], &BTreeMap::new()).unwrap_err();
        assert!(error.what.contains(&Digest::of(b"").to_string()));
    }

    #[test]
    fn files_that_changed_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.py");
        let digest = Digest::of(b"print()");
        let sources = [
            (Digest::of(b"tree"), Source::Bytes(b"tree".to_vec())),
            (digest, Source::File(path.clone())),
        ];
        let error = read_batch(&sources).unwrap_err();
        assert!(error.what.ends_with("a.py"), "{error:?}");
        std::fs::write(&path, "print()").unwrap();
        let body = read_batch(&sources).unwrap();
        assert_eq!(decode(&body).unwrap()[1], (digest, &b"print()"[..]));
        for text in ["print(1)".to_owned(), "x".repeat(2 * MAX_BLOB)] {
            std::fs::write(&path, text).unwrap();
            let error = read_batch(&sources).unwrap_err();
            assert!(error.what.ends_with("a.py changed while it was read"));
            assert_eq!(error.code, exit::USAGE);
        }
    }
}
