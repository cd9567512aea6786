//! What a node counts for those who watch it, as `/metrics` serves it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chalk_watch::metrics::{Exposition, fast};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use crate::agent::{Line, Sandboxes as _};
use crate::cache::Cache;
use crate::mirror::{Bounds, listen};
use crate::sandboxes::Sandboxes;

/// Connections for metrics that are open at once; further ones wait.
const CLIENTS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Origin {
    from: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImageLabel {
    image: &'static str,
}

/// What is counted of pulls. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct PullMetrics {
    fetched: Family<Origin, Counter>,
}

impl Default for PullMetrics {
    fn default() -> Self {
        let fetched: Family<Origin, Counter> = Family::default();
        // A count that begins with its first event hides that one from whoever looks at changes.
        for from in ["registry", "mirror"] {
            drop(fetched.get_or_create(&Origin { from }));
        }
        Self { fetched }
    }
}

impl PullMetrics {
    /// Bytes of a layer came over the network.
    pub(crate) fn fetched(&self, bytes: u64, from_origin: bool) {
        let from = if from_origin { "registry" } else { "mirror" };
        self.fetched.get_or_create(&Origin { from }).inc_by(bytes);
    }
}

/// What is counted of starts of sandboxes. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct StartMetrics {
    starts: Family<ResultLabel, Counter>,
    duration: Family<ImageLabel, Histogram>,
}

impl Default for StartMetrics {
    fn default() -> Self {
        let metrics = Self {
            starts: Family::default(),
            duration: Family::new_with_constructor(fast),
        };
        for result in ["started", "failed"] {
            drop(metrics.starts.get_or_create(&ResultLabel { result }));
        }
        for image in ["cached", "fetched"] {
            drop(metrics.duration.get_or_create(&ImageLabel { image }));
        }
        metrics
    }
}

impl StartMetrics {
    /// A sandbox runs, so long after the order for it; `warm` says that its image was there.
    pub(crate) fn started(&self, took: Duration, warm: bool) {
        let started = ResultLabel { result: "started" };
        self.starts.get_or_create(&started).inc();
        let image = if warm { "cached" } else { "fetched" };
        let duration = self.duration.get_or_create(&ImageLabel { image });
        duration.observe(took.as_secs_f64());
    }

    /// A sandbox could not be started, or not be run to its end.
    pub(crate) fn failed(&self) {
        let failed = ResultLabel { result: "failed" };
        self.starts.get_or_create(&failed).inc();
    }
}

/// Everything that a node counts.
pub(crate) struct NodeMetrics {
    exposition: Exposition,
    cache: Cache,
    sandboxes: Sandboxes,
    line: Line,
    asked: Asked,
}

/// What is asked for when the metrics are read.
struct Asked {
    connected: Gauge,
    used: Gauge,
    held: Gauge,
    limit: Gauge,
    images: Gauge,
    layers: Gauge,
    lookups: Family<ResultLabel, Counter>,
    evictions: Counter,
    sandboxes: Gauge,
}

impl NodeMetrics {
    pub(crate) fn new(cache: Cache, sandboxes: Sandboxes, line: Line) -> Self {
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("chalk_node");
        let help = "Bytes of layers that came over the network, by where they came from";
        let fetched = cache.metrics().fetched.clone();
        registry.register_with_unit("fetched", help, Unit::Bytes, fetched);
        let starts = sandboxes.metrics();
        let help = "Sandboxes that were started, and that failed";
        registry.register("sandbox_starts", help, starts.starts.clone());
        let help = "Time from the order for a sandbox until it runs, by whether its image was in the cache";
        let duration = starts.duration.clone();
        registry.register_with_unit("sandbox_start_duration", help, Unit::Seconds, duration);
        let asked = Asked::new(registry);
        Self {
            exposition: Exposition::new(all),
            cache,
            sandboxes,
            line,
            asked,
        }
    }

    fn text(&self, accept: Option<&str>) -> Result<(&'static str, String), std::fmt::Error> {
        let usage = self.cache.usage();
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let asked = &self.asked;
        asked.connected.set(i64::from(self.line.is_open()));
        asked.used.set(whole(usage.used));
        asked.held.set(whole(usage.held));
        asked.limit.set(whole(usage.size_limit));
        asked.images.set(whole(usage.images as u64));
        asked.layers.set(whole(usage.layers as u64));
        for (result, count) in [("hit", usage.hits), ("miss", usage.misses)] {
            let lookups = asked.lookups.get_or_create(&ResultLabel { result });
            lookups
                .inner()
                .store(count, std::sync::atomic::Ordering::Relaxed);
        }
        let evictions = asked.evictions.inner();
        evictions.store(usage.evictions, std::sync::atomic::Ordering::Relaxed);
        asked.sandboxes.set(whole(self.sandboxes.running() as u64));
        self.exposition.text(accept)
    }
}

impl Asked {
    fn new(registry: &mut Registry) -> Self {
        let gauge = |registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>| {
            let gauge = Gauge::default();
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge.clone()),
                None => registry.register(name, help, gauge.clone()),
            }
            gauge
        };
        let bytes = || Some(Unit::Bytes);
        let help = "1 while the node has a session with the service, else 0";
        let connected = gauge(registry, "connected", help, None);
        let help = "Bytes of layers and mounted files on the disk";
        let used = gauge(registry, "cache_used", help, bytes());
        let help = "Bytes of the cache that no eviction may take now: pinned or in use";
        let held = gauge(registry, "cache_held", help, bytes());
        let help = "Most bytes that the cache may hold";
        let limit = gauge(registry, "cache_limit", help, bytes());
        let images = gauge(registry, "cache_images", "Whole images in the cache", None);
        let layers = gauge(registry, "cache_layers", "Whole layers in the cache", None);
        let sandboxes = gauge(registry, "sandboxes", "Sandboxes that live", None);
        let lookups = Family::default();
        let help =
            "Sandboxes and warms that found their image in the cache (hit), or had to fetch (miss)";
        registry.register("cache_lookups", help, lookups.clone());
        let evictions = Counter::default();
        let help = "Layers that were evicted from the cache";
        registry.register("cache_evictions", help, evictions.clone());
        Self {
            connected,
            used,
            held,
            limit,
            images,
            layers,
            lookups,
            evictions,
            sandboxes,
        }
    }
}

/// Serves `/metrics` on `listener`, and nothing else, until it is dropped.
pub(crate) async fn serve(listener: TcpListener, metrics: NodeMetrics) {
    let router = Router::new()
        .route("/metrics", get(answer))
        .with_state(Arc::new(metrics));
    let bounds = Bounds {
        connections: CLIENTS,
        ..Bounds::default()
    };
    listen::serve(listener, router, bounds).await;
}

async fn answer(State(metrics): State<Arc<NodeMetrics>>, headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    match metrics.text(accept) {
        Ok((kind, text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
