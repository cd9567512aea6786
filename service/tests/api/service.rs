//! A service with a fake engine, and a client for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chalk_core::spec::{Base, BaseImage, Spec, Step, StepKind};
use chalk_core::wire::{
    Build, BuildReply, BuildRequest, BuildStep, Event, EventKind, Node, NodeState, PlanState,
    PlanStep, Problem, StepState, Stream,
};
use chalk_core::{Digest, Platform, Reference};
use chalk_service::bases::BaseError;
use chalk_service::engine::{Engine, EngineError, EventSink, Job, Outcome};
use chalk_service::places::{IMAGES, SPEC_TYPE};
use chalk_service::registry::Regional;
use chalk_service::resolve::PinBases;
use chalk_service::{Parts, Running, Service, Settings, Surroundings};
use chalk_store::registry::Progress;
use chalk_store::{Blob, BlobStore};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Longest that anything that is waited for may take on a slow and busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// What tests see of the engine.
#[derive(Debug)]
pub(crate) struct Control {
    /// Each permit lets one `wait` command go on.
    pub(crate) gate: Semaphore,
    /// Builds that were begun.
    pub(crate) begun: AtomicUsize,
    /// Builds that run.
    pub(crate) running: AtomicUsize,
    /// Most that ran at once.
    pub(crate) most: AtomicUsize,
    /// Bases that were pinned.
    pub(crate) pinned: AtomicUsize,
}

/// Commands of `run` steps mean: `wait` for the gate, `fail`, `panic`, `lines N`, or nothing.
struct Fake {
    control: Arc<Control>,
    regional: Arc<dyn Regional>,
    blobs: BlobStore,
}

#[async_trait]
impl Engine for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    async fn plan(&self, spec: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        let steps = spec.steps_with_keys().into_iter();
        let planned = steps.map(|step| PlanStep {
            kind: step.kind.to_owned(),
            key: step.key,
            title: step.title,
            state: PlanState::Run,
        });
        Ok(planned.collect())
    }

    async fn build(
        &self,
        job: &Job,
        events: &dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        let control = &self.control;
        control.begun.fetch_add(1, Ordering::SeqCst);
        let running = control.running.fetch_add(1, Ordering::SeqCst) + 1;
        control.most.fetch_max(running, Ordering::SeqCst);
        let result = self.steps(job, events, cancel).await;
        control.running.fetch_sub(1, Ordering::SeqCst);
        let steps = result?;
        let manifest = self.publish(job).await;
        Ok(Outcome {
            manifest,
            size: job.id.len() as u64,
            layers: 1,
            steps,
            verification: None,
        })
    }
}

