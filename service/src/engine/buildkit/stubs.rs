//! Mount points that a builder leaves in a layer. An old BuildKit also leaves directories in it in which
//! it made and removed some, although they are as they were.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use chalk_store::stack::{EntryKind, Stack};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::engine::embedded::owners::overlay_attrs;

/// A directory that holds nothing in its layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bare {
    /// Relative to the root.
    path: String,
    /// Whether a mount point in it was removed.
    held_stub: bool,
}

/// Removes the empty files and directories at `targets`, absolute paths, from the layer in `root`. Gives
/// the directories above them that hold nothing else, deepest first.
///
/// # Errors
/// When the file system refuses; in words.
pub(super) fn remove(root: &Path, targets: &[String]) -> Result<Vec<Bare>, String> {
    let mut targets: Vec<&str> = targets.iter().map(|path| path.trim_matches('/')).collect();
    targets.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    let work = || -> Result<Vec<Bare>, Errno> {
        let root = open(root)?;
        let mut above: Vec<Bare> = Vec::new();
        for target in targets {
            let held_stub = remove_bare(&root, target, true)?;
            let mut path = target;
            while let Some((parent, _)) = path.rsplit_once('/') {
                path = parent;
                match above.iter_mut().find(|known| known.path == path) {
                    Some(known) => known.held_stub |= held_stub,
                    None => above.push(Bare {
                        path: path.to_owned(),
                        held_stub,
                    }),
                }
            }
        }
        above.sort_by_key(|bare| std::cmp::Reverse(bare.path.matches('/').count()));
        let mut bare = Vec::new();
        for dir in above {
            if only_bare(&root, &dir.path, &bare)? {
                bare.push(dir);
            }
        }
        Ok(bare)
    };
    work().map_err(words)
}

/// Removes those of the directories that are in the layer as they are below it (directories of layers,
/// the topmost first), and those that were made for a mount point.
///
/// # Errors
/// When the file system refuses; in words.
pub(super) fn remove_unchanged(
    root: &Path,
    bare: Vec<Bare>,
    below: &[PathBuf],
) -> Result<(), String> {
    let stack = Stack::open(below, overlay_attrs()).map_err(|e| e.to_string())?;
    let root = open(root).map_err(words)?;
    for Bare { path, held_stub } in bare {
        let Some((_, _, stat)) = find(&root, &path).map_err(words)? else {
            continue;
        };
        let found = stack.lookup(&path, false).map_err(|e| e.to_string())?;
        let unneeded = match found {
            Some(there) => {
                there.kind() == EntryKind::Dir
                    && (there.mode() & 0o7777, there.uid(), there.gid())
                        == (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
            }
            None => held_stub,
        };
        if unneeded {
            remove_bare(&root, &path, false).map_err(words)?;
        }
    }
    Ok(())
}

fn words(error: Errno) -> String {
    let error = std::io::Error::from(error);
    format!("mount points cannot be removed: {error}")
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// The directory that holds `path`, the name in it, and what is there; no link is followed.
fn find<'a>(root: &OwnedFd, path: &'a str) -> Result<Option<(OwnedFd, &'a str, Stat)>, Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    if name.is_empty() {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let parent = match rustix::fs::openat2(root, parent, flags, Mode::empty(), within) {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error),
    };
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some((parent, name, stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a directory holds; `None` when it hides what is below, and so says something by being empty.
fn children(parent: &OwnedFd, name: &str) -> Result<Option<Vec<Vec<u8>>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut value = [0_u8; 1];
    if rustix::fs::fgetxattr(&dir, overlay_attrs().opaque(), &mut value[..]).is_ok() {
        return Ok(None);
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(Some(names))
}

/// Whether a directory of the layer holds nothing but directories that hold nothing.
fn only_bare(root: &OwnedFd, path: &str, bare: &[Bare]) -> Result<bool, Errno> {
    let Some((parent, name, stat)) = find(root, path)? else {
        return Ok(false);
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(false);
    }
    let names = children(&parent, name)?;
    Ok(names.is_some_and(|names| {
        names.iter().all(|name| {
            let child = format!("{path}/{}", String::from_utf8_lossy(name));
            bare.iter().any(|known| known.path == child)
        })
    }))
}

/// Removes an empty directory, or an empty file if that is asked for; whether it did.
fn remove_bare(root: &OwnedFd, path: &str, file_too: bool) -> Result<bool, Errno> {
    let Some((parent, name, stat)) = find(root, path)? else {
        return Ok(false);
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if file_too && stat.st_size == 0 => {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())?;
            Ok(true)
        }
        FileType::Directory if children(&parent, name)?.is_some_and(|c| c.is_empty()) => {
            rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn mount_points_go_and_what_a_step_did_stays() {
        let temp = tempfile::tempdir().unwrap();
        let (layer, below) = (temp.path().join("layer"), temp.path().join("below"));
        let at = |path: &str| layer.join(path);
        let dirs = [
            "run/secrets",
            "root/.cache/pip",
            "srv/data",
            "etc",
            "opt/made/by/step",
            "var/x",
            "proc",
        ];
        for dir in dirs {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for dir in ["run", "root", "srv", "etc", "var"] {
            fs::create_dir_all(below.join(dir)).unwrap();
        }
        // Changed by the step, which did nothing else in it.
        fs::set_permissions(at("root"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(below.join("root"), fs::Permissions::from_mode(0o755)).unwrap();
        for file in ["run/secrets/a", "etc/resolv.conf", "etc/hosts", "srv/note"] {
            fs::write(at(file), "").unwrap();
        }
        fs::write(at("var/passwd"), "x").unwrap();
        std::os::unix::fs::symlink("etc", at("link")).unwrap();
        let targets = [
            "/run/secrets/a",
            "/root/.cache/pip",
            "/srv/data",
            "/etc/resolv.conf",
            "/etc/hosts",
            "/var/passwd",
            "/var/x/not/there",
            "/opt/made/by/absent",
            "/link/hosts",
            "/proc",
        ];
        let bare = remove(&layer, &targets.map(str::to_owned)).unwrap();
        remove_unchanged(&layer, bare, &[below]).unwrap();
        for gone in ["run", "root/.cache", "srv/data", "etc", "proc"] {
            assert!(!at(gone).exists(), "{gone}");
        }
        for kept in [
            "root",
            "srv/note",
            "var/passwd",
            "var/x",
            "opt/made/by/step",
        ] {
            assert!(at(kept).exists(), "{kept}");
        }
        assert!(at("link").is_symlink());
    }
}
