//! The images on a node: every layer once, by the digest of its blob, in the form in which it is
//! mounted.
//!
//! - [`Cache::open`] takes a directory over and drops what is not whole. What stands under a name
//!   was verified and synced before it got the name, so a kill at any moment loses no finished
//!   layer and leaves no half one.
//! - [`Cache::ensure`] brings an image in; calls for one image or for shared layers share the work.
//! - [`Cache::lease`] holds an image while a sandbox uses it; pins hold it by a label. Eviction
//!   takes the rest, longest unused first, and layers only with the last image that has them.
//! - [`Cache::listing`], [`Cache::collect`] and [`Cache::remove`] say of each thing why it stays.
//!
//! Leases, claims of running pulls and evictions go through one lock: nothing that somebody got is
//! evicted under them.

mod disk;
mod error;
mod images;
mod lease;
mod probe;
mod report;
mod room;
mod state;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use chalk_core::wire::CacheItem;
use chalk_core::{Digest, Reference};
use chalk_store::layer::Limits;
use chalk_store::registry::Client;
use tokio::sync::{Semaphore, watch};

pub use disk::LayerForm;
pub use error::{CacheError, Result};
pub use images::NodeImages;
pub use lease::{Lease, LeasedLayer};
pub use room::{Room, Taken};

pub(crate) use disk::{Disk, ImageRecord, LayerNote, LayerRef, NewLayer};
pub(crate) use error::failed;
pub(crate) use state::{Image, KeptBlob, Layer, State, Victims};

use crate::CacheForm;
use crate::agent::AccessWatch;
use crate::metrics::PullMetrics;
use crate::pull::{PassedOver, Patience};

/// Bytes of memory in one permit of the budget.
pub(crate) const MEMORY_UNIT: u64 = 1 << 20;

/// Settings of a [`Cache`].
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// Directory of the cache; used by one process at a time.
    pub dir: PathBuf,
    /// Most bytes on disk that layers and mounted files may take. Never more than 80 % of the file
    /// system are used.
    pub size_limit: u64,
    /// Form of new layers. Layers of the other form that are there stay usable.
    pub form: CacheForm,
    /// Layers that are fetched at once.
    pub parallel: usize,
    /// Bytes of memory for the buffers of all pulls together.
    pub memory: u64,
    /// Most bytes of blobs kept for other nodes; 0 keeps none and serves none.
    pub mirror_bytes: u64,
    /// What one layer may cost.
    pub limits: Limits,
    /// Rounds over all servers that bring nothing, after which a layer has failed.
    pub attempts: u32,
    /// Delay after the first such round; doubles from there, up to 10 s, with jitter.
    pub first_delay: Duration,
    /// Time without a byte after which a peer is left.
    pub peer_idle: Duration,
    /// How long a peer that has a blob queued is waited for before others are asked.
    pub peer_patience: Duration,
}

impl CacheSettings {
    /// Settings with every default.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            size_limit: 200 << 30,
            form: CacheForm::Auto,
            parallel: 4,
            memory: 256 << 20,
            mirror_bytes: 0,
            limits: Limits::default(),
            attempts: 6,
            first_delay: Duration::from_millis(500),
            peer_idle: Duration::from_secs(5),
            peer_patience: Duration::from_secs(60),
        }
    }

    /// How servers are waited for.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            attempts: self.attempts,
            first_delay: self.first_delay,
            peer_idle: self.peer_idle,
            peer_patience: self.peer_patience,
        }
    }
}

/// An image to bring in, and from where.
#[derive(Debug, Clone)]
pub struct ImageSource {
    /// Digest of its manifest, which is no index.
    pub digest: Digest,
    /// Image hash, if it has one.
    pub image_hash: Option<Digest>,
    /// Name for people.
    pub name: String,
    /// Repository; its registry's mirrors are the client's.
    pub repository: Reference,
    /// Client with the right login.
    pub client: Client,
    /// Base URLs of nodes that have it or are getting it, best first, as last heard.
    pub peers: watch::Receiver<Vec<String>>,
    /// What they take the node in by, which may change while it pulls.
    pub access: AccessWatch,
}

