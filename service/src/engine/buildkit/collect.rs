//! From the image that a builder made to the layers of our own: each is unpacked, freed of what the
//! builder left, and packed again as the embedded engine packs, so that image, step cache and
//! verification do not depend on who built.

use std::sync::Arc;

use chalk_core::lower::{Action, Op};
use chalk_core::wire::StepState;
use chalk_store::Blob;
use chalk_store::layer::unpack_blob;
use chalk_store::registry::Progress;

use super::lowering::{Part, Stage};
use super::stubs;
use super::watch::OpId;
use crate::engine::EngineError;
use crate::engine::embedded::build::Build;
use crate::engine::embedded::chain::{Chain, merge_dirs};
use crate::engine::embedded::install::{command, tidy};
use crate::engine::embedded::layers::{LayerDir, for_overlays};
use crate::engine::embedded::stage::{Finished, StageDone, is_empty};
use crate::engine::embedded::steps::Layer;
use crate::engine::embedded::storage;
use crate::engine::oci::{Descriptor, History, ImageFile, Manifest};
use crate::places::BUILDS;

const DOING: &str = "take what the builder made";
/// Largest config of an image.
const CONFIG_LIMIT: u64 = 16 << 20;
/// What container runtimes mount in every process and may leave a mount point for.
const RUNTIME_MOUNTS: [&str; 5] = ["/etc/resolv.conf", "/etc/hosts", "/proc", "/sys", "/dev"];

/// What a stage came to, as layers of ours. `tag` names the builder's image in [`BUILDS`]; `None`
/// where there was nothing to build.
///
/// # Errors
/// When the image is not what was ordered, or cannot be read or kept.
pub(super) async fn collect(
    build: &Build<'_>,
    stage: Stage,
    tag: Option<&str>,
) -> Result<StageDone, EngineError> {
    let last = build.stages.len().saturating_sub(1);
    let Stage { start, parts, .. } = stage;
    let image = match tag {
        Some(tag) => Some(Image::read(build, tag).await?),
        None => None,
    };
    let made = match &image {
        Some(image) => image.layers_by_part(start.layers.len(), &parts)?,
        None => vec![Vec::new(); parts.len()],
    };
    let mut made_by = vec![None; start.layers.len()];
    let start_layers = start.layers.clone();
    let (mut entry, mut dirs) = (start, Vec::new());
    for (part, layers) in parts.iter().zip(made) {
        let (stage, at) = part.op;
        let op = &build.stages[stage].ops[at];
        let step = build.position(op.step, &op.key);
        let dir = match layers.is_empty() {
            true => None,
            false => {
                let below = Below {
                    start: &start_layers,
                    made: &dirs,
                };
                unpacked(build, op, &layers, below).await?
            }
        };
        let before = entry.layers.len();
        let finished = Finished {
            op,
            // Its end was told when the builder told it.
            step: None,
            dir,
            seconds: 0.0,
        };
        build.finish(&mut entry, &mut dirs, finished).await?;
        made_by.extend(vec![step; entry.layers.len() - before]);
        if let (Some(step), Some(layer)) = (step, entry.layers.get(before)) {
            let size = layer.descriptor.size;
            build.record(step, |record| {
                if record.state == StepState::Ran {
                    record.layer_bytes = size;
                }
            });
        }
    }
    let base_key = build.stages[build.root_stage(last)].base_key;
    Ok(StageDone {
        entry,
        made_by,
        // Layers below were never unpacked here; who wants directories asks by layer.
        dirs: Vec::new(),
        chain: Chain::new(base_key, Vec::new()),
    })
}

/// A layer as the builder packed it.
type Made = (Descriptor, chalk_core::Digest);

struct Image {
    manifest: Manifest,
    config: ImageFile,
}

