//! Bringing an image into the cache: manifest and config first, then the layers that are missing,
//! several at once, each in one pass from the network to its final form.
//!
//! Everything is verified: the manifest and the config against their digests, each blob against its
//! digest and each uncompressed layer against the config's `diff_ids` (image-spec, config.md). A
//! layer that several pulls need is fetched once; it goes on as long as one of them waits for it.

mod layer;
mod pace;
mod pipe;
mod plan;
mod servers;
mod sources;
mod spool;
mod tally;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use chalk_core::Digest;
use chalk_core::wire::Receipt;
use chalk_watch::traces;
use futures_util::TryStreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tracing::Instrument as _;

pub(crate) use layer::{Flight, in_flight};
pub(crate) use plan::{Plan, fetch_config, fetch_manifest, read_manifest};
pub(crate) use servers::{Counts, Part, PassedOver, Patience, Senders, Servers};
pub(crate) use sources::Sources;
pub(crate) use spool::{Filled, Keeping, Spool};
pub(crate) use tally::{Stage, Tally};

use crate::agent::{PullCost, PullProgress};
use crate::cache::{
    Cache, CacheError, Claim, Image, ImageRecord, ImageSource, LayerRef, Lease, Result, State,
};
use layer::Seat;

impl Cache {
    /// Brings an image into the cache; at once when it is there. With a label it is pinned, too,
    /// before anything could evict it. Dropping the future gives the pull up; layers that are
    /// finished by then stay.
    ///
    /// # Errors
    /// All of [`CacheError`] but `NotFound`, `Kept` and `Locked`.
    pub async fn ensure(
        &self,
        source: &ImageSource,
        pin: Option<&str>,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<Receipt> {
        let done = self.bring(source, pin, progress, |_, _| Ok(())).await?;
        Ok(done.0)
    }

    /// As [`ensure`](Self::ensure), and holds the image in the same breath.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub async fn acquire(
        &self,
        source: &ImageSource,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<(Lease, Receipt)> {
        let digest = source.digest;
        let lease = move |cache: &Self, state: &mut State| {
            let lease = cache.lease_in(state, &digest);
            lease.ok_or(CacheError::NotFound(digest))
        };
        let (receipt, lease) = self.bring(source, None, progress, lease).await?;
        Ok((lease, receipt))
    }

    async fn bring<T: Send + 'static>(
        &self,
        source: &ImageSource,
        pin: Option<&str>,
        progress: &watch::Sender<PullProgress>,
        finish: impl FnOnce(&Self, &mut State) -> Result<T> + Send + 'static,
    ) -> Result<(Receipt, T)> {
        let begin = Instant::now();
        let (size, done) = match self.find(source, pin, finish) {
            Found::Whole(found) => found?,
            Found::Missing(finish) => {
                return self.fetch(source, pin, progress, finish, begin).await;
            }
        };
        self.touch(&source.digest);
        let receipt = Receipt {
            digest: source.digest,
            bytes_fetched: 0,
            bytes_from_mirrors: 0,
            bytes_present: size,
            digests_verified: 0,
            seconds: begin.elapsed().as_secs_f64(),
        };
        Ok((receipt, done))
    }

    /// Looks an image up and, if it is whole and pinned as wanted, finishes under the same lock.
    fn find<T, F: FnOnce(&Self, &mut State) -> Result<T>>(
        &self,
        source: &ImageSource,
        pin: Option<&str>,
        finish: F,
    ) -> Found<T, F> {
        let mut state = self.inner.lock();
        let Some(image) = state.images.get_mut(&source.digest) else {
            state.misses += 1;
            return Found::Missing(finish);
        };
        let pinned = |pin: &str| image.record.pins.iter().any(|label| label == pin);
        let is_pinned = pin.is_none_or(pinned);
        let size = Plan::from(&*image.record).size();
        image.used = SystemTime::now();
        state.hits += 1;
        if !is_pinned {
            return Found::Missing(finish);
        }
        Found::Whole(finish(self, &mut state).map(|done| (size, done)))
    }

