//! Several layer directories made into one, by hard links: no contents are copied.
//!
//! Needed where a chain has more layers than an overlay can stack well, and where neighbouring
//! layers are joined for an image that would have too many. What the result hides of layers below
//! is what the parts hid together: whiteouts stay, and a directory is opaque when one of its parts
//! was, or when something else of its name was removed or replaced in between.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::owners::overlay_attrs;

type Result<T> = std::result::Result<T, Errno>;

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Merges directories, the lowest first, into the empty directory `into` on the same file system.
/// Blocks.
///
/// # Errors
/// When the file system refuses, such as with too many links to one file.
pub(super) fn merge<P: AsRef<Path>>(parts: &[P], into: &Path) -> std::io::Result<()> {
    let out = rustix::fs::open(into, DIR, Mode::empty())?;
    for part in parts {
        let part = rustix::fs::open(part.as_ref(), DIR, Mode::empty())?;
        lay_over(&part, &out)?;
    }
    Ok(())
}

/// Lays what is in `from` over what is in `into`.
fn lay_over(from: &OwnedFd, into: &OwnedFd) -> Result<()> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let stat = stat(from, name)?.ok_or(Errno::NOENT)?;
        let there = self::stat(into, name)?;
        if !is_dir(&stat) {
            if let Some(there) = there {
                remove(into, name, is_dir(&there))?;
            }
            rustix::fs::linkat(from, name, into, name, AtFlags::empty())?;
            continue;
        }
        let part = rustix::fs::openat(from, name, DIR, Mode::empty())?;
        let opaque = is_opaque(&part)?;
        // What is removed or replaced here may also be further down, and must stay hidden there.
        let hides = match &there {
            Some(there) if is_dir(there) => {
                opaque || {
                    let old = rustix::fs::openat(into, name, DIR, Mode::empty())?;
                    is_opaque(&old)?
                }
            }
            Some(_) => true,
            None => opaque,
        };
        if let Some(there) = there
            && (opaque || !is_dir(&there))
        {
            remove(into, name, is_dir(&there))?;
        }
        match rustix::fs::mkdirat(into, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let target = rustix::fs::openat(into, name, DIR, Mode::empty())?;
        lay_over(&part, &target)?;
        dress(&part, &stat, &target)?;
        if hides {
            rustix::fs::fsetxattr(&target, overlay_attrs().opaque(), b"y", XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn stat(dir: &OwnedFd, name: &OsStr) -> Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_opaque(dir: impl AsFd) -> Result<bool> {
    let mut value = [0_u8; 8];
    match rustix::fs::fgetxattr(dir, overlay_attrs().opaque(), &mut value[..]) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a name with all below it. Nothing in a merged directory is ours alone but directories.
fn remove(dir: &OwnedFd, name: &OsStr, is_dir: bool) -> Result<()> {
    if !is_dir {
        return rustix::fs::unlinkat(dir, name, AtFlags::empty());
    }
    let inner = rustix::fs::openat(dir, name, DIR, Mode::empty())?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let stat = stat(&inner, name)?.ok_or(Errno::NOENT)?;
        remove(&inner, name, self::is_dir(&stat))?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Gives `target` owner, mode, attributes and times of the directory `from`.
fn dress(from: &OwnedFd, stat: &Stat, target: &OwnedFd) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(target, Some(uid), Some(gid))?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    for name in names[..length].split(|b| *b == 0) {
        let is_mark = [&b"trusted.overlay."[..], b"user.overlay."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if name.is_empty() || is_mark {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(target, name, &value[..length], XattrFlags::empty())?;
    }
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(target, &times)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use chalk_store::layer::OverlayAttrs;
    use chalk_store::stack::{EntryKind, Stack};

    use super::*;

    /// Makes a layer: `name/` is a directory, `name!` a whiteout, `name/!` an opaque directory,
    /// `name=text` a file.
    fn layer(parent: &Path, name: &str, entries: &[&str]) -> PathBuf {
        let dir = parent.join(name);
        fs::create_dir(&dir).unwrap();
        for entry in entries {
            if let Some(path) = entry.strip_suffix("/!") {
                fs::create_dir_all(dir.join(path)).unwrap();
                xattr::set(dir.join(path), overlay_attrs().opaque(), b"y").unwrap();
            } else if let Some(path) = entry.strip_suffix('!') {
                fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
                let kind = FileType::CharacterDevice;
                let at = dir.join(path);
                rustix::fs::mknodat(rustix::fs::CWD, at, kind, Mode::empty(), 0).unwrap();
            } else if let Some(path) = entry.strip_suffix('/') {
                fs::create_dir_all(dir.join(path)).unwrap();
            } else if let Some((path, text)) = entry.split_once('=') {
                fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
                fs::write(dir.join(path), text).unwrap();
            }
        }
        dir
    }

    fn show(stack: &Stack) -> Vec<String> {
        fn walk(entry: &chalk_store::stack::StackEntry, out: &mut Vec<String>) {
            for (_, child) in entry.read_dir().unwrap() {
                let path = String::from_utf8(child.path().to_vec()).unwrap();
                match child.kind() {
                    EntryKind::Dir => {
                        out.push(format!("{path}/"));
                        walk(&child, out);
                    }
                    _ => {
                        let mut text = String::new();
                        use std::io::Read as _;
                        child
                            .open_file()
                            .unwrap()
                            .read_to_string(&mut text)
                            .unwrap();
                        out.push(format!("{path}={text}"));
                    }
                }
            }
        }
        let mut out = Vec::new();
        walk(&stack.get("").unwrap(), &mut out);
        out
    }

    /// Merging the upper layers must look the same as stacking them.
    fn check(layers: &[&[&str]]) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = layers
            .iter()
            .enumerate()
            .map(|(i, entries)| layer(temp.path(), &i.to_string(), entries))
            .collect();
        let merged = temp.path().join("merged");
        fs::create_dir(&merged).unwrap();
        merge(&dirs[1..], &merged).unwrap();
        let stack = |dirs: &[PathBuf]| Stack::open(dirs, OverlayAttrs::Trusted).unwrap();
        let all: Vec<PathBuf> = dirs.iter().rev().cloned().collect();
        let expect = show(&stack(&all));
        assert_eq!(
            show(&stack(&[merged, dirs[0].clone()])),
            expect,
            "{layers:?}"
        );
    }

    #[test]
    fn merged_layers_look_like_stacked_ones() {
        check(&[&["a=0", "d/x=0"], &["a=1"], &["d/y=2"]]);
        check(&[&["a=0"], &["a!"], &["b=2"]]);
        check(&[&["a=0"], &["a!"], &["a=2"]]);
        check(&[&["d/x=0"], &["d!"], &["d/y=2"]]);
        check(&[&["d/x=0"], &["d=file"], &["d/y=2"]]);
        check(&[&["d/x=0"], &["d/y=1"], &["d/!", "d/z=2"]]);
        check(&[&["d/x=0"], &["d/!", "d/y=1"], &["d/z=2"]]);
        check(&[&["d/e/x=0"], &["d/e/y=1"], &["d=2"]]);
        check(&[&["d/e/x=0"], &["d/e!"], &["d/e/f/g=2"]]);
        check(&[
            &["d/e/x=0", "d/k=0"],
            &["d/e/"],
            &["d/e/x!"],
            &["d/k!", "d/e/x=3"],
        ]);
        check(&[&["a=0"], &["b=1"], &["b!"], &["b/c=3"]]);
    }

    #[test]
    fn keeps_links_and_modes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let temp = tempfile::tempdir().unwrap();
        let one = layer(temp.path(), "1", &["d/x=1"]);
        fs::hard_link(one.join("d/x"), one.join("d/y")).unwrap();
        fs::set_permissions(one.join("d"), fs::Permissions::from_mode(0o2750)).unwrap();
        std::os::unix::fs::chown(one.join("d"), Some(7), Some(8)).unwrap();
        fs::set_permissions(one.join("d"), fs::Permissions::from_mode(0o2750)).unwrap();
        let two = layer(temp.path(), "2", &["d/x=2"]);
        std::os::unix::fs::chown(two.join("d"), Some(7), Some(8)).unwrap();
        fs::set_permissions(two.join("d"), fs::Permissions::from_mode(0o2750)).unwrap();
        let merged = temp.path().join("merged");
        fs::create_dir(&merged).unwrap();
        merge(&[&one, &two], &merged).unwrap();
        let meta = fs::metadata(merged.join("d")).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()),
            (0o2750, 7, 8)
        );
        assert_eq!(fs::read(merged.join("d/x")).unwrap(), b"2");
        assert_eq!(fs::read(merged.join("d/y")).unwrap(), b"1");
        assert_eq!(fs::read(one.join("d/x")).unwrap(), b"1");
    }
}