impl Image {
    async fn read(build: &Build<'_>, tag: &str) -> Result<Self, EngineError> {
        let regional = &build.shared.regional;
        let found = regional.manifest(BUILDS, tag).await;
        let found = found.map_err(|e| storage(DOING, &e))?;
        let found = found.ok_or_else(|| unfit("the registry does not have it"))?;
        let manifest: Manifest =
            serde_json::from_slice(&found.bytes).map_err(|e| storage(DOING, &e))?;
        let config = Blob {
            digest: manifest.config.digest,
            size: manifest.config.size,
        };
        if config.size > CONFIG_LIMIT {
            return Err(unfit(&format!("its config has {} bytes", config.size)));
        }
        pull(build, &config).await?;
        let bytes = build
            .shared
            .blobs
            .run(move |blobs| blobs.read_small(config.digest, CONFIG_LIMIT))
            .await
            .map_err(|e| storage(DOING, &e))?;
        let config: ImageFile = serde_json::from_slice(&bytes).map_err(|e| storage(DOING, &e))?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(unfit("its config does not fit its manifest"));
        }
        Ok(Self { manifest, config })
    }

    /// The layers that each part made. The history that was ordered has one entry for each layer
    /// below and each vertex; the builder marks those that made none.
    fn layers_by_part(&self, below: usize, parts: &[Part]) -> Result<Vec<Vec<Made>>, EngineError> {
        let history = &self.config.history;
        let vertexes: usize = parts.iter().map(|part| part.vertexes).sum();
        let made = history.iter().filter(|entry| !entry.empty_layer).count();
        if history.len() != below + vertexes || made != self.manifest.layers.len() {
            return Err(unfit(&format!(
                "it has {} layers and {} entries of history where {below} layers and {vertexes} steps were ordered",
                self.manifest.layers.len(),
                history.len()
            )));
        }
        let layers = self.manifest.layers.iter().cloned();
        let mut layers = layers.zip(self.config.rootfs.diff_ids.iter().copied());
        let mut entries = history.iter();
        let mut take = |count: usize| -> Vec<Made> {
            let entries = entries.by_ref().take(count);
            let real: Vec<&History> = entries.filter(|entry| !entry.empty_layer).collect();
            real.iter().filter_map(|_| layers.next()).collect()
        };
        take(below);
        Ok(parts.iter().map(|part| take(part.vertexes)).collect())
    }
}

/// History to order an image with: one entry for each layer below and each vertex.
pub(super) fn ordered_history(
    below: usize,
    parts: &[Part],
    name: impl Fn(OpId) -> String,
) -> Vec<History> {
    let entry = |created_by: String| History {
        created: Some(crate::engine::oci::CREATED.to_owned()),
        created_by: Some(created_by),
        ..History::default()
    };
    let mut history = vec![entry("below".to_owned()); below];
    for part in parts {
        history.extend(vec![entry(name(part.op)); part.vertexes]);
    }
    history
}

fn unfit(why: &str) -> EngineError {
    EngineError::Storage {
        doing: DOING.to_owned(),
        cause: why.to_owned(),
    }
}

async fn pull(build: &Build<'_>, blob: &Blob) -> Result<(), EngineError> {
    let shared = build.shared;
    let none = Progress::none();
    let pulled = shared
        .regional
        .pull_blob(BUILDS, blob, &shared.blobs, &none);
    pulled.await.map_err(|e| storage(DOING, &e))
}

/// What is there before an operation.
#[derive(Clone, Copy)]
struct Below<'a> {
    /// Layers that were there before the build.
    start: &'a [Layer],
    /// Those that it made.
    made: &'a [Arc<LayerDir>],
}

