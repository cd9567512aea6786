//! Which service the command talks to: the one that is named, the one that runs on the state
//! directory, or one that it starts in its own process. All three are spoken to over HTTP. Where a
//! node is needed and a service on this host has none, the command is one for a while.

use std::time::{Duration, Instant};

use chalk_core::wire::{Node, NodeState, exit};
use chalk_node::RunningNode;
use chalk_service::state::StateError;
use chalk_service::{Running, Service, StartError};

use crate::client::{self, Client};
use crate::error::Failure;
use crate::own_node;
use crate::settings::Loaded;

/// Longest that a node may take to be connected, and another command to bring or to end its service.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether it has.
const PAUSE: Duration = Duration::from_millis(50);

/// The service of this command.
pub(crate) struct Server {
    client: Client,
    own: Option<Running>,
    node: Option<RunningNode>,
    /// Whether it was named, so that its nodes are none of this command's business.
    named: bool,
}

impl Server {
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the service lives in this process and ends with it.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Whether a node lives in this process and ends with it.
    pub(crate) fn has_own_node(&self) -> bool {
        self.node.is_some()
    }

    /// As [`connect`](Self::connect); a service on this host that has no connected node gets one in
    /// this process.
    pub(crate) async fn connect_with_node(loaded: &Loaded) -> Result<Self, Failure> {
        let mut server = Self::connect(loaded).await?;
        match server.start_node(loaded).await {
            Ok(()) => Ok(server),
            Err(failure) => {
                server.close().await;
                Err(failure)
            }
        }
    }

    /// A service on this host that has no connected node gets one in this process.
    pub(crate) async fn start_node(&mut self, loaded: &Loaded) -> Result<(), Failure> {
        if self.named || has_nodes(&self.client).await? {
            return Ok(());
        }
        let client = &self.client;
        let settings = own_node::local(&loaded.settings, client.url(), client.token());
        let mut node = match own_node::start(settings).await {
            Ok(node) => node,
            // Another command is such a node, and about to connect or to end.
            Err(chalk_node::NodeError::Locked(_)) => return other_node(&self.client).await,
            Err(error) => return Err(own_node::failure(&error)),
        };
        let connected = tokio::select! {
            connected = tokio::time::timeout(PATIENCE, node.connected()) => connected,
            _ = tokio::signal::ctrl_c() => {
                node.shutdown().await;
                return Err(Failure::interrupted());
            }
        };
        match connected {
            Ok(true) => {
                self.node = Some(node);
                Ok(())
            }
            Ok(false) => Err(match node.ended().await {
                Err(error) => own_node::failure(&error),
                Ok(_) => Failure::new(exit::UNREACHABLE, "the node in this process ended"),
            }),
            Err(_) => {
                let state = format!("{:?}", *node.state().borrow());
                node.shutdown().await;
                let what = "the node in this process does not get a connection";
                Err(Failure::new(exit::UNREACHABLE, what).why(state))
            }
        }
    }

    /// Connects, starting a service in this process where none is named and none runs.
    pub(crate) async fn connect(loaded: &Loaded) -> Result<Self, Failure> {
        if let Some(server) = Self::running(loaded).await? {
            return Ok(server);
        }
        // Another command may be about to start or to end its own service on this state.
        let until = Instant::now() + PATIENCE;
        loop {
            match Service::start(loaded.embedded()).await {
                Ok(running) => {
                    let client = Client::new(&running.local_url, &running.token)?;
                    return Ok(Self {
                        client,
                        own: Some(running),
                        node: None,
                        named: false,
                    });
                }
                Err(StartError::State(StateError::Locked { .. })) if Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                    if let Some(server) = Self::running(loaded).await? {
                        return Ok(server);
                    }
                }
                Err(error) => return Err(start_failure(&error)),
            }
        }
    }

    /// Whether a service is named or runs on the state directory.
    pub(crate) fn is_there(loaded: &Loaded) -> bool {
        let dir = &loaded.settings.state.dir;
        loaded.server.is_some() || matches!(chalk_service::state::discover(dir), Ok(Some(_)))
    }

    /// The service that is named or that runs on the state directory.
    pub(crate) async fn running(loaded: &Loaded) -> Result<Option<Self>, Failure> {
        if let Some((url, _)) = &loaded.server {
            client::address(url)?;
            let token = loaded.token_for_named()?;
            return Ok(Some(Self {
                client: Client::new(url, &token)?,
                own: None,
                node: None,
                named: true,
            }));
        }
        let found = chalk_service::state::discover(&loaded.settings.state.dir).map_err(|e| {
            Failure::new(exit::UNREACHABLE, "cannot look for a running service").why(e)
        })?;
        match found {
            Some(found) => Ok(Some(Self {
                client: Client::new(&found.url, &found.token)?,
                own: None,
                node: None,
                named: false,
            })),
            None => Ok(None),
        }
    }

    /// Ends a service and a node of our own in good order; builds and sandboxes that others started
    /// here are waited for.
    pub(crate) async fn close(self) {
        if let Some(node) = self.node {
            tokio::select! {
                () = node.idle() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            node.shutdown().await;
        }
        if let Some(running) = self.own {
            running.finish().await;
        }
    }
}

async fn has_nodes(client: &Client) -> Result<bool, Failure> {
    let nodes: Vec<Node> = client.get("/v1/nodes").await?;
    Ok(nodes.iter().any(|node| node.state != NodeState::Lost))
}

/// Waits for the node of another command.
async fn other_node(client: &Client) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if has_nodes(client).await? {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Failure::new(
        exit::UNREACHABLE,
        "another process has the directory of the node, but is not connected",
    )
    .hint("run `chalk serve --node`, or `chalk node` beside the service"))
}

pub(crate) fn start_failure(error: &StartError) -> Failure {
    let mut why = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = cause.to_string();
        source = cause.source();
    }
    let code = match error {
        // They stay wrong, however often it is tried.
        StartError::Tls(_) | StartError::Page(_) | StartError::BuildKit(_) => exit::USAGE,
        _ => exit::UNREACHABLE,
    };
    Failure::new(code, format!("cannot start the service: {error}")).why(why)
}
