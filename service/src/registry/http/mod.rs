//! The OCI distribution API 1.1 over the embedded registry.
//!
//! Repository names hold slashes, so paths are taken apart here instead of by the router:
//!
//! | path | methods |
//! |---|---|
//! | `/v2/` | GET |
//! | `/v2/_catalog` | GET |
//! | `/v2/<name>/tags/list` | GET |
//! | `/v2/<name>/manifests/<tag or digest>` | GET HEAD PUT DELETE |
//! | `/v2/<name>/referrers/<digest>` | GET |
//! | `/v2/<name>/blobs/<digest>` | GET HEAD DELETE |
//! | `/v2/<name>/blobs/uploads/` | POST |
//! | `/v2/<name>/blobs/uploads/<id>` | GET PATCH PUT DELETE |
//!
//! Who may ask is decided before: the router does no authentication of its own, and shows what the
//! [`View`](super::View) of the request shows.

mod answer;
mod blobs;
mod listings;
mod manifests;
mod ranges;
mod uploads;

pub(crate) use blobs::stream as stream_blob;
pub(crate) use ranges::Range;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use chalk_core::AnyDigest;

use super::error::EmbeddedError;
use super::store::Registry;
use super::view::{self, Part, View};
use answer::{Refusal, not_allowed};
use uploads::Sessions;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAGS: HeaderName = HeaderName::from_static("oci-tag");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The calls that the router takes: the path, and its methods. What answers `GET` answers `HEAD`, too.
pub const CALLS: [(&str, &[&str]); 8] = [
    ("/v2/", &["GET"]),
    ("/v2/_catalog", &["GET"]),
    ("/v2/{name}/tags/list", &["GET"]),
    (
        "/v2/{name}/manifests/{reference}",
        &["GET", "PUT", "DELETE"],
    ),
    ("/v2/{name}/referrers/{digest}", &["GET"]),
    ("/v2/{name}/blobs/{digest}", &["GET", "DELETE"]),
    ("/v2/{name}/blobs/uploads/", &["POST"]),
    (
        "/v2/{name}/blobs/uploads/{id}",
        &["GET", "PATCH", "PUT", "DELETE"],
    ),
];

/// What clients of the router may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Size of one blob in bytes.
    pub blob_bytes: u64,
    /// Uploads that are open at once.
    pub uploads: usize,
    /// Time without a byte after which an upload is thrown away.
    pub upload_expiry: Duration,
    /// Time without a byte after which a request that uploads is ended.
    pub idle: Duration,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self {
            blob_bytes: 64 << 30,
            uploads: 256,
            upload_expiry: Duration::from_secs(24 * 3600),
            idle: Duration::from_secs(120),
        }
    }
}

impl RegistryLimits {
    /// How often expired uploads are looked for.
    fn sweep_every(&self) -> Duration {
        self.upload_expiry
            .clamp(Duration::from_secs(1), Duration::from_secs(300))
    }
}

/// Handler state.
#[derive(Debug)]
struct Api {
    registry: Registry,
    limits: RegistryLimits,
    sessions: Sessions,
}

/// The routes `/v2` and below. Inside a tokio runtime, uploads that expired are thrown away as long
/// as the router is there; otherwise when others are started.
pub fn router(registry: Registry, limits: RegistryLimits) -> Router {
    let sessions = Sessions::new(registry.uploads().clone(), &limits);
    let api = Arc::new(Api {
        registry,
        limits,
        sessions,
    });
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(uploads::keep_sweeping(Arc::downgrade(&api)));
    }
    Router::new()
        .route("/v2", any(ping))
        .route("/v2/", any(ping))
        .route("/v2/{*path}", any(dispatch))
        .with_state(api)
}

