//! What nodes may fetch: what they were told to have, and nothing else.
//!
//! Every order that names an image or a file of a sandbox writes it down here before it goes out. A
//! node reads the manifest, and the blobs that it names; a file, or the files of a directory. It is
//! kept across restarts of the service, since nodes go on with their orders meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chalk_core::Digest;
use chalk_core::tree::{Tree, TreeNode};
use chalk_core::wire::MountSource;
use chalk_core::wire::agent::{ImageRef, Order};
use chalk_store::BlobStore;
use serde::{Deserialize, Serialize};

use crate::ledger::{Changes, Ledger, LedgerError, Table};

/// What is remembered of a node at most; the oldest goes.
const LIMIT: usize = 10_000;
/// Manifests and directories whose contents are remembered.
const READ: usize = 256;
/// Largest JSON of a directory tree, in bytes.
const TREE_LIMIT: u64 = 256 << 20;

/// What a node was told to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// An image, whose manifest goes by the digest, in this repository.
    Image(String),
    /// A file.
    File,
    /// A directory, whose tree goes by the digest.
    Dir,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Grant {
    kind: Kind,
    /// Grows with each one.
    at: u64,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, BTreeMap<Digest, Grant>>,
    next: u64,
    /// What manifests and trees name.
    parts: BTreeMap<Digest, Arc<BTreeSet<Digest>>>,
}

/// What all nodes may fetch.
#[derive(Debug)]
pub(crate) struct Grants {
    ledger: Arc<Ledger>,
    state: Mutex<State>,
}

