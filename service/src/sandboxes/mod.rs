//! Sandboxes: where they run, what became of them, and the way to their processes.
//!
//! A sandbox lives on its node; the service places it, keeps its record, and passes on what clients
//! want of it. What a node reports wins over what is written here: one that was lost and comes back
//! brings its sandboxes back with it.

mod check;
mod files;
mod names;
mod output;
mod relay;
mod streams;
mod tickets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::agent::{Ask, Order, SandboxReport};
use chalk_core::wire::{DEFAULT_PROJECT, Problem, Sandbox, SandboxRequest, SandboxState, problem};
use chalk_watch::traces;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ids::Ids;
use crate::ledger::{Changes, Ledger, LedgerError, Table};
use crate::metrics::{SandboxMetrics, sandbox_word};
use crate::nodes::{Connected, Nodes, Selection, not_kept, session};
use crate::projects::Scope;
use crate::regions::{ImageAt, Regions};
use crate::settings;
pub(crate) use check::missing;
pub(crate) use files::{FileError, Transfers};
pub(crate) use output::{Output, Wanted};
pub(crate) use streams::{Event, Streams};

/// How long a node may take for a small thing.
const ASK: Duration = Duration::from_secs(30);
/// Nodes with the image that an order names.
const PEERS: usize = 4;
/// Least time that a client of a new sandbox has to follow it.
const FIRST_FOLLOW: Duration = Duration::from_secs(10);
/// Time between two looks for sandboxes whose nodes are lost.
const TICK: Duration = Duration::from_millis(500);
/// How often is looked whether all sandboxes have ended.
const IDLE_POLL: Duration = Duration::from_millis(20);

/// What is kept of a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    sandbox: Sandbox,
    /// Absent for sandboxes of before there were projects.
    #[serde(default)]
    project: Option<String>,
    #[serde(default)]
    stop_on_disconnect: bool,
}

/// A sandbox.
#[derive(Debug)]
struct Entry {
    stored: Stored,
    /// Whether its node was told of it.
    ordered: bool,
    followers: usize,
    /// Grows with each client that begins to follow it.
    epoch: u64,
    /// Told of each change.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    living: BTreeSet<String>,
}

/// All sandboxes.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    ledger: Arc<Ledger>,
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    settings: settings::Sandboxes,
    ids: Ids,
    streams: Streams,
    transfers: Transfers,
    metrics: SandboxMetrics,
    state: Mutex<State>,
}

impl Entry {
    fn new(stored: Stored, ordered: bool) -> Self {
        Self {
            stored,
            ordered,
            followers: 0,
            epoch: 0,
            changed: watch::channel(0).0,
        }
    }

    fn sandbox(&self) -> &Sandbox {
        &self.stored.sandbox
    }

    fn project(&self) -> &str {
        self.stored.project.as_deref().unwrap_or(DEFAULT_PROJECT)
    }

    fn is_over(&self) -> bool {
        self.sandbox().state.is_final()
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }
}

fn not_running(sandbox: &Sandbox) -> Problem {
    Problem {
        kind: problem::NOT_RUNNING.to_owned(),
        title: "the sandbox does not run".to_owned(),
        status: 409,
        detail: format!("sandbox `{}` has ended", sandbox.id),
        hint: String::new(),
    }
}

