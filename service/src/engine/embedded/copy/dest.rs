//! Where a copy writes: the upper directory of an overlay over the layers of the stage, without a
//! mount. A directory that exists below is made anew in the upper one with the same owner, mode
//! and times, as overlayfs' own copy-up does, and never opaque.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use chalk_store::layer::OverlayAttrs;
use chalk_store::stack::{EntryKind, Stack, StackEntry};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::source::{MTIME, Result, join, words};

/// Most symbolic links followed for one path, as Linux has it.
const MAX_LINKS: usize = 40;

/// The root that is written to.
pub(super) struct Dest {
    upper: PathBuf,
    root: OwnedFd,
    below: Option<Stack>,
    /// Modification times that directories get at the end, by path: writing into them changes
    /// what was set before.
    times: BTreeMap<Vec<u8>, i64>,
}

/// A directory in it.
pub(super) struct DestDir {
    path: Vec<u8>,
    fd: OwnedFd,
    below: Option<StackEntry>,
}

/// Owner, mode and time of something that is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: i64,
}

impl Facts {
    /// Of a directory that had to be made on the way.
    pub(super) fn new_dir(owner: (u32, u32)) -> Self {
        Self {
            mode: 0o755,
            owner,
            mtime: MTIME,
        }
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

fn failed<'a>(doing: &'a str, path: &'a [u8]) -> impl FnOnce(Errno) -> String + 'a {
    move |error| format!("cannot {doing} `{}`: {error}", shown(path))
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Dest {
    /// Opens an upper directory over the layers `lower`, the topmost first.
    pub(super) fn open(upper: &Path, lower: &[PathBuf]) -> Result<Self> {
        let root = rustix::fs::open(upper, DIR, Mode::empty())
            .map_err(|e| format!("cannot open {}: {e}", upper.display()))?;
        let below = match lower {
            [] => None,
            some => Some(Stack::open(some, OverlayAttrs::Trusted).map_err(|e| words(&e))?),
        };
        Ok(Self {
            upper: upper.to_owned(),
            root,
            below,
            times: BTreeMap::new(),
        })
    }

    /// The directory of the root itself.
    pub(super) fn root(&self) -> Result<DestDir> {
        let fd = self.root.as_fd().try_clone_to_owned();
        let below = match &self.below {
            Some(stack) => stack.lookup(b"", false).map_err(|e| words(&e))?,
            None => None,
        };
        Ok(DestDir {
            path: Vec::new(),
            fd: fd.map_err(|e| e.to_string())?,
            below,
        })
    }

    /// What is at a path, links not followed; the path must be resolved.
    fn look(&self, path: &[u8]) -> Result<Option<Found>> {
        if path.is_empty() {
            return Ok(Some(Found::Dir));
        }
        let mut dir = Some(
            self.root
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| e.to_string())?,
        );
        // In the upper directory, as far as it reaches; below it no mark of ours hides anything.
        let mut parts = path.split(|b| *b == b'/').peekable();
        while let (Some(fd), Some(part)) = (dir.take(), parts.next()) {
            match stat(&fd, part).map_err(failed("inspect", path))? {
                None => break,
                Some(stat) => {
                    let kind = FileType::from_raw_mode(stat.st_mode);
                    if parts.peek().is_none() {
                        return Ok(Some(match kind {
                            FileType::Directory => Found::Dir,
                            FileType::Symlink => Found::Link(
                                rustix::fs::readlinkat(&fd, os(part), Vec::new())
                                    .map_err(failed("read the link", path))?
                                    .into_bytes(),
                            ),
                            _ => Found::Other,
                        }));
                    }
                    if kind != FileType::Directory {
                        return Ok(None);
                    }
                    let next = rustix::fs::openat(&fd, os(part), DIR, Mode::empty());
                    dir = Some(next.map_err(failed("open", path))?);
                }
            }
        }
        let Some(stack) = &self.below else {
            return Ok(None);
        };
        let Some(entry) = stack.lookup(path, false).map_err(|e| words(&e))? else {
            return Ok(None);
        };
        Ok(Some(match entry.kind() {
            EntryKind::Dir => Found::Dir,
            EntryKind::Symlink => Found::Link(entry.read_link().map_err(|e| words(&e))?),
            _ => Found::Other,
        }))
    }

    /// Follows all links of an absolute path inside the root, also the last one. What does not
    /// exist is taken as it stands. The result has no leading slash.
    pub(super) fn resolve(&self, path: &str) -> Result<Vec<u8>> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            let words = path.split(|b| *b == b'/').rev();
            let words = words.filter(|w| !w.is_empty() && *w != b".");
            words.map(<[u8]>::to_vec).collect()
        };
        let mut ahead = split(path.as_bytes());
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                done.pop();
                continue;
            }
            done.push(name);
            if let Some(Found::Link(target)) = self.look(&done.join(&b'/'))? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(format!("`{path}` leads through too many symbolic links"));
                }
                done.pop();
                if target.starts_with(b"/") {
                    done.clear();
                }
                ahead.extend(split(&target));
            }
        }
        Ok(done.join(&b'/'))
    }

    /// Whether a resolved path is a directory.
    pub(super) fn is_dir(&self, path: &[u8]) -> Result<bool> {
        Ok(matches!(self.look(path)?, Some(Found::Dir)))
    }

    /// The directory at a resolved path; it and its parents are made if they are absent, and
    /// then belong to `owner`.
    pub(super) fn make_dirs(&mut self, path: &[u8], owner: (u32, u32)) -> Result<DestDir> {
        let mut dir = self.root()?;
        for part in path.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            dir = self.enter(&dir, part, Facts::new_dir(owner), false)?.0;
        }
        Ok(dir)
    }

    /// The directory `name` in `dir`, and whether it was made now. `replace` removes what is
    /// there instead.
    pub(super) fn enter(
        &mut self,
        dir: &DestDir,
        name: &[u8],
        facts: Facts,
        replace: bool,
    ) -> Result<(DestDir, bool)> {
        let path = join(&dir.path, name);
        let not_a_dir = || format!("cannot copy to non-directory: `{}`", shown(&path));
        let open = |fd: &OwnedFd| {
            rustix::fs::openat(fd, os(name), DIR, Mode::empty()).map_err(failed("open", &path))
        };
        let below = dir.below(name)?;
        match dir.stat(name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let below = below.filter(|b| b.kind() == EntryKind::Dir);
                let fd = open(&dir.fd)?;
                return Ok((DestDir { path, fd, below }, false));
            }
            Some(_) if !replace => return Err(not_a_dir()),
            Some(_) => rustix::fs::unlinkat(&dir.fd, os(name), AtFlags::empty())
                .map_err(failed("replace", &path))?,
            None => {}
        }
        let copied = match below {
            Some(entry) if entry.kind() == EntryKind::Dir => Some(entry),
            Some(_) if !replace => return Err(not_a_dir()),
            _ => None,
        };
        rustix::fs::mkdirat(&dir.fd, os(name), Mode::from_raw_mode(0o700))
            .map_err(failed("make the directory", &path))?;
        let made = DestDir {
            fd: open(&dir.fd)?,
            path,
            below: copied,
        };
        match &made.below {
            Some(entry) => {
                let facts = Facts {
                    mode: entry.mode(),
                    owner: (entry.uid(), entry.gid()),
                    mtime: entry.mtime(),
                };
                let attributes = entry.attributes().map_err(|e| words(&e))?;
                self.set_dir(&made, facts, &attributes)?;
                Ok((made, false))
            }
            None => {
                self.set_dir(&made, facts, &BTreeMap::new())?;
                Ok((made, true))
            }
        }
    }

    /// Gives a directory of the upper layer its owner, mode, time and attributes.
    pub(super) fn set_dir(
        &mut self,
        dir: &DestDir,
        facts: Facts,
        attributes: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<()> {
        set(&dir.fd, facts, attributes, &dir.path)?;
        self.times.insert(dir.path.clone(), facts.mtime);
        Ok(())
    }

    /// A symbolic link.
    pub(super) fn symlink(
        &mut self,
        dir: &DestDir,
        name: &[u8],
        target: &[u8],
        facts: Facts,
        replace: bool,
    ) -> Result<()> {
        let path = join(&dir.path, name);
        self.clear(dir, name, replace)?;
        rustix::fs::symlinkat(os(target), &dir.fd, os(name)).map_err(failed("make", &path))?;
        set_named(dir, name, facts, &path)
    }

    /// A fifo.
    pub(super) fn fifo(
        &mut self,
        dir: &DestDir,
        name: &[u8],
        facts: Facts,
        replace: bool,
    ) -> Result<()> {
        let path = join(&dir.path, name);
        self.clear(dir, name, replace)?;
        let mode = Mode::from_raw_mode(facts.mode & 0o7777);
        rustix::fs::mknodat(&dir.fd, os(name), FileType::Fifo, mode, 0)
            .map_err(failed("make", &path))?;
        set_named(dir, name, facts, &path)
    }

    /// Another name for a file that this copy made, by its path.
    pub(super) fn hard_link(
        &mut self,
        dir: &DestDir,
        name: &[u8],
        to: &[u8],
        replace: bool,
    ) -> Result<()> {
        let path = join(&dir.path, name);
        self.clear(dir, name, replace)?;
        rustix::fs::linkat(&self.root, os(to), &dir.fd, os(name), AtFlags::empty())
            .map_err(failed("link", &path))
    }

    /// Makes room for something that is no directory; `replace` removes also a directory.
    pub(super) fn clear(&mut self, dir: &DestDir, name: &[u8], replace: bool) -> Result<()> {
        if !replace {
            return dir.clear(name);
        }
        let path = join(&dir.path, name);
        match dir.stat(name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                // Made by this very copy, so without anything that would lead out of it.
                let all = self.upper.join(os(&path));
                std::fs::remove_dir_all(&all)
                    .map_err(|e| format!("cannot replace `{}`: {e}", shown(&path)))?;
                let inside = join(&path, b"");
                self.times
                    .retain(|p, _| *p != path && !p.starts_with(&inside));
                Ok(())
            }
            Some(_) => dir.unlink(name),
            None => Ok(()),
        }
    }

    /// Gives directories their times. To be called once, when all is copied.
    pub(super) fn finish(self) -> Result<()> {
        for (path, mtime) in &self.times {
            rustix::fs::utimensat(
                &self.root,
                os(path),
                &times(*mtime),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(failed("set the time of", path))?;
        }
        Ok(())
    }
}

