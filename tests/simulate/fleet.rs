//! Nodes: the real agent of a node over a simulated cache and simulated sandboxes. They join, go
//! away for a while, and come back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chalk_node::agent::{Agent, AgentState, Line};
use chalk_node::{Join, NodeSettings};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::{Link, SimulatedImages};
use crate::catalogue::{Catalogue, Made};
use crate::chance;
use crate::engine::Pace;
use crate::sandboxes::SimulatedSandboxes;
use crate::specs;

/// Regions with their short names and how many of a hundred nodes they have.
const REGIONS: [(&str, &str, u32); 6] = [
    ("us-east", "use", 32),
    ("eu-central", "euc", 24),
    ("us-west", "usw", 16),
    ("eu-west", "euw", 12),
    ("ap-northeast", "apn", 10),
    ("ap-south", "aps", 6),
];
/// The region of the service.
pub(crate) const HOME: &str = "eu-central";
/// Nodes that join at once.
const JOINING: usize = 16;
/// Images that most nodes have, out of all.
const POPULAR: usize = 60;
/// Mean time between two absences of a node, and bounds of how long one lasts, in seconds.
const PRESENCE: f64 = 6000.0;
const ABSENCE: (f64, f64) = (8.0, 120.0);

/// The region of the node of that name.
pub(crate) fn region_of(node: &str) -> Option<&'static str> {
    let short = node.split('-').next()?;
    let region = REGIONS.iter().find(|(_, other, _)| *other == short)?;
    Some(region.0)
}

/// What all nodes share.
pub(crate) struct Fleet {
    pub(crate) seed: u64,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) server: String,
    pub(crate) token: String,
    /// Where their credentials are kept.
    pub(crate) dir: PathBuf,
    /// `host:port` of the registry.
    pub(crate) registry: String,
}

/// A node.
pub(crate) struct SimulatedNode {
    /// Its name.
    pub(crate) name: String,
    images: Arc<SimulatedImages>,
    sandboxes: Arc<SimulatedSandboxes>,
    settings: NodeSettings,
    rng: StdRng,
}

impl Fleet {
    /// So many nodes, each with something in its cache.
    pub(crate) fn nodes(&self, count: u32) -> Vec<SimulatedNode> {
        // An order of its own for each region, the same on all its nodes: what is popular in one
        // is not in another.
        let all = self.catalogue.all();
        let orders: Vec<Vec<Made>> = REGIONS
            .iter()
            .map(|(region, ..)| {
                let mut order = all.clone();
                let mut rng = chance::of(self.seed, format_args!("popular in {region}"));
                order.shuffle(&mut rng);
                order
            })
            .collect();
        (0..count)
            .map(|number| self.node(number, &orders))
            .collect()
    }

    fn node(&self, number: u32, orders: &[Vec<Made>]) -> SimulatedNode {
        let mut rng = chance::of(self.seed, format_args!("node {number}"));
        let mut lot = rng.random_range(0..100);
        let mut region = 0;
        while lot >= REGIONS[region].2 {
            lot -= REGIONS[region].2;
            region += 1;
        }
        let (region, short, order) = (REGIONS[region].0, REGIONS[region].1, &orders[region]);
        let pool = *chance::one(&mut rng, &[&"gpu", &"gpu", &"cpu", &"cpu", &"cpu", &"spot"]);
        let name = format!("{short}-{pool}-{number:04}");
        let mut labels = BTreeMap::from([
            ("pool", pool),
            ("zone", *chance::one(&mut rng, &[&"a", &"b", &"c"])),
            ("disk", if rng.random_bool(0.8) { "nvme" } else { "ssd" }),
        ]);
        if pool == "gpu" {
            labels.insert("gpu", chance::one(&mut rng, &["h100", "a100", "l4"]));
        }
        let (link, limit) = (
            link(&mut rng),
            *chance::one(&mut rng, &[&200, &400, &400, &800, &1600]),
        );
        let images = SimulatedImages::new(
            self.catalogue.clone(),
            self.pace.clone(),
            &self.registry,
            link,
            limit << 30,
        );
        let most = order.len().min(220);
        let wanted = rng.random_range(most / 5..=most);
        // The popular ones, and some of the long tail.
        let mut chosen: Vec<Made> = order.iter().take(POPULAR).cloned().collect();
        chosen.shuffle(&mut rng);
        chosen.truncate(wanted.div_ceil(2));
        for _ in 0..wanted / 2 {
            let at = (order.len() as f64 * rng.random_range(0.0..1.0f64).powi(3)) as usize;
            let made = &order[at];
            if chosen.iter().all(|other| other.hash != made.hash) {
                chosen.push(made.clone());
            }
        }
        let share = rng.random_range(0.2..0.97);
        images.fill(&chosen, share, &mut rng);
        for reference in specs::PREWARMED {
            // Some have yet to fetch one.
            if let Some(base) = self.catalogue.base(reference)
                && rng.random_bool(0.97)
            {
                images.keep_ready(&base, reference);
            }
        }
        let images = Arc::new(images);
        let dir = self.dir.join(&name);
        let mut settings =
            NodeSettings::new(&self.server, Join::Token(self.token.clone()), &name, dir);
        settings.region = Some(region.to_owned());
        let labels = labels.into_iter();
        settings.labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        SimulatedNode {
            name,
            sandboxes: Arc::new(SimulatedSandboxes::new(images.clone(), self.pace.clone())),
            images,
            settings,
            rng,
        }
    }
}

