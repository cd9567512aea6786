//! Where a stage goes on: at the deepest operation whose result is cached and usable, or at its
//! base.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::lower::Action;
use chalk_core::spec::StageBase;
use chalk_core::wire::EventKind;
use chalk_store::Blob;
use chalk_store::layer::LayerError;
use chalk_store::registry::{Progress, Transfer};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::oneshot;

use super::build::{Build, StageFuture};
use super::layers::{DirError, LayerDir};
use super::steps::{Entry, Layer, Place};
use super::storage;
use crate::bases::Base;
use crate::engine::EngineError;
use crate::engine::oci::Descriptor;
use crate::places::STEPS;

/// Layers that are fetched and unpacked at once.
const UNPACKING: usize = 4;
/// Time between two reports on a pull.
const TICK: Duration = Duration::from_millis(200);

/// What a stage goes on from.
pub(in crate::engine) struct Start {
    /// First operation to carry out.
    pub(in crate::engine) next: usize,
    /// Layers and history up to it.
    pub(in crate::engine) entry: Entry,
    /// By layer: the step that made it in this build.
    pub(in crate::engine) made_by: Vec<Option<usize>>,
    /// Directories of the layers, if they are needed.
    pub(in crate::engine) dirs: Option<Vec<Arc<LayerDir>>>,
}

/// Why a start cannot be used.
pub(in crate::engine) enum Unusable {
    /// A blob is gone or damaged; a start further up may do.
    Blob(String),
    /// Nothing will do.
    Fatal(EngineError),
}

