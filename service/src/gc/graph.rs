//! Manifests of a repository, and what they have to do with each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chalk_core::{AnyDigest, Digest};

use super::judge::{Judged, Verdict};
use super::plan::{Doomed, Input};
use super::words::length;
use crate::places::{BUILD_CACHE, BUILDS, IMAGES, NAMES, STEPS};
use crate::registry::collect::Holding;

/// What a manifest brings along within its repository.
#[derive(Default)]
pub(super) struct Closure {
    pub(super) manifests: Vec<AnyDigest>,
    pub(super) blobs: BTreeMap<Digest, u64>,
}

/// What becomes of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays for its own sake, though no tag points to it.
    Own(String),
    /// It stays with something else.
    Part,
    Goes(String),
}

/// Manifests of a repository, by what they have to do with each other.
pub(super) struct Graph<'a> {
    pub(super) holding: &'a Holding,
    /// By index: what it lists. By subject: what is attached to it.
    pub(super) attached: HashMap<&'a AnyDigest, Vec<&'a AnyDigest>>,
    pub(super) resolved: HashMap<&'a AnyDigest, Digest>,
    /// Whether some manifest cannot be read: what it names is not known.
    pub(super) lost: bool,
}

impl<'a> Graph<'a> {
    pub(super) fn new(
        resolve: &dyn Fn(&AnyDigest) -> Option<Digest>,
        holding: &'a Holding,
    ) -> Self {
        let mut attached: HashMap<&AnyDigest, Vec<&AnyDigest>> = HashMap::new();
        let mut resolved = HashMap::new();
        let mut lost = false;
        for (digest, listed) in &holding.manifests {
            let Some(parts) = &listed.parts else {
                lost = true;
                continue;
            };
            if let Some(subject) = &parts.subject {
                attached.entry(subject).or_default().push(digest);
            }
            for (blob, _) in &parts.blobs {
                if let Some(found) = resolve(blob) {
                    resolved.insert(blob, found);
                }
            }
        }
        Self {
            holding,
            attached,
            resolved,
            lost,
        }
    }

    /// What a manifest brings along, itself included; what is attached to it, too, if asked.
    pub(super) fn closure(&self, digest: &AnyDigest, with_attached: bool) -> Closure {
        let mut closure = Closure::default();
        let mut seen = HashSet::new();
        let mut open = vec![digest];
        while let Some(digest) = open.pop() {
            let Some((digest, listed)) = self.holding.manifests.get_key_value(digest) else {
                continue;
            };
            if !seen.insert(digest) {
                continue;
            }
            closure.manifests.push(digest.clone());
            closure
                .blobs
                .extend(listed.blob.map(|blob| (blob, listed.size)));
            if let Some(parts) = &listed.parts {
                for (blob, size) in &parts.blobs {
                    closure
                        .blobs
                        .extend(self.resolved.get(blob).map(|b| (*b, *size)));
                }
                open.extend(&parts.manifests);
            }
            if with_attached {
                open.extend(self.attached.get(digest).into_iter().flatten());
            }
        }
        closure
    }

