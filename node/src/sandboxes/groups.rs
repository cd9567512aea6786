//! The control group above those of all sandboxes of a node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chalk_sandbox::cgroup::{CgroupError, Group, Hierarchies};

/// Group of the groups of all nodes of a host.
const TOP: &str = "chalk";

/// How long a group that does not get empty is tried to be removed in the background.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes the groups of earlier lives of the node `name`, with what still runs in them, and gives
/// the path of one for this life. A group that does not get empty (processes in a frozen group, or
/// such that wait for a dead network filesystem, do not end) is left to the background.
pub(super) fn begin(hierarchies: &Hierarchies, name: &str) -> Result<PathBuf, CgroupError> {
    let top = Group::named(hierarchies, TOP);
    let mut stuck = BTreeSet::new();
    for old in top.children()? {
        if !is_of(&old, name) {
            continue;
        }
        let group = Group::named(hierarchies, Path::new(TOP).join(&old));
        if let Err(error) = group.remove() {
            tracing::warn!(
                group = old,
                error = %super::problems::chain(&error),
                "a control group of an earlier life of the node cannot be removed yet"
            );
            remove_later(group, old.clone());
            stuck.insert(old);
        }
    }
    let mut own = name.to_owned();
    let mut number = 0;
    while stuck.contains(&own) {
        number += 1;
        own = format!("{name}.{number}");
    }
    Ok(Path::new(TOP).join(own))
}

/// Whether a group is that of a life of the node `name`.
fn is_of(group: &str, name: &str) -> bool {
    let rest = group.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
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
