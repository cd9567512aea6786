//! One trial from its disk to its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::check::{Check, Violation, Wrong};
use crate::client::Client;
use crate::clients::{Shared, Worker};
use crate::disk::{self, Disk};
use crate::leaks::{self, Places};
use crate::nodes;
use crate::payload::Pushed;
use crate::peer;
use crate::plan::{Act, Kind, Plan};
use crate::process::{Launch, NoStart, Process};
use crate::proxy;
use crate::setting::Setting;
use crate::work::Work;

/// Longest that clients may take to come to their end while the disk is full.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Who was tortured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Ours,
    Peer,
}

/// What came of a trial.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) side: Side,
    /// Changes that were acknowledged.
    pub(crate) acknowledged: usize,
    pub(crate) violations: Vec<Violation>,
    /// Failpoints that were come to.
    pub(crate) passed: BTreeSet<String>,
    /// The failpoint that it died at.
    pub(crate) died_at: Option<String>,
    pub(crate) seconds: f64,
    /// The end of the service's log, for a trial that failed.
    pub(crate) log: String,
}

impl Outcome {
    /// Of a trial of the service that began then.
    pub(crate) fn ours(
        launch: &Launch,
        acknowledged: usize,
        violations: Vec<Violation>,
        began: Instant,
    ) -> Self {
        let (passed, died_at) = launch.points();
        let log = match violations.is_empty() {
            true => String::new(),
            false => fs::read_to_string(&launch.log).unwrap_or_default(),
        };
        Self {
            side: Side::Ours,
            acknowledged,
            violations,
            passed,
            died_at,
            seconds: began.elapsed().as_secs_f64(),
            log,
        }
    }
}

/// Runs a trial against the service, and its registry part against docker-registry.
pub(crate) fn run(setting: &Setting, plan: &Plan, stop: &AtomicBool) -> Vec<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if let Some(of_node) = &plan.node {
        return vec![runtime.block_on(nodes::trial(setting, plan.number, of_node))];
    }
    let mut outcomes = vec![runtime.block_on(ours(setting, plan))];
    if setting.with_peer && !stop.load(Ordering::Relaxed) {
        outcomes.push(runtime.block_on(peer::trial(setting, plan)));
    }
    outcomes
}

async fn ours(setting: &Setting, plan: &Plan) -> Outcome {
    let began = Instant::now();
    let folder = setting.folder.join(format!("trial-{}", plan.number));
    let disk = Disk::copy(&folder, &setting.template);
    let mut trial = Trial {
        launch: setting.launch(&disk, &format!("torture-{}", plan.number)),
        disk,
        plan,
        base: &setting.base,
        shared: Arc::default(),
        rotten: BTreeSet::new(),
        violations: Vec::new(),
    };
    trial.run().await;
    let violations = std::mem::take(&mut trial.violations);
    Outcome::ours(&trial.launch, trial.shared.facts.count(), violations, began)
}

struct Trial<'a> {
    plan: &'a Plan,
    base: &'a BTreeSet<String>,
    disk: Disk,
    launch: Launch,
    shared: Arc<Shared>,
    rotten: BTreeSet<String>,
    violations: Vec<Violation>,
}

