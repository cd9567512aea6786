//! Control groups: what a sandbox may use at most, and what it used.
//!
//! Works with version 2, version 1, and both side by side ("hybrid"); where each controller is
//! found decides, see [`Hierarchies::detect`]. A limit whose controller is missing is an error,
//! never silently none.
//!
//! Why not a crate: `cgroups-rs` takes version 2 only where it is alone, swallows errors of
//! limits that it cannot set, and brings D-Bus; `libcgroups` brings an OCI runtime.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod hierarchies;
mod lives;

pub use hierarchies::{Controller, Hierarchies};
pub use lives::{Life, TOP, begin};

/// Length of a period over which processor time is counted, in microseconds; the kernel's default.
const PERIOD_US: u64 = 100_000;

/// Least processor time in a period that the kernel takes.
const MIN_QUOTA_US: u64 = 1_000;

/// How long, and how far apart, the removal of a group is tried whose processes are just ending.
const REMOVE_PATIENCE: Duration = Duration::from_secs(1);
const REMOVE_PAUSE: Duration = Duration::from_millis(5);

/// A failure with control groups.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// What is mounted cannot be found out.
    #[error("cannot find out which control groups there are: {path}")]
    Detect {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No hierarchy is mounted at all.
    #[error("no control groups are mounted on this host: mount cgroup2 at /sys/fs/cgroup")]
    NotMounted,
    /// Groups are not for this user to make.
    #[error(
        "the control groups of this host are not for this user to change: run the service in a \
         unit of its own (`systemd-run --user --scope -p Delegate=yes chalk serve`, on a host with \
         version 2), or as root"
    )]
    NotDelegated,
    /// A limit was asked for whose controller this host lacks.
    #[error(
        "the limit of {limit} cannot be kept: this host offers no {controller} controller for \
         control groups; enable it (kernel command line, or cgroup.subtree_control of the group \
         above), or ask for no such limit"
    )]
    NoController {
        /// What was to be limited.
        limit: &'static str,
        /// The controller.
        controller: &'static str,
    },
    /// A limit that cannot be.
    #[error("bad limit of {limit}: {reason}")]
    BadLimit {
        /// What was to be limited.
        limit: &'static str,
        /// What stands there and what is expected.
        reason: String,
    },
    /// A file or directory of a group cannot be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What the processes of a group may use at most, all together; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Processor cores, such as 0.5.
    pub cpus: Option<f64>,
    /// Bytes of memory, files in memory and caches included; there is no swap on top.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// What the processes of a group used. Zero where no controller counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processes that were killed because the group had no memory left.
    pub oom_kills: u64,
    /// How often a process or thread could not be made since there were as many as may be.
    pub fork_refusals: u64,
    /// Bytes of memory now.
    pub memory: u64,
    /// Processor time.
    pub cpu: Duration,
    /// Processes and threads now.
    pub pids: u64,
}

/// A group: one directory in each hierarchy. It stays when this value is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    hierarchies: Hierarchies,
    name: PathBuf,
}

impl Group {
    /// Makes the group `name` (a relative path) in every hierarchy, its parents included; one that
    /// exists is taken as it is.
    ///
    /// # Errors
    /// [`CgroupError::NotDelegated`], [`CgroupError::File`].
    pub fn create(
        hierarchies: &Hierarchies,
        name: impl Into<PathBuf>,
    ) -> Result<Group, CgroupError> {
        let group = Group {
            hierarchies: hierarchies.clone(),
            name: name.into(),
        };
        match group.make() {
            Err(CgroupError::File { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Err(CgroupError::NotDelegated)
            }
            made => made.map(|()| group),
        }
    }

    fn make(&self) -> Result<(), CgroupError> {
        self.hierarchies.delegate(&self.name)?;
        for directory in self.directories() {
            fs::create_dir_all(&directory).map_err(file("make", &directory))?;
        }
        Ok(())
    }

    /// The group `name`, which may not exist.
    pub fn named(hierarchies: &Hierarchies, name: impl Into<PathBuf>) -> Group {
        Group {
            hierarchies: hierarchies.clone(),
            name: name.into(),
        }
    }

    /// Its path below the top of each hierarchy.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Its directories, to be named in [`RunSpec::cgroups`](crate::RunSpec::cgroups).
    pub fn directories(&self) -> Vec<PathBuf> {
        let roots = self.hierarchies.roots();
        roots.iter().map(|root| root.join(&self.name)).collect()
    }

    /// Sets limits; those that are `None` are left as they are.
    ///
    /// # Errors
    /// [`CgroupError::NoController`], [`CgroupError::BadLimit`], [`CgroupError::File`].
    pub fn limit(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(cpus) = limits.cpus {
            self.limit_cpus(cpus)?;
        }
        if let Some(memory) = limits.memory {
            self.limit_memory(memory)?;
        }
        if let Some(pids) = limits.pids {
            let (directory, _) = self.controller(Controller::Pids, "processes")?;
            write(&directory.join("pids.max"), &pids.to_string())?;
        }
        Ok(())
    }

    fn limit_cpus(&self, cpus: f64) -> Result<(), CgroupError> {
        let quota = cpus * PERIOD_US as f64;
        if !quota.is_finite() || quota < MIN_QUOTA_US as f64 || quota > 1e12 {
            return Err(CgroupError::BadLimit {
                limit: "processors",
                reason: format!("{cpus} cores; at least 0.01 are needed"),
            });
        }
        let quota = quota.round() as u64;
        let (directory, version_2) = self.controller(Controller::Cpu, "processors")?;
        if version_2 {
            return write(&directory.join("cpu.max"), &format!("{quota} {PERIOD_US}"));
        }
        write(&directory.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
        write(&directory.join("cpu.cfs_quota_us"), &quota.to_string())
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let (directory, version_2) = self.controller(Controller::Memory, "memory")?;
        let (limit, swap) = if version_2 {
            write(&directory.join("memory.max"), &bytes.to_string())?;
            ("memory.swap.max", 0)
        } else {
            write(&directory.join("memory.limit_in_bytes"), &bytes.to_string())?;
            // Memory and swap together.
            ("memory.memsw.limit_in_bytes", bytes)
        };
        let path = directory.join(limit);
        // A kernel that does not count swap offers no file, and then on version 1 another way.
        if path.exists() {
            return write(&path, &swap.to_string());
        }
        let swappiness = directory.join("memory.swappiness");
        if !version_2 && swappiness.exists() {
            return write(&swappiness, "0");
        }
        Ok(())
    }

    /// What it used so far.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        if let Some((directory, version_2)) = self.find(Controller::Memory) {
            let (events, usage) = if version_2 {
                ("memory.events", "memory.current")
            } else {
                ("memory.oom_control", "memory.usage_in_bytes")
            };
            stats.oom_kills = keyed(&directory.join(events), "oom_kill")?;
            stats.memory = number(&directory.join(usage))?;
        }
        if let Some((directory, _)) = self.find(Controller::Pids) {
            stats.pids = number(&directory.join("pids.current"))?;
            let events = directory.join("pids.events");
            if events.exists() {
                stats.fork_refusals = keyed(&events, "max")?;
            }
        }
        if let Some((directory, true)) = self.find(Controller::Cpu) {
            stats.cpu = Duration::from_micros(keyed(&directory.join("cpu.stat"), "usage_usec")?);
        } else if let Some((directory, false)) = self.find(Controller::CpuAccounting) {
            stats.cpu = Duration::from_nanos(number(&directory.join("cpuacct.usage"))?);
        }
        Ok(stats)
    }

