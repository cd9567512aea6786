//! Warms that run, and the orders that their nodes have.
//!
//! A *pull* is one image on one node: all warms that want it share it. Everything here happens
//! under one lock and without waiting; it is driven by requests, by what nodes report, and by a
//! clock.

mod comings;
mod ends;
mod reports;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::Order;
use chalk_core::wire::{Problem, Warm, WarmEventKind, WarmState, WarmStatus};
use tokio::time::Instant;

use super::log::{About, Log};
use super::record::{Header, Stored, key, status};
use super::waves::{Limits, Parent, Registry, Wave};
use crate::http::nodes::WARM_PIN;
use crate::ledger::{Changes, Table};
use crate::metrics::WarmMetrics;
use crate::nodes::Nodes;
use crate::regions::{ImageAt, Regions};

/// Time between two progress events of one target.
const PROGRESS: Duration = Duration::from_millis(250);
/// Pulls of one node that are in line or ordered; further ones are held back until some are over,
/// so that no node gets more orders than wait for it without harm.
const LINED: usize = 64;
/// Nodes with the whole image that an order names besides the one to pull from.
const FURTHER_PEERS: usize = 3;

/// A warm that runs, or that may go on.
#[derive(Debug)]
pub(in crate::warms) struct Live {
    pub(in crate::warms) header: Header,
    pub(in crate::warms) targets: Vec<Stored>,
    pub(in crate::warms) log: Arc<Log>,
    /// When it would have begun, had it run without a break.
    began: Instant,
    /// When progress of a target was last told.
    told: BTreeMap<usize, Instant>,
    open: usize,
    dirty: BTreeSet<usize>,
    /// The header is to be written, whatever else is.
    stale: bool,
}

/// Where a pull stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its node is not connected.
    Away,
    /// Waits until others of its node are over.
    Held,
    /// Waits for its turn.
    Waiting,
    /// Its node has the order.
    Ordered,
}

impl Stage {
    /// Whether it is part of its wave.
    fn is_lined(self) -> bool {
        matches!(self, Self::Waiting | Self::Ordered)
    }
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
    /// Whether its node may know the order, of this session or an earlier one.
    told: bool,
}

/// The pulls of one node.
#[derive(Debug, Default)]
struct Mine {
    pulls: BTreeSet<String>,
    /// How many of them are in line or ordered.
    lined: usize,
    /// Those that were held back, and may have ended meanwhile.
    held: VecDeque<String>,
}

/// An image and a region.
type WaveKey = (String, Digest);

/// A wave, and whether the image is in the region's registry.
#[derive(Debug, Default)]
struct Group {
    wave: Wave,
    /// The image is being copied.
    copying: bool,
    /// Pulls of it, those of nodes that are away included.
    pulls: usize,
}

/// All that runs.
#[derive(Debug)]
pub(in crate::warms) struct State {
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    limits: Limits,
    metrics: WarmMetrics,
    pub(in crate::warms) live: BTreeMap<String, Live>,
    pulls: BTreeMap<String, Pull>,
    by_place: BTreeMap<(String, Digest, bool), String>,
    by_node: BTreeMap<String, Mine>,
    groups: BTreeMap<WaveKey, Group>,
    /// Registries by region.
    registries: BTreeMap<String, Registry>,
    /// Targets that failed because their node was lost, by node.
    lost: BTreeMap<String, BTreeSet<(String, usize)>>,
    /// Images to copy: taken by whoever holds the lock, when it is free again.
    pub(in crate::warms) to_copy: Vec<(String, ImageAt)>,
    /// Warms that ended since somebody looked.
    pub(in crate::warms) ended: Vec<String>,
}

impl State {
    /// Images that are on their way.
    pub(in crate::warms) fn wanted(&self) -> BTreeSet<Digest> {
        self.pulls.values().map(|pull| pull.image.digest).collect()
    }

