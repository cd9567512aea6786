//! The control group above those of all sandboxes of a node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chalk_sandbox::cgroup::{self, CgroupError, Group, Hierarchies};
use chalk_sandbox::userns;

/// How long a group that does not get empty is tried to be removed in the background.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hands `hierarchies` on if groups can be made in them. What keeps root from it is told by the first
/// sandbox; root of a user namespace, whom it is mostly not for to make any, goes without.
pub(super) fn usable(hierarchies: Hierarchies) -> Result<Hierarchies, CgroupError> {
    if userns::inside() {
        let name = Path::new(cgroup::TOP).join(format!("trial-{}", std::process::id()));
        Group::create(&hierarchies, name)?.remove()?;
    }
    Ok(hierarchies)
}

/// Removes the groups of earlier lives of the node `name`, with what still runs in them, and gives
/// the path of one for this life. A group that does not get empty is left to the background.
pub(super) fn begin(hierarchies: &Hierarchies, name: &str) -> Result<PathBuf, CgroupError> {
    let life = cgroup::begin(hierarchies, name)?;
    for (group, error) in life.stuck {
        let name = group.name().display().to_string();
        tracing::warn!(
            group = name,
            error = %super::problems::chain(&error),
            "a control group of an earlier life of the node cannot be removed yet"
        );
        remove_later(group, name);
    }
    Ok(life.path)
}

fn remove_later(group: Group, name: String) {
    let work = move || match group.remove_within(PATIENCE) {
        Ok(()) => tracing::info!(group = name, "the old control group is removed"),
        Err(error) => tracing::warn!(
            group = name,
            error = %super::problems::chain(&error),
            "the old control group stays; the next start of the node tries again"
        ),
    };
    let thread = std::thread::Builder::new().name("old control groups".into());
    if let Err(error) = thread.spawn(work) {
        tracing::warn!(%error, "no thread to remove an old control group");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_group_that_stays_keeps_no_node_from_starting() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path();
        fs::write(root.join("cgroup.controllers"), "cpu memory pids").expect("written");
        let mounts = format!(
            "31 24 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
            root.display()
        );
        let hierarchies = Hierarchies::from_mounts(&mounts).expect("found");
        let begin = || begin(&hierarchies, "abc").expect("begins");
        assert_eq!(begin(), Path::new("chalk/abc"));
        // What is no control group can be removed as little as one with processes.
        let stuck = root.join("chalk/abc/7");
        fs::create_dir_all(&stuck).expect("made");
        fs::write(stuck.join("file"), "").expect("written");
        fs::create_dir(root.join("chalk/abcdef")).expect("made");
        fs::create_dir(root.join("chalk/abc.1")).expect("made");
        assert_eq!(begin(), Path::new("chalk/abc.1"));
        assert!(root.join("chalk/abcdef").exists());
        fs::remove_file(stuck.join("file")).expect("removed");
        assert_eq!(begin(), Path::new("chalk/abc"));
        assert!(!stuck.exists());
    }
}
