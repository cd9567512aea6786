//! Control groups of build steps: what the processes of one step may use at most.
//!
//! A limit that the settings name is kept or the step fails; one that nobody asked for is left out
//! where the host does not offer it, which the log says once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytesize::ByteSize;
use chalk_core::Digest;
use chalk_sandbox::cgroup::{self, CgroupError, Group, Hierarchies, Limits, Stats};
use tracing::Span;

use crate::engine::EngineError;
use crate::settings;

/// Processes and threads of a step unless the settings say otherwise: enough for a compiler on
/// many cores, few enough for the host to go on under a fork bomb.
const PIDS: u64 = 16_384;

/// What steps may use at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLimits {
    limits: Limits,
    /// Which of them the settings name.
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    memory: bool,
    pids: bool,
    cpus: bool,
}

impl StepLimits {
    /// What the settings say, with what stands where they say nothing: three quarters of the
    /// machine's memory, 16384 processes, all cores.
    pub fn new(build: &settings::Build) -> Self {
        let told = Told {
            memory: build.memory.is_some(),
            pids: build.pids.is_some(),
            cpus: build.cpus.is_some(),
        };
        let memory = build.memory.map(|memory| memory.as_u64());
        let pids = build.pids.map(|pids| pids as u64);
        Self {
            limits: Limits {
                cpus: build.cpus.map(settings::Cpus::cores),
                memory: memory.or_else(|| machine_memory().map(|all| all / 4 * 3)),
                pids: Some(pids.unwrap_or(PIDS)),
            },
            told,
        }
    }

    /// Each limit for itself: its setting, and whether that is set.
    fn each(&self) -> [(&'static str, bool, Limits); 3] {
        let none = Limits::default();
        let (Limits { cpus, memory, pids }, told) = (self.limits, self.told);
        [
            ("build.memory", told.memory, Limits { memory, ..none }),
            ("build.pids", told.pids, Limits { pids, ..none }),
            ("build.cpus", told.cpus, Limits { cpus, ..none }),
        ]
    }

    /// The first setting that asks for a limit.
    fn told_setting(&self) -> Option<&'static str> {
        let mut each = self.each().into_iter();
        each.find(|(_, told, _)| *told).map(|(setting, ..)| setting)
    }
}

/// Bytes of memory of the machine.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// The control groups of one engine.
#[derive(Debug)]
pub(super) struct Groups {
    /// `None` where there are none that could be used.
    place: Option<(Hierarchies, PathBuf)>,
    limits: StepLimits,
    next: AtomicU64,
    warned: AtomicBool,
}

/// The group of the processes of a step; removed with what is left in it.
#[derive(Debug)]
pub(super) struct StepGroup {
    group: Option<Group>,
}

impl Groups {
    /// Groups of the engine that keeps its files in `dir`; what an earlier life of it left is
    /// removed.
    pub(super) fn begin(dir: &Path, limits: StepLimits) -> Self {
        let name = Digest::of(dir.as_os_str().as_encoded_bytes()).hex();
        let name = format!("builds-{}", &name[..16]);
        let begun = Hierarchies::detect().and_then(|hierarchies| {
            let life = cgroup::begin(&hierarchies, &name)?;
            Ok((hierarchies, life))
        });
        let place = match begun {
            Ok((hierarchies, life)) => {
                for (group, error) in life.stuck {
                    let error = chain(&error);
                    let group = group.name().display().to_string();
                    tracing::warn!(group, error, "an old control group of builds stays");
                }
                Some((hierarchies, life.path))
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "no control groups for builds");
                None
            }
        };
        Self {
            place,
            limits,
            next: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        }
    }

    /// A group with all limits.
    ///
    /// # Errors
    /// When a limit of the settings cannot be kept; says which setting to change.
    pub(super) fn make(&self) -> Result<StepGroup, EngineError> {
        let Some((hierarchies, own)) = &self.place else {
            return self.without(&CgroupError::NotMounted);
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let group = match Group::create(hierarchies, own.join(number.to_string())) {
            Ok(group) => group,
            Err(error) => return self.without(&error),
        };
        let made = StepGroup {
            group: Some(group.clone()),
        };
        for (setting, told, limits) in self.limits.each() {
            match group.limit(&limits) {
                Ok(()) => {}
                Err(error) if told => return Err(unkept(setting, &error)),
                Err(error) => self.warn(setting, &error),
            }
        }
        Ok(made)
    }

    fn without(&self, error: &CgroupError) -> Result<StepGroup, EngineError> {
        if let Some(setting) = self.limits.told_setting() {
            return Err(unkept(setting, error));
        }
        self.warn("build.memory, build.pids", error);
        Ok(StepGroup { group: None })
    }

    fn warn(&self, setting: &str, error: &CgroupError) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let error = chain(error);
            tracing::warn!(setting, error, "build steps run without this limit");
        }
    }

    /// What a step died of, if it was one of the limits; in words.
    pub(super) fn cause(&self, stats: &Stats) -> Option<String> {
        let Limits { memory, pids, .. } = self.limits.limits;
        if stats.oom_kills > 0 {
            let limit = ByteSize(memory.unwrap_or_default());
            return Some(format!(
                "it was killed since it needed more memory than the limit of {limit} (setting `build.memory`)"
            ));
        }
        let pids = pids.filter(|_| stats.fork_refusals > 0)?;
        Some(format!(
            "it reached the limit of {pids} processes and threads (setting `build.pids`)"
        ))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if let Some((hierarchies, own)) = &self.place {
            Group::named(hierarchies, own).remove_if_empty();
            Group::named(hierarchies, cgroup::TOP).remove_if_empty();
        }
    }
}

