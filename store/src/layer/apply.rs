//! Doing in a directory what the entries of a layer say.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::format::{EntryHeader, Kind};
use super::pack::names;
use super::root::{Root, is_dir, is_whiteout, remove_tree, stat};
use super::unpack::{clean, clean_link};
use super::{
    AUFS, Devices, EntryProblem, LayerError, LayerReader, OPAQUE, Result, Target, UnpackOptions,
    WHITEOUT, is_image_attr,
};

pub(crate) struct Applier {
    root: Root,
    options: UnpackOptions,
    /// The directory used last; entries of one directory mostly come together.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Modes and times of directories, set when nothing below them is written any more.
    dirs: BTreeMap<Vec<u8>, (u32, i64)>,
    /// What this layer brought, which its own whiteouts spare. Kept for [`Target::Root`] only;
    /// in a snapshot there is nothing else.
    brought: BTreeSet<Vec<u8>>,
    buffer: Vec<u8>,
    pub(crate) skipped_devices: u64,
    pub(crate) dropped_attrs: u64,
    pub(crate) opaque_root: bool,
}

/// A failure before it is told which layer and entry it belongs to.
enum Failure {
    Problem(EntryProblem),
    Io(&'static str, std::io::Error),
    Done(LayerError),
}

impl From<EntryProblem> for Failure {
    fn from(problem: EntryProblem) -> Self {
        Self::Problem(problem)
    }
}

fn io<E: Into<std::io::Error>>(action: &'static str) -> impl FnOnce(E) -> Failure {
    move |e| Failure::Io(action, e.into())
}

/// What it means that an owner cannot be set.
fn unowned(header: &EntryHeader) -> impl FnOnce(Errno) -> Failure {
    let owner = EntryProblem::Owner(header.uid, header.gid);
    move |error| match error {
        // The one cause that the kernel tells so.
        Errno::INVAL => owner.into(),
        error => io("set owner of")(error),
    }
}

impl Applier {
    pub(crate) fn new(dir: &Path, options: &UnpackOptions) -> Result<Self> {
        let root = Root::open(dir)
            .map_err(|e| LayerError::io("open", dir.as_os_str().as_encoded_bytes(), e))?;
        Ok(Self {
            root,
            options: *options,
            parent: None,
            dirs: BTreeMap::new(),
            brought: BTreeSet::new(),
            buffer: vec![0; 256 * 1024],
            skipped_devices: 0,
            dropped_attrs: 0,
            opaque_root: false,
        })
    }

    /// Does what one entry says; `reader` gives its content.
    pub(crate) fn apply<R: Read>(
        &mut self,
        header: &EntryHeader,
        reader: &mut LayerReader<R>,
    ) -> Result<()> {
        self.entry(header, reader).map_err(|failure| match failure {
            Failure::Problem(problem) => reader.entry_error(&header.path, problem),
            Failure::Io(action, source) => LayerError::io(action, &header.path, source),
            Failure::Done(error) => error,
        })
    }

    /// Sets modes and times of directories, deepest first.
    pub(crate) fn finish(&mut self) -> Result<()> {
        for (path, (mode, mtime)) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let set = || -> Result<(), Errno> {
                let (parent, name) = split(&path);
                let parent = self.root.open_dir(parent)?;
                let name = if name.is_empty() { b"." } else { name };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir =
                    rustix::fs::openat(&parent, OsStr::from_bytes(name), flags, Mode::empty())?;
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
                rustix::fs::futimens(&dir, &times(mtime))
            };
            match set() {
                // Replaced by a later entry through another path.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(LayerError::io("set mode and time of", &path, e)),
            }
        }
        Ok(())
    }

    fn is_snapshot(&self) -> bool {
        matches!(self.options.target, Target::Snapshot(_))
    }

