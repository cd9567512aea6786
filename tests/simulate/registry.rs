//! The registry that the service publishes to and reads from: the OCI distribution specification,
//! as far as the service uses it, over made-up images whose layers nobody ever fetches.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use chalk_core::Digest;
use chalk_service::places::IMAGES;
use serde_json::json;

use crate::catalogue::Catalogue;
use crate::documents::MANIFEST;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The registry.
pub(crate) struct Registry {
    catalogue: Arc<Catalogue>,
    pushed: Mutex<Pushed>,
}

/// What was pushed over HTTP.
#[derive(Default)]
struct Pushed {
    /// Repository and tag to the digest of a manifest; those of [`IMAGES`] are the catalogue's.
    tags: BTreeMap<(String, String), Digest>,
    manifests: HashMap<Digest, (String, Bytes)>,
    blobs: HashMap<Digest, Bytes>,
}

/// What a path below `/v2/` means.
enum Place<'a> {
    Manifest(&'a str, &'a str),
    Blob(&'a str),
    Uploads,
    Referrers(&'a str),
    Tags(&'a str),
    Root,
}

impl Registry {
    /// Serves the images of a catalogue.
    pub(crate) fn new(catalogue: Arc<Catalogue>) -> Arc<Self> {
        let tags = catalogue.tags().into_iter();
        let tags = tags
            .map(|(repository, tag, digest)| ((repository, tag), digest))
            .collect();
        let pushed = Pushed {
            tags,
            ..Pushed::default()
        };
        Arc::new(Self {
            catalogue,
            pushed: Mutex::new(pushed),
        })
    }

    /// The routes.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(self)
    }

    fn pushed(&self) -> MutexGuard<'_, Pushed> {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest that a tag or digest means in a repository.
    fn find(&self, repository: &str, name: &str) -> Option<Digest> {
        if name.contains(':') {
            return name.parse().ok();
        }
        if repository == IMAGES
            && let Ok(hash) = format!("sha256:{name}").parse()
        {
            return Some(self.catalogue.image(&hash)?.manifest);
        }
        let key = (repository.to_owned(), name.to_owned());
        self.pushed().tags.get(&key).copied()
    }

    fn manifest(&self, digest: &Digest) -> Option<(String, Bytes)> {
        if let Some(found) = self.pushed().manifests.get(digest) {
            return Some(found.clone());
        }
        let (bytes, is_manifest) = self.catalogue.document(digest)?;
        is_manifest.then(|| (MANIFEST.to_owned(), bytes.into()))
    }

    fn blob(&self, digest: &Digest) -> Option<Bytes> {
        if let Some(found) = self.pushed().blobs.get(digest) {
            return Some(found.clone());
        }
        Some(self.catalogue.document(digest)?.0.into())
    }

    fn put_manifest(&self, repository: &str, name: &str, kind: String, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        let mut pushed = self.pushed();
        if !name.contains(':') {
            pushed
                .tags
                .insert((repository.to_owned(), name.to_owned()), digest);
        }
        if self.catalogue.of_manifest(&digest).is_none() {
            pushed.manifests.insert(digest, (kind, bytes));
        }
        digest
    }

    fn delete(&self, repository: &str, name: &str) -> bool {
        if repository == IMAGES
            && let Some(digest) = self.find(repository, name)
            && self.catalogue.remove(&digest)
        {
            return true;
        }
        let mut pushed = self.pushed();
        match name.parse::<Digest>() {
            Ok(digest) => pushed.manifests.remove(&digest).is_some(),
            Err(_) => pushed
                .tags
                .remove(&(repository.to_owned(), name.to_owned()))
                .is_some(),
        }
    }

    fn tags(&self, repository: &str) -> Vec<String> {
        if repository == IMAGES {
            return self
                .catalogue
                .all()
                .iter()
                .map(|made| made.hash.hex())
                .collect();
        }
        let pushed = self.pushed();
        let tags = pushed.tags.keys().filter(|(of, _)| of == repository);
        tags.map(|(_, tag)| tag.clone()).collect()
    }
}

fn place(path: &str) -> Option<Place<'_>> {
    let path = path.strip_prefix("/v2/")?;
    if path.is_empty() {
        return Some(Place::Root);
    }
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Some(Place::Tags(repository));
    }
    if path.contains("/blobs/uploads/") {
        return Some(Place::Uploads);
    }
    let (rest, name) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    match kind {
        "manifests" => Some(Place::Manifest(repository, name)),
        "blobs" => Some(Place::Blob(name)),
        "referrers" => Some(Place::Referrers(name)),
        _ => None,
    }
}

