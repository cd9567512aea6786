//! What the agent needs of the rest of a node. The node's cache and its sandboxes implement this;
//! so does a simulated fleet.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::Digest;
use chalk_core::wire::agent::{FileFailure, ImageRef, SandboxReport};
use chalk_core::wire::{
    CacheListing, CacheUsage, CachedImage, ExecRequest, GcReport, GcRequest, LayerProgress,
    OutputEvent, Problem, ProcessStatus, Receipt, SandboxEnd, SandboxProcess, SandboxRequest,
    TerminalSize,
};
use futures_util::Stream;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// What changed in a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheDelta {
    /// Revision that this leads to.
    pub revision: u64,
    /// Whether `put` is all there is.
    pub whole: bool,
    /// New and changed images.
    pub put: Vec<CachedImage>,
    /// Digests of manifests that are gone.
    pub gone: Vec<Digest>,
}

/// What a pull cost by now, whatever comes of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullCost {
    /// Bytes that came over the network, those that came twice included.
    pub fetched: u64,
    /// Of these, bytes from mirrors and other nodes.
    pub from_mirrors: u64,
    /// Digests that were checked and fit.
    pub verified: u32,
    /// Bytes of the layers that it brought in.
    pub layers: u64,
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes done.
    pub done: u64,
    /// Bytes to fetch.
    pub total: u64,
    /// Layers on their way.
    pub layers: Vec<LayerProgress>,
    /// What was spent; is right also when the pull has failed.
    pub cost: PullCost,
}

/// Why a pull failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", problem.title, problem.detail)]
pub struct PullFailure {
    /// What is reported.
    pub problem: Problem,
    /// Whether another try may go better.
    pub transient: bool,
}

/// An image to bring into the cache.
#[derive(Debug, Clone)]
pub struct PullOrder {
    /// The image; its `peers` are those at the time of the order.
    pub image: ImageRef,
    /// Peers as the service last named them.
    pub peers: watch::Receiver<Vec<String>>,
    /// Label of a pin to put on it.
    pub pin: Option<String>,
    /// Where to say how far it is.
    pub progress: watch::Sender<PullProgress>,
    /// Ends the pull.
    pub cancel: CancellationToken,
}

/// The images on a node.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// How full the cache is.
    fn usage(&self) -> CacheUsage;

    /// Number that grows with every change of the images in the cache, from 1 on.
    fn revision(&self) -> watch::Receiver<u64>;

    /// What changed since a revision; everything when that is `None` or too long ago.
    fn since(&self, revision: Option<u64>) -> CacheDelta;

    /// Whether the whole image is in the cache.
    fn has(&self, digest: Digest) -> bool;

    /// What the cache holds, and why. The agent fills in the name of the node.
    async fn listing(&self) -> Result<CacheListing, Problem>;

    /// Brings an image into the cache, verified; at once when it is there.
    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure>;

    /// Removes an image that is not in use; one that is pinned only with `unpin`. The agent fills in
    /// the name of the node.
    async fn remove(&self, digest: Digest, unpin: bool) -> Result<GcReport, Problem>;

    /// Frees room. The agent fills in the name of the node.
    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem>;

    /// Takes a pin away; one that is not there is no error.
    async fn unpin(&self, digest: Digest, label: &str) -> Result<(), Problem>;
}

/// Output of a process.
pub type Output = Pin<Box<dyn Stream<Item = OutputEvent> + Send>>;

/// Bytes of a file on their way out; an error where they break off.
pub type FileBytes = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A file on its way in. Dropped before the commit, it leaves all as it was.
#[async_trait]
pub trait FileWriter: Send {
    /// Takes the next bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), FileError>;

    /// Puts the file under its name; gives how many bytes it has.
    async fn commit(self: Box<Self>) -> Result<u64, FileError>;
}

/// Why a file cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The system inside said no.
    #[error("{}", .0.detail)]
    Failed(FileFailure),
    /// There is no such sandbox, it does not run, or the node failed.
    #[error("{}: {}", .0.title, .0.detail)]
    Problem(Problem),
}

impl From<Problem> for FileError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// The sandboxes of a node.
#[async_trait]
pub trait Sandboxes: Send + Sync + 'static {
    /// Starts a sandbox in the background: at the end of this call its identifier is known to all
    /// other calls. What becomes of it is said in [`changes`](Self::changes).
    fn start(&self, id: String, image: ImageRef, request: SandboxRequest);

    /// Every sandbox that is known, ended ones until they are removed, those lost by a restart of
    /// the node included.
    fn reports(&self) -> Vec<SandboxReport>;

    /// Every change of a sandbox from now on.
    fn changes(&self) -> broadcast::Receiver<SandboxReport>;

    /// How many run.
    fn running(&self) -> usize;

    /// Starts a command in a sandbox.
    async fn exec(
        &self,
        sandbox: &str,
        process: String,
        exec: ExecRequest,
    ) -> Result<SandboxProcess, Problem>;

    /// Writes to standard input; done when the bytes are taken.
    async fn input(
        &self,
        sandbox: &str,
        process: &str,
        data: Bytes,
        close: bool,
    ) -> Result<(), Problem>;

    /// Sets the size of a terminal.
    async fn resize(&self, sandbox: &str, process: &str, size: TerminalSize)
    -> Result<(), Problem>;

    /// Sends a signal, by name or number.
    async fn signal(&self, sandbox: &str, process: &str, signal: &str) -> Result<(), Problem>;

    /// The processes of a sandbox but the main one: those that run, and those that ended last.
    async fn processes(&self, sandbox: &str) -> Result<Vec<ProcessStatus>, Problem>;

    /// Opens a file to read it.
    async fn read_file(&self, sandbox: &str, path: &str) -> Result<FileBytes, FileError>;

    /// Opens a file to write it, with these permission bits if any are given.
    async fn write_file(
        &self,
        sandbox: &str,
        path: &str,
        mode: Option<u32>,
    ) -> Result<Box<dyn FileWriter>, FileError>;

    /// Ends a sandbox; done when the order is taken.
    async fn stop(&self, sandbox: &str, grace: Duration, reason: SandboxEnd)
    -> Result<(), Problem>;

    /// Forgets a sandbox and its output, ending it first.
    async fn remove(&self, sandbox: &str) -> Result<(), Problem>;

    /// Output of a process from the event after `after` on; to the end of the process with
    /// `follow`, else what is there by now.
    async fn output(
        &self,
        sandbox: &str,
        process: &str,
        after: u64,
        follow: bool,
    ) -> Result<Output, Problem>;

    /// Ends every sandbox; done when all have ended.
    async fn end_all(&self);
}

/// Where the service is and what it takes from this node; changes with registration and sessions.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// Base URL without a slash at its end.
    pub url: String,
    /// The node's token: bearer of calls to the service, password for its registry.
    pub token: String,
    /// Bearer of calls to the mirrors of other nodes; empty before the first session.
    pub peer_token: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// [`Access`] as it is now; `None` before the node joined.
pub type AccessWatch = watch::Receiver<Option<Access>>;
