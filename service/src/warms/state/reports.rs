//! What nodes and copies report of images on their way.

use chalk_core::Digest;
use chalk_core::wire::{LayerProgress, Problem, Receipt, WarmEventKind, WarmState, problem};
use tokio::time::Instant;

use super::{Live, PROGRESS, Pull, Stage, State, WaveKey, tell_target};
use crate::warms::log::About;
use crate::warms::record::{Stored, trouble};

impl State {
    /// A copy to a region's registry ended.
    pub(in crate::warms) fn copied(&mut self, key: &WaveKey, done: Result<(), Problem>) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        group.copying = false;
        if let Err(problem) = done {
            let waiting = |pull: &&Pull| {
                pull.stage != Stage::Ordered
                    && (&pull.region, &pull.image.digest) == (&key.0, &key.1)
            };
            let failed = self.pulls.iter().filter(|(_, pull)| waiting(pull));
            let failed: Vec<String> = failed.map(|(id, _)| id.clone()).collect();
            for id in failed {
                self.fail(&id, &problem);
            }
        }
        self.pump(key);
        self.drop_empty(key);
    }

    /// Tells all warms that wait for a copy how far it is.
    pub(in crate::warms) fn copying(
        &mut self,
        key: &WaveKey,
        hash: Option<Digest>,
        done: u64,
        total: u64,
    ) {
        let Some(hash) = hash else {
            return;
        };
        let waits = |live: &&Live| {
            let of_it = |stored: &Stored| {
                !stored.is_over()
                    && stored.target.region == key.0
                    && stored.target.image_hash == hash
            };
            live.targets.iter().any(of_it)
        };
        for live in self.live.values().filter(waits) {
            let about = About::Copy(key.0.clone(), hash);
            let region = key.0.clone();
            live.log.add(
                about,
                WarmEventKind::Copying {
                    image_hash: hash,
                    region,
                    done,
                    total,
                },
            );
        }
    }

    /// A node pulls.
    pub(in crate::warms) fn pulling(
        &mut self,
        node: &str,
        id: &str,
        done: u64,
        total: u64,
        layers: &[LayerProgress],
    ) {
        let Some(pull) = self.pulls.get_mut(id).filter(|pull| pull.node == node) else {
            return;
        };
        let key = (pull.region.clone(), pull.image.digest);
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        if pull.stage != Stage::Ordered {
            // It goes on with the order of an earlier session.
            let serves = self
                .nodes
                .connected(node)
                .is_some_and(|n| n.mirror.is_some());
            pull.stage = Stage::Ordered;
            group.wave.passes(id, node, serves);
        }
        group.wave.pulls(id);
        for (warm, at) in pull.targets.clone() {
            let Some(live) = self.live.get_mut(&warm) else {
                continue;
            };
            let Some(stored) = live.targets.get_mut(at) else {
                continue;
            };
            let target = &mut stored.target;
            (target.done, target.total) = (done, total);
            if target.state != WarmState::Pulling {
                target.state = WarmState::Pulling;
                live.dirty.insert(at);
                tell_target(live, at);
            }
            let now = Instant::now();
            let told = live.told.get(&at);
            if told.is_none_or(|told| now - *told >= PROGRESS) {
                live.told.insert(at, now);
                let kind = WarmEventKind::Pulling {
                    node: node.to_owned(),
                    image_hash: live.targets[at].target.image_hash,
                    done,
                    total,
                    layers: layers.to_vec(),
                };
                live.log.add(About::Progress(at), kind);
            }
        }
        self.pump(&key);
    }

    /// A node has an image.
    pub(in crate::warms) fn warmed(&mut self, node: &str, id: &str, receipt: &Receipt) {
        let Some(pull) = self.pulls.get(id).filter(|pull| pull.node == node) else {
            return;
        };
        if receipt.digest != pull.image.digest {
            let detail = format!(
                "node `{node}` has {} instead of {}",
                receipt.digest, pull.image.digest
            );
            let error = trouble(problem::DAMAGED, "the node has another image", detail);
            return self.fail(id, &error);
        }
        let serves = self
            .nodes
            .connected(node)
            .is_some_and(|n| n.mirror.is_some());
        let Some((key, targets)) = self.take(id) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(&key) {
            group.wave.ready(id, node, serves);
        }
        for (warm, at) in targets {
            self.change(&warm, at, |stored| stored.ready(receipt));
        }
        self.pump(&key);
        self.drop_empty(&key);
    }

    /// A pull failed, for now or for good.
    pub(in crate::warms) fn failed(&mut self, node: &str, id: &str, error: &Problem, retries: u32) {
        let Some(pull) = self.pulls.get(id).filter(|pull| pull.node == node) else {
            return;
        };
        if retries == 0 {
            return self.fail(id, error);
        }
        for (warm, at) in pull.targets.clone() {
            self.change(&warm, at, |stored| {
                stored.target.error = Some(error.clone());
                stored.target.retries_left = retries;
            });
        }
    }
}
