//! One trial from its disk to its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chalk_tests::World;
use tokio::task::JoinSet;

use crate::check::{Check, Violation, Wrong};
use crate::client::Client;
use crate::clients::{Shared, Worker};
use crate::disk::{self, Disk};
use crate::leaks;
use crate::payload::Pushed;
use crate::peer;
use crate::plan::{Act, Kind, Plan};
use crate::process::{Launch, NoStart, Process};
use crate::proxy;
use crate::recipe::BASE;

/// How long a failpoint is waited for once all clients are done.
const LINGER: Duration = Duration::from_millis(150);
/// Longest that clients may take to come to their end while the disk is full.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long the dead may keep a disk in use.
const BUSY: Duration = Duration::from_secs(5);

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

/// What all trials begin with.
#[derive(Debug)]
pub(crate) struct Setting {
    folder: PathBuf,
    chalk: PathBuf,
    template: PathBuf,
    empty: PathBuf,
    with_peer: bool,
    /// Blobs of the base: nothing could make them anew.
    base: BTreeSet<String>,
    /// Names of all failpoints of the service.
    pub(crate) points: Vec<String>,
    pub(crate) notices: Vec<String>,
}

impl Setting {
    /// Makes the disks that trials begin with.
    pub(crate) fn prepare(parent: &Path, with_peer: bool) -> Self {
        let chalk = std::env::var_os("CHALK_TEST_BIN");
        let chalk = PathBuf::from(chalk.expect("CHALK_TEST_BIN, set by `cargo xtask torture`"));
        let folder = parent.join(format!("chalk-torture-{}", std::process::id()));
        let listed = Command::new(&chalk).env("CHALK_FAILPOINT", "list").output();
        let listed = String::from_utf8(listed.expect("run chalk").stdout).unwrap_or_default();
        let points: Vec<String> = listed
            .lines()
            .filter(|line| line.ends_with(".before") || line.ends_with(".after"))
            // Those of nodes: no trial has one yet.
            .filter(|line| !line.starts_with("node."))
            .map(str::to_owned)
            .collect();
        assert!(!points.is_empty(), "chalk was built without its failpoints");
        let disk = Disk::format(&folder.join("template"));
        let mut setting = Self {
            template: folder.join("template.img"),
            empty: folder.join("empty.img"),
            folder,
            chalk,
            with_peer: with_peer && Path::new(peer::PROGRAM).exists(),
            base: BTreeSet::new(),
            points,
            notices: Vec::new(),
        };
        if with_peer && !setting.with_peer {
            let notice =
                "docker-registry is not installed (Debian package docker-registry): left out";
            setting.notices.push(notice.to_owned());
        }
        let world = World::new();
        let layout = world.busybox_layout().display().to_string();
        let launch = setting.launch(&disk, "template");
        let import = ["compute", "image", "import", &layout, "--as", BASE];
        launch.run(&import).expect("import the base");
        setting.base = disk::blobs(&launch.state)
            .iter()
            .map(|path| name_of(path))
            .collect();
        disk.into_image(&setting.template);
        let empty = Disk::format(&setting.folder.join("empty"));
        empty.into_image(&setting.empty);
        world.tear_down().expect("nothing is left");
        setting
    }

    /// Removes all.
    pub(crate) fn tear_down(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }

    fn launch(&self, disk: &Disk, name: &str) -> Launch {
        Launch {
            chalk: self.chalk.clone(),
            state: disk.path().join("state"),
            log: disk.folder().join("service.log"),
            passed: disk.folder().join("points"),
            mark: format!("{name}-{}", std::process::id()),
        }
    }
}

/// Runs a trial against the service, and its registry part against docker-registry.
pub(crate) fn run(setting: &Setting, plan: &Plan, stop: &AtomicBool) -> Vec<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut outcomes = vec![runtime.block_on(ours(setting, plan))];
    let comparable = matches!(plan.kind(), Kind::Kill | Kind::Power);
    if setting.with_peer && comparable && !stop.load(Ordering::Relaxed) {
        outcomes.push(runtime.block_on(theirs(setting, plan)));
    }
    outcomes
}

