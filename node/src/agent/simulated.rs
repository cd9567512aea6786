//! A cache that only counts, for tests of the agent.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chalk_core::Digest;
use chalk_core::wire::agent::ImageRef;
use chalk_core::wire::{
    CacheListing, CacheUsage, CachedImage, GcReport, GcRequest, Problem, Receipt, problem,
};
use tokio::sync::watch;

use super::parts::{CacheDelta, Images, PullCost, PullFailure, PullOrder, PullProgress};

/// What a pull comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Ready,
    /// Ready after two seconds of progress.
    Slow,
    Transient,
    Final,
    Never,
    /// Pinned at once, ready after half a minute.
    PinnedSlow,
}

pub(super) struct SimulatedImages {
    answers: Mutex<VecDeque<Answer>>,
    images: Mutex<Vec<CachedImage>>,
    peers: Mutex<Vec<String>>,
    pulls: AtomicUsize,
    cancelled: std::sync::Arc<AtomicBool>,
    revision: watch::Sender<u64>,
}

impl Default for SimulatedImages {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            images: Mutex::default(),
            peers: Mutex::default(),
            pulls: AtomicUsize::new(0),
            cancelled: std::sync::Arc::default(),
            revision: watch::Sender::new(1),
        }
    }
}

/// What a pull that fails for now has cost.
pub(super) const COST: PullCost = PullCost {
    fetched: 7,
    from_mirrors: 3,
    verified: 2,
    layers: 1,
};

/// An image of a made-up digest.
pub(super) fn image(contents: &[u8]) -> ImageRef {
    ImageRef {
        traceparent: None,
        digest: Digest::of(contents),
        image_hash: None,
        registry: "registry.example".into(),
        repository: "app".into(),
        name: "app:latest".into(),
        node_login: false,
        broker: false,
        api: None,
        peers: Vec::new(),
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedImages {
    pub(super) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        held(&self.answers).extend(answers);
    }

    pub(super) fn pulls(&self) -> usize {
        self.pulls.load(Ordering::SeqCst)
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(super) fn last_peers(&self) -> Vec<String> {
        held(&self.peers).clone()
    }

    pub(super) fn evict(&self, digest: Digest) {
        held(&self.images).retain(|image| image.digest != digest);
    }

    pub(super) fn pins(&self) -> Vec<(Digest, Vec<String>)> {
        let images = held(&self.images);
        images.iter().map(|i| (i.digest, i.pins.clone())).collect()
    }

    fn keep(&self, order: &PullOrder) -> Receipt {
        let mut images = held(&self.images);
        images.retain(|image| image.digest != order.image.digest);
        images.push(CachedImage {
            digest: order.image.digest,
            image_hash: order.image.image_hash,
            image: order.image.name.clone(),
            bytes: 10,
            layers: 1,
            pins: order.pin.iter().cloned().collect(),
            in_use: 0,
            last_used: String::new(),
            blobs_kept: true,
        });
        Receipt {
            digest: order.image.digest,
            bytes_fetched: 10,
            bytes_from_mirrors: 0,
            bytes_present: 2,
            digests_verified: 4,
            seconds: 0.0,
        }
    }
}

/// Notices that the pull was dropped before its end.
struct Watchman(std::sync::Arc<AtomicBool>);

impl Drop for Watchman {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Images for SimulatedImages {
    fn usage(&self) -> CacheUsage {
        CacheUsage::default()
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn since(&self, _: Option<u64>) -> CacheDelta {
        CacheDelta {
            revision: *self.revision.borrow(),
            whole: true,
            put: held(&self.images).clone(),
            gone: Vec::new(),
        }
    }

    fn has(&self, digest: Digest) -> bool {
        held(&self.images)
            .iter()
            .any(|image| image.digest == digest)
    }

    async fn listing(&self) -> Result<CacheListing, Problem> {
        Ok(CacheListing {
            node: String::new(),
            usage: self.usage(),
            images: held(&self.images).clone(),
            items: Vec::new(),
            left_out: 0,
        })
    }

    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure> {
        self.pulls.fetch_add(1, Ordering::SeqCst);
        let answer = held(&self.answers).pop_front().unwrap_or(Answer::Ready);
        let failure = |kind: &str, transient| PullFailure {
            problem: Problem {
                kind: kind.to_owned(),
                title: "no".into(),
                status: 502,
                detail: String::new(),
                hint: String::new(),
            },
            transient,
        };
        match answer {
            Answer::Ready => {}
            Answer::Slow => {
                for done in 0..200 {
                    order.progress.send_replace(PullProgress {
                        done,
                        total: 200,
                        ..PullProgress::default()
                    });
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Answer::PinnedSlow => {
                self.keep(&order);
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            Answer::Transient => {
                order.progress.send_modify(|progress| progress.cost = COST);
                return Err(failure(problem::REGISTRY_UNREACHABLE, true));
            }
            Answer::Final => return Err(failure(problem::CACHE_TOO_SMALL, false)),
            Answer::Never => {
                let _watchman = Watchman(self.cancelled.clone());
                order.progress.send_modify(|progress| progress.total = 1);
                std::future::pending::<()>().await;
            }
        }
        *held(&self.peers) = order.peers.borrow().clone();
        Ok(self.keep(&order))
    }

    async fn remove(&self, _: Digest, _: bool) -> Result<GcReport, Problem> {
        self.collect(GcRequest::default()).await
    }

    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem> {
        Ok(GcReport {
            node: String::new(),
            dry_run: gc.dry_run,
            freed_bytes: 0,
            freed: Vec::new(),
            kept: Vec::new(),
            usage: self.usage(),
            left_out: 0,
        })
    }

    async fn unpin(&self, digest: Digest, label: &str) -> Result<(), Problem> {
        for image in held(&self.images).iter_mut().filter(|i| i.digest == digest) {
            image.pins.retain(|pin| pin != label);
        }
        Ok(())
    }
}
