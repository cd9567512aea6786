//! Contents of volumes by signed addresses: objects go up, parts of blobs come down. No token is needed,
//! since the signature is the permission; [`crate::volumes::addresses`] says what it covers.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Take};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
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
use crate::registry::{Range, parse_range, stream_blob};
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

fn check(service: &Service, permit: Permit, expires: i64, signature: &str) -> ApiResult<()> {
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
    let permit = Permit::Upload { hash, size };
    check(&service, permit, address.expires, &address.signature)?;
    let mut stream = Stream::new(request.headers(), size, "size of the address")?;
    let sink = ChunkSink::new(service.volumes().upload().await?);
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
    check(&service, permit, address.expires, &address.signature)?;
    let wanted = headers.get(header::RANGE);
    let wanted = wanted.and_then(|range| range.to_str().ok());
    let (first, length) = match wanted.map(|range| parse_range(range, size)) {
        None | Some(Range::Whole) => (0, size),
        Some(Range::Part { first, last }) => (first, last - first + 1),
        Some(Range::Outside) => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, range).into_response());
        }
    };
    let opened = service.blobs().run(move |store: &BlobStore| {
        let mut file = store.open_blob(&digest)?;
        file.seek(SeekFrom::Start(offset.saturating_add(first)))
            .map_err(VolumeError::io("read"))?;
        Ok::<_, VolumeError>(Whole {
            part: file.take(length),
        })
    });
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
