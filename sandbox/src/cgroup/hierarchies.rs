//! Finds the hierarchies of this host.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupError, file, write};

/// A controller that limits or counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Use of processor time; part of [`Controller::Cpu`] on version 2.
    CpuAccounting,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
}

const ALL: [Controller; 4] = [
    Controller::Cpu,
    Controller::CpuAccounting,
    Controller::Memory,
    Controller::Pids,
];

impl Controller {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::CpuAccounting => "cpuacct",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
        }
    }
}

/// Where the controllers are, each in the one hierarchy that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// Mount points of version 1, with their controllers; first the one whose joining takes
    /// longest matters not: they are in the order of the mounts.
    version_1: Vec<(PathBuf, Vec<Controller>)>,
    /// Mount point of version 2, with the controllers that are left to it.
    version_2: Option<(PathBuf, Vec<Controller>)>,
}

impl Hierarchies {
    /// Those of this process, from its mounts. A controller belongs to a hierarchy of version 1
    /// that is mounted with it, else to version 2 if its top has it. Where the group of this process
    /// was delegated, as systemd calls it, that group is taken for the top: systemd has said so, or
    /// the top is not for this user to change and the group is.
    ///
    /// # Errors
    /// [`CgroupError::Detect`], [`CgroupError::NotMounted`].
    pub fn detect() -> Result<Hierarchies, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(path).map_err(|source| CgroupError::Detect {
            path: path.to_owned(),
            source,
        })?;
        let mut found = Hierarchies::from_mounts(&mounts)?;
        if let Some((top, controllers)) = &mut found.version_2 {
            let path = Path::new("/proc/self/cgroup");
            let groups = fs::read_to_string(path).map_err(|source| CgroupError::Detect {
                path: path.to_owned(),
                source,
            })?;
            if let Some(own) = delegated(top, &groups, writable, handed_over) {
                *controllers = controllers_of(&own)?;
                *top = own;
            }
        }
        Ok(found)
    }

    /// Those in a text of the form of `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`CgroupError::NotMounted`], [`CgroupError::Detect`].
    pub fn from_mounts(mountinfo: &str) -> Result<Hierarchies, CgroupError> {
        let mut found = Hierarchies {
            version_1: Vec::new(),
            version_2: None,
        };
        for line in mountinfo.lines() {
            // Fields before the dash: id, parent, device, root, mount point, options, tags; after
            // it: type, source, options of the filesystem (proc(5)).
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(unescape) else {
                continue;
            };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    let controllers = pick(options.split(','));
                    let known = found
                        .version_1
                        .iter()
                        .any(|(_, known)| *known == controllers);
                    if !controllers.is_empty() && !known {
                        found.version_1.push((point, controllers));
                    }
                }
                (Some("cgroup2"), _) if found.version_2.is_none() => {
                    let controllers = controllers_of(&point)?;
                    found.version_2 = Some((point, controllers));
                }
                _ => {}
            }
        }
        if found.version_1.is_empty() && found.version_2.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(found)
    }

    /// Which versions of control groups are mounted, as people call it: `version 2`, `version 1` or
    /// `hybrid`.
    pub fn form(&self) -> &'static str {
        match (self.version_1.is_empty(), &self.version_2) {
            (true, _) => "version 2",
            (false, None) => "version 1",
            (false, Some(_)) => "hybrid",
        }
    }

    /// Whether there is `controller`.
    pub fn has(&self, controller: Controller) -> bool {
        self.root_of(controller).is_some()
    }

    /// The directory at the top of the hierarchy with `controller`, and whether it is version 2.
    pub(super) fn root_of(&self, controller: Controller) -> Option<(&Path, bool)> {
        let first = self.version_1.iter().map(|root| (root, false));
        let second = self.version_2.iter().map(|root| (root, true));
        first
            .chain(second)
            .find(|((_, controllers), _)| controllers.contains(&controller))
            .map(|((path, _), version_2)| (path.as_path(), version_2))
    }

    /// The tops of all hierarchies that have a controller, or of version 2 where none has.
    pub(super) fn roots(&self) -> Vec<&Path> {
        let all = self.version_1.iter().chain(&self.version_2);
        let used: Vec<&Path> = all
            .filter(|(_, controllers)| !controllers.is_empty())
            .map(|(path, _)| path.as_path())
            .collect();
        match (&self.version_2, used.is_empty()) {
            (Some((path, _)), true) => vec![path],
            _ => used,
        }
    }

    /// Hands the controllers of version 2 down to the group `name`, whose parents are made.
    pub(super) fn delegate(&self, name: &Path) -> Result<(), CgroupError> {
        let Some((root, controllers)) = &self.version_2 else {
            return Ok(());
        };
        if controllers.is_empty() {
            return Ok(());
        }
        let mut directory = root.clone();
        for part in name {
            let path = directory.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&path).map_err(file("read", &path))?;
            let missing: Vec<String> = controllers
                .iter()
                .filter(|controller| !enabled.split_whitespace().any(|on| on == controller.name()))
                .map(|controller| format!("+{}", controller.name()))
                .collect();
            if !missing.is_empty() {
                enable(&directory, &path, &missing.join(" "))?;
            }
            directory.push(part);
            fs::create_dir_all(&directory).map_err(file("make", &directory))?;
        }
        Ok(())
    }
}

