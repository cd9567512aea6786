//! Room: taken before bytes are written, by evicting what may go, and given back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use super::error::{CacheError, Result};
use super::{Cache, Inner, State};

/// Room is taken for what grows in steps of this many bytes.
const STEP: u64 = 16 << 20;

/// The room of a cache, for what lies elsewhere but shares it.
#[derive(Clone)]
pub struct Room(Weak<Inner>);

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Room").finish()
    }
}

impl Room {
    /// Begins to take room for `what`, which has none yet.
    ///
    /// # Errors
    /// [`CacheError::Cancelled`] when the cache was closed.
    pub fn begin(&self, what: String) -> Result<Taken> {
        let inner = self.0.upgrade().ok_or(CacheError::Cancelled)?;
        Ok(Taken::new(inner, what, Arc::default()))
    }
}

impl Cache {
    /// The cache's room.
    pub fn room(&self) -> Room {
        Room(Arc::downgrade(&self.inner))
    }
}

/// Room taken for one thing that grows; given back when dropped.
pub struct Taken {
    inner: Arc<Inner>,
    what: String,
    bytes: u64,
    /// Tells others how much.
    shown: Arc<AtomicU64>,
}

impl std::fmt::Debug for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken")
            .field("what", &self.what)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Taken {
    pub(crate) fn new(inner: Arc<Inner>, what: String, shown: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            what,
            bytes: 0,
            shown,
        }
    }

    /// Takes room for `bytes` altogether, evicting others if need be. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError::TooSmall`], [`CacheError::Io`].
    pub fn grow(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        // Ahead of need where there is plenty, to the byte where there is not.
        let more = bytes - self.bytes;
        let step = self.step(more);
        let granted = match self.inner.free_for(step, &self.what) {
            Ok(()) => step,
            Err(_) => self.inner.free_for(more, &self.what).map(|()| more)?,
        };
        self.add(granted);
        Ok(())
    }

    /// As [`grow`](Self::grow), but on a thread that may block where room has to be made.
    ///
    /// # Errors
    /// As [`grow`](Self::grow).
    pub async fn grown(mut self, bytes: u64) -> Result<Self> {
        if bytes <= self.bytes {
            return Ok(self);
        }
        let step = self.step(bytes - self.bytes);
        if self.inner.take_free(step) {
            self.add(step);
            return Ok(self);
        }
        let grow = move || self.grow(bytes).map(|()| self);
        let grown = tokio::task::spawn_blocking(grow).await;
        grown.map_err(|_| CacheError::Cancelled)?
    }

    /// Ends the claim without giving it back: whoever calls this does.
    pub(crate) fn disarm(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// What is taken for `more` bytes: all that is taken ahead must be little of a small cache, too,
    /// or the last one fails.
    fn step(&self, more: u64) -> u64 {
        let least = STEP.min(self.inner.settings.size_limit / 256).max(1);
        more.checked_next_multiple_of(least).unwrap_or(more)
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.shown.store(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Without a claim there is nothing to give back, and the lock may be held.
        if self.bytes > 0 {
            self.inner.release(self.bytes);
        }
        self.shown.store(0, Ordering::Relaxed);
    }
}

impl Inner {
    /// Evicts until `bytes` more fit, and grants them: they count as taken until
    /// [`release`](Self::release) or the layer's commit. Blocks on the disk.
    pub(crate) fn free_for(&self, bytes: u64, what: &str) -> Result<()> {
        let names = self.names();
        let mut state = self.lock();
        let over = self.over(&state, bytes);
        let (mut evicted, mut short) = (super::Evicted::default(), 0);
        if over > 0 {
            self.fits(&state, bytes, what)?;
            let victims = state.victims(over);
            short = over.saturating_sub(victims.bytes);
            evicted = self.evict(&mut state, &victims)?;
        }
        state.reserved += bytes;
        drop(state);
        drop(names);
        self.remove_evicted(&evicted);
        if short == 0 {
            return Ok(());
        }
        let files = self.files.get();
        let freed = files.map_or_else(Vec::new, |files| files.free(short));
        if freed.iter().map(|item| item.bytes).sum::<u64>() < short {
            // What was to be freed may have come into use in between.
            let mut state = self.lock();
            if self.over(&state, 0) > 0 {
                state.reserved = state.reserved.saturating_sub(bytes);
                return Err(self.too_small(&state, bytes, what));
            }
        }
        Ok(())
    }

    /// Grants `bytes` if they are free.
    fn take_free(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        let fits = self.over(&state, bytes) == 0;
        if fits {
            state.reserved += bytes;
        }
        fits
    }

    /// Whether `bytes` could be had; takes nothing.
    pub(crate) fn check_room(&self, bytes: u64, what: &str) -> Result<()> {
        self.fits(&self.lock(), bytes, what)
    }

    pub(crate) fn release(&self, bytes: u64) {
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// Bytes that have to go for `bytes` more to fit.
    fn over(&self, state: &State, bytes: u64) -> u64 {
        let used = state.layer_bytes() + state.reserved + self.files_used();
        used.saturating_add(bytes).saturating_sub(self.limit)
    }

    fn fits(&self, state: &State, bytes: u64, what: &str) -> Result<()> {
        let held = state.held_bytes() + self.files_held();
        match bytes > self.limit.saturating_sub(held) {
            true => Err(self.too_small(state, bytes, what)),
            false => Ok(()),
        }
    }

    fn too_small(&self, state: &State, bytes: u64, what: &str) -> CacheError {
        let held = state.held_bytes() + self.files_held();
        CacheError::TooSmall {
            what: what.to_owned(),
            needed: bytes,
            limit: self.limit,
            available: self.limit.saturating_sub(held),
            held,
        }
    }
}
