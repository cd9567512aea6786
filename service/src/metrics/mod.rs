//! What the service counts for those who watch it, as `/metrics` serves it.
//!
//! Each part counts for itself ([`BuildMetrics`], [`RequestMetrics`], ...) and is registered here;
//! what can be asked for at any time (queue, nodes, store) is asked for when the metrics are read.

mod builds;
mod fleet;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use chalk_core::keys::BUILDER_VERSION;
use chalk_store::{BlobError, BlobStore};
use chalk_watch::metrics::Exposition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub(crate) use builds::{BuildMetrics, StepEnd};
pub(crate) use fleet::{SandboxMetrics, WarmMetrics, sandbox_word};
pub(crate) use requests::{Following, RequestMetrics, count};

use crate::service::Service;

/// How old the size of the store may be: to find it out, every blob is looked at.
const STORE_AGE: Duration = Duration::from_secs(60);

/// A label of few values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabel {
    pub(crate) state: &'static str,
}

/// `word`, if it is one of those that are known, else `other`: a label never takes what a user wrote.
pub(crate) fn known(word: &str, words: &[&'static str]) -> &'static str {
    let found = words.iter().find(|known| **known == word);
    found.copied().unwrap_or("other")
}

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    exposition: Exposition,
    requests: Arc<RequestMetrics>,
    builds_running: Gauge,
    builds_queued: Gauge,
    nodes: Family<StateLabel, Gauge>,
    warms: Gauge,
    sandboxes: Family<StateLabel, Gauge>,
    blobs: Gauge,
    bytes: Gauge,
    /// When the store was looked at.
    looked: Mutex<Option<Instant>>,
}

impl Metrics {
    /// Takes in what the parts count.
    pub(crate) fn new(
        builds: &BuildMetrics,
        warms: &WarmMetrics,
        sandboxes: &SandboxMetrics,
    ) -> Self {
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("chalk");
        let program = [
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("builder".to_owned(), BUILDER_VERSION.to_owned()),
        ];
        registry.register(
            "service",
            "Version of the service",
            Info::new(program.to_vec()),
        );
        builds.register(registry);
        warms.register(registry);
        sandboxes.register(registry);
        let requests = Arc::new(RequestMetrics::default());
        requests.register(registry);
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let builds_running = gauge("builds_running", "Builds that run");
        let builds_queued = gauge("builds_queued", "Builds that wait for a place");
        let warms = gauge("warms_running", "Warms that have targets to come");
        let blobs = gauge("store_blobs", "Blobs in the store, at most a minute ago");
        let bytes = Gauge::default();
        let help = "Size of the blobs in the store, at most a minute ago";
        registry.register_with_unit("store", help, Unit::Bytes, bytes.clone());
        let nodes = Family::default();
        registry.register("nodes", "Nodes by state", nodes.clone());
        let living = Family::default();
        registry.register("sandboxes", "Sandboxes that live, by state", living.clone());
        Self {
            exposition: Exposition::new(all),
            requests,
            builds_running,
            builds_queued,
            nodes,
            warms,
            sandboxes: living,
            blobs,
            bytes,
            looked: Mutex::default(),
        }
    }

    /// What requests count.
    pub(crate) fn requests(&self) -> &Arc<RequestMetrics> {
        &self.requests
    }

    /// The text that is served, with its media type.
    ///
    /// # Errors
    /// When the store cannot be read, or the text not be written.
    pub(crate) async fn text(
        &self,
        service: &Service,
        accept: Option<&str>,
    ) -> Result<(&'static str, String), MetricsError> {
        let (running, queued) = service.builds().lengths();
        self.builds_running.set(whole(running));
        self.builds_queued.set(whole(queued));
        self.warms.set(whole(service.fleet().warms().running()));
        for (state, count) in service.fleet().nodes().by_state() {
            self.nodes
                .get_or_create(&StateLabel { state })
                .set(whole(count));
        }
        for (state, count) in service.fleet().sandboxes().by_state() {
            let gauge = self.sandboxes.get_or_create(&StateLabel { state });
            gauge.set(whole(count));
        }
        self.look(service.blobs()).await?;
        Ok(self.exposition.text(accept)?)
    }

    /// Looks how much is in the store, unless that is known.
    async fn look(&self, blobs: &BlobStore) -> Result<(), BlobError> {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < STORE_AGE) {
            return Ok(());
        }
        let sum = |store: &BlobStore| -> Result<(usize, u64), BlobError> {
            let mut sum = (0, 0);
            for found in store.list()? {
                let (blob, _) = found?;
                sum = (sum.0 + 1, sum.1 + blob.size);
            }
            Ok(sum)
        };
        let (count, bytes) = blobs.run(sum).await?;
        self.blobs.set(whole(count));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        *looked = Some(Instant::now());
        Ok(())
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetricsError {
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] BlobError),
    /// The text cannot be written.
    #[error("the metrics cannot be written: {0}")]
    Text(#[from] std::fmt::Error),
}