/// What a path below `/v2/` names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Catalog,
    Tags,
    Manifest(&'a str),
    Referrers(&'a str),
    Blob(&'a str),
    NewUpload,
    Upload(&'a str),
}

/// Takes a path apart, from its end: what comes before is the repository.
pub(crate) fn target(path: &str) -> Option<(&str, Target<'_>)> {
    if path == "_catalog" {
        return Some(("", Target::Catalog));
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Some((name, Target::Tags));
    }
    let (above, last) = path.rsplit_once('/')?;
    if let Some(name) = above.strip_suffix("/blobs/uploads") {
        let target = match last {
            "" => Target::NewUpload,
            id => Target::Upload(id),
        };
        return Some((name, target));
    }
    let (name, kind) = above.rsplit_once('/')?;
    match (kind, last) {
        ("manifests", name_or_digest) => Some((name, Target::Manifest(name_or_digest))),
        ("referrers", digest) => Some((name, Target::Referrers(digest))),
        ("blobs", "uploads") => Some((name, Target::NewUpload)),
        ("blobs", digest) => Some((name, Target::Blob(digest))),
        _ => None,
    }
}

async fn ping(method: Method) -> Response {
    if !matches!(method, Method::GET | Method::HEAD) {
        return not_allowed("GET, HEAD");
    }
    let version = [(API_VERSION, HeaderValue::from_static("registry/2.0"))];
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, version, kind, "{}").into_response()
}

async fn dispatch(State(api): State<Arc<Api>>, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let done = route(&api, &parts, body).await;
    let mut response = done.unwrap_or_else(|error| Refusal::from(error).into_response());
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    // Blobs are what anybody pushed: no browser shall take them for a page.
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    if head {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn route(api: &Arc<Api>, parts: &Parts, body: Body) -> Result<Response, EmbeddedError> {
    let raw = parts.uri.path().strip_prefix("/v2/").unwrap_or_default();
    let path = decode(raw);
    let Some((name, target)) = path.as_deref().and_then(target) else {
        return Err(EmbeddedError::Unsupported(format!(
            "`{}` is no path of this API",
            parts.uri.path()
        )));
    };
    let is_catalog = target == Target::Catalog;
    if !is_catalog && !chalk_core::reference::is_repository(name) {
        return Err(EmbeddedError::NameInvalid(name.to_owned()));
    }
    let query = Query::of(parts);
    let view = view::of(parts);
    let view = view.as_ref();
    if let Some(view) = view {
        check_view(view, name, &target, &parts.method).await?;
    }
    match (target, &parts.method) {
        (Target::Catalog, &Method::GET | &Method::HEAD) => {
            listings::catalog(api, &query, view).await
        }
        (Target::Tags, &Method::GET | &Method::HEAD) => {
            listings::tags(api, name, &query, view).await
        }
        (Target::Referrers(digest), &Method::GET | &Method::HEAD) => {
            listings::referrers(api, name, digest, &query, view).await
        }
        (Target::Manifest(at), &Method::GET) => manifests::get(api, name, at, &parts.headers).await,
        (Target::Manifest(at), &Method::HEAD) => {
            manifests::head(api, name, at, &parts.headers).await
        }
        (Target::Manifest(at), &Method::PUT) => {
            manifests::put(api, name, at, &query, &parts.headers, body, view).await
        }
        (Target::Manifest(at), &Method::DELETE) => {
            manifests::delete(api, name, at, &parts.headers).await
        }
        (Target::Blob(digest), &Method::GET) => blobs::get(api, name, digest, &parts.headers).await,
        (Target::Blob(digest), &Method::HEAD) => {
            blobs::head(api, name, digest, &parts.headers).await
        }
        (Target::Blob(digest), &Method::DELETE) => blobs::delete(api, name, digest).await,
        (Target::NewUpload, &Method::POST) => {
            uploads::start(api, name, &query, &parts.headers, body, view).await
        }
        (Target::Upload(id), &Method::GET | &Method::HEAD) => uploads::status(api, name, id).await,
        (Target::Upload(id), &Method::PATCH) => {
            uploads::patch(api, name, id, &parts.headers, body).await
        }
        (Target::Upload(id), &Method::PUT) => {
            uploads::put(api, name, id, &query, &parts.headers, body, view).await
        }
        (Target::Upload(id), &Method::DELETE) => uploads::cancel(api, name, id).await,
        (Target::Catalog | Target::Tags | Target::Referrers(_), _) => Ok(not_allowed("GET, HEAD")),
        (Target::Manifest(_), _) => Ok(not_allowed("GET, HEAD, PUT, DELETE")),
        (Target::Blob(_), _) => Ok(not_allowed("GET, HEAD, DELETE")),
        (Target::NewUpload, _) => Ok(not_allowed("POST")),
        (Target::Upload(_), _) => Ok(not_allowed("GET, PATCH, PUT, DELETE")),
    }
}

/// What is not seen is answered as what is not there; what may not be changed is told.
async fn check_view(
    view: &Arc<dyn View>,
    name: &str,
    target: &Target<'_>,
    method: &Method,
) -> Result<(), EmbeddedError> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let part = match *target {
        // What they list is looked at one by one.
        Target::Catalog | Target::Referrers(_) => return Ok(()),
        Target::Tags => Part::Tags,
        Target::Manifest(at) => Part::Manifest(at),
        Target::Blob(digest) => Part::Blob(digest),
        Target::NewUpload | Target::Upload(_) => Part::Upload,
    };
    if view.allows(name, part, !reads).await {
        return Ok(());
    }
    if !reads {
        let what = format!("this token does not allow changes of the repository {name}");
        return Err(EmbeddedError::Denied(what));
    }
    Err(match *target {
        Target::Manifest(at) => EmbeddedError::ManifestUnknown {
            repository: name.to_owned(),
            name: at.to_owned(),
        },
        Target::Blob(text) => EmbeddedError::BlobUnknown(digest(text)?),
        Target::Upload(_) => EmbeddedError::UploadUnknown,
        _ => EmbeddedError::NameUnknown(name.to_owned()),
    })
}

impl Api {
    /// Runs blocking work on the registry on tokio's blocking threads.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let api = Arc::clone(self);
        self.registry.blobs().run(move |_| work(&api)).await
    }
}

/// Parameters of a request's query, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(parts: &Parts) -> Self {
        let pairs = axum::extract::Query::try_from_uri(&parts.uri);
        Self(pairs.map(|pairs| pairs.0).unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> impl Iterator<Item = String> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    }
}

fn digest(text: &str) -> Result<AnyDigest, EmbeddedError> {
    Ok(text.parse()?)
}

/// A header's text, if it is there and is text.
fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Undoes percent-encoding, which some clients apply to the colon of a digest.
pub(crate) fn decode(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let mut one = [0];
                hex::decode_to_slice(digits, &mut one).ok()?;
                out.extend(one);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_paths_apart() {
        let check = |path: &str, expect: Option<(&str, Target<'_>)>| {
            assert_eq!(target(path), expect, "{path}");
        };
        check("_catalog", Some(("", Target::Catalog)));
        check("a/tags/list", Some(("a", Target::Tags)));
        check(
            "a/b/c/manifests/v1",
            Some(("a/b/c", Target::Manifest("v1"))),
        );
        check(
            "a/manifests/manifests/v1",
            Some(("a/manifests", Target::Manifest("v1"))),
        );
        check("a/blobs/uploads/", Some(("a", Target::NewUpload)));
        check("a/blobs/uploads", Some(("a", Target::NewUpload)));
        check("a/blobs/uploads/12", Some(("a", Target::Upload("12"))));
        check("a/blobs/sha256:0", Some(("a", Target::Blob("sha256:0"))));
        check(
            "a/referrers/sha256:0",
            Some(("a", Target::Referrers("sha256:0"))),
        );
        check(
            "blobs/uploads/blobs/x",
            Some(("blobs/uploads", Target::Blob("x"))),
        );
        check("manifests/v1", None);
        check("a", None);
        check("", None);
        check(
            "../../etc/manifests/x",
            Some(("../../etc", Target::Manifest("x"))),
        );
    }

    #[test]
    fn every_path_is_of_a_call() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (path, _) in CALLS {
            let path = path.replace("{name}", "a/b").replace("{digest}", &digest);
            let path = path.trim_start_matches("/v2/");
            assert!(path.is_empty() || target(path).is_some(), "{path}");
        }
    }

    #[test]
    fn decodes() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(decode(path).as_deref(), expect, "{path}");
        };
        check("a/blobs/sha256%3Aab", Some("a/blobs/sha256:ab"));
        check("%2e%2E/x", Some("../x"));
        check("%", None);
        check("%f", None);
        check("%zz", None);
        check("%ff", None);
    }
}
