//! Carries the operations of a stage out. While one runs, the layer of the one before it is
//! packed, pushed and noted in the step cache.

use std::sync::Arc;
use std::time::Instant;

use chalk_core::Digest;
use chalk_core::lower::{Action, MountSource, Op};
use chalk_core::wire::{EventKind, StepState};
use chalk_store::Blob;
use chalk_store::layer::{PackOptions, PackedLayer, pack};
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::build::{Build, StageFuture, stages_read};
use super::chain::Chain;
use super::layers::LayerDir;
use super::output::StepLog;
use super::owners::overlay_attrs;
use super::resume::Start;
use super::run::{Runner, StepError};
use super::steps::{Entry, Layer};
use super::storage;
use crate::engine::oci::{CREATED, History};
use crate::engine::{Compression, EngineError};
use crate::places::STEPS;

/// A stage that came to its end.
#[derive(Debug)]
pub(in crate::engine) struct StageDone {
    /// All layers and their history.
    pub(in crate::engine) entry: Entry,
    /// By layer: the step that made it in this build.
    pub(in crate::engine) made_by: Vec<Option<usize>>,
    /// Directories of all layers, bottom first; none when nobody wanted to read files.
    pub(in crate::engine) dirs: Vec<Arc<LayerDir>>,
    /// The same as a chain.
    pub(in crate::engine) chain: Chain,
}

/// An operation that was carried out, on its way to the cache.
pub(in crate::engine) struct Finished<'b> {
    pub(in crate::engine) op: &'b Op,
    /// The step to tell the end of.
    pub(in crate::engine) step: Option<usize>,
    /// What it changed; none when it changed no file.
    pub(in crate::engine) dir: Option<Arc<LayerDir>>,
    pub(in crate::engine) seconds: f64,
}

