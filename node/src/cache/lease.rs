//! Holding an image while it is used.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::Digest;
use oci_spec::image::ImageConfiguration;

use super::disk::{ImageRecord, LayerForm};
use super::{Cache, State};

/// A layer of a leased image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedLayer {
    /// Digest of its blob: names the mount that sandboxes share.
    pub digest: Digest,
    /// Whether `path` is an EROFS image to mount, or a directory to stack.
    pub form: LayerForm,
    /// Where it is.
    pub path: PathBuf,
}

/// An image in use. While it lives, nothing of it is evicted.
#[derive(Debug)]
pub struct Lease {
    cache: Cache,
    record: Arc<ImageRecord>,
    config: Arc<ImageConfiguration>,
    layers: Vec<LeasedLayer>,
}

impl Lease {
    /// Digest of the manifest.
    pub fn digest(&self) -> Digest {
        self.record.digest
    }

    /// Name that the image was pulled by.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The image's config.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// The layers to stack, the lowest first, each once. Those that a layer with an opaque root
    /// hides are left out: overlayfs knows no such mark.
    pub fn layers(&self) -> &[LeasedLayer] {
        &self.layers
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.cache.inner.lock();
        if let Some(image) = state.images.get_mut(&self.record.digest) {
            image.leases = image.leases.saturating_sub(1);
            image.used = SystemTime::now();
        }
    }
}

impl Cache {
    /// Holds an image; `None` when the cache does not have it.
    pub fn lease(&self, digest: &Digest) -> Option<Lease> {
        let mut state = self.inner.lock();
        let lease = self.lease_in(&mut state, digest);
        match lease {
            Some(_) => state.hits += 1,
            None => state.misses += 1,
        }
        drop(state);
        if lease.is_some() {
            self.touch(digest);
        }
        lease
    }

    pub(crate) fn lease_in(&self, state: &mut State, digest: &Digest) -> Option<Lease> {
        let image = state.images.get(digest)?;
        let record = Arc::clone(&image.record);
        let config = Arc::clone(&image.config);
        let mut layers: Vec<LeasedLayer> = Vec::new();
        for layer in record.layers.iter().rev() {
            let found = state.layers.get(&layer.digest)?;
            // A layer that comes twice counts where it is on top; below, it only repeats.
            if layers.iter().all(|l| l.digest != layer.digest) {
                layers.push(LeasedLayer {
                    digest: layer.digest,
                    form: found.note.form,
                    path: self.inner.disk.layer(&layer.digest, found.note.form),
                });
            }
            if found.note.opaque_root {
                break;
            }
        }
        layers.reverse();
        if let Some(image) = state.images.get_mut(digest) {
            image.leases += 1;
            image.used = SystemTime::now();
        }
        Some(Lease {
            cache: self.clone(),
            record,
            config,
            layers,
        })
    }

    /// Notes the use of an image on the disk, so that a restart remembers it. A loss is no harm.
    pub(crate) fn touch(&self, digest: &Digest) {
        if let Err(error) = self.inner.disk.touch_image(digest, SystemTime::now()) {
            tracing::debug!(%error, "last use of an image not noted");
        }
    }
}
