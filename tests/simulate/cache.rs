//! The cache of a simulated node: what it holds is made up, what it is told it does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use chalk_core::Digest;
use chalk_core::wire::agent::ImageRef;
use chalk_core::wire::{
    CacheItem, CacheItemKind, CacheListing, CacheUsage, CachedImage, GcReport, GcRequest,
    LayerProgress, Problem, Receipt, problem,
};
use chalk_node::agent::{CacheDelta, Images, PullCost, PullFailure, PullOrder, PullProgress};
use jiff::{SignedDuration, Timestamp};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::catalogue::{Catalogue, Made};
use crate::chance;
use crate::documents::Layer;
use crate::engine::Pace;

/// Changes that are remembered, so that a node that comes back need not say everything again.
const REMEMBERED: usize = 256;

/// Label of the pins of what every node keeps ready, as the agent puts them on.
const PREWARM: &str = "prewarm";

/// An image in the cache.
#[derive(Debug, Clone)]
struct Held {
    digest: Digest,
    image_hash: Option<Digest>,
    name: String,
    bytes: u64,
    layers: usize,
    pins: Vec<String>,
    last_used: Timestamp,
}

impl Held {
    fn new(made: &Made, registry: &str, last_used: Timestamp) -> Self {
        Self {
            digest: made.manifest,
            image_hash: made.is_built().then_some(made.hash),
            name: chalk_service::places::pullable(registry, &made.hash),
            bytes: made.size,
            layers: made.layers,
            pins: Vec::new(),
            last_used,
        }
    }

    fn shown(&self) -> CachedImage {
        CachedImage {
            digest: self.digest,
            image_hash: self.image_hash,
            image: self.name.clone(),
            bytes: self.bytes,
            layers: self.layers,
            pins: self.pins.clone(),
            in_use: 0,
            last_used: self.last_used.to_string(),
            blobs_kept: true,
        }
    }

    fn item(&self) -> CacheItem {
        let why = match self.pins.is_empty() {
            true => format!("of {}, last used {}", self.name, self.last_used),
            false => format!("pinned by {}", self.pins.join(", ")),
        };
        CacheItem {
            kind: CacheItemKind::Layer,
            digest: self.digest,
            bytes: self.bytes,
            why,
            evictable: self.pins.is_empty(),
        }
    }
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    /// Revision and digest of the image that it put or took away.
    changes: VecDeque<(u64, Digest)>,
    limit: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
}

impl State {
    fn used(&self) -> u64 {
        self.held.iter().map(|held| held.bytes).sum()
    }
}

/// How a node does at pulling.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Bytes in a second.
    pub(crate) speed: f64,
    /// Chance that a pull breaks off and is tried again.
    pub(crate) breaks: f64,
    /// Whether its disk is full for ever.
    pub(crate) full: bool,
}