    pub(in crate::warms) fn new(
        nodes: Arc<Nodes>,
        regions: Arc<Regions>,
        limits: Limits,
        metrics: WarmMetrics,
    ) -> Self {
        Self {
            nodes,
            regions,
            limits,
            metrics,
            live: BTreeMap::new(),
            pulls: BTreeMap::new(),
            by_place: BTreeMap::new(),
            by_node: BTreeMap::new(),
            groups: BTreeMap::new(),
            registries: BTreeMap::new(),
            lost: BTreeMap::new(),
            to_copy: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Takes in a warm, new or of an earlier service, and begins what is to be done.
    pub(in crate::warms) fn begin(&mut self, header: Header, targets: Vec<Stored>) {
        let spent = Duration::try_from_secs_f64(header.spent).unwrap_or_default();
        let began = Instant::now().checked_sub(spent);
        let id = header.id.clone();
        let live = Live {
            log: Arc::new(Log::new(header.last_event)),
            began: began.unwrap_or_else(Instant::now),
            told: BTreeMap::new(),
            open: targets.iter().filter(|stored| !stored.is_over()).count(),
            dirty: BTreeSet::new(),
            stale: false,
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
        let told = stored.target.state == WarmState::Pulling;
        let key = (region.clone(), image.digest);
        self.group(&key, &image).pulls += 1;
        let pull = Pull {
            node: node.clone(),
            region,
            image,
            pin,
            targets: vec![(warm.to_owned(), at)],
            stage: Stage::Away,
            told,
        };
        self.by_place.insert(place, id.clone());
        let mine = self.by_node.entry(node).or_default();
        mine.pulls.insert(id.clone());
        self.pulls.insert(id.clone(), pull);
        self.line_up(&id, false);
        Some(key)
    }

    /// The wave of an image in a region; a new one begins with the copy to the region's registry.
    fn group(&mut self, key: &WaveKey, image: &ImageAt) -> &mut Group {
        let (nodes, regions) = (&self.nodes, &self.regions);
        let (registries, to_copy) = (&mut self.registries, &mut self.to_copy);
        self.groups.entry(key.clone()).or_insert_with(|| {
            let copying = regions.has_own(&key.0);
            if copying {
                to_copy.push((key.0.clone(), image.clone()));
            }
            let registry = registries.entry(key.0.clone()).or_default();
            let mut wave = Wave::new(registry.clone());
            for node in nodes.serving(&key.0, &key.1) {
                wave.serves(&node.name);
            }
            Group {
                wave,
                copying,
                pulls: 0,
            }
        })
    }

    /// Puts a pull into another stage.
    fn stage(&mut self, id: &str, stage: Stage) {
        let Some(pull) = self.pulls.get_mut(id) else {
            return;
        };
        let was = std::mem::replace(&mut pull.stage, stage);
        if let Some(mine) = self.by_node.get_mut(&pull.node) {
            mine.lined += usize::from(stage.is_lined());
            mine.lined -= usize::from(was.is_lined());
            if stage == Stage::Held && was != Stage::Held {
                mine.held.push_back(id.to_owned());
            }
        }
    }

    /// Lets a pull wait for its turn, or go at once where its node has the image.
    fn line_up(&mut self, id: &str, first: bool) {
        let Some(pull) = self.pulls.get(id) else {
            return;
        };
        let Some(node) = self.nodes.connected(&pull.node) else {
            return self.stage(id, Stage::Away);
        };
        let mine = self.by_node.get(&pull.node);
        if !pull.stage.is_lined() && mine.is_some_and(|mine| mine.lined >= LINED) {
            return self.stage(id, Stage::Held);
        }
        let key = (pull.region.clone(), pull.image.digest);
        let serves = node.mirror.is_some();
        let has = self.nodes.has(&pull.node, &pull.image.digest);
        let name = pull.node.clone();
        let Some(group) = self.groups.get_mut(&key) else {
            return;
        };
        if has {
            group.wave.passes(id, &name, serves);
            self.stage(id, Stage::Ordered);
            self.send(id, &Parent::None);
        } else {
            group.wave.wait(id, &name, serves, first);
            self.stage(id, Stage::Waiting);
        }
    }

    /// Lets pulls that were held back take the place of those of their node that are over; gives
    /// the waves that they are in.
    fn admit(&mut self, node: &str) -> Vec<WaveKey> {
        let mut touched = Vec::new();
        while let Some(mine) = self.by_node.get_mut(node)
            && mine.lined < LINED
            && let Some(id) = mine.held.pop_front()
        {
            if let Some(pull) = self.pulls.get(&id)
                && pull.stage == Stage::Held
            {
                touched.push((pull.region.clone(), pull.image.digest));
                self.line_up(&id, false);
            }
        }
        touched
    }

    /// What follows when pulls of `nodes` in the waves `touched` are over.
    fn go_on(&mut self, nodes: &BTreeSet<String>, mut touched: BTreeSet<WaveKey>) {
        for node in nodes {
            touched.extend(self.admit(node));
        }
        for key in &touched {
            self.pump(key);
        }
        for key in &touched {
            self.drop_empty(key);
        }
    }

    /// Gives out the orders of a wave that can go out, and those of others in its region when the
    /// registry has room again.
    fn pump(&mut self, key: &WaveKey) {
        let registry = self.registries.get(&key.0);
        if registry.is_some_and(Registry::freed) {
            let others = self.groups.iter();
            let others = others.filter(|(other, group)| other.0 == key.0 && group.wave.waits());
            let others: Vec<WaveKey> = others.map(|(other, _)| other.clone()).collect();
            // This one comes last, so that one wave does not take all the room that there ever is.
            let after = others.partition_point(|other| other <= key);
            for other in others[after..].iter().chain(&others[..after]) {
                self.order(other);
            }
        }
        self.order(key);
    }

    fn order(&mut self, key: &WaveKey) {
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
            self.stage(&id, Stage::Ordered);
            self.send(&id, &parent);
        }
    }

    /// Sends the order of a pull to its node. One that does not get through is sent again when the
    /// node connects.
    fn send(&mut self, id: &str, parent: &Parent) {
        let Some(pull) = self.pulls.get_mut(id) else {
            return;
        };
        let Ok(session) = self.nodes.session(&pull.node) else {
            return;
        };
        pull.told = true;
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
        let mut image = regions.image_ref(&pull.region, session.host(), &pull.image, peers);
        let wanted = pull
            .targets
            .first()
            .and_then(|(warm, _)| self.live.get(warm));
        image.traceparent = wanted.and_then(|live| live.header.traceparent.clone());
        session.send(&Order::Warm {
            id: id.to_owned(),
            image,
            pin: pull.pin.then(|| WARM_PIN.to_owned()),
        });
    }

    /// Ends pulls without success.
    fn fail(&mut self, ids: &[String], error: &Problem) {
        let (mut nodes, mut touched) = (BTreeSet::new(), BTreeSet::new());
        for id in ids {
            let Some((key, pull)) = self.take(id) else {
                continue;
            };
            if let Some(group) = self.groups.get_mut(&key) {
                group.wave.gone(id, &pull.node);
            }
            for (warm, at) in pull.targets {
                self.change(&warm, at, |stored| stored.fail(error));
            }
            touched.insert(key);
            nodes.insert(pull.node);
        }
        self.go_on(&nodes, touched);
    }

    /// Takes a pull out of the lists, but not out of its wave.
    fn take(&mut self, id: &str) -> Option<(WaveKey, Pull)> {
        let pull = self.pulls.remove(id)?;
        let place = (pull.node.clone(), pull.image.digest, pull.pin);
        self.by_place.remove(&place);
        if let Some(mine) = self.by_node.get_mut(&pull.node) {
            mine.pulls.remove(id);
            mine.lined -= usize::from(pull.stage.is_lined());
            if mine.pulls.is_empty() {
                self.by_node.remove(&pull.node);
            }
        }
        let key = (pull.region.clone(), pull.image.digest);
        if let Some(group) = self.groups.get_mut(&key) {
            group.pulls -= 1;
        }
        Some((key, pull))
    }

    /// Forgets a wave that is over. Pulls of nodes that are away are in no line, but their copy
    /// need not be made twice.
    fn drop_empty(&mut self, key: &WaveKey) {
        let over = |group: &Group| group.pulls == 0 && !group.copying;
        if self.groups.get(key).is_some_and(over) {
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
            self.metrics.ended(live.header.status);
            let shown = Box::new(live.header.shown(&live.targets));
            live.log
                .add(About::End, WarmEventKind::Finished { warm: shown });
            self.ended.push(warm.to_owned());
        }
    }

    pub(in crate::warms) fn shown(&self, warm: &str) -> Option<Warm> {
        let live = self.live.get(warm)?;
        Some(live.header.shown(&live.targets))
    }

    /// Changes since the last call, for the ledger, and the warms that they are of.
    pub(in crate::warms) fn changes(&mut self) -> (Changes, Vec<String>) {
        let (mut changes, mut written) = (Changes::new(), Vec::new());
        for (id, live) in &mut self.live {
            let ended = self.ended.contains(id);
            let stale = std::mem::take(&mut live.stale);
            if live.dirty.is_empty() && !ended && !stale {
                continue;
            }
            for at in std::mem::take(&mut live.dirty) {
                changes = changes.put(Table::Targets, &key(id, at), &live.targets[at]);
            }
            live.header.spent = live.began.elapsed().as_secs_f64();
            live.header.last_event = live.log.last();
            changes = changes.put(Table::Warms, id, &live.header);
            written.push(id.clone());
        }
        (changes, written)
    }

    /// Has the headers of the warms that run written with the next changes: what a warm has spent
    /// of its time is known to nobody else.
    pub(in crate::warms) fn touch(&mut self) {
        let running = self.live.values_mut();
        for live in running.filter(|live| live.header.status == WarmStatus::Running) {
            live.stale = true;
        }
    }

    /// Has warms written once more, whose changes were not kept.
    pub(in crate::warms) fn write_again(&mut self, written: &[String], ended: Vec<String>) {
        for id in written {
            if let Some(live) = self.live.get_mut(id) {
                live.stale = true;
                live.dirty.extend(0..live.targets.len());
            }
        }
        self.ended.extend(ended);
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