enum Found {
    Dir,
    Link(Vec<u8>),
    Other,
}

impl DestDir {
    /// Path from the root, without a leading slash.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// A regular file, filled by `write`. A file of that name is replaced, a directory is not.
    pub(super) fn file(
        &self,
        name: &[u8],
        facts: Facts,
        attributes: &BTreeMap<Vec<u8>, Vec<u8>>,
        write: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let path = join(&self.path, name);
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(&self.fd, os(name), flags, Mode::from_raw_mode(0o600))
        };
        // Most often there is nothing, and nothing below that could be in the way.
        let first = match self.below {
            None => create(),
            Some(_) => Err(Errno::EXIST),
        };
        let made = match first {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                create()
            }
            done => done,
        };
        let mut file = File::from(made.map_err(failed("make", &path))?);
        write(&mut file).map_err(|e| format!("cannot write `{}`: {e}", shown(&path)))?;
        set(&file, facts, attributes, &path)?;
        rustix::fs::futimens(&file, &times(facts.mtime)).map_err(failed("set the time of", &path))
    }

    /// Makes room for something that is no directory, where no directory is.
    fn clear(&self, name: &[u8]) -> Result<()> {
        let is_dir = || {
            let path = join(&self.path, name);
            format!(
                "cannot replace the directory `{}` with a file",
                shown(&path)
            )
        };
        match self.stat(name)? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                Err(is_dir())
            }
            Some(_) => self.unlink(name),
            None => match self.below(name)? {
                Some(below) if below.kind() == EntryKind::Dir => Err(is_dir()),
                _ => Ok(()),
            },
        }
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let path = join(&self.path, name);
        rustix::fs::unlinkat(&self.fd, os(name), AtFlags::empty()).map_err(failed("replace", &path))
    }

    fn stat(&self, name: &[u8]) -> Result<Option<Stat>> {
        stat(&self.fd, name).map_err(failed("inspect", &self.path))
    }

    fn below(&self, name: &[u8]) -> Result<Option<StackEntry>> {
        match &self.below {
            Some(dir) => dir.child(name).map_err(|e| words(&e)),
            None => Ok(None),
        }
    }
}

fn stat(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn set(
    file: impl AsFd,
    facts: Facts,
    attributes: &BTreeMap<Vec<u8>, Vec<u8>>,
    path: &[u8],
) -> Result<()> {
    let (uid, gid) = facts.owner;
    // In this order: a change of owner takes set-ID bits and capabilities away.
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(failed("set the owner of", path))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(facts.mode & 0o7777))
        .map_err(failed("set the mode of", path))?;
    for (name, value) in attributes {
        rustix::fs::fsetxattr(&file, os(name), value, XattrFlags::empty())
            .map_err(failed("set attributes of", path))?;
    }
    Ok(())
}

fn set_named(dir: &DestDir, name: &[u8], facts: Facts, path: &[u8]) -> Result<()> {
    let (uid, gid) = facts.owner;
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(&dir.fd, os(name), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the owner of", path))?;
    rustix::fs::utimensat(
        &dir.fd,
        os(name),
        &times(facts.mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(failed("set the time of", path))
}