impl Sandboxes {
    /// Sandboxes of an earlier service. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(
        ledger: Arc<Ledger>,
        nodes: Arc<Nodes>,
        regions: Arc<Regions>,
        settings: settings::Sandboxes,
    ) -> Result<Self, LedgerError> {
        let mut state = State::default();
        let ids = Ids::default();
        for (id, stored) in ledger.all::<Stored>(Table::Sandboxes, "")? {
            ids.follow(&id);
            // Whether the node was told is not known: it says so itself when it connects.
            let entry = Entry::new(stored, true);
            if !entry.is_over() {
                state.living.insert(id.clone());
            }
            state.entries.insert(id, entry);
        }
        Ok(Self {
            ledger,
            nodes,
            regions,
            settings,
            ids,
            streams: Streams::default(),
            transfers: Transfers::default(),
            metrics: SandboxMetrics::default(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Streams of output that nodes are to open.
    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Starts a sandbox of a project, whose mounts must be in the store.
    ///
    /// # Errors
    /// When the request is wrong, no node can take it, or the ledger fails.
    pub(crate) async fn start(
        self: &Arc<Self>,
        project: &Arc<str>,
        request: SandboxRequest,
        image: ImageAt,
    ) -> Result<Sandbox, Problem> {
        check::check(&request)?;
        let (node, warm) = self.place(&request, &image.digest)?;
        let sandbox = Sandbox {
            id: self.ids.next(),
            name: request.name.clone(),
            tags: request.tags.clone(),
            state: SandboxState::Starting,
            node: node.name.to_string(),
            region: node.region.clone(),
            image: image.name.clone(),
            image_hash: image.hash,
            args: request.args.clone(),
            tty: request.tty.is_some(),
            warm,
            created: jiff::Timestamp::now().to_string(),
            started: None,
            finished: None,
            exit_code: None,
            ended_by: None,
            error: None,
            warnings: Vec::new(),
        };
        let stored = Stored {
            sandbox: sandbox.clone(),
            project: Some(project.to_string()),
            stop_on_disconnect: request.stop_on_disconnect,
        };
        let (id, watched) = (sandbox.id.clone(), request.stop_on_disconnect);
        // The disk and the node work at the same time: a sandbox that a node has and nobody wrote
        // down is removed when that node connects again.
        let kept = {
            let mut state = self.state();
            names::free(&state, project, request.name.as_deref())?;
            let changes = Changes::new().put(Table::Sandboxes, &id, &stored);
            state.living.insert(id.clone());
            state.entries.insert(id.clone(), Entry::new(stored, false));
            self.ledger.begin(changes)
        };
        self.nodes.placed(&node.name);
        if self.regions.has_own(&node.region) && !warm {
            let (this, id) = (self.clone(), id.clone());
            tokio::spawn(async move {
                match this.regions.ensure(&node.region, &image).await {
                    Ok(()) => this.order(&id, &image, request),
                    Err(error) => this.fail(&id, &error),
                }
            });
        } else {
            self.order(&id, &image, request);
        }
        if let Err(error) = kept.await {
            let problem = not_kept(&error);
            self.fail(&id, &problem);
            return Err(problem);
        }
        if watched {
            let patience = self.settings.disconnect_grace.max(FIRST_FOLLOW);
            self.watch_left(&id, patience);
        }
        self.get(&id)
    }

    /// The node for a sandbox, and whether it has the image: one that has it where there is one,
    /// and of those the one with the fewest sandboxes.
    fn place(
        &self,
        request: &SandboxRequest,
        digest: &Digest,
    ) -> Result<(Connected, bool), Problem> {
        let nodes: Vec<String> = request.node.iter().cloned().collect();
        let takers = self.nodes.takers(Selection {
            nodes: &nodes,
            labels: &request.labels,
            region: request.region.as_deref(),
        })?;
        let weighed = takers.into_iter().map(|node| {
            let cold = !self.nodes.has(&node.name, digest);
            (cold, node.sandboxes, node)
        });
        let best = weighed.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let (cold, _, node) = best.ok_or_else(|| session::lost("any", "is not connected"))?;
        Ok((node, !cold))
    }

    /// Tells the node of a sandbox.
    fn order(self: &Arc<Self>, id: &str, image: &ImageAt, request: SandboxRequest) {
        let (node, region) = {
            let mut state = self.state();
            let Some(entry) = state.entries.get_mut(id).filter(|entry| !entry.is_over()) else {
                return;
            };
            entry.ordered = true;
            let sandbox = entry.sandbox();
            (sandbox.node.clone(), sandbox.region.clone())
        };
        let session = match self.nodes.session(&node) {
            Ok(session) => session,
            Err(error) => return self.fail(id, &error),
        };
        let warm = self.nodes.warm(&image.digest);
        let near = warm
            .iter()
            .filter(|n| n.region == region && *n.name != *node);
        let peers = near.filter_map(|n| n.mirror.clone()).take(PEERS);
        let mut image = self
            .regions
            .image_ref(&region, session.host(), image, peers.collect());
        image.traceparent = traces::traceparent();
        let order = Order::StartSandbox {
            id: id.to_owned(),
            image,
            request: Box::new(request),
        };
        if !session.send(&order) {
            return self.fail(id, &session::lost(&node, "went away"));
        }
        if let Some(entry) = self.state().entries.get(id) {
            entry.tell();
        }
    }

    /// Ends a sandbox that could not be started.
    fn fail(&self, id: &str, error: &Problem) {
        self.change(id, |sandbox| {
            sandbox.state = SandboxState::Failed;
            sandbox.finished = Some(jiff::Timestamp::now().to_string());
            sandbox.error = Some(error.clone());
        });
    }

    /// Changes the record of a sandbox, and has its end written down.
    fn change(&self, id: &str, change: impl FnOnce(&mut Sandbox)) {
        let mut state = self.state();
        let State { entries, living } = &mut *state;
        let Some(entry) = entries.get_mut(id) else {
            return;
        };
        let was_over = entry.is_over();
        change(&mut entry.stored.sandbox);
        entry.tell();
        if entry.is_over() {
            if !was_over {
                self.metrics.ended(entry.sandbox().state);
            }
            let changes = Changes::new().put(Table::Sandboxes, id, &entry.stored);
            self.ledger.later(changes);
            living.remove(id);
            self.prune(&mut state);
        } else {
            living.insert(id.to_owned());
        }
    }

    /// Forgets the oldest ended sandboxes beyond what is kept, here and on their nodes.
    fn prune(&self, state: &mut State) {
        let over = state.entries.len() - state.living.len();
        let too_many = over.saturating_sub(self.settings.keep);
        let ended = state.entries.iter().filter(|(_, entry)| entry.is_over());
        let old: Vec<String> = ended.take(too_many).map(|(id, _)| id.clone()).collect();
        let mut changes = Changes::new();
        for id in old {
            changes = changes.remove(Table::Sandboxes, &id);
            if let Some(entry) = state.entries.remove(&id) {
                self.forget_there(&entry.sandbox().node, id);
            }
        }
        self.ledger.later(changes);
    }

    /// Has a node forget a sandbox, if it is there to be told.
    fn forget_there(&self, node: &str, sandbox: String) {
        if let Ok(session) = self.nodes.session(node) {
            tokio::spawn(async move {
                let _ = session.ask(Ask::Remove { sandbox }, ASK).await;
            });
        }
    }

    /// Whole identifier of a sandbox that is seen, by a unique prefix of it or by name.
    ///
    /// # Errors
    /// When none or several of those fit.
    pub(crate) fn seen(&self, scope: &Scope, prefix: &str) -> Result<String, Problem> {
        self.find_of(scope.only(), prefix)
    }

    /// A sandbox, by a unique prefix of its identifier.
    ///
    /// # Errors
    /// When none or several fit.
    pub(crate) fn get(&self, prefix: &str) -> Result<Sandbox, Problem> {
        let id = self.find(prefix)?;
        let state = self.state();
        let entry = state.entries.get(&id);
        let sandbox = entry.map(|entry| entry.sandbox().clone());
        drop(state);
        sandbox.map_or_else(|| self.find(prefix).and_then(|id| self.get(&id)), Ok)
    }

    /// Sandboxes that are seen, newest first: living ones or all, of a node, of an image.
    pub(crate) fn list(
        &self,
        scope: &Scope,
        all: bool,
        node: Option<&str>,
        image: impl Fn(&Sandbox) -> bool,
    ) -> Vec<Sandbox> {
        let state = self.state();
        let seen = state.entries.values().rev();
        let seen = seen.filter(|entry| scope.sees(entry.project()));
        let sandboxes = seen.map(Entry::sandbox);
        let wanted = |sandbox: &&Sandbox| {
            (all || !sandbox.state.is_final())
                && node.is_none_or(|node| node == sandbox.node)
                && image(sandbox)
        };
        sandboxes.filter(wanted).cloned().collect()
    }

    /// How many sandboxes are in each state in which they live.
    pub(crate) fn by_state(&self) -> [(&'static str, usize); 2] {
        let living = self.living();
        let of = |wanted: SandboxState| {
            let count = living.iter().filter(|sandbox| sandbox.state == wanted);
            (sandbox_word(wanted), count.count())
        };
        [of(SandboxState::Starting), of(SandboxState::Running)]
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &SandboxMetrics {
        &self.metrics
    }

    /// Living sandboxes of all projects.
    pub(crate) fn living(&self) -> Vec<Sandbox> {
        let state = self.state();
        let living = state.living.iter().filter_map(|id| state.entries.get(id));
        living.map(|entry| entry.sandbox().clone()).collect()
    }

    /// Sandboxes that live on a node, as far as is known.
    pub(crate) fn living_on(&self, node: &str) -> Vec<String> {
        let state = self.state();
        let living = state.living.iter().filter(|id| {
            let entry = state.entries.get(*id);
            entry.is_some_and(|entry| entry.ordered && entry.sandbox().node == node)
        });
        living.cloned().collect()
    }

    /// A node is connected, and says which sandboxes it knows (their states it reports
    /// afterwards); `believed` are those that were thought to live there before it said so.
    pub(crate) fn up(&self, node: &str, there: &[String], believed: Vec<String>) {
        let there: BTreeSet<&String> = there.iter().collect();
        for id in &there {
            let known = self.state().entries.contains_key(*id);
            if !known {
                self.forget_there(node, (*id).clone());
            }
        }
        for id in believed {
            if !there.contains(&id) {
                self.lose(&id, &format!("node `{node}` knows nothing of it any more"));
            }
        }
    }

    /// A node reports of a sandbox.
    pub(crate) fn report(&self, node: &str, report: &SandboxReport) {
        let ours = {
            let state = self.state();
            let entry = state.entries.get(&report.id);
            entry.is_some_and(|entry| entry.sandbox().node == node)
        };
        if ours {
            self.change(&report.id, |sandbox| report.apply(sandbox));
        }
    }

    fn lose(&self, id: &str, why: &str) {
        let error = Problem {
            kind: problem::NODE_LOST.to_owned(),
            title: "the sandbox was lost".to_owned(),
            status: 503,
            detail: why.to_owned(),
            hint: "start it again".to_owned(),
        };
        self.change(id, |sandbox| {
            sandbox.state = SandboxState::Lost;
            sandbox.finished = Some(jiff::Timestamp::now().to_string());
            sandbox.error = Some(error);
        });
    }

    /// A node was removed.
    pub(crate) fn removed(&self, node: &str) {
        for id in self.living_on(node) {
            self.lose(&id, &format!("node `{node}` was removed"));
        }
    }

    /// Watches for lost nodes, until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let watched: Vec<String> = {
            let state = self.state();
            let living = state.living.iter().filter(|id| {
                let entry = state.entries.get(*id);
                entry.is_some_and(|entry| entry.stored.stop_on_disconnect)
            });
            living.cloned().collect()
        };
        // Clients of an earlier service come back, or do not.
        for id in watched {
            self.watch_left(&id, self.settings.disconnect_grace.max(FIRST_FOLLOW));
        }
        let patience = self.nodes.lost_after();
        let pause = TICK.min(patience / 4).max(Duration::from_millis(20));
        loop {
            let living: Vec<(String, String)> = {
                let state = self.state();
                let node = |id: &String| {
                    let entry = state.entries.get(id)?;
                    Some((id.clone(), entry.sandbox().node.clone()))
                };
                state.living.iter().filter_map(node).collect()
            };
            for (id, node) in living {
                if self.nodes.is_lost(&node, patience) {
                    self.lose(
                        &id,
                        &format!("node `{node}` is not connected for {patience:?}"),
                    );
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until no sandbox lives.
    pub(crate) async fn idle(&self) {
        while !self.state().living.is_empty() {
            tokio::time::sleep(IDLE_POLL).await;
        }
    }
}
