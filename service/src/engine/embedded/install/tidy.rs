//! What an install leaves behind that is no part of what was installed: logs, backups, caches and
//! times. Without them, the same packages give the same layer.
//!
//! The directory was written by hostile processes, which have ended: no link in it is followed.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

/// Files that tell what happened, or save a tool work that it can do again. What the base has
/// under these names shows again.
const LEFTOVERS: &[&str] = &[
    "var/log/apt/history.log",
    "var/log/apt/term.log",
    "var/log/apt/eipp.log.xz",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/log/fontconfig.log",
    "var/cache/ldconfig/aux-cache",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/passwords.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dpkg/available-old",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/statoverride-old",
    "var/lib/dpkg/status-old",
];

/// Where uv notes from when on a source tree that it installed is out of date.
const UV_NOTE: &[u8] = b"uv_cache.json";
/// Ends the directory with what is known of an installed package.
const DIST_INFO: &[u8] = b".dist-info";
/// Largest list of files of a package that is rewritten.
const RECORD_LIMIT: u64 = 64 << 20;

/// A directory that is being looked through.
struct Level {
    dir: OwnedFd,
    name: Vec<u8>,
    children: Vec<Vec<u8>>,
}

/// Tidies the upper directory of an install. No time in it is later than `epoch` after that, in
/// seconds after 1970.
///
/// # Errors
/// When the file system refuses; in words.
pub(in crate::engine) fn tidy(upper: &Path, epoch: i64) -> Result<(), String> {
    let tidied = open(upper).and_then(|root| {
        for path in LEFTOVERS {
            remove(&root, path)?;
        }
        walk(root, epoch)
    });
    tidied.map_err(|e| format!("cannot tidy up after the install: {}", io::Error::from(e)))
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Removes a regular file below `root`, if it is there and no link leads to it.
fn remove(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    let Some((parent, name)) = path.rsplit_once('/') else {
        return Ok(());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let parent = match rustix::fs::openat2(root, parent, flags, Mode::empty(), within) {
        Ok(parent) => parent,
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error),
    };
    match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            rustix::fs::unlinkat(&parent, name, AtFlags::empty())
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sets times back, deepest first, since a change in a directory is a change of its time.
fn walk(root: OwnedFd, epoch: i64) -> Result<(), Errno> {
    // In a list, since a hostile step can nest directories deeper than a thread's stack takes.
    let mut levels = vec![level(root, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.children.pop() else {
            let stat = rustix::fs::fstat(&level.dir)?;
            if is_later(stat.st_mtime, epoch) {
                rustix::fs::futimens(&level.dir, &times(epoch))?;
            }
            levels.pop();
            continue;
        };
        let stat = rustix::fs::statat(&level.dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(&level.dir, name.as_slice(), flags, Mode::empty())?;
            levels.push(self::level(dir, name)?);
            continue;
        }
        if name == UV_NOTE && level.name.ends_with(DIST_INFO) {
            rustix::fs::unlinkat(&level.dir, name.as_slice(), AtFlags::empty())?;
            forget_note(level, epoch)?;
        } else if is_later(stat.st_mtime, epoch) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(&level.dir, name.as_slice(), &times(epoch), flags)?;
        }
    }
    Ok(())
}

fn level(dir: OwnedFd, name: Vec<u8>) -> Result<Level, Errno> {
    let mut children = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            children.push(name.to_bytes().to_vec());
        }
    }
    Ok(Level {
        dir,
        name,
        children,
    })
}

fn is_later(time: i64, epoch: i64) -> bool {
    time > epoch
}

fn times(epoch: i64) -> Timestamps {
    let fixed = Timespec {
        tv_sec: epoch,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT as _,
        },
        last_modification: fixed,
    }
}

/// Takes uv's note out of the package's list of its files.
fn forget_note(level: &Level, epoch: i64) -> Result<(), Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let record = match rustix::fs::openat(&level.dir, "RECORD", flags, Mode::empty()) {
        Ok(record) => record,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let stat = rustix::fs::fstat(&record)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || stat.st_size as u64 > RECORD_LIMIT {
        return Ok(());
    }
    let mut record = File::from(record);
    let note = [level.name.as_slice(), b"/", UV_NOTE, b","].concat();
    let rewrite = |record: &mut File| -> io::Result<()> {
        let mut text = Vec::new();
        record.read_to_end(&mut text)?;
        let lines = text.split_inclusive(|byte| *byte == b'\n');
        let kept: Vec<u8> = lines
            .filter(|line| !line.starts_with(&note))
            .flatten()
            .copied()
            .collect();
        if kept.len() < text.len() {
            io::Seek::rewind(record)?;
            record.write_all(&kept)?;
            record.set_len(kept.len() as u64)?;
        }
        Ok(())
    };
    let rewritten = rewrite(&mut record);
    rewritten.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    rustix::fs::futimens(&record, &times(epoch))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    const EPOCH: i64 = 1_000_000;

    #[test]
    fn only_what_was_installed_stays() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("upper");
        let info = "usr/lib/python3/site-packages/pkg-1.dist-info";
        for dir in ["var/log/apt", "var/lib/dpkg", info] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["var/log/apt/term.log", "var/lib/dpkg/status-old"] {
            fs::write(root.join(file), "gone").unwrap();
        }
        fs::write(root.join("var/lib/dpkg/status"), "kept").unwrap();
        fs::write(root.join(info).join("uv_cache.json"), "{}").unwrap();
        let record = "pkg/a.py,sha256=x,1\npkg-1.dist-info/uv_cache.json,sha256=y,2\npkg-1.dist-info/RECORD,,\n";
        fs::write(root.join(info).join("RECORD"), record).unwrap();
        let old = root.join("old");
        fs::write(&old, "").unwrap();
        let before = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(77);
        File::options()
            .write(true)
            .open(&old)
            .unwrap()
            .set_modified(before)
            .unwrap();
        // Through links nothing is touched.
        let outside = temp.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("dpkg.log"), "of the host").unwrap();
        fs::remove_dir_all(root.join("var/log")).unwrap();
        symlink(&outside, root.join("var/log")).unwrap();
        let host = fs::metadata(outside.join("dpkg.log")).unwrap().mtime();

        tidy(&root, EPOCH).unwrap();

        assert!(root.join("var/lib/dpkg/status").exists());
        assert!(!root.join("var/lib/dpkg/status-old").exists());
        assert!(!root.join(info).join("uv_cache.json").exists());
        let record = fs::read_to_string(root.join(info).join("RECORD")).unwrap();
        assert_eq!(record, "pkg/a.py,sha256=x,1\npkg-1.dist-info/RECORD,,\n");
        let mtime = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().mtime();
        for path in [
            "",
            "var",
            "var/log",
            "var/lib/dpkg",
            "var/lib/dpkg/status",
            info,
        ] {
            assert_eq!(mtime(path), EPOCH, "{path}");
        }
        assert_eq!(mtime(&format!("{info}/RECORD")), EPOCH);
        assert_eq!(mtime("old"), 77);
        let kept = fs::metadata(outside.join("dpkg.log")).unwrap();
        assert_eq!(kept.mtime(), host);
    }

    #[test]
    fn logs_that_are_none_stay() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("var/log/dpkg.log")).unwrap();
        tidy(temp.path(), EPOCH).unwrap();
        assert!(temp.path().join("var/log/dpkg.log").is_dir());
    }
}
