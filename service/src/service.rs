//! Start, life and end of a service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chalk_core::wire::Info;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Guard};
use crate::server;
use crate::settings::Settings;
use crate::state::{Discovery, StateDir, StateError};

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; choose another address by the setting `serve.listen`"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// What all requests share.
pub struct Service {
    state: StateDir,
    registry: String,
    started: jiff::Timestamp,
    stop: CancellationToken,
}

/// A service that runs.
#[derive(Debug)]
pub struct Running {
    /// Address listened on.
    pub addr: SocketAddr,
    /// `http://host:port` to reach it under.
    pub url: String,
    /// Bearer token that every call but health needs.
    pub token: String,
    service: Arc<Service>,
    hurry: CancellationToken,
    server: JoinHandle<()>,
    stop_timeout: Duration,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("state", &self.state.root())
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Starts a service on the tokio runtime of the caller.
    ///
    /// # Errors
    /// When the state directory is in use or not usable, or the address cannot be listened on.
    pub async fn start(settings: Settings) -> Result<Running, StartError> {
        let state = StateDir::open(&settings.state.dir)?;
        let token = state.token()?;
        let address = settings.serve.listen;
        let unable = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(unable)?;
        let addr = listener.local_addr().map_err(unable)?;
        let advertised = settings
            .serve
            .advertise
            .clone()
            .unwrap_or_else(|| reachable(addr).to_string());
        let url = format!("http://{advertised}");
        let stop = CancellationToken::new();
        let service = Arc::new(Self {
            registry: settings.registry.url.clone().unwrap_or(advertised),
            started: jiff::Timestamp::now(),
            stop: stop.clone(),
            state,
        });
        let hosts = settings.serve.hosts.iter().chain(&settings.serve.advertise);
        let guard = Arc::new(Guard::new(token.clone(), hosts.cloned()));
        let router = http::router(service.clone(), guard);
        let hurry = CancellationToken::new();
        let server = tokio::spawn(server::serve(
            listener,
            router,
            settings.limits.connections,
            stop,
            hurry.clone(),
        ));
        service.state.announce(&Discovery {
            url: format!("http://{}", reachable(addr)),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        tracing::info!(%addr, state = %service.state.root().display(), "service runs");
        Ok(Running {
            addr,
            url,
            token,
            service,
            hurry,
            server,
            stop_timeout: settings.serve.stop_timeout,
        })
    }

    /// Whether the service is on its way down.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn info(&self) -> Info {
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            builder: String::new(),
            registry: self.registry.clone(),
            started: self.started.to_string(),
        }
    }
}

/// An address that can be connected to: one that listens everywhere is reached on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        other => other,
    }
}

impl Running {
    /// Ends the service: takes no more connections, lets open requests end, and gives the state
    /// directory back. Takes at most the setting `serve.stop_timeout`.
    pub async fn shutdown(self) {
        let _ = self.service.state.withdraw();
        self.service.stop.cancel();
        let hurry = self.hurry.clone();
        let limit = tokio::spawn(async move {
            tokio::time::sleep(self.stop_timeout).await;
            hurry.cancel();
        });
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the server ended badly");
        }
        limit.abort();
        tracing::info!("service stopped");
    }
}