    /// Kills every process of the group and of those below it. Does not wait for their end.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn kill(&self) -> Result<(), CgroupError> {
        for directory in self.directories() {
            kill_below(&directory)?;
        }
        Ok(())
    }

    /// Kills what is left in it, and removes the group and all groups below it; waits at most a
    /// second until the killed processes are gone. A group that does not exist is removed already.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.remove_within(REMOVE_PATIENCE)
    }

    /// [`remove`](Self::remove) that waits longer, or less long.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn remove_within(&self, patience: Duration) -> Result<(), CgroupError> {
        let until = Instant::now() + patience;
        for directory in self.directories() {
            remove_tree(&directory, until)?;
        }
        Ok(())
    }

    /// Names of the groups right below it, in whichever hierarchy they are.
    ///
    /// # Errors
    /// [`CgroupError::File`].
    pub fn children(&self) -> Result<BTreeSet<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for directory in self.directories() {
            let found = children(&directory)?;
            let found = found.iter().filter_map(|path| path.file_name()?.to_str());
            names.extend(found.map(str::to_owned));
        }
        Ok(names)
    }

    /// Removes the group where nothing is in it.
    pub fn remove_if_empty(&self) {
        for directory in self.directories() {
            // The kernel refuses to remove what holds processes or groups.
            let _ = fs::remove_dir(directory);
        }
    }

    fn find(&self, controller: Controller) -> Option<(PathBuf, bool)> {
        let (root, version_2) = self.hierarchies.root_of(controller)?;
        Some((root.join(&self.name), version_2))
    }

    fn controller(
        &self,
        controller: Controller,
        limit: &'static str,
    ) -> Result<(PathBuf, bool), CgroupError> {
        self.find(controller).ok_or(CgroupError::NoController {
            limit,
            controller: controller.name(),
        })
    }
}

fn kill_below(directory: &Path) -> Result<(), CgroupError> {
    let whole = directory.join("cgroup.kill");
    if whole.exists() {
        return write(&whole, "1");
    }
    for child in children(directory)? {
        kill_below(&child)?;
    }
    let path = directory.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(file("read", &path)(error)),
    };
    // 0 stands for processes of a pid namespace that is not below ours.
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path, until: Instant) -> Result<(), CgroupError> {
    loop {
        let result = children(directory)?
            .iter()
            .try_for_each(|child| remove_tree(child, until))
            .and_then(|()| match fs::remove_dir(directory) {
                Ok(()) => Ok(true),
                Err(error) if gone(&error) => Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
                Err(error) => Err(file("remove", directory)(error)),
            });
        if result? {
            return Ok(());
        }
        if Instant::now() >= until {
            let busy = io::Error::from_raw_os_error(libc::EBUSY);
            return Err(file("remove", directory)(busy));
        }
        kill_below(directory)?;
        std::thread::sleep(REMOVE_PAUSE);
    }
}

fn children(directory: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(file("read", directory)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file("read", directory))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether this is how a removed group answers.
fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    // Never made: a missing file of a control group is a missing feature.
    let open = fs::OpenOptions::new().write(true).open(path);
    open.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(file("write", path))
}

fn number(path: &Path) -> Result<u64, CgroupError> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    text.trim()
        .parse()
        .map_err(|error| file("read", path)(io::Error::other(error)))
}

/// The number after `key` in a file of lines `key number`; 0 where there is no such line.
fn keyed(path: &Path, key: &str) -> Result<u64, CgroupError> {
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let value = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim().parse());
    match value {
        None => Ok(0),
        Some(value) => value.map_err(|error| file("read", path)(io::Error::other(error))),
    }
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests;
