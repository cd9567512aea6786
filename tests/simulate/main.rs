//! A service with made-up activity: `cargo xtask simulate`. For looking at the terminal app, and for
//! measuring it under load.
//!
//! What clients talk to is the real service, and what it talks to are the real agents of nodes, over
//! the real wire. Made up are what lies behind them: an engine whose steps only take time and print,
//! a registry of images whose layers nobody has the bytes of, and caches that only count. Names,
//! specs, sizes and caches depend on the seed alone; what happens when depends on the clock, too.

mod activity;
mod cache;
mod catalogue;
mod chance;
mod documents;
mod engine;
mod fleet;
mod logs;
mod registry;
mod sandboxes;
mod specs;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use bytesize::ByteSize;
use chalk_service::index::Index;
use chalk_service::{Parts, Running, Service, Settings, Surroundings};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use activity::{Client, Fallible};
use catalogue::Catalogue;
use engine::{AnyBase, Pace, Simulated};
use fleet::Fleet;
use logs::Logs;
use registry::Registry;

/// Output that is kept of one build: enough for a million lines.
const LOG_LIMIT: ByteSize = ByteSize::mib(256);
/// Longest that what still goes on at the end may take.
const LEAVE: Duration = Duration::from_secs(5);
/// Finished builds that are kept, by those that run.
const KEPT: usize = 4;

/// Serves the API with made-up activity.
#[derive(Debug, Parser)]
#[command(name = "chalk-simulate")]
struct Options {
    /// Nodes.
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Images in the registry at the start.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Builds under way or queued.
    #[arg(long, default_value_t = 50)]
    builds: u32,
    /// Same seed, same names, specs, sizes and caches.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// State directory, which is kept; a temporary one when absent.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Lines of output in a second, of all builds together.
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// How many times faster than in earnest builds, pulls and sandboxes go.
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    speed: f64,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|e| format!("{e}"))?;
    match speed.is_finite() && speed > 0.0 {
        true => Ok(speed),
        false => Err("expected a number above 0".to_owned()),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHALK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chalk-simulate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Fallible<()> {
    let mut temporary = None;
    let dir = match &options.state {
        Some(dir) => dir.clone(),
        None => {
            let mut name = tempfile::Builder::new();
            let made = name.prefix("chalk-simulate.").tempdir()?;
            temporary.insert(made).path().to_owned()
        }
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(simulate(options, &dir));
    // Nobody writes into the directory any more when it is removed.
    runtime.shutdown_timeout(LEAVE);
    drop(temporary);
    ended
}

async fn simulate(options: &Options, dir: &Path) -> Fallible<()> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let world = tokio::select! {
        world = World::start(options, dir, &stop) => world?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    world.tell(options, dir);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    world.service.shutdown().await;
    Ok(())
}

/// Everything that runs.
struct World {
    service: Running,
}

impl World {
    async fn start(options: &Options, dir: &Path, stop: &CancellationToken) -> Fallible<Self> {
        let (seed, images) = (options.seed, options.images);
        let pace = Pace::new(options.rate, options.speed);
        let made = tokio::task::spawn_blocking(move || Catalogue::new(seed, images));
        let catalogue = Arc::new(made.await?);
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let registry = listener.local_addr()?.to_string();
        let router = Registry::new(catalogue.clone()).router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        index(dir, &catalogue)?;
        let service = serve(options, dir, &registry, &catalogue, &pace).await?;

        let fleet = Fleet {
            seed,
            catalogue: catalogue.clone(),
            pace: pace.clone(),
            server: format!("http://{}", service.addr),
            token: service.token.clone(),
            dir: dir.join("nodes"),
            registry,
        };
        let nodes = fleet.nodes(options.nodes);
        let client = Arc::new(Client {
            seed,
            http: reqwest::Client::builder().no_proxy().build()?,
            url: fleet.server.clone(),
            token: service.token.clone(),
            catalogue: catalogue.clone(),
            pace,
            nodes: nodes.iter().map(|node| node.name.clone()).collect(),
            versions: (0..catalogue.repositories())
                .map(|at| {
                    let all = catalogue.repositories();
                    AtomicU32::new((images + all - 1 - at) / all)
                })
                .collect(),
        });
        for number in 0..options.builds {
            tokio::spawn(client.clone().build_on(number));
        }
        let caches = fleet::run(nodes, stop).await?;
        tokio::spawn(activity::use_caches(seed, caches, catalogue));
        if options.nodes > 0 {
            tokio::spawn(client.clone().warm_on());
            tokio::spawn(client.clone().drain_on());
            tokio::spawn(client.start_sandboxes_on());
        }
        Ok(Self { service })
    }

    /// Says how to reach it.
    fn tell(&self, options: &Options, dir: &Path) {
        let Options {
            nodes,
            images,
            builds,
            seed,
            ..
        } = options;
        let (url, token) = (&self.service.url, dir.join("token"));
        let (state, token) = (dir.display(), token.display());
        let text = format!(
            "chalk is simulated on {url}
  state     {state}
  token     {token}
  made up   {nodes} nodes, {images} images, {builds} builds, seed {seed}

export CHALK_API_SERVER={url}
export CHALK_TOKEN=\"$(cat {token})\"
"
        );
        // It serves on, whether or not somebody reads this.
        let mut stdout = std::io::stdout();
        let _ = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush());
    }
}

/// Puts what the registry has into the index, as the service finds it at its start.
fn index(dir: &Path, catalogue: &Catalogue) -> Fallible<()> {
    std::fs::create_dir_all(dir)?;
    let (index, _) = Index::open(&dir.join("chalk.redb"))?;
    let (images, names) = catalogue.index();
    index.replace_images(images, names)?;
    Ok(())
}

async fn serve(
    options: &Options,
    dir: &Path,
    registry: &str,
    catalogue: &Arc<Catalogue>,
    pace: &Arc<Pace>,
) -> Fallible<Running> {
    let mut settings = Settings::embedded();
    settings.state.dir = dir.to_owned();
    settings.serve.listen = options.addr;
    settings.registry.url = Some(format!("http://{registry}"));
    settings.regions.home = fleet::HOME.to_owned();
    let bases = specs::PREWARMED.into_iter();
    settings.prewarm.images = bases.map(str::to_owned).collect();
    let builds = usize::try_from(options.builds)?;
    settings.build.parallel = (builds * 4).div_ceil(5).max(2);
    settings.build.queue_limit = builds + 64;
    settings.build.keep = builds * KEPT + 20;
    settings.build.log_limit = LOG_LIMIT;
    settings.limits.connections = usize::try_from(options.nodes)? + 4096;
    let seed = options.seed;
    let parts = |_: Surroundings<'_>| {
        Ok(Parts {
            engine: Arc::new(Simulated {
                catalogue: catalogue.clone(),
                logs: Logs::new(seed),
                pace: pace.clone(),
            }),
            bases: Arc::new(AnyBase),
        })
    };
    Ok(Service::start_with(settings, parts).await?)
}
