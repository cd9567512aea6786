//! What a dead service must not leave on its host: processes, mounts, control groups, temporary
//! files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::MARK;

/// How long processes may take to die with the one that started them.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names of temporary files and directories of ours.
const TEMPORARY: [&str; 4] = [".tmp", ".new-", ".old-", "blob-"];
/// Directories whose every entry is temporary.
const FOR_TEMPORARY: [&str; 3] = ["tmp", "engine/scratch", "state/imports"];

/// Processes of a trial, save those that live and what belongs to them.
fn processes(mark: &str, living: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    let marked = format!("{MARK}={mark}");
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        let environ = read("environ");
        let command = read("cmdline");
        let is_marked = environ
            .split(|b| *b == 0)
            .any(|one| one == marked.as_bytes());
        // Steps have a clean environment; their words tell whose they are.
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let is_step = command.contains(&format!("{mark}-"));
        if (is_marked || is_step) && !belongs(pid, living) {
            found.push(format!("process {pid}: {command}"));
        }
    }
    found
}

/// Whether a process is one of those that live, or one that they started.
fn belongs(mut pid: u32, living: &[u32]) -> bool {
    for _ in 0..20 {
        if living.contains(&pid) {
            return true;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        match parent {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// Mounts of any process that use the disk, save that of the disk itself.
fn mounts(disk: &Path) -> Vec<String> {
    let inside = format!("{}/", disk.display());
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path().join("mountinfo");
        let mounts = fs::read_to_string(&path).unwrap_or_default();
        let lines = mounts.lines().filter(|line| line.contains(&inside));
        found.extend(lines.map(|line| format!("mount in {}: {line}", path.display())));
    }
    found
}

/// Loop devices over files of the disk.
fn loops(disk: &Path) -> Vec<String> {
    let inside = format!("{}/", disk.display());
    let mut found = Vec::new();
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        if file.starts_with(&inside) {
            let name = device.file_name().to_string_lossy().into_owned();
            found.push(format!("loop device {name} over {}", file.trim()));
        }
    }
    found
}

/// Control groups that are named after the service or the trial.
fn groups(mark: &str, service: Option<u32>) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let of_service = service.is_some_and(|pid| name.contains(&format!("chalk-{pid}")));
            if name.contains(mark) || of_service {
                found.push(format!("control group {}", entry.path().display()));
            }
            if depth < 5 {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Temporary files in a state directory. Uploads that a client may yet go on with are none.
fn files(state: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![state.to_owned()];
    while let Some(folder) = open.pop() {
        let all = FOR_TEMPORARY.iter().any(|name| folder.ends_with(name));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if all || TEMPORARY.iter().any(|word| name.starts_with(word)) {
                found.push(format!("temporary file {}", entry.path().display()));
                continue;
            }
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            // What lies deeper in a layer is the image's.
            if is_dir && !folder.ends_with("engine/layers") {
                open.push(entry.path());
            }
        }
    }
    found
}

/// Where to look.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    /// What marks the processes of the trial.
    pub(crate) mark: &'a str,
    /// Disk with mounts and loop devices; none while a node lives, which has some ready.
    pub(crate) disk: Option<&'a Path>,
    /// State directory with temporary files; none before the start that sweeps them.
    pub(crate) state: Option<&'a Path>,
}

/// What is left of the past of a trial while the living, if there are any, are idle.
pub(crate) fn find(places: &Places<'_>, living: &[u32], dead: u32) -> Vec<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut found = processes(places.mark, living);
        if let Some(disk) = places.disk {
            found.extend(mounts(disk));
            found.extend(loops(disk));
        }
        found.extend(groups(places.mark, Some(dead)));
        found.extend(places.state.map(files).unwrap_or_default());
        // The dead take a moment to go.
        if found.is_empty() || Instant::now() > until {
            return found;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}
