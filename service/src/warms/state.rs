//! Warms that run, and the orders that their nodes have.
//!
//! A *pull* is one image on one node: all warms that want it share it. Everything here happens
//! under one lock and without waiting; it is driven by requests, by what nodes report, and by a
//! clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::Order;
use chalk_core::wire::{
    LayerProgress, Problem, Receipt, Warm, WarmEventKind, WarmState, WarmStatus, problem,
};
use tokio::time::Instant;

use super::log::{About, Log};
use super::record::{Header, Stored, key, status, trouble};
use super::waves::{Limits, Parent, Wave};
use crate::http::nodes::WARM_PIN;
use crate::ledger::{Changes, Table};
use crate::nodes::{Nodes, session};
use crate::regions::{ImageAt, Regions};

/// Time between two progress events of one target.
const PROGRESS: Duration = Duration::from_millis(250);
/// Nodes with the whole image that an order names besides the one to pull from.
const FURTHER_PEERS: usize = 3;

/// A warm that runs, or that may go on.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) header: Header,
    pub(super) targets: Vec<Stored>,
    pub(super) log: Arc<Log>,
    /// When it would have begun, had it run without a break.
    began: Instant,
    /// When progress of a target was last told.
    told: BTreeMap<usize, Instant>,
    open: usize,
    dirty: BTreeSet<usize>,
}

/// Where a pull stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for its turn.
    Waiting,
    /// Its node has the order.
    Ordered,
    /// Its node is not connected.
    Away,
}

/// An image on its way to a node.
#[derive(Debug)]
struct Pull {
    node: String,
    region: String,
    image: ImageAt,
    pin: bool,
    /// Warms that want it, with the place in their lists.
    targets: Vec<(String, usize)>,
    stage: Stage,
}

/// An image and a region.
type WaveKey = (String, Digest);

/// A wave, and whether the image is in the region's registry.
#[derive(Debug, Default)]
struct Group {
    wave: Wave,
    /// The image is being copied.
    copying: bool,
}

/// All that runs.
#[derive(Debug)]
pub(super) struct State {
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    limits: Limits,
    pub(super) live: BTreeMap<String, Live>,
    pulls: BTreeMap<String, Pull>,
    by_place: BTreeMap<(String, Digest, bool), String>,
    by_node: BTreeMap<String, BTreeSet<String>>,
    groups: BTreeMap<WaveKey, Group>,
    /// Targets that failed because their node was lost, by node.
    lost: BTreeMap<String, BTreeSet<(String, usize)>>,
    /// Images to copy: taken by whoever holds the lock, when it is free again.
    pub(super) to_copy: Vec<(String, ImageAt)>,
    /// Warms that ended since somebody looked.
    pub(super) ended: Vec<String>,
}

