//! A directory that nothing leads out of.
//!
//! Paths are resolved by the kernel with `openat2(2)` and `RESOLVE_IN_ROOT`: symbolic links,
//! absolute ones too, and `..` end inside the root. Where an old kernel or a seccomp profile
//! lacks the call, the components are walked one by one and a symbolic link on the way is an
//! error.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::pack::names;

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// An open directory, used as root.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let fd = rustix::fs::open(path, DIR, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens the directory at `path` (relative; empty for the root), following links inside.
    pub(crate) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return rustix::fs::openat(&self.fd, ".", DIR, Mode::empty());
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let name = OsStr::from_bytes(path);
        // EAGAIN: something outside was renamed while `..` was resolved; ask again.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.fd, name, DIR, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => return self.walk(path),
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    fn walk(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut dir = rustix::fs::openat(&self.fd, ".", DIR, Mode::empty())?;
        for name in path.split(|b| *b == b'/') {
            if name == b".." {
                return Err(Errno::XDEV);
            }
            let flags = DIR | OFlags::NOFOLLOW;
            dir = rustix::fs::openat(&dir, OsStr::from_bytes(name), flags, Mode::empty())?;
        }
        Ok(dir)
    }
}

/// Inspects `name` in `dir` without following it; `None` when it is not there.
pub(crate) fn stat(dir: &OwnedFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether a file is overlayfs' mark of a deletion.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes `name` in `dir` with all below it, whatever modes and flags it has; absent is fine.
/// Links are removed, never followed, and no other file system is entered: a mount point in the
/// tree fails with `EBUSY`.
pub(crate) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let mut ahead = vec![name.to_vec()];
    while let Some(name) = ahead.pop() {
        remove_level(dir, &name, dir, DEPTH, &mut ahead)?;
    }
    Ok(())
}

/// Levels descended at once: each costs a descriptor and a stack frame, and a hostile tree may
/// have more than there are of either. What is deeper is moved up to the top.
const DEPTH: usize = 64;

fn remove_level(
    dir: BorrowedFd<'_>,
    name: &[u8],
    top: BorrowedFd<'_>,
    depth: usize,
    moved: &mut Vec<Vec<u8>>,
) -> Result<(), Errno> {
    let path = OsStr::from_bytes(name);
    let unlink = |flags| rustix::fs::unlinkat(dir, path, flags);
    match unlink(AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        // Also what POSIX says for a directory; the immutable flag and a read-only parent, too.
        Err(Errno::PERM | Errno::ACCESS) => {
            make_changeable(dir);
            clear_flags(dir, path);
            match unlink(AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR) => {}
                Err(e @ (Errno::PERM | Errno::ACCESS)) => {
                    let is_dir = rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|s| is_dir(&s));
                    if !is_dir {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Err(e) => return Err(e),
    }
    match unlink(AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::PERM | Errno::ACCESS) => {}
        Err(e) => return Err(e),
    }
    let flags = DIR | OFlags::NOFOLLOW;
    let below = match rustix::fs::openat(dir, path, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(0o700);
            rustix::fs::chmodat(dir, path, mode, AtFlags::empty())?;
            rustix::fs::openat(dir, path, flags, Mode::empty())?
        }
        opened => opened?,
    };
    make_changeable(below.as_fd());
    for child in names(&below)? {
        if depth > 0 {
            remove_level(below.as_fd(), &child, top, depth - 1, moved)?;
            continue;
        }
        let child = OsStr::from_bytes(&child);
        clear_flags(below.as_fd(), child);
        if rustix::fs::unlinkat(&below, child, AtFlags::empty()).is_ok() {
            continue;
        }
        let name = format!(".old-{:032x}", rand::random::<u128>());
        rustix::fs::renameat(&below, child, top, name.as_str())?;
        moved.push(name.into_bytes());
    }
    clear_flags(dir, path);
    match unlink(AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Lets entries of a directory be removed: owner may write, and it is neither immutable nor
/// append-only. Failure shows in the removal that follows.
fn make_changeable(dir: BorrowedFd<'_>) {
    let _ = set_no_flags(dir);
    if let Ok(stat) = rustix::fs::fstat(dir)
        && stat.st_mode & 0o700 != 0o700
    {
        let mode = Mode::from_raw_mode(stat.st_mode | 0o700);
        let _ = rustix::fs::fchmod(dir, mode);
    }
}

fn clear_flags(dir: BorrowedFd<'_>, name: &OsStr) {
    // Only files and directories have such flags; opening a device could do harm.
    let sound = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| {
        matches!(
            FileType::from_raw_mode(s.st_mode),
            FileType::RegularFile | FileType::Directory
        )
    });
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if sound && let Ok(file) = rustix::fs::openat(dir, name, flags, Mode::empty()) {
        let _ = set_no_flags(file.as_fd());
    }
}

#[cfg(target_os = "linux")]
fn set_no_flags(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    use rustix::fs::IFlags;
    let flags = rustix::fs::ioctl_getflags(fd)?;
    let locked = IFlags::IMMUTABLE | IFlags::APPEND;
    if flags.intersects(locked) {
        rustix::fs::ioctl_setflags(fd, flags - locked)?;
    }
    Ok(())
}

/// Names of a file's extended attributes; none where the file system has none.
pub(crate) fn file_attrs(fd: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list: Vec<u8> = Vec::with_capacity(1024);
    loop {
        match rustix::fs::flistxattr(fd, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => break,
            Err(Errno::RANGE) => list.reserve(64 * 1024),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    }
    let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Value of a file's extended attribute; `None` when it has none of that name.
pub(crate) fn file_attr(fd: &OwnedFd, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let mut value: Vec<u8> = Vec::with_capacity(256);
    loop {
        match rustix::fs::fgetxattr(fd, &name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => return Ok(Some(value)),
            Err(Errno::RANGE) => value.reserve(64 * 1024),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}