impl Trial<'_> {
    fn wrong(&mut self, wrong: Wrong, what: impl Into<String>) {
        let what = what.into();
        self.violations.push(Violation { wrong, what });
    }

    async fn run(&mut self) {
        let point = self.plan.point_at_work();
        match self.launch.start(point) {
            Ok(service) => self.work(service).await,
            Err(NoStart::Killed) if point.is_some() => {}
            Err(NoStart::Killed) => self.wrong(Wrong::Service, "something killed it"),
            Err(NoStart::Failed(why)) => self.wrong(Wrong::Service, why),
        }
        if self.plan.kind() == Kind::Power {
            if let Err(error) = self.disk.lose_power_when_free() {
                self.wrong(Wrong::Leak, error);
                return;
            }
            disk::boot_anew(&self.launch.state.join("engine/layers"));
        }
        if self.plan.kind() == Kind::Rot {
            self.rot();
            if let Some(point) = self.plan.point_after_rot() {
                self.read_rotten(point).await;
            }
        }
        match self.launch.start(None) {
            Ok(service) => self.aftermath(service).await,
            Err(NoStart::Killed) => self.wrong(Wrong::Service, "something killed it"),
            Err(NoStart::Failed(why)) => self.wrong(Wrong::Service, format!("no restart: {why}")),
        }
    }

    /// The clients at work, and the fault in its middle.
    async fn work(&mut self, mut service: Process) {
        let fault = &self.plan.fault;
        let direct = Client::new(&service.url, service.token.as_deref());
        let mut network = None;
        let client = match fault.kind {
            Kind::Network => {
                let address = service.url.trim_start_matches("http://").parse();
                let (url, task) =
                    proxy::start(self.plan.network, address.expect("an address")).await;
                network = Some(task);
                Client::new(&url, service.token.as_deref())
            }
            _ => direct.clone(),
        };
        let mut work = Work::start(&client, &self.shared, self.plan, |_| true);
        let moment = Duration::from_millis(fault.after);
        let point = self.plan.point_at_work();
        let timed = point.is_none() && matches!(fault.kind, Kind::Kill | Kind::Power | Kind::Full);
        let (mut errors, mut died) = work.until(&mut service, timed.then_some(moment)).await;
        if fault.kind == Kind::Full {
            self.disk.fill(fault.room);
            let (_, early) = work.until(&mut service, Some(PATIENCE)).await;
            died |= early;
            self.disk.empty();
            if !died && !work.tasks.is_empty() {
                self.wrong(
                    Wrong::Service,
                    "clients wait in vain for a service without room",
                );
            }
            if !died {
                // It goes on where it can, without a restart.
                self.acts(&direct, 10).await;
            }
        }
        if died && point.is_none() {
            self.wrong(Wrong::Service, "it ended by itself");
        }
        if !died {
            service.kill();
        }
        if let Some(network) = network {
            network.abort();
            errors.clear();
        }
        for error in errors {
            self.wrong(Wrong::Service, format!("refused without a fault: {error}"));
        }
        work.drain().await;
    }

    fn places(&self) -> Places<'_> {
        Places {
            mark: &self.launch.mark,
            disk: Some(self.disk.path()),
            state: Some(&self.launch.state),
        }
    }

    /// Calls that have to succeed.
    async fn acts(&mut self, client: &Client, number: usize) {
        let mut worker = Worker::new(client.clone(), Arc::clone(&self.shared), number);
        for act in &self.plan.after {
            if let Err(error) = worker.act(act).await {
                self.wrong(
                    Wrong::Service,
                    format!("refused after the fault: {act:?}: {error}"),
                );
            }
        }
    }

    /// Flips bytes of blobs that the trial made.
    fn rot(&mut self) {
        let all: Vec<(String, PathBuf)> = disk::blobs(&self.launch.state)
            .into_iter()
            .map(|path| (disk::name_of(&path), path))
            .filter(|(name, _)| !self.base.contains(name))
            .map(|(name, path)| (format!("sha256:{name}"), path))
            .collect();
        self.rotten = disk::rot_some(&all, &self.plan.fault.rotten);
    }

    /// Reads all that there is, so that the service dies as it sets aside what rotted.
    async fn read_rotten(&mut self, point: &(String, u64)) {
        match self.launch.start(Some(point)) {
            Ok(service) => {
                let client = Client::new(&service.url, service.token.as_deref());
                let shared = Arc::clone(&self.shared);
                // What it finds is of no account here: in the middle, the service is gone.
                Check::new(&client, &shared, &self.rotten).registry().await;
                service.kill();
            }
            Err(NoStart::Killed) => {}
            Err(NoStart::Failed(why)) => self.wrong(Wrong::Service, format!("no restart: {why}")),
        }
    }

    /// What is found after the restart, and whether it goes on well.
    async fn aftermath(&mut self, service: Process) {
        let pid = service.pid();
        let client = Client::new(&service.url, service.token.as_deref());
        let shared = Arc::clone(&self.shared);
        let found = leaks::find(&self.places(), &[pid], pid);
        for leak in found {
            self.wrong(Wrong::Leak, leak);
        }
        let rotten = std::mem::take(&mut self.rotten);
        let mut check = Check::new(&client, &shared, &rotten);
        check.builds_ended().await;
        check.store(&self.launch.state);
        check.registry().await;
        check.service().await;
        check.volumes().await;
        let found = std::mem::take(&mut check.violations);
        self.violations.extend(found);
        self.resume(&client, !rotten.is_empty()).await;
        if !rotten.is_empty() {
            self.mend(&client).await;
        }
        self.acts(&client, 20).await;
        // All that was mended, or made since, is whole.
        let none = BTreeSet::new();
        let mut check = Check::new(&client, &shared, &none);
        if rotten.is_empty() {
            check.registry().await;
            check.volumes().await;
        }
        check.service().await;
        let found = std::mem::take(&mut check.violations);
        self.violations.extend(found);
        if self.plan.stops {
            if let Err(error) = service.stop() {
                self.wrong(Wrong::Service, error);
            }
            let found = leaks::find(&self.places(), &[], pid);
            for leak in found {
                self.wrong(Wrong::Leak, format!("after a polite stop: {leak}"));
            }
        } else {
            service.kill();
        }
    }

    /// Every build that was begun comes to its end, from its last finished step on.
    async fn resume(&mut self, client: &Client, rotten: bool) {
        let begun = self.shared.builds().clone();
        for (hash, begun) in begun {
            if begun.ended && !rotten {
                continue;
            }
            if rotten {
                // Layers that are made anew may have other times: names stay with the old manifest.
                for name in self.shared.facts.names_of(&hash) {
                    self.shared.facts.asked(&name, None);
                }
            }
            let mut worker = Worker::new(client.clone(), Arc::clone(&self.shared), 30);
            match worker.build(&begun.recipe, None).await {
                Err(error) if rotten => {
                    // What rotted and is needed is said to be missing, once; then it is made anew.
                    let again = worker.build(&begun.recipe, None).await;
                    if again.is_err() {
                        self.wrong(
                            Wrong::Resume,
                            format!("image {hash} cannot be built again: {error}"),
                        );
                    }
                }
                Err(error) => self.wrong(Wrong::Resume, format!("image {hash}: {error}")),
                Ok(_) if rotten => {
                    // A build takes cached layers as they are: one that rotted and that nobody has
                    // read yet is noticed by a pull, and made anew by the next build.
                    let none = BTreeSet::new();
                    let check = Check::new(client, &worker.shared, &none);
                    if check.all_of(&hash).await.is_err()
                        && let Err(error) = worker.build(&begun.recipe, None).await
                    {
                        let what = format!("image {hash} cannot be made anew: {error}");
                        self.wrong(Wrong::Resume, what);
                    }
                }
                Ok(build) if build["status"] == "reused" => {}
                Ok(build) => {
                    let steps = build["steps"].as_array().cloned().unwrap_or_default();
                    let again = steps
                        .iter()
                        .take(begun.steps)
                        .any(|step| step["state"] != "cached");
                    if again {
                        let what = format!(
                            "image {hash}: {} steps were done; now: {steps:?}",
                            begun.steps
                        );
                        self.wrong(Wrong::Resume, what);
                    }
                }
            }
        }
    }

    /// Pushes anew what rotted: it must be served as it was pushed.
    async fn mend(&mut self, client: &Client) {
        let pushes = self
            .plan
            .clients
            .iter()
            .enumerate()
            .flat_map(|(number, acts)| {
                let pushes = acts.iter().filter_map(move |act| match act {
                    Act::Push { tag, layers, .. } => Some((number, tag, Pushed::of(layers))),
                    _ => None,
                });
                pushes.collect::<Vec<_>>()
            });
        for (number, tag, image) in pushes {
            let worker = Worker::new(client.clone(), Arc::clone(&self.shared), number);
            if let Err(error) = worker.push(tag, &image, 0).await {
                self.wrong(Wrong::Service, format!("a push of what rotted: {error}"));
                continue;
            }
            let repository = format!("torture/client-{number}");
            for blob in &image.blobs {
                let digest = crate::payload::digest(blob);
                match client.blob(&repository, &digest).await {
                    Ok(Some(bytes)) if bytes == *blob => {}
                    other => {
                        let found = other.map(|bytes| bytes.map(|bytes| bytes.len()));
                        let what =
                            format!("blob {digest} was pushed anew and is served as {found:?}");
                        self.wrong(Wrong::Lost, what);
                    }
                }
            }
            let found = client.manifest(&repository, tag).await;
            if !matches!(&found, Ok(Some((_, bytes))) if *bytes == image.manifest) {
                self.wrong(
                    Wrong::Lost,
                    format!("{repository}:{tag} was pushed anew and is not served"),
                );
            }
        }
    }
}
