//! Sandboxes: processes that run on an image, with a writable layer that is gone with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BlobList, Problem, Stream};
use crate::Digest;

/// A sandbox to start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SandboxRequest {
    /// Hash prefix or name of the image, or what it is pulled by.
    pub image: String,
    /// Command: over the image's `Cmd`; the image's `Entrypoint` stays in front of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Over the image's `Entrypoint`; its `Cmd` then counts no more. An empty list takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Runs no command of the image: the main process is one of ours that waits for the stop, and
    /// everything is done by further commands. `args` and `entrypoint` must be absent then.
    #[serde(default)]
    pub idle: bool,
    /// Name; no other living sandbox may have it. A DNS label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Words for people and programs, to find it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Variables over those of the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Over the image's `WorkingDir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Over the image's `User`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Files and directories over the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<SandboxMount>,
    /// What it may use at most.
    #[serde(default)]
    pub limits: SandboxLimits,
    /// Network inside.
    #[serde(default)]
    pub network: SandboxNetwork,
    /// GPUs: `all` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<String>,
    /// Further devices by their CDI names, `vendor/class=name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// A terminal, of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TerminalSize>,
    /// Whether standard input is open; `/dev/null` otherwise.
    #[serde(default)]
    pub stdin: bool,
    /// Makes `/` read-only.
    #[serde(default)]
    pub read_only: bool,
    /// Host name inside; the sandbox's identifier when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Only on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Only in this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Only on nodes with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Stop it when the last client that follows its output is gone.
    #[serde(default)]
    pub stop_on_disconnect: bool,
}

/// A file or directory over the image of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SandboxMount {
    /// Absolute path inside.
    pub dest: String,
    /// What stands there.
    pub source: MountSource,
    /// Whether it can be changed from inside; changes are gone with the sandbox.
    #[serde(default)]
    pub writable: bool,
}

/// Contents of a [`SandboxMount`]; all blobs are uploaded as those of builds are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountSource {
    /// One file.
    File {
        /// Digest of its contents.
        digest: Digest,
        /// Whether it may be executed.
        #[serde(default)]
        executable: bool,
    },
    /// A directory.
    Dir {
        /// Digest of the [`crate::tree::Tree`], whose JSON is a blob too.
        digest: Digest,
    },
}

/// What a sandbox may use at most; absent means no limit but those of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SandboxLimits {
    /// Processor cores, such as 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Bytes that its writable layer may take; the node's setting when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Seconds until it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// Network of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxNetwork {
    /// That of the node.
    #[default]
    Host,
    /// Nothing but loopback.
    None,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Answer to a [`SandboxRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum SandboxReply {
    /// It is on its way; follow the output of its process `main`.
    Accepted(Box<Sandbox>),
    /// Upload these blobs, then ask again.
    NeedsBlobs(BlobList),
}

/// A sandbox, past or present.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sandbox {
    /// Identifier, sortable by time.
    pub id: String,
    /// Name, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tags that it was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// State.
    pub state: SandboxState,
    /// Name of its node.
    pub node: String,
    /// Region of the node.
    pub region: String,
    /// What it was pulled by.
    pub image: String,
    /// Image hash, when the image was built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_hash: Option<Digest>,
    /// The command, entrypoint included, once it is known.
    pub args: Vec<String>,
    /// Whether its main process has a terminal.
    pub tty: bool,
    /// Whether the node had the image before.
    pub warm: bool,
    /// When it was asked for.
    pub created: String,
    /// When its main process began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// Exit code of the main process; 128 and the signal's number when one ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it ended, where the exit code does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<SandboxEnd>,
    /// Why it could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Things that are probably not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// State of a [`Sandbox`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// The node fetches what it lacks, or is setting it up.
    Starting,
    /// Its main process runs.
    Running,
    /// Its main process ended.
    Exited,
    /// It could not be started.
    Failed,
    /// Its node ended under it.
    Lost,
}

impl SandboxState {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::Failed | Self::Lost)
    }
}

/// What ended a sandbox from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxEnd {
    /// Somebody stopped it.
    Stopped,
    /// Its time was over.
    TimedOut,
    /// It needed more memory than it may have.
    OutOfMemory,
    /// The client that followed it was gone.
    Disconnected,
}

/// A further command in a running sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExecRequest {
    /// The command.
    pub args: Vec<String>,
    /// Variables over those of the sandbox.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Over the sandbox's working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Over the sandbox's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A terminal, of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<TerminalSize>,
    /// Whether standard input is open; `/dev/null` otherwise.
    #[serde(default)]
    pub stdin: bool,
    /// Seconds until it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
}

/// A process of a sandbox: `main`, or one that was started in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SandboxProcess {
    /// Identifier of the sandbox.
    pub sandbox: String,
    /// Identifier within the sandbox.
    pub process: String,
}

/// What a process of a sandbox is, and how it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessStatus {
    /// Identifier within the sandbox.
    pub process: String,
    /// The command, cut off where it is long; empty when the node ended under it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its working directory, if the request said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Seconds after which it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// How it ended: [`OutputEventKind::Exited`] or [`OutputEventKind::Failed`]; absent while it
    /// runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<OutputEventKind>,
}

/// A piece of output of a process, or its end. Numbered from 1; numbers may be missing only where
/// old output was dropped. The end is told to everyone who follows, so that one who only waits for it
/// asks for what comes after a number that no event has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputEvent {
    /// Number within the process.
    pub seq: u64,
    /// What.
    #[serde(flatten)]
    pub kind: OutputEventKind,
}

/// Kinds of [`OutputEvent`]s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputEventKind {
    /// Bytes.
    Output {
        /// Stream; everything a terminal shows is standard output.
        stream: Stream,
        /// The bytes, base64.
        data: String,
    },
    /// Output that was dropped because nobody read it in time, or it passed what is kept.
    Dropped {
        /// Bytes.
        bytes: u64,
    },
    /// The process ended; no event follows.
    Exited {
        /// Exit code; 128 and the signal's number when one ended it.
        code: i32,
        /// Number of the signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// What ended it from outside.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended_by: Option<SandboxEnd>,
    },
    /// The process could not be started, or was lost; no event follows.
    Failed {
        /// Why.
        error: Problem,
    },
}

/// How to end a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StopRequest {
    /// Seconds between the image's stop signal and the kill; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<f64>,
}

/// A signal for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SignalRequest {
    /// Name (`TERM`, `SIGTERM`) or number.
    pub signal: String,
}

/// How much of a file was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileWritten {
    /// Bytes.
    pub bytes: u64,
}
