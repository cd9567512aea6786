//! Puts the image together and publishes it: layers, config, spec, and the manifest with its tag
//! last of all.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use chalk_core::Digest;
use chalk_core::config::ImageConfig;
use chalk_store::Blob;
use chalk_store::failpoint::{Side, Step, pass};
use chalk_store::layer::{Limits, recompress};

use super::build::Build;
use super::chain::merge_dirs;
use super::join::{MAX_LAYERS, runs};
use super::layers::LayerDir;
use super::stage::{StageDone, pack_options};
use super::steps::{Entry, Layer};
use super::storage;
use crate::bases::Base;
use crate::engine::oci::{self, CREATED, Descriptor, History, ImageFile, Manifest};
use crate::engine::{Compression, EngineError, Outcome};
use crate::places::{CREATED_NOTE, IMAGES, SPEC_TYPE, STEPS};

/// First word of the document whose digest names such layers in the step cache.
const MADE_OF: &str = "chalk.made-of/v1";

impl<'a> Build<'a> {
    /// Publishes what the last stage made.
    pub(in crate::engine) async fn publish(
        &self,
        done: &StageDone,
        config: ImageConfig,
        author: Option<String>,
    ) -> Result<Outcome, EngineError> {
        let doing = "publish the image";
        let base = self.result_base();
        let (joined, _) = self.joined(done, base.as_deref()).await?;
        let Entry {
            mut layers,
            history,
        } = joined;
        for layer in &mut layers {
            if self.is_unreadable(layer) {
                *layer = self.recompressed(layer, self.compression()).await?;
            }
        }
        pass(Step::ImageLayers, Side::Before);
        for layer in &layers {
            self.pusher.push(IMAGES, &layer.blob()).await?;
        }
        pass(Step::ImageLayers, Side::After);
        let file = self.config_file(&layers, history, config, author);
        let config = self.document(oci::CONFIG, &file).await?;
        let count = layers.len();
        let size = layers.iter().map(|layer| layer.descriptor.size).sum();
        let mut manifest =
            Manifest::new(config, layers.into_iter().map(|l| l.descriptor).collect());
        if let Some(base) = &base {
            let mut note = |name: &str, value: String| {
                let name = format!("org.opencontainers.image.base.{name}");
                manifest.annotations.insert(name, value);
            };
            note("name", base.reference.without_digest().to_string());
            note("digest", base.digest.to_string());
        }
        let manifest = serde_json::to_vec(&manifest).map_err(|e| storage(doing, &e))?;
        let subject = Descriptor::of(oci::MANIFEST, &manifest);
        // Before the image has its name, so that whoever finds it finds its spec.
        pass(Step::ImageSpec, Side::Before);
        self.attach_spec(&subject).await?;
        pass(Step::ImageSpec, Side::After);
        if self.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let tag = self.job.image_hash.hex();
        pass(Step::ImagePut, Side::Before);
        self.put_manifest(&tag, manifest).await?;
        pass(Step::ImagePut, Side::After);
        Ok(Outcome {
            manifest: subject.digest,
            size,
            layers: count,
            steps: Vec::new(),
            verification: None,
        })
    }

    /// The config of the image that these layers make.
    pub(in crate::engine) fn config_file(
        &self,
        layers: &[Layer],
        history: Vec<History>,
        config: ImageConfig,
        author: Option<String>,
    ) -> ImageFile {
        let base = self.result_base();
        let mut file = ImageFile {
            created: Some(CREATED.to_owned()),
            author,
            config,
            history,
            other: base.as_deref().map(os_facts).unwrap_or_default(),
            ..ImageFile::empty(&self.job.spec.platform)
        };
        file.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        file
    }

    /// The image that the result builds upon, if it builds upon one.
    pub(in crate::engine) fn result_base(&self) -> Option<Arc<Base>> {
        let last = self.stages.len().checked_sub(1)?;
        self.bases[self.root_stage(last)].clone()
    }

