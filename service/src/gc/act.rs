//! What a collection does with registry and store: looks at all, removes what the plan says, each
//! thing unless it was used meanwhile. Everything here blocks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

use chalk_core::tree::Tree;
use chalk_core::{AnyDigest, Digest, Spec};
use chalk_store::registry::MANIFEST_LIMIT;
use chalk_store::uses::Horizon;
use chalk_store::{Blob, BlobStore, Unused};

use super::Result;
use super::plan::{self, Doomed, InUse, Input, Plan, Stored, TagToGo};
use crate::registry::Registry;
use crate::registry::collect::{Held, Parts, Read, Survey};
use crate::resolve;
use crate::settings;

/// Manifests or links that are removed before others have a turn to change the registry.
const TURN: usize = 32;

/// Looks at registry and store, and plans.
pub(super) fn look(
    registry: Option<&Registry>,
    blobs: &BlobStore,
    in_use: &InUse,
    policy: &settings::Gc,
    horizon: &Horizon,
    read: &mut Read,
) -> Result<(Plan, Survey)> {
    let survey = match registry {
        Some(registry) => registry.survey(read)?,
        None => Survey::default(),
    };
    let mut stored = HashMap::new();
    match registry {
        Some(registry) => {
            let held = registry.held()?.into_iter();
            stored
                .extend(held.map(|(digest, Held { size, used })| (digest, Stored { size, used })));
        }
        None => {
            for found in blobs.list()? {
                let (Blob { digest, size }, used) = found?;
                stored.insert(digest, Stored { size, used });
            }
        }
    }
    let in_bucket = registry.is_some_and(|registry| registry.bucket().is_some());
    let plan = plan::plan(&Input {
        survey: &survey,
        blobs: &stored,
        in_use,
        policy,
        horizon: horizon.wall,
        now: SystemTime::now(),
        resolve: &|digest| resolve(registry, blobs, digest),
        files: &|parts| match in_bucket {
            // They are in the store here, and stay for the grace only.
            true => Vec::new(),
            false => files(blobs, parts),
        },
    });
    Ok((plan, survey))
}

/// The blob that a digest names.
fn resolve(registry: Option<&Registry>, blobs: &BlobStore, digest: &AnyDigest) -> Option<Digest> {
    match registry {
        Some(registry) => registry.resolve(digest).ok().flatten(),
        None => blobs.resolve(digest).ok().flatten(),
    }
}

/// Files of the spec that is the one layer of a manifest; as far as it can be read.
fn files(blobs: &BlobStore, parts: &Parts) -> Vec<Digest> {
    let mut found = Vec::new();
    let layers = parts.blobs.iter().skip(1);
    for (layer, _) in layers {
        let Ok(Some(layer)) = blobs.resolve(layer) else {
            continue;
        };
        let json = blobs.inspect(&layer, MANIFEST_LIMIT);
        let Some(spec) = json
            .ok()
            .and_then(|j| serde_json::from_slice::<Spec>(&j).ok())
        else {
            continue;
        };
        let (files, trees) = resolve::contents(&spec);
        for tree in &trees {
            let json = blobs.inspect(tree, resolve::TREE_LIMIT);
            if let Some(files) = json.ok().and_then(|json| Tree::files(&json).ok()) {
                found.extend(files);
            }
        }
        found.extend(files.into_iter().chain(trees));
    }
    found
}

/// Removes tags; of each, whether it went.
pub(super) fn drop_tags(
    registry: &Registry,
    tags: &[TagToGo],
    horizon: &Horizon,
) -> Result<Vec<bool>> {
    let mut gone = Vec::with_capacity(tags.len());
    for tag in tags {
        gone.push(registry.drop_tag(&tag.repository, &tag.tag, &tag.digest, horizon)?);
    }
    Ok(gone)
}

/// Removes manifests, and gives `repository@digest` of those that stay.
pub(super) fn drop_manifests(
    registry: &Registry,
    manifests: &BTreeMap<String, Doomed>,
    horizon: &Horizon,
) -> Result<HashSet<String>> {
    let mut kept = HashSet::new();
    for (repository, doomed) in manifests {
        for turn in doomed.order.chunks(TURN) {
            let (parents, subjects) = (&doomed.needed_by, &doomed.subjects);
            let gone = registry.drop_manifests(repository, turn, parents, subjects, horizon)?;
            let gone: HashSet<AnyDigest> = gone.into_iter().collect();
            let stays = turn.iter().filter(|digest| !gone.contains(digest));
            kept.extend(stays.map(|digest| format!("{repository}@{digest}")));
        }
    }
    Ok(kept)
}

/// Blobs that are to go.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// By repository.
    pub(super) links: BTreeMap<String, Vec<AnyDigest>>,
    /// With the place of the item that each goes with.
    pub(super) blobs: BTreeMap<Digest, usize>,
    /// What is needed though no manifest names it.
    pub(super) needed: HashSet<Digest>,
}

/// Takes blobs out of repositories and the store, unless something names them now; gives the places of
/// the items that they went with, and their bytes.
pub(super) fn sweep(
    registry: Option<&Registry>,
    blobs: &BlobStore,
    sweep: Sweep,
    horizon: &Horizon,
    read: &mut Read,
) -> Result<Vec<(usize, u64)>> {
    let mut needed = sweep.needed;
    if let Some(registry) = registry {
        let survey = registry.survey(read)?;
        let resolve = |digest: &AnyDigest| resolve(Some(registry), blobs, digest);
        let remaining = plan::remaining(&survey, &resolve);
        for (repository, links) in sweep.links {
            let named = remaining.named.get(&repository);
            let is_named = |link: &AnyDigest| {
                resolve(link).is_some_and(|blob| named.is_some_and(|named| named.contains(&blob)))
            };
            let unused: Vec<AnyDigest> = links.into_iter().filter(|link| !is_named(link)).collect();
            for turn in unused.chunks(TURN) {
                registry.drop_links(&repository, turn, horizon)?;
            }
        }
        needed.extend(remaining.needed);
    }
    let mut freed = Vec::new();
    for (digest, item) in sweep.blobs {
        if needed.contains(&digest) {
            continue;
        }
        let removed = match registry {
            Some(registry) => registry.discard(&digest, horizon)?,
            None => blobs.remove_unused(&digest, horizon)?,
        };
        if let Unused::Removed(size) = removed {
            freed.push((item, size));
        }
    }
    match registry {
        Some(registry) => registry.drop_dead_names(horizon)?,
        None => drop(blobs.remove_dead_names()?),
    }
    Ok(freed)
}
