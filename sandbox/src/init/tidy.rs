//! Takes mount points that were made for a run out of the root again, when all its processes and
//! mounts are gone, so that a layer packed from it shows none of them.
//!
//! What the command made of the tree is respected: only entries that are still as they were made
//! (empty), and directories that are still as overlayfs copied them up, are taken away. Failures
//! are no errors of the run: they leave an empty directory or file behind.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use serde::{Deserialize, Serialize};

use super::mountpoint::{Kind, Made, Record};
use crate::spec::Root;

/// Attributes of overlayfs itself that come and go without a change of the directory.
const OVERLAY_BOOKKEEPING: [&str; 8] = [
    "trusted.overlay.origin",
    "trusted.overlay.impure",
    "trusted.overlay.nlink",
    "trusted.overlay.uuid",
    // Where it is mounted in a user namespace.
    "user.overlay.origin",
    "user.overlay.impure",
    "user.overlay.nlink",
    "user.overlay.uuid",
];

/// What a layer would say of a directory.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    extended: BTreeMap<String, Vec<u8>>,
}

impl Attributes {
    /// Those of an open directory.
    pub(super) fn of(directory: &OwnedFd) -> rustix::io::Result<Attributes> {
        let stat = rustix::fs::fstat(directory)?;
        Ok(Attributes {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            extended: extended_attributes(directory)?,
        })
    }
}

/// Undoes what `records` says: a line with JSON of the [`Root`] (null when nothing is to be
/// undone), and one of the [`Record`] of what was done to it; each may be missing when the set-up
/// failed before.
pub(super) fn tidy(records: &[u8]) {
    let mut lines = records.split(|byte| *byte == b'\n');
    let root = lines.next().map(serde_json::from_slice::<Option<Root>>);
    let Some(Ok(Some(root))) = root else {
        return;
    };
    let records = lines.next().unwrap_or_default();
    let root = &root;
    if let Root::Overlay {
        work,
        volatile: true,
        ..
    } = root
    {
        // The kernel's mark of an overlay that may be torn. This one has been unmounted in good
        // order; where that does not happen the mark stays.
        let _ = std::fs::remove_dir_all(work.join("work/incompat/volatile"));
    }
    take_back(root.writable(), records);
}

fn take_back(root: &Path, records: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(records) else {
        return;
    };
    if record.made.is_empty() {
        return;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(CWD, root, flags, Mode::empty()) else {
        return;
    };
    for made in record.made.iter().rev() {
        let _ = take_away(root.as_fd(), made);
    }
    for (path, attributes) in record.copied_up.iter().rev() {
        let _ = drop_copy(root.as_fd(), path, attributes);
    }
}

fn take_away(root: BorrowedFd<'_>, made: &Made) -> rustix::io::Result<()> {
    let Some((parent, name)) = parent_and_name(&made.path) else {
        return Ok(());
    };
    let parent = open_below(root, parent)?;
    let before = rustix::fs::fstat(&parent)?;
    let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match (made.kind, FileType::from_raw_mode(found.st_mode)) {
        // A directory that is not empty stays, by the kernel's refusal.
        (Kind::Directory, FileType::Directory) => {
            rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
        }
        (Kind::File, FileType::RegularFile) if found.st_size == 0 => {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
        }
        _ => return Ok(()),
    }
    if made.over_whiteout {
        let mode = Mode::empty();
        rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, mode, 0)?;
    }
    restore_times(&parent, &before)
}

fn drop_copy(root: BorrowedFd<'_>, path: &Path, attributes: &Attributes) -> rustix::io::Result<()> {
    let Some((parent, name)) = parent_and_name(path) else {
        return Ok(());
    };
    let parent = open_below(root, parent)?;
    if Attributes::of(&open_below(root, path)?)? == *attributes {
        let before = rustix::fs::fstat(&parent)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
        restore_times(&parent, &before)?;
    }
    Ok(())
}

/// Opens a directory below `root` by a path that must not contain links.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Sets the times of an open directory to those of `before`.
pub(super) fn restore_times(directory: &OwnedFd, before: &Stat) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: before.st_atime,
            tv_nsec: before.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: before.st_mtime,
            tv_nsec: before.st_mtime_nsec as _,
        },
    };
    rustix::fs::futimens(directory, &times)
}

fn parent_and_name(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

fn extended_attributes(directory: &OwnedFd) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::flistxattr(directory, &mut names)?;
    let mut found = BTreeMap::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = String::from_utf8_lossy(name).into_owned();
        if OVERLAY_BOOKKEEPING.contains(&name.as_str()) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(directory, &*name, &mut value)?;
        value.truncate(length);
        found.insert(name, value);
    }
    Ok(found)
}
