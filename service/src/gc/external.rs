//! The external registry: tags and manifests of ours, by the means that every registry has.
//!
//! Such a registry says neither which repositories it has nor when something was used. So only what
//! the service itself put there is looked at (images, steps, and the names of the directory of names),
//! and what counts as use is what the service was asked for: [`Catalog::find`] notes it. A cached step
//! of which this builder has no note is another builder's, and stays. Bytes are freed when the
//! registry collects its own garbage.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::{AnyDigest, Digest};
use chalk_store::uses::Horizon;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::plan::{Doomed, InUse, Stored, TagToGo};
use super::{CollectError, Result};
use crate::catalog::{Catalog, CatalogError, NAME_NOTE};
use crate::places::{BUILD_CACHE, BUILDS, IMAGES, NAMES, Name, STEPS, passing_since};
use crate::registry::collect::{Holding, Listed, Parts, Read, Survey, Tagged};

/// Questions that are put to the registry at once.
const PARALLEL: usize = 8;

/// What of ours the registry holds, and the blobs that it consists of.
///
/// # Errors
/// When the registry fails.
pub(super) async fn survey(
    catalog: &Catalog,
    in_use: &InUse,
    read: &mut Read,
) -> Result<(Survey, HashMap<Digest, Stored>)> {
    let mut survey = Survey::default();
    let known = catalog.known_manifests();
    for repository in [IMAGES, STEPS, NAMES, BUILDS, BUILD_CACHE] {
        let mut tags = catalog.regional().tags(repository).await.map_err(failed)?;
        // Lists of what is attached to an image go with that.
        tags.retain(|tag| !tag.starts_with("sha256-"));
        let holding = holding(catalog, repository, tags, read).await?;
        survey.repositories.insert(repository.to_owned(), holding);
    }
    let entries = survey.repositories[NAMES].manifests.values();
    let names = entries.filter_map(|listed| listed.parts.as_ref()?.annotations.get(NAME_NOTE));
    let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names.filter_map(|name| name.parse::<Name>().ok()) {
        tags.entry(name.repository).or_default().push(name.tag);
    }
    for (repository, tags) in tags {
        let holding = holding(catalog, &repository, tags, read).await?;
        survey.repositories.insert(repository, holding);
    }
    let now = SystemTime::now();
    let mut blobs = HashMap::new();
    for (name, holding) in &mut survey.repositories {
        for (tag, to) in &mut holding.tags {
            let AnyDigest::Sha256(digest) = &to.digest else {
                continue;
            };
            to.set = known.get(digest).copied().unwrap_or(SystemTime::UNIX_EPOCH);
            let noted = format!("sha256:{tag}").parse::<Digest>();
            let mine = noted.is_ok_and(|key| in_use.steps.contains_key(&key));
            // Of others nobody here knows whether they are used.
            match name.as_str() {
                STEPS | BUILD_CACHE if !mine => to.set = now,
                BUILDS => to.set = passing_since(tag).unwrap_or(now),
                _ => {}
            }
        }
        for listed in holding.manifests.values_mut() {
            let digest = listed.blob;
            let used = digest.and_then(|digest| catalog.last_use(&digest));
            let made = digest.and_then(|digest| known.get(&digest).copied());
            listed.used = used.max(made).unwrap_or(match name.as_str() {
                STEPS | NAMES | BUILDS | BUILD_CACHE => SystemTime::UNIX_EPOCH,
                _ => now,
            });
            let mut note = |digest: Digest, size| {
                let used = SystemTime::UNIX_EPOCH;
                blobs.insert(digest, Stored { size, used });
            };
            if let Some(digest) = digest {
                note(digest, listed.size);
            }
            for (part, size) in listed.parts.iter().flat_map(|parts| &parts.blobs) {
                if let AnyDigest::Sha256(part) = part {
                    note(*part, *size);
                }
            }
        }
    }
    Ok((survey, blobs))
}

