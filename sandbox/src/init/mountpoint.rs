//! Finds mount points inside the root, and makes the ones that the image lacks.
//!
//! The tree may be hostile: every step of a path is opened by itself, from the descriptor of the
//! step before, and symbolic links are read and followed here, with the root as `/`. So no link
//! leads out, and a dangling one is followed to where its target would be.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::report::{At as _, refusal};
use super::tidy::Attributes;
use crate::error::{SetupError, Stage};

/// Most symbolic links in one path, as the kernel has it.
const MAX_LINKS: u32 = 40;

/// What a mount point is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Directory,
    File,
}

/// What was done to the root for the sake of mount points, in order; undone by [`super::tidy`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Made entries, by path below the root without links.
    pub(super) made: Vec<Made>,
    /// Directories that overlayfs copied up because an entry was made in them, as they were then.
    pub(super) copied_up: Vec<(PathBuf, Attributes)>,
}

/// An entry that was made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// A whiteout stood in its place in the upper directory.
    pub(super) over_whiteout: bool,
}

/// The root, and what is remembered about it.
pub(super) struct Tree {
    root: OwnedFd,
    root_mount: u64,
    /// The upper directory of an overlay.
    upper: Option<OwnedFd>,
    pub(super) record: Record,
}

impl Tree {
    /// The tree below `root`, with the `upper` directory behind it if it is an overlay.
    pub(super) fn new(root: OwnedFd, upper: Option<OwnedFd>) -> rustix::io::Result<Tree> {
        let root_mount = mount_id(root.as_fd())?;
        Ok(Tree {
            root,
            root_mount,
            upper,
            record: Record::default(),
        })
    }

    /// The root directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens `target` as `kind`, following links inside the root. What is missing is made, to be
    /// taken away after the run.
    pub(super) fn mount_point(&mut self, target: &Path, kind: Kind) -> Result<OwnedFd, SetupError> {
        self.walk(target, kind, true, Stage::AttachMount)
    }

    /// Opens the directory `target`; what is missing is made and stays.
    pub(super) fn directory(&mut self, target: &Path) -> Result<OwnedFd, SetupError> {
        self.walk(target, Kind::Directory, false, Stage::WorkingDirectory)
    }

    fn walk(
        &mut self,
        target: &Path,
        kind: Kind,
        temporary: bool,
        stage: Stage,
    ) -> Result<OwnedFd, SetupError> {
        let shown = target.display();
        let mut todo: VecDeque<OsString> = names(target);
        // The way from the root to here, without links; empty means the root itself.
        let mut way: Vec<(OsString, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                way.pop();
                continue;
            }
            let here = way.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let last = todo.is_empty();
            let next = match open_path(here, &name) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    let kind = if last { kind } else { Kind::Directory };
                    let parent: PathBuf = way.iter().map(|(name, _)| name).collect();
                    let here = rustix::io::fcntl_dupfd_cloexec(here, 3).at(stage, &shown)?;
                    self.make(here.as_fd(), &parent, &name, kind, temporary)
                        .at(stage, &shown)?;
                    open_path(here.as_fd(), &name).at(stage, &shown)?
                }
                Err(errno) => return Err(errno).at(stage, &shown),
            };
            let stat = rustix::fs::fstat(&next).at(stage, &shown)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP).at(stage, &shown);
                    }
                    let link = rustix::fs::readlinkat(&next, c"", Vec::new()).at(stage, &shown)?;
                    let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
                    if link.is_absolute() {
                        way.clear();
                    }
                    for name in names(&link).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                FileType::Directory => way.push((name, next)),
                _ if last && kind == Kind::File => return Ok(next),
                _ if last => {
                    return Err(refusal(
                        stage,
                        &shown,
                        "the image has a file there, a directory is needed",
                    ));
                }
                _ => return Err(Errno::NOTDIR).at(stage, &shown),
            }
        }
        if kind == Kind::File {
            return Err(refusal(
                stage,
                &shown,
                "the image has a directory there, and a file is to be mounted",
            ));
        }
        match way.pop() {
            Some((_, fd)) => Ok(fd),
            None => rustix::io::fcntl_dupfd_cloexec(&self.root, 3).at(stage, &shown),
        }
    }

    /// Makes `name` in the directory `here`, whose path below the root is `parent`.
    fn make(
        &mut self,
        here: BorrowedFd<'_>,
        parent: &Path,
        name: &OsStr,
        kind: Kind,
        temporary: bool,
    ) -> io::Result<()> {
        let recorded = temporary && mount_id(here)? == self.root_mount;
        let path = parent.join(name);
        let over_whiteout = recorded && self.is_whiteout(&path);
        let to_be_copied_up = if recorded {
            self.not_in_upper(parent)
        } else {
            Vec::new()
        };
        let directory = rustix::fs::openat(
            here,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let before = rustix::fs::fstat(&directory)?;
        match kind {
            Kind::Directory => rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755))?,
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(here, name, flags, Mode::from_raw_mode(0o644))?;
            }
        }
        if recorded {
            super::tidy::restore_times(&directory, &before)?;
            self.record.made.push(Made {
                path,
                kind,
                over_whiteout,
            });
            if let Some(upper) = &self.upper {
                for path in to_be_copied_up {
                    let directory = super::tidy::open_below(upper.as_fd(), &path)?;
                    self.record
                        .copied_up
                        .push((path, Attributes::of(&directory)?));
                }
            }
        }
        Ok(())
    }

    /// Those of `path` and its ancestors that the upper directory lacks, topmost first.
    fn not_in_upper(&self, path: &Path) -> Vec<PathBuf> {
        let Some(upper) = &self.upper else {
            return Vec::new();
        };
        let mut missing: Vec<PathBuf> = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .filter(|path| super::tidy::open_below(upper.as_fd(), path).is_err())
            .map(Path::to_owned)
            .collect();
        missing.reverse();
        missing
    }

    fn is_whiteout(&self, path: &Path) -> bool {
        self.upper.as_ref().is_some_and(|upper| {
            rustix::fs::statat(upper, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                    && stat.st_rdev == 0
            })
        })
    }
}

/// The names of a path; `/` and `.` are none.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn open_path(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn mount_id(fd: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let found = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}
