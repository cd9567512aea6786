//! Types of the HTTP API (`/v1`): requests, responses and events. Service, command, terminal app
//! and browser share these definitions. Times are RFC 3339 in UTC; sizes are bytes.
//!
//! | call | request | response |
//! |---|---|---|
//! | `GET /healthz`, `GET /readyz` | | `ok` |
//! | `GET /v1/info` | | [`Info`] |
//! | `POST /v1/resolve` | [`ResolveRequest`] | [`Resolved`] |
//! | `POST /v1/plan` | [`ResolveRequest`] | [`Plan`] |
//! | `POST /v1/blobs/missing` | [`BlobList`] | [`BlobList`] |
//! | `POST /v1/blobs` | many small blobs, framed as [`blob_batch`] says | 201 when all are there |
//! | `PUT /v1/blobs/{digest}` | the bytes | 201 |
//! | `POST /v1/builds` | [`BuildRequest`] | [`BuildReply`] |
//! | `GET /v1/builds?limit=&name=&hash=` | | `[`[`Build`]`]`, newest first |
//! | `GET /v1/builds/{id}` | | [`Build`] |
//! | `DELETE /v1/builds/{id}?leave=` | | [`Build`]; cancels; with `leave=true` only if no client follows it |
//! | `GET /v1/builds/{id}/events` | `Last-Event-ID` or `?after=` | server-sent [`Event`]s, `id:` is `seq` |
//! | `GET /v1/builds/{id}/logs?step=&follow=` | | output as plain text |
//! | `GET /v1/images?name=` | | `[`[`Image`]`]`, newest first |
//! | `GET /v1/images/{id}` | hash prefix or name | [`ImageDetail`] |
//! | `POST /v1/images/{id}/verify` | [`VerifyRequest`] | [`Build`] that ends with a [`Verification`] |
//! | `PUT /v1/images/{id}/names/{name}` | name percent-encoded | [`Image`] |
//! | `DELETE /v1/images/{id}` | hash prefix, or a name (removes the name only) | 204 |
//! | `GET /v1/blobs/{digest}` | | the bytes |
//! | `GET /v1/storage` | | [`Storage`] |
//! | `POST /v1/gc` | [`CollectRequest`] | [`CollectEvent`]s, a line of JSON each; empty lines mean that it goes on |
//! | `GET /v1/regions` | | `[`[`Region`]`]` |
//! | `GET /v1/caches` | | [`CacheMap`] |
//! | `GET /v1/nodes` | | `[`[`Node`]`]`, by name |
//! | `GET /v1/nodes/{name}` | | [`Node`] |
//! | `DELETE /v1/nodes/{name}` | | 204; removes the node for good |
//! | `POST /v1/nodes/{name}/drain`, `.../undrain` | | [`Node`] |
//! | `GET /v1/nodes/{name}/cache` | | [`CacheListing`] |
//! | `DELETE /v1/nodes/{name}/cache/{image}` | hash prefix, name, or digest of the manifest | [`GcReport`] |
//! | `POST /v1/nodes/{name}/cache/gc` | [`GcRequest`] | [`GcReport`] |
//! | `POST /v1/join-tokens` | [`JoinTokenRequest`] | [`JoinToken`] |
//! | `GET /v1/join-tokens`, `DELETE /v1/join-tokens/{id}` | | `[`[`JoinToken`]`]`, 204 |
//! | `POST /v1/tokens` | [`ClientTokenRequest`] | [`ClientToken`] |
//! | `GET /v1/tokens`, `DELETE /v1/tokens/{id}` | | `[`[`ClientToken`]`]`, 204 |
//! | `GET /v1/projects`, `GET /v1/projects/{name}` | | `[`[`Project`]`]`, [`Project`] |
//! | `POST /v1/projects` | [`ProjectRequest`] | [`Project`] |
//! | `PUT /v1/projects/{name}` | [`Quotas`] | [`Project`] |
//! | `DELETE /v1/projects/{name}` | | 204; its tokens end, and its name is not given again |
//! | `GET /v1/audit?limit=&before=&who=&action=&project=` | | `[`[`AuditEntry`]`]`, newest first |
//! | `GET /v1/prewarm`, `PUT /v1/prewarm` | [`Prewarm`] | [`Prewarm`] |
//! | `POST /v1/warms` | [`WarmRequest`] | [`Warm`] |
//! | `GET /v1/warms?limit=&image=` | | `[`[`Warm`]`]`, newest first |
//! | `GET /v1/warms/{id}` | | [`Warm`] |
//! | `POST /v1/warms/{id}/retry` | | [`Warm`]; failed targets begin again |
//! | `DELETE /v1/warms/{id}` | | [`Warm`]; cancels what is not ready |
//! | `GET /v1/warms/{id}/events` | `Last-Event-ID` or `?after=` | server-sent [`WarmEvent`]s |
//! | `POST /v1/sandboxes` | [`SandboxRequest`] | [`SandboxReply`] |
//! | `GET /v1/sandboxes?all=&node=&image=` | | `[`[`Sandbox`]`]`, newest first; only living ones unless `all=true` |
//! | `GET /v1/sandboxes/{id}` | unique prefix of an identifier, or the name of a living one | [`Sandbox`] |
//! | `POST /v1/sandboxes/{id}/stop` | [`StopRequest`] | [`Sandbox`] when it has ended |
//! | `DELETE /v1/sandboxes/{id}?force=` | | 204; a living one only with `force=true` |
//! | `POST /v1/sandboxes/{id}/exec` | [`ExecRequest`] | [`SandboxProcess`] |
//! | `GET /v1/sandboxes/{id}/processes/{process}/output` | `?follow=`, `Last-Event-ID` or `?after=` | server-sent [`OutputEvent`]s; the end of the process is told whatever `after` says |
//! | `GET /v1/sandboxes/{id}/processes` | | `[`[`ProcessStatus`]`]`, without `main` |
//! | `GET /v1/sandboxes/{id}/files?path=` | | the bytes of the file |
//! | `PUT /v1/sandboxes/{id}/files?path=&mode=` | the bytes; mode in octal | [`FileWritten`] |
//! | `POST .../processes/{process}/input?close=` | the bytes | 204 when they are taken |
//! | `POST .../processes/{process}/resize` | [`TerminalSize`] | 204 |
//! | `POST .../processes/{process}/signal` | [`SignalRequest`] | 204 |
//! | `POST /v1/imports?ref=&platform=&image=` | OCI archive, `docker save` tar or root-filesystem tar | [`Imported`] |
//!
//! `image` of an import says which image of an archive that holds several.
//!
//! The main process of a sandbox is called `main`. What nodes and the service say to each other
//! stands in [`agent`].
//!
//! Every call but health carries `Authorization: Bearer <token>`. Errors are [`Problem`]s.

