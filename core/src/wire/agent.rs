//! What a node and the service say to each other over the node's one connection (HTTP/2).
//!
//! | call | request | response |
//! |---|---|---|
//! | `POST /v1/agent/register` | [`Register`], with a join token | [`Registered`] |
//! | `POST /v1/agent/session` | [`Report`]s, one JSON document a line | [`Order`]s, one JSON document a line |
//! | `POST /v1/agent/streams/{ticket}` | [`super::OutputEvent`]s, one JSON document a line | 200 at the end |
//! | `POST /v1/agent/files/{ticket}` | the bytes of a file that is read ([`Ask::ReadFile`]) | 200 at the end |
//! | `GET /v1/agent/files/{ticket}` | | the bytes of a file that is written ([`Ask::WriteFile`]) |
//!
//! Both bodies of a session last as long as the session. The node's token is the bearer of all but
//! the first call. Readers skip kinds that they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    CacheUsage, CachedImage, ExecRequest, GcRequest, LayerProgress, NodeRuntime, Problem, Receipt,
    Sandbox, SandboxEnd, SandboxRequest, SandboxState, TerminalSize,
};
use crate::Digest;

/// A node that wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Register {
    /// Name; one that another node has is refused, unless that node is not connected.
    pub name: String,
    /// Region; the service's home region when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Version of its program.
    pub version: String,
}

/// A node that joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Registered {
    /// Name.
    pub name: String,
    /// Region.
    pub region: String,
    /// Bearer token of the node from now on.
    pub token: String,
}

/// An image to have, in terms of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageRef {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Image hash, when it was built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_hash: Option<Digest>,
    /// `host[:port]` of the region's registry.
    pub registry: String,
    /// Repository in it, its path prefix included.
    pub repository: String,
    /// For people: the reference or name that somebody gave.
    pub name: String,
    /// Whether the registry takes the node's token as a password; else the node has a login of its
    /// own, or needs none.
    #[serde(default)]
    pub node_login: bool,
    /// Whether the service gets the node tokens for reading the repository, at
    /// `GET /v1/agent/registry-token`, where the registry takes tokens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broker: bool,
    /// URL of the registry's API, where that is not at `/v2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Base URLs of nodes that serve its blobs, best first; asked before the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Trace that the order is a part of (W3C Trace Context, `traceparent`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A line from the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The first line.
    Welcome {
        /// Seconds between heartbeats.
        heartbeat_seconds: u64,
        /// Revision of the node's cache that the service knows, of the epoch that
        /// [`Report::Hello`] named; everything is to be reported when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cache_known: Option<u64>,
        /// Token by which nodes of the region let each other read blobs.
        peer_token: String,
        /// Whether the node is drained.
        #[serde(default)]
        draining: bool,
    },
    /// Another token by which nodes of the region let each other read blobs, from now on.
    PeerToken {
        /// The token.
        token: String,
    },
    /// Images to keep ready, pinned; replaces the list before.
    Prewarm {
        /// The whole list.
        images: Vec<ImageRef>,
    },
    /// An image to have. The same `id` again changes nothing but the peers.
    Warm {
        /// Identifier for reports.
        id: String,
        /// The image.
        image: ImageRef,
        /// Label of a pin to put on it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pin: Option<String>,
    },
    /// A warm that is not wanted any more.
    CancelWarm {
        /// Its identifier.
        id: String,
    },
    /// A sandbox to start; answered by [`Report::Sandbox`]s.
    StartSandbox {
        /// Identifier.
        id: String,
        /// The image.
        image: ImageRef,
        /// Everything else.
        request: Box<SandboxRequest>,
    },
    /// Something that wants an answer.
    Ask {
        /// Number for the answer.
        request: u64,
        /// What.
        #[serde(flatten)]
        ask: Ask,
    },
    /// Whether the node takes new work.
    Drain {
        /// It does not.
        draining: bool,
    },
    /// The node was removed: it ends its sandboxes, forgets its token and ends.
    Removed,
}

