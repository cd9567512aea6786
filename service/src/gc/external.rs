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
use chalk_store::registry::RegistryError;
use chalk_store::uses::Horizon;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::plan::{Doomed, InUse, Stored, TagToGo};
use super::{CollectError, Result};
use crate::catalog::{Catalog, CatalogError, NAME_NOTE};
use crate::places::{BUILD_CACHE, BUILDS, IMAGES, NAMES, Name, STEPS, passing_since};
use crate::registry::RegionalError;
use crate::registry::collect::{Holding, Listed, Parts, Read, Survey, Tagged};

/// Questions that are put to the registry at once.
const PARALLEL: usize = 8;

/// What of ours the registry holds, and the blobs that it consists of. Images that cannot be judged
/// are put down as in use.
///
/// # Errors
/// When the registry fails.
pub(super) async fn survey(
    catalog: &Catalog,
    in_use: &mut InUse,
    read: &mut Read,
) -> Result<(Survey, HashMap<Digest, Stored>)> {
    let mut survey = Survey::default();
    let known = catalog.known_manifests();
    for repository in [IMAGES, STEPS, NAMES, BUILDS, BUILD_CACHE] {
        let mut tags = catalog.regional().tags(repository).await.map_err(failed)?;
        // Lists of what is attached to an image go with that.
        tags.retain(|tag| !tag.starts_with("sha256-"));
        let holding = holding(catalog, repository, tags, read, in_use).await?;
        survey.repositories.insert(repository.to_owned(), holding);
    }
    let entries = survey.repositories[NAMES].manifests.values();
    let names = entries.filter_map(|listed| listed.parts.as_ref()?.annotations.get(NAME_NOTE));
    let mut tags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names.filter_map(|name| name.parse::<Name>().ok()) {
        tags.entry(name.repository).or_default().push(name.tag);
    }
    for (repository, tags) in tags {
        let holding = holding(catalog, &repository, tags, read, in_use).await?;
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
    in_use: &mut InUse,
) -> Result<Holding> {
    let regional = catalog.regional();
    let heads: Vec<(String, Option<Digest>)> = stream::iter(tags)
        .map(|tag| async move {
            let head = regional.head_manifest(repository, &tag).await?;
            Ok::<_, RegionalError>((tag, head.map(|head| head.digest)))
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
        let attached: Vec<(Digest, Result<Vec<Digest>, String>)> = stream::iter(wanted.clone())
            .map(|digest| async move {
                match regional.referrers(repository, &digest, None).await {
                    Ok(found) => {
                        let found = found.into_iter().map(|referrer| referrer.digest);
                        Ok((digest, Ok(found.collect())))
                    }
                    Err(error) if error.is_unreachable() => Err(error),
                    Err(error) => Ok((digest, Err(error.to_string()))),
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
            .map_err(failed)?;
        for (digest, found) in attached {
            match found {
                Ok(found) => wanted.extend(found),
                Err(why) => {
                    tracing::warn!(%digest, why, "the image stays: what is attached to it cannot be read");
                    let why = format!("what is attached to it cannot be read: {why}");
                    in_use.manifests.insert(digest, why);
                }
            }
        }
    }
    let known: &Read = read;
    let parts: Vec<(Digest, u64, Option<Arc<Parts>>)> = stream::iter(wanted)
        .map(|digest| async move {
            if let Some((size, parts)) = known.get(&AnyDigest::from(digest)) {
                return Ok((digest, *size, Some(parts.clone())));
            }
            let found = match regional.manifest(repository, &digest.to_string()).await {
                Ok(Some(found)) => found,
                Ok(None) => return Ok((digest, 0, None)),
                Err(error) if error.is_unreachable() => return Err(error),
                // It stays, as what is damaged does.
                Err(error) => {
                    tracing::warn!(%digest, %error, "a manifest cannot be read");
                    return Ok((digest, 0, None));
                }
            };
            let parts = Parts::read(&found.media_type, &found.bytes).map(Arc::new);
            Ok::<_, RegionalError>((digest, found.bytes.len() as u64, parts))
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

/// What became of a tag that was to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    Gone,
    /// It was used since it was looked at, or goes with something else.
    Stays,
    /// The registry did not remove it; why.
    Failed(String),
}

/// Removes what the plan says, unless it was used after the horizon; what became of each tag. A tag
/// that the registry does not remove keeps none of the others; one that removes nothing, or is gone,
/// is not asked for more.
pub(super) async fn drop_tags(
    catalog: &Catalog,
    tags: &[TagToGo],
    manifests: &BTreeMap<String, Doomed>,
    horizon: &Horizon,
) -> Vec<Dropped> {
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
    let mut hopeless: Option<String> = None;
    let mut all = Vec::with_capacity(tags.len());
    for tag in tags {
        if let Some(why) = &hopeless {
            all.push(Dropped::Failed(why.clone()));
            continue;
        }
        let dropped = match drop_tag(catalog, tag, &mut own, horizon).await {
            Ok(true) => Dropped::Gone,
            Ok(false) => Dropped::Stays,
            Err(error) => {
                let why = error.to_string();
                let (repository, tag) = (&tag.repository, &tag.tag);
                match is_hopeless(&error) {
                    true => {
                        tracing::warn!(why, "the external registry is not collected");
                        hopeless = Some(why.clone());
                    }
                    false => tracing::warn!(repository, tag, why, "a tag is not removed"),
                }
                Dropped::Failed(why)
            }
        };
        all.push(dropped);
    }
    all
}

/// Whether another tag would fare no better.
fn is_hopeless(error: &CatalogError) -> bool {
    match error {
        CatalogError::Registry(RegionalError::External(
            RegistryError::Unreachable { .. } | RegistryError::Unavailable { .. },
        ))
        | CatalogError::Stopping => true,
        CatalogError::Registry(error) => error.is_without_deletes(),
        _ => false,
    }
}

/// Removes one; whether it went.
async fn drop_tag<'a>(
    catalog: &Catalog,
    tag: &'a TagToGo,
    own: &mut BTreeSet<(&'a str, &'a AnyDigest)>,
    horizon: &Horizon,
) -> Result<bool, CatalogError> {
    let AnyDigest::Sha256(digest) = &tag.digest else {
        return Ok(false);
    };
    match tag.repository.as_str() {
        IMAGES => match format!("sha256:{}", tag.tag).parse() {
            Ok(hash) => catalog.delete_unused(&hash, digest, horizon).await,
            Err(_) => Ok(false),
        },
        // With the name that it files.
        NAMES => Ok(false),
        repository @ (STEPS | BUILDS | BUILD_CACHE) => {
            let manifest = own.remove(&(repository, &tag.digest)).then_some(digest);
            catalog.drop_own(repository, &tag.tag, manifest).await?;
            Ok(true)
        }
        repository => match format!("{repository}:{}", tag.tag).parse() {
            Ok(name) => catalog.remove_unused_name(&name, digest, horizon).await,
            Err(_) => Ok(false),
        },
    }
}

fn failed(error: RegionalError) -> CollectError {
    CatalogError::from(error).into()
}
