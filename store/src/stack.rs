//! Looking into a pile of layer directories as overlayfs would show it, without mounting it.
//!
//! Used for what the builder must read before or beside a step: `/etc/passwd` of a base, the
//! sources of `COPY --from`. Symbolic links, absolute ones too, are resolved inside the pile;
//! `..` stops at its root. Every directory is opened without following links, so a hostile layer
//! leads nowhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalk_core::glob::{Glob, InvalidGlob};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::layer::{
    OverlayAttrs, file_attr, file_attrs, is_dir, is_image_attr, is_whiteout, names,
};

/// Most symbolic links followed for one path, as Linux has it.
const MAX_LINKS: usize = 40;

/// What looking into a stack can fail with.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// There is no such file in the image.
    #[error("`{0}` is not in the image")]
    NotFound(String),
    /// A component that should be a directory is none.
    #[error("`{0}` is no directory in the image")]
    NotADirectory(String),
    /// Something else than a regular file was to be read.
    #[error("`{0}` is no regular file in the image")]
    NotAFile(String),
    /// Symbolic links that lead in a circle.
    #[error("`{0}` leads through too many symbolic links")]
    TooManyLinks(String),
    /// A pattern that Go refuses.
    #[error(transparent)]
    Pattern(#[from] InvalidGlob),
    /// A file is larger than the caller takes.
    #[error("`{path}` has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// Path within the image, escaped.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file system failed.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Path within the image, escaped, or of a layer directory.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A result of looking into a stack.
pub type Result<T, E = StackError> = std::result::Result<T, E>;

fn shown(path: &[u8]) -> String {
    format!("/{}", path.escape_ascii())
}

fn io_error<'a, E: Into<io::Error>>(
    action: &'static str,
    path: &'a [u8],
) -> impl FnOnce(E) -> StackError + use<'a, E> {
    move |e| StackError::Io {
        action,
        path: shown(path),
        source: e.into(),
    }
}

/// What a file in a stack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// Regular file.
    File,
    /// Directory, merged from all layers that have it.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Fifo, socket or device node.
    Special,
}

/// A pile of layer directories, the topmost first.
#[derive(Debug)]
pub struct Stack {
    root: Arc<Vec<OwnedFd>>,
    attrs: OverlayAttrs,
}

/// A file found in a stack.
#[derive(Debug, Clone)]
pub struct StackEntry {
    path: Vec<u8>,
    stat: Stat,
    place: Place,
    attrs: OverlayAttrs,
}

#[derive(Debug, Clone)]
enum Place {
    /// The directory's parts, topmost first.
    Dir(Arc<Vec<OwnedFd>>),
    /// The name in which part of its parent.
    In(Arc<Vec<OwnedFd>>, usize),
}