/// Mounted files and directories: they lie elsewhere, but share the cache's size.
pub trait FileCache: Send + Sync {
    /// Says where to take room from before bytes are written. Once.
    fn limit_to(&self, room: Room) {
        drop(room);
    }
    /// Bytes on disk. Asked under the cache's lock: waits for nothing.
    fn used(&self) -> u64;
    /// Of these, bytes that are in use. Waits for nothing, either.
    fn held(&self) -> u64;
    /// Each file and directory, and why it is kept.
    fn items(&self) -> Vec<CacheItem>;
    /// Removes what may go, longest unused first, until `bytes` are freed, and says what went.
    fn free(&self, bytes: u64) -> Vec<CacheItem>;
}

/// Who mounts layers.
pub trait LayerMounts: Send + Sync {
    /// Unmounts those of these files that are mounted but not in use. Blocks until it is done.
    fn let_go(&self, layers: &[PathBuf]);
}

/// The images on a node. Clones share it.
#[derive(Clone)]
pub struct Cache {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cache")
            .field(&self.inner.disk.root())
            .finish()
    }
}

pub(crate) struct Inner {
    pub(crate) settings: CacheSettings,
    pub(crate) disk: Disk,
    /// Form of new layers.
    pub(crate) form: LayerForm,
    /// Bytes that layers and files may take.
    limit: u64,
    /// Held while records of images and names on the disk change; taken before `state`, which is
    /// never held while the disk syncs: a lease waits for no disk.
    names: Mutex<()>,
    state: Mutex<State>,
    revision: watch::Sender<u64>,
    /// Wakes those who wait for a layer to be on its way.
    pub(crate) flying: watch::Sender<u64>,
    pub(crate) parallel: Arc<Semaphore>,
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) memory_units: u32,
    /// Peers and mirrors that failed or sent wrong bytes lately, and until when nothing is asked of
    /// them.
    pub(crate) passed_over: PassedOver,
    /// Bytes of blobs that are kept as they come. Grows under `state` only.
    spooling: Arc<AtomicU64>,
    metrics: PullMetrics,
    files: OnceLock<Arc<dyn FileCache>>,
    mounts: OnceLock<Arc<dyn LayerMounts>>,
}

impl Cache {
    /// Opens the cache. Blocks.
    ///
    /// # Errors
    /// [`CacheError::Locked`], [`CacheError::NoErofs`] and [`CacheError::Io`].
    pub fn open(settings: CacheSettings) -> Result<Self> {
        let (disk, found) = Disk::open(&settings.dir)?;
        let form = probe::form(settings.form, disk.root())?;
        let mut state = State {
            revision: 1,
            ..State::default()
        };
        for note in found.layers {
            state.layers.insert(note.digest, Layer { note });
        }
        for (record, used) in found.images {
            let whole = record
                .layers
                .iter()
                .all(|l| state.layers.contains_key(&l.digest));
            if !whole {
                tracing::warn!(image = %record.digest, "image lost a layer and is dropped");
                disk.remove_image(&record.digest)?;
                continue;
            }
            let digest = record.digest;
            let Some(image) = Image::new(Arc::new(record), used) else {
                disk.remove_image(&digest)?;
                continue;
            };
            state.images.insert(digest, image);
        }
        let now = SystemTime::now();
        for (digest, size) in found.blobs {
            state.blobs.insert(digest, KeptBlob { size, used: now });
        }
        let room = rustix::fs::statvfs(disk.root()).map_err(failed("inspect", disk.root()))?;
        let limit = settings
            .size_limit
            .min(room.f_blocks * room.f_frsize / 5 * 4);
        let units = (settings.memory / MEMORY_UNIT).clamp(1, u64::from(u32::MAX)) as u32;
        let cache = Self {
            inner: Arc::new(Inner {
                form,
                limit,
                names: Mutex::default(),
                state: Mutex::new(state),
                revision: watch::Sender::new(1),
                flying: watch::Sender::new(0),
                parallel: Arc::new(Semaphore::new(settings.parallel.max(1))),
                memory: Arc::new(Semaphore::new(units as usize)),
                memory_units: units,
                passed_over: PassedOver::default(),
                spooling: Arc::default(),
                metrics: PullMetrics::default(),
                files: OnceLock::new(),
                mounts: OnceLock::new(),
                disk,
                settings,
            }),
        };
        cache.inner.drop_blobs(cache.inner.settings.mirror_bytes);
        // Limits may be lower than they were.
        cache.inner.free_for(0, "the cache").ok();
        Ok(cache)
    }