/// The controllers that a group of version 2 has.
fn controllers_of(group: &Path) -> Result<Vec<Controller>, CgroupError> {
    let path = group.join("cgroup.controllers");
    let text = fs::read_to_string(&path).map_err(|source| CgroupError::Detect { path, source })?;
    let mut controllers = pick(text.split_whitespace());
    // Version 2 counts use of processors with the processors.
    controllers.retain(|c| *c != Controller::CpuAccounting);
    Ok(controllers)
}

/// The group of this process, if it was handed over or is this user's to change and the one at `top`
/// is not; `groups` is of the form of `/proc/self/cgroup`.
fn delegated(
    top: &Path,
    groups: &str,
    writable: impl Fn(&Path) -> bool,
    handed_over: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let mine = |group: &Path| {
        ["", "cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|file| writable(&group.join(file)))
    };
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = top.join(path);
    ((handed_over(&own) || !mine(top)) && mine(&own)).then_some(own)
}

/// Whether systemd has marked a group as delegated (systemd.resource-control(5), `Delegate=`).
fn handed_over(group: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].iter().any(|mark| {
        let mut value = [0; 1];
        let read = rustix::fs::getxattr(group, *mark, &mut value);
        read.is_ok() && value == *b"1"
    })
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Hands controllers down. A group that is not the true top, as in a container, cannot do so
/// while it has processes of its own: these go into a group below it first.
fn enable(directory: &Path, path: &Path, controllers: &str) -> Result<(), CgroupError> {
    match write(path, controllers) {
        Err(CgroupError::File { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {}
        result => return result,
    }
    let leaf = directory.join("chalk-init");
    fs::create_dir_all(&leaf).map_err(file("make", &leaf))?;
    let procs = directory.join("cgroup.procs");
    let text = fs::read_to_string(&procs).map_err(file("read", &procs))?;
    for pid in text.lines() {
        match write(&leaf.join("cgroup.procs"), pid) {
            Err(CgroupError::File { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {
            }
            result => result?,
        }
    }
    write(path, controllers)
}

fn pick<'a>(names: impl Iterator<Item = &'a str>) -> Vec<Controller> {
    let names: Vec<&str> = names.collect();
    ALL.into_iter()
        .filter(|controller| names.contains(&controller.name()))
        .collect()
}

/// Undoes the octal escapes of `mountinfo`.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delegated_group_is_found() {
        let check = |groups: &str, writable_below: &[&str], expect: Option<&str>| {
            let writable = |path: &Path| {
                let mut all = writable_below.iter();
                all.any(|below| path.starts_with(below))
            };
            let found = delegated(Path::new("/cg"), groups, writable, |_| false);
            assert_eq!(found.as_deref(), expect.map(Path::new), "{groups}");
        };
        let unit = "0::/user.slice/u.service/app.scope\n";
        let own = "/cg/user.slice/u.service/app.scope";
        // Root needs none, and most users have none.
        check(unit, &["/cg"], None);
        check(unit, &[], None);
        check(unit, &[own], Some(own));
        check(unit, &["/cg/user.slice/u.service"], Some(own));
        check("4:memory:/x\n1:name=systemd:/y\n", &["/cg/x"], None);
        // Root's unit that systemd has handed over is.
        let handed = delegated(
            Path::new("/cg"),
            unit,
            |_| true,
            |group| group == Path::new(own),
        );
        assert_eq!(handed.as_deref(), Some(Path::new(own)));
    }
}
