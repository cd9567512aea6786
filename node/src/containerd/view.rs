//! What is in containerd: its images that can run, and what they consist of.
//!
//! An image counts when its manifest and config are in the content store and its layers are unpacked
//! in our snapshotter, whoever brought it. It is known by the digest of its manifest for this machine,
//! also where a record names an index.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_core::wire::{CacheUsage, CachedImage};
use oci_spec::image::{Arch, ImageIndex, Os};

use super::client::Containerd;
use super::records::Record;
use super::snapshots::chain_ids;
use crate::agent::CacheDelta;
use crate::cache::Result;
use crate::pull::Plan;

/// Most removals that the feed of changes remembers.
const GONE: usize = 4096;

/// A layer of an image: its blob, and its snapshot by chain id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) blob: Digest,
    pub(super) chain: Digest,
}

/// An image that can run.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) shown: CachedImage,
    pub(super) parts: Vec<Part>,
    /// When it was last warmed; `None` for one that others brought.
    pub(super) used: Option<SystemTime>,
    /// Bytes of manifest, config and layers in their registry.
    pub(super) size: u64,
    /// Its records, by name.
    pub(super) records: Vec<Record>,
    changed: u64,
}

impl Held {
    /// Whether this node brought it, so that it may remove it.
    pub(super) fn is_ours(&self) -> bool {
        self.records.iter().any(Record::is_ours)
    }

    /// Whether no collection may take it.
    pub(super) fn is_held(&self) -> bool {
        !self.is_ours() || self.shown.in_use > 0 || !self.shown.pins.is_empty()
    }
}

/// What was found at one time.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) images: BTreeMap<Digest, Held>,
    /// Bytes of each part: its blob, where that is there, and its snapshot.
    pub(super) bytes: BTreeMap<Part, u64>,
}

/// The view, its history, and what never changes.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) view: View,
    pub(super) revision: u64,
    gone: VecDeque<(u64, Digest)>,
    forgotten: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) evictions: u64,
}

/// What was read of immutable things, so that it is read once.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Plans by digest of the manifest.
    plans: BTreeMap<Digest, Arc<Plan>>,
    /// Manifests for this machine by digest of an index; none where the index has none.
    chosen: BTreeMap<Digest, Option<Digest>>,
    /// Bytes of snapshots.
    snapshots: BTreeMap<String, u64>,
}

impl Memory {
    /// Looks at what is in containerd.
    pub(super) async fn look(&mut self, containerd: &Containerd) -> Result<View> {
        let records = containerd.records().await?;
        let snapshots = containerd.whole_snapshots().await?;
        let blobs = containerd.blobs().await?;
        let users = containerd.users().await?;
        let mut of: BTreeMap<Digest, Vec<Record>> = BTreeMap::new();
        for record in records {
            let Some(target) = record.digest() else {
                continue;
            };
            if let Some(manifest) = self.manifest(containerd, &record, target).await? {
                of.entry(manifest).or_default().push(record);
            }
        }
        self.plans.retain(|digest, _| of.contains_key(digest));
        self.snapshots.retain(|chain, _| snapshots.contains(chain));
        let mut view = View::default();
        for (digest, records) in of {
            let there = blobs.contains_key(&digest.to_string());
            let plan = match there {
                true => self.plan(containerd, digest).await?,
                false => None,
            };
            let Some(plan) = plan.filter(|p| blobs.contains_key(&p.config_digest.to_string()))
            else {
                continue;
            };
            let chains = chain_ids(plan.layers.iter().map(|layer| layer.diff_id));
            if chains
                .iter()
                .any(|chain| !snapshots.contains(&chain.to_string()))
            {
                continue;
            }
            let parts = plan.layers.iter().zip(&chains);
            let parts: Vec<Part> = parts
                .map(|(layer, chain)| Part {
                    blob: layer.digest,
                    chain: *chain,
                })
                .collect();
            for part in &parts {
                let chain = part.chain.to_string();
                let unpacked = match self.snapshots.get(&chain) {
                    Some(bytes) => *bytes,
                    None => containerd.snapshot_size(&chain).await?,
                };
                self.snapshots.insert(chain, unpacked);
                let blob = blobs.get(&part.blob.to_string()).copied();
                view.bytes.insert(*part, blob.unwrap_or(0) + unpacked);
            }
            let held = held(digest, &plan, parts, records, &users, &view.bytes);
            view.images.insert(digest, held);
        }
        Ok(view)
    }