/// The clients of a plan at work.
struct Work {
    tasks: JoinSet<Vec<String>>,
}

impl Work {
    /// Starts them; `only` says which calls they make.
    fn start(client: &Client, shared: &Arc<Shared>, plan: &Plan, only: fn(&Act) -> bool) -> Self {
        let mut tasks = JoinSet::new();
        for (number, acts) in plan.clients.iter().enumerate() {
            let mut worker = Worker::new(client.clone(), Arc::clone(shared), number);
            let acts: Vec<Act> = acts.iter().filter(|act| only(act)).cloned().collect();
            tasks.spawn(async move {
                let mut errors = Vec::new();
                for act in acts {
                    if let Err(error) = worker.act(&act).await {
                        errors.push(format!("{act:?}: {error}"));
                    }
                }
                errors
            });
        }
        Self { tasks }
    }

    /// Waits until all are done, the time is over, or the process has ended; gives what failed
    /// while it was alive, and whether it died.
    async fn until(
        &mut self,
        process: &mut Process,
        limit: Option<Duration>,
    ) -> (Vec<String>, bool) {
        let began = Instant::now();
        let mut errors = Vec::new();
        let mut done_at = None;
        loop {
            if process.ended().is_some() {
                return (Vec::new(), true);
            }
            if limit.is_some_and(|limit| began.elapsed() >= limit) {
                return (errors, false);
            }
            if done_at.is_some_and(|at: Instant| at.elapsed() >= LINGER) {
                return (errors, false);
            }
            tokio::select! {
                next = self.tasks.join_next(), if done_at.is_none() => match next {
                    Some(found) => errors.extend(found.expect("no client panicked")),
                    None => done_at = Some(Instant::now()),
                },
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
    }

    /// Lets those that are left come to their end, after the process has.
    async fn drain(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
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
    let lines = fs::read_to_string(&trial.launch.passed).unwrap_or_default();
    let died_at = lines.lines().find_map(|line| line.strip_prefix("killed "));
    let log = match trial.violations.is_empty() {
        true => String::new(),
        false => fs::read_to_string(&trial.launch.log).unwrap_or_default(),
    };
    Outcome {
        side: Side::Ours,
        acknowledged: trial.shared.facts.count(),
        violations: std::mem::take(&mut trial.violations),
        passed: lines
            .lines()
            .filter(|line| !line.starts_with("killed "))
            .map(str::to_owned)
            .collect(),
        died_at: died_at.map(str::to_owned),
        seconds: began.elapsed().as_secs_f64(),
        log,
    }
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
        let fault = &self.plan.fault;
        match self.launch.start(fault.point.as_ref()) {
            Ok(service) => self.work(service).await,
            Err(NoStart::Killed) if fault.point.is_some() => {}
            Err(NoStart::Killed) => self.wrong(Wrong::Service, "something killed it"),
            Err(NoStart::Failed(why)) => self.wrong(Wrong::Service, why),
        }
        if self.plan.kind() == Kind::Power
            && let Err(error) = self.lose_power()
        {
            self.wrong(Wrong::Leak, error);
            return;
        }
        if self.plan.kind() == Kind::Rot {
            self.rot();
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
        let timed =
            fault.point.is_none() && matches!(fault.kind, Kind::Kill | Kind::Power | Kind::Full);
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
        if died && fault.point.is_none() {
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

    fn lose_power(&mut self) -> Result<(), String> {
        let until = Instant::now() + BUSY;
        while let Err(error) = self.disk.lose_power() {
            if Instant::now() > until {
                return Err(format!("the disk stays in use: {error}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The machine starts anew, which this one did not.
        let layers = self.launch.state.join("engine/layers");
        for layer in fs::read_dir(layers).into_iter().flatten().flatten() {
            let marker = layer.path().join("boot");
            if marker.exists() {
                fs::write(marker, "another boot").expect("write to the disk");
            }
        }
        Ok(())
    }

    /// Flips bytes of blobs that the trial made.
    fn rot(&mut self) {
        let all: Vec<PathBuf> = disk::blobs(&self.launch.state)
            .into_iter()
            .filter(|path| !self.base.contains(&name_of(path)))
            .collect();
        for number in &self.plan.fault.rotten {
            if all.is_empty() {
                return;
            }
            let path = &all[usize::try_from(number % all.len() as u64).unwrap_or(0)];
            let digest = format!("sha256:{}", name_of(path));
            // Twice would be none.
            if fs::metadata(path).is_ok_and(|meta| meta.len() > 0) && self.rotten.insert(digest) {
                disk::rot(path);
            }
        }
    }

    /// What is found after the restart, and whether it goes on well.
    async fn aftermath(&mut self, service: Process) {
        let pid = service.pid();
        let client = Client::new(&service.url, service.token.as_deref());
        let shared = Arc::clone(&self.shared);
        let found = leaks::find(
            self.disk.path(),
            &self.launch.state,
            &self.launch.mark,
            Some(pid),
            pid,
        );
        for leak in found {
            self.wrong(Wrong::Leak, leak);
        }
        let rotten = std::mem::take(&mut self.rotten);
        let mut check = Check::new(&client, &shared, &rotten);
        check.builds_ended().await;
        check.store(&self.launch.state);
        check.registry().await;
        check.service().await;
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
        }
        check.service().await;
        let found = std::mem::take(&mut check.violations);
        self.violations.extend(found);
        if self.plan.stops {
            if let Err(error) = service.stop() {
                self.wrong(Wrong::Service, error);
            }
            let found = leaks::find(
                self.disk.path(),
                &self.launch.state,
                &self.launch.mark,
                None,
                pid,
            );
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
                Ok(build) if build["status"] == "reused" || rotten => {}
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

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

async fn theirs(setting: &Setting, plan: &Plan) -> Outcome {
    let began = Instant::now();
    let folder = setting.folder.join(format!("peer-{}", plan.number));
    let mut disk = Disk::copy(&folder, &setting.empty);
    let shared: Arc<Shared> = Arc::default();
    let violations = match registry_part(&mut disk, plan, &shared).await {
        Ok(violations) => violations,
        Err(what) => vec![Violation {
            wrong: Wrong::Service,
            what,
        }],
    };
    Outcome {
        side: Side::Peer,
        acknowledged: shared.facts.count(),
        violations,
        passed: BTreeSet::new(),
        died_at: None,
        seconds: began.elapsed().as_secs_f64(),
        log: String::new(),
    }
}

/// What of a trial any registry can do.
async fn registry_part(
    disk: &mut Disk,
    plan: &Plan,
    shared: &Arc<Shared>,
) -> Result<Vec<Violation>, String> {
    let data = disk.path().join("registry");
    let mut registry = peer::start(&data, disk.folder())?;
    let client = Client::new(&registry.url, None);
    let mut work = Work::start(&client, shared, plan, Act::is_of_registry);
    let moment = Duration::from_millis(plan.fault.after);
    // What it refuses is another suite's matter.
    let (_, died) = work.until(&mut registry, Some(moment)).await;
    if !died {
        registry.kill();
    }
    work.drain().await;
    if plan.kind() == Kind::Power {
        disk.lose_power()?;
    }
    let registry = peer::start(&data, disk.folder())?;
    let client = Client::new(&registry.url, None);
    let none = BTreeSet::new();
    let mut check = Check::new(&client, shared, &none);
    check.registry().await;
    let violations = std::mem::take(&mut check.violations);
    registry.kill();
    Ok(violations)
}
