//! The cache as the agent sees it.

use async_trait::async_trait;
use chalk_core::Digest;
use chalk_core::wire::agent::ImageRef;
use chalk_core::wire::{CacheListing, CacheUsage, GcReport, GcRequest, Problem, Receipt};
use chalk_store::registry::Options;
use tokio::sync::watch;

use super::{Cache, CacheError, Lease, Result};
use crate::agent::{AccessWatch, CacheDelta, Images, PullFailure, PullOrder, PullProgress};
use crate::pull::Sources;

/// The cache of a node that joined a service: knows by which login each registry is read.
pub struct NodeImages {
    cache: Cache,
    sources: Sources,
}

impl NodeImages {
    /// `options` are the node's own settings of registries: mirrors, certificates, logins.
    pub fn new(cache: Cache, access: AccessWatch, options: Options) -> Self {
        Self {
            cache,
            sources: Sources::new(access, options, None),
        }
    }

    /// The cache itself.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Holds an image, bringing it in first where it is not there.
    ///
    /// # Errors
    /// As [`Cache::acquire`].
    pub async fn acquire(
        &self,
        image: &ImageRef,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(Lease, Receipt)> {
        let (_, peers) = watch::channel(image.peers.clone());
        let source = self.sources.source(image, peers)?;
        self.cache.acquire(&source, progress).await
    }
}

#[async_trait]
impl Images for NodeImages {
    fn usage(&self) -> CacheUsage {
        self.cache.usage()
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.cache.revision()
    }

    fn has(&self, digest: Digest) -> bool {
        self.cache.has(&digest)
    }

    fn since(&self, revision: Option<u64>) -> CacheDelta {
        self.cache.since(revision)
    }

    async fn listing(&self) -> Result<CacheListing, Problem> {
        let cache = self.cache.clone();
        let listed = tokio::task::spawn_blocking(move || cache.listing()).await;
        listed.map_err(|_| CacheError::Cancelled.problem())
    }

    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure> {
        let source = self
            .sources
            .source(&order.image, order.peers)
            .map_err(|e| e.failure())?;
        let pull = self
            .cache
            .ensure(&source, order.pin.as_deref(), &order.progress);
        let done = tokio::select! {
            done = pull => done,
            () = order.cancel.cancelled() => Err(CacheError::Cancelled),
        };
        done.map_err(|error| error.failure())
    }

    async fn remove(&self, digest: Digest, unpin: bool) -> Result<GcReport, Problem> {
        self.cache
            .remove(digest, unpin)
            .await
            .map_err(|error| error.problem())
    }

    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem> {
        self.cache
            .collect(gc)
            .await
            .map_err(|error| error.problem())
    }

    async fn unpin(&self, digest: Digest, label: &str) -> Result<(), Problem> {
        self.cache
            .unpin(digest, label)
            .await
            .map_err(|error| error.problem())
    }
}