async fn answer(
    State(registry): State<Arc<Registry>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(place) = place(uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match (method, place) {
        (Method::GET, Place::Root) => StatusCode::OK.into_response(),
        (method @ (Method::GET | Method::HEAD), Place::Manifest(repository, name)) => {
            let found = registry.find(repository, name);
            let found = found.and_then(|digest| Some((digest, registry.manifest(&digest)?)));
            match found {
                Some((digest, (kind, bytes))) => contents(&method, digest, kind, bytes),
                None => missing("MANIFEST_UNKNOWN"),
            }
        }
        (Method::PUT, Place::Manifest(repository, name)) => {
            let kind = headers
                .get(header::CONTENT_TYPE)
                .and_then(|v| v.to_str().ok());
            let kind = kind.unwrap_or(MANIFEST).to_owned();
            let digest = registry
                .put_manifest(repository, name, kind, body)
                .to_string();
            let place = format!("/v2/{repository}/manifests/{digest}");
            let headers = [("location", place), ("docker-content-digest", digest)];
            (StatusCode::CREATED, headers).into_response()
        }
        (Method::DELETE, Place::Manifest(repository, name)) => {
            match registry.delete(repository, name) {
                true => StatusCode::ACCEPTED.into_response(),
                false => missing("MANIFEST_UNKNOWN"),
            }
        }
        (method @ (Method::GET | Method::HEAD), Place::Blob(name)) => {
            let found = name.parse().ok();
            let found = found.and_then(|digest| Some((digest, registry.blob(&digest)?)));
            match found {
                Some((digest, bytes)) => contents(
                    &method,
                    digest,
                    "application/octet-stream".to_owned(),
                    bytes,
                ),
                None => missing("BLOB_UNKNOWN"),
            }
        }
        (Method::POST, Place::Uploads) => {
            // Whatever an image is said to have can be mounted, as nobody reads it.
            let mounted = uri.query().is_some_and(|query| query.contains("mount="));
            let status = if mounted {
                StatusCode::CREATED
            } else {
                StatusCode::ACCEPTED
            };
            let place = format!("{}upload", uri.path());
            (status, [("location", place)]).into_response()
        }
        (Method::PUT, Place::Uploads) => {
            let digest = Digest::of(&body);
            registry.pushed().blobs.insert(digest, body);
            let place = format!("/v2/{digest}");
            (StatusCode::CREATED, [("location", place)]).into_response()
        }
        (Method::GET, Place::Referrers(subject)) => {
            let found = subject
                .parse()
                .map(|digest| registry.catalogue.referrers(&digest));
            let index = json!({
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": found.unwrap_or_default(),
            });
            ([("content-type", INDEX)], index.to_string()).into_response()
        }
        (Method::GET, Place::Tags(repository)) => {
            let tags = registry.tags(repository);
            axum::Json(json!({"name": repository, "tags": tags})).into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn contents(method: &Method, digest: Digest, kind: String, bytes: Bytes) -> Response {
    let headers = [
        ("content-type", kind),
        ("content-length", bytes.len().to_string()),
        ("docker-content-digest", digest.to_string()),
    ];
    match *method == Method::HEAD {
        true => (headers, ()).into_response(),
        false => (headers, bytes).into_response(),
    }
}

fn missing(code: &str) -> Response {
    let error = json!({"errors": [{"code": code, "message": "not here"}]});
    (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
}
