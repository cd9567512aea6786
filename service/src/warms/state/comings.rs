//! Nodes that come and go.

use std::collections::BTreeSet;

use chalk_core::wire::{WarmState, WarmStatus, problem};

use super::{Stage, State};
use crate::warms::record::{Stored, trouble};

impl State {
    /// A node is connected: it gets its orders again, and what failed for its absence begins anew.
    pub(in crate::warms) fn up(&mut self, node: &str) {
        let mut touched = BTreeSet::new();
        let serves = self
            .nodes
            .connected(node)
            .is_some_and(|n| n.mirror.is_some());
        let region = self.nodes.connected(node).map(|n| n.region);
        for id in self.by_node.get(node).cloned().unwrap_or_default() {
            if let Some(pull) = self.pulls.get(&id) {
                let key = (pull.region.clone(), pull.image.digest);
                if let Some(group) = self.groups.get_mut(&key) {
                    group.wave.gone(&id, node);
                }
                touched.insert(key);
            }
            self.line_up(&id, true);
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
        if let (true, Some(region)) = (serves, region) {
            for (key, group) in self.groups.iter_mut().filter(|(key, _)| key.0 == region) {
                if self.nodes.has(node, &key.1) {
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
        let mut touched = BTreeSet::new();
        for (key, group) in &mut self.groups {
            group.wave.forget(node);
            touched.insert(key.clone());
        }
        for id in self.by_node.get(node).cloned().unwrap_or_default() {
            let Some(pull) = self.pulls.get_mut(&id) else {
                continue;
            };
            pull.stage = Stage::Away;
            let key = (pull.region.clone(), pull.image.digest);
            let targets = pull.targets.clone();
            if let Some(group) = self.groups.get_mut(&key) {
                group.wave.gone(&id, node);
            }
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
        for id in self.by_node.get(node).cloned().unwrap_or_default() {
            self.fail(&id, &error);
        }
        self.lost.remove(node);
    }
}
