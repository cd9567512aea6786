//! Contents of volumes by signed addresses: objects go up, parts of blobs come down. No token is needed,
//! since the signature is the permission; [`crate::volumes::addresses`] says what it covers.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use chalk_core::Digest;
use chalk_core::wire::problem;
use chalk_store::BlobStore;
use chalk_store::sink::ChunkSink;
use jiff::Timestamp;
use serde::Deserialize;

use super::body::{Path, Query, Stream, data};
use super::openapi::Call;
use super::openapi::Of::{Number, Text};
use super::problem::{ApiError, ApiResult};
use super::{Api, Route};
use crate::registry::{Range, stream_blob};
use crate::service::Service;
use crate::volumes::VolumeError;
use crate::volumes::addresses::Permit;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::PUT,
            "/v1/volume-objects/{object}",
            put(upload),
            Call::new(
                "Upload an object for a volume, by an address that gRPC's RequestUploadURLs gave",
            )
            .query(&[
                ("size", Number, "bytes of the object"),
                (
                    "project",
                    Text,
                    "project that it is for, unless the default one",
                ),
                ("expires", Number, "seconds since 1970"),
                ("signature", Text, "of the service"),
            ])
            .takes_bytes(),
        ),
        Route::new(
            Method::GET,
            "/v1/volume-objects/{object}",
            get(download),
            Call::new("Read contents of a volume, by an address that gRPC's GetFile gave")
                .query(&[
                    ("offset", Number, "first byte of the blob"),
                    ("size", Number, "bytes"),
                    ("expires", Number, "seconds since 1970"),
                    ("signature", Text, "of the service"),
                ])
                .gives_other("application/octet-stream"),
        ),
    ]
}

#[derive(Deserialize)]
pub(super) struct Upload {
    size: u64,
    project: Option<String>,
    expires: i64,
    signature: String,
}

#[derive(Deserialize)]
pub(super) struct Download {
    offset: u64,
    size: u64,
    expires: i64,
    signature: String,
}

fn check(service: &Service, permit: &Permit, expires: i64, signature: &str) -> ApiResult<()> {
    let key = service.access().key();
    if permit.is_good(key, expires, signature, Timestamp::now()) {
        return Ok(());
    }
    Err(ApiError::new(
        problem::FORBIDDEN,
        403,
        "not allowed",
        "the address was not made by this service, or has expired",
        "ask for a new one",
    ))
}

fn wrong_path(error: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request("the path is wrong", error.to_string(), "")
}

pub(super) async fn upload(
    State(service): Api,
    Path(object): Path<String>,
    Query(address): Query<Upload>,
    request: Request,
) -> ApiResult<StatusCode> {
    let hash = object.parse().map_err(wrong_path)?;
    let size = address.size;
    let project = address.project.clone();
    let permit = Permit::Upload {
        hash,
        size,
        project: project.as_deref().map(Arc::from),
    };
    check(&service, &permit, address.expires, &address.signature)?;
    let mut stream = Stream::new(request.headers(), size, "size of the address")?;
    let sink = ChunkSink::new(service.volumes().upload(project.as_deref()).await?);
    let mut body = data(request.into_body());
    while let Some(chunk) = stream.next(&mut body).await? {
        if !sink.send(chunk).await {
            break;
        }
    }
    let fault = |source| VolumeError::Io {
        action: "write",
        source,
    };
    let (writer, written) = sink.finish().await.map_err(fault)?;
    written.map_err(fault)?;
    let kept = tokio::task::spawn_blocking(move || writer.commit(hash, size)).await;
    kept.unwrap_or(Err(VolumeError::Stopping))?;
    Ok(StatusCode::OK)
}

pub(super) async fn download(
    State(service): Api,
    Path(object): Path<String>,
    Query(address): Query<Download>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let digest = object.parse().map_err(wrong_path)?;
    let Download { offset, size, .. } = address;
    let permit = Permit::Download {
        digest,
        offset,
        size,
    };
    check(&service, &permit, address.expires, &address.signature)?;
    let wanted = headers.get(header::RANGE);
    let wanted = wanted.and_then(|range| range.to_str().ok());
    let (first, length) = match wanted.map(|range| Range::parse(range, size)) {
        None | Some(Range::Whole) => (0, size),
        Some(Range::Part { first, last }) => (first, last - first + 1),
        Some(Range::Outside) => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
    };
    let from = offset.saturating_add(first);
    let opened = service
        .blobs()
        .run(move |store: &BlobStore| open(store, digest, from, length));
    let body = stream_blob(opened.await?);
    let described = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    if (first, length) == (0, size) {
        return Ok((described, body).into_response());
    }
    let last = first + length.saturating_sub(1);
    let range = format!("bytes {first}-{last}/{size}");
    let range = [(header::CONTENT_RANGE, range)];
    Ok((StatusCode::PARTIAL_CONTENT, range, described, body).into_response())
}

/// Opens `length` bytes of a blob for reading. All of one are checked on the way: what rotted breaks
/// off before its end. Of a part, only the client knows the hash.
fn open(
    store: &BlobStore,
    digest: Digest,
    from: u64,
    length: u64,
) -> Result<Box<dyn Read + Send>, VolumeError> {
    if from == 0 {
        let blob = store.open_verified(digest)?;
        if blob.size() == length {
            return Ok(Box::new(blob));
        }
    }
    let mut file = store.open_blob(&digest)?;
    file.seek(SeekFrom::Start(from))
        .map_err(VolumeError::io("read"))?;
    let part = file.take(length);
    Ok(Box::new(Whole { part }))
}

/// A part of a file that must be there as a whole.
struct Whole {
    part: Take<File>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.part.read(buffer)?;
        if count == 0 && !buffer.is_empty() && self.part.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rotted_breaks_off() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        let digest = store.put(b"contents of a file").unwrap().digest;
        let read = |from, length| {
            let mut bytes = Vec::new();
            let mut opened = open(&store, digest, from, length).unwrap();
            opened.read_to_end(&mut bytes).map(|_| bytes)
        };
        assert_eq!(read(0, 18).unwrap(), b"contents of a file");
        assert_eq!(read(0, 8).unwrap(), b"contents");
        assert_eq!(read(14, 4).unwrap(), b"file");
        // It ends too early.
        assert!(read(14, 5).is_err());
        let path = dir.path().join("blobs/sha256").join(digest.hex());
        std::fs::write(path, b"contents of a life").unwrap();
        assert!(read(0, 18).is_err());
        // It was set aside.
        assert!(open(&store, digest, 0, 18).is_err());
    }
}
