//! What a collection would do with registry and store, and why. Pure: it reads no clock and no disk.
//!
//! Tags are judged first, by what is in use and by the policy. Manifests stay with their tags, with
//! the index that lists them and with the subject that they are attached to; blobs stay with
//! manifests. What was used within the grace stays in any case.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use chalk_core::wire::CollectArea;
use chalk_core::{AnyDigest, Digest};

use super::graph::{Closure, Fate, Graph};
use super::judge::{Judged, Verdict, follow_names, judge, make_room, shown};
use super::words::length;
use crate::places::IMAGES;
use crate::registry::collect::{Parts, Survey};
use crate::settings;

/// A blob of the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) size: u64,
    /// When it was last used.
    pub(super) used: SystemTime,
}

/// What is needed whatever the policy says, with the reason.
#[derive(Debug, Default)]
pub(super) struct InUse {
    /// Manifests.
    pub(super) manifests: HashMap<Digest, String>,
    /// Image hashes.
    pub(super) hashes: HashMap<Digest, String>,
    /// Blobs that no manifest names.
    pub(super) blobs: HashMap<Digest, &'static str>,
    /// When steps were last found without asking the registry, by key.
    pub(super) steps: HashMap<Digest, SystemTime>,
}

/// What a plan is made from.
pub(super) struct Input<'a> {
    pub(super) survey: &'a Survey,
    pub(super) blobs: &'a HashMap<Digest, Stored>,
    pub(super) in_use: &'a InUse,
    pub(super) policy: &'a settings::Gc,
    /// What was used since then stays.
    pub(super) horizon: SystemTime,
    pub(super) now: SystemTime,
    /// The blob that a digest names.
    pub(super) resolve: &'a dyn Fn(&AnyDigest) -> Option<Digest>,
    /// Files of the spec that such a manifest attaches to an image.
    pub(super) files: &'a dyn Fn(&Parts) -> Vec<Digest>,
}

/// A thing, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) area: CollectArea,
    pub(super) name: String,
    pub(super) digest: Option<AnyDigest>,
    pub(super) free: bool,
    pub(super) why: String,
    /// All that it is made of.
    pub(super) bytes: u64,
    /// What goes with it and with nothing before it.
    pub(super) frees: u64,
}

/// A tag to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagToGo {
    pub(super) repository: String,
    pub(super) tag: String,
    pub(super) digest: AnyDigest,
    /// Its place in the list of items; none for what is not listed.
    pub(super) item: Option<usize>,
}

/// Manifests to remove from a repository.
#[derive(Debug, Clone, Default)]
pub(super) struct Doomed {
    /// In the order in which they can go.
    pub(super) order: Vec<AnyDigest>,
    /// Indexes that list one.
    pub(super) needed_by: HashMap<AnyDigest, Vec<AnyDigest>>,
    /// What one is attached to.
    pub(super) subjects: HashMap<AnyDigest, AnyDigest>,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) tags: Vec<TagToGo>,
    pub(super) manifests: BTreeMap<String, Doomed>,
    /// Blobs to take out of repositories.
    pub(super) links: BTreeMap<String, Vec<AnyDigest>>,
    /// Blobs to remove, each with the place of the item that it goes with.
    pub(super) blobs: BTreeMap<Digest, usize>,
}

/// What manifests name that are there.
#[derive(Debug, Default)]
pub(super) struct Remaining {
    /// Blobs that are needed.
    pub(super) needed: HashSet<Digest>,
    /// By repository: what its manifests name.
    pub(super) named: BTreeMap<String, HashSet<Digest>>,
}

/// What is needed now, when nothing more goes.
pub(super) fn remaining(
    survey: &Survey,
    resolve: &dyn Fn(&AnyDigest) -> Option<Digest>,
) -> Remaining {
    let mut remaining = Remaining::default();
    for (name, holding) in &survey.repositories {
        let graph = Graph::new(resolve, holding);
        let mut named = graph.named(&BTreeMap::new());
        if graph.lost {
            named.extend(holding.links.iter().filter_map(resolve));
        }
        remaining.needed.extend(&named);
        remaining.named.insert(name.clone(), named);
    }
    remaining
}

