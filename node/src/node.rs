//! Start, life and end of a node.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chalk_store::layout_version::{self, LayoutVersionError};
use chalk_store::temporary;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::agent::{
    AccessWatch, Agent, AgentEnd, AgentError, AgentState, CredentialsError, Images, Line, Sandboxes,
};
use crate::settings::{NodeSettings, Runtime};

/// Version of the layout of a node's directory that this program writes. There was no other yet.
const VERSION: u32 = 1;
/// How long a start waits for a node that is just stopping.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long reports of sandboxes that ended with the node may take to be sent.
const LAST_REPORTS: Duration = Duration::from_millis(100);

/// Why a node does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another node has the directory.
    #[error(
        "{} is in use by another node: stop that one or choose another state directory",
        .0.display()
    )]
    Locked(PathBuf),
    /// A newer program wrote the directory, or it does not say which did.
    #[error(transparent)]
    Version(#[from] LayoutVersionError),
    /// The directory cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name, label or address that cannot be.
    #[error("{0}")]
    Settings(String),
    /// The address for other nodes cannot be listened on.
    #[error("cannot serve blobs to other nodes on {address}: {source}")]
    Mirror {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The address of the metrics cannot be listened on.
    #[error("cannot serve metrics on {address}: {source}")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The agent cannot go on.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Cache or sandboxes cannot be used.
    #[error("{0}")]
    Parts(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<CredentialsError> for NodeError {
    fn from(error: CredentialsError) -> Self {
        Self::Agent(error.into())
    }
}

/// What a node works with. [`Node::start`] makes the real ones.
pub struct Parts {
    /// The images.
    pub images: Arc<dyn Images>,
    /// The sandboxes.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Base URL under which other nodes get blobs, if they do.
    pub mirror: Option<String>,
    /// Whatever is to live as long as the node, such as a server.
    pub keep: Box<dyn Send>,
}

/// What the makers of [`Parts`] are given.
pub struct Surroundings {
    /// Settings of the node.
    pub settings: NodeSettings,
    /// The service, and what it takes from this node.
    pub access: AccessWatch,
    /// The way to the service while a session is open.
    pub line: Line,
}

/// A node.
#[derive(Debug)]
pub struct Node;

/// A node that runs.
pub struct RunningNode {
    settings: NodeSettings,
    state: watch::Receiver<AgentState>,
    sandboxes: Arc<dyn Sandboxes>,
    stop: CancellationToken,
    agent: JoinHandle<Result<AgentEnd, AgentError>>,
    _keep: Box<dyn Send>,
    _lock: File,
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode")
            .field("name", &self.settings.name)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node with a cache and sandboxes of its own, or with a containerd, as its settings say,
    /// on the tokio runtime of the caller.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with), and when cache, sandboxes or the address for other
    /// nodes cannot be used.
    pub async fn start(settings: NodeSettings) -> Result<RunningNode, NodeError> {
        match settings.runtime {
            Runtime::Chalk => Self::start_with(settings, crate::real::parts).await,
            Runtime::Containerd(_) => Self::start_with(settings, crate::containerd::parts).await,
        }
    }

    /// Starts a node with what `parts` makes, on the tokio runtime of the caller. A service that
    /// cannot be reached does not keep it from starting: it joins when it can.
    ///
    /// # Errors
    /// When the state directory is in use or not usable, or what `parts` says.
    pub async fn start_with<F>(
        settings: NodeSettings,
        parts: impl FnOnce(Surroundings) -> F,
    ) -> Result<RunningNode, NodeError>
    where
        F: Future<Output = Result<Parts, NodeError>>,
    {
        check(&settings)?;
        let mut settings = settings;
        let (dir, lock) = {
            let dir = settings.dir.clone();
            let opened = tokio::task::spawn_blocking(move || open(&dir)).await;
            opened.map_err(|e| NodeError::Parts(Box::new(e)))??
        };
        settings.dir = dir;
        let (access, watched) = watch::channel(None);
        let line = Line::default();
        let parts = parts(Surroundings {
            settings: settings.clone(),
            access: watched,
            line: line.clone(),
        });
        let Parts {
            images,
            sandboxes,
            mirror,
            keep,
        } = parts.await?;
        let agent = Agent::new(
            settings.clone(),
            mirror,
            images,
            sandboxes.clone(),
            access,
            line,
        );
        let state = agent.state();
        let stop = CancellationToken::new();
        tracing::info!(
            node = settings.name,
            state = %settings.dir.display(),
            service = settings.server,
            "node runs"
        );
        Ok(RunningNode {
            agent: tokio::spawn(agent.run(stop.clone())),
            settings,
            state,
            sandboxes,
            stop,
            _keep: keep,
            _lock: lock,
        })
    }
}

impl RunningNode {
    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What its agent is at.
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    /// Waits until the node is connected; `false` when it ended instead.
    pub fn connected(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut state = self.state();
        async move {
            let settled = |state: &AgentState| {
                matches!(state, AgentState::Connected { .. } | AgentState::Ended)
            };
            let state = state.wait_for(settled).await;
            state.is_ok_and(|state| *state != AgentState::Ended)
        }
    }

    /// Waits until the agent ends by itself: the node was removed, or the service does not take it.
    ///
    /// # Errors
    /// When it cannot go on.
    pub async fn ended(&mut self) -> Result<AgentEnd, NodeError> {
        match (&mut self.agent).await {
            Ok(end) => Ok(end?),
            Err(error) => Err(NodeError::Parts(Box::new(error))),
        }
    }

    /// Waits until no sandbox runs.
    pub async fn idle(&self) {
        let mut changes = self.sandboxes.changes();
        while self.sandboxes.running() > 0 {
            // What is missed by lagging behind shows in the count.
            let pause = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                _ = changes.recv() => {}
                () = pause => {}
            }
        }
    }

    /// Ends the node: its sandboxes first, so that their end is still reported, then its session.
    pub async fn shutdown(self) {
        let ending = self.sandboxes.end_all();
        if tokio::time::timeout(self.settings.stop_timeout, ending)
            .await
            .is_err()
        {
            tracing::warn!("sandboxes did not end in time and are killed");
        }
        tokio::time::sleep(LAST_REPORTS).await;
        self.stop.cancel();
        match self.agent.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the agent ended badly"),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "the agent ended badly"),
        }
        tracing::info!("node stopped");
    }
}

fn check(settings: &NodeSettings) -> Result<(), NodeError> {
    let wrong = |what: String| Err(NodeError::Settings(what));
    let edge =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let word = |text: &str| {
        let bytes = text.as_bytes();
        let inside = |b: &u8| edge(Some(b)) || matches!(b, b'-' | b'_' | b'.');
        bytes.len() <= 63 && bytes.iter().all(inside) && edge(bytes.first()) && edge(bytes.last())
    };
    let rule = "at most 63 of a-z, 0-9, `-`, `_` and `.`, a letter or digit first and last";
    if !word(&settings.name) {
        return wrong(format!(
            "`{}` cannot be the name of a node: {rule}",
            settings.name
        ));
    }
    if let Some(region) = settings.region.as_ref().filter(|region| !word(region)) {
        return wrong(format!("`{region}` cannot be the name of a region: {rule}"));
    }
    if let Some(label) = settings.labels.keys().find(|label| label.is_empty()) {
        return wrong(format!("`{label}` cannot be a label"));
    }
    let url = &settings.server;
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return wrong(format!(
            "`{url}` is not the address of a service: give http://HOST:PORT or https://HOST:PORT"
        ));
    }
    Ok(())
}

