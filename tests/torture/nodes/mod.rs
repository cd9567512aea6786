//! A node under torture: it dies while it joins, fetches, evicts and runs sandboxes.

mod orders;
mod plan;

pub(crate) use plan::NodePlan;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::check::{Violation, Wrong};
use crate::client::Client;
use crate::clients::{Shared, Worker};
use crate::disk::{self, Disk};
use crate::facts::{Facts, Thing};
use crate::leaks::{self, Places};
use crate::process::{Launch, NoStart, Process};
use crate::setting::Setting;
use crate::trial::Outcome;
use orders::{Images, NODE, Orders, until_done};
use plan::{IMAGES, Order};

/// Longest that a node may take to be ready, and what it was at to come to its end after it died.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(4);
/// How long a failpoint is waited for once all clients are done.
const LINGER: Duration = Duration::from_millis(150);

/// Runs a trial of a node.
pub(crate) async fn trial(setting: &Setting, number: usize, plan: &NodePlan) -> Outcome {
    let began = Instant::now();
    let folder = setting.folder.join(format!("node-{number}"));
    let disk = Disk::copy(&folder, &setting.template);
    let mut trial = Trial {
        launch: setting.launch(&disk, &format!("torture-{number}")),
        state: disk.path().join("node"),
        disk,
        plan,
        facts: Arc::default(),
        images: Arc::default(),
        violations: Vec::new(),
    };
    if let Err(error) = trial.run().await {
        trial.wrong(Wrong::Service, error);
    }
    let violations = std::mem::take(&mut trial.violations);
    Outcome::ours(&trial.launch, trial.facts.count(), violations, began)
}

struct Trial<'a> {
    plan: &'a NodePlan,
    launch: Launch,
    disk: Disk,
    /// State directory of the node.
    state: PathBuf,
    facts: Arc<Facts>,
    images: Images,
    violations: Vec<Violation>,
}