impl Stack {
    /// Opens layer directories, the topmost first, as in overlayfs' `lowerdir=`.
    pub fn open<P: AsRef<Path>>(
        dirs: impl IntoIterator<Item = P>,
        attrs: OverlayAttrs,
    ) -> Result<Self> {
        let mut root = Vec::new();
        for dir in dirs {
            let path = dir.as_ref();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| StackError::Io {
                action: "open the layer",
                path: path.display().to_string(),
                source: e.into(),
            })?;
            root.push(fd);
        }
        Ok(Self {
            root: Arc::new(root),
            attrs,
        })
    }

    /// Finds `path` (from the image's root, leading slash or not). Links on the way are followed;
    /// a link at its end only if `follow`. `None` when there is no such file; a file where a
    /// directory should be is `None`, too.
    pub fn lookup(&self, path: impl AsRef<[u8]>, follow: bool) -> Result<Option<StackEntry>> {
        match self.resolve(path.as_ref(), follow) {
            Ok(entry) => Ok(Some(entry)),
            Err(StackError::NotFound(_) | StackError::NotADirectory(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// [`lookup`](Self::lookup) that must find, following links.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Result<StackEntry> {
        self.resolve(path.as_ref(), true)
    }

    /// Reads a regular file of at most `limit` bytes; `None` when there is no such file.
    pub fn read(&self, path: impl AsRef<[u8]>, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let Some(entry) = self.lookup(path.as_ref(), true)? else {
            return Ok(None);
        };
        if entry.size() > limit {
            return Err(StackError::TooLarge {
                path: shown(&entry.path),
                size: entry.size(),
                limit,
            });
        }
        let mut bytes = Vec::new();
        entry
            .open_file()?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", &entry.path))?;
        Ok(Some(bytes))
    }

    /// All files whose path matches `pattern`, sorted by path bytes. Patterns are those of
    /// [`Glob::go`], as in Dockerfiles, matched name by name: no wildcard matches a slash. Links
    /// on the way are followed, one at the end is not.
    pub fn glob(&self, pattern: &str) -> Result<Vec<StackEntry>> {
        let mut found = vec![self.root_entry()?];
        for part in pattern.split('/') {
            if matches!(part, "" | ".") {
                continue;
            }
            let glob = if part.contains(['*', '?', '[', '\\']) {
                Some(Glob::go(part)?)
            } else {
                None
            };
            let mut next = Vec::new();
            for dir in found {
                let mut base = dir.path.clone();
                if !base.is_empty() {
                    base.push(b'/');
                }
                let names = match &glob {
                    None => vec![part.as_bytes().to_vec()],
                    Some(glob) => self.matching(&dir.path, glob)?,
                };
                for name in names {
                    next.extend(self.lookup_or_loop([&base[..], &name].concat(), false)?);
                }
            }
            found = next;
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        Ok(found)
    }

    /// Names in the directory at `path` that match; none if it is no directory.
    fn matching(&self, path: &[u8], glob: &Glob) -> Result<Vec<Vec<u8>>> {
        match self.lookup_or_loop(path, true)? {
            Some(dir) if dir.kind() == EntryKind::Dir => {
                let mut names: Vec<_> = dir.read_dir()?.into_iter().map(|(name, _)| name).collect();
                names.retain(|name| glob.matches(&String::from_utf8_lossy(name)));
                Ok(names)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// [`lookup`](Self::lookup), where links in a circle are no file: a pattern matches what there
    /// is, as in Go.
    fn lookup_or_loop(&self, path: impl AsRef<[u8]>, follow: bool) -> Result<Option<StackEntry>> {
        match self.lookup(path, follow) {
            Err(StackError::TooManyLinks(_)) => Ok(None),
            found => found,
        }
    }

    fn root_entry(&self) -> Result<StackEntry> {
        let Some(top) = self.root.first() else {
            return Err(StackError::NotFound("/".into()));
        };
        Ok(StackEntry {
            path: Vec::new(),
            stat: rustix::fs::fstat(top).map_err(io_error("inspect", b""))?,
            place: Place::Dir(Arc::clone(&self.root)),
            attrs: self.attrs,
        })
    }

    fn resolve(&self, path: &[u8], follow: bool) -> Result<StackEntry> {
        // What is still to be walked, the next component last.
        let mut ahead: Vec<Vec<u8>> = Vec::new();
        push_components(&mut ahead, path);
        let mut trail = vec![self.root_entry()?];
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let Some(here) = trail.last() else {
                return Err(StackError::NotFound(shown(path)));
            };
            let Some(entry) = here.child(&name)? else {
                return Err(StackError::NotFound(shown(path)));
            };
            if entry.kind() != EntryKind::Symlink || (ahead.is_empty() && !follow) {
                trail.push(entry);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(StackError::TooManyLinks(shown(path)));
            }
            let target = entry.read_link()?;
            if target.starts_with(b"/") {
                trail.truncate(1);
            }
            push_components(&mut ahead, &target);
        }
        trail.pop().ok_or_else(|| StackError::NotFound(shown(path)))
    }
}

fn push_components(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    let names = path.split(|b| *b == b'/').rev();
    ahead.extend(
        names
            .filter(|n| !n.is_empty() && *n != b".")
            .map(<[u8]>::to_vec),
    );
}

impl StackEntry {
    /// Path within the image after all links that were followed, without a leading slash.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// What the file is.
    pub fn kind(&self) -> EntryKind {
        match FileType::from_raw_mode(self.stat.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Dir,
            FileType::Symlink => EntryKind::Symlink,
            _ => EntryKind::Special,
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Permission, setuid, setgid and sticky bits.
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.stat.st_uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.stat.st_gid
    }

    /// Modification time: seconds since 1970.
    pub fn mtime(&self) -> i64 {
        self.stat.st_mtime
    }

    /// Raw type and device number of a special file, for `mknod`.
    pub fn device(&self) -> (FileType, u64) {
        (
            FileType::from_raw_mode(self.stat.st_mode),
            self.stat.st_rdev,
        )
    }

    /// What tells hard links of one file: device and inode on this host, and number of links.
    pub fn inode(&self) -> (u64, u64, u64) {
        (self.stat.st_dev, self.stat.st_ino, self.stat.st_nlink)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self) -> Result<Vec<u8>> {
        let (dir, name) = self.named()?;
        let target = rustix::fs::readlinkat(dir, name, Vec::new())
            .map_err(io_error("read the link", &self.path))?;
        Ok(target.into_bytes())
    }

    /// Opens a regular file for reading.
    pub fn open_file(&self) -> Result<File> {
        if self.kind() != EntryKind::File {
            return Err(StackError::NotAFile(shown(&self.path)));
        }
        Ok(File::from(self.open_raw()?))
    }

    /// Extended attributes that belong to the image (`user.*`, file capabilities).
    pub fn attributes(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        if !matches!(self.kind(), EntryKind::File | EntryKind::Dir) {
            return Ok(found);
        }
        let fd = self.open_raw()?;
        let error = |e| io_error("read attributes of", &self.path)(e);
        for name in file_attrs(&fd).map_err(error)? {
            if is_image_attr(&name)
                && let Some(value) = file_attr(&fd, &name).map_err(error)?
            {
                found.insert(name, value);
            }
        }
        Ok(found)
    }

    /// Names in a directory, merged from all layers, sorted by their bytes, and what they are.
    pub fn read_dir(&self) -> Result<Vec<(Vec<u8>, StackEntry)>> {
        let parts = self.parts()?;
        let mut seen = BTreeMap::new();
        for part in parts.iter() {
            for name in names(part).map_err(io_error("list", &self.path))? {
                seen.insert(name, ());
            }
        }
        let mut entries = Vec::new();
        for (name, ()) in seen {
            if let Some(entry) = self.child(&name)? {
                entries.push((name, entry));
            }
        }
        Ok(entries)
    }

    /// The file called `name` in this directory, not followed.
    pub fn child(&self, name: &[u8]) -> Result<Option<StackEntry>> {
        let parts = self.parts()?;
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Ok(None);
        }
        let mut merged: Vec<OwnedFd> = Vec::new();
        let mut first: Option<Stat> = None;
        for (i, part) in parts.iter().enumerate() {
            let os = OsStr::from_bytes(name);
            let stat = match rustix::fs::statat(part, os, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NAMETOOLONG) => continue,
                Err(e) => return Err(io_error("inspect", &path)(e)),
            };
            if is_whiteout(&stat) {
                break;
            }
            if !is_dir(&stat) {
                if first.is_none() {
                    return Ok(Some(StackEntry {
                        path,
                        stat,
                        place: Place::In(Arc::clone(parts), i),
                        attrs: self.attrs,
                    }));
                }
                break;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = rustix::fs::openat(part, os, flags, Mode::empty())
                .map_err(io_error("open", &path))?;
            let opaque = self.is_opaque(&dir).map_err(io_error("inspect", &path))?;
            first = first.or(Some(stat));
            merged.push(dir);
            if opaque {
                break;
            }
        }
        Ok(first.map(|stat| StackEntry {
            path,
            stat,
            place: Place::Dir(Arc::new(merged)),
            attrs: self.attrs,
        }))
    }

    fn is_opaque(&self, dir: &OwnedFd) -> Result<bool, Errno> {
        let value = file_attr(dir, self.attrs.opaque().as_bytes())?;
        Ok(value.as_deref() == Some(b"y"))
    }

    fn parts(&self) -> Result<&Arc<Vec<OwnedFd>>> {
        match &self.place {
            Place::Dir(parts) => Ok(parts),
            Place::In(..) => Err(StackError::NotADirectory(shown(&self.path))),
        }
    }

    fn named(&self) -> Result<(&OwnedFd, &OsStr)> {
        let name = self.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        match &self.place {
            Place::In(parts, i) => Ok((&parts[*i], OsStr::from_bytes(name))),
            Place::Dir(_) => Err(StackError::NotAFile(shown(&self.path))),
        }
    }

    fn open_raw(&self) -> Result<OwnedFd> {
        if let Place::Dir(parts) = &self.place {
            let fd = parts[0].as_fd();
            return fd
                .try_clone_to_owned()
                .map_err(io_error("open", &self.path));
        }
        let (dir, name) = self.named()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(io_error("open", &self.path))
    }

    /// Where the file (for a directory: its topmost part) lies on the host, for messages only.
    pub fn host_path(&self) -> Option<PathBuf> {
        use std::os::fd::AsRawFd;
        let (fd, name) = match &self.place {
            Place::Dir(parts) => (parts.first()?, None),
            Place::In(parts, i) => (parts.get(*i)?, self.path.rsplit(|b| *b == b'/').next()),
        };
        let dir = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
        Some(match name {
            Some(name) => dir.join(OsStr::from_bytes(name)),
            None => dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn lines(stack: &Stack, dir: &str) -> Vec<String> {
        let entries = stack.get(dir).unwrap().read_dir().unwrap();
        let line = |(name, entry): (Vec<u8>, StackEntry)| {
            format!("{} {:?}", name.escape_ascii(), entry.kind())
        };
        entries.into_iter().map(line).collect()
    }

    #[test]
    fn merges_as_overlayfs_does() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (top, low) = (temp.path().join("top"), temp.path().join("low"));
        for dir in [
            "low/etc", "low/gone", "low/hid", "low/swap", "top/etc", "top/hid",
        ] {
            fs::create_dir_all(temp.path().join(dir)).unwrap();
        }
        fs::write(low.join("etc/passwd"), "low").unwrap();
        fs::write(low.join("etc/group"), "group").unwrap();
        fs::write(top.join("etc/passwd"), "top").unwrap();
        fs::write(low.join("hid/old"), "").unwrap();
        fs::write(top.join("hid/new"), "").unwrap();
        fs::write(low.join("gone/x"), "").unwrap();
        fs::write(top.join("swap"), "now a file").unwrap();
        symlink("/etc/../../../etc/passwd", top.join("abs")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        symlink("../etc", top.join("hid/up")).unwrap();
        xattr::set(top.join("hid"), "trusted.overlay.opaque", b"y").unwrap();
        let mode = Mode::empty();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            top.join("gone"),
            FileType::CharacterDevice,
            mode,
            0,
        )
        .unwrap();

        let stack = Stack::open([&top, &low], OverlayAttrs::Trusted).unwrap();
        assert_eq!(
            lines(&stack, "/"),
            [
                "abs Symlink",
                "etc Dir",
                "hid Dir",
                "loop Symlink",
                "swap File"
            ]
        );
        assert_eq!(lines(&stack, "hid"), ["new File", "up Symlink"]);
        assert_eq!(lines(&stack, "hid/up/"), ["group File", "passwd File"]);
        for path in [
            "etc/passwd",
            "/etc/passwd",
            "abs",
            "hid/up/passwd",
            "../etc/./passwd",
        ] {
            assert_eq!(stack.read(path, 10).unwrap().unwrap(), b"top", "{path}");
        }
        for path in [
            "gone",
            "gone/x",
            "hid/old",
            "swap/x",
            "etc/passwd/x",
            "nothing",
            "",
        ] {
            let found = stack.lookup(path, true).unwrap();
            assert_eq!(found.is_some(), path.is_empty(), "{path}");
        }
        assert!(matches!(
            stack.get("loop"),
            Err(StackError::TooManyLinks(_))
        ));
        assert!(matches!(
            stack.read("etc", 10_000),
            Err(StackError::NotAFile(_))
        ));
        assert!(matches!(
            stack.read("etc/group", 3),
            Err(StackError::TooLarge { size: 5, .. })
        ));
        let found = stack.glob("/*/[gp]*").unwrap();
        let paths: Vec<_> = found.iter().map(|e| e.path().to_vec()).collect();
        assert_eq!(paths, [&b"etc/group"[..], b"etc/passwd"]);
        assert_eq!(stack.glob("gone/*").unwrap().len(), 0);
        assert_eq!(stack.glob("hid/up/\\group").unwrap().len(), 1);
        assert!(matches!(stack.glob("[a"), Err(StackError::Pattern(_))));
    }
}
