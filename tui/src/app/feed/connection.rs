//! The connection: found or started, told of, and found again when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chalk_core::wire::Info;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;

use super::Shared;
use crate::app::event::{Feed, Link};
use crate::client::Client;
use crate::connect::Server;
use crate::error::Failure;
use crate::settings::Loaded;

/// Waits between tries to connect, in seconds; the last goes on.
const WAITS: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 5.0];

/// Keeps the connection.
pub(super) struct Connector {
    task: JoinHandle<()>,
    /// A service of our own with its node.
    server: Arc<Mutex<Option<Server>>>,
    own: Arc<AtomicBool>,
}

impl Connector {
    /// Begins to connect. `client` is where the rest finds the service, `lost` says that it was not
    /// reached.
    pub(super) fn start(
        loaded: Loaded,
        shared: Shared,
        client: watch::Sender<Option<Client>>,
        lost: Arc<Notify>,
    ) -> Self {
        let server = Arc::new(Mutex::new(None));
        let own = Arc::new(AtomicBool::new(false));
        let keeper = Keeper {
            loaded,
            shared,
            client,
            server: server.clone(),
            own: own.clone(),
        };
        Self {
            task: tokio::spawn(keeper.keep(lost)),
            server,
            own,
        }
    }

    /// Whether the service lives in this process.
    pub(super) fn is_own(&self) -> bool {
        self.own.load(Ordering::Relaxed)
    }

    /// Ends a service of our own.
    pub(super) async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
        if let Some(server) = self.server.lock().await.take() {
            server.close().await;
        }
    }
}

fn gone() -> Failure {
    Failure::new(chalk_core::wire::exit::UNREACHABLE, "the service has ended")
        .hint("it is found again when it is back; `chalk serve` starts it")
}

struct Keeper {
    loaded: Loaded,
    shared: Shared,
    client: watch::Sender<Option<Client>>,
    server: Arc<Mutex<Option<Server>>>,
    own: Arc<AtomicBool>,
}

impl Keeper {
    async fn keep(self, lost: Arc<Notify>) {
        let (mut tries, mut known) = (0, false);
        loop {
            match self.connect(known).await {
                Ok((client, link)) => {
                    (tries, known) = (0, true);
                    let own = link.own;
                    self.shared.tell(Feed::Connected(Box::new(link))).await;
                    self.client.send_replace(Some(client));
                    self.shared.hurry.notify_one();
                    if own {
                        self.start_node().await;
                    }
                    lost.notified().await;
                    self.client.send_replace(None);
                }
                Err(failure) => {
                    let retry = WAITS[usize::min(tries, WAITS.len() - 1)];
                    tries += 1;
                    let trouble = failure.into();
                    self.shared
                        .tell(Feed::Disconnected { trouble, retry })
                        .await;
                    tokio::time::sleep(Duration::from_secs_f64(retry)).await;
                }
            }
        }
    }

    /// `known` says that a service was reached before, which is then waited for.
    async fn connect(&self, known: bool) -> Result<(Client, Link), Failure> {
        let mut held = self.server.lock().await;
        // A service of our own does not go away while we live.
        let ours = held.as_ref().map(|server| server.client().clone());
        let (client, own) = match ours {
            Some(client) => (client, true),
            None => {
                let server = match known {
                    false => Server::connect(&self.loaded).await?,
                    // Who restarts a service finds its state taken if we begin one meanwhile.
                    true => Server::running(&self.loaded).await?.ok_or_else(gone)?,
                };
                let client = server.client().clone();
                let own = server.is_own();
                if own {
                    self.own.store(true, Ordering::Relaxed);
                    *held = Some(server);
                }
                (client, own)
            }
        };
        drop(held);
        let info: Info = client.get("/v1/info").await?;
        let link = Link {
            url: client.url().to_owned(),
            own,
            identity: self.identity(),
            info,
        };
        Ok((client, link))
    }

    /// As whom the service sees us: whose token it is.
    fn identity(&self) -> String {
        match &self.loaded.token {
            Some((_, origin)) if self.loaded.server.is_some() => format!("token of {origin}"),
            _ => "owner".to_owned(),
        }
    }

    /// A service of our own gets a node of our own, so that warming and sandboxes work.
    async fn start_node(&self) {
        let mut held = self.server.lock().await;
        let Some(server) = held.as_mut() else {
            return;
        };
        let started = server.start_node(&self.loaded).await;
        let node = match started {
            Ok(()) => Ok(crate::own_node::LOCAL.to_owned()),
            Err(failure) => Err(failure.into()),
        };
        drop(held);
        self.shared.tell(Feed::OwnNode(node)).await;
        self.shared.hurry.notify_one();
    }
}