    async fn fetch<T: Send + 'static>(
        &self,
        source: &ImageSource,
        pin: Option<&str>,
        progress: &watch::Sender<PullProgress>,
        finish: impl FnOnce(&Self, &mut State) -> Result<T> + Send + 'static,
        begin: Instant,
    ) -> Result<(Receipt, T)> {
        let known = {
            let state = self.inner.lock();
            state
                .images
                .get(&source.digest)
                .map(|i| Arc::clone(&i.record))
        };
        let is_known = known.is_some();
        let (plan, first) = match known {
            Some(record) => (Plan::from(&*record), PullCost::default()),
            None => {
                let plan = Plan::fetch(source).await?;
                let first = PullCost {
                    fetched: plan.small_bytes(),
                    verified: 2,
                    ..PullCost::default()
                };
                (plan, first)
            }
        };
        let unique = plan.unique();
        let claim = Claim::new(self, unique.iter().map(|layer| layer.digest).collect());
        let missing: Vec<LayerRef> = {
            let state = self.inner.lock();
            agree(&state, source.digest, &plan.layers)?;
            let missing = unique
                .iter()
                .filter(|l| !state.layers.contains_key(&l.digest));
            missing.copied().collect()
        };
        let needed = total_size(&missing);
        self.inner
            .check_room(needed, &format!("image {}", source.name))?;
        let cost = self.fetch_layers(source, &missing, first, progress).await?;
        let present = total_size(&unique).saturating_sub(cost.layers);
        let small = if is_known { plan.small_bytes() } else { 0 };
        let record = ImageRecord {
            digest: source.digest,
            image_hash: source.image_hash,
            name: source.name.clone(),
            manifest: plan.manifest,
            config: plan.config,
            config_digest: plan.config_digest,
            layers: plan.layers,
            pins: pin.map(str::to_owned).into_iter().collect(),
        };
        let cache = self.clone();
        let done = self
            .blocking(move |_| {
                let _claim = claim;
                cache.insert(record, finish)
            })
            .await?;
        let receipt = Receipt {
            digest: source.digest,
            bytes_fetched: cost.fetched,
            bytes_from_mirrors: cost.from_mirrors,
            bytes_present: present + small,
            digests_verified: cost.verified,
            seconds: begin.elapsed().as_secs_f64(),
        };
        Ok((receipt, done))
    }

    /// Makes an image known whose layers are all there and claimed.
    fn insert<T>(
        &self,
        mut record: ImageRecord,
        finish: impl FnOnce(&Self, &mut State) -> Result<T>,
    ) -> Result<T> {
        let digest = record.digest;
        let used = SystemTime::now();
        let _names = self.inner.names();
        agree(&self.inner.lock(), digest, &record.layers)?;
        if let Some(old) = self.inner.lock().images.get(&digest) {
            record.pins.extend(old.record.pins.iter().cloned());
            record.pins.sort();
            record.pins.dedup();
            record.image_hash = record.image_hash.or(old.record.image_hash);
        }
        self.inner.disk.put_image(&record, used)?;
        let image = Image::new(Arc::new(record), used);
        let mut image = image.ok_or_else(|| CacheError::Image {
            image: digest,
            detail: "its config cannot be read".to_owned(),
        })?;
        let mut state = self.inner.lock();
        image.leases = state.images.get(&digest).map_or(0, |old| old.leases);
        state.images.insert(digest, image);
        state.changed(&digest);
        self.inner.tell(&state);
        finish(self, &mut state)
    }

    /// Fetches the layers that are missing; `first` is what was spent before. Says what all costs
    /// also when it fails.
    async fn fetch_layers(
        &self,
        source: &ImageSource,
        missing: &[LayerRef],
        first: PullCost,
        progress: &watch::Sender<PullProgress>,
    ) -> Result<PullCost> {
        let tally = Tally::new(missing, first);
        let layers: FuturesUnordered<_> = missing
            .iter()
            .map(|layer| self.fetch_layer(source, *layer, &tally))
            .collect();
        tally.follow(layers.try_collect(), progress).await
    }

    /// Waits for one layer.
    async fn fetch_layer(
        &self,
        source: &ImageSource,
        layer: LayerRef,
        tally: &Tally<'_>,
    ) -> Result<()> {
        loop {
            let there = self.inner.lock().layers.contains_key(&layer.digest);
            if there {
                tally.note(layer.digest, Stage::Whole);
                return Ok(());
            }
            let seat = Seat::take(self, layer, source);
            let span = tracing::info_span!(
                target: traces::TARGET,
                "layer",
                layer = %layer.digest,
                bytes = layer.size,
            );
            let counts = Arc::clone(seat.flight().counts());
            tally.note(
                layer.digest,
                match seat.began {
                    true => Stage::Ours(counts, false),
                    false => Stage::Others(counts),
                },
            );
            match seat.wait().instrument(span).await {
                Ok(()) => {
                    tally.finished(&layer.digest);
                    return Ok(());
                }
                Err(error) if seat.began => return Err(error),
                // The others gave up, or had worse servers: now with ours.
                Err(error) => tracing::debug!(%error, layer = %layer.digest, "trying by ourselves"),
            }
        }
    }
}

/// Whether an image is there.
enum Found<T, F> {
    Whole(Result<(u64, T)>),
    Missing(F),
}

/// Bytes of layers in the registry; a manifest may claim any number.
pub(crate) fn total_size(layers: &[LayerRef]) -> u64 {
    let sizes = layers.iter().map(|layer| layer.size);
    sizes.fold(0, u64::saturating_add)
}

/// Checks that layers that are there are what an image says of them: they were checked when they
/// came, but perhaps against what another image says.
fn agree(state: &State, image: Digest, layers: &[LayerRef]) -> Result<()> {
    for layer in layers {
        let there = state.layers.get(&layer.digest).map(|there| &there.note);
        let wrong = |what: String| CacheError::Image {
            image,
            detail: format!("it says of layer {} {what}", layer.digest),
        };
        match there {
            Some(note) if note.size != layer.size => {
                let (said, size) = (layer.size, note.size);
                return Err(wrong(format!(
                    "that it has {said} bytes, but it has {size}"
                )));
            }
            Some(note) if note.diff_id != layer.diff_id => {
                let (said, is) = (layer.diff_id, note.diff_id);
                return Err(wrong(format!("that its diff_id is {said}, but it is {is}")));
            }
            _ => {}
        }
    }
    Ok(())
}