/// What an [`Order::Ask`] asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// [`super::CacheListing`].
    CacheList,
    /// Removes an image from the cache; answered by [`super::GcReport`].
    CacheRemove {
        /// Digest of its manifest.
        digest: Digest,
        /// Whether its pins go, too; a pinned image is refused otherwise.
        #[serde(default)]
        unpin: bool,
    },
    /// [`super::GcReport`].
    CacheCollect {
        /// How.
        #[serde(flatten)]
        gc: GcRequest,
    },
    /// Takes a pin away; answered by null.
    Unpin {
        /// Digest of the manifest.
        digest: Digest,
        /// Label of the pin.
        label: String,
    },
    /// Starts a command in a sandbox; answered by [`super::SandboxProcess`].
    Exec {
        /// Identifier of the sandbox.
        sandbox: String,
        /// Identifier to give the process.
        process: String,
        /// The command.
        exec: ExecRequest,
    },
    /// Bytes for standard input; answered by null when they are taken.
    Input {
        /// Identifier of the sandbox.
        sandbox: String,
        /// Identifier of the process.
        process: String,
        /// The bytes, base64.
        data: String,
        /// Whether nothing follows.
        #[serde(default)]
        close: bool,
    },
    /// Answered by null.
    Resize {
        /// Identifier of the sandbox.
        sandbox: String,
        /// Identifier of the process.
        process: String,
        /// New size.
        size: TerminalSize,
    },
    /// Answered by null.
    Signal {
        /// Identifier of the sandbox.
        sandbox: String,
        /// Identifier of the process.
        process: String,
        /// Name or number.
        signal: String,
    },
    /// Ends a sandbox; answered by null when the order was taken, its end is reported.
    Stop {
        /// Identifier of the sandbox.
        sandbox: String,
        /// Seconds between the stop signal and the kill.
        grace_seconds: f64,
        /// What to report as [`Sandbox::ended_by`].
        reason: SandboxEnd,
    },
    /// Forgets a sandbox and its output, ending it first; answered by null.
    Remove {
        /// Identifier of the sandbox.
        sandbox: String,
    },
    /// What the processes of a sandbox are and how they go, the main one left out; answered by a
    /// list of [`super::ProcessStatus`], running ones and those that ended last.
    Processes {
        /// Identifier of the sandbox.
        sandbox: String,
    },
    /// Reads a file as the sandbox's user sees it; answered by [`FileAnswer::Open`] or
    /// [`FileAnswer::Failed`]. Once it is open the node sends its bytes by
    /// `POST /v1/agent/files/{ticket}`; a body that breaks off is a failure.
    ReadFile {
        /// Ticket.
        ticket: String,
        /// Identifier of the sandbox.
        sandbox: String,
        /// Path inside; a relative one begins at the sandbox's working directory.
        path: String,
    },
    /// Writes a file with the rights of the sandbox's user; answered by [`FileAnswer::Written`] or
    /// [`FileAnswer::Failed`] at the end. The node asks for the bytes by
    /// `GET /v1/agent/files/{ticket}` when it can write; a body that breaks off leaves no file.
    WriteFile {
        /// Ticket.
        ticket: String,
        /// Identifier of the sandbox.
        sandbox: String,
        /// Path inside, as of [`Ask::ReadFile`].
        path: String,
        /// Permission bits; those of the file that stands there, else `0644`, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Has the node open `POST /v1/agent/streams/{ticket}` with the output of a process; answered by
    /// null at once.
    Follow {
        /// Ticket.
        ticket: String,
        /// Identifier of the sandbox.
        sandbox: String,
        /// Identifier of the process.
        process: String,
        /// Number of the last event that is not wanted.
        after: u64,
        /// Whether to go on until the process ends.
        follow: bool,
    },
}

/// What becomes of [`Ask::ReadFile`] and [`Ask::WriteFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "file", rename_all = "snake_case")]
pub enum FileAnswer {
    /// It can be read.
    Open,
    /// It is written, and stands under its name.
    Written {
        /// How many bytes.
        bytes: u64,
    },
    /// The system said no; nothing was changed.
    Failed(FileFailure),
}

/// Why a file of a sandbox cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileFailure {
    /// Number of the error as of Linux's `errno(3)`.
    pub errno: i32,
    /// What was tried, on which path, and what the system said.
    pub detail: String,
}

/// Longest [`Report`] that the service takes, in bytes.
pub const MAX_REPORT: usize = 16 << 20;

