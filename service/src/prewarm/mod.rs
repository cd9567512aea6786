//! Base images that every node keeps ready.
//!
//! Each image of the list is looked up now and then, as what was imported under its reference or at
//! its own registry; brought into the home registry and those of regions with nodes; and ordered to
//! every node, which pins it; nodes of a region take turns with what they lack. When a tag moves, the
//! order names the new image instead. What cannot be had is said in the list, and tried again later
//! and later.

mod fetch;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::wire::agent::Order;
use chalk_core::wire::{Prewarm, PrewarmState, Problem, problem};
use chalk_core::{Digest, Reference};
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ledger::{Changes, Ledger, LedgerError, Table};
use crate::nodes::{Connected, Nodes, not_kept};
use crate::regions::{ImageAt, Regions};
use crate::settings;
pub(crate) use fetch::Fetch;
use turns::Turns;

/// Most images of the list.
const IMAGES: usize = 100;
/// Pause between the first node and the first look, so that short-lived services fetch nothing.
const FIRST: Duration = Duration::from_secs(5);
/// Pause before the first further try of an image that cannot be had, at most.
const RETRY: Duration = Duration::from_secs(30);
/// Nodes with the image that an order names.
const PEERS: usize = 4;
/// Time between two looks for nodes that wait for their turn.
const TURN: Duration = Duration::from_secs(30);
/// Longest pause between tries of an image that cannot be had.
const RETRY_LIMIT: Duration = Duration::from_secs(3600);

/// What an image of the list means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    digest: Digest,
    /// Where it is in the home registry.
    repository: String,
    /// Regions with a registry of their own that have it.
    #[serde(default)]
    regions: BTreeSet<String>,
}

/// An image of the list.
#[derive(Debug, Default)]
struct Entry {
    found: Option<Found>,
    checked: Option<String>,
    error: Option<String>,
    failures: u32,
    due: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    images: Vec<String>,
    entries: BTreeMap<String, Entry>,
}

/// The list, and what became of it.
#[derive(Debug)]
pub(crate) struct Prewarms {
    ledger: Arc<Ledger>,
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    fetch: Fetch,
    interval: Duration,
    state: Mutex<State>,
    turns: Mutex<Turns>,
    wake: Notify,
}