pub mod agent;
mod audit;
pub mod blob_batch;
mod collect;
mod nodes;
pub mod problem;
mod projects;
mod sandboxes;
mod tokens;
mod verify;
mod warm;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use audit::{AuditEntry, AuditOutcome};
pub use collect::{
    CollectArea, CollectEvent, CollectItem, CollectRequest, CollectSummary, CollectTotal,
};
pub use nodes::{
    CacheItem, CacheItemKind, CacheListing, CacheMap, CacheUsage, CachedImage, GcReport, GcRequest,
    JoinToken, JoinTokenRequest, Node, NodeRuntime, NodeState, Prewarm, PrewarmState, Region,
};
pub use projects::{DEFAULT_PROJECT, Project, ProjectRequest, ProjectUsage, Quotas};
pub use sandboxes::{
    ExecRequest, FileWritten, MountSource, OutputEvent, OutputEventKind, ProcessStatus, Sandbox,
    SandboxEnd, SandboxLimits, SandboxMount, SandboxNetwork, SandboxProcess, SandboxReply,
    SandboxRequest, SandboxState, SignalRequest, StopRequest, TerminalSize,
};
pub use tokens::{ClientToken, ClientTokenRequest, InvalidRole, Role};
pub use verify::{Difference, FileCheck, LayerCheck, Verification, VerifyRequest};
pub use warm::{
    LayerProgress, Receipt, Warm, WarmEvent, WarmEventKind, WarmRequest, WarmState, WarmStatus,
    WarmTarget,
};