impl<'a> Build<'a> {
    /// Carries stage `index` out.
    pub(in crate::engine) async fn run_stage(
        &self,
        index: usize,
        earlier: &[StageFuture<'_>],
        last: bool,
    ) -> Result<StageDone, EngineError> {
        let start = self.start(index, earlier, !last).await?;
        let ops = &self.stages[index].ops[start.next..];
        self.check_secrets(ops)?;
        let base_key = self.stages[self.root_stage(index)].base_key;
        // What later operations read is built meanwhile.
        let read: Vec<usize> = ops.iter().flat_map(|op| stages_read(&op.action)).collect();
        let sources: Vec<StageFuture<'_>> = read
            .iter()
            .filter_map(|stage| earlier.get(*stage).cloned())
            .collect();
        let Start {
            next,
            entry,
            mut made_by,
            dirs,
        } = start;
        let dirs = dirs.unwrap_or_default();
        let chain = Chain::new(base_key, dirs.clone());
        let (sender, receiver) = mpsc::unbounded_channel();
        let run = async {
            let done = self.run_operations(index, next, chain, earlier, sender);
            let done = done.await;
            if done.is_err() {
                // Stages that are built for this one need not go on.
                self.cancel.cancel();
            }
            done
        };
        let (run, finished, _) = tokio::join!(
            run,
            self.finish_operations(entry, &mut made_by, receiver),
            join_all(sources),
        );
        // A failure to keep a layer stops the build; the step that was stopped by it is no cause.
        let (entry, new_dirs) = finished?;
        let chain = run?;
        let mut dirs = dirs;
        dirs.extend(new_dirs);
        Ok(StageDone {
            entry,
            made_by,
            dirs,
            chain,
        })
    }

    /// Checks that the secrets of operations that will run were given, before any of them runs.
    pub(in crate::engine) fn check_secrets(&self, ops: &[Op]) -> Result<(), EngineError> {
        for op in ops {
            let (names, mounts) = match &op.action {
                Action::Run(run) => (&run.secrets, run.mounts.as_slice()),
                Action::Install(install) => (&install.secrets, [].as_slice()),
                _ => continue,
            };
            let mounted = mounts.iter().filter_map(|mount| match &mount.source {
                MountSource::Secret { id, required, .. } if *required => Some(id),
                _ => None,
            });
            let mut needed = names.iter().chain(mounted);
            if let Some(name) = needed.find(|name| !self.job.secrets.contains_key(*name)) {
                return Err(EngineError::MissingSecret {
                    step: op.step,
                    title: op.title.clone(),
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }

    async fn run_operations<'b>(
        &'b self,
        index: usize,
        next: usize,
        mut chain: Chain,
        earlier: &[StageFuture<'_>],
        finished: mpsc::UnboundedSender<Finished<'b>>,
    ) -> Result<Chain, EngineError> {
        for op in &self.stages[index].ops[next..] {
            if self.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let step = self.position(op.step, &op.key);
            let told = self.told(step);
            let mut dir = None;
            let mut began = Instant::now();
            if op.action == Action::Config {
                // What was not told as cached before.
                if step.is_some() && !told {
                    self.begin(step);
                }
            } else {
                let mut read = Vec::new();
                for stage in stages_read(&op.action) {
                    let missing = || EngineError::Spec(format!("there is no stage {stage}"));
                    let done = earlier.get(stage).ok_or_else(missing)?.clone();
                    let done = done.await.map_err(|_| EngineError::Cancelled)?;
                    read.push((stage, done));
                }
                let _slot = tokio::select! {
                    slot = self.shared.slots.acquire() => slot,
                    () = self.cancel.cancelled() => return Err(EngineError::Cancelled),
                };
                self.begin(step);
                began = Instant::now();
                let layer = self.shared.dirs.create();
                let layer = layer.map_err(|e| storage("make a layer directory", &e))?;
                self.carry_out(op, step, &chain, &read, &layer).await?;
                if !is_empty(&layer).await {
                    chain.push(Arc::clone(&layer), &self.shared.dirs).await?;
                    dir = Some(layer);
                }
            }
            let sent = finished.send(Finished {
                op,
                step: step.filter(|_| !told),
                dir,
                seconds: began.elapsed().as_secs_f64(),
            });
            // The other side ends early only when it failed.
            if sent.is_err() {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(chain)
    }

    /// Tells that a step begins.
    pub(in crate::engine) fn begin(&self, step: Option<usize>) {
        if let Some(step) = step {
            self.record(step, |record| record.state = StepState::Running);
            self.events.emit(EventKind::StepStarted { step });
        }
    }

    /// Whether a step was told as cached.
    fn told(&self, step: Option<usize>) -> bool {
        let mut told = false;
        if let Some(step) = step {
            self.record(step, |record| told = record.state == StepState::Cached);
        }
        told
    }

    /// Carries one operation out in `layer`; tells when it fails.
    async fn carry_out(
        &self,
        op: &Op,
        step: Option<usize>,
        chain: &Chain,
        sources: &[(usize, Arc<StageDone>)],
        layer: &Arc<LayerDir>,
    ) -> Result<(), EngineError> {
        let began = Instant::now();
        let position = step.unwrap_or_else(|| op.step.min(self.last_step()));
        let emit = |event| self.events.emit(event);
        let mut runner = Runner {
            shared: self.shared,
            caches: self.caches(),
            job: self.job,
            cancel: &self.cancel,
            chain,
            sources,
            upper: layer.path().to_owned(),
            scratch: &self.scratch,
            redaction: &self.redaction,
            log: StepLog::new(position, &self.redaction, &emit),
            deadline: began + self.shared.settings.step_timeout,
        };
        let done = match &op.action {
            Action::Config => Ok(()),
            Action::Run(run) => runner.run_step(run).await,
            Action::Install(install) => runner.install_step(install).await,
            files => runner.write_files(files).await,
        };
        let tail = runner.log.finish();
        let (message, exit_code) = match done {
            Ok(()) => return Ok(()),
            Err(StepError::Cancelled) => return Err(EngineError::Cancelled),
            Err(StepError::Engine(error)) => (error.to_string(), None),
            Err(StepError::Failed { message, exit_code }) => (message, exit_code),
        };
        let message = self.redaction.text(message);
        let seconds = began.elapsed().as_secs_f64();
        self.record(position, |record| {
            record.state = StepState::Failed;
            record.seconds = seconds;
        });
        self.events.emit(EventKind::StepFailed {
            step: position,
            exit_code,
            message: message.clone(),
            seconds,
            tail: tail.clone(),
        });
        Err(EngineError::Step {
            step: position,
            title: op.title.clone(),
            exit_code,
            message,
            tail,
        })
    }

    /// The last step that is listed.
    pub(in crate::engine) fn last_step(&self) -> usize {
        let ops = self.stages.iter().flat_map(|stage| &stage.ops);
        let listed = ops.filter_map(|op| self.position(op.step, &op.key));
        listed.max().unwrap_or(0)
    }

    /// Packs, pushes and notes what operations made, in order; gives all layers and history.
    async fn finish_operations(
        &self,
        mut entry: Entry,
        made_by: &mut Vec<Option<usize>>,
        mut finished: mpsc::UnboundedReceiver<Finished<'_>>,
    ) -> Result<(Entry, Vec<Arc<LayerDir>>), EngineError> {
        let mut dirs = Vec::new();
        let result = async {
            while let Some(done) = finished.recv().await {
                let (layers, step) = (entry.layers.len(), done.step);
                self.finish(&mut entry, &mut dirs, done).await?;
                made_by.extend(vec![step; entry.layers.len() - layers]);
            }
            Ok(())
        }
        .await;
        if let Err(error) = result {
            // Stops the operations, which would run for nothing.
            let stopped = error;
            self.cancel_for(&stopped);
            return Err(stopped);
        }
        Ok((entry, dirs))
    }

    fn cancel_for(&self, error: &EngineError) {
        tracing::warn!(%error, "a layer cannot be kept");
        self.cancel.cancel();
    }

    /// Packs, pushes and notes what an operation made, as the last of `entry`.
    ///
    /// # Errors
    /// When the store or the registry fails.
    pub(in crate::engine) async fn finish(
        &self,
        entry: &mut Entry,
        dirs: &mut Vec<Arc<LayerDir>>,
        done: Finished<'_>,
    ) -> Result<(), EngineError> {
        let layer = match done.dir {
            Some(dir) => {
                let layer = self.keep(&dir).await?;
                dirs.push(dir);
                Some(layer)
            }
            None => None,
        };
        entry.history.push(History {
            created: Some(CREATED.to_owned()),
            created_by: Some(done.op.created_by.clone()),
            empty_layer: layer.is_none(),
            ..History::default()
        });
        let blob = layer.as_ref().map(Layer::blob);
        entry.layers.extend(layer);
        if done.op.action != Action::Config && !self.job.verify {
            // The base's layers are part of the entry, too.
            for layer in &entry.layers {
                self.pusher.push(STEPS, &layer.blob()).await?;
            }
            let platform = &self.job.spec.platform;
            let key = self.job.cached_as(&done.op.key);
            self.shared.steps.put(&key, entry, platform).await?;
        }
        if let Some(step) = done.step {
            let size = blob.map_or(0, |blob: Blob| blob.size);
            self.record(step, |record| {
                record.state = StepState::Ran;
                record.seconds = done.seconds;
                record.layer_bytes = size;
            });
            self.events.emit(EventKind::StepDone {
                step,
                seconds: done.seconds,
                layer: blob.map(|blob| blob.digest),
                layer_bytes: size,
            });
        }
        Ok(())
    }

    /// Compression of new layers.
    pub(in crate::engine) fn compression(&self) -> Compression {
        self.job
            .compression
            .unwrap_or(self.shared.settings.compression)
    }

    /// Packs a directory into a layer of the store.
    pub(in crate::engine) async fn keep(&self, dir: &Arc<LayerDir>) -> Result<Layer, EngineError> {
        let options = pack_options(self.compression());
        let packed = {
            let _place = self.shared.packing.acquire().await;
            let (store, path) = (self.store.clone(), dir.path().to_owned());
            let work = move || pack(&path, &store, &options, &mut |_| false);
            tokio::task::spawn_blocking(work).await
        };
        let doing = "pack a layer";
        let packed: PackedLayer = packed
            .map_err(|e| storage(doing, &e))?
            .map_err(|e| storage(doing, &e))?;
        let diff_id: Digest = packed.diff_id;
        if !self.job.verify {
            self.shared.dirs.name(dir, &diff_id);
        }
        Ok(Layer::of(&packed))
    }
}

/// How layers are packed.
pub(in crate::engine) fn pack_options(compression: Compression) -> PackOptions {
    PackOptions {
        compression: layer_compression(compression),
        overlay: overlay_attrs(),
        ..PackOptions::default()
    }
}

fn layer_compression(compression: Compression) -> chalk_store::layer::Compression {
    use chalk_store::layer::Compression as Layer;
    match compression {
        Compression::Zstd => Layer::Zstd(3),
        Compression::Gzip => Layer::Gzip(6),
        Compression::None => Layer::None,
    }
}

/// Whether nothing was written to a layer.
pub(in crate::engine) async fn is_empty(dir: &Arc<LayerDir>) -> bool {
    let path = dir.path().to_owned();
    let empty = move || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    tokio::task::spawn_blocking(empty).await.unwrap_or(false)
}