/// A line from a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// The first line.
    Hello {
        /// Version of its program.
        version: String,
        /// Labels as started this time.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// Base URL under which the node serves blobs, if it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mirror: Option<String>,
        /// Identifier of this life of the node's process; revisions of the cache count within it.
        epoch: String,
        /// How full the cache is.
        usage: CacheUsage,
        /// Identifiers of every sandbox that the node knows; a [`Report::Sandbox`] of each follows.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sandboxes: Vec<String>,
        /// How many of them run.
        #[serde(default)]
        running: usize,
        /// What keeps the images.
        #[serde(default, skip_serializing_if = "NodeRuntime::is_chalk")]
        runtime: NodeRuntime,
    },
    /// It lives.
    Heartbeat {
        /// How full the cache is.
        usage: CacheUsage,
        /// Sandboxes that run.
        sandboxes: usize,
    },
    /// What changed in the cache.
    Cache {
        /// Revision that this leads to.
        revision: u64,
        /// Whether this begins a whole list: what is not in it, or in those after it, is gone.
        #[serde(default)]
        whole: bool,
        /// New and changed images.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        put: Vec<CachedImage>,
        /// Digests of manifests that are gone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        gone: Vec<Digest>,
    },
    /// Progress of a warm.
    Pulling {
        /// Its identifier.
        id: String,
        /// Bytes done.
        done: u64,
        /// Bytes to fetch.
        total: u64,
        /// Layers on their way.
        layers: Vec<LayerProgress>,
    },
    /// A warm is ready.
    Warmed {
        /// Its identifier.
        id: String,
        /// Receipt.
        receipt: Receipt,
    },
    /// A warm failed; the node tries again by itself as long as `retries_left` is not 0.
    WarmFailed {
        /// Its identifier.
        id: String,
        /// Why.
        error: Problem,
        /// Tries that are left.
        retries_left: u32,
    },
    /// State of a sandbox.
    Sandbox(SandboxReport),
    /// Answer to [`Order::Ask`].
    Answer {
        /// Number of the request.
        request: u64,
        /// What was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<serde_json::Value>,
        /// Or why not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<Problem>,
    },
}

/// What a node says of a sandbox; fields as those of [`Sandbox`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SandboxReport {
    /// Identifier.
    pub id: String,
    /// State.
    pub state: SandboxState,
    /// The command, once it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Whether the node had the image before.
    #[serde(default)]
    pub warm: bool,
    /// When its main process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What ended it from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<SandboxEnd>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Things that are probably not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl SandboxReport {
    /// Writes what is reported into the record of the sandbox.
    pub fn apply(&self, sandbox: &mut Sandbox) {
        let report = self.clone();
        sandbox.state = report.state;
        sandbox.warm = report.warm;
        if !report.args.is_empty() {
            sandbox.args = report.args;
        }
        sandbox.started = report.started.or(sandbox.started.take());
        // One that was taken for lost has an end of its own, or none yet.
        sandbox.finished = report.finished;
        sandbox.exit_code = report.exit_code;
        sandbox.ended_by = report.ended_by;
        sandbox.error = report.error;
        if !report.warnings.is_empty() {
            sandbox.warnings = report.warnings;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_wire() {
        let check = |order: Order, words: &str| {
            let line = serde_json::to_string(&order).unwrap();
            assert!(line.contains(words) && !line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
        };
        let ask = |ask| Order::Ask { request: 7, ask };
        check(Order::Removed, r#"{"order":"removed"}"#);
        check(ask(Ask::CacheList), r#""request":7,"ask":"cache_list""#);
        let gc = GcRequest {
            dry_run: true,
            target_bytes: Some(u64::MAX),
        };
        check(
            ask(Ask::CacheCollect { gc }),
            r#""target_bytes":18446744073709551615"#,
        );
        let stop = Ask::Stop {
            sandbox: "s".into(),
            grace_seconds: 0.5,
            reason: SandboxEnd::Stopped,
        };
        check(ask(stop), r#""reason":"stopped""#);
        let report = Report::Sandbox(SandboxReport {
            id: "s".into(),
            state: SandboxState::Exited,
            args: vec!["a\nb".into()],
            warm: true,
            started: None,
            finished: None,
            exit_code: Some(-1),
            ended_by: None,
            error: None,
            warnings: Vec::new(),
        });
        let line = serde_json::to_string(&report).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Report>(&line).unwrap(), report);
    }
}