    pub(super) fn fates(
        &self,
        input: &Input<'_>,
        name: &str,
        tags: &[&Judged<'_>],
    ) -> BTreeMap<AnyDigest, Fate> {
        let tagged: HashSet<&AnyDigest> = tags
            .iter()
            .filter(|tag| !matches!(tag.verdict, Verdict::Goes(_)))
            .map(|tag| tag.digest)
            .collect();
        let untagged: HashSet<&AnyDigest> = tags.iter().map(|tag| tag.digest).collect();
        let own = matches!(name, IMAGES | STEPS | NAMES | BUILDS | BUILD_CACHE)
            || name.starts_with("imports/");
        let mut fates: BTreeMap<AnyDigest, Fate> = BTreeMap::new();
        let mut open = Vec::new();
        for (digest, listed) in &self.holding.manifests {
            let ago = input.ago(listed.used);
            let in_use = listed
                .blob
                .and_then(|blob| input.in_use.manifests.get(&blob));
            let limit = input.policy.untagged_age;
            let fate = if tagged.contains(digest) {
                Fate::Part
            } else if listed.parts.is_none() {
                Fate::Own("it is damaged: push it again, or delete it".to_owned())
            } else if let Some(why) = in_use {
                Fate::Own(why.clone())
            } else if listed.used >= input.horizon {
                Fate::Own(format!("no tag names it, but it was used {ago} ago"))
            } else if untagged.contains(digest) {
                Fate::Goes("its tags go".to_owned())
            } else if !own && !input.is_older(listed.used, limit) {
                Fate::Own(format!(
                    "no tag names it, but it was used {ago} ago (gc.untagged_age is {})",
                    length(limit)
                ))
            } else {
                Fate::Goes(format!("no tag names it, and it was not used for {ago}"))
            };
            if !matches!(fate, Fate::Goes(_)) {
                open.push(digest);
            }
            fates.insert(digest.clone(), fate);
        }
        // What is listed in or attached to what stays, stays.
        while let Some(digest) = open.pop() {
            let listed = self.holding.manifests.get(digest);
            let parts = listed.and_then(|listed| listed.parts.as_ref());
            let below = parts.into_iter().flat_map(|parts| &parts.manifests);
            let attached = self.attached.get(digest).into_iter().flatten().copied();
            for part in below.chain(attached) {
                let Some((part, _)) = self.holding.manifests.get_key_value(part) else {
                    continue;
                };
                match fates.get_mut(part) {
                    Some(fate) if *fate != Fate::Part => {
                        *fate = Fate::Part;
                        open.push(part);
                    }
                    _ => {}
                }
            }
        }
        fates
    }

    /// Blobs that manifests which stay name, and those of the manifests.
    pub(super) fn named(&self, fates: &BTreeMap<AnyDigest, Fate>) -> HashSet<Digest> {
        let mut named = HashSet::new();
        for (digest, listed) in &self.holding.manifests {
            if matches!(fates.get(digest), Some(Fate::Goes(_))) {
                continue;
            }
            named.extend(listed.blob);
            for (blob, _) in listed.parts.iter().flat_map(|parts| &parts.blobs) {
                named.extend(self.resolved.get(blob));
            }
        }
        named
    }

    pub(super) fn doomed(&self, fates: &BTreeMap<AnyDigest, Fate>) -> Doomed {
        let goes = |digest: &AnyDigest| matches!(fates.get(digest), Some(Fate::Goes(_)));
        let mut doomed = Doomed::default();
        for (digest, listed) in &self.holding.manifests {
            let Some(parts) = &listed.parts else {
                continue;
            };
            for part in parts.manifests.iter().filter(|part| goes(part)) {
                let parents = doomed.needed_by.entry(part.clone()).or_default();
                parents.push(digest.clone());
            }
            if let Some(subject) = parts.subject.as_ref().filter(|_| goes(digest)) {
                doomed.subjects.insert(digest.clone(), subject.clone());
            }
        }
        // What others need goes after them.
        let mut left: BTreeSet<&AnyDigest> = fates.keys().filter(|digest| goes(digest)).collect();
        while !left.is_empty() {
            let waits = |digest: &AnyDigest| {
                let parents = doomed.needed_by.get(digest).into_iter().flatten();
                let mut before = parents.chain(doomed.subjects.get(digest));
                before.any(|other| other != digest && left.contains(other))
            };
            let ready: Vec<&AnyDigest> = left.iter().copied().filter(|d| !waits(d)).collect();
            // Digests cannot name each other in a circle.
            if ready.is_empty() {
                break;
            }
            for digest in ready {
                left.remove(digest);
                doomed.order.push(digest.clone());
            }
        }
        doomed
    }
}
