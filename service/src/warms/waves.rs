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
use std::time::Duration;

use tokio::time::Instant;

/// For how long others wait for a node that has its order to report that it pulls.
const PATIENCE: Duration = Duration::from_secs(5);

/// Limits of a wave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Nodes that pull from the registry at once.
    pub(super) direct: usize,
    /// Nodes in a chain.
    pub(super) chain: u32,
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
    /// Pulls from the registry.
    direct: usize,
    /// Ordered pulls of nodes that will serve when they report.
    pending: BTreeMap<String, Instant>,
}

impl Wave {
    /// Whether nothing waits and nothing is ordered.
    pub(super) fn is_empty(&self) -> bool {
        self.ordered.is_empty() && self.links.is_empty() && self.leaves.is_empty()
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
                if self.direct >= limits.direct || self.pending.values().any(soon) {
                    return None;
                }
                self.direct += 1;
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
        let Some(member) = self.ordered.get(pull) else {
            return;
        };
        if member.serves && !self.servers.contains_key(&member.node) {
            let (depth, busy) = (member.depth, false);
            self.free.insert((depth, member.node.clone()));
            self.servers
                .insert(member.node.clone(), Server { depth, busy });
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
        match member.parent {
            Parent::Registry => self.direct -= 1,
            Parent::Node(node) => {
                if let Some(server) = self.servers.get_mut(&node) {
                    server.busy = false;
                    self.free.insert((server.depth, node));
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
        assert!(wave.is_empty() && wave.direct == 0 && wave.free.is_empty());
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
}
