//! What is there, who holds it, and when it was last used.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::wire::{CacheItem, CacheItemKind};
use tokio::runtime::Handle;

/// Ending of the names of executable files.
const EXECUTABLE: &str = ".x";

/// What is kept under one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A file.
    Blob { digest: Digest, executable: bool },
    /// A directory.
    Tree { digest: Digest },
}

impl Key {
    fn item(&self, entry: &Entry) -> CacheItem {
        let (digest, what) = match self {
            Self::Blob { digest, .. } => (*digest, "mounted file"),
            Self::Tree { digest } => (*digest, "mounted directory"),
        };
        let why = match (entry.holders, entry.trees) {
            (0, 0) => format!("{what}, not in use"),
            (0, _) => format!("{what}, part of a directory that is not in use"),
            (n, _) => format!("{what}, in use {n} times"),
        };
        CacheItem {
            kind: CacheItemKind::File,
            digest,
            bytes: entry.size,
            why,
            evictable: entry.holders == 0,
        }
    }
}

/// The table of a directory of files.
#[derive(Debug)]
pub(super) struct Table {
    dir: PathBuf,
    budget: u64,
    state: Mutex<State>,
    /// Bytes of all, and of what is held: read without the lock.
    usage: AtomicU64,
    held: AtomicU64,
    /// Who makes an entry does it alone.
    making: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    usage: u64,
    /// Bytes of entries with holders.
    held: u64,
    clock: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Bytes; 0 for a tree, whose blobs count.
    size: u64,
    /// Sandboxes that hold it, and held trees that link to it.
    holders: usize,
    /// Trees on the disk that link to it, held or not.
    trees: usize,
    used: u64,
    /// Whether it is on the disk.
    made: bool,
    /// What a tree links to.
    blobs: Vec<Key>,
}

impl State {
    /// One more holder, of what it links to as well.
    fn hold(&mut self, key: &Key) {
        self.clock += 1;
        let now = self.clock;
        let entry = self.entries.entry(key.clone()).or_default();
        entry.holders += 1;
        entry.used = now;
        if entry.holders == 1 {
            self.held += entry.size;
            for blob in entry.blobs.clone() {
                self.hold(&blob);
            }
        }
    }

    /// One holder less.
    fn release(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.holders > 0) else {
            return;
        };
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        self.held -= entry.size;
        let blobs = entry.blobs.clone();
        if !entry.made && entry.trees == 0 {
            self.entries.remove(key);
        }
        for blob in blobs {
            self.release(&blob);
        }
    }

    /// What may go next.
    fn oldest(&self) -> Option<Key> {
        let free = |entry: &Entry| entry.made && entry.holders == 0 && entry.trees == 0;
        let free = self.entries.iter().filter(|(_, entry)| free(entry));
        free.min_by_key(|(_, entry)| entry.used)
            .map(|(key, _)| key.clone())
    }
}

/// What was evicted.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Evicted {
    pub(super) items: Vec<CacheItem>,
    /// Under new names, to be removed.
    left: Vec<PathBuf>,
}

impl Evicted {
    /// Removes what is left of it. Blocks.
    pub(super) fn remove(&self) {
        for path in &self.left {
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
            if let Err(error) = removed {
                // The next start sweeps it.
                tracing::warn!(%error, "an evicted file stays for now");
            }
        }
    }

    /// Removes it on a thread that may block.
    fn remove_elsewhere(self) {
        if self.left.is_empty() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || self.remove())),
            Err(_) => self.remove(),
        }
    }
}

/// Path of a blob below `dir`.
pub(super) fn blob_path(dir: &Path, digest: Digest, executable: bool) -> PathBuf {
    let ending = if executable { EXECUTABLE } else { "" };
    dir.join("blobs").join(format!("{}{ending}", digest.hex()))
}

