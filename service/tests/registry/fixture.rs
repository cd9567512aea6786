//! Servers, stores and images to test with.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::Response;
use chalk_core::Digest;
use chalk_service::registry::{Registry, RegistryLimits, router};
use chalk_store::registry::{Client, CredentialSource, Options, Retry};
use chalk_store::{Blob, BlobStore};
use http_body_util::BodyExt as _;
use serde_json::json;
use tempfile::TempDir;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Serves `router` on loopback for the rest of the test.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

/// The embedded registry on loopback.
pub(crate) struct Embedded {
    pub(crate) dir: TempDir,
    pub(crate) registry: Registry,
    pub(crate) addr: SocketAddr,
}

impl Embedded {
    pub(crate) async fn start() -> Self {
        Self::with(RegistryLimits::default(), |router| router).await
    }

    pub(crate) async fn with(limits: RegistryLimits, wrap: impl FnOnce(Router) -> Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(dir.path().join("store")).unwrap();
        let registry = Registry::open(dir.path().join("registry"), blobs).unwrap();
        let addr = serve(wrap(router(registry.clone(), limits))).await;
        Self {
            dir,
            registry,
            addr,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

/// An empty store of its own.
pub(crate) fn store() -> (TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path()).unwrap();
    (dir, store)
}

/// Puts an image for `linux/<architecture>` with these layers into a store.
pub(crate) fn image(store: &BlobStore, architecture: &str, layers: &[&[u8]]) -> Blob {
    let config = json!({
        "os": "linux",
        "architecture": architecture,
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    let describe = |kind: &str, blob: Blob| json!({"mediaType": kind, "digest": blob.digest, "size": blob.size});
    let config = store.put(config.to_string().as_bytes()).unwrap();
    let layers: Vec<_> = layers
        .iter()
        .map(|bytes| {
            let kind = "application/vnd.oci.image.layer.v1.tar";
            describe(kind, store.put(bytes).unwrap())
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
    });
    store.put(manifest.to_string().as_bytes()).unwrap()
}

/// Puts an index over images for these architectures into a store.
pub(crate) fn index(store: &BlobStore, images: &[(&str, Blob)]) -> Blob {
    let entries: Vec<_> = images
        .iter()
        .map(|(architecture, blob)| {
            json!({
                "mediaType": OCI_MANIFEST,
                "digest": blob.digest,
                "size": blob.size,
                "platform": {"os": "linux", "architecture": architecture},
            })
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    store.put(index.to_string().as_bytes()).unwrap()
}

/// Options that look for no credentials on this machine and lose no time.
pub(crate) fn options() -> Options {
    Options {
        credentials: CredentialSource::Anonymous,
        retry: Retry {
            attempts: 4,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_secs(5),
        },
        ..Options::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options()).unwrap()
}

/// Incompressible bytes, the same each time.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let step = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// A registry that answers as a test says, and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// `answer` gets the request, its body and the number of equal requests before it.
    pub(crate) async fn start(
        answer: impl Fn(&Parts, &Bytes, usize) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let router = Router::new().fallback(move |request: Request| {
            let (answer, seen) = (answer.clone(), Arc::clone(&seen));
            async move {
                let (parts, body) = request.into_parts();
                let line = format!("{} {}", parts.method, parts.uri);
                let before = {
                    let mut seen = seen.lock().unwrap();
                    let before = seen.iter().filter(|one| **one == line).count();
                    seen.push(line);
                    before
                };
                let body = body
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes)
                    .unwrap_or_default();
                answer(&parts, &body, before)
            }
        });
        let addr = serve(router).await;
        Self { addr, log }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        let log = self.log();
        log.iter().filter(|line| line.starts_with(start)).count()
    }
}

/// An answer of these parts.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// A body that announces more than it sends.
pub(crate) fn broken_body(part: &[u8]) -> Body {
    let part = Bytes::copy_from_slice(part);
    let cut = std::io::Error::other("cut");
    Body::from_stream(futures_util::stream::iter([Ok(part), Err(cut)]))
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}