    /// What is counted of pulls.
    pub(crate) fn metrics(&self) -> &PullMetrics {
        &self.inner.metrics
    }

    /// Form of new layers, as found out or told.
    pub fn form(&self) -> LayerForm {
        self.inner.form
    }

    /// Whether an image is there, whole.
    pub fn has(&self, digest: &Digest) -> bool {
        self.inner.lock().images.contains_key(digest)
    }

    /// Has the bytes of mounted files count, and lets them be evicted. Once.
    pub fn attach_files(&self, files: Arc<dyn FileCache>) {
        files.limit_to(self.room());
        if self.inner.files.set(files).is_err() {
            tracing::warn!("a node has one cache of files");
        }
    }

    /// Has layers unmounted that are evicted. Once.
    pub fn attach_mounts(&self, mounts: Arc<dyn LayerMounts>) {
        if self.inner.mounts.set(mounts).is_err() {
            tracing::warn!("a node has its layers mounted by one");
        }
    }

    /// Puts a pin with a label on an image; one that it has is no error.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] and [`CacheError::Io`].
    pub async fn pin(&self, digest: Digest, label: &str) -> Result<()> {
        let label = label.to_owned();
        self.change_pins(digest, move |pins| {
            if !pins.contains(&label) {
                pins.push(label);
                pins.sort();
            }
        })
        .await
    }

