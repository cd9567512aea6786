//! Two projects that have one of everything, and every kind of token.

use chalk_core::Digest;
use chalk_core::wire::agent::{Ask, Order, Report, SandboxReport};
use chalk_core::wire::{
    Build, BuildReply, CacheListing, CacheUsage, CachedImage, ClientToken, ClientTokenRequest,
    GcReport, Problem, Project, ProjectRequest, Quotas, Role, Sandbox, SandboxReply,
    SandboxRequest, SandboxState, Warm, WarmRequest, WarmStatus, problem,
};
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::agent::{Agent, Joined};
use crate::service::{Api, commands, end_of, ok, request, settings};

/// The two projects.
pub(super) const OURS: &str = "alpha-team";
pub(super) const THEIRS: &str = "beta-team";

/// What a project has.
#[derive(Debug, Clone)]
pub(super) struct Things {
    pub(super) project: &'static str,
    pub(super) node: &'static str,
    pub(super) host: String,
    pub(super) build: String,
    pub(super) hash: Digest,
    pub(super) manifest: Digest,
    pub(super) layer: Digest,
    pub(super) sandbox: String,
    pub(super) warm: String,
    /// Identifier of a volume.
    pub(super) volume: String,
    /// Made anew for each call that names it.
    pub(super) upload: String,
}

impl Things {
    /// What nobody else may learn.
    pub(super) fn secrets(&self) -> Vec<String> {
        let digests = [self.hash, self.manifest, self.layer].map(|digest| digest.hex());
        let texts = [
            self.project,
            &self.build,
            &self.sandbox,
            &self.warm,
            &self.volume,
        ];
        let texts = texts.into_iter().map(str::to_owned);
        texts.chain(digests).collect()
    }
}

/// All of it.
pub(super) struct World {
    pub(super) api: Api,
    pub(super) ours: Things,
    pub(super) theirs: Things,
    pub(super) node: String,
    _dir: tempfile::TempDir,
}

/// A token of a project.
pub(super) async fn token(
    api: &Api,
    project: &str,
    role: Role,
    ttl_seconds: Option<u64>,
) -> ClientToken {
    let request = ClientTokenRequest {
        name: format!("{}-of-{project}", role.word()),
        roles: vec![role],
        project: Some(project.to_owned()),
        ttl_seconds,
    };
    ok(api.request(Method::POST, "/v1/tokens").json(&request)).await
}

/// A project without quotas.
pub(super) async fn project(api: &Api, name: &str) -> Project {
    let request = ProjectRequest {
        name: name.to_owned(),
        quotas: Quotas::default(),
    };
    ok(api.request(Method::POST, "/v1/projects").json(&request)).await
}

/// Builds as somebody, to the end.
pub(super) async fn build_as(api: &Api, token: &str, command: &str, name: Option<&str>) -> Build {
    let mut wanted = request(commands(&[command]));
    wanted.name = name.map(str::to_owned);
    let started = api.bare(Method::POST, "/v1/builds").bearer_auth(token);
    let build = match ok(started.json(&wanted)).await {
        BuildReply::Accepted(build) => build,
        BuildReply::Reused(build) => return build,
        BuildReply::NeedsBlobs(list) => panic!("{list:?}"),
    };
    end_of(&api.events(&build.id, 0).await)
}

fn refused() -> Problem {
    Problem {
        kind: problem::NOT_RUNNING.to_owned(),
        title: "the node says no".to_owned(),
        status: 409,
        detail: String::new(),
        hint: String::new(),
    }
}

/// Warms and starts what it is told, lists what it was told to have, and says no to all else.
async fn obey(mut agent: Agent) {
    let _beats = agent.beats();
    let mut images: Vec<CachedImage> = Vec::new();
    while let Some(order) = agent.try_order().await {
        match order {
            Order::Warm { id, image, .. } => {
                images.push(CachedImage {
                    digest: image.digest,
                    image_hash: image.image_hash,
                    image: image.name.clone(),
                    bytes: 1,
                    layers: 1,
                    pins: Vec::new(),
                    in_use: 0,
                    last_used: "2026-01-01T00:00:00Z".into(),
                    blobs_kept: false,
                });
                agent.warmed(&id, &image, 1, 0).await;
            }
            Order::StartSandbox { id, .. } => {
                let report = SandboxReport {
                    id,
                    state: SandboxState::Running,
                    args: Vec::new(),
                    warm: true,
                    started: Some("2026-01-01T00:00:00Z".into()),
                    finished: None,
                    exit_code: None,
                    ended_by: None,
                    error: None,
                    warnings: Vec::new(),
                };
                agent.report(&Report::Sandbox(report)).await;
            }
            Order::Ask { request, ask } => {
                let value = match ask {
                    Ask::CacheList => serde_json::to_value(CacheListing {
                        node: agent.joined.name.clone(),
                        usage: CacheUsage::default(),
                        images: images.clone(),
                        items: Vec::new(),
                        left_out: 0,
                    }),
                    Ask::CacheRemove { .. } | Ask::CacheCollect { .. } => {
                        serde_json::to_value(GcReport {
                            node: agent.joined.name.clone(),
                            dry_run: false,
                            freed_bytes: 0,
                            freed: Vec::new(),
                            kept: Vec::new(),
                            usage: CacheUsage::default(),
                            left_out: 0,
                        })
                    }
                    Ask::Unpin { .. } => Ok(Value::Null),
                    _ => {
                        let answer = Report::Answer {
                            request,
                            value: None,
                            error: Some(refused()),
                        };
                        agent.report(&answer).await;
                        continue;
                    }
                };
                agent.answer(request, value.unwrap()).await;
            }
            _ => {}
        }
    }
}