impl StepGroup {
    /// Its directories, to be named in the run.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        self.group
            .as_ref()
            .map(Group::directories)
            .unwrap_or_default()
    }

    /// What its processes, which have ended, used; removes it.
    pub(super) async fn end(mut self) -> Stats {
        let Some(group) = self.group.take() else {
            return Stats::default();
        };
        let span = Span::current();
        let ended = tokio::task::spawn_blocking(move || {
            let _of = span.entered();
            let stats = group.stats();
            remove(&group);
            stats
        });
        match ended.await {
            Ok(Ok(stats)) => stats,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "use of a step is not known");
                Stats::default()
            }
            Err(_) => Stats::default(),
        }
    }
}

impl Drop for StepGroup {
    fn drop(&mut self) {
        // Of a step that was given up: its processes are just ending.
        if let Some(group) = self.group.take() {
            let span = Span::current();
            std::thread::spawn(move || span.in_scope(|| remove(&group)));
        }
    }
}

fn remove(group: &Group) {
    if let Err(error) = group.remove() {
        tracing::warn!(error = chain(&error), "a control group of a step stays");
    }
}

fn unkept(setting: &str, error: &CgroupError) -> EngineError {
    EngineError::Host(format!(
        "the limit of the setting `{setting}` cannot be kept: {}; unset it to build without, or see `chalk doctor`",
        chain(error)
    ))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_set_is_sensible() {
        let limits = StepLimits::new(&settings::Build::default());
        let all = machine_memory().unwrap();
        assert_eq!(limits.limits.memory, Some(all / 4 * 3));
        assert_eq!((limits.limits.pids, limits.limits.cpus), (Some(PIDS), None));
        assert_eq!(limits.told_setting(), None);
    }

    #[test]
    fn a_limit_that_was_asked_for_is_kept_or_told() {
        let groups = |build: settings::Build| Groups {
            place: None,
            limits: StepLimits::new(&build),
            next: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        };
        let mut build = settings::Build::default();
        assert!(
            groups(build.clone())
                .make()
                .unwrap()
                .directories()
                .is_empty()
        );
        build.pids = Some(100);
        let error = groups(build).make().unwrap_err().to_string();
        assert!(error.contains("`build.pids`"), "{error}");
        assert!(error.contains("mount cgroup2"), "{error}");
    }

    #[test]
    fn a_step_that_died_of_a_limit_says_so() {
        let build = settings::Build {
            memory: Some(ByteSize::mib(64)),
            pids: Some(7),
            ..settings::Build::default()
        };
        let groups = Groups {
            place: None,
            limits: StepLimits::new(&build),
            next: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        };
        let cause = |oom_kills, fork_refusals| {
            groups.cause(&Stats {
                oom_kills,
                fork_refusals,
                ..Stats::default()
            })
        };
        assert_eq!(cause(0, 0), None);
        let memory = cause(1, 3).unwrap();
        assert!(
            memory.contains("64.0 MiB") && memory.contains("`build.memory`"),
            "{memory}"
        );
        let pids = cause(0, 1).unwrap();
        assert!(
            pids.contains("limit of 7") && pids.contains("`build.pids`"),
            "{pids}"
        );
    }
}
