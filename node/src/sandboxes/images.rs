//! Images for sandboxes: held in the node's cache, which fetches what it lacks.

use std::path::PathBuf;

use async_trait::async_trait;
use chalk_core::wire::Problem;
use chalk_core::wire::agent::ImageRef;
use tokio::sync::watch;

use super::ImageConfig;
use super::problems::node_failed;
use crate::agent::PullProgress;
use crate::cache::NodeImages;

/// An image that stays in the cache as long as this value lives.
pub struct Leased {
    /// Its layers, **topmost first**: EROFS images or directories.
    pub layers: Vec<PathBuf>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Whether it was there before.
    pub warm: bool,
    /// What keeps it.
    pub held: Box<dyn Send + Sync>,
}

/// Where images come from.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Holds an image.
    async fn lease(&self, image: &ImageRef) -> Result<Leased, Problem>;
}

#[async_trait]
impl Leases for NodeImages {
    async fn lease(&self, image: &ImageRef) -> Result<Leased, Problem> {
        let warm = self.cache().has(&image.digest);
        let progress = watch::Sender::new(PullProgress::default());
        let (lease, _) = self
            .acquire(image, &progress)
            .await
            .map_err(|error| error.problem())?;
        let config = serde_json::to_value(lease.config())
            .and_then(serde_json::from_value)
            .map_err(|error| node_failed("the image's configuration cannot be read", &error))?;
        let layers = lease.layers().iter().rev();
        Ok(Leased {
            layers: layers.map(|layer| layer.path.clone()).collect(),
            config,
            warm,
            held: Box::new(lease),
        })
    }
}
