//! Manifests over HTTP.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_core::AnyDigest;
use chalk_store::registry::MANIFEST_LIMIT;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::{Api, CONTENT_DIGEST, Query, SUBJECT, TAGS, text};
use crate::registry::condition::{Condition, EntityTags};
use crate::registry::error::EmbeddedError;
use crate::registry::push::Push;
use crate::registry::store::FoundHead;
use crate::registry::view::{self, View};

/// Most tags that one request sets.
const MAX_TAGS: usize = 100;

pub(super) async fn get(
    api: &Arc<Api>,
    name: &str,
    at: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let found = api
        .blocking(move |api| api.registry.read(&repository, &reference))
        .await;
    let found = found.or_else(no_tag)?.ok_or_else(|| unknown(name, at))?;
    let head = FoundHead {
        digest: found.digest,
        media_type: found.media_type,
        size: found.bytes.len() as u64,
    };
    Ok(describe(&head, headers, Body::from(found.bytes)))
}

pub(super) async fn head(
    api: &Arc<Api>,
    name: &str,
    at: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    if let Some(head) = api.registry.remembered(name, at) {
        return Ok(describe(&head, headers, Body::empty()));
    }
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let found = api
        .blocking(move |api| api.registry.look(&repository, &reference))
        .await;
    let head = found.or_else(no_tag)?.ok_or_else(|| unknown(name, at))?;
    Ok(describe(&head, headers, Body::empty()))
}

pub(super) async fn put(
    api: &Arc<Api>,
    name: &str,
    at: &str,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    // Further tags come with a push by digest only (spec.md, "Pushing Manifests").
    let by_digest = at.contains(':');
    let tags: Vec<String> = query.all("tag").filter(|_| by_digest).collect();
    if tags.len() > MAX_TAGS {
        return Err(EmbeddedError::TooManyTags(MAX_TAGS));
    }
    let bytes = collect(api, body).await?;
    if let Some(view) = view {
        let room = view.room(name, bytes.len() as u64);
        room.map_err(EmbeddedError::Denied)?;
    }
    let kind = text(headers, header::CONTENT_TYPE)
        .unwrap_or_default()
        .to_owned();
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let (condition, more) = (condition(headers), tags.clone());
    let told = view.cloned();
    let kept = api
        .blocking(move |api| {
            let push = Push {
                name: &reference,
                media_type: &kind,
                bytes: &bytes,
                tags: &more,
                condition,
            };
            let kept = api.registry.push(&repository, &push)?;
            view::tell(told.as_ref(), &api.registry, &repository, &kept.digest)?;
            Ok(kept)
        })
        .await?;
    let mut response = StatusCode::CREATED.into_response();
    let location = format!("/v2/{name}/manifests/{}", kept.digest);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, value(&location));
    headers.insert(CONTENT_DIGEST, value(&kept.digest.to_string()));
    headers.insert(header::ETAG, value(&etag(&kept.digest)));
    headers.extend(
        kept.subject
            .map(|subject| (SUBJECT, value(&subject.to_string()))),
    );
    if !tags.is_empty() {
        headers.insert(TAGS, value(&tags.join(", ")));
    }
    Ok(response)
}

pub(super) async fn delete(
    api: &Arc<Api>,
    name: &str,
    at: &str,
    headers: &HeaderMap,
) -> Result<Response, EmbeddedError> {
    let (repository, reference) = (name.to_owned(), at.to_owned());
    let condition = condition(headers);
    let delete = api.blocking(move |api| api.registry.remove(&repository, &reference, &condition));
    match delete.await? {
        true => Ok(StatusCode::ACCEPTED.into_response()),
        false => Err(unknown(name, at)),
    }
}

/// What a change is conditional on. Several fields of one name are one list.
fn condition(headers: &HeaderMap) -> Condition {
    let tags = |name: HeaderName| {
        let fields: Vec<&str> = headers
            .get_all(name)
            .iter()
            .filter_map(|field| field.to_str().ok())
            .collect();
        (!fields.is_empty()).then(|| EntityTags::parse(&fields.join(",")))
    };
    Condition {
        if_match: tags(header::IF_MATCH),
        if_none_match: tags(header::IF_NONE_MATCH),
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

fn describe(head: &FoundHead, asked: &HeaderMap, body: Body) -> Response {
    let known = is_known(asked, &head.digest);
    let mut response = match known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => (StatusCode::OK, body).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(&head.media_type));
    headers.insert(CONTENT_DIGEST, value(&head.digest.to_string()));
    headers.insert(header::ETAG, value(&etag(&head.digest)));
    if !known {
        headers.insert(header::CONTENT_LENGTH, head.size.into());
    }
    response
}

/// The entity tag of what a digest names.
pub(super) fn etag(digest: &AnyDigest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client says that it has `digest` already.
pub(super) fn is_known(headers: &HeaderMap, digest: &AnyDigest) -> bool {
    let known = text(headers, header::IF_NONE_MATCH).map(EntityTags::parse);
    known.is_some_and(|tags| tags.have(Some(&digest.to_string()), true))
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
