//! When things were last used, so that a collector takes none that somebody relies on.
//!
//! Whoever is told that a blob is there relies on it from then on: a client does not send it again, a
//! build goes on from it. So the answer and the note of it are one step, and so are the collector's
//! look at that note and the removal: both happen under [`Uses::hold`]. Either the collector sees
//! the use and lets the thing be, or the other one sees that it is gone.
//!
//! A use is noted in memory, by the clock that nobody sets, and on the disk (the time of modification
//! of a file), which a restart survives. An operation that may take longer than the collector's
//! grace holds a [`Lease`]: while it lives, nothing counts as unused that was used up to the grace
//! before the lease began. `docs/gc.md` has the whole protocol.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Parts of the table that are locked alone.
const SHARDS: usize = 64;
/// A use is noted on the disk again after this time only.
pub(crate) const DISK_EVERY: Duration = Duration::from_secs(60);

/// Last uses by key.
#[derive(Debug)]
pub struct Uses<K> {
    shards: Vec<Mutex<HashMap<K, Use>>>,
    hasher: RandomState,
}

/// A use by the clock of this process.
#[derive(Debug, Clone, Copy)]
struct Use {
    last: Instant,
    /// The use that is noted on the disk, if it could be.
    on_disk: Option<Instant>,
}

/// Everything that was used before is unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// By the clock that notes on the disk have.
    pub wall: SystemTime,
    /// By the clock of this process; none when that does not reach back so far.
    clock: Option<Instant>,
}

/// One thing, of which nobody else can say or note anything now.
#[derive(Debug)]
pub struct Held<'a, K> {
    shard: MutexGuard<'a, HashMap<K, Use>>,
    key: &'a K,
}

impl<K: Hash + Eq + Clone> Default for Uses<K> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl<K: Hash + Eq + Clone> Uses<K> {
    /// Takes hold of a thing. To be held for as long as a few calls of the file system take.
    pub fn hold<'a>(&'a self, key: &'a K) -> Held<'a, K> {
        let hash = self.hasher.hash_one(key);
        let at = usize::try_from(hash % SHARDS as u64).unwrap_or(0);
        Held {
            // Each change is one insert or remove: a panic elsewhere spoils nothing.
            shard: self.shards[at]
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            key,
        }
    }

    /// Forgets uses that are on the disk and before the horizon.
    pub fn forget_before(&self, horizon: &Horizon) {
        let Some(clock) = horizon.clock else {
            return;
        };
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, found| found.on_disk.is_none() || found.last >= clock);
        }
    }
}

impl<K: Hash + Eq + Clone> Held<'_, K> {
    /// Notes that it is used; `record` does so on the disk, and is called once a minute at most.
    pub fn used(mut self, record: impl FnOnce() -> io::Result<()>) {
        let now = Instant::now();
        let before = self.shard.get(self.key).and_then(|found| found.on_disk);
        let mut on_disk = before;
        if before.is_none_or(|at| now.duration_since(at) >= DISK_EVERY) {
            match record() {
                Ok(()) => on_disk = Some(now),
                // It is remembered until the process ends.
                Err(error) => {
                    tracing::warn!(%error, "a use is not noted on the disk");
                    on_disk = None;
                }
            }
        }
        let found = Use { last: now, on_disk };
        self.shard.insert(self.key.clone(), found);
    }

    /// Whether it was used after the horizon; `on_disk` is what the disk says.
    pub fn is_used(&self, horizon: &Horizon, on_disk: SystemTime) -> bool {
        let remembered = self.shard.get(self.key).map(|found| found.last);
        on_disk >= horizon.wall
            || remembered.is_some_and(|at| horizon.clock.is_none_or(|clock| at >= clock))
    }

    /// Forgets it: it is gone.
    pub fn gone(mut self) {
        self.shard.remove(self.key);
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    wall: SystemTime,
    clock: Instant,
}

impl Moment {
    fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            clock: Instant::now(),
        }
    }
}