impl Prewarms {
    /// The list of an earlier service, or that of the settings; `direct` nodes of a region fetch an
    /// image from its registry at once. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(
        ledger: Arc<Ledger>,
        nodes: Arc<Nodes>,
        regions: Arc<Regions>,
        fetch: Fetch,
        settings: &settings::Prewarm,
        direct: usize,
    ) -> Result<Self, LedgerError> {
        let images: Option<Vec<String>> = ledger.get(Table::Meta, "prewarm")?;
        let found: Option<BTreeMap<String, Found>> = ledger.get(Table::Meta, "prewarm_found")?;
        let entries = found.unwrap_or_default().into_iter().map(|(image, found)| {
            let entry = Entry {
                found: Some(found),
                ..Entry::default()
            };
            (image, entry)
        });
        let mut state = State {
            images: images.unwrap_or_else(|| settings.images.clone()),
            entries: entries.collect(),
        };
        state.tidy();
        Ok(Self {
            ledger,
            nodes,
            regions,
            fetch,
            interval: settings.interval,
            state: Mutex::new(state),
            turns: Mutex::new(Turns::new(direct)),
            wake: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list, with what became of each image.
    pub(crate) fn get(&self) -> Prewarm {
        let state = self.state();
        let shown = |image: &String| {
            let entry = state.entries.get(image);
            let digest = entry.and_then(|e| e.found.as_ref()).map(|f| f.digest);
            PrewarmState {
                image: image.clone(),
                digest,
                checked: entry.and_then(|e| e.checked.clone()),
                nodes_ready: digest.map_or(0, |digest| self.nodes.warm(&digest).len()),
                error: entry.and_then(|e| e.error.clone()),
            }
        };
        Prewarm {
            images: state.images.clone(),
            states: state.images.iter().map(shown).collect(),
        }
    }

    /// Sets the list.
    ///
    /// # Errors
    /// When a text is no reference, or the ledger fails.
    pub(crate) async fn set(&self, images: Vec<String>) -> Result<Prewarm, Problem> {
        let wrong = |detail: String| Problem {
            kind: problem::BAD_REQUEST.to_owned(),
            title: "the request is wrong".to_owned(),
            status: 400,
            detail,
            hint: String::new(),
        };
        if images.len() > IMAGES {
            return Err(wrong(format!("images: more than {IMAGES}")));
        }
        for image in &images {
            if let Err(error) = image.parse::<Reference>() {
                return Err(wrong(format!("images: {error}")));
            }
        }
        let mut seen = BTreeSet::new();
        let images = images
            .into_iter()
            .filter(|image| seen.insert(image.clone()));
        let images: Vec<String> = images.collect();
        let changes = Changes::new().put(Table::Meta, "prewarm", &images);
        self.ledger
            .commit(changes)
            .await
            .map_err(|e| not_kept(&e))?;
        {
            let mut state = self.state();
            state.images = images;
            for entry in state.entries.values_mut() {
                entry.due = None;
            }
            state.tidy();
        }
        self.tell_all();
        self.wake.notify_one();
        Ok(self.get())
    }

    /// A node is connected: it gets the list.
    pub(crate) fn up(&self, node: &str) {
        if let Some(node) = self.nodes.connected(node) {
            self.tell(&node);
        }
        self.wake.notify_one();
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node says which images it has: others may fetch those now.
    pub(crate) fn cached(&self, node: &str, images: impl Iterator<Item = Digest>) {
        let next = {
            let mut turns = self.turns();
            let next: BTreeSet<_> = images
                .flat_map(|image| turns.over(node, Some(&image)))
                .collect();
            next
        };
        self.tell_some(next);
    }

    /// A node is not connected any more.
    pub(crate) fn down(&self, node: &str) {
        let next = self.turns().over(node, None);
        self.tell_some(next);
    }

    fn tell_some(&self, nodes: impl IntoIterator<Item = Arc<str>>) {
        for node in nodes {
            if let Some(node) = self.nodes.connected(&node) {
                self.tell(&node);
            }
        }
    }

    /// Sends a node the images that its region's registry has: those that it has itself, and those
    /// that it may fetch now.
    fn tell(&self, node: &Connected) {
        let Ok(session) = self.nodes.session(&node.name) else {
            return;
        };
        let own = self.regions.has_own(&node.region);
        let state = self.state();
        let mut turns = self.turns();
        let images = state.images.iter().filter_map(|name| {
            let found = state.entries.get(name)?.found.as_ref()?;
            if own && !found.regions.contains(&node.region) {
                return None;
            }
            let mut peers = Vec::new();
            if !self.nodes.has(&node.name, &found.digest) {
                let near = self.nodes.serving(&node.region, &found.digest);
                peers = near.into_iter().filter_map(|other| other.mirror).collect();
                if !turns.may(&node.region, &found.digest, &node.name, peers.len()) {
                    return None;
                }
                // Not all of them the same ones.
                peers.shuffle(&mut rand::rng());
                peers.truncate(PEERS);
            }
            let image = found.image(name);
            let regions = &self.regions;
            Some(regions.image_ref(&node.region, session.host(), &image, peers))
        });
        let images = images.collect();
        session.send(&Order::Prewarm { images });
    }

    fn tell_all(&self) {
        {
            let state = self.state();
            let found = state.entries.values().filter_map(|e| e.found.as_ref());
            let wanted: BTreeSet<Digest> = found.map(|found| found.digest).collect();
            self.turns().keep(|image| wanted.contains(image));
        }
        for node in self.nodes.all_connected() {
            self.tell(&node);
        }
    }

    /// Looks for what is due, until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut begun, mut looked) = (false, Instant::now());
        loop {
            let nodes = self.nodes.all_connected();
            if nodes.is_empty() {
                self.wake.notified().await;
                continue;
            }
            if !begun {
                begun = true;
                tokio::time::sleep(FIRST.min(self.interval)).await;
                continue;
            }
            let regions: BTreeSet<String> = nodes
                .into_iter()
                .map(|node| node.region)
                .filter(|region| self.regions.has_own(region))
                .collect();
            let (due, next) = self.state().due(&regions);
            let mut changed = false;
            for image in due {
                changed |= self.look(&image, &regions).await;
            }
            if changed {
                self.save();
                self.tell_all();
                continue;
            }
            // Those whose turn came because another's was over without the image.
            let mut waiting = BTreeSet::new();
            if looked.elapsed() >= TURN {
                looked = Instant::now();
                waiting = self.turns().waiting();
            }
            self.tell_some(waiting);
            let next = next.unwrap_or(self.interval).min(self.interval).min(TURN);
            tokio::select! {
                () = tokio::time::sleep(next.max(Duration::from_millis(20))) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Looks for an image; gives whether nodes must hear of it.
    async fn look(&self, image: &str, regions: &BTreeSet<String>) -> bool {
        let before = {
            let state = self.state();
            state.entries.get(image).and_then(|e| e.found.clone())
        };
        let (found, mut error) = match self.fetch.find(image).await {
            Ok((digest, repository)) => {
                let mut found = Found {
                    digest,
                    repository,
                    regions: BTreeSet::new(),
                };
                if let Some(before) = before.as_ref().filter(|b| b.digest == digest) {
                    found.regions.clone_from(&before.regions);
                }
                (Some(found), None)
            }
            Err(error) => (before.clone(), Some(error)),
        };
        let mut found = found;
        if let Some(found) = &mut found {
            let at = found.image(image);
            for region in regions {
                match self.regions.ensure(region, &at).await {
                    Ok(()) => {
                        found.regions.insert(region.clone());
                    }
                    Err(problem) => {
                        found.regions.remove(region);
                        error = Some(format!("region `{region}`: {}", problem.detail));
                    }
                }
            }
        }
        if let Some(why) = &error {
            tracing::debug!(image, why, "image is not pre-warmed");
        }
        let changed = found != before;
        let mut state = self.state();
        let entry = state.entries.entry(image.to_owned()).or_default();
        entry.found = found;
        entry.checked = Some(jiff::Timestamp::now().to_string());
        entry.failures = error
            .as_ref()
            .map_or(0, |_| entry.failures.saturating_add(1));
        entry.error = error;
        let pause = match entry.failures {
            0 => self.interval,
            n => {
                let first = RETRY.min(self.interval);
                let factor = 1_u32 << (n - 1).min(16);
                first.saturating_mul(factor).min(RETRY_LIMIT)
            }
        };
        entry.due = Some(Instant::now() + pause);
        state.tidy();
        changed
    }

    fn save(&self) {
        let state = self.state();
        let found = state.entries.iter().filter_map(|(image, entry)| {
            let found = entry.found.as_ref()?;
            Some((image, found))
        });
        let found: BTreeMap<&String, &Found> = found.collect();
        let changes = Changes::new().put(Table::Meta, "prewarm_found", &found);
        self.ledger.later(changes);
    }
}

impl Found {
    fn image(&self, name: &str) -> ImageAt {
        ImageAt {
            digest: self.digest,
            hash: None,
            repository: self.repository.clone(),
            name: name.to_owned(),
        }
    }
}

impl State {
    /// Forgets what is not on the list.
    fn tidy(&mut self) {
        let images = &self.images;
        self.entries.retain(|image, _| images.contains(image));
    }

    /// Images that are to be looked for now, and the time until the next one. An image that a
    /// region lacks whose first node just came is due unless it failed a moment ago.
    fn due(&self, regions: &BTreeSet<String>) -> (Vec<String>, Option<Duration>) {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut next: Option<Duration> = None;
        for image in &self.images {
            let entry = self.entries.get(image);
            let at = entry.and_then(|entry| entry.due);
            let lacks = entry.is_some_and(|entry| {
                let found = entry.found.as_ref();
                entry.failures == 0 && found.is_some_and(|f| !f.regions.is_superset(regions))
            });
            match at {
                Some(at) if at > now && !lacks => {
                    let left = at - now;
                    next = Some(next.map_or(left, |next| next.min(left)));
                }
                _ => due.push(image.clone()),
            }
        }
        (due, next)
    }
}