impl<'a> Build<'a> {
    /// Finds where stage `index` goes on. `needs_dirs` says that its files are read in any case.
    pub(in crate::engine) async fn start(
        &self,
        index: usize,
        earlier: &[StageFuture<'_>],
        needs_dirs: bool,
    ) -> Result<Start, EngineError> {
        let ops = &self.stages[index].ops;
        let forced = &self.forced[index];
        // Operations from here on must run.
        let mut usable = forced.iter().position(|f| *f).unwrap_or(ops.len());
        loop {
            let found = self.deepest(index, usable).await?;
            let (next, entry, place) = match found {
                Some((op, entry, place)) => (op + 1, Some(entry), place),
                None => (0, None, Place::Local),
            };
            // Changes of the config that follow need nothing run.
            let limit = forced.iter().position(|f| *f).unwrap_or(ops.len());
            let following = ops[next..limit.max(next)].iter();
            let config_only = following
                .take_while(|op| op.action == Action::Config)
                .count();
            let work_left = ops[next..].iter().any(|op| op.action != Action::Config);
            let wants_dirs = needs_dirs || work_left;
            let Some(entry) = entry else {
                let start = self.start_at_base(index, earlier, wants_dirs).await?;
                self.tell_cached(index, 0, config_only, Place::Local);
                return Ok(start);
            };
            let dirs = match (self.check_layers(&entry, place).await, wants_dirs) {
                (Err(unusable), _) => Err(unusable),
                (Ok(()), true) => self.dirs(&entry.layers).await.map(Some),
                (Ok(()), false) => Ok(None),
            };
            match dirs {
                Ok(dirs) => {
                    self.tell_cached(index, 0, next + config_only, place);
                    return Ok(Start {
                        next,
                        made_by: vec![None; entry.layers.len()],
                        entry,
                        dirs,
                    });
                }
                Err(Unusable::Fatal(error)) => return Err(error),
                Err(Unusable::Blob(why)) => {
                    self.forget(&ops[next - 1].key, &why).await;
                    usable = next - 1;
                }
            }
        }
    }

    /// Takes a cached step for absent from now on, and tells why.
    pub(in crate::engine) async fn forget(&self, key: &Digest, why: &str) {
        tracing::warn!(%key, %why, "a cached step is built again");
        self.events.emit(EventKind::Warning {
            message: format!("a cached step cannot be used and is built again: {why}"),
        });
        self.shared.steps.forget(&self.job.cached_as(key)).await;
    }

    /// Checks that the layers of an entry can be had: the registry may have lost some.
    pub(in crate::engine) async fn check_layers(
        &self,
        entry: &Entry,
        place: Place,
    ) -> Result<(), Unusable> {
        if place == Place::Local {
            return Ok(());
        }
        for layer in &entry.layers {
            let (digest, size) = (layer.descriptor.digest, layer.descriptor.size);
            let fatal =
                |e: &(dyn std::error::Error + 'static)| Unusable::Fatal(storage("find a layer", e));
            let kept = self.shared.blobs.run(move |blobs| blobs.size(digest)).await;
            if kept.map_err(|e| fatal(&e))? == Some(size) {
                continue;
            }
            let there = self.shared.regional.has_blob(STEPS, &digest).await;
            if !there.map_err(|e| fatal(&e))? {
                return Err(Unusable::Blob(format!("its layer {digest} is gone")));
            }
        }
        Ok(())
    }

    /// The deepest operation before `usable` that is in the step cache.
    pub(in crate::engine) async fn deepest(
        &self,
        index: usize,
        usable: usize,
    ) -> Result<Option<(usize, Entry, Place)>, EngineError> {
        for (position, op) in self.stages[index].ops[..usable].iter().enumerate().rev() {
            if self.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            if op.action == Action::Config {
                continue;
            }
            if let Some((entry, place)) =
                self.shared.steps.get(&self.job.cached_as(&op.key)).await?
            {
                return Ok(Some((position, entry, place)));
            }
        }
        Ok(None)
    }

    /// Tells of the listed ones among operations that they were cached.
    pub(in crate::engine) fn tell_cached(
        &self,
        index: usize,
        from: usize,
        to: usize,
        place: Place,
    ) {
        for op in &self.stages[index].ops[from..to] {
            if let Some(step) = self.position(op.step, &op.key) {
                self.cached(step, place.word());
            }
        }
    }

    async fn start_at_base(
        &self,
        index: usize,
        earlier: &[StageFuture<'_>],
        wants_dirs: bool,
    ) -> Result<Start, EngineError> {
        let mut made_by = None;
        let (entry, dirs) = match &self.stages[index].base {
            StageBase::Scratch => (Entry::default(), Some(Vec::new())),
            StageBase::Stage(stage) => {
                let missing = || EngineError::Spec(format!("there is no stage {stage}"));
                let done = earlier.get(*stage).ok_or_else(missing)?;
                let done = done.clone().await.map_err(|_| EngineError::Cancelled)?;
                made_by = Some(done.made_by.clone());
                (done.entry.clone(), Some(done.dirs.clone()))
            }
            StageBase::Image(_) => {
                let missing = || EngineError::Spec(format!("stage {index} has no base"));
                let base = self.bases[index].as_ref().ok_or_else(missing)?;
                let entry = entry_of(base);
                let dirs = match wants_dirs {
                    true => Some(self.base_dirs(base, &entry.layers).await?),
                    false => None,
                };
                (entry, dirs)
            }
        };
        Ok(Start {
            next: 0,
            made_by: made_by.unwrap_or_else(|| vec![None; entry.layers.len()]),
            entry,
            dirs,
        })
    }

    /// Directories of layers of the step cache or of a base that they build upon.
    async fn dirs(&self, layers: &[Layer]) -> Result<Vec<Arc<LayerDir>>, Unusable> {
        let all = layers.iter().map(|layer| self.dir(layer).boxed());
        let all: Vec<_> = all.collect();
        stream::iter(all).buffered(UNPACKING).try_collect().await
    }

    /// The directory of a layer, fetched and unpacked if need be.
    ///
    /// # Errors
    /// When the layer cannot be had, or is damaged.
    pub(in crate::engine) async fn dir(&self, layer: &Layer) -> Result<Arc<LayerDir>, Unusable> {
        let shared = self.shared;
        if let Ok(Some(dir)) = shared.dirs.find(&layer.diff_id) {
            return Ok(dir);
        }
        if self.cancel.is_cancelled() {
            return Err(Unusable::Fatal(EngineError::Cancelled));
        }
        let digest = &layer.descriptor.digest;
        let mut tried_again = false;
        loop {
            let fetched = self.pusher.fetch(&layer.blob()).await;
            fetched.map_err(|e| Unusable::Blob(e.to_string()))?;
            match shared.dirs.get(&layer.diff_id, digest, &shared.blobs).await {
                Ok(dir) => return Ok(dir),
                // A damaged blob was set aside; there may be a sound one elsewhere.
                Err(DirError::Layer(error)) if !tried_again => {
                    tracing::warn!(%digest, %error, "a layer is fetched again");
                    tried_again = true;
                }
                Err(DirError::Layer(error)) => return Err(Unusable::Blob(in_words(&error))),
                Err(error) => return Err(Unusable::Fatal(storage("unpack a layer", &error))),
            }
        }
    }

    /// Directories of layers, or why there are none.
    pub(in crate::engine) async fn layer_dirs(
        &self,
        layers: &[Layer],
    ) -> Result<Vec<Arc<LayerDir>>, EngineError> {
        self.dirs(layers).await.map_err(|error| match error {
            Unusable::Fatal(error) => error,
            Unusable::Blob(cause) => EngineError::Storage {
                doing: "unpack a layer".to_owned(),
                cause,
            },
        })
    }

    /// Directories of the layers of a base, pulled with reports on how far it is. A layer is unpacked
    /// while it comes.
    async fn base_dirs(
        &self,
        base: &Arc<Base>,
        layers: &[Layer],
    ) -> Result<Vec<Arc<LayerDir>>, EngineError> {
        let unpacked = |layer: &Layer| matches!(self.shared.dirs.find(&layer.diff_id), Ok(Some(_)));
        let absent = layers.iter().filter(|l| !unpacked(l)).map(Layer::blob);
        let pulling = Pulling::new(&absent.collect());
        let progress = pulling.progress();
        let all = layers
            .iter()
            .map(|layer| self.base_dir(base, layer, &progress).boxed());
        let all: Vec<_> = all.collect();
        let dirs = stream::iter(all).buffered(UNPACKING).try_collect();
        let mut dirs = std::pin::pin!(dirs);
        let mut ticks = tokio::time::interval(TICK);
        ticks.tick().await;
        let mut told = None;
        let mut tell = |done: u64| {
            if done > 0 && told != Some(done) {
                told = Some(done);
                self.events.emit(EventKind::Pulling {
                    image: base.reference.to_string(),
                    done,
                    total: pulling.total,
                });
            }
        };
        let dirs = loop {
            tokio::select! {
                done = &mut dirs => break done?,
                () = self.cancel.cancelled() => return Err(EngineError::Cancelled),
                _ = ticks.tick() => tell(pulling.done()),
            }
        };
        if pulling.done() > 0 {
            tell(pulling.total);
        }
        Ok(dirs)
    }

    /// The directory of a layer of a base.
    async fn base_dir(
        &self,
        base: &Arc<Base>,
        layer: &Layer,
        progress: &Progress,
    ) -> Result<Arc<LayerDir>, EngineError> {
        let dirs = &self.shared.dirs;
        if let Ok(Some(dir)) = dirs.find(&layer.diff_id) {
            return Ok(dir);
        }
        let blob = layer.blob();
        let (sender, follower) = oneshot::channel();
        let bases = &self.shared.bases;
        let fetch = bases.fetch_layer(base, &blob, progress, Some(sender));
        let unpack = async {
            let arriving = follower.await.ok()?;
            let dir = dirs.get_arriving(&layer.diff_id, &blob.digest, arriving);
            dir.await.ok()
        };
        let (fetched, unpacked) = tokio::join!(fetch, unpack);
        fetched?;
        if let Some(dir) = unpacked {
            return Ok(dir);
        }
        // It was there before, the transfer had to start anew, or the layer is not sound.
        self.dir(layer).await.map_err(|error| match error {
            Unusable::Fatal(error) => error,
            Unusable::Blob(why) => EngineError::from(crate::bases::BaseError::Invalid {
                reference: base.reference.clone(),
                detail: why,
            }),
        })
    }
}

/// How far blobs are that are being pulled.
struct Pulling {
    /// Bytes of all.
    total: u64,
    /// Bytes of each that are here.
    seen: Arc<Mutex<BTreeMap<Digest, u64>>>,
}

impl Pulling {
    fn new(blobs: &BTreeSet<Blob>) -> Self {
        Self {
            total: blobs.iter().map(|blob| blob.size).sum(),
            seen: Arc::default(),
        }
    }

    fn progress(&self) -> Progress {
        let seen = Arc::clone(&self.seen);
        Progress::new(move |transfer: Transfer| {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.insert(transfer.digest, transfer.done);
        })
    }

    fn done(&self) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().sum()
    }
}

/// An error with its causes.
fn in_words(error: &LayerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A base as the result of no step.
pub(in crate::engine) fn entry_of(base: &Base) -> Entry {
    let layers = base.layers.iter().zip(&base.config.rootfs.diff_ids);
    let layers = layers.map(|(descriptor, diff_id)| Layer {
        descriptor: oci_descriptor(descriptor),
        diff_id: *diff_id,
    });
    Entry {
        layers: layers.collect(),
        history: base.config.sound_history(),
    }
}

/// Docker's own media types of layers in the words of the OCI; the bytes are the same.
fn oci_descriptor(descriptor: &Descriptor) -> Descriptor {
    let media_type = match descriptor.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        other => other,
    };
    Descriptor {
        media_type: media_type.to_owned(),
        ..descriptor.clone()
    }
}