/// What an operation changed of what is `below`; `None` when it changed nothing.
async fn unpacked(
    build: &Build<'_>,
    op: &Op,
    layers: &[Made],
    below: Below<'_>,
) -> Result<Option<Arc<LayerDir>>, EngineError> {
    let last = build.stages.len().saturating_sub(1);
    let base_key = build.stages[build.root_stage(last)].base_key;
    let mut parts = Vec::new();
    for (descriptor, diff_id) in layers {
        let blob = Blob {
            digest: descriptor.digest,
            size: descriptor.size,
        };
        pull(build, &blob).await?;
        let dir = build.shared.dirs.create();
        let dir = dir.map_err(|e| storage(DOING, &e))?;
        let (path, store, diff_id) = (dir.path().to_owned(), build.shared.blobs.clone(), *diff_id);
        let work =
            move || unpack_blob(&store, &blob.digest, Some(&diff_id), &path, &for_overlays());
        let done = tokio::task::spawn_blocking(work).await;
        let unpacked = done
            .map_err(|e| storage(DOING, &e))?
            .map_err(|e| storage(DOING, &e))?;
        if unpacked.opaque_root {
            return Err(unfit("a layer replaces the whole root"));
        }
        parts.push(dir);
    }
    let dir = match parts.len() {
        1 => parts.remove(0),
        _ => merge_dirs(parts, &build.shared.dirs).await?,
    };
    let path = dir.path().to_owned();
    let epoch = match &op.action {
        Action::Install(install) => Some(command::epoch(&install.env)),
        _ => None,
    };
    let targets = mount_targets(op);
    let work = move || {
        if let Some(epoch) = epoch {
            tidy::tidy(&path, epoch)?;
        }
        stubs::remove(&path, &targets)
    };
    let done = tokio::task::spawn_blocking(work).await;
    let bare = done
        .map_err(|e| storage(DOING, &e))?
        .map_err(|why| unfit(&why))?;
    if !bare.is_empty() {
        // Whether the step changed them shows only beside what was there before.
        let mut all = build.layer_dirs(below.start).await?;
        all.extend(below.made.iter().cloned());
        let (path, empty) = (dir.path().to_owned(), build.shared.empty.clone());
        let work = move || {
            // Keeps the directories where they are.
            let chain = Chain::new(base_key, all);
            stubs::remove_unchanged(&path, bare, &chain.lower_dirs(&empty))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| storage(DOING, &e))?
            .map_err(|why| unfit(&why))?;
    }
    Ok((!is_empty(&dir).await).then_some(dir))
}

/// Where something was mounted while an operation ran.
fn mount_targets(op: &Op) -> Vec<String> {
    let (mounts, secrets) = match &op.action {
        Action::Run(run) => (run.mounts.as_slice(), &run.secrets),
        Action::Install(install) => ([].as_slice(), &install.secrets),
        _ => return Vec::new(),
    };
    let secrets = secrets.iter().map(|name| format!("/run/secrets/{name}"));
    let mounts = mounts.iter().map(|mount| mount.target.clone());
    let runtime = RUNTIME_MOUNTS.iter().map(|path| (*path).to_owned());
    secrets.chain(mounts).chain(runtime).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_go_to_the_steps_that_made_them() {
        let digest = |n: u8| chalk_core::Digest::of(&[n]);
        let layer = |n: u8| Descriptor {
            digest: digest(n),
            ..Descriptor::of("x", b"")
        };
        let check = |history: &str, below, vertexes: &[usize], expect: Option<&[&[u8]]>| {
            let count = u8::try_from(history.matches('l').count()).unwrap();
            let mut config = ImageFile::empty(&"linux/amd64".parse().unwrap());
            config.rootfs.diff_ids = (0..count).map(digest).collect();
            let entry = |c: char| History {
                empty_layer: c == 'e',
                ..History::default()
            };
            config.history = history.chars().map(entry).collect();
            let image = Image {
                manifest: Manifest::new(layer(99), (0..count).map(layer).collect()),
                config,
            };
            let part = |(at, vertexes): (usize, &usize)| Part {
                op: (0, at),
                vertexes: *vertexes,
            };
            let parts: Vec<Part> = vertexes.iter().enumerate().map(part).collect();
            let got = image.layers_by_part(below, &parts).ok();
            let got = got.map(|parts| {
                let digests = |made: &Vec<Made>| made.iter().map(|(_, id)| *id).collect::<Vec<_>>();
                parts.iter().map(digests).collect::<Vec<_>>()
            });
            let expect = expect.map(|parts| {
                let digests = |made: &&[u8]| made.iter().map(|n| digest(*n)).collect::<Vec<_>>();
                parts.iter().map(digests).collect::<Vec<_>>()
            });
            assert_eq!(got, expect, "{history}");
        };
        check("llll", 2, &[1, 0, 1], Some(&[&[2], &[], &[3]]));
        check("lelel", 2, &[1, 1, 1], Some(&[&[1], &[], &[2]]));
        check("lll", 1, &[2], Some(&[&[1, 2]]));
        check("lle", 1, &[2], Some(&[&[1]]));
        check("lll", 1, &[1], None);
    }
}
