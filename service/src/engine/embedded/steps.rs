//! The step cache: what a chain of steps made, by step key.
//!
//! In the regional registry an entry is an image manifest in the repository `chalk/steps`, tagged
//! with the key, that lists the layers so far, base included; its config has their `diff_ids` and
//! the history. So a fresh builder starts warm, and a registry's own collector keeps what is
//! tagged. A file per key in the state directory saves the way to the registry; it counts only
//! while all its blobs are in the store.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::{Digest, Platform};
use chalk_store::failpoint::{Side, Step, around, pass};
use chalk_store::layer::PackedLayer;
use chalk_store::registry::Progress;
use chalk_store::uses::Horizon;
use chalk_store::{Blob, BlobStore};
use serde::{Deserialize, Serialize};

use super::storage;
use crate::engine::oci::{self, Descriptor, History, ImageFile, Manifest};
use crate::engine::{CacheEntry, CacheKind, EngineError};
use crate::places::STEPS;
use crate::registry::Regional;

/// Largest config of an entry.
const CONFIG_LIMIT: u64 = 16 << 20;

/// A layer as an image names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine) struct Layer {
    /// The blob.
    pub(in crate::engine) descriptor: Descriptor,
    /// Digest of what it unpacks to.
    pub(in crate::engine) diff_id: Digest,
}

impl Layer {
    /// A layer that was packed just now.
    pub(in crate::engine) fn of(packed: &PackedLayer) -> Self {
        Self {
            descriptor: Descriptor {
                media_type: packed.media_type.to_owned(),
                digest: packed.digest,
                size: packed.size,
                annotations: std::collections::BTreeMap::new(),
            },
            diff_id: packed.diff_id,
        }
    }

    /// Digest and size of the blob.
    pub(in crate::engine) fn blob(&self) -> Blob {
        Blob {
            digest: self.descriptor.digest,
            size: self.descriptor.size,
        }
    }
}

/// What is known under a key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::engine) struct Entry {
    /// All layers, bottom first.
    pub(in crate::engine) layers: Vec<Layer>,
    /// One entry for each layer among those that made none.
    pub(in crate::engine) history: Vec<History>,
}

/// Where an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Place {
    /// In the state directory.
    Local,
    /// In the registry.
    Registry,
}

impl Place {
    /// The word of the events.
    pub(in crate::engine) fn word(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Registry => "registry",
        }
    }
}

/// The step cache.
#[derive(Debug)]
pub(in crate::engine) struct StepCache {
    dir: PathBuf,
    regional: Arc<dyn Regional>,
    blobs: BlobStore,
}

impl StepCache {
    /// Keeps its files in `dir`.
    pub(in crate::engine) fn new(
        dir: PathBuf,
        regional: Arc<dyn Regional>,
        blobs: BlobStore,
    ) -> Self {
        Self {
            dir,
            regional,
            blobs,
        }
    }

    /// Whether there is an entry.
    ///
    /// # Errors
    /// When the registry fails.
    pub(in crate::engine) async fn has(&self, key: &Digest) -> Result<bool, EngineError> {
        if self.local(key).await.is_some() {
            return Ok(true);
        }
        let head = self.regional.head_manifest(STEPS, &key.hex()).await;
        Ok(head
            .map_err(|e| storage("look into the step cache", &e))?
            .is_some())
    }

    /// The entry of a key. One that cannot be read counts as absent.
    ///
    /// # Errors
    /// When the registry fails.
    pub(in crate::engine) async fn get(
        &self,
        key: &Digest,
    ) -> Result<Option<(Entry, Place)>, EngineError> {
        if let Some(entry) = self.local(key).await {
            return Ok(Some((entry, Place::Local)));
        }
        let doing = "look into the step cache";
        let found = self.regional.manifest(STEPS, &key.hex()).await;
        let Some(found) = found.map_err(|e| storage(doing, &e))? else {
            return Ok(None);
        };
        let entry = self.read(&found.bytes).await;
        match entry {
            Ok(entry) => {
                self.remember(key, &entry).await;
                Ok(Some((entry, Place::Registry)))
            }
            Err(why) => {
                tracing::warn!(%key, %why, "an entry of the step cache is not used");
                Ok(None)
            }
        }
    }