/// Makes the directory if needed (mode 0700), takes its lock, and removes what a node that was killed
/// was writing there.
fn open(dir: &Path) -> Result<(PathBuf, File), NodeError> {
    let fault = |action, path: &Path| {
        let path = path.to_owned();
        move |source| NodeError::Io {
            action,
            path,
            source,
        }
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(fault("make", dir))?;
    let dir = dir.canonicalize().map_err(fault("resolve", dir))?;
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(fault("open", &path))?;
    let start = std::time::Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => return Err(NodeError::Locked(dir)),
            Err(TryLockError::Error(error)) => return Err(fault("lock", &path)(error)),
        }
    }
    // Before anything is changed: what a newer program wrote is left as it is.
    let version = layout_version::read(&dir, VERSION)?;
    temporary::sweep(&dir).map_err(fault("tidy", &dir))?;
    // Nodes did not mark their directories at first.
    if version.is_none() {
        layout_version::write(&dir, VERSION)?;
    }
    Ok((dir, lock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Join;

    #[test]
    fn a_directory_has_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/node");
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(NodeError::Locked(_))));
        drop(first);
        // As credentials are written, by a node that dies over it.
        let half = tempfile::NamedTempFile::new_in(&path).unwrap();
        let (_, half) = half.keep().unwrap();
        open(&path).unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn what_a_newer_chalk_wrote_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        // As nodes were before they marked it.
        std::fs::write(dir.path().join("credentials.json"), "{}").unwrap();
        drop(open(dir.path()).unwrap());
        let version = dir.path().join("version");
        assert_eq!(std::fs::read_to_string(&version).unwrap(), "1\n");
        drop(open(dir.path()).unwrap());

        std::fs::write(&version, "2\n").unwrap();
        let half = tempfile::NamedTempFile::new_in(dir.path()).unwrap();
        let (_, half) = half.keep().unwrap();
        assert!(matches!(
            open(dir.path()),
            Err(NodeError::Version(LayoutVersionError::Newer { .. }))
        ));
        assert!(half.exists());
    }

    #[test]
    fn names_and_addresses_are_checked() {
        let check_one = |name: &str, region: Option<&str>, server: &str, sound: bool| {
            let mut settings = NodeSettings::new(server, Join::Never, name, "/tmp".into());
            settings.region = region.map(str::to_owned);
            assert_eq!(
                check(&settings).is_ok(),
                sound,
                "{name} {region:?} {server}"
            );
        };
        let url = "http://127.0.0.1:1";
        check_one("n1", None, url, true);
        check_one("gpu-7.rack_2", Some("eu-1"), "https://h.example", true);
        check_one("", None, url, false);
        check_one("-n", None, url, false);
        check_one("n-", None, url, false);
        check_one("N1", None, url, false);
        check_one("a/b", None, url, false);
        check_one("n1", Some("e u"), url, false);
        check_one("n1", None, "127.0.0.1:1", false);
        check_one(&"n".repeat(64), None, url, false);
    }
}