    async fn attach_spec(&self, subject: &Descriptor) -> Result<(), EngineError> {
        let doing = "attach the spec to the image";
        let regional = &self.shared.regional;
        let attached = regional.referrers(IMAGES, &subject.digest, Some(SPEC_TYPE));
        // Built before, to the byte; unless what was attached then has rotted.
        for attached in attached.await.map_err(|e| storage(doing, &e))? {
            if self.is_readable(&attached.digest).await? {
                return Ok(());
            }
        }
        let spec = self.document(SPEC_TYPE, &self.job.spec).await?;
        let empty = self
            .document(oci::EMPTY, &BTreeMap::<String, String>::new())
            .await?;
        let mut manifest = Manifest::new(empty, vec![spec]);
        manifest.artifact_type = Some(SPEC_TYPE.to_owned());
        manifest.subject = Some(subject.clone());
        // Image and config carry no time, so that the same files have the same digest.
        let now = jiff::Timestamp::now().to_string();
        manifest.annotations.insert(CREATED_NOTE.to_owned(), now);
        let manifest = serde_json::to_vec(&manifest).map_err(|e| storage(doing, &e))?;
        let name = Digest::of(&manifest).to_string();
        self.put_manifest(&name, manifest).await
    }

    /// Whether a manifest of the images' repository and the blobs that it names are there.
    async fn is_readable(&self, digest: &Digest) -> Result<bool, EngineError> {
        let (doing, regional) = ("look at the spec of an image", &self.shared.regional);
        let found = regional.manifest(IMAGES, &digest.to_string()).await;
        let Some(found) = found.map_err(|e| storage(doing, &e))? else {
            return Ok(false);
        };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&found.bytes) else {
            return Ok(false);
        };
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let there = regional.has_blob(IMAGES, &part.digest).await;
            if !there.map_err(|e| storage(doing, &e))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Stores a JSON document as a blob of the images' repository.
    async fn document<T: serde::Serialize + Sync>(
        &self,
        media_type: &str,
        document: &T,
    ) -> Result<Descriptor, EngineError> {
        let doing = "publish the image";
        let bytes = serde_json::to_vec(document).map_err(|e| storage(doing, &e))?;
        let descriptor = Descriptor::of(media_type, &bytes);
        let put = self.shared.blobs.run(move |blobs| blobs.put(&bytes)).await;
        let blob: Blob = put.map_err(|e| storage(doing, &e))?;
        self.pusher.push(IMAGES, &blob).await?;
        Ok(descriptor)
    }

    async fn put_manifest(&self, name: &str, manifest: Vec<u8>) -> Result<(), EngineError> {
        let regional = &self.shared.regional;
        let put = regional.put_manifest(IMAGES, name, oci::MANIFEST, manifest.into());
        put.await.map_err(|e| storage("publish the image", &e))?;
        Ok(())
    }

    /// Layers and history of the image, with runs of small layers joined where there are too
    /// many; and which of the layers of the stage became each.
    pub(in crate::engine) async fn joined(
        &self,
        done: &StageDone,
        base: Option<&Base>,
    ) -> Result<(Entry, Vec<Range<usize>>), EngineError> {
        let Entry { layers, history } = &done.entry;
        let sizes: Vec<u64> = layers.iter().map(|layer| layer.descriptor.size).collect();
        let below = base.map_or(0, |base| base.layers.len()).min(layers.len());
        let runs = runs(&sizes, below, MAX_LAYERS);
        if runs.len() == layers.len() {
            return Ok((done.entry.clone(), runs));
        }
        let mut joined = Vec::with_capacity(runs.len());
        for run in &runs {
            joined.push(match run.len() {
                1 => layers[run.start].clone(),
                _ => {
                    self.join(&layers[run.clone()], done.dirs.get(run.clone()))
                        .await?
                }
            });
        }
        let entry = Entry {
            layers: joined,
            history: joined_history(history, &runs),
        };
        Ok((entry, runs))
    }

    /// Whether a client for which `gzip` or `none` was chosen cannot read a layer: one of a base
    /// or of the step cache that is compressed by zstd.
    fn is_unreadable(&self, layer: &Layer) -> bool {
        self.compression() != Compression::Zstd && layer.descriptor.media_type.ends_with("+zstd")
    }

