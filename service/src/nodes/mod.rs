//! The nodes: who they are, which are connected, and what is in their caches.
//!
//! A node's record lasts; that it is connected, its usage and the images in its cache are what its
//! session says. All time-outs count on the monotonic clock; the wall clock is only shown, and
//! compared with the end of a join token.

pub(crate) mod caches;
pub(crate) mod grants;
pub(crate) mod join;
pub(crate) mod keys;
pub(crate) mod lines;
mod removed;
mod select;
pub(crate) mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::{Ask, Order, Report};
use chalk_core::wire::{CacheMap, CacheUsage, Node, NodeRuntime, NodeState, Problem, problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::access::Token;
use crate::ledger::{Changes, Ledger, LedgerError, Table};
use crate::settings;
use caches::{Caches, Held};
use keys::Keys;
use removed::Removed;
pub(crate) use select::{Chosen, Selection};
use session::Session;

/// Images of one node that are known.
const IMAGES: usize = 100_000;
/// Longest text that a node says of itself.
const TEXT: usize = 2048;

/// What lasts of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    region: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    version: String,
    joined: String,
    last_seen: String,
    /// SHA-256 of its token.
    token: Digest,
    #[serde(default)]
    draining: bool,
}

/// A node as it is now.
#[derive(Debug)]
struct Entry {
    record: Record,
    session: Option<Arc<Session>>,
    /// Since when it is not connected.
    gone: Option<Instant>,
    mirror: Option<String>,
    usage: CacheUsage,
    runtime: NodeRuntime,
    sandboxes: usize,
    held: Held,
    /// Life of the node's process that `revision` belongs to.
    epoch: String,
    revision: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<Arc<str>, Entry>,
    caches: Caches,
    /// Nodes that were removed, by the hash of their tokens.
    removed: BTreeMap<Digest, Removed>,
}

impl State {
    /// Whether others can have an image from a node.
    fn serves(&self, entry: &Entry, digest: &Digest) -> bool {
        entry.mirror.is_some() && self.caches.keeps(&entry.held, digest)
    }
}

/// All nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    ledger: Arc<Ledger>,
    keys: Arc<Keys>,
    grants: Arc<grants::Grants>,
    settings: settings::Nodes,
    home: String,
    /// Secrets by which the nodes of a region let each other read blobs.
    peer_tokens: Mutex<BTreeMap<String, String>>,
    state: Mutex<State>,
    joins: Mutex<BTreeMap<String, join::Join>>,
}

/// What becomes of a session that greets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attached {
    /// It is the session of its node now.
    Yes,
    /// Its node was removed.
    Removed,
    /// Another machine has joined by that name since it was opened, or what it says of itself cannot
    /// be.
    Refused,
}

/// What others need to know of a connected node.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    pub(crate) name: Arc<str>,
    pub(crate) region: String,
    pub(crate) mirror: Option<String>,
    pub(crate) sandboxes: usize,
}

impl Entry {
    fn new(record: Record) -> Self {
        Self {
            record,
            session: None,
            gone: Some(Instant::now()),
            mirror: None,
            usage: CacheUsage::default(),
            runtime: NodeRuntime::default(),
            sandboxes: 0,
            held: Held::default(),
            epoch: String::new(),
            revision: None,
        }
    }

    fn state(&self) -> NodeState {
        match (&self.session, self.record.draining) {
            (None, _) => NodeState::Lost,
            (Some(_), true) => NodeState::Draining,
            (Some(_), false) => NodeState::Ready,
        }
    }

    fn shown(&self) -> Node {
        let record = self.record.clone();
        Node {
            state: self.state(),
            name: record.name,
            region: record.region,
            labels: record.labels,
            version: record.version,
            joined: record.joined,
            last_seen: record.last_seen,
            cache: self.usage,
            sandboxes: self.sandboxes,
            runtime: self.runtime,
            mirror: self.mirror.clone(),
        }
    }

    /// Whether that is its session, and no other has taken its place.
    fn is_held_by(&self, session: &Arc<Session>) -> bool {
        let current = self.session.as_ref();
        current.is_some_and(|current| Arc::ptr_eq(current, session))
    }

