//! Who pulls from whom, when one image goes to the nodes of one region.
//!
//! Nodes that serve their blobs stand in chains: a node gets its order when the one before it
//! reported that it pulls, and pulls from that one while the bytes arrive there. A node that has
//! the image heads a new chain. The registry is asked only where no node can serve: by the head of
//! the first chain, by the heads of further ones when chains are full, and by nodes where no node
//! serves; never by more than a set number at once.
//!
//! Nothing here knows of time-outs of warms, sessions or messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long others wait for a node that has its order to report that it pulls.
const PATIENCE: Duration = Duration::from_secs(5);

/// Limits of a wave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Nodes of a region that pull from its registry at once.
    pub(super) direct: usize,
    /// Nodes in a chain.
    pub(super) chain: u32,
}

/// The registry of a region: who pulls from it, of all waves there.
#[derive(Debug, Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Pulling>>);

#[derive(Debug, Default)]
struct Pulling {
    /// How many images each node pulls from there. A node limits itself how much it fetches at
    /// once, so that it counts as one.
    nodes: BTreeMap<String, usize>,
    /// A node stopped to pull from there since somebody asked.
    freed: bool,
}

impl Registry {
    fn pulling(&self) -> MutexGuard<'_, Pulling> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, node: &str, limit: usize) -> bool {
        let pulling = self.pulling();
        pulling.nodes.len() < limit || pulling.nodes.contains_key(node)
    }

    fn enter(&self, node: &str) {
        *self.pulling().nodes.entry(node.to_owned()).or_insert(0) += 1;
    }

    fn leave(&self, node: &str) {
        let mut pulling = self.pulling();
        if let Some(count) = pulling.nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                pulling.nodes.remove(node);
                pulling.freed = true;
            }
        }
    }

    /// Whether there is room that was not there when somebody asked last.
    pub(super) fn freed(&self) -> bool {
        std::mem::take(&mut self.pulling().freed)
    }
}

/// Where a node pulls from first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parent {
    /// The registry of the region.
    Registry,
    /// A node of that name.
    Node(String),
    /// Nobody: it has the image, or pulls without being told by this wave.
    None,
}

/// A node that gets the image.
#[derive(Debug)]
struct Member {
    node: String,
    /// Whether it serves its blobs.
    serves: bool,
    parent: Parent,
    depth: u32,
    /// Whether it waits before its next try, and pulls from nobody.
    pauses: bool,
}

/// A node that can serve others.
#[derive(Debug)]
struct Server {
    /// Place in its chain; 0 when it has the whole image.
    depth: u32,
    /// Whether somebody pulls from it.
    busy: bool,
}

/// One image and the nodes of one region.
#[derive(Debug, Default)]
pub(super) struct Wave {
    /// Pulls that were ordered, by identifier.
    ordered: BTreeMap<String, Member>,
    /// Pulls that wait, of nodes that serve; with the name of the node.
    links: VecDeque<(String, String)>,
    /// Pulls that wait, of nodes that do not.
    leaves: VecDeque<(String, String)>,
    servers: BTreeMap<String, Server>,
    /// Servers that nobody pulls from, those with the whole image first.
    free: BTreeSet<(u32, String)>,
    registry: Registry,
    /// Ordered pulls of nodes that will serve when they report.
    pending: BTreeMap<String, Instant>,
}

