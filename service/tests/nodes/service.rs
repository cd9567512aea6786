//! A service with images that nobody built, and a client for it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chalk_core::spec::{Base, Spec, Step, StepKind};
use chalk_core::wire::{
    JoinToken, Node, NodeState, PlanStep, Problem, Warm, WarmRequest, WarmStatus,
};
use chalk_core::{Digest, Platform, Reference};
use chalk_service::bases::BaseError;
use chalk_service::engine::{Engine, EngineError, EventSink, Job, Outcome};
use chalk_service::places::IMAGES;
use chalk_service::registry::Regional;
use chalk_service::resolve::PinBases;
use chalk_service::{Parts, Running, Service, Settings, Surroundings};
use chalk_store::registry::Progress;
use chalk_store::{Blob, BlobStore};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Longest that anything that is waited for may take on a slow and busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Builds nothing.
struct Nothing;

#[async_trait]
impl Engine for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    async fn plan(&self, _: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        Ok(Vec::new())
    }

    async fn build(
        &self,
        _: &Job,
        _: &dyn EventSink,
        _: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        Err(EngineError::Cancelled)
    }
}

#[async_trait]
impl PinBases for Nothing {
    async fn pin(&self, reference: &Reference, _: &Platform) -> Result<Digest, BaseError> {
        Err(BaseError::NotFound {
            reference: reference.clone(),
            detail: "fake".into(),
        })
    }
}

/// An image of the service.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) spec: Spec,
    pub(crate) hash: Digest,
    pub(crate) digest: Digest,
}

/// A running service and a client for it.
pub(crate) struct Api {
    pub(crate) running: Running,
    pub(crate) regional: Arc<dyn Regional>,
    pub(crate) blobs: BlobStore,
    http: reqwest::Client,
}

/// Settings on a free port that keep nobody waiting, and pre-warm nothing.
pub(crate) fn settings(state: &Path) -> Settings {
    let mut settings = Settings::embedded();
    settings.state.dir = state.to_owned();
    settings.nodes.heartbeat = Duration::from_secs(1);
    // No busy machine makes believe that a node is lost.
    settings.nodes.lost_after = Duration::from_secs(600);
    settings.prewarm.images.clear();
    settings.sandboxes.disconnect_grace = Duration::from_millis(200);
    settings
}

type Kept = Arc<Mutex<Option<(Arc<dyn Regional>, BlobStore)>>>;

impl Api {
    pub(crate) async fn start(settings: Settings) -> Self {
        let kept: Kept = Arc::default();
        let keep = kept.clone();
        let parts = move |around: Surroundings<'_>| {
            *keep.lock().unwrap() = Some((around.regional, around.blobs));
            Ok(Parts {
                engine: Arc::new(Nothing),
                bases: Arc::new(Nothing),
            })
        };
        let running = Service::start_with(settings, parts).await.unwrap();
        let (regional, blobs) = kept.lock().unwrap().take().unwrap();
        Self {
            running,
            regional,
            blobs,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// One in a directory of its own.
    pub(crate) async fn fresh() -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Self::start(settings(dir.path())).await, dir)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.running.addr)
    }

    /// A request with the token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.as_who(&self.running.token, method, path)
    }

    /// A request with another token.
    pub(crate) fn as_who(&self, token: &str, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.url());
        self.http.request(method, url).bearer_auth(token)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        ok(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl serde::Serialize,
    ) -> T {
        ok(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) {
        let response = self.request(Method::DELETE, path).send().await.unwrap();
        assert!(
            response.status().is_success(),
            "{:?}",
            response.text().await
        );
    }

    pub(crate) async fn join_token(&self, request: serde_json::Value) -> JoinToken {
        self.post("/v1/join-tokens", request).await
    }

    pub(crate) async fn node(&self, name: &str) -> Node {
        self.get(&format!("/v1/nodes/{name}")).await
    }

    pub(crate) async fn until_node(&self, name: &str, state: NodeState) -> Node {
        until(async || {
            let node = self.node(name).await;
            (node.state == state).then_some(node)
        })
        .await
    }

    pub(crate) async fn warm(&self, request: &WarmRequest) -> Warm {
        self.post("/v1/warms", request).await
    }

    pub(crate) async fn until_warm(&self, id: &str, status: WarmStatus) -> Warm {
        until(async || {
            let warm: Warm = self.get(&format!("/v1/warms/{id}")).await;
            (warm.status == status).then_some(warm)
        })
        .await
    }

    /// Publishes an image as a build of `command` would.
    pub(crate) async fn image(&self, command: &str) -> Image {
        let mut spec = Spec::new(Base::Scratch);
        spec.steps.push(Step::new(StepKind::Run {
            command: command.to_owned(),
        }));
        let hash = spec.image_hash().unwrap();
        let (digest, _) = self.publish(IMAGES, &hash.hex(), command.as_bytes()).await;
        Image { spec, hash, digest }
    }

    /// Publishes a manifest with one layer; gives its digest and the size of the layer.
    pub(crate) async fn publish(&self, repository: &str, tag: &str, layer: &[u8]) -> (Digest, u64) {
        let layer = self.push(repository, layer).await;
        let config = json!({
            "os": "linux",
            "architecture": "amd64",
            "created": "2026-01-01T00:00:00Z",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
            "history": [{ "created_by": "fake" }],
        });
        let config = self.push(repository, config.to_string().as_bytes()).await;
        let descriptor = |blob: &Blob, media_type: &str| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(&config, "application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(&layer, "application/vnd.oci.image.layer.v1.tar")],
        });
        let bytes = manifest.to_string().into_bytes();
        let put = self
            .regional
            .put_manifest(repository, tag, MANIFEST_TYPE, bytes.into());
        (put.await.unwrap().digest, layer.size)
    }

    async fn push(&self, repository: &str, bytes: &[u8]) -> Blob {
        let blob = self.blobs.put(bytes).unwrap();
        let progress = Progress::none();
        let pushed = self
            .regional
            .push_blob(repository, &blob, &self.blobs, &progress);
        pushed.await.unwrap();
        blob
    }
}

/// A warm of an image on all nodes.
pub(crate) fn everywhere(image: &Image) -> WarmRequest {
    WarmRequest {
        images: vec![image.hash.to_string()],
        ..WarmRequest::default()
    }
}

/// Reads the answer to a request that must go well.
pub(crate) async fn ok<T: DeserializeOwned>(request: RequestBuilder) -> T {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{status} {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Reads the answer to a request that must fail.
pub(crate) async fn problem(request: RequestBuilder) -> Problem {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let problem: Problem = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(problem.status, status);
    problem
}

/// Waits until something comes about.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came about");
}

/// What a stream of server-sent events holds: number and document of each.
pub(crate) fn events<T: DeserializeOwned>(text: &str) -> Vec<(u64, T)> {
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| block.contains("data:")) {
        let field = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name).map(str::trim))
        };
        let seq = field("id:").unwrap().parse().unwrap();
        events.push((seq, serde_json::from_str(field("data:").unwrap()).unwrap()));
    }
    events
}