impl Fake {
    async fn steps(
        &self,
        job: &Job,
        events: &dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<Vec<BuildStep>, EngineError> {
        let steps = self.plan(&job.spec).await?;
        events.emit(EventKind::Started {
            steps: steps.clone(),
        });
        let mut done = Vec::new();
        for (index, (planned, step)) in steps.into_iter().zip(&job.spec.steps).enumerate() {
            events.emit(EventKind::StepStarted { step: index });
            let StepKind::Run { command } = &step.kind else {
                continue;
            };
            match command.split_once(' ').unwrap_or((command, "")) {
                ("wait", _) => tokio::select! {
                    permit = self.control.gate.acquire() => permit.unwrap().forget(),
                    () = cancel.cancelled() => return Err(EngineError::Cancelled),
                },
                ("panic", _) => panic!("as told"),
                ("fail", _) => {
                    let error = EngineError::Step {
                        step: index,
                        title: planned.title,
                        exit_code: Some(7),
                        message: "exit code 7".into(),
                        tail: vec!["no".into()],
                    };
                    events.emit(EventKind::StepFailed {
                        step: index,
                        exit_code: Some(7),
                        message: "exit code 7".into(),
                        seconds: 0.0,
                        tail: vec!["no".into()],
                    });
                    return Err(error);
                }
                ("lines", count) => {
                    for line in 0..count.parse::<usize>().unwrap() {
                        events.emit(EventKind::Log {
                            step: index,
                            stream: Stream::Stdout,
                            text: format!("line {line}\n"),
                        });
                    }
                }
                ("secret", name) => events.emit(EventKind::Log {
                    step: index,
                    stream: Stream::Stderr,
                    text: format!("{} bytes\n", job.secrets[name].expose().len()),
                }),
                _ => {}
            }
            events.emit(EventKind::StepDone {
                step: index,
                seconds: 0.1,
                layer: None,
                layer_bytes: 0,
            });
            done.push(BuildStep {
                kind: planned.kind,
                key: planned.key,
                title: planned.title,
                state: StepState::Ran,
                seconds: 0.1,
                layer_bytes: 0,
            });
        }
        Ok(done)
    }

    /// An image of one layer, with its spec.
    async fn publish(&self, job: &Job) -> Digest {
        let layer = self.push(job.id.as_bytes()).await;
        let config = json!({
            "os": "linux",
            "architecture": "amd64",
            "created": jiff::Timestamp::now().to_string(),
            "config": { "Env": ["A=1"] },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
            "history": [{ "created_by": "fake" }],
        });
        let config = self.push(config.to_string().as_bytes()).await;
        let descriptor = |blob: &Blob, media_type: &str| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size });
        let config_type = "application/vnd.oci.image.config.v1+json";
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(&config, config_type),
            "layers": [descriptor(&layer, layer_type)],
        });
        let image = self.put(&job.image_hash.hex(), &manifest).await;
        let spec = serde_json::to_vec(&job.spec).unwrap();
        let spec = self.push(&spec).await;
        let empty = self.push(b"{}").await;
        let referrer = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": SPEC_TYPE,
            "config": descriptor(&empty, "application/vnd.oci.empty.v1+json"),
            "layers": [descriptor(&spec, SPEC_TYPE)],
            "subject": {
                "mediaType": MANIFEST_TYPE,
                "digest": image,
                "size": manifest.to_string().len(),
            },
        });
        let name = Digest::of(referrer.to_string().as_bytes()).to_string();
        self.put(&name, &referrer).await;
        image
    }

    async fn push(&self, bytes: &[u8]) -> Blob {
        let blob = self.blobs.put(bytes).unwrap();
        let progress = Progress::none();
        let pushed = self
            .regional
            .push_blob(IMAGES, &blob, &self.blobs, &progress);
        pushed.await.unwrap();
        blob
    }

    async fn put(&self, name: &str, manifest: &serde_json::Value) -> Digest {
        let bytes = manifest.to_string().into_bytes();
        let put = self
            .regional
            .put_manifest(IMAGES, name, MANIFEST_TYPE, bytes.into());
        put.await.unwrap().digest
    }
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Every base exists but `missing`, and `far` cannot be reached.
struct Bases(Arc<Control>);

#[async_trait]
impl PinBases for Bases {
    async fn pin(&self, reference: &Reference, platform: &Platform) -> Result<Digest, BaseError> {
        self.0.pinned.fetch_add(1, Ordering::SeqCst);
        let (reference, detail) = (reference.clone(), "fake".to_owned());
        match reference.repository() {
            "library/missing" => Err(BaseError::NotFound { reference, detail }),
            "library/far" => Err(BaseError::Unreachable { reference, detail }),
            _ => Ok(Digest::of(format!("{reference} {platform}").as_bytes())),
        }
    }
}

/// A running service and a client for it.
pub(crate) struct Api {
    pub(crate) running: Running,
    pub(crate) control: Arc<Control>,
    pub(crate) http: reqwest::Client,
}

/// Settings on a free port that keep nobody waiting.
pub(crate) fn settings(state: &Path) -> Settings {
    let mut settings = Settings::embedded();
    settings.state.dir = state.to_owned();
    settings.build.disconnect_grace = Duration::from_millis(100);
    settings
}