    fn entry<R: Read>(
        &mut self,
        header: &EntryHeader,
        reader: &mut LayerReader<R>,
    ) -> Result<(), Failure> {
        let path = clean(&header.path, self.options.limits.path)?;
        if path.is_empty() {
            if header.kind != Kind::Dir {
                return Err(EntryProblem::Root.into());
            }
            let dir = self.root.open_dir(b"").map_err(io("open"))?;
            return self.dress_dir(&dir, &path, header);
        }
        let (parent_path, name) = split(&path);
        if name == OPAQUE {
            return self.opaque(parent_path);
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(EntryProblem::Whiteout.into());
            }
            return self.whiteout(parent_path, hidden);
        }
        let is_device = matches!(header.kind, Kind::Char | Kind::Block);
        if is_device && self.options.devices == Devices::Refuse {
            return Err(EntryProblem::Device.into());
        }
        if header.kind == Kind::HardLink
            && clean_link(&header.link, self.options.limits.path)? == path
        {
            return Ok(());
        }
        let parent = self.parent(parent_path)?;
        let hides_lower = self.make_room(&parent, &path, name, header.kind)?;
        // Device 0/0 is no device but overlayfs' whiteout, which only we may make.
        let is_mark = header.kind == Kind::Char && header.device == (0, 0);
        if is_device && (self.options.devices == Devices::Skip || is_mark) {
            self.skipped_devices += 1;
            if self.is_snapshot() {
                make_whiteout(&parent, name)?;
            }
            return Ok(());
        }
        if !self.is_snapshot() {
            self.brought.insert(path.clone());
        }
        self.create(&parent, &path, name, header, reader)?;
        if hides_lower && header.kind == Kind::Dir {
            let dir = open_child(&parent, name).map_err(io("open"))?;
            self.mark_opaque(&dir)?;
        }
        Ok(())
    }

    /// Removes what stands where an entry is to go, unless both are directories. `true` when that
    /// was a whiteout of this layer.
    fn make_room(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        kind: Kind,
    ) -> Result<bool, Failure> {
        let Some(old) = stat(parent, name).map_err(io("inspect"))? else {
            return Ok(false);
        };
        if kind == Kind::Dir && is_dir(&old) {
            return Ok(false);
        }
        remove_tree(parent.as_fd(), name).map_err(io("replace"))?;
        self.forget(path);
        Ok(self.is_snapshot() && is_whiteout(&old))
    }

    /// Drops what is known about `path` and all below it.
    fn forget(&mut self, path: &[u8]) {
        self.parent = None;
        let gone = within(self.dirs.range::<[u8], _>(from(path)).map(|(p, _)| p), path);
        for path in gone {
            self.dirs.remove(&path);
        }
        let gone = within(self.brought.range::<[u8], _>(from(path)), path);
        for path in gone {
            self.brought.remove(&path);
        }
    }

    fn create<R: Read>(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        header: &EntryHeader,
        reader: &mut LayerReader<R>,
    ) -> Result<(), Failure> {
        let file_name = OsStr::from_bytes(name);
        match header.kind {
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, file_name, flags, Mode::from_raw_mode(0o600))
                    .map_err(io("create"))?;
                let mut file = File::from(fd);
                loop {
                    let n = reader
                        .read_content(&mut self.buffer)
                        .map_err(Failure::Done)?;
                    if n == 0 {
                        break;
                    }
                    file.write_all(&self.buffer[..n]).map_err(io("write"))?;
                }
                let fd = OwnedFd::from(file);
                self.own(&fd, header)?;
                self.set_attrs(&fd, header)?;
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(header.mode))
                    .map_err(io("set mode of"))?;
                rustix::fs::futimens(&fd, &times(header.mtime)).map_err(io("set time of"))
            }
            Kind::HardLink => self.hard_link(parent, name, header),
            Kind::Dir => {
                let private = Mode::from_raw_mode(0o700);
                match rustix::fs::mkdirat(parent, file_name, private) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(io("create")(e)),
                }
                let dir = open_child(parent, name).map_err(io("open"))?;
                self.dress_dir(&dir, path, header)
            }
            Kind::Symlink => {
                // A new link may lead where a cached path led elsewhere.
                self.parent = None;
                if header.link.is_empty() || header.link.contains(&0) {
                    return Err(EntryProblem::Header("link target").into());
                }
                let target = OsStr::from_bytes(&header.link);
                rustix::fs::symlinkat(target, parent, file_name).map_err(io("create"))?;
                self.own_named(parent, name, header)
            }
            Kind::Fifo | Kind::Char | Kind::Block => {
                let (kind, device) = match header.kind {
                    Kind::Fifo => (FileType::Fifo, 0),
                    Kind::Char => (FileType::CharacterDevice, device_number(header)),
                    _ => (FileType::BlockDevice, device_number(header)),
                };
                let mode = Mode::from_raw_mode(header.mode);
                rustix::fs::mknodat(parent, file_name, kind, mode, device).map_err(io("create"))?;
                self.own_named(parent, name, header)?;
                // Not through an open descriptor: opening a device may do something. The name was
                // made by us a moment ago and nobody else writes here.
                rustix::fs::chmodat(parent, file_name, mode, AtFlags::empty())
                    .map_err(io("set mode of"))
            }
        }
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        header: &EntryHeader,
    ) -> Result<(), Failure> {
        let target = clean_link(&header.link, self.options.limits.path)?;
        let missing = || EntryProblem::LinkTarget(header.link.escape_ascii().to_string());
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(missing().into());
        }
        let from = match self.root.open_dir(target_parent) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing().into()),
            Err(e) => return Err(io("open the target's directory of")(e)),
        };
        match stat(&from, target_name).map_err(io("inspect the target of"))? {
            Some(found) if self.is_snapshot() && is_whiteout(&found) => {
                // A device that was left out, by another name.
                self.skipped_devices += 1;
                make_whiteout(parent, name)
            }
            Some(found) if !is_dir(&found) => rustix::fs::linkat(
                &from,
                OsStr::from_bytes(target_name),
                parent,
                OsStr::from_bytes(name),
                AtFlags::empty(),
            )
            .map_err(io("link")),
            _ => Err(missing().into()),
        }
    }

    /// The directory at `path`, made if it is not there.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Failure> {
        if let Some((cached, fd)) = &self.parent
            && cached == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.root.open_dir(path) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_dirs(path)?,
            Err(Errno::LOOP | Errno::XDEV) => return Err(EntryProblem::NotInDirectory.into()),
            Err(e) => return Err(io("open the directory of")(e)),
        };
        let fd = Rc::new(fd);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// Makes the directories of `path` that the layer does not name itself, mode 0755.
    fn make_dirs(&mut self, path: &[u8]) -> Result<OwnedFd, Failure> {
        let mut dir = self.root.open_dir(b"").map_err(io("open"))?;
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += name.len() + usize::from(end > 0);
            let here = &path[..end];
            match self.root.open_dir(here) {
                Ok(next) => {
                    dir = next;
                    continue;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(e) => return Err(io("open the directory of")(e)),
            }
            let old = stat(&dir, name).map_err(io("inspect the directory of"))?;
            let was_whiteout = match old {
                None => false,
                Some(old) if self.is_snapshot() && is_whiteout(&old) => {
                    remove_tree(dir.as_fd(), name).map_err(io("replace the parent of"))?;
                    true
                }
                // A file, or a link that leads nowhere.
                Some(_) => return Err(EntryProblem::NotInDirectory.into()),
            };
            let mode = Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(&dir, OsStr::from_bytes(name), mode)
                .map_err(io("create the directory of"))?;
            let next = open_child(&dir, name).map_err(io("open the directory of"))?;
            rustix::fs::fchmod(&next, mode).map_err(io("set mode of the directory of"))?;
            if was_whiteout {
                self.mark_opaque(&next)?;
            }
            dir = next;
        }
        Ok(dir)
    }

    fn whiteout(&mut self, parent_path: &[u8], hidden: &[u8]) -> Result<(), Failure> {
        if !self.is_snapshot() {
            let mut path = parent_path.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(hidden);
            let parent = match self.root.open_dir(parent_path) {
                Ok(parent) => parent,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(e) => return Err(io("open the directory of")(e)),
            };
            return self.remove_lower(&parent, &path, hidden);
        }
        let parent = self.parent(parent_path)?;
        match stat(&parent, hidden).map_err(io("inspect"))? {
            None => make_whiteout(&parent, hidden),
            // This layer brings something of that name itself; the lower one's goes.
            Some(old) if is_dir(&old) => {
                let dir = open_child(&parent, hidden).map_err(io("open"))?;
                self.mark_opaque(&dir)
            }
            Some(_) => Ok(()),
        }
    }

    fn opaque(&mut self, path: &[u8]) -> Result<(), Failure> {
        if path.is_empty() {
            self.opaque_root = true;
        }
        if !self.is_snapshot() {
            return match self.root.open_dir(path) {
                Ok(dir) => self.clear_lower(&dir, path),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(e) => Err(io("open")(e)),
            };
        }
        let dir = self.parent(path)?;
        self.mark_opaque(&dir)
    }

    /// Removes what lower layers left in a directory.
    fn clear_lower(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<(), Failure> {
        for name in names(dir).map_err(io("list"))? {
            let mut child = path.to_vec();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(&name);
            self.remove_lower(dir, &child, &name)?;
        }
        Ok(())
    }

    fn remove_lower(&mut self, dir: &OwnedFd, path: &[u8], name: &[u8]) -> Result<(), Failure> {
        let ours = !within(self.brought.range::<[u8], _>(from(path)), path).is_empty();
        if !ours {
            self.forget(path);
            return remove_tree(dir.as_fd(), name).map_err(io("remove"));
        }
        match stat(dir, name).map_err(io("inspect"))? {
            Some(found) if is_dir(&found) => {
                let below = open_child(dir, name).map_err(io("open"))?;
                self.clear_lower(&below, path)
            }
            _ => Ok(()),
        }
    }

    fn mark_opaque(&self, dir: &OwnedFd) -> Result<(), Failure> {
        match self.options.target {
            Target::Snapshot(attrs) => {
                rustix::fs::fsetxattr(dir, attrs.opaque(), b"y", XattrFlags::empty())
                    .map_err(io("mark as opaque"))
            }
            Target::Root => Ok(()),
        }
    }

    fn dress_dir(
        &mut self,
        dir: &OwnedFd,
        path: &[u8],
        header: &EntryHeader,
    ) -> Result<(), Failure> {
        self.own(dir, header)?;
        self.set_attrs(dir, header)?;
        self.dirs.insert(path.to_vec(), (header.mode, header.mtime));
        Ok(())
    }

    fn own(&self, fd: &OwnedFd, header: &EntryHeader) -> Result<(), Failure> {
        if !self.options.keep_owner {
            return Ok(());
        }
        rustix::fs::fchown(fd, uid(header), gid(header)).map_err(unowned(header))
    }

    /// Owner and time of what is not opened: links and special files.
    fn own_named(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        header: &EntryHeader,
    ) -> Result<(), Failure> {
        let name = OsStr::from_bytes(name);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.options.keep_owner {
            rustix::fs::chownat(parent, name, uid(header), gid(header), flags)
                .map_err(unowned(header))?;
        }
        rustix::fs::utimensat(parent, name, &times(header.mtime), flags).map_err(io("set time of"))
    }

    fn set_attrs(&mut self, fd: &OwnedFd, header: &EntryHeader) -> Result<(), Failure> {
        for (name, value) in &header.xattrs {
            if !is_image_attr(name) {
                continue;
            }
            let c_name =
                CString::new(name.as_slice()).map_err(|_| EntryProblem::Header("attribute"))?;
            match rustix::fs::fsetxattr(fd, &c_name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::PERM) => self.dropped_attrs += 1,
                Err(e) => return Err(io("set an attribute of")(e)),
            }
        }
        Ok(())
    }
}