    /// The manifest for this machine that a record names.
    async fn manifest(
        &mut self,
        containerd: &Containerd,
        record: &Record,
        target: Digest,
    ) -> Result<Option<Digest>> {
        if !record.target.media_type.contains("index")
            && !record.target.media_type.contains("manifest.list")
        {
            return Ok(Some(target));
        }
        if let Some(chosen) = self.chosen.get(&target) {
            return Ok(*chosen);
        }
        let Some(text) = containerd.text(&target).await? else {
            return Ok(None);
        };
        let chosen = serde_json::from_str(&text).ok().and_then(|i| own(&i));
        self.chosen.insert(target, chosen);
        Ok(chosen)
    }

    async fn plan(&mut self, containerd: &Containerd, digest: Digest) -> Result<Option<Arc<Plan>>> {
        if let Some(plan) = self.plans.get(&digest) {
            return Ok(Some(Arc::clone(plan)));
        }
        let Some(plan) = containerd.plan(digest).await? else {
            return Ok(None);
        };
        let plan = Arc::new(plan);
        self.plans.insert(digest, Arc::clone(&plan));
        Ok(Some(plan))
    }
}

impl Containerd {
    /// Manifest and config of an image, where both are there and make sense.
    pub(super) async fn plan(&self, digest: Digest) -> Result<Option<Plan>> {
        let Some(manifest) = self.text(&digest).await? else {
            return Ok(None);
        };
        let Ok((_, config)) = crate::pull::read_manifest(digest, &manifest) else {
            return Ok(None);
        };
        let Some(config) = self.text(&config).await? else {
            return Ok(None);
        };
        Ok(Plan::read(digest, manifest, config).ok())
    }

    /// How many containers use which name of an image.
    async fn users(&self) -> Result<BTreeMap<String, usize>> {
        use super::api::containerd::services::containers::v1::ListContainersRequest;
        let request = ListContainersRequest::default();
        let mut containers = self.containers();
        let answer = self.call("list containers", containers.list(request));
        let mut users = BTreeMap::new();
        for container in answer.await?.into_inner().containers {
            *users.entry(container.image).or_default() += 1;
        }
        Ok(users)
    }
}

/// The manifest of an index for this machine.
fn own(index: &ImageIndex) -> Option<Digest> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::ARM64,
        other => Arch::Other(other.to_owned()),
    };
    let fits = index.manifests().iter().find(|manifest| {
        let platform = manifest.platform().as_ref();
        platform.is_some_and(|p| *p.os() == Os::Linux && *p.architecture() == architecture)
    });
    fits?.digest().to_string().parse().ok()
}

fn held(
    digest: Digest,
    plan: &Plan,
    parts: Vec<Part>,
    records: Vec<Record>,
    users: &BTreeMap<String, usize>,
    bytes: &BTreeMap<Part, u64>,
) -> Held {
    let pins: BTreeSet<&str> = records.iter().flat_map(Record::pins).collect();
    let pins = pins.into_iter().map(str::to_owned).collect();
    let in_use = records.iter().filter_map(|record| users.get(&record.name));
    let used = records.iter().filter_map(Record::used).max();
    let by_tag = |record: &&Record| !record.is_id() && !record.name.contains('@');
    let name = records.iter().find(by_tag).or(records.first());
    let unique: BTreeSet<&Part> = parts.iter().collect();
    let last_used = used.map(|used| {
        let time = jiff::Timestamp::try_from(used).unwrap_or_default();
        time.round(jiff::Unit::Second).unwrap_or(time).to_string()
    });
    Held {
        shown: CachedImage {
            digest,
            image_hash: records.iter().find_map(Record::image_hash),
            image: name.map(|record| record.name.clone()).unwrap_or_default(),
            bytes: unique.into_iter().filter_map(|part| bytes.get(part)).sum(),
            layers: parts.len(),
            pins,
            in_use: in_use.sum(),
            last_used: last_used.unwrap_or_default(),
            blobs_kept: false,
        },
        parts,
        used,
        size: plan.size(),
        records,
        changed: 0,
    }
}

