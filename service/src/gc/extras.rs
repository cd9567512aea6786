//! What is kept beside registry and store: uploads, objects of volumes, caches of the builder, records
//! of builds.

use std::collections::HashSet;

use chalk_core::Digest;
use chalk_core::wire::CollectArea;
use chalk_store::failpoint::{Step, around};
use chalk_store::uploads::{Arriving, UploadId};
use chalk_store::uses::Horizon;

use super::plan::{Item, Plan};
use super::words::{bytes, length};
use super::{Collector, Result, age, blocking};
use crate::engine::{CacheEntry, CacheKind};
use crate::places::{BUILD_CACHE, STEPS};
use crate::registry::collect::Survey;
use crate::registry::{EmbeddedError, RegistryLimits};

/// A thing beside registry and store that a run may remove.
pub(super) struct Extra {
    pub(super) item: Item,
    pub(super) what: What,
}

/// Which thing.
pub(super) enum What {
    Upload(UploadId),
    Objects,
    Cache(CacheKind, String),
    Build(String),
    /// Copies of blobs that lie in a bucket, but these, and what lies beside them.
    Copies(HashSet<Digest>),
    /// Nothing: it is only told of.
    Told,
}

impl Collector {
    pub(super) fn uploads(&self) -> Result<Vec<Extra>> {
        let Some(registry) = &self.parts.registry else {
            return Ok(Vec::new());
        };
        let expiry = RegistryLimits::default().upload_expiry;
        let uploads = registry.uploads().list().map_err(EmbeddedError::from)?;
        let extra = |upload: Arriving| {
            let age = age(upload.last);
            let free = age >= expiry;
            let ago = length(age);
            Extra {
                item: Item {
                    area: CollectArea::Uploads,
                    name: upload.id.to_string(),
                    digest: None,
                    free,
                    why: format!("it got its last byte {ago} ago"),
                    bytes: upload.received,
                    frees: if free { upload.received } else { 0 },
                },
                what: What::Upload(upload.id),
            }
        };
        Ok(uploads.into_iter().map(extra).collect())
    }

    pub(super) async fn objects(&self) -> Result<Vec<Extra>> {
        let volumes = self.parts.volumes.clone();
        let sums = blocking(move || Ok(volumes.objects_held()?)).await?;
        let mut extras = Vec::new();
        for (free, count, bytes) in [
            (false, sums.kept, sums.kept_bytes),
            (true, sums.old, sums.old_bytes),
        ] {
            if count == 0 {
                continue;
            }
            let why = match free {
                true => "nobody asked for them for a day",
                false => "a commit may name them: they were uploaded or asked for lately",
            };
            extras.push(Extra {
                item: Item {
                    area: CollectArea::Volumes,
                    name: format!("{count} uploaded objects"),
                    digest: None,
                    free,
                    why: why.to_owned(),
                    bytes,
                    frees: if free { bytes } else { 0 },
                },
                what: if free { What::Objects } else { What::Told },
            });
        }
        Ok(extras)
    }

    /// Copies of what lies in a bucket, and files that builds were given, as two sums.
    pub(super) async fn copies(
        &self,
        needed: &HashSet<Digest>,
        horizon: &Horizon,
    ) -> Result<Vec<Extra>> {
        let (blobs, wall) = (self.parts.blobs.clone(), horizon.wall);
        let kept = needed.clone();
        let sums = blocking(move || {
            let mut sums = [(0_u64, 0_u64); 2];
            for found in blobs.list()? {
                let (blob, used) = found?;
                if !kept.contains(&blob.digest) {
                    let (count, size) = &mut sums[usize::from(used < wall)];
                    (*count, *size) = (*count + 1, *size + blob.size);
                }
            }
            Ok(sums)
        })
        .await?;
        let mut extras = Vec::new();
        for (free, (count, bytes)) in [false, true].into_iter().zip(sums) {
            if count == 0 {
                continue;
            }
            let why = match free {
                true => {
                    "they are in the bucket, or were given to a build, and nobody used them for long"
                }
                false => "they were used lately",
            };
            extras.push(Extra {
                item: Item {
                    area: CollectArea::Caches,
                    name: format!("{count} copies of blobs and files of builds"),
                    digest: None,
                    free,
                    why: why.to_owned(),
                    bytes,
                    frees: if free { bytes } else { 0 },
                },
                what: match free {
                    true => What::Copies(needed.clone()),
                    false => What::Told,
                },
            });
        }
        Ok(extras)
    }