use crate::config::ImageConfig;
use crate::{Digest, Platform, Reference, Spec};

/// An RFC 9457 problem document (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// Stable word: see [`problem`].
    #[serde(rename = "type")]
    pub kind: String,
    /// What failed, short.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl Problem {
    /// A request of which one field is wrong; `detail` begins with its name.
    pub fn wrong_request(detail: impl Into<String>) -> Self {
        Self {
            kind: problem::BAD_REQUEST.to_owned(),
            title: "the request is wrong".to_owned(),
            status: 400,
            detail: detail.into(),
            hint: String::new(),
        }
    }
}

/// Exit codes of the `chalk` command.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// The build, warm or sandbox command failed.
    pub const FAILED: u8 = 1;
    /// Bad usage or bad spec.
    pub const USAGE: u8 = 2;
    /// Service, registry or node not reachable, or it refused.
    pub const UNREACHABLE: u8 = 3;
    /// Not found or ambiguous.
    pub const NOT_FOUND: u8 = 4;
    /// Partly done.
    pub const PARTLY: u8 = 5;
    /// The command of a sandbox cannot be executed, as in a shell.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// A sandbox has no such command, as in a shell.
    pub const NO_COMMAND: u8 = 127;
    /// Interrupted.
    pub const INTERRUPTED: u8 = 130;
}

/// What the service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Info {
    /// Version of the program.
    pub version: String,
    /// Version of the builder's meaning; part of step keys.
    pub builder: String,
    /// What builds: `embedded`, `buildkit`, or `none` where this system cannot.
    #[serde(default)]
    pub engine: String,
    /// `host:port[/prefix]` under which built images are pulled.
    pub registry: String,
    /// When it started.
    pub started: String,
}

/// A spec to pin or plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResolveRequest {
    /// The spec.
    pub spec: Spec,
    /// Sizes of the blobs that the client can upload, for `upload_bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub blobs: BTreeMap<Digest, u64>,
}

/// A spec with every base pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resolved {
    /// The pinned spec.
    pub spec: Spec,
    /// Its image hash.
    pub image_hash: Digest,
}

/// What a build would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// Hash of the spec with its bases by tag.
    pub recipe_hash: Digest,
    /// Hash of the pinned spec; null when a base could not be pinned.
    pub image_hash: Option<Digest>,
    /// The base of the result; null for scratch.
    pub base: Option<PlanBase>,
    /// Platform.
    pub platform: Platform,
    /// Whether the finished image is in the registry.
    pub exists: bool,
    /// Steps in order.
    pub steps: Vec<PlanStep>,
    /// Bytes that the client would upload.
    pub upload_bytes: u64,
    /// Names of nodes that have the image.
    pub nodes_warm: Vec<String>,
    /// Things that are probably not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What can be said of a spec without a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalPlan {
    /// Hash of the spec with its bases by tag.
    pub recipe_hash: Digest,
    /// Hash of the spec; null while a base is not pinned.
    pub image_hash: Option<Digest>,
    /// The base of the result; null for scratch.
    pub base: Option<PlanBase>,
    /// Platform.
    pub platform: Platform,
    /// Steps in order.
    pub steps: Vec<ImageStep>,
    /// Bytes of all files that the image takes from the declaring machine.
    pub upload_bytes: u64,
    /// Things that are probably not meant.
    pub warnings: Vec<String>,
}

