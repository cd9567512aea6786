//! What the cache holds, and who holds it: pure bookkeeping under one lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::Digest;
use oci_spec::image::ImageConfiguration;

use super::disk::{ImageRecord, LayerNote};
use crate::pull::Flight;

/// Most removals that the feed of changes remembers.
const GONE: usize = 4096;

/// Everything that the lock guards.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<Digest, Image>,
    pub(crate) layers: BTreeMap<Digest, Layer>,
    /// Layers on their way in, and blobs that come with them.
    pub(crate) flights: BTreeMap<Digest, Arc<Flight>>,
    /// Pulls that need a layer, there or not: it must not go.
    pub(crate) claims: BTreeMap<Digest, usize>,
    /// Blobs kept for other nodes.
    pub(crate) blobs: BTreeMap<Digest, KeptBlob>,
    /// Bytes granted to layers on their way in.
    pub(crate) reserved: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) evictions: u64,
    pub(crate) revision: u64,
    /// Images that went, with the revision that each led to.
    pub(crate) gone: VecDeque<(u64, Digest)>,
    /// Revision before which `gone` is not complete.
    pub(crate) forgotten: u64,
}

/// A whole image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) record: Arc<ImageRecord>,
    /// The record's config, read.
    pub(crate) config: Arc<ImageConfiguration>,
    /// Sandboxes that use it.
    pub(crate) leases: usize,
    pub(crate) used: SystemTime,
    /// Revision of its last change.
    pub(crate) changed: u64,
}

/// A whole layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) note: LayerNote,
}

/// A blob kept for other nodes.
#[derive(Debug)]
pub(crate) struct KeptBlob {
    pub(crate) size: u64,
    pub(crate) used: SystemTime,
}

/// What is to go.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Victims {
    pub(crate) images: Vec<Digest>,
    pub(crate) layers: Vec<Digest>,
    /// Bytes of the layers.
    pub(crate) bytes: u64,
}

impl Image {
    /// An image that nobody uses; `None` where its config cannot be read.
    pub(crate) fn new(record: Arc<ImageRecord>, used: SystemTime) -> Option<Self> {
        let config = serde_json::from_str(&record.config).ok()?;
        Some(Self {
            record,
            config: Arc::new(config),
            leases: 0,
            used,
            changed: 1,
        })
    }

    /// Whether an eviction must leave it.
    pub(crate) fn is_held(&self) -> bool {
        self.leases > 0 || !self.record.pins.is_empty()
    }
}

