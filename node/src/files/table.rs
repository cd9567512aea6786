//! What is there, who holds it, and when it was last used.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::wire::{CacheItem, CacheItemKind};

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
        let why = match entry.holders {
            0 => format!("{what}, not in use"),
            n => format!("{what}, in use {n} times"),
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
    /// Who makes an entry does it alone.
    making: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    usage: u64,
    clock: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// Bytes; 0 for a tree, whose blobs count.
    size: u64,
    /// Held by sandboxes, and by trees that link to it.
    holders: usize,
    used: u64,
    /// Whether it is on the disk.
    made: bool,
    /// What a tree links to.
    blobs: Vec<Key>,
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
        state.clock += 1;
        let now = state.clock;
        let entry = state.entries.entry(key.clone()).or_default();
        entry.holders += 1;
        entry.used = now;
    }

    /// Keeps it no more.
    pub(super) fn release(&self, key: &Key) {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(key) {
            entry.holders = entry.holders.saturating_sub(1);
            if entry.holders == 0 && !entry.made {
                state.entries.remove(key);
            }
        }
        self.evict(&mut state, self.budget);
    }

    /// Takes up an entry that is on the disk; `blobs` are what a tree links to.
    pub(super) fn add(&self, key: &Key, size: u64, blobs: Vec<Key>) {
        let mut state = self.state();
        for blob in &blobs {
            if let Some(entry) = state.entries.get_mut(blob) {
                entry.holders += 1;
            }
        }
        state.clock += 1;
        let now = state.clock;
        let entry = state.entries.entry(key.clone()).or_default();
        entry.size = size;
        entry.made = true;
        entry.used = now;
        entry.blobs = blobs;
        state.usage += size;
        self.evict(&mut state, self.budget);
    }

    pub(super) fn usage(&self) -> u64 {
        self.state().usage
    }

    /// Bytes of what is held.
    pub(super) fn held(&self) -> u64 {
        let state = self.state();
        let held = state.entries.values().filter(|entry| entry.holders > 0);
        held.map(|entry| entry.size).sum()
    }

    /// Each file and directory that is there.
    pub(super) fn items(&self) -> Vec<CacheItem> {
        let state = self.state();
        let made = state.entries.iter().filter(|(_, entry)| entry.made);
        let mut items: Vec<CacheItem> = made.map(|(key, entry)| key.item(entry)).collect();
        items.sort_unstable_by_key(|item| item.digest);
        items
    }

    /// Removes what is not held, least recently used first, until `bytes` are free.
    pub(super) fn free(&self, bytes: u64) -> Vec<CacheItem> {
        let mut state = self.state();
        let most = state.usage.saturating_sub(bytes);
        self.evict(&mut state, most)
    }

    /// Removes what is not held, least recently used first, until the rest takes at most `most`
    /// bytes; says what went.
    fn evict(&self, state: &mut State, most: u64) -> Vec<CacheItem> {
        let mut gone = Vec::new();
        while state.usage > most {
            let oldest = state
                .entries
                .iter()
                .filter(|(_, entry)| entry.made && entry.holders == 0)
                .min_by_key(|(_, entry)| entry.used)
                .map(|(key, _)| key.clone());
            let Some(key) = oldest else {
                break;
            };
            let Some(entry) = state.entries.remove(&key) else {
                break;
            };
            gone.push(key.item(&entry));
            for blob in &entry.blobs {
                if let Some(blob) = state.entries.get_mut(blob) {
                    blob.holders = blob.holders.saturating_sub(1);
                }
            }
            state.usage -= entry.size;
            let removed = match &key {
                Key::Blob { digest, executable } => {
                    fs::remove_file(blob_path(&self.dir, *digest, *executable))
                }
                Key::Tree { digest } => {
                    fs::remove_dir_all(self.dir.join("trees").join(digest.hex()))
                }
            };
            if let Err(error) = removed {
                tracing::warn!(?key, %error, "a mounted file cannot be removed");
            }
        }
        gone
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
