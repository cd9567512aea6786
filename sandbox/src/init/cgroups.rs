//! Joins control groups.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::report::At as _;
use crate::error::{SetupError, Stage};

/// Opens the groups at `directories` for [`join`].
pub(super) fn open(directories: &[PathBuf]) -> Result<Vec<(PathBuf, OwnedFd)>, SetupError> {
    directories
        .iter()
        .map(|directory| {
            let path = directory.join("cgroup.procs");
            let file = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .at(Stage::ControlGroup, path.display())?;
            Ok((path, file))
        })
        .collect()
}

/// Moves this process into the groups.
pub(super) fn join(groups: &[(PathBuf, OwnedFd)]) -> Result<(), SetupError> {
    for (path, file) in groups {
        rustix::io::write(file, b"0").at(Stage::ControlGroup, path.display())?;
    }
    Ok(())
}
