//! Compares what a build made with the image that was published before, layer by layer and, where
//! a layer differs, file by file.

use std::ops::Range;

use chalk_core::config::ImageConfig;
use chalk_core::wire::{Difference, FileCheck, LayerCheck, Verification};
use chalk_store::layer::{self, Limits};
use chalk_store::{Blob, BlobStore};

use super::build::Build;
use super::stage::StageDone;
use super::steps::{Entry, Layer};
use super::storage;
use crate::engine::oci::{History, ImageFile, Manifest};
use crate::engine::{EngineError, Outcome};
use crate::places::IMAGES;

/// Most bytes of a published config that are read.
const CONFIG_LIMIT: u64 = 16 << 20;
/// Most files that are named for one layer.
const MOST_FILES: usize = 1000;

const DOING: &str = "read the published image";

impl Build<'_> {
    /// Compares what the last stage made with the published image. Publishes nothing.
    pub(super) async fn verify(
        &self,
        done: &StageDone,
        config: ImageConfig,
        author: Option<String>,
    ) -> Result<Outcome, EngineError> {
        let (published, digest) = self.published().await?;
        let base = self.result_base();
        let below = base.as_ref().map_or(0, |base| base.layers.len());
        let (Entry { layers, history }, runs) = self.joined(done, base.as_deref()).await?;
        let size = layers.iter().map(|layer| layer.descriptor.size).sum();
        let file = self.config_file(&layers, history.clone(), config, author);
        let config_identical = same_but_layers(&published.config, &file);
        let titles: Vec<&History> = history.iter().filter(|entry| !entry.empty_layer).collect();
        let mut checks = Vec::new();
        for index in below..layers.len().max(published.layers.len()) {
            let title = titles.get(index).and_then(|entry| entry.created_by.clone());
            let there = published.layers.get(index);
            let title = title.or_else(|| published.title(index));
            let mut check = LayerCheck {
                step: runs.get(index).and_then(|run| only_step(done, run)),
                title: title.unwrap_or_default(),
                published: there.map(|layer| layer.diff_id),
                rebuilt: layers.get(index).map(|layer| layer.diff_id),
                identical: false,
                files: Vec::new(),
                more: 0,
            };
            check.identical = check.published == check.rebuilt;
            if !check.identical {
                self.compare(there, layers.get(index), &mut check).await?;
            }
            checks.push(check);
        }
        Ok(Outcome {
            manifest: digest,
            size,
            layers: layers.len(),
            steps: Vec::new(),
            verification: Some(Verification {
                identical: config_identical && checks.iter().all(|check| check.identical),
                config_identical,
                layers: checks,
            }),
        })
    }

    /// The image that the registry has under the hash, and the digest of its manifest.
    async fn published(&self) -> Result<(Published, chalk_core::Digest), EngineError> {
        let shared = self.shared;
        let tag = self.job.image_hash.hex();
        let found = shared.regional.manifest(IMAGES, &tag).await;
        let found = found.map_err(|e| storage(DOING, &e))?;
        let found = found.ok_or_else(|| EngineError::Storage {
            doing: DOING.to_owned(),
            cause: format!("{} is no longer in the registry", self.job.image_hash),
        })?;
        let manifest: Manifest =
            serde_json::from_slice(&found.bytes).map_err(|e| storage(DOING, &e))?;
        let config = Blob {
            digest: manifest.config.digest,
            size: manifest.config.size,
        };
        if config.size > CONFIG_LIMIT {
            return Err(EngineError::Storage {
                doing: DOING.to_owned(),
                cause: format!("its config has {} bytes", config.size),
            });
        }
        self.pusher.fetch(&config).await?;
        let bytes = shared
            .blobs
            .run(move |blobs| blobs.read_small(config.digest, CONFIG_LIMIT))
            .await
            .map_err(|e| storage(DOING, &e))?;
        let config: ImageFile = serde_json::from_slice(&bytes).map_err(|e| storage(DOING, &e))?;
        let diff_ids = config.rootfs.diff_ids.iter().copied();
        let layers = manifest.layers.into_iter().zip(diff_ids);
        let layers = layers.map(|(descriptor, diff_id)| Layer {
            descriptor,
            diff_id,
        });
        let published = Published {
            layers: layers.collect(),
            config,
        };
        Ok((published, found.digest))
    }

    /// Names the files in which two layers differ.
    async fn compare(
        &self,
        published: Option<&Layer>,
        rebuilt: Option<&Layer>,
        check: &mut LayerCheck,
    ) -> Result<(), EngineError> {
        if let Some(layer) = published {
            self.pusher.fetch(&layer.blob()).await?;
        }
        let found = |store: &BlobStore, layer: Option<&Layer>| {
            layer.map(|layer| (store.clone(), layer.descriptor.digest))
        };
        let published = found(&self.shared.blobs, published);
        let rebuilt = found(&self.store, rebuilt);
        let work = move || {
            let side = |side: &Option<(BlobStore, chalk_core::Digest)>| match side {
                Some((store, digest)) => layer::facts(store, digest, Limits::default()),
                None => Ok(layer::Facts::default()),
            };
            Ok::<_, layer::LayerError>(layer::differences(&side(&published)?, &side(&rebuilt)?))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let doing = "compare layers";
        let mut files: Vec<FileCheck> = done
            .map_err(|e| storage(doing, &e))?
            .map_err(|e| storage(doing, &e))?
            .into_iter()
            .map(|(path, differs)| FileCheck {
                path: path.escape_ascii().to_string(),
                differs: differs.into_iter().map(word).collect(),
            })
            .collect();
        check.more = files.len().saturating_sub(MOST_FILES) as u64;
        files.truncate(MOST_FILES);
        check.files = files;
        Ok(())
    }
}

/// An image as the registry has it.
struct Published {
    layers: Vec<Layer>,
    config: ImageFile,
}

impl Published {
    /// What made a layer, by the history.
    fn title(&self, index: usize) -> Option<String> {
        let history = self.config.sound_history();
        let mut made = history.into_iter().filter(|entry| !entry.empty_layer);
        made.nth(index)?.created_by
    }
}

/// Whether two configs say the same, their layers apart.
fn same_but_layers(published: &ImageFile, rebuilt: &ImageFile) -> bool {
    let plain = |file: &ImageFile| {
        let mut file = file.clone();
        file.rootfs.diff_ids.clear();
        serde_json::to_value(file).ok()
    };
    plain(published) == plain(rebuilt)
}

/// The step of layers that were made by one.
fn only_step(done: &StageDone, run: &Range<usize>) -> Option<usize> {
    match done.made_by.get(run.clone())? {
        [step] => *step,
        _ => None,
    }
}

fn word(difference: layer::Difference) -> Difference {
    match difference {
        layer::Difference::OnlyFirst => Difference::OnlyPublished,
        layer::Difference::OnlySecond => Difference::OnlyRebuilt,
        layer::Difference::Kind => Difference::Kind,
        layer::Difference::Content => Difference::Content,
        layer::Difference::Mode => Difference::Mode,
        layer::Difference::Owner => Difference::Owner,
        layer::Difference::Time => Difference::Time,
        layer::Difference::Xattr => Difference::Xattr,
    }
}