impl Known {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            ..Self::default()
        }
    }

    /// Takes in what was found; `true` when that is news.
    pub(super) fn update(&mut self, mut view: View) -> bool {
        let before = self.revision;
        for (digest, held) in &mut view.images {
            let old = self.view.images.get(digest);
            match old.filter(|old| old.shown == held.shown) {
                Some(old) => held.changed = old.changed,
                None => {
                    self.revision += 1;
                    held.changed = self.revision;
                }
            }
        }
        for digest in self.view.images.keys() {
            if !view.images.contains_key(digest) {
                self.revision += 1;
                self.gone.push_back((self.revision, *digest));
            }
        }
        while self.gone.len() > GONE {
            if let Some((revision, _)) = self.gone.pop_front() {
                self.forgotten = revision;
            }
        }
        self.view = view;
        self.revision != before
    }

    /// What changed since a revision; everything when that is `None`, unknown or too long ago.
    pub(super) fn since(&self, revision: Option<u64>) -> CacheDelta {
        let known = revision.filter(|r| (self.forgotten..=self.revision).contains(r));
        let since = known.unwrap_or(0);
        let images = &self.view.images;
        let news = images
            .values()
            .filter(|held| known.is_none() || held.changed > since);
        let gone = self
            .gone
            .iter()
            .filter(|(at, digest)| known.is_some() && *at > since && !images.contains_key(digest));
        let gone: BTreeSet<Digest> = gone.map(|(_, digest)| *digest).collect();
        CacheDelta {
            revision: self.revision,
            whole: known.is_none(),
            put: news.map(|held| held.shown.clone()).collect(),
            gone: gone.into_iter().collect(),
        }
    }

    /// How full it is.
    pub(super) fn usage(&self, size_limit: u64) -> CacheUsage {
        let View { images, bytes } = &self.view;
        let held: BTreeSet<&Part> = images
            .values()
            .filter(|held| held.is_held())
            .flat_map(|held| &held.parts)
            .collect();
        CacheUsage {
            size_limit,
            used: bytes.values().sum(),
            held: held.into_iter().filter_map(|part| bytes.get(part)).sum(),
            images: images.len(),
            layers: bytes.len(),
            hits: self.hits,
            misses: self.misses,
            evictions: self.evictions,
        }
    }
}

/// An image of our own, of layers of these names.
#[cfg(test)]
pub(super) fn made_up(name: &str, layers: &[&str]) -> Held {
    let parts: Vec<Part> = layers
        .iter()
        .map(|layer| Part {
            blob: Digest::of(layer.as_bytes()),
            chain: Digest::of(format!("unpacked {layer}").as_bytes()),
        })
        .collect();
    let digest = Digest::of(name.as_bytes());
    Held {
        shown: CachedImage {
            digest,
            image_hash: None,
            image: name.to_owned(),
            bytes: 0,
            layers: parts.len(),
            pins: Vec::new(),
            in_use: 0,
            last_used: String::new(),
            blobs_kept: false,
        },
        parts,
        used: None,
        size: 0,
        records: vec![Record::made_up(name, digest)],
        changed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(images: &[(&str, usize)]) -> View {
        let mut view = View::default();
        for (name, in_use) in images {
            let mut held = made_up(name, &["base"]);
            held.shown.in_use = *in_use;
            view.images.insert(held.shown.digest, held);
        }
        view
    }

    #[test]
    fn changes_are_told_since_any_revision() {
        let names = |delta: &CacheDelta| -> Vec<String> {
            let mut names: Vec<String> = delta.put.iter().map(|i| i.image.clone()).collect();
            names.sort();
            names
        };
        let mut known = Known::new();
        assert_eq!(known.since(None).revision, 1);
        assert!(known.update(view(&[("a", 0), ("b", 0)])));
        let first = known.since(None);
        assert!(first.whole && names(&first) == ["a", "b"]);
        assert!(!known.update(view(&[("a", 0), ("b", 0)])), "nothing new");
        assert!(known.since(Some(first.revision)).put.is_empty());
        assert!(known.update(view(&[("a", 1), ("c", 0)])));
        let delta = known.since(Some(first.revision));
        assert!(!delta.whole && names(&delta) == ["a", "c"], "{delta:?}");
        assert_eq!(delta.gone, [Digest::of(b"b")]);
        // One that came back is not gone.
        known.update(view(&[("a", 1), ("b", 0), ("c", 0)]));
        assert!(known.since(Some(first.revision)).gone.is_empty());
        // Of a revision that is not known, everything.
        assert!(known.since(Some(1000)).whole);
    }

    #[test]
    fn an_index_means_the_manifest_for_this_machine() {
        let digest = |name: &[u8]| Digest::of(name);
        let entry = |architecture: &str, name: &[u8]| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
                "digest": digest(name), "platform": {"os": "linux", "architecture": architecture},
            })
        };
        let own_word = if cfg!(target_arch = "x86_64") {
            "amd64"
        } else {
            "arm64"
        };
        let index = |entries: &[serde_json::Value]| -> ImageIndex {
            let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
            serde_json::from_value(index).unwrap()
        };
        let both = index(&[entry("s390x", b"other"), entry(own_word, b"own")]);
        assert_eq!(own(&both), Some(digest(b"own")));
        assert_eq!(own(&index(&[entry("s390x", b"other")])), None);
    }
}
