//! How far the layers of a pull are, and what they cost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::LayerProgress;
use tokio::sync::watch;

use super::servers::Counts;
use super::total_size;
use crate::agent::{PullCost, PullProgress};
use crate::cache::{LayerRef, Result};

/// Progress is said at most this often.
const TICK: Duration = Duration::from_millis(100);

/// The layers that a pull lacks.
pub(crate) struct Tally<'a> {
    missing: &'a [LayerRef],
    /// What was spent on manifest and config.
    first: PullCost,
    layers: Mutex<BTreeMap<Digest, Stage>>,
}

/// How far a layer is.
pub(crate) enum Stage {
    /// It is there; another pull paid for it.
    Whole,
    /// Another pull fetches it.
    Others(Arc<Counts>),
    /// This pull fetches it; with whether it is there.
    Ours(Arc<Counts>, bool),
}

impl<'a> Tally<'a> {
    /// Counts layers that are `missing`; `first` was spent before.
    pub(crate) fn new(missing: &'a [LayerRef], first: PullCost) -> Self {
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
    pub(crate) fn note(&self, layer: Digest, stage: Stage) {
        self.layers().insert(layer, stage);
    }

    /// A layer is there.
    pub(crate) fn finished(&self, layer: &Digest) {
        if let Some(stage) = self.layers().get_mut(layer) {
            match stage {
                Stage::Ours(_, whole) => *whole = true,
                Stage::Whole | Stage::Others(_) => *stage = Stage::Whole,
            }
        }
    }

    /// Waits until the layers are there, and says meanwhile how far they are; gives what all costs.
    pub(crate) async fn follow(
        &self,
        layers: impl Future<Output = Result<()>>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<PullCost> {
        let tell = || {
            let state = self.progress();
            progress.send_if_modified(|said| {
                let news = *said != state;
                *said = state;
                news
            });
        };
        let mut layers = std::pin::pin!(layers);
        // The first tick comes at once, but after every layer was begun: who hears of the pull may
        // ask this node for the layers.
        let mut tick = tokio::time::interval(TICK);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut layers => break done,
                _ = tick.tick() => tell(),
            }
        };
        tell();
        done.map(|()| self.progress().cost)
    }

    /// How far all are, and what they cost by now.
    pub(crate) fn progress(&self) -> PullProgress {
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
                Some(Stage::Others(counts) | Stage::Ours(counts, false)) => {
                    (counts.received(), false)
                }
            };
            if let Some(Stage::Ours(counts, whole)) = layers.get(&layer.digest) {
                now.cost.fetched += counts.fetched();
                now.cost.from_mirrors += counts.mirrored();
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