async fn holding(
    catalog: &Catalog,
    repository: &str,
    tags: Vec<String>,
    read: &mut Read,
) -> Result<Holding> {
    let regional = catalog.regional();
    let heads: Vec<(String, Option<Digest>)> = stream::iter(tags)
        .map(|tag| async move {
            let head = regional.head_manifest(repository, &tag).await?;
            Ok::<_, crate::registry::RegionalError>((tag, head.map(|head| head.digest)))
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
        .map_err(failed)?;
    let mut holding = Holding::default();
    let mut wanted: Vec<Digest> = Vec::new();
    for (tag, digest) in heads {
        if let Some(digest) = digest {
            let set = SystemTime::UNIX_EPOCH;
            let digest_of_tag = AnyDigest::from(digest);
            holding.tags.insert(
                tag,
                Tagged {
                    digest: digest_of_tag,
                    set,
                },
            );
            wanted.push(digest);
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    if repository == IMAGES {
        let attached: Vec<Vec<Digest>> = stream::iter(wanted.clone())
            .map(|digest| async move {
                let found = regional.referrers(repository, &digest, None).await?;
                let found = found.into_iter().map(|referrer| referrer.digest);
                Ok::<_, crate::registry::RegionalError>(found.collect())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
            .map_err(failed)?;
        wanted.extend(attached.into_iter().flatten());
    }
    let known: &Read = read;
    let parts: Vec<(Digest, u64, Option<Arc<Parts>>)> = stream::iter(wanted)
        .map(|digest| async move {
            if let Some((size, parts)) = known.get(&AnyDigest::from(digest)) {
                return Ok((digest, *size, Some(parts.clone())));
            }
            let found = regional.manifest(repository, &digest.to_string()).await?;
            let Some(found) = found else {
                return Ok((digest, 0, None));
            };
            let parts = Parts::read(&found.media_type, &found.bytes).map(Arc::new);
            Ok::<_, crate::registry::RegionalError>((digest, found.bytes.len() as u64, parts))
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
        .map_err(failed)?;
    for (digest, size, parts) in parts {
        if let Some(parts) = &parts {
            read.insert(digest.into(), (size, parts.clone()));
        }
        let listed = Listed {
            blob: Some(digest),
            size,
            used: SystemTime::UNIX_EPOCH,
            parts,
        };
        holding.manifests.insert(digest.into(), listed);
    }
    Ok(holding)
}

/// Removes what the plan says, unless it was used after the horizon; of each tag, whether it went.
///
/// # Errors
/// When the registry or the index fails.
pub(super) async fn drop_tags(
    catalog: &Catalog,
    tags: &[TagToGo],
    manifests: &BTreeMap<String, Doomed>,
    horizon: &Horizon,
) -> Result<Vec<bool>> {
    // Manifests go with the first of their tags.
    let mut own: BTreeSet<(&str, &AnyDigest)> = BTreeSet::new();
    for repository in [STEPS, BUILDS, BUILD_CACHE] {
        let doomed = manifests.get(repository).map(|doomed| doomed.order.iter());
        own.extend(
            doomed
                .into_iter()
                .flatten()
                .map(|digest| (repository, digest)),
        );
    }
    let mut gone = Vec::with_capacity(tags.len());
    for tag in tags {
        let AnyDigest::Sha256(digest) = &tag.digest else {
            gone.push(false);
            continue;
        };
        let dropped = match tag.repository.as_str() {
            IMAGES => match format!("sha256:{}", tag.tag).parse() {
                Ok(hash) => catalog.delete_unused(&hash, digest, horizon).await?,
                Err(_) => false,
            },
            // With the name that it files.
            NAMES => false,
            repository @ (STEPS | BUILDS | BUILD_CACHE) => {
                let manifest = own.remove(&(repository, &tag.digest)).then_some(digest);
                catalog.drop_own(repository, &tag.tag, manifest).await?;
                true
            }
            repository => match format!("{repository}:{}", tag.tag).parse() {
                Ok(name) => catalog.remove_unused_name(&name, digest, horizon).await?,
                Err(_) => false,
            },
        };
        gone.push(dropped);
    }
    Ok(gone)
}

fn failed(error: crate::registry::RegionalError) -> CollectError {
    CatalogError::from(error).into()
}