    /// Takes a pin away; one that is not there is no error.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub async fn unpin(&self, digest: Digest, label: &str) -> Result<()> {
        let label = label.to_owned();
        let done = self.change_pins(digest, move |pins| pins.retain(|pin| *pin != label));
        match done.await {
            Err(CacheError::NotFound(_)) => Ok(()),
            done => done,
        }
    }

    async fn change_pins(
        &self,
        digest: Digest,
        change: impl FnOnce(&mut Vec<String>) + Send + 'static,
    ) -> Result<()> {
        self.blocking(move |inner| {
            let _names = inner.names();
            let (mut record, used) = {
                let state = inner.lock();
                let image = state.images.get(&digest);
                let image = image.ok_or(CacheError::NotFound(digest))?;
                ((*image.record).clone(), image.used)
            };
            let before = record.pins.clone();
            change(&mut record.pins);
            if record.pins == before {
                return Ok(());
            }
            inner.disk.put_image(&record, used)?;
            let mut state = inner.lock();
            if let Some(image) = state.images.get_mut(&digest) {
                image.record = Arc::new(record);
            }
            state.changed(&digest);
            inner.tell(&state);
            Ok(())
        })
        .await
    }

    /// Runs blocking work on a thread of its own.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|_| CacheError::Cancelled)?
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody else change names on the disk.
    pub(crate) fn names(&self) -> MutexGuard<'_, ()> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells listeners of the state's revision.
    pub(crate) fn tell(&self, state: &State) {
        self.revision.send_if_modified(|revision| {
            let news = *revision != state.revision;
            *revision = state.revision;
            news
        });
    }

    pub(crate) fn files_used(&self) -> u64 {
        self.files.get().map_or(0, |files| files.used())
    }

    pub(crate) fn files_held(&self) -> u64 {
        self.files.get().map_or(0, |files| files.held())
    }

    /// Takes images and layers away, records first: without a record a layer is only spare. What
    /// is left of them is to be removed without the lock.
    pub(crate) fn evict(&self, state: &mut State, victims: &Victims) -> Result<Evicted> {
        let mut evicted = Evicted::default();
        for digest in &victims.layers {
            let form = state.layers.get(digest).map(|layer| layer.note.form);
            let path = form.map(|form| self.disk.layer(digest, form));
            evicted.layers.extend(path);
        }
        state.evictions += victims.layers.len() as u64;
        state.forget(victims);
        self.tell(state);
        for digest in &victims.images {
            tracing::info!(image = %digest, "evicted");
            self.disk.remove_image(digest)?;
        }
        for digest in &victims.layers {
            evicted.left.extend(self.disk.retire_layer(digest)?);
        }
        Ok(evicted)
    }

    /// Removes what [`evict`](Self::evict) took away. Blocks.
    pub(crate) fn remove_evicted(&self, evicted: &Evicted) {
        // A file that is mounted takes its room as long as it is.
        if let Some(mounts) = self.mounts.get()
            && !evicted.layers.is_empty()
        {
            mounts.let_go(&evicted.layers);
        }
        for path in &evicted.left {
            if let Err(error) = disk::remove_dir(path) {
                // The next start sweeps it.
                tracing::warn!(%error, "evicted layer stays for now");
            }
        }
    }

    /// Removes kept blobs, longest unused first, until at most `most` bytes of them are left.
    pub(crate) fn drop_blobs(&self, most: u64) {
        let mut state = self.lock();
        let evicted = self.evict_blobs(&mut state, most);
        drop(state);
        self.remove_evicted(&evicted);
    }

    fn evict_blobs(&self, state: &mut State, most: u64) -> Evicted {
        let surplus = state.surplus_blobs(most);
        Evicted {
            left: self.retire_blobs(state, &surplus),
            ..Evicted::default()
        }
    }

    /// Takes kept blobs away, and says so of the images that they are of; gives what is to be
    /// removed of them.
    fn retire_blobs(&self, state: &mut State, blobs: &[Digest]) -> Vec<PathBuf> {
        for digest in blobs {
            state.blobs.remove(digest);
        }
        if !blobs.is_empty() {
            state.lost_blobs(blobs);
            self.tell(state);
        }
        let left = blobs.iter().filter_map(|blob| self.disk.retire_blob(blob));
        left.collect()
    }

    /// Room for a blob of `size` bytes that is kept as it comes; `None` where others that come
    /// leave none. Kept blobs make room.
    pub(crate) fn room_for_spool(&self, size: u64) -> Option<SpoolRoom> {
        let mut state = self.lock();
        let coming = self.spooling.load(Ordering::Relaxed);
        let most = self.settings.mirror_bytes.checked_sub(coming)?;
        let most = most.checked_sub(size)?;
        self.spooling.fetch_add(size, Ordering::Relaxed);
        let evicted = self.evict_blobs(&mut state, most);
        drop(state);
        self.remove_evicted(&evicted);
        Some(SpoolRoom {
            spooling: Arc::clone(&self.spooling),
            size,
        })
    }
}

/// What an eviction leaves to be done.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    /// Where the layers were.
    pub(crate) layers: Vec<PathBuf>,
    /// Under new names, to be removed.
    pub(crate) left: Vec<PathBuf>,
}

/// Room among the kept blobs for one that comes; given back when dropped, as it has its name then
/// or is gone.
#[derive(Debug)]
pub(crate) struct SpoolRoom {
    spooling: Arc<AtomicU64>,
    size: u64,
}

impl Drop for SpoolRoom {
    fn drop(&mut self) {
        self.spooling.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// Layers that a pull needs: while this lives, none of them is evicted.
#[derive(Debug)]
pub(crate) struct Claim {
    cache: Cache,
    layers: BTreeSet<Digest>,
}

impl Claim {
    pub(crate) fn new(cache: &Cache, layers: BTreeSet<Digest>) -> Self {
        let mut state = cache.inner.lock();
        for layer in &layers {
            *state.claims.entry(*layer).or_default() += 1;
        }
        Self {
            cache: cache.clone(),
            layers,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.cache.inner.lock();
        for layer in &self.layers {
            if let Some(count) = state.claims.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.claims.remove(layer);
                }
            }
        }
    }
}