fn link(rng: &mut StdRng) -> Link {
    Link {
        speed: chance::spread(rng, 4e7, 6e8),
        breaks: if rng.random_bool(0.1) { 0.5 } else { 0.03 },
        full: rng.random_bool(0.004),
    }
}

/// Lets all nodes live until they are stopped; done when all have joined once.
///
/// # Errors
/// When the directory of a node cannot be made.
pub(crate) async fn run(
    nodes: Vec<SimulatedNode>,
    stop: &CancellationToken,
) -> std::io::Result<Vec<Arc<SimulatedImages>>> {
    let gate = Arc::new(Semaphore::new(JOINING));
    let (joined, mut left) = watch::channel(nodes.len());
    let mut caches = Vec::new();
    for node in nodes {
        std::fs::create_dir_all(&node.settings.dir)?;
        caches.push(node.images.clone());
        tokio::spawn(live(node, gate.clone(), joined.clone(), stop.clone()));
    }
    drop(joined);
    tokio::select! {
        _ = left.wait_for(|left| *left == 0) => {}
        () = stop.cancelled() => {}
    }
    Ok(caches)
}

/// Waits until a node is connected, or has ended.
async fn connected(state: &mut watch::Receiver<AgentState>) {
    let settled =
        |state: &AgentState| matches!(state, AgentState::Connected { .. } | AgentState::Ended);
    // An error means that it is gone.
    let _ = state.wait_for(settled).await;
}

/// Waits until a node has ended.
async fn ended(state: &mut watch::Receiver<AgentState>) {
    let _ = state.wait_for(|state| *state == AgentState::Ended).await;
}

async fn live(
    mut node: SimulatedNode,
    gate: Arc<Semaphore>,
    joined: watch::Sender<usize>,
    stop: CancellationToken,
) {
    let mut first = gate.acquire_owned().await.ok();
    loop {
        let session = stop.child_token();
        let agent = Agent::new(
            node.settings.clone(),
            Some(format!("http://{}.example:7475", node.name)),
            node.images.clone(),
            node.sandboxes.clone(),
            watch::Sender::new(None),
            Line::default(),
        );
        let mut state = agent.state();
        let running = tokio::spawn(agent.run(session.clone()));
        connected(&mut state).await;
        if first.take().is_some() {
            joined.send_modify(|left| *left -= 1);
        }
        let present = -PRESENCE * node.rng.random_range(1e-6..1.0f64).ln();
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(present)) => {}
            () = stop.cancelled() => {}
            // It was removed, or cannot join.
            () = ended(&mut state) => return,
        }
        session.cancel();
        let _ = running.await;
        if stop.is_cancelled() {
            return;
        }
        let absent = node.rng.random_range(ABSENCE.0..ABSENCE.1);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(absent)) => {}
            () = stop.cancelled() => return,
        }
    }
}
