//! Directories of layers, ready to be stacked, shared by all builds of one service.
//!
//! A layer directory is named by its layer's `diff_id`. While builds use it, it may still be
//! unnamed: the file system is synced for it, and its name given, when the last of them is done,
//! so that no build waits for the disk. Until then it is found here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_store::failpoint::{Step, around};
use chalk_store::layer::{LayerError, Target, UnpackOptions, Unpacked, unpack_as, unpack_blob};
use chalk_store::snapshots::{NewSnapshot, SnapshotError, Snapshots};
use chalk_store::uses::{Horizon, Uses};
use chalk_store::{BlobStore, Follower};
use tokio::sync::Mutex as AsyncMutex;
use tracing::Span;

use super::disk::tree_bytes;
use super::owners::overlay_attrs;

/// How a layer becomes a directory that this process can stack.
pub(in crate::engine) fn for_overlays() -> UnpackOptions {
    UnpackOptions {
        target: Target::Snapshot(overlay_attrs()),
        ..UnpackOptions::default()
    }
}

/// Ends the name of a layer that hides everything below it.
const OPAQUE: &str = "-opaque";

/// A directory that overlayfs can stack. Stays while somebody holds it.
#[derive(Debug)]
pub(in crate::engine) struct LayerDir {
    path: PathBuf,
    opaque: bool,
    /// Not named yet.
    unnamed: Option<NewSnapshot>,
    /// The name it is to have; none for what is of use to this build alone.
    name: OnceLock<String>,
    runtime: tokio::runtime::Handle,
}

impl LayerDir {
    /// Where it is.
    pub(in crate::engine) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it hides everything below it.
    pub(in crate::engine) fn opaque(&self) -> bool {
        self.opaque
    }
}

impl Drop for LayerDir {
    fn drop(&mut self) {
        let Some(snapshot) = self.unnamed.take() else {
            return;
        };
        let name = self.name.take();
        // Both ways write to the disk, which async threads must not wait for.
        let span = Span::current();
        self.runtime.spawn_blocking(move || {
            let _of = span.entered();
            match name {
                Some(name) => {
                    if let Err(error) = snapshot.commit(&name) {
                        tracing::warn!(%error, "a layer directory is not kept");
                    }
                }
                None => drop(snapshot),
            }
        });
    }
}

/// Why there is no directory of a layer.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum DirError {
    /// The layer cannot be unpacked.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The snapshot directory failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The runtime is stopping.
    #[error("the service is stopping")]
    Stopping,
}

/// All layer directories.
#[derive(Debug)]
pub(in crate::engine) struct LayerDirs {
    snapshots: Snapshots,
    /// In use, by name.
    used: Mutex<BTreeMap<String, Weak<LayerDir>>>,
    /// When named ones were last used, by name.
    uses: Uses<String>,
    /// Bytes of named ones, which never change, by name.
    sizes: Mutex<BTreeMap<String, u64>>,
    /// One lock for each layer that is being unpacked, so that it is unpacked once.
    unpacking: Mutex<BTreeMap<Digest, Arc<AsyncMutex<()>>>>,
}

impl LayerDirs {
    /// Keeps directories in `snapshots`.
    pub(in crate::engine) fn new(snapshots: Snapshots) -> Self {
        Self {
            snapshots,
            used: Mutex::default(),
            uses: Uses::default(),
            sizes: Mutex::default(),
            unpacking: Mutex::default(),
        }
    }