impl Grants {
    /// Those of an earlier service. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(ledger: Arc<Ledger>) -> Result<Self, LedgerError> {
        let mut state = State::default();
        for (key, grant) in ledger.all::<Grant>(Table::NodeGrants, "")? {
            let split = key.split_once('/');
            let Some((node, Ok(digest))) =
                split.map(|(node, hex)| (node, format!("sha256:{hex}").parse::<Digest>()))
            else {
                continue;
            };
            state.next = state.next.max(grant.at + 1);
            let granted = state.nodes.entry(node.to_owned()).or_default();
            granted.insert(digest, grant);
        }
        Ok(Self {
            ledger,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order goes out to a node.
    pub(crate) fn ordered(&self, node: &str, order: &Order) {
        let image = |image: &ImageRef| (image.digest, Kind::Image(image.repository.clone()));
        let told: Vec<(Digest, Kind)> = match order {
            Order::Prewarm { images } => images.iter().map(image).collect(),
            Order::Warm { image: one, .. } => vec![image(one)],
            Order::StartSandbox {
                image: one,
                request,
                ..
            } => {
                let mounts = request.mounts.iter().map(|mount| match &mount.source {
                    MountSource::File { digest, .. } => (*digest, Kind::File),
                    MountSource::Dir { digest } => (*digest, Kind::Dir),
                });
                mounts.chain([image(one)]).collect()
            }
            _ => return,
        };
        let mut state = self.state();
        let State { nodes, next, .. } = &mut *state;
        let granted = nodes.entry(node.to_owned()).or_default();
        let mut changes = Changes::new();
        for (digest, kind) in told {
            if granted.get(&digest).is_some_and(|grant| grant.kind == kind) {
                continue;
            }
            let grant = Grant { kind, at: *next };
            *next += 1;
            changes = changes.put(Table::NodeGrants, &key(node, &digest), &grant);
            granted.insert(digest, grant);
        }
        while granted.len() > LIMIT {
            let oldest = granted.iter().min_by_key(|(_, grant)| grant.at);
            let Some(oldest) = oldest.map(|(digest, _)| *digest) else {
                break;
            };
            granted.remove(&oldest);
            changes = changes.remove(Table::NodeGrants, &key(node, &oldest));
        }
        self.ledger.later(changes);
    }

    /// A node was removed.
    pub(crate) fn removed(&self, node: &str) {
        let gone = self.state().nodes.remove(node).unwrap_or_default();
        let rows = gone.keys().fold(Changes::new(), |changes, digest| {
            changes.remove(Table::NodeGrants, &key(node, digest))
        });
        self.ledger.later(rows);
    }

    /// Whether a node may read that manifest of a repository.
    pub(crate) fn manifest(&self, node: &str, repository: &str, digest: &Digest) -> bool {
        let state = self.state();
        let granted = state
            .nodes
            .get(node)
            .and_then(|granted| granted.get(digest));
        granted.is_some_and(|grant| matches!(&grant.kind, Kind::Image(of) if of == repository))
    }

    /// Whether a node was told to have an image of that repository.
    pub(crate) fn repository(&self, node: &str, repository: &str) -> bool {
        let is_in = |grant: &Grant| matches!(&grant.kind, Kind::Image(of) if of == repository);
        let state = self.state();
        let granted = state.nodes.get(node);
        granted.is_some_and(|granted| granted.values().any(is_in))
    }

    /// Whether a node may read that blob of a repository: an image that it was told to have names
    /// it. `read` gives what a manifest names. Blocks.
    pub(crate) fn blob(
        &self,
        node: &str,
        repository: &str,
        digest: &Digest,
        read: impl Fn(&Digest) -> Option<BTreeSet<Digest>>,
    ) -> bool {
        let is_image = |kind: &Kind| matches!(kind, Kind::Image(of) if of == repository);
        self.newest(node, is_image)
            .iter()
            .any(|image| self.names(image, digest, &read))
    }

    /// Whether a node may read that file or directory of a sandbox. Blocks.
    pub(crate) fn file(&self, node: &str, digest: &Digest, blobs: &BlobStore) -> bool {
        let direct = self.newest(node, |kind| matches!(kind, Kind::File | Kind::Dir));
        if direct.contains(digest) {
            return true;
        }
        let read = |tree: &Digest| {
            let json = blobs.read_small(*tree, TREE_LIMIT).ok()?;
            let mut files = BTreeSet::new();
            let named = Tree::scan(&json, |entry| {
                if let TreeNode::File { digest, .. } = entry.node {
                    files.insert(digest);
                }
            });
            named.ok().map(|()| files)
        };
        self.newest(node, |kind| *kind == Kind::Dir)
            .iter()
            .any(|tree| self.names(tree, digest, &read))
    }

    /// What a node was told to have of some kinds, newest first.
    fn newest(&self, node: &str, wanted: impl Fn(&Kind) -> bool) -> Vec<Digest> {
        let state = self.state();
        let granted = state.nodes.get(node).into_iter().flatten();
        let mut found: Vec<(u64, Digest)> = granted
            .filter(|(_, grant)| wanted(&grant.kind))
            .map(|(digest, grant)| (grant.at, *digest))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Whether a manifest or tree names a blob.
    fn names(
        &self,
        whole: &Digest,
        part: &Digest,
        read: &impl Fn(&Digest) -> Option<BTreeSet<Digest>>,
    ) -> bool {
        let known = self.state().parts.get(whole).cloned();
        let parts = match known {
            Some(parts) => parts,
            None => {
                let Some(parts) = read(whole).map(Arc::new) else {
                    return false;
                };
                let mut state = self.state();
                if state.parts.len() >= READ {
                    state.parts.pop_first();
                }
                state.parts.insert(*whole, parts.clone());
                parts
            }
        };
        parts.contains(part)
    }
}

fn key(node: &str, digest: &Digest) -> String {
    format!("{node}/{}", digest.hex())
}

#[cfg(test)]
mod tests {
    use chalk_core::wire::{SandboxMount, SandboxRequest};

    use super::*;

    fn image(digest: Digest) -> ImageRef {
        ImageRef {
            api: None,
            broker: false,
            digest,
            image_hash: None,
            registry: "r".into(),
            repository: "a".into(),
            name: "n".into(),
            node_login: true,
            peers: Vec::new(),
            traceparent: None,
        }
    }

    #[test]
    fn nodes_get_what_they_were_told_to_have() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Arc::new(Ledger::open(&dir.path().join("l")).unwrap());
        let digest = |text: &str| Digest::of(text.as_bytes());
        let blobs = BlobStore::open(dir.path().join("store")).unwrap();
        let tree = Tree::new(Vec::new()).unwrap().json();
        let tree = blobs.put(tree.as_bytes()).unwrap().digest;
        let grants = Grants::load(open()).unwrap();
        let warm = Order::Warm {
            id: "1".into(),
            image: image(digest("m")),
            pin: None,
        };
        grants.ordered("n", &warm);
        let start = Order::StartSandbox {
            id: "1".into(),
            image: image(digest("s")),
            request: Box::new(SandboxRequest {
                mounts: vec![SandboxMount {
                    dest: "/x".into(),
                    source: MountSource::Dir { digest: tree },
                    writable: false,
                }],
                ..SandboxRequest::default()
            }),
        };
        grants.ordered("n", &start);
        drop(grants);
        let grants = Grants::load(open()).unwrap();
        for name in ["m", "s"] {
            assert!(grants.manifest("n", "a", &digest(name)));
            assert!(!grants.manifest("n", "b", &digest(name)));
            assert!(!grants.manifest("o", "a", &digest(name)));
        }
        assert!(!grants.manifest("n", "a", &tree));
        assert!(grants.repository("n", "a"));
        assert!(!grants.repository("n", "b") && !grants.repository("o", "a"));
        let names = |of: &Digest| (*of == digest("m")).then(|| [digest("layer")].into());
        assert!(grants.blob("n", "a", &digest("layer"), names));
        assert!(!grants.blob("n", "b", &digest("layer"), names));
        assert!(!grants.blob("o", "a", &digest("layer"), names));
        assert!(!grants.blob("n", "a", &digest("other"), names));
        assert!(grants.file("n", &tree, &blobs) && !grants.file("o", &tree, &blobs));
        assert!(!grants.file("n", &digest("m"), &blobs));
        grants.removed("n");
        assert!(!grants.manifest("n", "a", &digest("m")));
        assert!(!grants.repository("n", "a"));
        drop(grants);
        let grants = Grants::load(open()).unwrap();
        assert!(!grants.file("n", &tree, &blobs));
    }
}