    pub(super) fn caches(
        &self,
        mut caches: Vec<CacheEntry>,
        horizon: &Horizon,
        survey: &Survey,
        plan: &Plan,
    ) -> Vec<Extra> {
        let settings = &self.parts.settings;
        let going: HashSet<(&str, &str)> = plan
            .tags
            .iter()
            .map(|tag| (tag.repository.as_str(), tag.tag.as_str()))
            .collect();
        let is_there = |repository: &str, tag: &String| {
            let holding = survey.repositories.get(repository);
            let there = holding.is_some_and(|holding| holding.tags.contains_key(tag));
            there && !going.contains(&(repository, tag.as_str()))
        };
        caches.sort_by_key(|cache| cache.used);
        let mut left: u64 = caches.iter().map(|cache| cache.bytes).sum();
        let limit = settings.caches_size.map(|size| size.as_u64());
        let mut extras = Vec::new();
        for cache in caches {
            let (age, recent) = (age(cache.used), cache.used >= horizon.wall);
            let ago = length(age);
            // Notes come and go with what the registry has.
            let orphan = match cache.kind {
                CacheKind::Step => !is_there(STEPS, &cache.name),
                CacheKind::Shared => !is_there(BUILD_CACHE, &cache.name),
                _ => false,
            };
            let old = settings.caches_age.filter(|limit| age >= *limit);
            let (free, why) = match (recent, orphan, old, limit) {
                (true, ..) => (false, format!("a build used it {ago} ago")),
                (_, true, ..) => (true, "what it notes is not cached any more".to_owned()),
                (_, _, Some(limit), _) => {
                    let limit = length(limit);
                    (
                        true,
                        format!("no build used it for {ago} (gc.caches_age is {limit})"),
                    )
                }
                (_, _, _, Some(limit)) if left > limit => (
                    true,
                    format!(
                        "{} of caches are kept, gc.caches_size is {}, and others were used later",
                        bytes(left),
                        bytes(limit)
                    ),
                ),
                _ => (false, format!("a build used it {ago} ago")),
            };
            left -= if free { cache.bytes } else { 0 };
            let kind = match cache.kind {
                CacheKind::Layer => "layer",
                CacheKind::Tool => "tool",
                CacheKind::Mount => "mount",
                CacheKind::Step => "step",
                CacheKind::Shared => "shared cache",
            };
            // There are as many notes as steps, and they are small.
            if matches!(cache.kind, CacheKind::Step | CacheKind::Shared) && !free {
                continue;
            }
            extras.push(Extra {
                item: Item {
                    area: CollectArea::Caches,
                    name: format!("{kind} {}", cache.name),
                    digest: None,
                    free,
                    why,
                    bytes: cache.bytes,
                    frees: if free { cache.bytes } else { 0 },
                },
                what: What::Cache(cache.kind, cache.name),
            });
        }
        extras
    }

    pub(super) async fn builds(&self) -> Result<Vec<Extra>> {
        let Some(limit) = self.parts.settings.builds_age else {
            return Ok(Vec::new());
        };
        let builds = self.parts.builds.clone();
        let old = blocking(move || Ok(builds.ended_before(limit)?)).await?;
        let extra = |(id, finished, bytes): (String, String, u64)| Extra {
            item: Item {
                area: CollectArea::Builds,
                name: id.clone(),
                digest: None,
                free: true,
                why: format!("it ended {finished} (gc.builds_age is {})", length(limit)),
                bytes,
                frees: bytes,
            },
            what: What::Build(id),
        };
        Ok(old.into_iter().map(extra).collect())
    }

    /// Removes a thing unless it is used; whether it did.
    pub(super) async fn drop_extra(&self, what: &What, horizon: &Horizon) -> Result<bool> {
        let parts = &self.parts;
        match what {
            What::Told => Ok(false),
            What::Upload(id) => {
                let Some(registry) = parts.registry.clone() else {
                    return Ok(false);
                };
                let id = id.clone();
                let expiry = RegistryLimits::default().upload_expiry;
                blocking(move || {
                    let uploads = registry.uploads();
                    let list = uploads.list().map_err(EmbeddedError::from)?;
                    let found = list.into_iter().find(|upload| upload.id == id);
                    let old = found.is_some_and(|upload| age(upload.last) >= expiry);
                    let gone = old && around(Step::GcUpload, || uploads.cancel(&id)).is_ok();
                    Ok(gone)
                })
                .await
            }
            What::Objects => {
                let volumes = parts.volumes.clone();
                blocking(move || {
                    around(Step::GcUpload, || volumes.sweep_objects())?;
                    Ok(true)
                })
                .await
            }
            What::Copies(needed) => {
                let (blobs, horizon) = (parts.blobs.clone(), *horizon);
                let (volumes, mut needed) = (parts.volumes.clone(), needed.clone());
                blocking(move || {
                    // Versions may have come that name what older ones named.
                    needed.extend(volumes.reachable()?);
                    for found in blobs.list()? {
                        let (blob, used) = found?;
                        if used < horizon.wall && !needed.contains(&blob.digest) {
                            blobs.remove_unused(&blob.digest, &horizon)?;
                        }
                    }
                    Ok(true)
                })
                .await
            }
            What::Cache(kind, name) => Ok(parts.engine.drop_cache(*kind, name, horizon).await?),
            What::Build(id) => {
                let (builds, id) = (parts.builds.clone(), id.clone());
                blocking(move || Ok(builds.forget_ended(&id)?)).await
            }
        }
    }
}