/// Parent and name of a clean path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn from(path: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(path), Bound::Unbounded)
}

/// Those of `sorted`, which starts at `path`, that are `path` or lie below it.
fn within<'a>(sorted: impl Iterator<Item = &'a Vec<u8>>, path: &[u8]) -> Vec<Vec<u8>> {
    sorted
        .take_while(|p| p.starts_with(path))
        .filter(|p| path.is_empty() || matches!(p.get(path.len()), None | Some(b'/')))
        .cloned()
        .collect()
}

fn open_child(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

fn make_whiteout(parent: &OwnedFd, name: &[u8]) -> Result<(), Failure> {
    let kind = FileType::CharacterDevice;
    rustix::fs::mknodat(parent, OsStr::from_bytes(name), kind, Mode::empty(), 0)
        .map_err(io("create the whiteout of"))
}

fn device_number(header: &EntryHeader) -> rustix::fs::Dev {
    rustix::fs::makedev(header.device.0, header.device.1)
}

fn uid(header: &EntryHeader) -> Option<Uid> {
    // The last id means "leave as it is" to chown, and to nobody a user.
    (header.uid != u32::MAX).then(|| Uid::from_raw(header.uid))
}

fn gid(header: &EntryHeader) -> Option<Gid> {
    (header.gid != u32::MAX).then(|| Gid::from_raw(header.gid))
}

fn times(mtime: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime,
            tv_nsec: 0,
        },
    }
}
