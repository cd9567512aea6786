//! The control group of one life of a program, above those of all its sandboxes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{CgroupError, Group, Hierarchies};

/// Group of the groups of all programs of a host.
pub const TOP: &str = "chalk";

/// The groups of a program that begins.
#[derive(Debug)]
pub struct Life {
    /// Path of the group of this life; it is not made yet.
    pub path: PathBuf,
    /// Groups of earlier lives that did not get empty, and why: processes in a frozen group, or
    /// such that wait for a dead network filesystem, do not end.
    pub stuck: Vec<(Group, CgroupError)>,
}

/// Removes the groups of earlier lives of the program `name`, with what still runs in them, and
/// gives the path of one for this life.
///
/// # Errors
/// [`CgroupError::File`].
pub fn begin(hierarchies: &Hierarchies, name: &str) -> Result<Life, CgroupError> {
    let top = Group::named(hierarchies, TOP);
    let (mut stuck, mut taken) = (Vec::new(), BTreeSet::new());
    for old in top.children()? {
        if !is_of(&old, name) {
            continue;
        }
        let group = Group::named(hierarchies, Path::new(TOP).join(&old));
        if let Err(error) = group.remove() {
            stuck.push((group, error));
            taken.insert(old);
        }
    }
    let mut own = name.to_owned();
    let mut number = 0;
    while taken.contains(&own) {
        number += 1;
        own = format!("{name}.{number}");
    }
    Ok(Life {
        path: Path::new(TOP).join(own),
        stuck,
    })
}

/// Whether a group is that of a life of the program `name`.
fn is_of(group: &str, name: &str) -> bool {
    let rest = group.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
