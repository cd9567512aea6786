//! Start, life and end of a service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use chalk_core::keys::BUILDER_VERSION;
use chalk_core::wire::Info;
use chalk_store::{BlobError, BlobStore};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::access::audit::Audit;
use crate::access::clients::Clients;
use crate::access::rates::Rates;
use crate::builds::{Builds, BuildsError};
use crate::catalog::{Catalog, CatalogError, Reindexed};
use crate::engine::{Engine, EngineError};
use crate::fleet::Fleet;
use crate::gc::{self, Collector};
use crate::grpc;
use crate::http::{self, Guard, PackError, Page};
use crate::index::{Found, Index, IndexError};
use crate::ledger::{Ledger, LedgerError};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::nodes::keys::Keys;
use crate::places::{regional_options, upstream_options};
use crate::prewarm::Fetch;
use crate::projects::Projects;
use crate::regions::Regions;
use crate::registry::{
    self, Bucket, BucketAccess, External, Regional, RegionalError, Registry, RegistryLimits,
};
use crate::resolve::PinBases;
use crate::server;
use crate::settings::Settings;
use crate::state::{Discovery, StateDir, StateError};
use crate::tls::{Tls, TlsError};
use crate::volumes::{VolumeError, Volumes};

/// Connections for metrics that are open at once; further ones wait.
const METRICS_CLIENTS: usize = 16;

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
    /// The address of the metrics cannot be listened on.
    #[error(
        "cannot serve metrics on {address}: {source}; choose another address by the setting `metrics.listen`"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The blob store cannot be used.
    #[error("the blob store cannot be used: {0}")]
    Blobs(#[from] BlobError),
    /// The index cannot be used.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The database of nodes cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The regional registry cannot be used.
    #[error("the regional registry cannot be used: {0}")]
    Registry(Box<RegionalError>),
    /// The builds of an earlier service cannot be read.
    #[error("the builds of an earlier service cannot be read: {0}")]
    Recovery(String),
    /// The volumes of an earlier service cannot be read.
    #[error("the volumes cannot be used: {0}")]
    Volumes(String),
    /// Uses of images cannot be noted.
    #[error("the directory `uses` of the state directory cannot be used: {0}")]
    Uses(String),
    /// The audit log cannot be used.
    #[error("{0}")]
    Audit(String),
    /// TLS cannot be served.
    #[error("TLS cannot be served: {0}")]
    Tls(#[from] TlsError),
    /// The definitions of the gRPC services are damaged.
    #[error("the gRPC services cannot be described: {0}")]
    Grpc(String),
    /// The folder of the setting `web.dir` holds no page.
    #[error("the page cannot be served: {0}; the setting `web.dir` names its folder")]
    Page(String),
    /// The settings of builders cannot be used.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    BuildKit(#[from] crate::engine::buildkit::SettingsError),
    /// The engine cannot be made.
    #[error("the build engine cannot be used: {0}")]
    Engine(Box<EngineError>),
}

impl From<RegionalError> for StartError {
    fn from(error: RegionalError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<PackError> for StartError {
    fn from(error: PackError) -> Self {
        Self::Page(error.to_string())
    }
}

impl From<EngineError> for StartError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Box::new(error))
    }
}

/// What a service builds with. [`Service::start`] makes the real ones.
pub struct Parts {
    /// Builds images.
    pub engine: Arc<dyn Engine>,
    /// Pins bases.
    pub bases: Arc<dyn PinBases>,
}

/// What the makers of [`Parts`] are given.
pub struct Surroundings<'a> {
    /// Settings of the service.
    pub settings: &'a Settings,
    /// Directory that the service works in.
    pub state_dir: PathBuf,
    /// Blobs of uploads, layers and the embedded registry.
    pub blobs: BlobStore,
    /// The regional registry.
    pub regional: Arc<dyn Regional>,
    /// `host[:port][/prefix]` by which others pull from it.
    pub public: String,
    /// How builders log in there.
    #[cfg(target_os = "linux")]
    pub login: crate::engine::buildkit::LoginSource,
}

/// What all requests share.
pub struct Service {
    settings: Settings,
    state: StateDir,
    blobs: BlobStore,
    catalog: Arc<Catalog>,
    builds: Arc<Builds>,
    engine: Arc<dyn Engine>,
    bases: Arc<dyn PinBases>,
    fleet: Arc<Fleet>,
    access: Arc<Access>,
    audit: Arc<Audit>,
    /// The embedded registry, unless an external one has its place.
    embedded: Option<Registry>,
    volumes: Arc<Volumes>,
    metrics: Metrics,
    collector: Arc<Collector>,
    url: String,
    started: jiff::Timestamp,
    stop: CancellationToken,
}