impl State {
    pub(super) fn new(nodes: Arc<Nodes>, regions: Arc<Regions>, limits: Limits) -> Self {
        Self {
            nodes,
            regions,
            limits,
            live: BTreeMap::new(),
            pulls: BTreeMap::new(),
            by_place: BTreeMap::new(),
            by_node: BTreeMap::new(),
            groups: BTreeMap::new(),
            lost: BTreeMap::new(),
            to_copy: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Takes in a warm, new or of an earlier service, and begins what is to be done.
    pub(super) fn begin(&mut self, header: Header, targets: Vec<Stored>) {
        let spent = Duration::try_from_secs_f64(header.spent).unwrap_or_default();
        let began = Instant::now().checked_sub(spent);
        let id = header.id.clone();
        let live = Live {
            log: Arc::new(Log::new(header.last_event)),
            began: began.unwrap_or_else(Instant::now),
            told: BTreeMap::new(),
            open: targets.iter().filter(|stored| !stored.is_over()).count(),
            dirty: BTreeSet::new(),
            header,
            targets,
        };
        let mut open = Vec::new();
        for (at, stored) in live.targets.iter().enumerate() {
            tell_target(&live, at);
            if !stored.is_over() {
                open.push(at);
            } else if stored.is_lost() {
                let lost = self.lost.entry(stored.target.node.clone()).or_default();
                lost.insert((id.clone(), at));
            }
        }
        if live.header.status != WarmStatus::Running {
            let warm = Box::new(live.header.shown(&live.targets));
            live.log.add(About::End, WarmEventKind::Finished { warm });
        }
        self.live.insert(id.clone(), live);
        let mut touched = BTreeSet::new();
        for at in open {
            touched.extend(self.enter(&id, at));
        }
        for group in touched {
            self.pump(&group);
        }
        self.settle(&id);
    }

    /// Makes a target wait for its image, or joins it to a pull of another warm.
    fn enter(&mut self, warm: &str, at: usize) -> Option<WaveKey> {
        let live = self.live.get_mut(warm)?;
        let (stored, pin) = (live.targets.get_mut(at)?, live.header.pin);
        let image = live.header.images.get(stored.image)?.at();
        let (node, region) = (stored.target.node.clone(), stored.target.region.clone());
        let place = (node.clone(), image.digest, pin);
        if let Some(id) = self.by_place.get(&place) {
            stored.pull = Some(id.clone());
            live.dirty.insert(at);
            let pull = self.pulls.get_mut(id)?;
            pull.targets.push((warm.to_owned(), at));
            return None;
        }
        // A node that has the order of an earlier service knows it by its identifier.
        let id = stored.pull.take().filter(|id| !self.pulls.contains_key(id));
        let id = id.unwrap_or_else(|| format!("{warm}.{at}"));
        stored.pull = Some(id.clone());
        live.dirty.insert(at);
        let group = (region.clone(), image.digest);
        let pull = Pull {
            node: node.clone(),
            region,
            image,
            pin,
            targets: vec![(warm.to_owned(), at)],
            stage: Stage::Away,
        };
        self.by_place.insert(place, id.clone());
        self.by_node.entry(node).or_default().insert(id.clone());
        self.pulls.insert(id.clone(), pull);
        self.line_up(&id, false);
        Some(group)
    }

    /// Lets a pull wait for its turn, or go at once where its node has the image.
    fn line_up(&mut self, id: &str, first: bool) {
        let Some(pull) = self.pulls.get_mut(id) else {
            return;
        };
        let key = (pull.region.clone(), pull.image.digest);
        if !self.groups.contains_key(&key) {
            let copying = self.regions.has_own(&key.0);
            if copying {
                self.to_copy.push((key.0.clone(), pull.image.clone()));
            }
            let mut wave = Wave::default();
            for node in self.nodes.warm(&key.1) {
                if node.region == key.0 && node.mirror.is_some() {
                    wave.serves(&node.name);
                }
            }
            self.groups.insert(key.clone(), Group { wave, copying });
        }
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        let Some(node) = self.nodes.connected(&pull.node) else {
            pull.stage = Stage::Away;
            return;
        };
        let serves = node.mirror.is_some();
        if self.nodes.has(&pull.node, &pull.image.digest) {
            pull.stage = Stage::Ordered;
            group.wave.passes(id, &pull.node, serves);
            self.send(id, &Parent::None);
        } else {
            pull.stage = Stage::Waiting;
            group.wave.wait(id, &pull.node, serves, first);
        }
    }

    /// Gives out the orders of a wave that can go out.
    fn pump(&mut self, key: &WaveKey) {
        loop {
            let Some(group) = self.groups.get_mut(key) else {
                return;
            };
            if group.copying {
                return;
            }
            let Some((id, parent)) = group.wave.next(self.limits) else {
                return;
            };
            if let Some(pull) = self.pulls.get_mut(&id) {
                pull.stage = Stage::Ordered;
            }
            self.send(&id, &parent);
        }
    }

    /// Sends the order of a pull to its node. One that does not get through is sent again when the
    /// node connects.
    fn send(&mut self, id: &str, parent: &Parent) {
        let Some(pull) = self.pulls.get(id) else {
            return;
        };
        let Ok(session) = self.nodes.session(&pull.node) else {
            return;
        };
        let key = (pull.region.clone(), pull.image.digest);
        let group = self.groups.get(&key);
        let mut names: Vec<&str> = Vec::new();
        if let Parent::Node(parent) = parent {
            names.push(parent);
            let whole = group.into_iter().flat_map(|g| g.wave.whole(&pull.node));
            names.extend(whole.filter(|name| name != parent).take(FURTHER_PEERS));
        }
        let mirror = |name: &&str| self.nodes.connected(name)?.mirror;
        let peers = names.iter().filter_map(mirror).collect();
        let regions = &self.regions;
        let image = regions.image_ref(&pull.region, session.host(), &pull.image, peers);
        session.send(&Order::Warm {
            id: id.to_owned(),
            image,
            pin: pull.pin.then(|| WARM_PIN.to_owned()),
        });
    }

    /// A copy to a region's registry ended.
    pub(super) fn copied(&mut self, key: &WaveKey, done: Result<(), Problem>) {
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
    pub(super) fn copying(&mut self, key: &WaveKey, hash: Option<Digest>, done: u64, total: u64) {
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
    pub(super) fn pulling(
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
    pub(super) fn warmed(&mut self, node: &str, id: &str, receipt: &Receipt) {
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
    pub(super) fn failed(&mut self, node: &str, id: &str, error: &Problem, retries: u32) {
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

    /// Ends a pull without success.
    fn fail(&mut self, id: &str, error: &Problem) {
        let node = self.pulls.get(id).map(|pull| pull.node.clone());
        let Some((key, targets)) = self.take(id) else {
            return;
        };
        if let (Some(group), Some(node)) = (self.groups.get_mut(&key), &node) {
            group.wave.gone(id, node);
        }
        for (warm, at) in targets {
            self.change(&warm, at, |stored| stored.fail(error));
        }
        self.pump(&key);
        self.drop_empty(&key);
    }

    /// Takes a pull out of the lists, but not out of its wave.
    fn take(&mut self, id: &str) -> Option<(WaveKey, Vec<(String, usize)>)> {
        let pull = self.pulls.remove(id)?;
        let place = (pull.node.clone(), pull.image.digest, pull.pin);
        self.by_place.remove(&place);
        if let Some(mine) = self.by_node.get_mut(&pull.node) {
            mine.remove(id);
            if mine.is_empty() {
                self.by_node.remove(&pull.node);
            }
        }
        Some(((pull.region, pull.image.digest), pull.targets))
    }

    /// Forgets a wave that is over.
    fn drop_empty(&mut self, key: &WaveKey) {
        let empty = self
            .groups
            .get(key)
            .is_some_and(|g| g.wave.is_empty() && !g.copying);
        // Pulls of nodes that are away are in no line, but their copy need not be made twice.
        let wanted = |pull: &Pull| (&pull.region, &pull.image.digest) == (&key.0, &key.1);
        if empty && !self.pulls.values().any(wanted) {
            self.groups.remove(key);
        }
    }

    /// Changes a target and tells of it.
    fn change(&mut self, warm: &str, at: usize, change: impl FnOnce(&mut Stored)) {
        let Some(live) = self.live.get_mut(warm) else {
            return;
        };
        let Some(stored) = live.targets.get_mut(at) else {
            return;
        };
        let was_over = stored.is_over();
        change(stored);
        match (was_over, stored.is_over()) {
            (false, true) => live.open -= 1,
            (true, false) => live.open += 1,
            _ => {}
        }
        if stored.is_lost() {
            let lost = self.lost.entry(stored.target.node.clone()).or_default();
            lost.insert((warm.to_owned(), at));
        }
        live.dirty.insert(at);
        live.told.remove(&at);
        tell_target(live, at);
        self.settle(warm);
    }

    /// Ends a warm whose targets are all over.
    fn settle(&mut self, warm: &str) {
        let Some(live) = self.live.get_mut(warm) else {
            return;
        };
        if live.open > 0 || live.header.status != WarmStatus::Running {
            return;
        }
        live.header.status = status(&live.targets);
        live.header.finished = Some(jiff::Timestamp::now().to_string());
        live.header.awaits = live.targets.iter().any(Stored::is_lost);
        self.finish(warm);
    }

    /// Tells of the end of a warm, and has it written down.
    fn finish(&mut self, warm: &str) {
        if let Some(live) = self.live.get_mut(warm) {
            let shown = Box::new(live.header.shown(&live.targets));
            live.log
                .add(About::End, WarmEventKind::Finished { warm: shown });
            self.ended.push(warm.to_owned());
        }
    }

    /// A node is connected: it gets its orders again, and what failed for its absence begins anew.
    pub(super) fn up(&mut self, node: &str) {
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
    pub(super) fn down(&mut self, node: &str) {
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
    pub(super) fn removed(&mut self, node: &str) {
        let detail = format!("node `{node}` was removed");
        let error = trouble(problem::NOT_FOUND, "the node was removed", detail);
        for id in self.by_node.get(node).cloned().unwrap_or_default() {
            self.fail(&id, &error);
        }
        self.lost.remove(node);
    }

    /// What time brings: lost nodes, warms that took too long, orders that were not taken.
    pub(super) fn tick(&mut self) {
        let patience = self.nodes.lost_after();
        let away = self.pulls.iter().filter(|(_, p)| p.stage == Stage::Away);
        let lost = |pull: &Pull| match self.nodes.gone_for(&pull.node) {
            Some(gone) => gone >= patience,
            None => self.nodes.connected(&pull.node).is_none(),
        };
        let lost = away.filter(|(_, pull)| lost(pull));
        let lost: Vec<(String, String)> =
            lost.map(|(id, p)| (id.clone(), p.node.clone())).collect();
        for (id, node) in lost {
            let error = session::lost(&node, &format!("is not connected for {patience:?}"));
            self.fail(&id, &error);
        }
        let late = self.live.iter().filter(|(_, live)| live.is_late());
        let late: Vec<String> = late.map(|(id, _)| id.clone()).collect();
        for warm in late {
            let open = self.live.get(&warm).is_some_and(|live| live.open > 0);
            let timeout = self.live.get(&warm).map_or(0, |live| live.header.timeout);
            if open {
                let detail = format!("it was not ready after {timeout} s");
                let error = trouble(problem::TIMED_OUT, "the warm took too long", detail);
                self.leave(&warm, &error);
            }
            // Nodes that were lost come too late from now on.
            if let Some(live) = self.live.get_mut(&warm)
                && live.header.awaits
            {
                live.header.awaits = false;
                self.ended.push(warm);
            }
        }
        let waiting: Vec<WaveKey> = self.groups.keys().cloned().collect();
        for key in waiting {
            self.pump(&key);
        }
    }

    /// Takes a warm away from all its pulls; what is not over fails. Orders that nobody else wants
    /// are taken back.
    fn leave(&mut self, warm: &str, error: &Problem) {
        let Some(live) = self.live.get(warm) else {
            return;
        };
        let open = live.targets.iter().enumerate();
        let open = open.filter(|(_, stored)| !stored.is_over());
        let open: Vec<(usize, Option<String>)> = open.map(|(at, s)| (at, s.pull.clone())).collect();
        for (at, pull) in open {
            let Some((id, pull)) = pull.and_then(|id| {
                let pull = self.pulls.get_mut(&id)?;
                Some((id, pull))
            }) else {
                self.change(warm, at, |stored| stored.fail(error));
                continue;
            };
            pull.targets
                .retain(|target| *target != (warm.to_owned(), at));
            let (alone, node) = (pull.targets.is_empty(), pull.node.clone());
            if alone {
                if let Ok(session) = self.nodes.session(&node) {
                    session.send(&Order::CancelWarm { id: id.clone() });
                }
                self.fail(&id, error);
            }
            self.change(warm, at, |stored| stored.fail(error));
        }
    }

    /// Ends a warm before its end.
    pub(super) fn cancel(&mut self, warm: &str) -> Option<Warm> {
        let live = self.live.get_mut(warm)?;
        let ran = live.header.status == WarmStatus::Running;
        if ran {
            // Before its last target is over, so that this is not taken for its end.
            live.header.status = WarmStatus::Cancelled;
            let detail = "a client cancelled it".to_owned();
            let error = trouble(problem::CANCELLED, "the warm was cancelled", detail);
            self.leave(warm, &error);
        }
        let live = self.live.get_mut(warm)?;
        live.header.awaits = false;
        if ran {
            live.header.finished = Some(jiff::Timestamp::now().to_string());
            self.finish(warm);
        } else {
            self.ended.push(warm.to_owned());
        }
        self.shown(warm)
    }

    /// Lets the targets of a warm that failed begin again, with the whole time.
    pub(super) fn retry(&mut self, warm: &str) -> Option<Warm> {
        let live = self.live.get_mut(warm)?;
        let failed = live.targets.iter().enumerate();
        let failed = failed.filter(|(_, stored)| stored.target.state == WarmState::Failed);
        let failed: Vec<usize> = failed.map(|(at, _)| at).collect();
        if failed.is_empty() {
            // Nothing to do; it may be here for this call only.
            self.ended.push(warm.to_owned());
        } else {
            live.began = Instant::now();
            live.header.status = WarmStatus::Running;
            live.header.finished = None;
            live.header.awaits = false;
            let mut touched = BTreeSet::new();
            for at in failed {
                self.change(warm, at, Stored::again);
                touched.extend(self.enter(warm, at));
            }
            for key in touched {
                self.pump(&key);
            }
        }
        self.shown(warm)
    }

    pub(super) fn shown(&self, warm: &str) -> Option<Warm> {
        let live = self.live.get(warm)?;
        Some(live.header.shown(&live.targets))
    }

    /// Changes since the last call, for the ledger.
    pub(super) fn changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        for (id, live) in &mut self.live {
            let ended = self.ended.contains(id);
            if live.dirty.is_empty() && !ended {
                continue;
            }
            for at in std::mem::take(&mut live.dirty) {
                changes = changes.put(Table::Targets, &key(id, at), &live.targets[at]);
            }
            live.header.spent = live.began.elapsed().as_secs_f64();
            live.header.last_event = live.log.last();
            changes = changes.put(Table::Warms, id, &live.header);
        }
        changes
    }
}

impl Live {
    fn is_late(&self) -> bool {
        self.began.elapsed() >= Duration::from_secs(self.header.timeout)
    }
}

fn tell_target(live: &Live, at: usize) {
    if let Some(stored) = live.targets.get(at) {
        let target = stored.target.clone();
        live.log
            .add(About::Target(at), WarmEventKind::Target { target });
    }
}