impl LocalPlan {
    /// What a spec comes to, with what is known from reading its files.
    pub fn new(spec: &Spec, upload_bytes: u64, warnings: Vec<String>) -> Self {
        let step = |step: crate::keys::KeyedStep| ImageStep {
            kind: step.kind.to_owned(),
            key: step.key,
            title: step.title,
        };
        Self {
            recipe_hash: spec.recipe_hash(),
            image_hash: spec.image_hash(),
            base: PlanBase::of(spec),
            platform: spec.platform.clone(),
            steps: spec.steps_with_keys().into_iter().map(step).collect(),
            upload_bytes,
            warnings,
        }
    }
}

/// Base of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanBase {
    /// Reference.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Digest when pinned.
    pub digest: Option<Digest>,
}

impl PlanBase {
    /// The base of the result; `None` for scratch.
    pub fn of(spec: &Spec) -> Option<Self> {
        spec.result_base().map(|image| Self {
            reference: image.reference.clone(),
            digest: image.digest,
        })
    }
}

/// Step of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanStep {
    /// Kind word.
    pub kind: String,
    /// Step key.
    pub key: Digest,
    /// One line for people.
    pub title: String,
    /// `cached` or `run`.
    pub state: PlanState,
}

/// State of a planned step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PlanState {
    /// Its result is in the step cache.
    Cached,
    /// It will run.
    Run,
}

/// Some blobs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlobList {
    /// Digests, sorted.
    pub digests: Vec<Digest>,
}

/// A build to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BuildRequest {
    /// The spec, pinned or not.
    pub spec: Spec,
    /// Name to file the image under; over [`Spec::name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Run every step even when cached.
    #[serde(default)]
    pub force: bool,
    /// Values of the secrets that steps name. Never kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Cancel the build when the last client that follows its events is gone.
    #[serde(default)]
    pub cancel_on_disconnect: bool,
    /// `zstd`, `gzip` or `none` for new layers; the service's setting when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
}

/// Answer to a [`BuildRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum BuildReply {
    /// The image is there; nothing was queued.
    Reused(Build),
    /// A build was queued or joined; follow its events.
    Accepted(Build),
    /// Upload these blobs, then ask again.
    NeedsBlobs(BlobList),
}

/// A build, past or present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Build {
    /// Identifier, sortable by time.
    pub id: String,
    /// State.
    pub status: BuildStatus,
    /// Image hash.
    pub image_hash: Digest,
    /// Recipe hash.
    pub recipe_hash: Digest,
    /// Name it was built under.
    pub name: Option<String>,
    /// Project that it belongs to.
    #[serde(
        default = "projects::default_project",
        skip_serializing_if = "projects::is_default"
    )]
    pub project: String,
    /// Pullable reference, when finished.
    pub image: Option<String>,
    /// Digest of the manifest, when finished.
    pub digest: Option<Digest>,
    /// When it was asked for.
    pub created: String,
    /// When it ended.
    pub finished: Option<String>,
    /// Wall time from start to end.
    pub seconds: f64,
    /// Steps in order.
    pub steps: Vec<BuildStep>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Of a build that published nothing but was compared with the image there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

impl Eq for Build {}

/// State of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// Waits for a place.
    Queued,
    /// Runs.
    Running,
    /// Steps ran and the image was published.
    Built,
    /// The image was there before.
    Reused,
    /// A step or the publishing failed.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl BuildStatus {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Step of a [`Build`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BuildStep {
    /// Kind word.
    pub kind: String,
    /// Step key.
    pub key: Digest,
    /// One line for people.
    pub title: String,
    /// State.
    pub state: StepState,
    /// Wall time.
    pub seconds: f64,
    /// Bytes of its layer as stored; 0 when it has none.
    #[serde(default)]
    pub layer_bytes: u64,
}

/// State of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Runs.
    Running,
    /// Taken from the step cache.
    Cached,
    /// Ran to its end.
    Ran,
    /// Failed.
    Failed,
}

