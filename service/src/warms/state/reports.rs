//! What nodes and copies report of images on their way.

use chalk_core::Digest;
use chalk_core::wire::agent::Order;
use chalk_core::wire::{
    CachedImage, LayerProgress, Problem, Receipt, WarmEventKind, WarmState, problem,
};
use tokio::time::Instant;

use super::{Live, PROGRESS, Pull, Stage, State, WaveKey, tell_target};
use crate::warms::log::About;
use crate::warms::record::{Stored, trouble};

/// Layers of which a progress event tells.
const LAYERS: usize = 128;

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
            self.fail(&failed, &problem);
        }
        self.pump(key);
        self.drop_empty(key);
    }

    /// A copy to a region's registry failed for now; it is tried again `retries` times. `false` when
    /// nobody waits for it any more.
    pub(in crate::warms) fn copy_failed(
        &mut self,
        key: &WaveKey,
        error: &Problem,
        retries: u32,
    ) -> bool {
        let waiting = self.pulls.values().filter(|pull| {
            pull.stage != Stage::Ordered && (&pull.region, &pull.image.digest) == (&key.0, &key.1)
        });
        let waiting: Vec<(String, usize)> = waiting.flat_map(|p| p.targets.clone()).collect();
        for (warm, at) in &waiting {
            self.change(warm, *at, |stored| {
                stored.target.error = Some(error.clone());
                stored.target.retries_left = retries;
            });
        }
        !waiting.is_empty()
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
            // It has the order of a service or session before, and nobody wants it any more.
            if let Ok(session) = self.nodes.session(node) {
                session.send(&Order::CancelWarm { id: id.to_owned() });
            }
            return;
        };
        pull.told = true;
        let targets = pull.targets.clone();
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
            group.wave.passes(id, node, serves);
            group.wave.pulls(id);
            self.stage(id, Stage::Ordered);
        } else {
            group.wave.pulls(id);
        }
        for (warm, at) in targets {
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
                    layers: layers.iter().take(LAYERS).cloned().collect(),
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
            return self.fail(&[id.to_owned()], &error);
        }
        let Some((key, pull)) = self.take(id) else {
            return;
        };
        let serves = self.nodes.serves(node, &key.1);
        if let Some(group) = self.groups.get_mut(&key) {
            group.wave.ready(id, node, serves);
        }
        for (warm, at) in pull.targets {
            self.change(&warm, at, |stored| stored.ready(receipt));
        }
        self.go_on(&[node.to_owned()].into(), [key].into());
    }

    /// A node said which images it has; others can have them from it, or cannot any more.
    pub(in crate::warms) fn cached(&mut self, node: &str, images: &[CachedImage]) {
        if self.groups.is_empty() {
            return;
        }
        let Some(region) = self.nodes.connected(node).map(|n| n.region) else {
            return;
        };
        for image in images {
            let key = (region.clone(), image.digest);
            let Some(group) = self.groups.get_mut(&key) else {
                continue;
            };
            if self.nodes.serves(node, &image.digest) {
                group.wave.serves(node);
                self.pump(&key);
            } else {
                group.wave.forget(node);
            }
        }
    }

    /// A pull failed, for now or for good.
    pub(in crate::warms) fn failed(&mut self, node: &str, id: &str, error: &Problem, retries: u32) {
        let Some(pull) = self.pulls.get(id).filter(|pull| pull.node == node) else {
            return;
        };
        if retries == 0 {
            return self.fail(&[id.to_owned()], error);
        }
        let key = (pull.region.clone(), pull.image.digest);
        for (warm, at) in pull.targets.clone() {
            self.change(&warm, at, |stored| {
                stored.target.error = Some(error.clone());
                stored.target.retries_left = retries;
            });
        }
        if let Some(group) = self.groups.get_mut(&key) {
            group.wave.pauses(id);
        }
        self.pump(&key);
    }
}
