//! What the cache says of itself, and freeing by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_core::wire::{
    CacheItem, CacheItemKind, CacheListing, CacheUsage, CachedImage, GcReport, GcRequest,
};
use tokio::sync::watch;

use super::error::{CacheError, Result};
use super::{Cache, Inner, State, Victims};
use crate::agent::CacheDelta;

impl Cache {
    /// How full the cache is.
    pub fn usage(&self) -> CacheUsage {
        self.inner.usage(&self.inner.lock())
    }

    /// Number that grows with every image that comes, goes or gets other pins; from 1 on.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// What changed since a revision; everything when that is `None`, unknown or too long ago.
    pub fn since(&self, revision: Option<u64>) -> CacheDelta {
        let state = self.inner.lock();
        let known = revision.filter(|r| (state.forgotten..=state.revision).contains(r));
        let since = known.unwrap_or(0);
        let news = state.images.values().filter(|image| image.changed > since);
        let put = news.map(|image| described(&state, &image.record.digest));
        let gone = state.gone.iter().filter(|(at, digest)| {
            known.is_some() && *at > since && !state.images.contains_key(digest)
        });
        let mut gone: Vec<Digest> = gone.map(|(_, digest)| *digest).collect();
        gone.sort_unstable();
        gone.dedup();
        CacheDelta {
            revision: state.revision,
            whole: known.is_none(),
            put: put.flatten().collect(),
            gone,
        }
    }

    /// The images, most recently used first, and everything that takes room with the reason why it
    /// is kept. The name of the node is left empty.
    pub fn listing(&self) -> CacheListing {
        let state = self.inner.lock();
        let mut images: Vec<_> = state.images.iter().collect();
        images.sort_by_key(|(digest, image)| (std::cmp::Reverse(image.used), **digest));
        let images = images
            .into_iter()
            .map(|(digest, _)| described(&state, digest));
        let mut items: Vec<CacheItem> = self.inner.items(&state);
        let listing = CacheListing {
            node: String::new(),
            usage: self.inner.usage(&state),
            images: images.flatten().collect(),
            items: Vec::new(),
            left_out: 0,
        };
        drop(state);
        if let Some(files) = self.inner.files.get() {
            items.extend(files.items());
        }
        CacheListing { items, ..listing }
    }

    /// Removes an image, with the layers that no other image has; with `unpin` also one that is
    /// pinned, whose pins go with it.
    ///
    /// # Errors
    /// [`CacheError::NotFound`], [`CacheError::Kept`] for one that is in use, or is pinned and to
    /// stay so, which changes nothing of it, and [`CacheError::Io`].
    pub async fn remove(&self, digest: Digest, unpin: bool) -> Result<GcReport> {
        self.blocking(move |inner| {
            let names = inner.names();
            let mut state = inner.lock();
            let image = state.images.get(&digest);
            let image = image.ok_or(CacheError::NotFound(digest))?;
            let kept = |why: String| CacheError::Kept { image: digest, why };
            if image.leases > 0 {
                let why = format!("{} use it; stop them first", sandboxes(image.leases));
                return Err(kept(why));
            }
            if !unpin && !image.record.pins.is_empty() {
                let why = format!("{}; unpin it first", pinned(&image.record.pins));
                return Err(kept(why));
            }
            let victims = state.victims_of(&digest);
            let freed = inner.named(&state, &victims);
            let evicted = inner.evict(&mut state, &victims)?;
            let report = inner.report(&state, false, freed, Vec::new());
            drop(state);
            drop(names);
            inner.remove_evicted(&evicted);
            Ok(report)
        })
        .await
    }

    /// Frees room: kept blobs, then layers that no image has, then images by their last use, then
    /// mounted files, until at most `target_bytes` are used. With `dry_run` only says so.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub async fn collect(&self, gc: GcRequest) -> Result<GcReport> {
        self.blocking(move |inner| {
            let names = inner.names();
            let mut state = inner.lock();
            let blobs: Vec<Digest> = state.blobs.keys().copied().collect();
            let used = state.layer_bytes() + inner.files_used();
            let enough = gc
                .target_bytes
                .map_or(u64::MAX, |target| used.saturating_sub(target));
            let victims = state.victims(enough);
            let mut freed = inner.named(&state, &victims);
            let all = inner.items(&state);
            let is_freed = |item: &CacheItem, freed: &[CacheItem]| {
                freed
                    .iter()
                    .any(|f| (f.kind, f.digest) == (item.kind, item.digest))
            };
            freed.extend(
                all.iter()
                    .filter(|i| i.kind == CacheItemKind::Blob && i.evictable)
                    .cloned(),
            );
            let mut kept: Vec<CacheItem> = all
                .into_iter()
                .filter(|item| !is_freed(item, &freed))
                .collect();
            if gc.dry_run {
                if let Some(files) = inner.files.get() {
                    let left = enough.saturating_sub(victims.bytes);
                    let mut sum = 0;
                    for item in files.items() {
                        match item.evictable && sum < left {
                            true => {
                                sum += item.bytes;
                                freed.push(item);
                            }
                            false => kept.push(item),
                        }
                    }
                }
                return Ok(inner.report(&state, true, freed, kept));
            }
            let mut evicted = inner.evict(&mut state, &victims)?;
            evicted.left.extend(inner.retire_blobs(&mut state, &blobs));
            drop(state);
            drop(names);
            inner.remove_evicted(&evicted);
            if let Some(files) = inner.files.get() {
                freed.extend(files.free(enough.saturating_sub(victims.bytes)));
                kept.extend(files.items());
            }
            Ok(inner.report(&inner.lock(), false, freed, kept))
        })
        .await
    }
}