/// A field of a message: a text, or a message.
pub(super) fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2, u8::try_from(bytes.len()).unwrap()];
    out.extend(bytes);
    out
}

/// A unary gRPC call, as the Connect protocol has it.
pub(super) fn call(api: &Api, member: &str, message: Vec<u8>) -> reqwest::RequestBuilder {
    api.bare(Method::POST, &format!("/{member}"))
        .header("content-type", "application/proto")
        // Not sent by itself where there are no bytes.
        .header("content-length", message.len())
        .body(message)
}

#[derive(prost::Message)]
struct Volume {
    #[prost(message, tag = "1")]
    info: Option<VolumeInfo>,
}

#[derive(prost::Message)]
struct VolumeInfo {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(prost::Message)]
struct Credentials {
    #[prost(string, tag = "3")]
    password: String,
}

/// What is good for pulling from a repository.
pub(super) async fn puller(api: &Api, token: &str, image: &str) -> String {
    let member = "chalk.sandbox.v1.CustomImageService/GetImagePullCredentials";
    let asked = call(api, member, field(1, image.as_bytes())).bearer_auth(token);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let bytes = answer.bytes().await.unwrap();
    Credentials::decode(bytes).unwrap().password
}

impl World {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        // What is wrong on purpose must not be too much.
        settings.limits.failed_logins = 0;
        let api = Api::start(settings).await;
        let mut nodes = Vec::new();
        for name in ["node-a", "node-b"] {
            let joined = Joined::new(&api, name, None).await;
            nodes.push(joined.token.clone());
            tokio::spawn(obey(joined.connect(&api).await));
        }
        for name in [OURS, THEIRS] {
            project(&api, name).await;
        }
        let ours = Self::things(&api, OURS, "node-a").await;
        let theirs = Self::things(&api, THEIRS, "node-b").await;
        Self {
            api,
            ours,
            theirs,
            node: nodes.remove(0),
            _dir: dir,
        }
    }

    async fn things(api: &Api, project: &'static str, node: &'static str) -> Things {
        let builder = token(api, project, Role::Build, None).await.token.unwrap();
        let warmer = token(api, project, Role::Warm, None).await.token.unwrap();
        let build = build_as(api, &builder, &format!("echo {project}"), Some("app")).await;
        assert_eq!(build.name.unwrap(), format!("{project}/app:latest"));
        assert_eq!(build.project, project);
        let hash = build.image_hash;
        let manifest: Value = api
            .get(&format!("/v1/images/{}/manifest", hash.hex()))
            .await;
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        let warm = WarmRequest {
            images: vec!["app".to_owned()],
            nodes: vec![node.to_owned()],
            ..WarmRequest::default()
        };
        let warming = api.bare(Method::POST, "/v1/warms").bearer_auth(&warmer);
        let warm: Warm = ok(warming.json(&warm)).await;
        loop {
            let now: Warm = api.get(&format!("/v1/warms/{}", warm.id)).await;
            if now.status == WarmStatus::Ready {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let start = SandboxRequest {
            image: "app".to_owned(),
            name: Some("box".to_owned()),
            node: Some(node.to_owned()),
            ..SandboxRequest::default()
        };
        let starting = api
            .bare(Method::POST, "/v1/sandboxes")
            .bearer_auth(&builder);
        let sandbox = match ok(starting.json(&start)).await {
            SandboxReply::Accepted(sandbox) => sandbox.id,
            SandboxReply::NeedsBlobs(list) => panic!("{list:?}"),
        };
        loop {
            let now: Sandbox = api.get(&format!("/v1/sandboxes/{sandbox}")).await;
            if now.state == SandboxState::Running {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let volume = call(
            api,
            "chalk.volume.v2.VolumeService/CreateVolume",
            field(1, format!("data-{project}").as_bytes()),
        );
        let volume = volume.bearer_auth(&builder).send().await.unwrap();
        assert_eq!(volume.status(), 200);
        let volume = Volume::decode(volume.bytes().await.unwrap()).unwrap();
        let volume = volume.info.unwrap().id;
        Things {
            project,
            node,
            host: api.running.addr.to_string(),
            build: build.id,
            hash,
            manifest: build.digest.unwrap(),
            layer: layer.parse().unwrap(),
            sandbox,
            warm: warm.id,
            volume,
            upload: String::new(),
        }
    }

    /// A new upload into a repository of a project.
    pub(super) async fn upload(&self, project: &str) -> String {
        let path = format!("/v2/{project}/app/blobs/uploads/");
        let begun = self.api.request(Method::POST, &path).send().await.unwrap();
        assert_eq!(begun.status(), 202);
        let location = begun.headers()["location"].to_str().unwrap();
        location.rsplit('/').next().unwrap().to_owned()
    }

    /// A token that has ended, by its time.
    pub(super) async fn expired(&self) -> String {
        let token = token(&self.api, OURS, Role::Admin, Some(1)).await.token;
        let token = token.unwrap();
        loop {
            let asked = self.api.bare(Method::GET, "/v1/info").bearer_auth(&token);
            if asked.send().await.unwrap().status() == 401 {
                return token;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// A token that was revoked.
    pub(super) async fn revoked(&self) -> String {
        let made = token(&self.api, OURS, Role::Admin, None).await;
        let path = format!("/v1/tokens/{}", made.client_id);
        let gone = self
            .api
            .request(Method::DELETE, &path)
            .send()
            .await
            .unwrap();
        assert_eq!(gone.status(), 204);
        made.token.unwrap()
    }
}

/// A spec on an image of the registry of `host`.
pub(super) fn on_image(things: &Things) -> Value {
    let reference = format!("{}/{}/app:latest", things.host, things.project);
    json!({ "spec": crate::service::based_on(&reference, None) })
}
