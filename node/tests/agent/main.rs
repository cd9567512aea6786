//! The agent against a real service, with a cache and sandboxes that only count.

// Tests state what they expect by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod parts;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chalk_core::source::MemoryFiles;
use chalk_core::wire::agent::SandboxReport;
use chalk_core::wire::{
    BuildReply, BuildRequest, Node, NodeState, Plan, ResolveRequest, SandboxState,
};
use chalk_core::{Digest, Image, Spec};
use chalk_node::agent::{AgentEnd, AgentError};
use chalk_node::{Join, NodeError, NodeSettings, Parts, RunningNode};
use chalk_service::{Running, Service, Settings};
use serde::Serialize;
use serde::de::DeserializeOwned;

use parts::{CountingImages, CountingSandboxes};

/// A busy machine may take so long for anything.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    dir: tempfile::TempDir,
    http: reqwest::Client,
    service: Option<Running>,
    address: String,
    token: String,
}

impl World {
    async fn new() -> Self {
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            http: reqwest::Client::new(),
            service: None,
            address: "127.0.0.1:0".to_owned(),
            token: String::new(),
        };
        world.serve().await;
        world
    }

    async fn serve(&mut self) {
        let mut settings = Settings::embedded();
        settings.state.dir = self.dir.path().join("state");
        settings.serve.listen = self.address.parse().unwrap();
        settings.prewarm.images = Vec::new();
        let service = Service::start(settings).await.unwrap();
        self.address = service.addr.to_string();
        self.token = service.token.clone();
        self.service = Some(service);
    }

    async fn stop_service(&mut self) {
        self.service.take().unwrap().shutdown().await;
    }

    fn node_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("node")
    }

    async fn node(&self, join: Join, parts: &Fakes) -> Result<RunningNode, NodeError> {
        let url = format!("http://{}", self.address);
        let settings = NodeSettings::new(&url, join, "n1", self.node_dir());
        let parts = parts.clone();
        chalk_node::Node::start_with(settings, |_| async move {
            Ok(Parts {
                images: parts.images,
                sandboxes: parts.sandboxes,
                mirror: None,
                keep: Box::new(()),
            })
        })
        .await
    }

    fn admin(&self) -> Join {
        Join::Token(self.token.clone())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> T {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method, url).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let bytes = response.bytes().await.unwrap();
        assert!(
            status.is_success(),
            "{path}: {status} {}",
            String::from_utf8_lossy(&bytes)
        );
        serde_json::from_slice(if bytes.is_empty() { b"null" } else { &bytes }).unwrap()
    }

    /// Waits until the node is in a state.
    async fn until(&self, state: NodeState) {
        let look = async {
            loop {
                let nodes: Vec<Node> = self.call(reqwest::Method::GET, "/v1/nodes", NONE).await;
                if nodes.iter().any(|n| n.name == "n1" && n.state == state) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        assert!(found.is_ok(), "the node did not become {state:?}");
    }

    /// Waits until the service says of a spec that these nodes have its image.
    async fn until_warm(&self, spec: &Spec, expect: &[&str]) {
        let request = ResolveRequest {
            spec: spec.clone(),
            blobs: Default::default(),
        };
        let mut last = Vec::new();
        let look = async {
            while last != expect {
                let plan: Plan = self
                    .call(reqwest::Method::POST, "/v1/plan", Some(&request))
                    .await;
                last = plan.nodes_warm;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        assert!(found.is_ok(), "warm nodes are {last:?}, not {expect:?}");
    }
}

const NONE: Option<&()> = None;

#[derive(Clone, Default)]
struct Fakes {
    images: Arc<CountingImages>,
    sandboxes: Arc<CountingSandboxes>,
}

/// Builds an image of its own; gives its spec and the digest of its manifest.
async fn built(world: &World, label: &str) -> (Spec, Digest) {
    let image = Image::base("scratch").env([("LABEL", label)]);
    let spec = image.resolve(&MemoryFiles::new()).unwrap().spec;
    let request = BuildRequest {
        spec: spec.clone(),
        name: None,
        force: false,
        secrets: Default::default(),
        cancel_on_disconnect: false,
        compression: None,
    };
    let post = reqwest::Method::POST;
    let reply = world.call(post, "/v1/builds", Some(&request)).await;
    let (BuildReply::Accepted(mut build) | BuildReply::Reused(mut build)) = reply else {
        panic!("no files are needed");
    };
    while !build.status.is_final() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let path = format!("/v1/builds/{}", build.id);
        build = world.call(reqwest::Method::GET, &path, NONE).await;
    }
    (spec, build.digest.expect("the image is built"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cache_holds_is_known_over_restarts_of_either_side() {
    let mut world = World::new().await;
    let fakes = Fakes::default();
    let (first, first_digest) = built(&world, "first").await;
    let (second, second_digest) = built(&world, "second").await;
    // More than go into one report.
    for n in 0..1500_u32 {
        fakes.images.put(Digest::of(&n.to_le_bytes()));
    }
    fakes.images.put(first_digest);
    let node = world.node(world.admin(), &fakes).await.unwrap();
    world.until(NodeState::Ready).await;
    world.until_warm(&first, &["n1"]).await;
    world.until_warm(&second, &[]).await;
    // Only what changed is said.
    let before = fakes.images.whole_lists();
    fakes.images.put(second_digest);
    fakes.images.remove(first_digest);
    world.until_warm(&second, &["n1"]).await;
    world.until_warm(&first, &[]).await;
    assert_eq!(fakes.images.whole_lists(), before);

    world.stop_service().await;
    fakes.images.put(first_digest);
    world.serve().await;
    world.until(NodeState::Ready).await;
    world.until_warm(&first, &["n1"]).await;
    world.until_warm(&second, &["n1"]).await;

    node.shutdown().await;
    world.until(NodeState::Lost).await;
    world.until_warm(&first, &[]).await;
    // Its credentials are all that it needs to come back.
    fakes.images.remove(second_digest);
    let node = world.node(Join::Never, &fakes).await.unwrap();
    world.until(NodeState::Ready).await;
    world.until_warm(&first, &["n1"]).await;
    world.until_warm(&second, &[]).await;
    node.shutdown().await;
    world.stop_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_removed() {
    use reqwest::Method;
    let mut world = World::new().await;
    let fakes = Fakes::default();
    let mut node = world.node(world.admin(), &fakes).await.unwrap();
    assert!(node.connected().await);
    let drained: Node = world.call(Method::POST, "/v1/nodes/n1/drain", NONE).await;
    assert_eq!(drained.state, NodeState::Draining);
    // It stays so over a restart of the service.
    world.stop_service().await;
    world.serve().await;
    world.until(NodeState::Draining).await;
    let back: Node = world.call(Method::POST, "/v1/nodes/n1/undrain", NONE).await;
    assert_eq!(back.state, NodeState::Ready);

    assert!(credentials(&world.node_dir()));
    let () = world.call(Method::DELETE, "/v1/nodes/n1", NONE).await;
    let end = tokio::time::timeout(PATIENCE, node.ended()).await.unwrap();
    assert_eq!(end.unwrap(), AgentEnd::Removed);
    assert!(!credentials(&world.node_dir()));
    assert_eq!(fakes.sandboxes.ends(), 1);
    drop(node);
    let mut node = world.node(Join::Never, &fakes).await.unwrap();
    let end = node.ended().await.unwrap_err();
    assert!(
        matches!(end, NodeError::Agent(AgentError::NoToken(_))),
        "{end}"
    );
    drop(node);

    // Removed while it was away, it learns so when it comes back.
    let node = world.node(world.admin(), &fakes).await.unwrap();
    assert!(node.connected().await);
    node.shutdown().await;
    world.until(NodeState::Lost).await;
    let () = world.call(Method::DELETE, "/v1/nodes/n1", NONE).await;
    // With a join token at hand, too: it does not join again by itself.
    let mut node = world.node(world.admin(), &fakes).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, node.ended()).await.unwrap();
    assert_eq!(end.unwrap(), AgentEnd::Removed);
    assert!(!credentials(&world.node_dir()));
    drop(node);
    world.stop_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_sandboxes_than_a_line_takes_keep_no_node_away() {
    let mut world = World::new().await;
    let fakes = Fakes::default();
    let argument = "x".repeat(4 << 10);
    fakes.sandboxes.know((0..4200).map(|number| SandboxReport {
        id: format!("sb-{number}"),
        state: SandboxState::Exited,
        args: vec![argument.clone()],
        warm: false,
        started: None,
        finished: None,
        exit_code: Some(0),
        ended_by: None,
        error: None,
        warnings: Vec::new(),
    }));
    let node = world.node(world.admin(), &fakes).await.unwrap();
    let connected = tokio::time::timeout(PATIENCE, node.connected()).await;
    assert!(connected.expect("connects"));
    world.until(NodeState::Ready).await;
    // The service knows none of them, and says so.
    let forgotten = async {
        while fakes.sandboxes.removals() < 4200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let forgotten = tokio::time::timeout(PATIENCE, forgotten).await;
    assert!(forgotten.is_ok(), "{}", fakes.sandboxes.removals());
    node.shutdown().await;
    world.stop_service().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_told_and_a_service_that_is_away_is_waited_for() {
    let mut world = World::new().await;
    let fakes = Fakes::default();
    let wrong = Join::Token("no-such-token-anywhere-at-all-0123456789".into());
    let mut node = world.node(wrong, &fakes).await.unwrap();
    assert!(!node.connected().await);
    let end = node.ended().await.unwrap_err();
    assert!(
        matches!(end, NodeError::Agent(AgentError::Refused(_))),
        "{end}"
    );
    drop(node);
    world.stop_service().await;
    let node = world.node(world.admin(), &fakes).await.unwrap();
    let second = world.node(world.admin(), &fakes).await.unwrap_err();
    assert!(matches!(second, NodeError::Locked(_)), "{second}");
    world.serve().await;
    assert!(node.connected().await);
    node.shutdown().await;
    world.stop_service().await;
}

fn credentials(dir: &Path) -> bool {
    dir.join("credentials.json").exists()
}