/// The cache of a node.
pub(crate) struct SimulatedImages {
    catalogue: Arc<Catalogue>,
    pace: Arc<Pace>,
    registry: String,
    link: Link,
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

impl SimulatedImages {
    /// A cache of that size with some images in it.
    pub(crate) fn new(
        catalogue: Arc<Catalogue>,
        pace: Arc<Pace>,
        registry: &str,
        link: Link,
        limit: u64,
    ) -> Self {
        let state = State {
            limit,
            ..State::default()
        };
        Self {
            catalogue,
            pace,
            registry: registry.to_owned(),
            link,
            state: Mutex::new(state),
            revision: watch::Sender::new(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts images in that were there before anybody looked, until it is as full as that.
    pub(crate) fn fill(&self, images: &[Made], share: f64, rng: &mut StdRng) {
        let now = Timestamp::now();
        let mut state = self.state();
        let mut room = state.limit as f64 * share;
        for made in images {
            room -= made.size as f64;
            if room < 0.0 {
                break;
            }
            let age = SignedDuration::from_secs(chance::spread(rng, 10.0, 3e6) as i64);
            let used = now.checked_sub(age).unwrap_or(now);
            state.held.push(Held::new(made, &self.registry, used));
        }
        state.hits = rng.random_range(50..20_000);
        state.misses = state.hits / rng.random_range(3..40);
        state.evictions = state.misses / 3;
    }

    /// Puts a base in that is kept ready.
    pub(crate) fn keep_ready(&self, base: &Made, reference: &str) {
        let mut held = Held::new(base, &self.registry, Timestamp::now());
        held.name = reference.to_owned();
        held.pins = vec![PREWARM.to_owned()];
        self.state().held.push(held);
    }

    /// What sandboxes of its own do: use what is there, and now and then bring in something else.
    pub(crate) fn use_some(&self, images: &[Made], rng: &mut StdRng) {
        let mut state = self.state();
        state.hits += rng.random_range(1..9);
        let now = Timestamp::now();
        if !state.held.is_empty() && rng.random_bool(0.5) {
            let at = rng.random_range(0..state.held.len());
            let digest = state.held[at].digest;
            state.held[at].last_used = now;
            self.changed(&mut state, digest);
        } else if !images.is_empty() {
            state.misses += 1;
            let made = &images[rng.random_range(0..images.len())];
            self.keep(&mut state, Held::new(made, &self.registry, now));
        }
    }

    fn changed(&self, state: &mut State, digest: Digest) {
        let revision = *self.revision.borrow() + 1;
        state.changes.push_back((revision, digest));
        if state.changes.len() > REMEMBERED {
            state.changes.pop_front();
        }
        self.revision.send_replace(revision);
    }

    /// Keeps an image, and evicts what was not used for longest where there is no room.
    fn keep(&self, state: &mut State, image: Held) {
        let digest = image.digest;
        let pins = state.held.iter().find(|held| held.digest == digest);
        let pins = pins.map(|held| held.pins.clone()).unwrap_or_default();
        state.held.retain(|held| held.digest != digest);
        let mut image = image;
        image.pins.extend(pins);
        image.pins.sort_unstable();
        image.pins.dedup();
        state.held.push(image);
        self.changed(state, digest);
        while state.used() > state.limit {
            let unpinned = state
                .held
                .iter()
                .filter(|held| held.pins.is_empty() && held.digest != digest);
            let Some(oldest) = unpinned.min_by_key(|held| held.last_used) else {
                break;
            };
            let gone = oldest.digest;
            state.evictions += oldest.layers as u64;
            state.held.retain(|held| held.digest != gone);
            self.changed(state, gone);
        }
    }

    fn refused(&self, kind: &str, title: &str, detail: String, transient: bool) -> PullFailure {
        PullFailure {
            problem: Problem {
                kind: kind.to_owned(),
                title: title.to_owned(),
                status: 502,
                detail,
                hint: String::new(),
            },
            transient,
        }
    }

    /// Frees what may go, except for what `keep` says; `only` restricts it to one image.
    fn free(&self, gc: &GcRequest, only: Option<Digest>) -> GcReport {
        let mut state = self.state();
        let mut used = state.used();
        state.held.sort_by_key(|held| held.last_used);
        let (mut freed, mut kept, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for held in &state.held {
            let wanted = only.is_none_or(|only| only == held.digest)
                && gc.target_bytes.is_none_or(|target| used > target);
            if wanted && held.pins.is_empty() {
                used -= held.bytes;
                gone.push(held.digest);
                freed.push(held.item());
            } else {
                kept.push(held.item());
            }
        }
        if !gc.dry_run {
            state.held.retain(|held| !gone.contains(&held.digest));
            for digest in gone {
                self.changed(&mut state, digest);
            }
        }
        drop(state);
        GcReport {
            node: String::new(),
            dry_run: gc.dry_run,
            freed_bytes: freed.iter().map(|item: &CacheItem| item.bytes).sum(),
            freed,
            kept,
            left_out: 0,
            usage: self.usage(),
        }
    }
}

#[async_trait]
impl Images for SimulatedImages {
    fn usage(&self) -> CacheUsage {
        let state = self.state();
        let pinned = state.held.iter().filter(|held| !held.pins.is_empty());
        CacheUsage {
            size_limit: state.limit,
            used: state.used(),
            held: pinned.map(|held| held.bytes).sum(),
            images: state.held.len(),
            layers: state.held.iter().map(|held| held.layers).sum(),
            hits: state.hits,
            misses: state.misses,
            evictions: state.evictions,
        }
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn since(&self, revision: Option<u64>) -> CacheDelta {
        let state = self.state();
        let now = *self.revision.borrow();
        let oldest = state
            .changes
            .front()
            .map_or(now, |(revision, _)| revision - 1);
        let Some(known) = revision.filter(|known| *known >= oldest && *known <= now) else {
            return CacheDelta {
                revision: now,
                whole: true,
                put: state.held.iter().map(Held::shown).collect(),
                gone: Vec::new(),
            };
        };
        let changes = state
            .changes
            .iter()
            .filter(|(revision, _)| *revision > known);
        let mut changed: Vec<Digest> = changes.map(|(_, digest)| *digest).collect();
        changed.sort_unstable();
        changed.dedup();
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for digest in changed {
            match state.held.iter().find(|held| held.digest == digest) {
                Some(held) => put.push(held.shown()),
                None => gone.push(digest),
            }
        }
        CacheDelta {
            revision: now,
            whole: false,
            put,
            gone,
        }
    }

    fn has(&self, digest: Digest) -> bool {
        self.state().held.iter().any(|held| held.digest == digest)
    }

    async fn listing(&self) -> Result<CacheListing, Problem> {
        let usage = self.usage();
        let mut state = self.state();
        state
            .held
            .sort_by_key(|held| std::cmp::Reverse(held.last_used));
        Ok(CacheListing {
            node: String::new(),
            usage,
            images: state.held.iter().map(Held::shown).collect(),
            items: state.held.iter().map(Held::item).collect(),
            left_out: 0,
        })
    }

    async fn pull(&self, order: PullOrder) -> Result<Receipt, PullFailure> {
        let began = Instant::now();
        let ImageRef {
            digest,
            image_hash,
            name,
            registry,
            ..
        } = &order.image;
        let made = self.catalogue.of_manifest(digest);
        let layers = made
            .map(|made| self.catalogue.layers(&made))
            .unwrap_or_default();
        let size: u64 = layers.iter().map(|layer| layer.size).sum();
        let image = Held {
            digest: *digest,
            image_hash: *image_hash,
            name: name.clone(),
            bytes: size,
            layers: layers.len(),
            pins: order.pin.iter().cloned().collect(),
            last_used: Timestamp::now(),
        };
        let verified = 2 + 2 * u32::try_from(layers.len()).unwrap_or(0);
        let receipt = |fetched: u64, peers: bool| Receipt {
            digest: *digest,
            bytes_fetched: fetched,
            bytes_from_mirrors: if peers { fetched } else { 0 },
            bytes_present: size - fetched,
            digests_verified: verified,
            seconds: began.elapsed().as_secs_f64(),
        };
        if self.has(*digest) {
            let mut state = self.state();
            state.hits += 1;
            self.keep(&mut state, image);
            return Ok(receipt(0, false));
        }
        self.state().misses += 1;
        if self.link.full {
            let detail = "no space left on device (os error 28)".to_owned();
            return Err(self.refused(problem::DISK_FULL, "the node's disk is full", detail, false));
        }
        let mut rng: StdRng = rand::SeedableRng::from_os_rng();
        // Other images share the base with it, so part of it is there.
        let from = rng.random_range(0..=layers.len() / 2);
        let absent: Vec<Layer> = layers.into_iter().skip(from).collect();
        let total: u64 = absent.iter().map(|layer| layer.size).sum();
        let peers = !order.peers.borrow().is_empty();
        let speed = self.link.speed * if peers { 1.7 } else { 1.0 } * rng.random_range(0.6..1.3);
        let breaks = rng
            .random_bool(self.link.breaks)
            .then(|| rng.random_range(0.05..0.95));
        let mut done = 0.0;
        while done < total as f64 {
            order
                .progress
                .send_replace(progress(&absent, done as u64, total));
            if breaks.is_some_and(|share: f64| done > share * total as f64) {
                let detail = format!("https://{registry}: connection reset by peer");
                return Err(self.refused(
                    problem::REGISTRY_UNREACHABLE,
                    "the registry cannot be reached",
                    detail,
                    true,
                ));
            }
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            done += speed * self.pace.speed * 0.25;
        }
        self.keep(&mut self.state(), image);
        Ok(receipt(total, peers))
    }

    async fn remove(&self, digest: Digest, unpin: bool) -> Result<GcReport, Problem> {
        if unpin && let Some(held) = self.state().held.iter_mut().find(|h| h.digest == digest) {
            held.pins.clear();
        }
        Ok(self.free(&GcRequest::default(), Some(digest)))
    }

    async fn collect(&self, gc: GcRequest) -> Result<GcReport, Problem> {
        Ok(self.free(&gc, None))
    }

    async fn unpin(&self, digest: Digest, label: &str) -> Result<(), Problem> {
        let mut state = self.state();
        if let Some(held) = state.held.iter_mut().find(|held| held.digest == digest) {
            held.pins.retain(|pin| pin != label);
            self.changed(&mut state, digest);
        }
        Ok(())
    }
}

/// Layers come one after the other, two at a time.
fn progress(layers: &[Layer], done: u64, total: u64) -> PullProgress {
    let mut left = done;
    let mut shown = Vec::new();
    for layer in layers {
        let of_this = left.min(layer.size);
        left -= of_this;
        if of_this < layer.size {
            shown.push(LayerProgress {
                digest: layer.digest,
                done: of_this,
                total: layer.size,
            });
        }
        if shown.len() == 2 {
            break;
        }
    }
    PullProgress {
        done,
        total,
        layers: shown,
        cost: PullCost {
            fetched: done,
            ..PullCost::default()
        },
    }
}