impl Api {
    pub(crate) async fn start(settings: Settings) -> Self {
        let control = Arc::new(Control {
            gate: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            pinned: AtomicUsize::new(0),
        });
        let given = control.clone();
        let parts = |around: Surroundings<'_>| {
            Ok(Parts {
                engine: Arc::new(Fake {
                    control: given.clone(),
                    regional: around.regional,
                    blobs: around.blobs,
                }),
                bases: Arc::new(Bases(given)),
            })
        };
        Self {
            running: Service::start_with(settings, parts).await.unwrap(),
            control,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.running.addr)
    }

    /// Waits until a node is connected.
    pub(crate) async fn until_node(&self, name: &str, state: NodeState) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let node: Node = self.get(&format!("/v1/nodes/{name}")).await;
            if node.state == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came about");
    }

    /// A request with the token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.running.token)
    }

    /// A request without the token.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.running.addr);
        self.http.request(method, url)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        ok(self.request(Method::GET, path)).await
    }

    pub(crate) async fn problem(&self, request: RequestBuilder) -> Problem {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let content_type = &response.headers()["content-type"];
        assert_eq!(content_type, "application/problem+json");
        let problem: Problem = response.json().await.unwrap();
        assert_eq!(problem.status, status);
        problem
    }

    pub(crate) async fn build(&self, request: &BuildRequest) -> BuildReply {
        ok(self.request(Method::POST, "/v1/builds").json(request)).await
    }

    /// A build that must be accepted.
    pub(crate) async fn accepted(&self, request: &BuildRequest) -> Build {
        match self.build(request).await {
            BuildReply::Accepted(build) => build,
            other => panic!("{other:?}"),
        }
    }

    /// Follows a build from the event after `after` to its end.
    pub(crate) async fn events(&self, id: &str, after: u64) -> Vec<Event> {
        let path = format!("/v1/builds/{id}/events?after={after}");
        let response = self.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        parse_events(&response.text().await.unwrap())
    }

    /// Builds to the end.
    pub(crate) async fn finished(&self, request: &BuildRequest) -> Build {
        let build = self.accepted(request).await;
        end_of(&self.events(&build.id, 0).await)
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: impl Fn(&Control) -> bool) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if what(&self.control) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came about");
    }

    /// Waits until a build is as wanted.
    pub(crate) async fn until_build(&self, id: &str, what: impl Fn(&Build) -> bool) -> Build {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let build: Build = self.get(&format!("/v1/builds/{id}")).await;
            if what(&build) {
                return build;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came about");
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

/// Events of a whole stream, checked: `id:` is the number of the event.
pub(crate) fn parse_events(text: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| block.contains("data:")) {
        let field = |name: &str| {
            let mut lines = block.lines();
            lines.find_map(|line| line.strip_prefix(name).map(str::trim))
        };
        let event: Event = serde_json::from_str(field("data:").unwrap()).unwrap();
        assert_eq!(field("id:").unwrap(), event.seq.to_string());
        events.push(event);
    }
    events
}

/// The build in the last event.
pub(crate) fn end_of(events: &[Event]) -> Build {
    match &events.last().unwrap().kind {
        EventKind::Finished { build } => (**build).clone(),
        other => panic!("{other:?}"),
    }
}

/// A spec on the empty base that runs commands.
pub(crate) fn commands(commands: &[&str]) -> Spec {
    let mut spec = Spec::new(Base::Scratch);
    let run = |command: &&str| {
        Step::new(StepKind::Run {
            command: (*command).to_owned(),
        })
    };
    spec.steps = commands.iter().map(run).collect();
    spec
}

/// A spec on an image, pinned or not.
pub(crate) fn based_on(reference: &str, digest: Option<Digest>) -> Spec {
    Spec::new(Base::Image(BaseImage {
        reference: reference.parse().unwrap(),
        digest,
        platform: None,
    }))
}

pub(crate) fn request(spec: Spec) -> BuildRequest {
    BuildRequest {
        spec,
        name: None,
        force: false,
        secrets: BTreeMap::new(),
        cancel_on_disconnect: false,
        compression: None,
    }
}