/// Something that happened in a build. Numbered from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Number within the build.
    pub seq: u64,
    /// When.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// Kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// Waits for a place; `ahead` builds are before it.
    Queued {
        /// Builds ahead.
        ahead: usize,
    },
    /// Began; these are its steps.
    Started {
        /// Steps in order.
        steps: Vec<PlanStep>,
    },
    /// Bytes of a base image pulled so far.
    Pulling {
        /// Reference.
        image: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, when known.
        total: u64,
    },
    /// A step began.
    StepStarted {
        /// Index in the steps.
        step: usize,
    },
    /// A piece of a step's output, whole lines where possible.
    Log {
        /// Index in the steps.
        step: usize,
        /// Stream.
        stream: Stream,
        /// Text; bytes that are not UTF-8 are replaced.
        text: String,
    },
    /// A step came from the cache.
    StepCached {
        /// Index in the steps.
        step: usize,
        /// `local`, `registry` or, of a step that a BuildKit had, `builder`.
        source: String,
    },
    /// A step ended well.
    StepDone {
        /// Index in the steps.
        step: usize,
        /// Wall time.
        seconds: f64,
        /// Digest of its layer.
        layer: Option<Digest>,
        /// Bytes of the layer as stored.
        layer_bytes: u64,
    },
    /// A step failed.
    StepFailed {
        /// Index in the steps.
        step: usize,
        /// Exit code of the process, when there was one.
        exit_code: Option<i32>,
        /// Why.
        message: String,
        /// Wall time until it failed.
        #[serde(default)]
        seconds: f64,
        /// Last lines of its output.
        tail: Vec<String>,
    },
    /// A blob went to the registry, or was there.
    Pushed {
        /// Digest.
        digest: Digest,
        /// Bytes.
        bytes: u64,
        /// Whether it was there before, so that nothing moved.
        present: bool,
    },
    /// Something that is probably not meant.
    Warning {
        /// Words.
        message: String,
    },
    /// The end; no event follows.
    Finished {
        /// The build as it ended.
        build: Box<Build>,
    },
}

/// Output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An image in the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// Image hash.
    pub image_hash: Digest,
    /// Names, `repository:tag`, sorted.
    pub names: Vec<String>,
    /// Pullable reference.
    pub image: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Platform.
    pub platform: Platform,
    /// Bytes of its layers as stored.
    pub size: u64,
    /// Number of layers.
    pub layers: usize,
    /// When it was built.
    pub created: String,
}

/// An image with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageDetail {
    /// The image.
    #[serde(flatten)]
    pub image: Image,
    /// The spec that it was built from.
    pub spec: Spec,
    /// Config.
    pub config: ImageConfig,
    /// Layers, base first.
    pub layer_list: Vec<Layer>,
    /// Steps with their keys.
    pub steps: Vec<ImageStep>,
}

/// Layer of an [`ImageDetail`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Layer {
    /// Digest as stored.
    pub digest: Digest,
    /// Bytes as stored.
    pub size: u64,
    /// Media type.
    pub media_type: String,
    /// `created_by` of the history entry, when known.
    pub created_by: String,
}

/// Step of an [`ImageDetail`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageStep {
    /// Kind word.
    pub kind: String,
    /// Step key.
    pub key: Digest,
    /// One line for people.
    pub title: String,
}

/// What the service's own store of blobs takes: the embedded registry with its step cache, base
/// images and uploads. An external registry is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Storage {
    /// Number of blobs.
    pub blobs: u64,
    /// Bytes of them, each blob counted once.
    pub bytes: u64,
}

/// What an import brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Imported {
    /// Reference that specs may name as their base.
    #[serde(rename = "ref")]
    pub reference: Reference,
    /// Digest of the manifest.
    pub digest: Digest,
    /// Platform.
    pub platform: Platform,
    /// Bytes of its layers as stored.
    pub size: u64,
}