    /// A layer in another compression; from the step cache, if it was made before.
    ///
    /// # Errors
    /// When the layer cannot be had, or the store or the registry fails.
    pub(in crate::engine) async fn recompressed(
        &self,
        layer: &Layer,
        compression: Compression,
    ) -> Result<Layer, EngineError> {
        let key = made_of(std::slice::from_ref(layer), compression.word());
        if let Some(known) = self.known_layer(&key).await? {
            return Ok(known);
        }
        self.pusher.fetch(&layer.blob()).await?;
        let options = pack_options(compression);
        let (store, digest) = (self.shared.blobs.clone(), layer.descriptor.digest);
        let packed = {
            let _place = self.shared.packing.acquire().await;
            let limits = Limits::default();
            let work = move || recompress(&store, &digest, &options, limits);
            tokio::task::spawn_blocking(work).await
        };
        let doing = "compress a layer anew";
        let packed = packed
            .map_err(|e| storage(doing, &e))?
            .map_err(|e| storage(doing, &e))?;
        let layer = Layer::of(&packed);
        self.note_layer(&key, &layer).await?;
        Ok(layer)
    }

    async fn known_layer(&self, key: &Digest) -> Result<Option<Layer>, EngineError> {
        let found = self.shared.steps.get(key).await?;
        Ok(found.and_then(|(entry, _)| match entry.layers.as_slice() {
            [layer] => Some(layer.clone()),
            _ => None,
        }))
    }

    /// Keeps a layer that no step made in the step cache.
    async fn note_layer(&self, key: &Digest, layer: &Layer) -> Result<(), EngineError> {
        self.pusher.push(STEPS, &layer.blob()).await?;
        let entry = Entry {
            layers: vec![layer.clone()],
            history: vec![History::default()],
        };
        let platform = &self.job.spec.platform;
        self.shared.steps.put(key, &entry, platform).await
    }

    /// One layer that stands for several; from the step cache, if it was made before.
    async fn join(
        &self,
        parts: &[Layer],
        dirs: Option<&[Arc<LayerDir>]>,
    ) -> Result<Layer, EngineError> {
        if self.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let key = made_of(parts, self.compression().word());
        if !self.job.verify
            && let Some(known) = self.known_layer(&key).await?
        {
            return Ok(known);
        }
        let dirs = match dirs {
            Some(dirs) => dirs.to_vec(),
            None => self.layer_dirs(parts).await?,
        };
        let merged = merge_dirs(dirs, &self.shared.dirs).await?;
        let layer = self.keep(&merged).await?;
        if !self.job.verify {
            self.note_layer(&key, &layer).await?;
        }
        Ok(layer)
    }
}

/// Key in the step cache of a layer made of others: what it is made of, and how it is packed.
fn made_of(parts: &[Layer], compression: &str) -> Digest {
    let mut text = format!("{MADE_OF}\n{compression}\n");
    for part in parts {
        text.push_str(&format!("{}\n", part.diff_id));
    }
    Digest::of(text.as_bytes())
}

/// The history with the entries of joined layers marked as having made none, but the last of
/// each run, so that there still is one for each layer.
fn joined_history(history: &[History], runs: &[Range<usize>]) -> Vec<History> {
    let mut layer = 0;
    let mark = |entry: &History| {
        let mut entry = entry.clone();
        if !entry.empty_layer {
            entry.empty_layer = !runs.iter().any(|run| run.end == layer + 1);
            layer += 1;
        }
        entry
    };
    history.iter().map(mark).collect()
}

/// What of a base's config speaks of the operating system beyond the platform.
fn os_facts(base: &Base) -> BTreeMap<String, serde_json::Value> {
    let names = ["os.version", "os.features"];
    let facts = base.config.other.iter();
    let facts = facts.filter(|(name, _)| names.contains(&name.as_str()));
    facts
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_has_one_entry_for_each_layer() {
        let check = |empty: &str, runs: &[Range<usize>], expect: &str| {
            let entry = |c: char| History {
                empty_layer: c == 'e',
                ..History::default()
            };
            let history: Vec<History> = empty.chars().map(entry).collect();
            let got = joined_history(&history, runs);
            let got: String = got
                .iter()
                .map(|h| if h.empty_layer { 'e' } else { 'l' })
                .collect();
            assert_eq!(got, expect);
        };
        check("lel", &[0..1, 1..2], "lel");
        check("lelll", &[0..1, 1..4], "leeel");
        check("llell", &[0..2, 2..4], "eleel");
    }
}