impl Trial<'_> {
    fn wrong(&mut self, wrong: Wrong, what: impl Into<String>) {
        let what = what.into();
        self.violations.push(Violation { wrong, what });
    }

    fn service(&self) -> Result<(Process, Client), String> {
        let started = self.launch.start(None).map_err(|why| match why {
            NoStart::Killed => "something killed the service".to_owned(),
            NoStart::Failed(why) => format!("the service does not start: {why}"),
        });
        let service = started?;
        let client = Client::new(&service.url, service.token.as_deref());
        Ok((service, client))
    }

    fn node(&self, service: &Process, point: Option<&(String, u64)>) -> Process {
        let mut settings = vec!["node.sandbox_disk=16MiB", "node.stop_timeout=2s"];
        if self.plan.directories {
            settings.push("node.cache_form=directory");
        }
        self.launch
            .node(service, &self.state, NODE, &settings, point)
    }

    fn orders(&self, client: &Client) -> Orders {
        let (facts, images) = (Arc::clone(&self.facts), Arc::clone(&self.images));
        Orders::new(client.clone(), facts, images, &self.launch.mark)
    }

    async fn run(&mut self) -> Result<(), String> {
        let (mut service, mut client) = self.service()?;
        self.build(&client).await?;
        let mut node = self.node(&service, self.plan.point.as_ref());
        let pid = node.pid();
        self.work(&client, &mut node).await;
        node.kill();
        if self.plan.power {
            service.kill();
            if let Err(error) = self.disk.lose_power_when_free() {
                self.wrong(Wrong::Leak, error);
                return Ok(());
            }
            disk::boot_anew(&self.launch.state.join("engine/layers"));
            disk::boot_anew(&self.state.join("node/cache"));
            (service, client) = self.service()?;
        }
        // What the dead one left in its directory is swept by its next start.
        self.leaks("a node died", [true, false], &[service.pid()], pid);
        let mut node = self.node(&service, None);
        self.ready(&client, &mut node).await?;
        let living = [service.pid(), node.pid()];
        self.leaks("a node started anew", [false, true], &living, pid);
        self.aftermath(&client).await;
        let dead = node.pid();
        if let Err(error) = node.stop() {
            self.wrong(Wrong::Service, format!("the node: {error}"));
        }
        self.leaks("a polite stop", [true, true], &[service.pid()], dead);
        service.kill();
        Ok(())
    }

    /// What is left after something, of `mounts` and of `files`, if these are to be gone.
    fn leaks(&mut self, after: &str, [mounts, files]: [bool; 2], living: &[u32], dead: u32) {
        let places = Places {
            mark: &self.launch.mark,
            disk: mounts.then(|| self.disk.path()),
            state: files.then_some(&*self.state),
        };
        let found = leaks::find(&places, living, dead);
        for leak in found {
            self.wrong(Wrong::Leak, format!("after {after}: {leak}"));
        }
    }

    /// Builds the images that the node is to have.
    async fn build(&mut self, client: &Client) -> Result<(), String> {
        let mut images = Vec::new();
        let mut worker = Worker::new(client.clone(), Arc::<Shared>::default(), 0);
        for recipe in &self.plan.recipes {
            let built = worker.build(recipe, None).await?;
            let hash = built["image_hash"].as_str().unwrap_or_default();
            images.push((hash.to_owned(), recipe.clone()));
        }
        self.images = Arc::new(images);
        Ok(())
    }

    /// Waits until the node is connected.
    async fn ready(&self, client: &Client, node: &mut Process) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = client.get(&format!("/v1/nodes/{NODE}")).await?;
            if found.is_some_and(|found| found["state"] == "ready") {
                return Ok(());
            }
            if node.ended().is_some() {
                return Err("the node ended by itself".to_owned());
            }
            if Instant::now() > until {
                return Err("the node does not become ready".to_owned());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The clients at work, until the node dies or its time has come.
    async fn work(&mut self, client: &Client, node: &mut Process) {
        let began = Instant::now();
        let limit = match self.plan.point {
            Some(_) => PATIENCE,
            None => Duration::from_millis(self.plan.after),
        };
        let mut errors = Vec::new();
        let mut tasks: JoinSet<Vec<String>> = JoinSet::new();
        let ready = tokio::time::timeout(limit, self.ready(client, node)).await;
        if let Ok(Ok(())) = ready {
            for orders in self.plan.clients.clone() {
                tasks.spawn(give(self.orders(client), orders));
            }
        }
        let mut done_at = None;
        let died = loop {
            if node.ended().is_some() {
                break true;
            }
            let over = began.elapsed() >= limit;
            if over || done_at.is_some_and(|at: Instant| at.elapsed() >= LINGER) {
                break false;
            }
            tokio::select! {
                next = tasks.join_next(), if done_at.is_none() => match next {
                    Some(found) => errors.extend(found.expect("no client panicked")),
                    None => done_at = Some(Instant::now()),
                },
                () = tokio::time::sleep(POLL) => {}
            }
        };
        // Whoever waits for a dead node does so until it is back.
        tasks.shutdown().await;
        if died && self.plan.point.is_none() {
            self.wrong(Wrong::Service, "the node ended by itself");
        }
        if !died {
            for error in errors {
                self.wrong(Wrong::Service, format!("refused without a fault: {error}"));
            }
        }
    }

    /// What is found when the node is back, and whether it goes on well.
    async fn aftermath(&mut self, client: &Client) {
        let checked = [
            self.warms(client).await,
            self.sandboxes(client).await,
            self.cached(client).await,
            self.whole(client).await,
            self.emptied(client).await,
        ];
        for error in checked.into_iter().filter_map(Result::err) {
            self.wrong(Wrong::Service, error);
        }
    }

    /// Warms that the node died in become ready, also those that were given up with it.
    async fn warms(&mut self, client: &Client) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let warms = client.get("/v1/warms").await?.unwrap_or_default();
            let warms = warms.as_array().cloned().unwrap_or_default();
            let left: Vec<_> = warms.iter().filter(|w| w["status"] != "ready").collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                self.wrong(
                    Wrong::Resume,
                    format!("warms do not become ready: {left:?}"),
                );
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// No sandbox of before lives.
    async fn sandboxes(&mut self, client: &Client) -> Result<(), String> {
        let folder = "/v1/sandboxes";
        let all = client.get(&format!("{folder}?all=true")).await?;
        for sandbox in all.unwrap_or_default().as_array().into_iter().flatten() {
            for state in ["starting", "running"] {
                if let Err(error) = until_done(client, folder, sandbox, "state", state).await {
                    self.wrong(Wrong::Half, error);
                }
            }
        }
        Ok(())
    }

    /// What was told as there or as gone is so.
    async fn cached(&mut self, client: &Client) -> Result<(), String> {
        let path = format!("/v1/nodes/{NODE}/cache");
        let listing = client.get(&path).await?.unwrap_or_default();
        let listed = listing["images"].as_array().into_iter().flatten();
        let there: BTreeSet<&str> = listed
            .filter_map(|image| image["image_hash"].as_str())
            .collect();
        for (thing, mut allowed) in self.facts.all() {
            let Thing::Cached(hash) = &thing else {
                continue;
            };
            if self.plan.power {
                // Whether an image went for good is not waited for: it is whole if it comes back.
                allowed.insert(Some(String::new()));
            }
            let found = there.contains(&**hash).then(String::new);
            if !allowed.contains(&found) {
                let what = format!("{thing}: found {found:?}, expected one of {allowed:?}");
                self.wrong(Wrong::Lost, what);
            }
        }
        Ok(())
    }

    /// Every image holds what it should.
    async fn whole(&mut self, client: &Client) -> Result<(), String> {
        let mut orders = self.orders(client);
        for image in 0..IMAGES {
            if let Err(error) = orders.look_into(image).await {
                let hash = &self.images[image].0;
                self.wrong(Wrong::Bytes, format!("image {hash} on the node: {error}"));
            }
        }
        Ok(())
    }

    /// When all images are evicted, no layer is left; and they can be brought back.
    async fn emptied(&mut self, client: &Client) -> Result<(), String> {
        let mut orders = self.orders(client);
        for image in 0..IMAGES {
            orders.evict(image).await?;
        }
        let layers = self.state.join("node/cache/layers");
        for layer in fs::read_dir(layers).into_iter().flatten().flatten() {
            let path = layer.path().display().to_string();
            self.wrong(Wrong::Leak, format!("no image has the layer {path}"));
        }
        orders.warm(0, true).await?;
        orders.look_into(0).await
    }
}

/// A client gives its orders, one after the other; gives what failed.
async fn give(mut client: Orders, orders: Vec<Order>) -> Vec<String> {
    let mut errors = Vec::new();
    for order in orders {
        if let Err(error) = client.give(&order).await {
            errors.push(format!("{order:?}: {error}"));
        }
    }
    errors
}