/// A service that runs.
#[derive(Debug)]
pub struct Running {
    /// Address listened on.
    pub addr: SocketAddr,
    /// `http[s]://host:port` that others reach it under.
    pub url: String,
    /// `http://host:port` to reach it under from this host, whatever others use.
    pub local_url: String,
    /// Bearer token that every call but health needs.
    pub token: String,
    service: Arc<Service>,
    hurry: CancellationToken,
    server: JoinHandle<()>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("state", &self.state.root())
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Starts a service with the embedded engine on the tokio runtime of the caller.
    ///
    /// # Errors
    /// When the state directory is in use or not usable, or the address cannot be listened on.
    pub async fn start(settings: Settings) -> Result<Running, StartError> {
        Self::start_with(settings, embedded).await
    }

    /// Starts a service that builds with what `parts` makes.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        settings: Settings,
        parts: impl FnOnce(Surroundings<'_>) -> Result<Parts, StartError>,
    ) -> Result<Running, StartError> {
        let page = Arc::new(page(settings.web.dir.clone()).await?);
        let state = StateDir::open(&settings.state.dir)?;
        let token = state.token()?;
        let key = state.signing_key()?;
        let serve = settings.serve.clone();
        let tls = tokio::task::spawn_blocking(move || Tls::load(&serve)).await;
        let tls = tls.unwrap_or(Ok(None))?.map(Arc::new);
        raise_file_limit(settings.limits.connections);
        let address = settings.serve.listen;
        let unable = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(unable)?;
        let addr = listener.local_addr().map_err(unable)?;
        let advertised = settings.serve.advertise.clone();
        let advertised = advertised.unwrap_or_else(|| reachable(addr).to_string());

        let blobs = BlobStore::open(state.path("store"))?;
        let Chosen {
            regional,
            embedded,
            router: registry,
            public,
        } = regional(&settings, &state, &blobs, &advertised)?;
        let (index, found) = Index::open(&state.path("chalk.redb"))?;
        let index = Arc::new(index);
        let fetch = upstream_options(&settings.registry);
        let fetch =
            Fetch::new(regional.clone(), fetch, blobs.clone()).map_err(RegionalError::from)?;
        let regions = Regions::new(&settings, regional.clone(), public.clone(), blobs.clone())?;
        let ledger = state.path("nodes.redb");
        let ledger = tokio::task::spawn_blocking(move || Ledger::open(&ledger)).await;
        let ledger = Arc::new(ledger.unwrap_or(Err(LedgerError::Stopping))?);
        let (audit, projects) = records(&settings, &state, &ledger, &blobs).await?;
        let keys = Arc::new(Keys::default());
        let home = settings.regions.home.clone();
        let nodes = Nodes::load(ledger.clone(), keys.clone(), settings.nodes.clone(), home)?;
        let catalog = Catalog::new(
            regional.clone(),
            public.clone(),
            index.clone(),
            blobs.clone(),
        );
        let catalog = match embedded {
            Some(_) => catalog,
            None => catalog
                .noting_uses(state.path("uses"))
                .map_err(|error| StartError::Uses(error.to_string()))?,
        };
        let catalog = Arc::new(catalog);
        if found != Found::Whole {
            // An external registry that is down must not keep the service from starting: what the
            // index lacks is looked up when it is asked for.
            if let Err(error) = catalog.reindex().await {
                tracing::warn!(%error, "the index is empty for now");
            }
        }
        let parts = parts(Surroundings {
            settings: &settings,
            state_dir: state.root().to_owned(),
            blobs: blobs.clone(),
            regional,
            public,
            #[cfg(target_os = "linux")]
            login: login_of_builders(&settings.registry, &token),
        })?;
        let builds = Arc::new(Builds::new(
            state.path("builds"),
            settings.build.clone(),
            parts.engine.clone(),
            catalog.clone(),
            projects.clone(),
            index,
        ));
        recover(&builds).await?;

        let stop = CancellationToken::new();
        let hurry = CancellationToken::new();
        let hosts = settings.serve.hosts.iter().chain(&settings.serve.advertise);
        let origins = settings.serve.cors_origins.clone();
        let fleet = Fleet::load(
            &settings,
            &ledger,
            nodes.into(),
            regions.into(),
            fetch,
            stop.clone(),
        )?;
        fleet.run();
        let volumes = volumes(&ledger, &blobs, state.path("volumes")).await?;
        let (sweeping, swept) = (volumes.clone(), stop.clone());
        tokio::spawn(async move { swept.run_until_cancelled(sweeping.run()).await });
        let collector = Arc::new(Collector::new(gc::Parts {
            settings: settings.gc.clone(),
            registry: embedded.clone(),
            blobs: blobs.clone(),
            catalog: catalog.clone(),
            builds: builds.clone(),
            engine: parts.engine.clone(),
            fleet: fleet.clone(),
            volumes: volumes.clone(),
            projects: projects.clone(),
        }));
        let (collecting, ends) = (collector.clone(), stop.clone());
        tokio::spawn(async move { ends.run_until_cancelled(collecting.run()).await });
        if let Some(tls) = &tls {
            let (tls, watched) = (tls.clone(), stop.clone());
            tokio::spawn(async move { watched.run_until_cancelled(tls.watch()).await });
        }
        let clients = Arc::new(Clients::load(ledger)?);
        let rates = Rates::new(&settings.limits);
        let access = Access::new(token.clone(), keys, clients, projects, key, rates);
        let access = Arc::new(access);
        let guard = Guard::new(
            access.clone(),
            audit.clone(),
            hosts.cloned(),
            origins,
            page.clone(),
        );
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{advertised}");
        let connections = settings.limits.connections;
        let metrics_listen = settings.metrics.listen;
        let metrics = Metrics::new(
            builds.metrics(),
            fleet.warms().metrics(),
            fleet.sandboxes().metrics(),
        );
        let service = Arc::new(Self {
            settings,
            state,
            blobs,
            catalog,
            builds,
            engine: parts.engine,
            bases: parts.bases,
            fleet,
            access,
            audit,
            embedded,
            volumes,
            metrics,
            collector,
            url: url.clone(),
            started: jiff::Timestamp::now(),
            stop: stop.clone(),
        });
        let calls = grpc::router(&service).await;
        let calls = calls.map_err(|error| StartError::Grpc(error.to_string()))?;
        let router = http::router(service.clone(), guard.into(), page, registry, calls);
        serve_metrics(&service, metrics_listen, &stop, &hurry).await?;
        let server = server::serve(listener, router, tls, connections, stop, hurry.clone());
        let server = tokio::spawn(server);
        let local_url = format!("http://{}", reachable(addr));
        service.state.announce(&Discovery {
            url: local_url.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        let engine = service.engine.name().to_owned();
        tracing::info!(%addr, state = %service.state.root().display(), engine, "service runs");
        Ok(Running {
            addr,
            url,
            local_url,
            token,
            service,
            hurry,
            server,
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    pub(crate) fn builds(&self) -> &Arc<Builds> {
        &self.builds
    }

    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub(crate) fn bases(&self) -> &dyn PinBases {
        self.bases.as_ref()
    }

    pub(crate) fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Who may ask.
    pub(crate) fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// Garbage collection.
    pub(crate) fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    /// Cancelled when the service stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The audit log.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The embedded registry, unless an external one has its place.
    pub(crate) fn embedded(&self) -> Option<&Registry> {
        self.embedded.as_ref()
    }

    /// Volumes.
    pub(crate) fn volumes(&self) -> &Arc<Volumes> {
        &self.volumes
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// `http[s]://host[:port]` that others reach the service under.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where archives lie while they are imported.
    pub(crate) fn imports_dir(&self) -> PathBuf {
        self.state.path("imports")
    }

    /// Whether the service is on its way down.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(crate) fn info(&self) -> Info {
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            builder: BUILDER_VERSION.to_owned(),
            engine: self.engine.name().to_owned(),
            registry: self.catalog.public().to_owned(),
            started: self.started.to_string(),
        }
    }
}

/// Lets the process have as many files open as connections need, where the system allows it: each
/// node holds one.
fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_mul(2)
        + 1024;
    let mut limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < wanted) else {
        return;
    };
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    limit.current = Some(raised);
    if raised <= current || setrlimit(Resource::Nofile, limit).is_err() {
        tracing::warn!(current, wanted, "few files can be open at once");
    }
}

/// Serves the metrics at an address of their own, if they are to be.
async fn serve_metrics(
    service: &Arc<Service>,
    address: Option<SocketAddr>,
    stop: &CancellationToken,
    hurry: &CancellationToken,
) -> Result<(), StartError> {
    let Some(address) = address else {
        return Ok(());
    };
    let unable = |source| StartError::Metrics { address, source };
    let listener = TcpListener::bind(address).await.map_err(unable)?;
    let bound = listener.local_addr().map_err(unable)?;
    tracing::info!(%bound, "metrics are served");
    let router = http::metrics_router(service.clone());
    let (stop, hurry) = (stop.clone(), hurry.clone());
    tokio::spawn(server::serve(
        listener,
        router,
        None,
        METRICS_CLIENTS,
        stop,
        hurry,
    ));
    Ok(())
}

/// The page in that folder, or the program's own.
async fn page(folder: Option<PathBuf>) -> Result<Page, StartError> {
    let Some(folder) = folder else {
        return Ok(Page::embedded());
    };
    let read = tokio::task::spawn_blocking(move || Page::read(&folder)).await;
    Ok(read.map_err(|error| StartError::Page(error.to_string()))??)
}

/// The audit log and the projects of an earlier service.
async fn records(
    settings: &Settings,
    state: &StateDir,
    ledger: &Arc<Ledger>,
    blobs: &BlobStore,
) -> Result<(Arc<Audit>, Arc<Projects>), StartError> {
    let (dir, limit) = (state.path("audit"), settings.limits.audit.as_u64());
    let (ledger, blobs) = (ledger.clone(), blobs.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let audit = Audit::open(&dir, limit);
        let audit = audit.map_err(|error| StartError::Audit(error.to_string()))?;
        Ok((Arc::new(audit), Arc::new(Projects::load(ledger, blobs)?)))
    });
    opened.await.unwrap_or(Err(LedgerError::Stopping.into()))
}

/// The volumes of an earlier service.
async fn volumes(
    ledger: &Arc<Ledger>,
    blobs: &BlobStore,
    dir: PathBuf,
) -> Result<Arc<Volumes>, StartError> {
    let (ledger, blobs) = (ledger.clone(), blobs.clone());
    let load = move || Volumes::load(ledger, blobs, dir);
    let loaded = tokio::task::spawn_blocking(load).await;
    let loaded = loaded.unwrap_or(Err(VolumeError::Stopping));
    loaded
        .map(Arc::new)
        .map_err(|error| StartError::Volumes(error.to_string()))
}

/// The regional registry.
struct Chosen {
    regional: Arc<dyn Regional>,
    /// The same, if it is the embedded one.
    embedded: Option<Registry>,
    /// Serves the embedded registry below `/v2`, if it is that.
    router: Option<axum::Router>,
    /// `host[:port][/prefix]` under which others pull.
    public: String,
}

/// The regional registry that the settings name.
fn regional(
    settings: &Settings,
    state: &StateDir,
    blobs: &BlobStore,
    advertised: &str,
) -> Result<Chosen, RegionalError> {
    let Some(url) = &settings.registry.url else {
        let access = BucketAccess::new(&settings.registry)?;
        if let Some(access) = access.clone() {
            // As with an external registry, one that is down keeps no service from starting.
            tokio::spawn(async move {
                if let Err(error) = access.check().await {
                    tracing::error!(%error, "the bucket of the registry cannot be used");
                }
            });
        }
        let bucket = access.map(|access| Bucket::new(access, state));
        let bucket = bucket.transpose()?;
        let registry = Registry::open_on(bucket, state.path("registry"), blobs.clone())?;
        let limits = RegistryLimits {
            blob_bytes: settings.limits.blob.as_u64(),
            ..RegistryLimits::default()
        };
        return Ok(Chosen {
            router: Some(registry::router(registry.clone(), limits)),
            embedded: Some(registry.clone()),
            regional: Arc::new(registry),
            public: advertised.to_owned(),
        });
    };
    let prefix = settings.registry.prefix.as_deref().unwrap_or_default();
    let options = regional_options(&settings.registry)?;
    let external = External::new(url, prefix, options)?;
    Ok(Chosen {
        public: external.public(),
        regional: Arc::new(external),
        embedded: None,
        router: None,
    })
}

/// How builders of BuildKit log in to the regional registry: with the service's own token to the
/// embedded one, else as the service does.
#[cfg(target_os = "linux")]
fn login_of_builders(
    registry: &crate::settings::Registry,
    token: &str,
) -> crate::engine::buildkit::LoginSource {
    use chalk_store::registry::CredentialSource;

    use crate::engine::Secret;
    use crate::engine::buildkit::LoginSource;

    match (&registry.url, &registry.username, &registry.password_file) {
        (Some(_), Some(user), Some(file)) => LoginSource::Own(CredentialSource::PasswordFile {
            user: user.clone(),
            file: file.clone(),
        }),
        (Some(_), ..) => LoginSource::Own(upstream_options(registry).credentials),
        (None, ..) => LoginSource::Fixed {
            user: "chalk".to_owned(),
            secret: Secret::new(token),
        },
    }
}

async fn recover(builds: &Arc<Builds>) -> Result<(), StartError> {
    let builds = builds.clone();
    let recovered = tokio::task::spawn_blocking(move || builds.recover()).await;
    let recovered = recovered.unwrap_or(Err(BuildsError::Stopping));
    recovered.map_err(|e| StartError::Recovery(e.to_string()))
}

/// The engine of this program, where the system has what it needs.
#[cfg(target_os = "linux")]
fn embedded(around: Surroundings<'_>) -> Result<Parts, StartError> {
    use chalk_store::registry::Client;

    use crate::bases::Bases;
    use crate::engine::buildkit::BuildKitEngine;
    use crate::engine::embedded::{EmbeddedEngine, EngineSettings};
    use crate::settings::BuildEngine;

    let Surroundings {
        settings,
        state_dir,
        blobs,
        regional,
        public,
        login,
    } = around;
    let client = Client::new(upstream_options(&settings.registry)).map_err(RegionalError::from)?;
    let (known_as, store) = (public.clone(), blobs.clone());
    let bases = Arc::new(Bases::new(regional.clone(), known_as, client, store));
    let engine = EngineSettings::new(&settings.build, &state_dir);
    let engine = EmbeddedEngine::new(engine, blobs, regional, bases.clone())?;
    let engine: Arc<dyn Engine> = match settings.build.engine {
        BuildEngine::Embedded => Arc::new(engine),
        BuildEngine::BuildKit => {
            let settings = &settings.build.buildkit;
            let engine = BuildKitEngine::new(
                settings,
                engine,
                &public,
                login,
                state_dir.join("build-cache"),
            )?;
            Arc::new(engine)
        }
    };
    Ok(Parts { engine, bases })
}

/// The engine of this program, where the system has what it needs.
#[cfg(not(target_os = "linux"))]
fn embedded(_: Surroundings<'_>) -> Result<Parts, StartError> {
    use crate::engine::absent::NoEngine;

    Ok(Parts {
        engine: Arc::new(NoEngine),
        bases: Arc::new(NoEngine),
    })
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
    /// Makes the index anew from the regional registry.
    ///
    /// # Errors
    /// When the registry cannot be read, or the index cannot be written.
    pub async fn reindex(&self) -> Result<Reindexed, CatalogError> {
        self.service.catalog.reindex().await
    }

    /// Ends the service when nobody needs it any more: takes back its announcement, waits until no
    /// build waits or runs, no warm runs and no sandbox lives, and shuts down. For a service that a command started for itself and
    /// that others found and use.
    pub async fn finish(self) {
        if let Err(error) = self.service.state.withdraw() {
            tracing::warn!(%error, "the service stays announced");
        }
        self.service.builds.idle().await;
        self.service.fleet.idle().await;
        self.shutdown().await;
    }

    /// Ends the service: takes no more requests, cancels builds (what their finished steps made is
    /// kept), lets open requests end, and gives the state directory back. Takes at most the
    /// setting `serve.stop_timeout`, and what a build needs to clean up.
    pub async fn shutdown(self) {
        let limit = self.service.settings.serve.stop_timeout;
        if let Err(error) = self.service.state.withdraw() {
            tracing::warn!(%error, "the service stays announced");
        }
        self.service.stop.cancel();
        let hurry = self.hurry.clone();
        let deadline = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            hurry.cancel();
        });
        self.service.builds.stop(limit).await;
        if let Err(error) = self.server.await {
            tracing::error!(%error, "the server ended badly");
        }
        // Else other services of a bucket wait for it.
        let ended = self.service.collector.ended();
        self.hurry.run_until_cancelled(ended).await;
        deadline.abort();
        self.service.fleet.flush().await;
        tracing::info!("service stopped");
    }
}