/// Operations that are under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Leases(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    begun: BTreeMap<u64, Moment>,
}

/// An operation that is under way, until this is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Lease {
    leases: Leases,
    number: u64,
}

impl Leases {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one.
    pub fn begin(&self) -> Lease {
        let mut open = self.open();
        let number = open.next;
        open.next += 1;
        open.begun.insert(number, Moment::now());
        Lease {
            leases: self.clone(),
            number,
        }
    }

    /// What counts as unused: what was last used `grace` before now, or before the oldest operation
    /// began; `oldest` is the begin of the oldest one that holds no lease.
    pub fn horizon(&self, grace: Duration, oldest: Option<SystemTime>) -> Horizon {
        let now = Moment::now();
        let open = self.open();
        let begun = open.begun.values();
        let wall = begun.clone().map(|begun| begun.wall).chain(oldest);
        let wall = wall.fold(now.wall, SystemTime::min);
        let first = begun.map(|begun| begun.clock).fold(now.clock, Instant::min);
        // How long ago something began by the wall's clock cannot be more wrong than that clock.
        let age = oldest.and_then(|oldest| now.wall.duration_since(oldest).ok());
        let clock = now.clock.checked_sub(age.unwrap_or_default());
        let clock = clock.map(|clock| clock.min(first));
        Horizon {
            wall: wall.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH),
            clock: clock.and_then(|clock| clock.checked_sub(grace)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.open().begun.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_use_counts_by_either_clock() {
        let (uses, leases) = (Uses::<u32>::default(), Leases::default());
        let old = SystemTime::now() - 2 * HOUR;
        let horizon = leases.horizon(HOUR, None);
        assert!(!uses.hold(&1).is_used(&horizon, old));
        assert!(uses.hold(&1).is_used(&horizon, SystemTime::now()));
        // The disk's clock was set wrong, or the note on the disk failed.
        uses.hold(&1).used(|| Ok(()));
        uses.hold(&2).used(|| Err(io::Error::other("full")));
        for key in [1, 2] {
            assert!(uses.hold(&key).is_used(&horizon, old));
        }
        let later = leases.horizon(Duration::ZERO, None);
        for key in [1, 2] {
            assert!(!uses.hold(&key).is_used(&later, old));
        }
        // What the disk knows need not be remembered.
        uses.forget_before(&later);
        let count: usize = uses.shards.iter().map(|s| s.lock().unwrap().len()).sum();
        assert_eq!(count, 1);
        uses.hold(&2).gone();
        assert!(!uses.hold(&2).is_used(&horizon, old));
    }

    #[test]
    fn the_disk_is_told_now_and_then() {
        let uses = Uses::<u32>::default();
        let mut told = 0;
        for _ in 0..100 {
            uses.hold(&1).used(|| {
                told += 1;
                Ok(())
            });
        }
        assert!((1..5).contains(&told), "{told}");
    }

    #[test]
    fn a_lease_holds_the_horizon_back() {
        let leases = Leases::default();
        let lease = leases.begin();
        std::thread::sleep(Duration::from_millis(30));
        let used = (Instant::now(), SystemTime::now());
        std::thread::sleep(Duration::from_millis(30));
        let held = leases.horizon(Duration::ZERO, None);
        assert!(used.1 >= held.wall && held.clock.is_some_and(|clock| used.0 >= clock));
        drop(lease);
        let free = leases.horizon(Duration::ZERO, None);
        assert!(used.1 < free.wall && free.clock.is_some_and(|clock| used.0 < clock));
        let told = leases.horizon(Duration::ZERO, Some(used.1));
        assert!(used.1 >= told.wall && told.clock.is_none_or(|clock| clock < Instant::now()));
        // An operation from before this machine was started.
        let ages = leases.horizon(Duration::ZERO, Some(SystemTime::UNIX_EPOCH));
        assert_eq!(ages.wall, SystemTime::UNIX_EPOCH);
        assert!(ages.clock.is_none_or(|clock| clock < used.0));
    }
}