    fn connected(&self) -> Option<Connected> {
        self.session.as_ref().map(|session| Connected {
            name: session.node().clone(),
            region: self.record.region.clone(),
            mirror: self.mirror.clone(),
            sandboxes: self.sandboxes,
        })
    }
}

/// There is no such node.
pub(crate) fn unknown(name: &str) -> Problem {
    Problem {
        kind: problem::NOT_FOUND.to_owned(),
        title: "no such node".to_owned(),
        status: 404,
        detail: format!("there is no node `{name}`"),
        hint: "see `chalk compute node ls`".to_owned(),
    }
}

/// The database failed.
pub(crate) fn not_kept(error: &LedgerError) -> Problem {
    Problem {
        kind: problem::INTERNAL.to_owned(),
        title: "the state directory failed".to_owned(),
        status: 500,
        detail: error.to_string(),
        hint: "see the service's log".to_owned(),
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

impl Nodes {
    /// Nodes and join tokens that the ledger knows, none of them connected. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(
        ledger: Arc<Ledger>,
        keys: Arc<Keys>,
        settings: settings::Nodes,
        home: String,
    ) -> Result<Self, LedgerError> {
        let mut state = State::default();
        for (name, record) in ledger.all::<Record>(Table::Nodes, "")? {
            let name: Arc<str> = name.into();
            keys.put_node(record.token, &name);
            state.nodes.insert(name, Entry::new(record));
        }
        for (token, removed) in removed::load(&ledger)? {
            keys.put_removed(token, &removed.name);
            state.removed.insert(token, removed);
        }
        let grants = Arc::new(grants::Grants::load(ledger.clone())?);
        let joins = join::load(&ledger, &keys)?;
        let peer_tokens = ledger.get(Table::Meta, "peer_tokens")?.unwrap_or_default();
        Ok(Self {
            ledger,
            keys,
            grants,
            settings,
            home,
            peer_tokens: Mutex::new(peer_tokens),
            state: Mutex::new(state),
            joins: Mutex::new(joins),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is under the lock does not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nodes may fetch.
    pub(crate) fn grants(&self) -> &Arc<grants::Grants> {
        &self.grants
    }

    /// Whether what nodes and clients are told is kept.
    pub(crate) fn are_kept(&self) -> bool {
        self.ledger.is_sound()
    }

    /// How long a node may be silent.
    pub(crate) fn lost_after(&self) -> Duration {
        self.settings.lost_after
    }

    /// Secret of the nodes of a region, made when it is first wanted.
    fn peer_token(&self, region: &str) -> String {
        if let Some(token) = self.peer_tokens().get(region) {
            return token.clone();
        }
        let (token, changes) = self.new_peer_token(region, Changes::new());
        self.ledger.later(changes);
        token
    }

    /// Another secret of the nodes of a region, and what is to be written of it.
    fn new_peer_token(&self, region: &str, changes: Changes) -> (String, Changes) {
        let token = Token::new("chp_").text;
        let mut tokens = self.peer_tokens();
        tokens.insert(region.to_owned(), token.clone());
        (token, changes.put(Table::Meta, "peer_tokens", &*tokens))
    }

    fn peer_tokens(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.peer_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A node greets: its session takes the place of an older one, and it is welcomed, if the token
    /// by which it was opened still counts.
    pub(super) fn attach(&self, session: &Arc<Session>, hello: &Report) -> Attached {
        let Report::Hello {
            version,
            labels,
            mirror,
            epoch,
            usage,
            running,
            runtime,
            ..
        } = hello
        else {
            return Attached::Refused;
        };
        let long = |text: &str| text.len() > TEXT;
        if join::check_labels(labels).is_err()
            || [version, epoch].into_iter().chain(mirror).any(|t| long(t))
        {
            tracing::warn!(
                node = &**session.node(),
                "what the node says of itself cannot be"
            );
            return Attached::Refused;
        }
        let mut state = self.state();
        let State { nodes, caches, .. } = &mut *state;
        let Some(entry) = nodes.get_mut(&**session.node()) else {
            return Attached::Removed;
        };
        if entry.record.token != session.token() {
            return Attached::Refused;
        }
        entry.record.version.clone_from(version);
        entry.record.labels.clone_from(labels);
        entry.record.last_seen = now();
        entry.mirror.clone_from(mirror);
        entry.usage = *usage;
        entry.runtime = *runtime;
        entry.sandboxes = *running;
        if entry.epoch != *epoch || epoch.is_empty() {
            caches.clear(&mut entry.held);
            entry.revision = None;
            entry.epoch.clone_from(epoch);
        }
        let changes = Changes::new().put(Table::Nodes, session.node(), &entry.record);
        self.ledger.later(changes);
        session.send(&Order::Welcome {
            heartbeat_seconds: self.settings.heartbeat.as_secs().max(1),
            cache_known: entry.revision,
            peer_token: self.peer_token(&entry.record.region),
            draining: entry.record.draining,
        });
        if let Some(old) = entry.session.replace(session.clone()) {
            old.end();
        }
        entry.gone = None;
        Attached::Yes
    }

    /// A session ended; `false` when another one took its place.
    pub(super) fn detach(&self, session: &Arc<Session>, gone: Instant) -> bool {
        let mut state = self.state();
        let Some(entry) = state.nodes.get_mut(&**session.node()) else {
            return false;
        };
        if !entry.is_held_by(session) {
            return false;
        }
        entry.session = None;
        entry.gone = Some(gone);
        let changes = Changes::new().put(Table::Nodes, session.node(), &entry.record);
        self.ledger.later(changes);
        true
    }

    /// Takes in what a node says of itself. `false` when what the session says counts no more:
    /// another has taken its place, or its node was removed.
    pub(super) fn heard(&self, session: &Arc<Session>, report: &Report) -> bool {
        let mut state = self.state();
        let State { nodes, caches, .. } = &mut *state;
        let Some(entry) = nodes.get_mut(&**session.node()) else {
            return false;
        };
        if !entry.is_held_by(session) {
            return false;
        }
        entry.record.last_seen = now();
        match report {
            Report::Heartbeat { usage, sandboxes } => {
                entry.usage = *usage;
                entry.sandboxes = *sandboxes;
            }
            Report::Cache {
                revision,
                whole,
                put,
                gone,
            } => {
                if *whole {
                    caches.clear(&mut entry.held);
                }
                for digest in gone {
                    caches.remove(&mut entry.held, digest);
                }
                let room = IMAGES.saturating_sub(entry.held.len());
                if put.len() > room {
                    tracing::warn!(
                        node = entry.record.name,
                        "the node has too many images to know"
                    );
                }
                for image in put.iter().take(room) {
                    caches.report(&mut entry.held, &image.digest, image.blobs_kept);
                }
                entry.revision = Some(*revision);
            }
            Report::Warmed { receipt, .. } => caches.put(&mut entry.held, &receipt.digest),
            _ => {}
        }
        true
    }

    /// Counts a sandbox that is on its way to a node, until its next heartbeat tells.
    pub(crate) fn placed(&self, name: &str) {
        if let Some(entry) = self.state().nodes.get_mut(name) {
            entry.sandboxes += 1;
        }
    }

    /// All nodes, by name.
    pub(crate) fn list(&self) -> Vec<Node> {
        self.state().nodes.values().map(Entry::shown).collect()
    }

    /// How many nodes are in each state.
    pub(crate) fn by_state(&self) -> [(&'static str, usize); 3] {
        let mut count = [("ready", 0), ("draining", 0), ("lost", 0)];
        for entry in self.state().nodes.values() {
            let at = match entry.state() {
                NodeState::Ready => 0,
                NodeState::Draining => 1,
                NodeState::Lost => 2,
            };
            count[at].1 += 1;
        }
        count
    }

    /// Which connected node has which image.
    pub(crate) fn cache_map(&self) -> CacheMap {
        let state = self.state();
        let connected = state.nodes.iter().filter(|(_, e)| e.session.is_some());
        let held = connected.map(|(name, entry)| (name.to_string(), &entry.held));
        state.caches.map(held)
    }

    /// Names of the nodes that have each image, as far as is known; those that are not connected
    /// count, too.
    pub(crate) fn holders(&self) -> BTreeMap<Digest, Vec<String>> {
        let map = {
            let state = self.state();
            let nodes = state.nodes.iter();
            let held = nodes.map(|(name, entry)| (name.to_string(), &entry.held));
            state.caches.map(held)
        };
        let mut holders: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for (node, places) in map.nodes {
            for place in places {
                if let Some(digest) = map.images.get(place as usize) {
                    holders.entry(*digest).or_default().push(node.clone());
                }
            }
        }
        holders
    }

    /// A node.
    pub(crate) fn get(&self, name: &str) -> Result<Node, Problem> {
        let state = self.state();
        let entry = state.nodes.get(name).ok_or_else(|| unknown(name))?;
        Ok(entry.shown())
    }

    /// How many nodes of each region are connected.
    pub(crate) fn by_region(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for entry in self.state().nodes.values() {
            let region = count.entry(entry.record.region.clone()).or_insert(0);
            *region += usize::from(entry.session.is_some());
        }
        count
    }

    /// The session of a node.
    ///
    /// # Errors
    /// When there is no such node, or it is not connected.
    pub(crate) fn session(&self, name: &str) -> Result<Arc<Session>, Problem> {
        let state = self.state();
        let entry = state.nodes.get(name).ok_or_else(|| unknown(name))?;
        let session = entry.session.clone();
        session.ok_or_else(|| session::lost(name, "is not connected"))
    }

    /// Asks a node.
    ///
    /// # Errors
    /// As [`session`](Self::session) and [`Session::ask`].
    pub(crate) async fn ask(
        &self,
        name: &str,
        ask: Ask,
        limit: Duration,
    ) -> Result<Value, Problem> {
        self.session(name)?.ask(ask, limit).await
    }

    /// A node, if it is connected.
    pub(crate) fn connected(&self, name: &str) -> Option<Connected> {
        self.state().nodes.get(name)?.connected()
    }

    /// All nodes that are connected.
    pub(crate) fn all_connected(&self) -> Vec<Connected> {
        let state = self.state();
        state.nodes.values().filter_map(Entry::connected).collect()
    }

    /// Whether a node has an image.
    pub(crate) fn has(&self, name: &str, digest: &Digest) -> bool {
        let state = self.state();
        let entry = state.nodes.get(name);
        entry.is_some_and(|entry| state.caches.has(&entry.held, digest))
    }

    /// Connected nodes that have an image, by name.
    pub(crate) fn warm(&self, digest: &Digest) -> Vec<Connected> {
        let state = self.state();
        let warm = state.nodes.values();
        let warm = warm.filter(|entry| state.caches.has(&entry.held, digest));
        warm.filter_map(Entry::connected).collect()
    }

    /// Whether others can have an image from a node.
    pub(crate) fn serves(&self, name: &str, digest: &Digest) -> bool {
        let state = self.state();
        let entry = state.nodes.get(name);
        entry.is_some_and(|entry| state.serves(entry, digest))
    }

    /// Connected nodes of a region from which others can have an image, by name.
    pub(crate) fn serving(&self, region: &str, digest: &Digest) -> Vec<Connected> {
        let state = self.state();
        let serving = state.nodes.values();
        let serving =
            serving.filter(|entry| entry.record.region == region && state.serves(entry, digest));
        serving.filter_map(Entry::connected).collect()
    }

    /// Whether nothing is to be expected of a node any more: there is none, or it is gone for
    /// `patience`.
    pub(crate) fn is_lost(&self, name: &str, patience: Duration) -> bool {
        let state = self.state();
        let entry = state.nodes.get(name);
        entry.is_none_or(|entry| entry.gone.is_some_and(|gone| gone.elapsed() >= patience))
    }

    /// Lets a node take no new work, or again.
    ///
    /// # Errors
    /// When there is no such node, or the ledger fails.
    pub(crate) async fn drain(&self, name: &str, draining: bool) -> Result<Node, Problem> {
        let kept = {
            let mut state = self.state();
            let entry = state.nodes.get_mut(name).ok_or_else(|| unknown(name))?;
            entry.record.draining = draining;
            let changes = Changes::new().put(Table::Nodes, name, &entry.record);
            self.ledger.begin(changes)
        };
        kept.await.map_err(|e| not_kept(&e))?;
        if let Ok(session) = self.session(name) {
            session.send(&Order::Drain { draining });
        }
        self.get(name)
    }
}