impl Wave {
    /// Nobody, in the region of that registry.
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            ..Self::default()
        }
    }

    /// Whether a pull waits for its turn.
    pub(super) fn waits(&self) -> bool {
        !(self.links.is_empty() && self.leaves.is_empty())
    }

    /// A node has the whole image and serves it.
    pub(super) fn serves(&mut self, node: &str) {
        let busy = match self.servers.get(node) {
            Some(server) => {
                self.free.remove(&(server.depth, node.to_owned()));
                server.busy
            }
            None => false,
        };
        self.servers
            .insert(node.to_owned(), Server { depth: 0, busy });
        if !busy {
            self.free.insert((0, node.to_owned()));
        }
    }

    /// A pull waits for its turn.
    pub(super) fn wait(&mut self, pull: &str, node: &str, serves: bool, first: bool) {
        let line = if serves {
            &mut self.links
        } else {
            &mut self.leaves
        };
        let entry = (pull.to_owned(), node.to_owned());
        if first {
            line.push_front(entry);
        } else {
            line.push_back(entry);
        }
    }

    /// A pull that need not wait goes out: its node has the image, or pulls already.
    pub(super) fn passes(&mut self, pull: &str, node: &str, serves: bool) {
        self.leave(pull);
        let member = Member {
            node: node.to_owned(),
            serves,
            parent: Parent::None,
            depth: 1,
            pauses: false,
        };
        self.ordered.insert(pull.to_owned(), member);
    }

    /// The next pull that can be ordered, and where from.
    pub(super) fn next(&mut self, limits: Limits) -> Option<(String, Parent)> {
        let serves = !self.links.is_empty();
        let line = if serves { &self.links } else { &self.leaves };
        let (_, node) = line.front()?;
        let free = self.free.iter().find(|(_, server)| server != node).cloned();
        let (parent, depth) = match free {
            Some(free) => {
                self.free.remove(&free);
                let (depth, server) = free;
                if let Some(server) = self.servers.get_mut(&server) {
                    server.busy = true;
                }
                (Parent::Node(server), depth + 1)
            }
            None => {
                // Somebody will serve in a moment.
                let soon = |ordered: &Instant| ordered.elapsed() < PATIENCE;
                if !self.registry.has_room(node, limits.direct) || self.pending.values().any(soon) {
                    return None;
                }
                self.registry.enter(node);
                (Parent::Registry, 1)
            }
        };
        let line = if serves {
            &mut self.links
        } else {
            &mut self.leaves
        };
        let (pull, node) = line.pop_front()?;
        if serves && depth < limits.chain {
            self.pending.insert(pull.clone(), Instant::now());
        }
        let member = Member {
            node,
            serves: serves && depth < limits.chain,
            parent: parent.clone(),
            depth,
            pauses: false,
        };
        self.ordered.insert(pull.clone(), member);
        Some((pull, parent))
    }

    /// Nodes with the whole image, besides `node`.
    pub(super) fn whole(&self, node: &str) -> impl Iterator<Item = &str> {
        let whole = self.servers.iter();
        let whole = whole.filter(move |(name, server)| server.depth == 0 && *name != node);
        whole.map(|(name, _)| name.as_str())
    }

    /// A node reported that it pulls: from now on it can serve what it has.
    pub(super) fn pulls(&mut self, pull: &str) {
        self.pending.remove(pull);
        let Some(member) = self.ordered.get_mut(pull) else {
            return;
        };
        if std::mem::take(&mut member.pauses) {
            member.parent = match std::mem::replace(&mut member.parent, Parent::None) {
                // It did not ask whether there is room.
                Parent::Registry => {
                    self.registry.enter(&member.node);
                    Parent::Registry
                }
                // Whom it pulled from may serve another one by now.
                Parent::Node(_) | Parent::None => Parent::None,
            };
        }
        if member.serves && !self.servers.contains_key(&member.node) {
            let (depth, busy) = (member.depth, false);
            self.free.insert((depth, member.node.clone()));
            self.servers
                .insert(member.node.clone(), Server { depth, busy });
        }
    }

    /// A pull failed for now: whom it pulled from is free, and nobody else is sent to its node,
    /// until it reports that it pulls again.
    pub(super) fn pauses(&mut self, pull: &str) {
        self.pending.remove(pull);
        let Some(member) = self.ordered.get_mut(pull) else {
            return;
        };
        if std::mem::replace(&mut member.pauses, true) {
            return;
        }
        let (node, parent) = (member.node.clone(), member.parent.clone());
        self.release(&node, parent);
        if self
            .servers
            .get(&node)
            .is_some_and(|server| server.depth > 0)
        {
            self.forget(&node);
        }
    }

    /// A pull is ready: its node has the whole image. `serves` says whether it serves its blobs.
    pub(super) fn ready(&mut self, pull: &str, node: &str, serves: bool) {
        self.leave(pull);
        if serves {
            self.serves(node);
        }
    }

    /// A pull ended without the image, or its node went away.
    pub(super) fn gone(&mut self, pull: &str, node: &str) {
        self.leave(pull);
        self.forget(node);
    }

    /// A node serves nothing any more.
    pub(super) fn forget(&mut self, node: &str) {
        if let Some(server) = self.servers.remove(node) {
            self.free.remove(&(server.depth, node.to_owned()));
        }
    }

    /// Takes a pull out, and frees whom it pulled from.
    fn leave(&mut self, pull: &str) {
        self.pending.remove(pull);
        let Some(member) = self.ordered.remove(pull) else {
            self.links.retain(|(other, _)| other != pull);
            self.leaves.retain(|(other, _)| other != pull);
            return;
        };
        if !member.pauses {
            self.release(&member.node, member.parent);
        }
    }

    /// Frees whom a node pulled from.
    fn release(&mut self, node: &str, parent: Parent) {
        match parent {
            Parent::Registry => self.registry.leave(node),
            Parent::Node(parent) => {
                if let Some(server) = self.servers.get_mut(&parent) {
                    server.busy = false;
                    self.free.insert((server.depth, parent));
                }
            }
            Parent::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        direct: 2,
        chain: 3,
    };

    impl Wave {
        fn is_empty(&self) -> bool {
            self.ordered.is_empty() && !self.waits()
        }
    }

    /// Everything that can go out now, as `pull<parent`.
    fn out(wave: &mut Wave) -> Vec<String> {
        let mut out = Vec::new();
        while let Some((pull, parent)) = wave.next(LIMITS) {
            out.push(match parent {
                Parent::Registry => format!("{pull}<registry"),
                Parent::Node(node) => format!("{pull}<{node}"),
                Parent::None => unreachable!(),
            });
        }
        out
    }

    fn wave(serving: usize, other: usize) -> Wave {
        let mut wave = Wave::default();
        for n in 0..serving + other {
            let name = format!("n{n}");
            wave.wait(&name, &name, n < serving, false);
        }
        wave
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_grows_as_nodes_report() {
        let mut wave = wave(6, 0);
        assert_eq!(out(&mut wave), ["n0<registry"]);
        wave.pulls("n0");
        assert_eq!(out(&mut wave), ["n1<n0"]);
        wave.pulls("n1");
        // The chain is full with n2, so that another begins.
        assert_eq!(out(&mut wave), ["n2<n1", "n3<registry"]);
        wave.pulls("n2");
        assert!(out(&mut wave).is_empty());
        wave.pulls("n3");
        assert_eq!(out(&mut wave), ["n4<n3"]);
        // A ready node heads a chain as soon as nobody pulls from it.
        wave.ready("n0", "n0", true);
        assert!(out(&mut wave).is_empty());
        wave.ready("n1", "n1", true);
        assert_eq!(out(&mut wave), ["n5<n0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_do_not_serve_go_in_waves() {
        let mut wave = wave(0, 5);
        assert_eq!(out(&mut wave), ["n0<registry", "n1<registry"]);
        wave.pulls("n0");
        assert!(out(&mut wave).is_empty());
        wave.ready("n0", "n0", false);
        assert_eq!(out(&mut wave), ["n2<registry"]);
        wave.gone("n1", "n1");
        assert_eq!(out(&mut wave), ["n3<registry"]);
        wave.gone("n4", "n4");
        assert!(out(&mut wave).is_empty() && !wave.is_empty());
        wave.ready("n2", "n2", false);
        wave.ready("n3", "n3", false);
        assert!(wave.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_have_it_serve_first() {
        let mut wave = wave(2, 1);
        wave.serves("old");
        wave.serves("n2");
        wave.serves("old");
        assert_eq!(out(&mut wave), ["n0<n2", "n1<old"]);
        assert_eq!(wave.whole("old").collect::<Vec<_>>(), ["n2"]);
        wave.ready("n0", "n0", true);
        // Not from itself.
        assert_eq!(out(&mut wave), ["n2<n0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_never_reports_holds_nobody_up() {
        let mut wave = wave(3, 0);
        assert_eq!(out(&mut wave), ["n0<registry"]);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(out(&mut wave), ["n1<registry"]);
        wave.pulls("n1");
        wave.gone("n1", "n1");
        assert_eq!(out(&mut wave), ["n2<registry"]);
        wave.gone("n0", "n0");
        wave.gone("n2", "n2");
        assert!(wave.is_empty() && wave.registry.pulling().nodes.is_empty());
        assert!(wave.free.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_goes_away_serves_no_more() {
        let mut wave = wave(4, 0);
        wave.serves("old");
        assert_eq!(out(&mut wave), ["n0<old"]);
        wave.forget("old");
        wave.pulls("n0");
        assert_eq!(out(&mut wave), ["n1<n0"]);
        wave.ready("n0", "n0", true);
        wave.gone("n1", "n1");
        assert_eq!(out(&mut wave), ["n2<n0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn waves_of_a_region_share_its_registry() {
        let registry = Registry::default();
        let mut waves = [Wave::new(registry.clone()), Wave::new(registry.clone())];
        for wave in &mut waves {
            for name in ["n0", "n1", "n2"] {
                wave.wait(name, name, false, false);
            }
        }
        assert_eq!(out(&mut waves[0]), ["n0<registry", "n1<registry"]);
        // Who pulls there already is no further node.
        assert_eq!(out(&mut waves[1]), ["n0<registry", "n1<registry"]);
        waves[0].ready("n0", "n0", false);
        assert!(!registry.freed() && out(&mut waves[0]).is_empty());
        waves[1].ready("n0", "n0", false);
        assert!(registry.freed() && !registry.freed());
        assert_eq!(out(&mut waves[0]), ["n2<registry"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_its_next_try_holds_nobody_up() {
        let mut wave = wave(0, 4);
        assert_eq!(out(&mut wave), ["n0<registry", "n1<registry"]);
        wave.pulls("n0");
        wave.pauses("n0");
        wave.pauses("n0");
        assert_eq!(out(&mut wave), ["n2<registry"]);
        // Back again, it counts again.
        wave.pulls("n0");
        wave.ready("n1", "n1", false);
        assert!(out(&mut wave).is_empty());
        wave.pauses("n0");
        wave.gone("n0", "n0");
        assert_eq!(out(&mut wave), ["n3<registry"]);
        wave.ready("n2", "n2", false);
        wave.ready("n3", "n3", false);
        assert!(wave.is_empty() && wave.registry.pulling().nodes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_sent_to_a_node_that_waits_for_its_next_try() {
        let mut wave = wave(3, 0);
        assert_eq!(out(&mut wave), ["n0<registry"]);
        wave.pulls("n0");
        wave.pauses("n0");
        assert_eq!(out(&mut wave), ["n1<registry"]);
        wave.pulls("n0");
        assert_eq!(out(&mut wave), ["n2<n0"]);
    }
}