    /// Lets the disk take in what is finished, in the background: nobody waits for it, and what a
    /// crash of the machine catches unsynced is unpacked again from its layers.
    pub(in crate::engine) fn settle_later(&self) {
        let snapshots = self.snapshots.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshots.settle() {
                tracing::warn!(%error, "snapshots are not synced yet");
            }
        });
    }

    /// A new empty directory, to be filled as the upper directory of an overlay.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(in crate::engine) fn create(&self) -> Result<Arc<LayerDir>, DirError> {
        self.create_like(false)
    }

    /// The same, for contents that may hide everything below.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(in crate::engine) fn create_like(&self, opaque: bool) -> Result<Arc<LayerDir>, DirError> {
        Ok(Arc::new(Self::unnamed(self.snapshots.create()?, opaque)))
    }

    fn unnamed(snapshot: NewSnapshot, opaque: bool) -> LayerDir {
        LayerDir {
            path: snapshot.fs(),
            opaque,
            unnamed: Some(snapshot),
            name: OnceLock::new(),
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Says which layer a directory from [`create`](Self::create) has become; from now on others
    /// find it.
    pub(in crate::engine) fn name(&self, dir: &Arc<LayerDir>, diff_id: &Digest) {
        let name = diff_id.hex();
        if dir.name.set(name.clone()).is_ok() {
            self.remember(name, dir);
        }
    }

    fn remember(&self, name: String, dir: &Arc<LayerDir>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, dir| dir.strong_count() > 0);
        // Equal contents: whoever was first may stay.
        used.entry(name).or_insert_with(|| Arc::downgrade(dir));
    }

    /// The directory of a layer if it is there.
    pub(in crate::engine) fn find(
        &self,
        diff_id: &Digest,
    ) -> Result<Option<Arc<LayerDir>>, DirError> {
        let plain = diff_id.hex();
        for (name, opaque) in [(plain.clone(), false), (format!("{plain}{OPAQUE}"), true)] {
            {
                let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(dir) = used.get(&name).and_then(Weak::upgrade) {
                    return Ok(Some(dir));
                }
            }
            if let Some(path) = self.named(&name)? {
                return Ok(Some(Arc::new(LayerDir {
                    path,
                    opaque,
                    unnamed: None,
                    name: OnceLock::new(),
                    runtime: tokio::runtime::Handle::current(),
                })));
            }
        }
        Ok(None)
    }

    /// The directory of that name, which is used from now on.
    fn named(&self, name: &String) -> Result<Option<PathBuf>, SnapshotError> {
        let held = self.uses.hold(name);
        let found = self.snapshots.get(name)?;
        if found.is_some() {
            held.used(|| self.snapshots.note_use(name));
        }
        Ok(found)
    }

    /// All that have a name, each with its bytes and when a build last used it. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn list(&self) -> Result<Vec<(String, u64, SystemTime)>, SnapshotError> {
        let mut found = Vec::new();
        let mut known = std::mem::take(&mut *self.sizes());
        let mut sizes = BTreeMap::new();
        for name in self.snapshots.list()? {
            let Some(used) = self.snapshots.last_use(&name)? else {
                continue;
            };
            let size = match known.remove(&name) {
                Some(size) => size,
                None => tree_bytes(&self.snapshots.root().join(&name)),
            };
            sizes.insert(name.clone(), size);
            found.push((name, size, used));
        }
        *self.sizes() = sizes;
        Ok(found)
    }

    fn sizes(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the directory of that name unless a build used it after the horizon; whether it did.
    /// Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn drop_unused(&self, name: &str, horizon: &Horizon) -> Result<bool, SnapshotError> {
        let name = name.to_owned();
        let aside = {
            let held = self.uses.hold(&name);
            let Some(used) = self.snapshots.last_use(&name)? else {
                return Ok(false);
            };
            if held.is_used(horizon, used) {
                return Ok(false);
            }
            let aside = around(Step::GcCache, || self.snapshots.set_aside(&name))?;
            held.gone();
            aside
        };
        // Nobody needs to wait for the many files of a layer.
        match aside {
            Some(aside) => aside.remove().map(|()| true),
            None => Ok(false),
        }
    }

    /// The directory of a layer, unpacked from its blob in `store` if it is not there.
    ///
    /// # Errors
    /// When the blob is missing, damaged, or no sound layer.
    pub(in crate::engine) async fn get(
        &self,
        diff_id: &Digest,
        blob: &Digest,
        store: &BlobStore,
    ) -> Result<Arc<LayerDir>, DirError> {
        let (diff_id, blob, store) = (*diff_id, *blob, store.clone());
        self.unpacked(diff_id, move |dir| {
            unpack_blob(&store, &blob, Some(&diff_id), dir, &for_overlays())
        })
        .await
    }

    /// The directory of a layer, unpacked from its blob while that arrives if it is not there.
    ///
    /// # Errors
    /// When the blob does not arrive whole, or is no sound layer.
    pub(in crate::engine) async fn get_arriving(
        &self,
        diff_id: &Digest,
        blob: &Digest,
        arriving: Follower,
    ) -> Result<Arc<LayerDir>, DirError> {
        let (diff_id, layer) = (*diff_id, blob.to_string());
        self.unpacked(diff_id, move |dir| {
            unpack_as(arriving, &layer, Some(&diff_id), dir, &for_overlays())
        })
        .await
    }

    /// The directory of a layer, filled by `unpack` if it is not there.
    async fn unpacked(
        &self,
        diff_id: Digest,
        unpack: impl FnOnce(&Path) -> Result<Unpacked, LayerError> + Send + 'static,
    ) -> Result<Arc<LayerDir>, DirError> {
        if let Some(dir) = self.find(&diff_id)? {
            return Ok(dir);
        }
        let lock = {
            let mut locks = self
                .unpacking
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(diff_id).or_default())
        };
        let _unpacking = lock.lock().await;
        if let Some(dir) = self.find(&diff_id)? {
            return Ok(dir);
        }
        let snapshots = self.snapshots.clone();
        let done = tokio::task::spawn_blocking(move || {
            let snapshot = snapshots.create()?;
            let unpacked = unpack(&snapshot.fs())?;
            Ok::<_, DirError>((snapshot, unpacked.opaque_root))
        });
        let (snapshot, opaque) = done.await.map_err(|_| DirError::Stopping)??;
        let dir = Arc::new(Self::unnamed(snapshot, opaque));
        let name = match opaque {
            true => format!("{}{OPAQUE}", diff_id.hex()),
            false => diff_id.hex(),
        };
        let _ = dir.name.set(name.clone());
        self.remember(name, &dir);
        let mut locks = self
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        locks.remove(&diff_id);
        Ok(dir)
    }
}