impl Table {
    /// Reads what an earlier life left. Trees are not read again but removed: they are cheap to
    /// make, their blobs stay.
    pub(super) fn read(dir: &Path, budget: u64) -> io::Result<Table> {
        let trees = dir.join("trees");
        fs::remove_dir_all(&trees)?;
        fs::create_dir(&trees)?;
        // Oldest first, by the time of the last change of the inode.
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(dir.join("blobs"))? {
            let entry = entry?;
            let name = entry.file_name();
            let key = name.to_str().and_then(|name| {
                let (hex, executable) = match name.strip_suffix(EXECUTABLE) {
                    Some(hex) => (hex, true),
                    None => (name, false),
                };
                let digest = format!("sha256:{hex}").parse().ok()?;
                Some(Key::Blob { digest, executable })
            });
            let Some(key) = key else {
                fs::remove_file(entry.path())?;
                continue;
            };
            let metadata = entry.metadata()?;
            let age = (metadata.ctime(), metadata.ctime_nsec(), name);
            found.insert(age, (key, metadata.len()));
        }
        let table = Table {
            dir: dir.to_owned(),
            budget,
            state: Mutex::default(),
            usage: AtomicU64::new(0),
            held: AtomicU64::new(0),
            making: Mutex::default(),
        };
        for (key, size) in found.into_values() {
            table.add(&key, size, Vec::new());
        }
        Ok(table)
    }

    /// Waits until nobody else makes this entry.
    pub(super) async fn alone(&self, key: &Key) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            making.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(making.entry(key.clone()).or_default())
        };
        lock.lock_owned().await
    }

    /// Keeps an entry, which may not be made yet.
    pub(super) fn hold(&self, key: &Key) {
        let mut state = self.state();
        state.hold(key);
        self.show(&state);
    }

    /// Keeps it no more.
    pub(super) fn release(&self, key: &Key) {
        let mut state = self.state();
        state.release(key);
        let evicted = self.evict(&mut state, self.budget);
        drop(state);
        evicted.remove_elsewhere();
    }

    /// Takes up an entry that is on the disk; `blobs` are what a tree links to.
    pub(super) fn add(&self, key: &Key, size: u64, blobs: Vec<Key>) {
        let mut state = self.state();
        for blob in &blobs {
            state.entries.entry(blob.clone()).or_default().trees += 1;
        }
        state.clock += 1;
        let now = state.clock;
        let entry = state.entries.entry(key.clone()).or_default();
        entry.size = size;
        entry.made = true;
        entry.used = now;
        if entry.holders > 0 {
            state.held += size;
            for blob in &blobs {
                state.hold(blob);
            }
        }
        if let Some(entry) = state.entries.get_mut(key) {
            entry.blobs = blobs;
        }
        state.usage += size;
        let evicted = self.evict(&mut state, self.budget);
        drop(state);
        evicted.remove_elsewhere();
    }

    /// Bytes of all. Waits for nothing.
    pub(super) fn usage(&self) -> u64 {
        self.usage.load(Ordering::Relaxed)
    }

    /// Bytes of what is held. Waits for nothing.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Each file and directory that is there.
    pub(super) fn items(&self) -> Vec<CacheItem> {
        let state = self.state();
        let made = state.entries.iter().filter(|(_, entry)| entry.made);
        let mut items: Vec<CacheItem> = made.map(|(key, entry)| key.item(entry)).collect();
        items.sort_unstable_by_key(|item| item.digest);
        items
    }

    /// Takes away what is not held, least recently used first, until `bytes` are free.
    pub(super) fn free(&self, bytes: u64) -> Evicted {
        let mut state = self.state();
        let most = state.usage.saturating_sub(bytes);
        self.evict(&mut state, most)
    }

    /// Takes away what is not held, least recently used first, until the rest takes at most `most`
    /// bytes. Under the lock things only lose their names, which takes no time.
    fn evict(&self, state: &mut State, most: u64) -> Evicted {
        let mut evicted = Evicted::default();
        while state.usage > most {
            let Some((key, entry)) = state
                .oldest()
                .and_then(|key| state.entries.remove_entry(&key))
            else {
                break;
            };
            evicted.items.push(key.item(&entry));
            for blob in &entry.blobs {
                if let Some(blob) = state.entries.get_mut(blob) {
                    blob.trees = blob.trees.saturating_sub(1);
                }
            }
            state.usage -= entry.size;
            let path = match &key {
                Key::Blob { digest, executable } => blob_path(&self.dir, *digest, *executable),
                Key::Tree { digest } => self.dir.join("trees").join(digest.hex()),
            };
            let old = format!("old-{:032x}", rand::random::<u128>());
            let old = self.dir.join("new").join(old);
            match fs::rename(&path, &old) {
                Ok(()) => evicted.left.push(old),
                Err(error) => tracing::warn!(?key, %error, "a mounted file cannot be removed"),
            }
        }
        self.show(state);
        evicted
    }

    fn show(&self, state: &State) {
        self.usage.store(state.usage, Ordering::Relaxed);
        self.held.store(state.held, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
