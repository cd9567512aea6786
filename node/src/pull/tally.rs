//! How far the layers of a pull are, and what they cost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::wire::LayerProgress;

use super::layer::Flight;
use super::total_size;
use crate::agent::{PullCost, PullProgress};
use crate::cache::LayerRef;

/// The layers that a pull lacks.
pub(super) struct Tally<'a> {
    missing: &'a [LayerRef],
    /// What was spent on manifest and config.
    first: PullCost,
    layers: Mutex<BTreeMap<Digest, Stage>>,
}

/// How far a layer is.
pub(super) enum Stage {
    /// It is there; another pull paid for it.
    Whole,
    /// Another pull fetches it.
    Others(Arc<Flight>),
    /// This pull fetches it; with whether it is there.
    Ours(Arc<Flight>, bool),
}

impl<'a> Tally<'a> {
    /// Counts layers that are `missing`; `first` was spent before.
    pub(super) fn new(missing: &'a [LayerRef], first: PullCost) -> Self {
        Self {
            missing,
            first,
            layers: Mutex::default(),
        }
    }

    fn layers(&self) -> MutexGuard<'_, BTreeMap<Digest, Stage>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how far a layer is.
    pub(super) fn note(&self, layer: Digest, stage: Stage) {
        self.layers().insert(layer, stage);
    }

    /// A layer is there.
    pub(super) fn finished(&self, layer: &Digest) {
        if let Some(stage) = self.layers().get_mut(layer) {
            match stage {
                Stage::Ours(_, whole) => *whole = true,
                Stage::Whole | Stage::Others(_) => *stage = Stage::Whole,
            }
        }
    }

    /// How far all are, and what they cost by now.
    pub(super) fn progress(&self) -> PullProgress {
        let mut now = PullProgress {
            total: total_size(self.missing),
            cost: self.first,
            ..PullProgress::default()
        };
        let layers = self.layers();
        for layer in self.missing {
            let (done, whole) = match layers.get(&layer.digest) {
                None => (0, false),
                Some(Stage::Whole | Stage::Ours(_, true)) => (layer.size, true),
                Some(Stage::Others(flight) | Stage::Ours(flight, false)) => {
                    (flight.received(), false)
                }
            };
            if let Some(Stage::Ours(flight, whole)) = layers.get(&layer.digest) {
                let fetched = flight.fetched();
                now.cost.fetched += fetched.bytes;
                now.cost.from_mirrors += fetched.from_mirrors;
                if *whole {
                    now.cost.verified += 2;
                    now.cost.layers += layer.size;
                }
            }
            now.done += done;
            if !whole && done > 0 {
                now.layers.push(LayerProgress {
                    digest: layer.digest,
                    done,
                    total: layer.size,
                });
            }
        }
        now
    }
}
