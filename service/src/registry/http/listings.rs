//! Tags, repositories and referrers, page by page.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chalk_store::registry::MANIFEST_LIMIT;
use serde_json::json;

use super::{Api, FILTERS_APPLIED, Query, digest};
use crate::registry::error::EmbeddedError;
use crate::registry::referrers::Wanted;
use crate::registry::view::{Part, View};

/// Most entries of one page, whatever a client asks for.
const MAX_PAGE: usize = 10_000;
/// Referrers carry annotations, and an answer must stay below the limit for manifests (spec.md,
/// "Listing Referrers": it is one).
const MAX_REFERRERS: usize = 500;
const REFERRERS_BYTES: u64 = MANIFEST_LIMIT - 4096;

pub(super) async fn tags(
    api: &Arc<Api>,
    name: &str,
    query: &Query,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    let repository = name.to_owned();
    let mut all = api
        .blocking(move |api| api.registry.tags(&repository))
        .await?;
    if let Some(view) = view {
        all.retain(|tag| view.lists_in(name, tag));
    }
    let path = format!("/v2/{name}/tags/list");
    let (tags, link) = page(&all, query, &path, String::as_str)?;
    Ok(linked(Json(json!({"name": name, "tags": tags})), link))
}

pub(super) async fn catalog(
    api: &Arc<Api>,
    query: &Query,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    let mut all = api.blocking(|api| api.registry.repositories()).await?;
    if let Some(view) = view {
        all.retain(|repository| view.lists(repository));
    }
    let (repositories, link) = page(&all, query, "/v2/_catalog", String::as_str)?;
    Ok(linked(Json(json!({"repositories": repositories})), link))
}

pub(super) async fn referrers(
    api: &Arc<Api>,
    name: &str,
    subject: &str,
    query: &Query,
    view: Option<&Arc<dyn View>>,
) -> Result<Response, EmbeddedError> {
    let seen = match view {
        Some(view) => view.allows(name, Part::Referrers(subject), false).await,
        None => true,
    };
    let subject = digest(subject)?;
    let (repository, of) = (name.to_owned(), subject.clone());
    let kind = query.get("artifactType").filter(|kind| !kind.is_empty());
    let wanted = kind.map(str::to_owned);
    let after = query.get("last").and_then(|last| last.parse().ok());
    let (mut page, more) = api
        .blocking(move |api| {
            let wanted = Wanted {
                artifact_type: wanted.as_deref(),
                after: after.as_ref(),
                count: MAX_REFERRERS,
                bytes: REFERRERS_BYTES,
            };
            api.registry.referrers_of(&repository, &of, wanted)
        })
        .await?;
    let last = page.last().map(|last| last.digest.clone());
    let last = last.filter(|_| seen && more);
    page.retain(|found| {
        seen && view.is_none_or(|view| view.lists_in(name, &found.digest.to_string()))
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": page,
    });
    let link = last.map(|last| {
        let filter = kind.map(|kind| format!("&artifactType={}", encode(kind)));
        let filter = filter.unwrap_or_default();
        format!("</v2/{name}/referrers/{subject}?last={last}{filter}>; rel=\"next\"")
    });
    let mut response = linked(Json(index), link);
    let headers = response.headers_mut();
    let index_type = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");
    headers.insert(header::CONTENT_TYPE, index_type);
    if kind.is_some() {
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

/// The page after `last` of at most `n` sorted entries, and the link to the next one
/// (spec.md, "Listing Tags").
fn page<'a, T>(
    all: &'a [T],
    query: &Query,
    path: &str,
    key: impl Fn(&T) -> &str,
) -> Result<(&'a [T], Option<String>), EmbeddedError> {
    let size = match query.get("n").filter(|n| !n.is_empty()) {
        Some(n) => {
            let asked = n.parse::<usize>();
            asked
                .map_err(|_| EmbeddedError::PageInvalid(n.to_owned()))?
                .min(MAX_PAGE)
        }
        None => MAX_PAGE,
    };
    let start = match query.get("last") {
        Some(last) => all.partition_point(|one| key(one) <= last),
        None => 0,
    };
    let rest = &all[start..];
    let page = &rest[..rest.len().min(size)];
    let link = match page.last() {
        Some(last) if page.len() < rest.len() => {
            let last = encode(key(last));
            Some(format!("<{path}?n={size}&last={last}>; rel=\"next\""))
        }
        _ => None,
    };
    Ok((page, link))
}

fn linked(body: impl IntoResponse, link: Option<String>) -> Response {
    let mut response = (StatusCode::OK, body).into_response();
    let link = link.and_then(|link| HeaderValue::from_str(&link).ok());
    response
        .headers_mut()
        .extend(link.map(|link| (header::LINK, link)));
    response
}

/// Percent-encodes all that means something in a query.
fn encode(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let mut out = String::new();
    for byte in text.bytes() {
        if keep(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let all = ["a", "b", "c", "d"].map(str::to_owned);
        let check = |query: &[(&str, &str)], expect: &[&str], next: Option<&str>| {
            let query = Query(query.iter().map(|&(k, v)| (k.into(), v.into())).collect());
            let (got, link) = page(&all, &query, "/p", String::as_str).unwrap();
            assert_eq!(got, expect);
            let expect = next.map(|next| format!("</p?{next}>; rel=\"next\""));
            assert_eq!(link, expect);
        };
        check(&[], &["a", "b", "c", "d"], None);
        check(&[("n", "2")], &["a", "b"], Some("n=2&last=b"));
        check(&[("n", "2"), ("last", "b")], &["c", "d"], None);
        check(&[("n", "9"), ("last", "bb")], &["c", "d"], None);
        check(&[("last", "d")], &[], None);
        check(&[("n", "0")], &[], None);
        let bad = Query(vec![("n".into(), "-1".into())]);
        assert!(page(&all, &bad, "/p", String::as_str).is_err());
        assert_eq!(encode("a/b+c d&e"), "a/b%2Bc%20d%26e");
    }
}
