//! Manifests over HTTP.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::Digest;
use chalk_store::registry::{MANIFEST_LIMIT, ManifestHead};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::{Api, CONTENT_DIGEST, SUBJECT, text};
use crate::registry::error::EmbeddedError;

pub(super) async fn get(
    api: &Arc<Api>,
    name: &str,
    at: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let found = api
        .blocking(move |api| api.registry.manifest(&repository, &reference))
        .await;
    let manifest = found.or_else(no_tag)?.ok_or_else(|| unknown(name, at))?;
    let head = ManifestHead {
        digest: manifest.digest,
        media_type: manifest.media_type,
        size: Some(manifest.bytes.len() as u64),
    };
    if is_known(headers, &head.digest) {
        return Ok(describe(&head, StatusCode::NOT_MODIFIED, Body::empty()));
    }
    Ok(describe(&head, StatusCode::OK, Body::from(manifest.bytes)))
}

pub(super) async fn head(api: &Arc<Api>, name: &str, at: &str) -> Result<Response, EmbeddedError> {
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let found = api
        .blocking(move |api| api.registry.head(&repository, &reference))
        .await;
    let head = found.or_else(no_tag)?.ok_or_else(|| unknown(name, at))?;
    Ok(describe(&head, StatusCode::OK, Body::empty()))
}

pub(super) async fn put(
    api: &Arc<Api>,
    name: &str,
    at: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, EmbeddedError> {
    let bytes = collect(api, body).await?;
    let kind = text(headers, header::CONTENT_TYPE)
        .unwrap_or_default()
        .to_owned();
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let put = api.blocking(move |api| {
        api.registry
            .put_manifest(&repository, &reference, &kind, &bytes)
    });
    let published = put.await?;
    let mut response = StatusCode::CREATED.into_response();
    let location = format!("/v2/{name}/manifests/{}", published.digest);
    let subject = published
        .subject
        .map(|subject| (SUBJECT, value(&subject.to_string())));
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, value(&location));
    headers.insert(CONTENT_DIGEST, value(&published.digest.to_string()));
    headers.extend(subject);
    Ok(response)
}

pub(super) async fn delete(
    api: &Arc<Api>,
    name: &str,
    at: &str,
) -> Result<Response, EmbeddedError> {
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let delete = api.blocking(move |api| api.registry.delete_manifest(&repository, &reference));
    match delete.await? {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(unknown(name, at)),
    }
}

/// Who asks for what cannot be a tag asks for nothing that there is.
fn no_tag<T>(error: EmbeddedError) -> Result<Option<T>, EmbeddedError> {
    match error {
        EmbeddedError::TagInvalid(_) => Ok(None),
        other => Err(other),
    }
}

fn unknown(name: &str, at: &str) -> EmbeddedError {
    EmbeddedError::ManifestUnknown {
        repository: name.to_owned(),
        name: at.to_owned(),
    }
}

fn describe(head: &ManifestHead, status: StatusCode, body: Body) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(&head.media_type));
    headers.insert(CONTENT_DIGEST, value(&head.digest.to_string()));
    headers.insert(header::ETAG, value(&format!("\"{}\"", head.digest)));
    if let (Some(size), true) = (head.size, status == StatusCode::OK) {
        headers.insert(header::CONTENT_LENGTH, size.into());
    }
    response
}

/// Whether the client says that it has `digest` already.
pub(super) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    let known = text(headers, header::IF_NONE_MATCH).unwrap_or_default();
    let mut tags = known
        .split(',')
        .map(|tag| tag.trim().trim_start_matches("W/"));
    let own = format!("\"{digest}\"");
    tags.any(|tag| tag == own)
}

/// A header value from text that is known to be plain.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A manifest's bytes, within the limit and in time.
async fn collect(api: &Arc<Api>, body: Body) -> Result<Bytes, EmbeddedError> {
    let limit = usize::try_from(MANIFEST_LIMIT).unwrap_or(usize::MAX);
    let body = Limited::new(body, limit).collect();
    match tokio::time::timeout(api.limits.idle, body).await {
        Ok(Ok(bytes)) => Ok(bytes.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(EmbeddedError::TooLarge {
            what: "the manifest",
            limit: MANIFEST_LIMIT,
        }),
        Ok(Err(_)) => Err(EmbeddedError::SizeInvalid(
            "the manifest broke off".to_owned(),
        )),
        Err(_) => Err(EmbeddedError::SizeInvalid(
            "the manifest did not come in time".to_owned(),
        )),
    }
}