impl Inner {
    fn usage(&self, state: &State) -> CacheUsage {
        CacheUsage {
            size_limit: self.limit,
            used: state.layer_bytes() + state.reserved + self.files_used(),
            held: state.held_bytes() + self.files_held(),
            images: state.images.len(),
            layers: state.layers.len(),
            hits: state.hits,
            misses: state.misses,
            evictions: state.evictions,
        }
    }

    /// Layers and kept blobs, each with the reason why it is there.
    fn items(&self, state: &State) -> Vec<CacheItem> {
        let mut users: BTreeMap<Digest, Vec<&Digest>> = BTreeMap::new();
        for (digest, image) in &state.images {
            for layer in &image.record.layers {
                let of = users.entry(layer.digest).or_default();
                if of.last() != Some(&digest) {
                    of.push(digest);
                }
            }
        }
        let mut items = Vec::new();
        for (digest, layer) in &state.layers {
            let of = users.get(digest).map(Vec::as_slice).unwrap_or_default();
            let (why, evictable) = why(state, digest, of);
            items.push(CacheItem {
                kind: CacheItemKind::Layer,
                digest: *digest,
                bytes: layer.note.bytes,
                why,
                evictable,
            });
        }
        for (digest, flight) in &state.flights {
            if !state.layers.contains_key(digest) {
                items.push(CacheItem {
                    kind: CacheItemKind::Layer,
                    digest: *digest,
                    bytes: flight.reserved(),
                    why: "being pulled".to_owned(),
                    evictable: false,
                });
            }
        }
        for (digest, blob) in &state.blobs {
            items.push(CacheItem {
                kind: CacheItemKind::Blob,
                digest: *digest,
                bytes: blob.size,
                why: "kept for other nodes".to_owned(),
                evictable: true,
            });
        }
        items
    }

    /// The layers that go, each with the reason that ends.
    fn named(&self, state: &State, victims: &Victims) -> Vec<CacheItem> {
        let items = self.items(state).into_iter();
        items
            .filter(|item| {
                item.kind == CacheItemKind::Layer && victims.layers.contains(&item.digest)
            })
            .collect()
    }

    fn report(
        &self,
        state: &State,
        dry_run: bool,
        freed: Vec<CacheItem>,
        kept: Vec<CacheItem>,
    ) -> GcReport {
        GcReport {
            node: String::new(),
            dry_run,
            freed_bytes: freed.iter().map(|item| item.bytes).sum(),
            freed,
            kept,
            usage: self.usage(state),
            left_out: 0,
        }
    }
}

/// Why a layer is kept, the strongest reason first, and whether it may go.
fn why(state: &State, digest: &Digest, images: &[&Digest]) -> (String, bool) {
    let found = || images.iter().filter_map(|image| state.images.get(image));
    let name = |image: &super::Image| image.record.name.clone();
    if let Some(image) = found().find(|image| image.leases > 0) {
        let who = sandboxes(image.leases);
        return (format!("{who} of {} use it", name(image)), false);
    }
    if let Some(image) = found().find(|image| !image.record.pins.is_empty()) {
        let why = format!("{} is {}", name(image), pinned(&image.record.pins));
        return (why, false);
    }
    if state.claims.contains_key(digest) {
        return ("a running pull needs it".to_owned(), false);
    }
    match found().max_by_key(|image| image.used) {
        Some(image) => {
            let others = match images.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let used = time(image.used);
            (
                format!("part of {}{others}, last used {used}", name(image)),
                true,
            )
        }
        None => (
            "no image has it; left by a pull that did not end".to_owned(),
            true,
        ),
    }
}

fn sandboxes(count: usize) -> String {
    match count {
        1 => "1 sandbox".to_owned(),
        n => format!("{n} sandboxes"),
    }
}

fn pinned(labels: &[String]) -> String {
    format!("pinned as `{}`", labels.join("`, `"))
}

fn time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .unwrap_or_default()
        .round(jiff::Unit::Second)
        .unwrap_or_default()
        .to_string()
}

fn described(state: &State, digest: &Digest) -> Option<CachedImage> {
    let image = state.images.get(digest)?;
    let record = Arc::clone(&image.record);
    let layers: std::collections::BTreeSet<Digest> =
        record.layers.iter().map(|l| l.digest).collect();
    let bytes = layers.iter().filter_map(|layer| state.layers.get(layer));
    Some(CachedImage {
        digest: *digest,
        image_hash: record.image_hash,
        image: record.name.clone(),
        bytes: bytes.map(|layer| layer.note.bytes).sum(),
        layers: record.layers.len(),
        pins: record.pins.clone(),
        in_use: image.leases,
        last_used: time(image.used),
        blobs_kept: layers.iter().all(|layer| state.blobs.contains_key(layer)),
    })
}
