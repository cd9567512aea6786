//! Images that go to another registry, too, once they are built.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::reference::{is_repository, is_tag};
use chalk_core::wire::{Build, BuildStatus};
use chalk_core::{Digest, Reference};
use chalk_store::Blob;
use chalk_store::registry::Progress;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::engine::oci;
use crate::places::{IMAGES, upstream_options};
use crate::registry::{External, Regional, RegionalError};
use crate::service::Service;

/// Name of the document that says where the image of a build goes.
const TARGET: &str = "target.json";
/// Name of the document that says that it got there.
const PUSHED: &str = "pushed";
/// Pushes that are remembered in memory.
const KEPT: usize = 1000;

/// Where an image goes besides the regional registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    registry: String,
    repository: String,
    tag: String,
}

impl Target {
    /// `target` is `host[:port]/repository`; the tag is the image's hash unless given.
    ///
    /// # Errors
    /// When one of them is wrong.
    pub(super) fn new(target: &str, tag: Option<&str>, hash: &Digest) -> Result<Self, Status> {
        let tag = tag.map_or_else(|| hash.hex(), str::to_owned);
        let wrong = |detail: &str| {
            Status::invalid_argument(format!(
                "target_registry: `{}` {detail}: expected `host[:port]/repository`",
                target.chars().take(200).collect::<String>()
            ))
        };
        let (registry, repository) = target
            .trim_end_matches('/')
            .split_once('/')
            .ok_or_else(|| wrong("names no repository"))?;
        if !is_repository(repository) {
            return Err(wrong("names no repository"));
        }
        if !is_tag(&tag) {
            return Err(Status::invalid_argument(format!("tag: `{tag}` is no tag")));
        }
        let reference = Reference::new(registry, repository, Some(&tag), None);
        reference.map_err(|error| wrong(&format!("is no place of a registry ({error})")))?;
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag,
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// How a push stands.
#[derive(Debug, Clone)]
pub(super) enum Push {
    Runs,
    Done(String),
    Failed(String),
}

/// Pushes by the builds that they follow.
#[derive(Debug, Default)]
pub(super) struct Pushes(Mutex<BTreeMap<String, (Target, Option<Push>)>>);

impl Pushes {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, (Target, Option<Push>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the image of a build pushed when the build has ended well.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(super) async fn add(
        self: &Arc<Self>,
        service: &Arc<Service>,
        build: &Build,
        target: Target,
    ) -> Result<(), Status> {
        if build.status != BuildStatus::Reused {
            let json = serde_json::to_vec(&target).unwrap_or_default();
            let kept = service.builds().attach(&build.id, TARGET, json).await;
            kept.map_err(crate::http::ApiError::from)?;
        }
        {
            let mut known = self.known();
            while known.len() >= KEPT {
                known.pop_first();
            }
            known.insert(build.id.clone(), (target, None));
        }
        let (this, service, id) = (self.clone(), service.clone(), build.id.clone());
        tokio::spawn(async move {
            if let Ok(mut events) = service.builds().follow(&id, 0).await {
                while let Ok(Some(_)) = events.next(true).await {}
            }
            if let Ok(build) = service.builds().get(&id).await {
                this.of(&service, &build).await;
            }
        });
        Ok(())
    }

    /// How the push after a build that has ended well stands; nothing when there is none. One that an
    /// earlier service left is begun again.
    pub(super) async fn of(
        self: &Arc<Self>,
        service: &Arc<Service>,
        build: &Build,
    ) -> Option<Push> {
        if !matches!(build.status, BuildStatus::Built | BuildStatus::Reused) {
            return None;
        }
        let known = self.known().get(&build.id).cloned();
        let target = match known {
            Some((_, Some(push))) => return Some(push),
            Some((target, None)) => target,
            None => {
                let json = service.builds().attached(&build.id, TARGET).await.ok()??;
                let target: Target = serde_json::from_slice(&json).ok()?;
                let pushed = service.builds().attached(&build.id, PUSHED).await;
                if matches!(pushed, Ok(Some(_))) {
                    return Some(Push::Done(target.to_string()));
                }
                target
            }
        };
        {
            let mut known = self.known();
            let entry = known
                .entry(build.id.clone())
                .or_insert_with(|| (target.clone(), None));
            if let Some(push) = &entry.1 {
                return Some(push.clone());
            }
            entry.1 = Some(Push::Runs);
        }
        let (this, service, build) = (self.clone(), service.clone(), build.clone());
        tokio::spawn(async move {
            let done = push(&service, &build.image_hash, &target).await;
            let push = match done {
                Ok(()) => {
                    tracing::info!(id = build.id, %target, "image was pushed");
                    if build.status != BuildStatus::Reused {
                        let kept = service.builds().attach(&build.id, PUSHED, Vec::new());
                        if let Err(error) = kept.await {
                            tracing::warn!(id = build.id, %error, "a push is not written down");
                        }
                    }
                    Push::Done(target.to_string())
                }
                Err(error) => {
                    tracing::warn!(id = build.id, %target, %error, "image was not pushed");
                    Push::Failed(format!(
                        "the image was built and cannot be pushed to {target}: {error}"
                    ))
                }
            };
            this.known().insert(build.id, (target, Some(push)));
        });
        Some(Push::Runs)
    }
}

/// Brings an image from the regional registry to another one, blobs first.
async fn push(service: &Service, hash: &Digest, target: &Target) -> Result<(), RegionalError> {
    let options = upstream_options(&service.settings().registry);
    let to = External::new(&target.registry, "", options)?;
    // Its blobs are needed until they are all there, however long that takes.
    let _lease = service.blobs().lease();
    let regional = service.catalog().regional();
    let name = hash.hex();
    let gone = |detail: &str| RegionalError::Name {
        text: format!("{IMAGES}:{name}"),
        detail: detail.to_owned(),
    };
    let manifest = regional.manifest(IMAGES, &name).await?;
    let manifest = manifest.ok_or_else(|| gone("it is not in the regional registry"))?;
    let parsed: oci::Manifest = serde_json::from_slice(&manifest.bytes)
        .map_err(|error| gone(&format!("it is no image manifest: {error}")))?;
    let progress = Progress::none();
    for descriptor in parsed.layers.iter().chain([&parsed.config]) {
        let blob = Blob {
            digest: descriptor.digest,
            size: descriptor.size,
        };
        if to.has_blob(&target.repository, &blob.digest).await? {
            continue;
        }
        let blobs = service.blobs();
        // A blob of the embedded registry lies in this store already.
        regional.pull_blob(IMAGES, &blob, blobs, &progress).await?;
        to.push_blob(&target.repository, &blob, blobs, &progress)
            .await?;
    }
    let kind = &manifest.media_type;
    to.put_manifest(&target.repository, &target.tag, kind, manifest.bytes)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let hash = Digest::of(b"x");
        let check = |target: &str, tag: Option<&str>, expect: Option<&str>| {
            let found = Target::new(target, tag, &hash).ok();
            let found = found.map(|target| target.to_string());
            assert_eq!(found.as_deref(), expect, "{target}");
        };
        check("h:5000/a/b", Some("v1"), Some("h:5000/a/b:v1"));
        check("h.example/a/", Some("v1"), Some("h.example/a:v1"));
        let own = format!("h.example/a:{}", hash.hex());
        check("h.example/a", None, Some(&own));
        for (target, tag) in [
            ("", None),
            ("h.example", None),
            ("h.example/A", None),
            ("h.example/a:v1", None),
            ("h.example/a", Some("a/b")),
            ("h example/a", None),
        ] {
            check(target, tag, None);
        }
    }
}