    async fn read(&self, manifest: &[u8]) -> Result<Entry, String> {
        let manifest: Manifest = serde_json::from_slice(manifest).map_err(|e| e.to_string())?;
        let config = Blob {
            digest: manifest.config.digest,
            size: manifest.config.size,
        };
        if config.size > CONFIG_LIMIT {
            return Err(format!("its config has {} bytes", config.size));
        }
        self.regional
            .pull_blob(STEPS, &config, &self.blobs, &Progress::none())
            .await
            .map_err(|e| e.to_string())?;
        let bytes = self
            .blobs
            .run(move |blobs| blobs.read_small(config.digest, CONFIG_LIMIT))
            .await
            .map_err(|e| e.to_string())?;
        let config: ImageFile = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err("its config does not fit its manifest".to_owned());
        }
        let history = config.sound_history();
        let layer = |(descriptor, diff_id)| Layer {
            descriptor,
            diff_id,
        };
        let layers = manifest.layers.into_iter().zip(config.rootfs.diff_ids);
        Ok(Entry {
            layers: layers.map(layer).collect(),
            history,
        })
    }

    /// Publishes an entry. Its layers must be in the registry's repository already.
    ///
    /// # Errors
    /// When the registry or the store fails.
    pub(in crate::engine) async fn put(
        &self,
        key: &Digest,
        entry: &Entry,
        platform: &Platform,
    ) -> Result<(), EngineError> {
        let doing = "write to the step cache";
        let mut config = ImageFile::empty(platform);
        config.created = Some(oci::CREATED.to_owned());
        config.rootfs.diff_ids = entry.layers.iter().map(|layer| layer.diff_id).collect();
        config.history.clone_from(&entry.history);
        let config = serde_json::to_vec(&config).map_err(|e| storage(doing, &e))?;
        let descriptor = Descriptor::of(oci::CONFIG, &config);
        let layers = entry.layers.iter().map(|layer| layer.descriptor.clone());
        let manifest = Manifest::new(descriptor, layers.collect());
        let manifest = serde_json::to_vec(&manifest).map_err(|e| storage(doing, &e))?;
        let blob = self.blobs.run(move |blobs| blobs.put(&config)).await;
        let blob = blob.map_err(|e| storage(doing, &e))?;
        let none = Progress::none();
        let pushed = self
            .regional
            .push_blob(STEPS, &blob, &self.blobs, &none)
            .await;
        pushed.map_err(|e| storage(doing, &e))?;
        pass(Step::StepPut, Side::Before);
        self.regional
            .put_manifest(STEPS, &key.hex(), oci::MANIFEST, manifest.into())
            .await
            .map_err(|e| storage(doing, &e))?;
        pass(Step::StepPut, Side::After);
        self.remember(key, entry).await;
        Ok(())
    }

    /// Takes an entry for absent from now on, since its blobs turned out to be damaged.
    pub(in crate::engine) async fn forget(&self, key: &Digest) {
        let path = self.path(key);
        let _ = tokio::fs::remove_file(path).await;
        if let Err(error) = self.regional.delete(STEPS, &key.hex()).await {
            tracing::warn!(%key, %error, "a damaged entry stays in the step cache");
        }
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.dir.join(key.hex())
    }

    async fn local(&self, key: &Digest) -> Option<Entry> {
        let path = self.path(key);
        self.blobs
            .run(move |blobs| {
                let Ok(bytes) = std::fs::read(&path) else {
                    return Ok(None);
                };
                let entry: Option<Entry> = serde_json::from_slice(&bytes).ok();
                let Some(entry) = entry else {
                    let _ = std::fs::remove_file(&path);
                    return Ok(None);
                };
                // So that a collector knows that it is of use.
                let noted = std::fs::File::open(&path);
                let _ = noted.and_then(|file| file.set_modified(SystemTime::now()));
                for layer in &entry.layers {
                    if blobs.size(layer.descriptor.digest)? != Some(layer.descriptor.size) {
                        return Ok(None);
                    }
                }
                Ok::<_, chalk_store::BlobError>(Some(entry))
            })
            .await
            .ok()
            .flatten()
    }

    /// All notes, each with its bytes, when it was last used, and its layers. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn notes(&self) -> io::Result<Vec<CacheEntry>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // One that is on its way, or was just removed.
            let Ok(bytes) = std::fs::read(entry.path()) else {
                continue;
            };
            let Ok(note) = serde_json::from_slice::<Entry>(&bytes) else {
                continue;
            };
            let Ok(used) = entry.metadata().and_then(|meta| meta.modified()) else {
                continue;
            };
            let layers = note.layers.iter().map(|layer| layer.descriptor.digest);
            found.push(CacheEntry {
                kind: CacheKind::Step,
                name,
                bytes: bytes.len() as u64,
                used,
                blobs: layers.collect(),
            });
        }
        Ok(found)
    }

    /// Removes a note that was not used after the horizon; whether it did. A build that has read it
    /// needs it no more. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn drop_note(&self, name: &str, horizon: &Horizon) -> io::Result<bool> {
        let path = self.dir.join(name);
        let used = match std::fs::metadata(&path).and_then(|meta| meta.modified()) {
            Ok(used) => used,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if used >= horizon.wall {
            return Ok(false);
        }
        around(Step::GcCache, || std::fs::remove_file(&path)).map(|()| true)
    }

    /// Notes an entry in the state directory. The registry has it; so this may fail.
    async fn remember(&self, key: &Digest, entry: &Entry) {
        let (dir, path) = (self.dir.clone(), self.path(key));
        let Ok(bytes) = serde_json::to_vec(entry) else {
            return;
        };
        let written = tokio::task::spawn_blocking(move || {
            let mut file = tempfile::NamedTempFile::new_in(&dir)?;
            file.write_all(&bytes)?;
            around(Step::StepNote, || file.persist(&path)).map_err(|e| e.error)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "a note of the step cache cannot be written");
        }
    }
}
