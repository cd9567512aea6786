//! Nodes that come and go.

use std::collections::BTreeSet;

use chalk_core::wire::{WarmState, WarmStatus, problem};

use super::{Mine, Stage, State};
use crate::warms::record::{Stored, trouble};

impl State {
    /// A node is connected: it gets its orders again, and what failed for its absence begins anew.
    pub(in crate::warms) fn up(&mut self, node: &str) {
        let mut touched = BTreeSet::new();
        let region = self.nodes.connected(node).map(|n| n.region);
        let mine = self.pulls_of(node);
        for id in &mine {
            touched.extend(self.put_away(id));
        }
        for id in &mine {
            self.line_up(id, true);
        }
        for (warm, at) in self.lost.remove(node).unwrap_or_default() {
            let Some(live) = self.live.get_mut(&warm) else {
                continue;
            };
            let lost = live.targets.get(at).is_some_and(Stored::is_lost);
            if !lost || live.header.status == WarmStatus::Cancelled || live.is_late() {
                continue;
            }
            live.header.status = WarmStatus::Running;
            live.header.finished = None;
            self.change(&warm, at, Stored::again);
            touched.extend(self.enter(&warm, at));
        }
        if let Some(region) = region {
            for (key, group) in self.groups.iter_mut().filter(|(key, _)| key.0 == region) {
                if self.nodes.serves(node, &key.1) {
                    group.wave.serves(node);
                    touched.insert(key.clone());
                }
            }
        }
        for key in touched {
            self.pump(&key);
        }
    }

    /// A node is not connected any more.
    pub(in crate::warms) fn down(&mut self, node: &str) {
        // It has connected anew before somebody told of the end of the session before.
        if self.nodes.connected(node).is_some() {
            return;
        }
        let mut touched = BTreeSet::new();
        for (key, group) in &mut self.groups {
            group.wave.forget(node);
            touched.insert(key.clone());
        }
        for id in self.pulls_of(node) {
            self.put_away(&id);
            let pull = self.pulls.get(&id);
            let targets = pull.map(|pull| pull.targets.clone()).unwrap_or_default();
            for (warm, at) in targets {
                self.change(&warm, at, |stored| stored.target.state = WarmState::Queued);
            }
        }
        for key in touched {
            self.pump(&key);
        }
    }

    /// A node was removed for good.
    pub(in crate::warms) fn removed(&mut self, node: &str) {
        let detail = format!("node `{node}` was removed");
        let error = trouble(problem::NOT_FOUND, "the node was removed", detail);
        let mine = self.pulls_of(node);
        self.fail(&mine, &error);
        self.lost.remove(node);
    }

    /// Pulls of a node, none of which is held back any more.
    fn pulls_of(&mut self, node: &str) -> Vec<String> {
        let Some(Mine { pulls, held, .. }) = self.by_node.get_mut(node) else {
            return Vec::new();
        };
        held.clear();
        pulls.iter().cloned().collect()
    }

    /// Takes a pull out of its wave; its node is not there, or is there anew.
    fn put_away(&mut self, id: &str) -> Option<super::WaveKey> {
        let pull = self.pulls.get(id)?;
        let key = (pull.region.clone(), pull.image.digest);
        if let Some(group) = self.groups.get_mut(&key) {
            group.wave.gone(id, &pull.node);
        }
        self.stage(id, Stage::Away);
        Some(key)
    }
}
