//! What all tests share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, io};

use crate::command::{Chalk, run, tool};
use crate::docker::Docker;
use crate::fleet::Fleet;
use crate::image::busybox_layout;
use crate::service::Service;

/// Where Cargo lets tests write.
const SCRATCH: &str = env!("CARGO_MANIFEST_DIR");

/// Processes that must not outlive the suite; none when it ends and may start no more.
static CHILDREN: Mutex<Option<BTreeSet<u32>>> = Mutex::new(Some(BTreeSet::new()));

/// Starts a process that must not outlive the suite, so that an interrupt can end it.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let (_, child) = start(|| {
        let child = command.spawn()?;
        Ok((child.id(), child))
    })?;
    Ok(child)
}

/// As [`spawn`] of a process that is started another way; `start` gives its id, too.
pub(crate) fn start<T>(start: impl FnOnce() -> io::Result<(u32, T)>) -> io::Result<(u32, T)> {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(children) = children.as_mut() else {
        return Err(io::Error::other("the suite was interrupted"));
    };
    let (pid, process) = start()?;
    children.insert(pid);
    Ok((pid, process))
}

/// Forgets a process that ended.
pub(crate) fn forget(pid: u32) {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(children) = children.as_mut() {
        children.remove(&pid);
    }
}

/// Starts nothing from now on and asks all that runs to end, the newest first: a client that is gone
/// leaves its daemon nothing to finish. Whoever waits for it fails then, and what
/// he made goes as he unwinds: for programs that, unlike tests, go one way only.
pub fn interrupt() {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in children.take().unwrap_or_default().into_iter().rev() {
        let _ = tool("kill", ["-TERM", &pid.to_string()]).output();
    }
}

/// Whether [`interrupt`] was called.
pub fn is_interrupted() -> bool {
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    children.is_none()
}

/// A number that no other call of this run gets, to make steps that are in no cache.
pub fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

/// Base images, a shared service and a docker daemon, each made when first asked for.
#[derive(Debug)]
pub struct World {
    root: PathBuf,
    base: Option<PathBuf>,
    busybox: OnceLock<PathBuf>,
    seed: OnceLock<PathBuf>,
    shared: OnceLock<Service>,
    docker: OnceLock<Docker>,
    fleet: OnceLock<Fleet>,
}

impl World {
    /// The reference that the Python base is imported under.
    pub const PYTHON: &'static str = "docker.io/library/python:3.12-slim-bookworm";
    /// The reference of a base of two megabytes, for tests that need no Python.
    pub const BUSYBOX: &'static str = "docker.io/library/busybox:latest";

    /// An empty world; nothing is started.
    pub fn new() -> Self {
        let base = std::env::var_os("CHALK_TEST_BASE").map(PathBuf::from);
        // On the disk of the checkout: `/tmp` may be small, or in memory.
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| Path::new(SCRATCH).join("../target"));
        let root = target.join(format!("system-{}", std::process::id()));
        fs::create_dir_all(&root).expect("make the scratch folder");
        Self {
            root: root.canonicalize().expect("just made"),
            base,
            busybox: OnceLock::new(),
            seed: OnceLock::new(),
            shared: OnceLock::new(),
            docker: OnceLock::new(),
            fleet: OnceLock::new(),
        }
    }

    /// OCI layout of the Python base.
    pub fn python_layout(&self) -> &Path {
        let base = self.base.as_deref();
        base.expect("CHALK_TEST_BASE, set by `cargo xtask test`: OCI layout of the base image")
    }

    /// OCI layout of the small base: busybox and little more.
    pub fn busybox_layout(&self) -> &Path {
        self.busybox.get_or_init(|| {
            let layout = self.folder("busybox");
            busybox_layout(&layout);
            layout
        })
    }

    /// A new empty folder on the disk of the checkout, gone with the world.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.root.join(format!("{name}-{}", unique()));
        fs::create_dir_all(&folder).expect("make a folder");
        folder
    }

    /// A state directory in which both base images are imported.
    pub fn state(&self, name: &str) -> PathBuf {
        let seed = self.seed.get_or_init(|| {
            let seed = self.folder("seed");
            let bases = [
                (self.python_layout(), Self::PYTHON),
                (self.busybox_layout(), Self::BUSYBOX),
            ];
            for (layout, reference) in bases {
                let import = ["compute", "image", "import", "--as", reference];
                Chalk::on(&seed).args(import).arg(layout).run().ok();
            }
            seed
        });
        let state = self.folder(name);
        let from = format!("{}/.", seed.display());
        run(tool("cp", ["--archive", &from]).arg(&state)).ok();
        // A copy with the same token would hide a mix-up of services.
        let _ = fs::remove_file(state.join("token"));
        state
    }

    /// The shared service. Tests on it use steps of their own (see [`unique`]).
    pub fn service(&self) -> &Service {
        self.shared.get_or_init(|| self.start("shared", &[]))
    }

    /// A service of the test's own, both bases imported.
    #[track_caller]
    pub fn start(&self, name: &str, settings: &[(&str, &str)]) -> Service {
        Service::start(&self.state(name), settings)
    }

    /// A service of the test's own without any image.
    #[track_caller]
    pub fn start_empty(&self, name: &str, settings: &[(&str, &str)]) -> Service {
        Service::start(&self.folder(name), settings)
    }

    /// A service with two nodes that have an image.
    pub fn fleet(&self) -> &Fleet {
        self.fleet.get_or_init(|| Fleet::start(self))
    }

    /// The docker daemon.
    pub fn docker(&self) -> &Docker {
        self.docker
            .get_or_init(|| Docker::start(&self.folder("docker")))
    }

    /// Stops everything and removes all files; those of a failed run stay when
    /// `CHALK_TEST_KEEP` is set.
    ///
    /// # Errors
    /// When something is left: a mount, or files that cannot be removed.
    pub fn tear_down(mut self) -> Result<(), String> {
        drop(self.fleet.take());
        drop(self.shared.take());
        drop(self.docker.take());
        self.sweep()
    }

    /// What [`World::tear_down`] does, in the middle of running tests: after an interrupt.
    pub fn abandon(&self) {
        let children = CHILDREN
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let children = children.unwrap_or_default();
        for signal in ["-TERM", "-KILL"] {
            for pid in &children {
                let _ = tool("kill", [signal, &pid.to_string()]).output();
            }
            std::thread::sleep(Duration::from_secs(3));
        }
        if let Err(error) = self.sweep() {
            eprintln!("{error}");
        }
    }

    fn sweep(&self) -> Result<(), String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let root = self.root.display().to_string();
        if let Some(line) = mounts.lines().find(|line| line.contains(&root)) {
            return Err(format!("a mount was left behind: {line}"));
        }
        if std::env::var_os("CHALK_TEST_KEEP").is_some() {
            eprintln!("kept: {root}");
            return Ok(());
        }
        fs::remove_dir_all(&self.root).map_err(|error| format!("{root}: {error}"))
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