impl State {
    /// Bytes of whole layers.
    pub(crate) fn layer_bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.note.bytes).sum()
    }

    /// Layers that no eviction may take now.
    pub(crate) fn held_layers(&self) -> BTreeSet<Digest> {
        let held = self.images.values().filter(|image| image.is_held());
        let of_images = held.flat_map(|image| image.record.layers.iter().map(|l| l.digest));
        of_images.chain(self.claims.keys().copied()).collect()
    }

    /// Bytes that no eviction may take now: layers that are held, and what is granted.
    pub(crate) fn held_bytes(&self) -> u64 {
        let held = self.held_layers();
        let layers = self
            .layers
            .iter()
            .filter(|(digest, _)| held.contains(digest));
        layers.map(|(_, layer)| layer.note.bytes).sum::<u64>() + self.reserved
    }

    /// What has to go, in order, until `enough` bytes are freed: first layers that no image has,
    /// then images by their last use, with the layers that no other image has.
    pub(crate) fn victims(&self, enough: u64) -> Victims {
        let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
        for image in self.images.values() {
            let layers: BTreeSet<Digest> = image.record.layers.iter().map(|l| l.digest).collect();
            for layer in layers {
                *users.entry(layer).or_default() += 1;
            }
        }
        let mut victims = Victims::default();
        let take = |victims: &mut Victims, digest: &Digest| {
            if let (Some(layer), false) =
                (self.layers.get(digest), self.claims.contains_key(digest))
            {
                victims.layers.push(*digest);
                victims.bytes += layer.note.bytes;
            }
        };
        for digest in self
            .layers
            .keys()
            .filter(|digest| !users.contains_key(digest))
        {
            if victims.bytes >= enough {
                return victims;
            }
            take(&mut victims, digest);
        }
        let mut images: Vec<_> = self.images.iter().filter(|(_, i)| !i.is_held()).collect();
        images.sort_by_key(|(digest, image)| (image.used, **digest));
        for (digest, image) in images {
            if victims.bytes >= enough {
                break;
            }
            // An image of layers that others keep frees nothing: it goes only when its turn comes
            // and room is still needed.
            victims.images.push(*digest);
            let layers: BTreeSet<Digest> = image.record.layers.iter().map(|l| l.digest).collect();
            for layer in layers {
                let left = users.entry(layer).or_default();
                *left = left.saturating_sub(1);
                if *left == 0 {
                    take(&mut victims, &layer);
                }
            }
        }
        victims
    }

    /// What goes with one image.
    pub(crate) fn victims_of(&self, digest: &Digest) -> Victims {
        let Some(image) = self.images.get(digest) else {
            return Victims::default();
        };
        let others: BTreeSet<Digest> = self
            .images
            .iter()
            .filter(|(other, _)| *other != digest)
            .flat_map(|(_, image)| image.record.layers.iter().map(|l| l.digest))
            .collect();
        let layers: BTreeSet<Digest> = image.record.layers.iter().map(|l| l.digest).collect();
        let gone = layers
            .into_iter()
            .filter(|l| !others.contains(l) && !self.claims.contains_key(l))
            .filter(|l| self.layers.contains_key(l));
        let layers: Vec<Digest> = gone.collect();
        let bytes = layers.iter().filter_map(|l| self.layers.get(l));
        Victims {
            images: vec![*digest],
            bytes: bytes.map(|layer| layer.note.bytes).sum(),
            layers,
        }
    }

    /// Forgets what is to go; its files are to be removed next.
    pub(crate) fn forget(&mut self, victims: &Victims) {
        for digest in &victims.layers {
            self.layers.remove(digest);
        }
        for digest in &victims.images {
            self.images.remove(digest);
            self.revision += 1;
            self.gone.push_back((self.revision, *digest));
            if self.gone.len() > GONE
                && let Some((revision, _)) = self.gone.pop_front()
            {
                self.forgotten = revision;
            }
        }
    }

    /// Notes that an image changed.
    pub(crate) fn changed(&mut self, digest: &Digest) {
        self.revision += 1;
        if let Some(image) = self.images.get_mut(digest) {
            image.changed = self.revision;
        }
    }

    /// Notes that images cannot be given to others any more, as these blobs of theirs went.
    pub(crate) fn lost_blobs(&mut self, blobs: &[Digest]) {
        let blobs: BTreeSet<&Digest> = blobs.iter().collect();
        let has = |image: &&mut Image| {
            image
                .record
                .layers
                .iter()
                .any(|l| blobs.contains(&l.digest))
        };
        for image in self.images.values_mut().filter(has) {
            self.revision += 1;
            image.changed = self.revision;
        }
    }

    /// Kept blobs, longest unused first, that have to go for the others to take at most `most`
    /// bytes.
    pub(crate) fn surplus_blobs(&self, most: u64) -> Vec<Digest> {
        let mut total: u64 = self.blobs.values().map(|blob| blob.size).sum();
        let mut oldest: Vec<_> = self.blobs.iter().collect();
        oldest.sort_by_key(|(digest, blob)| (blob.used, **digest));
        let mut surplus = Vec::new();
        for (digest, blob) in oldest {
            if total <= most {
                break;
            }
            total -= blob.size;
            surplus.push(*digest);
        }
        surplus
    }
}