/// Makes a plan.
pub(super) fn plan(input: &Input<'_>) -> Plan {
    let graphs: BTreeMap<&str, Graph<'_>> = input
        .survey
        .repositories
        .iter()
        .map(|(name, holding)| (name.as_str(), Graph::new(input.resolve, holding)))
        .collect();
    let mut tags = judge(input);
    make_room(input, &graphs, &mut tags);
    follow_names(input, &mut tags);

    let mut plan = Plan::default();
    let mut covered: HashSet<(&str, AnyDigest)> = HashSet::new();
    let mut owners: Vec<(usize, Closure)> = Vec::new();
    for tag in &tags {
        let goes = matches!(tag.verdict, Verdict::Goes(_));
        let mut place = None;
        if let Some(area) = tag.area {
            let closure = graphs[tag.repository].closure(tag.digest, true);
            place = Some(plan.items.len());
            let (Verdict::Stays(why) | Verdict::May(why) | Verdict::Goes(why)) = &tag.verdict;
            plan.items.push(Item {
                area,
                name: shown(tag.repository, tag.tag),
                digest: Some(tag.digest.clone()),
                free: goes,
                why: why.clone(),
                bytes: closure.blobs.values().sum(),
                frees: 0,
            });
            if goes {
                let manifests = closure.manifests.iter().cloned();
                covered.extend(manifests.map(|digest| (tag.repository, digest)));
                owners.push((plan.items.len() - 1, closure));
            }
        }
        if goes {
            plan.tags.push(TagToGo {
                repository: tag.repository.to_owned(),
                tag: tag.tag.to_owned(),
                digest: tag.digest.clone(),
                item: place,
            });
        }
    }

    let mut needed: HashSet<Digest> = input.in_use.blobs.keys().copied().collect();
    for (name, graph) in &graphs {
        let of: Vec<&Judged<'_>> = tags.iter().filter(|t| t.repository == *name).collect();
        let mut fates = graph.fates(input, name, &of);
        let kept: HashSet<Digest> = graph.named(&fates);
        let links = &graph.holding.links;
        if graph.lost {
            // It is not known what they are for.
            needed.extend(links.iter().filter_map(input.resolve));
        }
        let unused = links.iter().filter(|link| {
            let blob = (input.resolve)(link);
            !graph.lost && blob.is_none_or(|blob| !kept.contains(&blob) && input.is_unused(&blob))
        });
        let unused: Vec<AnyDigest> = unused.cloned().collect();
        needed.extend(kept);
        // With them the image can be built anew, to be verified.
        let specs = graph.holding.manifests.iter().filter(|(digest, _)| {
            *name == IMAGES && !matches!(fates.get(*digest), Some(Fate::Goes(_)))
        });
        let specs = specs.filter_map(|(_, listed)| listed.parts.as_ref());
        for spec in specs.filter(|parts| parts.subject.is_some()) {
            needed.extend((input.files)(spec));
        }
        if !unused.is_empty() {
            plan.links.insert((*name).to_owned(), unused);
        }
        let doomed = graph.doomed(&fates);
        // Untagged ones are told of, unless they are nothing but a part of something.
        fates.retain(|digest, _| !covered.contains(&(*name, digest.clone())));
        for (digest, fate) in fates {
            let (free, why) = match fate {
                Fate::Own(why) => (false, why),
                Fate::Goes(why) => (true, why),
                Fate::Part => continue,
            };
            let closure = graph.closure(&digest, false);
            plan.items.push(Item {
                area: CollectArea::Manifests,
                name: format!("{name}@{digest}"),
                digest: Some(digest),
                free,
                why,
                bytes: closure.blobs.values().sum(),
                frees: 0,
            });
            if free {
                owners.push((plan.items.len() - 1, closure));
            }
        }
        if !doomed.order.is_empty() {
            plan.manifests.insert((*name).to_owned(), doomed);
        }
    }
    sweep(input, &needed, owners, &mut plan);
    plan
}

/// Decides about blobs, and puts those that go down to what they go with.
fn sweep(
    input: &Input<'_>,
    needed: &HashSet<Digest>,
    owners: Vec<(usize, Closure)>,
    plan: &mut Plan,
) {
    let goes = |digest: &Digest| !needed.contains(digest) && input.is_unused(digest);
    for (place, closure) in owners {
        for digest in closure.blobs.keys() {
            let Some(stored) = input.blobs.get(digest) else {
                continue;
            };
            if goes(digest) && !plan.blobs.contains_key(digest) {
                plan.blobs.insert(*digest, place);
                plan.items[place].frees += stored.size;
            }
        }
        let item = &mut plan.items[place];
        if item.frees == 0 && item.bytes > 0 {
            item.why
                .push_str("; other things share all that it is made of, or it was just used");
        }
    }
    let mut alone: Vec<(&Digest, &Stored)> = input
        .blobs
        .iter()
        .filter(|(digest, _)| !needed.contains(*digest) && !plan.blobs.contains_key(*digest))
        .collect();
    alone.sort_by_key(|(digest, _)| **digest);
    for (digest, stored) in alone {
        let free = input.is_unused(digest);
        let ago = input.ago(stored.used);
        plan.items.push(Item {
            area: CollectArea::Blobs,
            name: digest.to_string(),
            digest: Some(digest.into()),
            free,
            why: match free {
                true => format!("nothing names it, and it was not used for {ago}"),
                false => format!("nothing names it, but it was used {ago} ago"),
            },
            bytes: stored.size,
            frees: if free { stored.size } else { 0 },
        });
        if free {
            plan.blobs.insert(*digest, plan.items.len() - 1);
        }
    }
}

impl Input<'_> {
    pub(super) fn is_unused(&self, digest: &Digest) -> bool {
        let stored = self.blobs.get(digest);
        stored.is_some_and(|stored| stored.used < self.horizon)
    }

    /// How long ago something was, in words.
    pub(super) fn ago(&self, then: SystemTime) -> String {
        length(self.now.duration_since(then).unwrap_or_default())
    }

    /// Whether a limit of age says that something goes.
    pub(super) fn is_older(&self, used: SystemTime, limit: Duration) -> bool {
        self.now.duration_since(used).is_ok_and(|age| age >= limit)
    }
}
