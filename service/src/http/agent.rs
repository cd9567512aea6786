//! What nodes call: registration, sessions, and the blobs of mounted files.

use axum::extract::{Extension, Query, Request, State};
use axum::http::{Version, header};
use axum::response::{IntoResponse, Response};
use chalk_core::Digest;
use chalk_core::reference::is_repository;
use chalk_core::wire::agent::{Register, Registered};
use chalk_store::registry::PullToken;
use chalk_store::{BlobError, BlobStore};

use super::Api;
use super::body::{Json, Path};
use super::guard::host_of;
use super::problem::{ApiError, ApiResult};
use crate::access::Principal;
use crate::nodes::session;
use crate::registry::stream_blob;

pub(super) async fn register(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Json(request): Json<Register>,
) -> ApiResult<axum::Json<Registered>> {
    let nodes = service.fleet().nodes();
    Ok(axum::Json(nodes.register(&who, request).await?))
}

/// The name of the node that asks, and the hash of its token.
pub(super) fn node(who: Principal) -> ApiResult<(std::sync::Arc<str>, Digest)> {
    match who {
        Principal::Node { name, token } => Ok((name, token)),
        _ => Err(super::allows::forbidden(
            "this call is for nodes",
            "register by `POST /v1/agent/register`, and use the token that it gives",
        )),
    }
}

pub(super) async fn session(
    State(service): Api,
    Extension(who): Extension<Principal>,
    request: Request,
) -> ApiResult<Response> {
    let (name, token) = node(who)?;
    if request.version() != Version::HTTP_2 {
        return Err(ApiError::bad_request(
            "a session needs HTTP/2",
            format!(
                "the request came over {:?}, where an answer cannot begin before the request ends",
                request.version()
            ),
            "connect over HTTP/2: with prior knowledge on http://, by ALPN on https://; a proxy in between must pass it on",
        ));
    }
    if service.stopping() {
        return Err(ApiError::unavailable("the service stops", ""));
    }
    let host = host_of(&request);
    let body = request.into_body();
    Ok(session::open(service.fleet(), name, token, host, body))
}

/// What a token service answers (token specification of the distribution project).
#[derive(serde::Serialize)]
struct TokenAnswer {
    token: String,
    expires_in: u64,
}

/// Gets a node what it needs to read a repository of its region's registry that it was told to have
/// an image of, and nothing of our own login there.
pub(super) async fn registry_token(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Query(query): Query<Vec<(String, String)>>,
) -> ApiResult<impl IntoResponse> {
    let (name, _) = node(who)?;
    let all = |key: &str| {
        let found = query.iter().filter(|(name, _)| name == key);
        found.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let (registries, scopes) = (all("registry"), all("scope"));
    let wrong = || {
        ApiError::bad_request(
            "the query is wrong",
            "expected one `registry` and one `scope` such as `repository:chalk/images:pull`",
            "nodes may read one repository at a time, and change none",
        )
    };
    let ([registry], [scope]) = (&registries[..], &scopes[..]) else {
        return Err(wrong());
    };
    let repository = scope
        .strip_prefix("repository:")
        .and_then(|rest| rest.strip_suffix(":pull"))
        .filter(|repository| is_repository(repository))
        .ok_or_else(wrong)?;
    let none = || {
        let detail = format!("nobody here gets tokens for {repository} of {registry}");
        ApiError::not_found("no such token", detail)
    };
    let nodes = service.fleet().nodes();
    let region = nodes.get(&name)?.region;
    let regions = service.fleet().regions();
    let (regional, inside) = regions
        .external(&region, registry, repository)
        .ok_or_else(none)?;
    if !nodes.grants().repository(&name, repository) {
        return Err(super::allows::forbidden(
            format!("the node was not told to have an image of {repository}"),
            "nodes read what a warm or a sandbox brings them",
        ));
    }
    let token = regional.pull_token(&inside).await?;
    let PullToken { token, lifetime } = token.ok_or_else(none)?;
    tracing::debug!(node = &*name, registry, repository, "token for a registry");
    let answer = TokenAnswer {
        token,
        expires_in: lifetime.as_secs(),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], axum::Json(answer)))
}

/// A blob of the store, whole and checked while it is sent: rot breaks the answer off.
pub(super) async fn blob(
    State(service): Api,
    Extension(who): Extension<Principal>,
    Path(digest): Path<String>,
) -> ApiResult<Response> {
    let digest: Digest = digest
        .parse()
        .map_err(|e| ApiError::bad_request("the path is wrong", format!("{e}"), ""))?;
    let blobs = service.blobs();
    // A node reads what it was told to mount, and a client what its project has.
    let seen = match service.access().scope(&who) {
        Some(scope) => scope.has_blob(&digest),
        None => match &who {
            Principal::Node { name, .. } => {
                let (grants, name) = (service.fleet().nodes().grants().clone(), name.clone());
                let look =
                    move |store: &BlobStore| Ok::<_, BlobError>(grants.file(&name, &digest, store));
                blobs.run(look).await?
            }
            _ => false,
        },
    };
    let opened = match seen {
        true => blobs.run(move |store| store.open_verified(digest)).await,
        false => Err(BlobError::NotFound(digest.into())),
    };
    let blob = match opened {
        Err(BlobError::NotFound(_)) => {
            let detail = format!("the store has no blob {digest}");
            return Err(ApiError::not_found("no such blob", detail));
        }
        opened => opened?,
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, blob.size().to_string()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, stream_blob(blob)).into_response())
}
