//! A file read or written inside the sandbox, see [`crate::FileWork`].
//!
//! The process still holds descriptors of the host, and is the host's program. Links of `/proc` that
//! lead to such things without a path (`proc(5)`: `fd/*`, `exe`, `root`, `cwd`) are not followed.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Uid,
};
use rustix::io::Errno;

use crate::files::{FileWork, MAX_PIECE};
use crate::wire::Report;

/// Most symbolic links on the way to a file, as in the kernel.
const LINKS: usize = 40;
/// Bytes read at once.
const CHUNK: usize = 256 << 10;
/// Permission bits of a new file.
const NEW_MODE: RawMode = 0o644;

/// What could not be done with which file.
pub(super) struct Failure {
    action: &'static str,
    path: String,
    errno: i32,
}

impl Failure {
    pub(super) fn report(self) -> Report {
        Report::File {
            action: self.action.to_owned(),
            path: self.path,
            errno: self.errno,
        }
    }
}

/// Does the work; `open` is called when nothing but the bytes is missing.
pub(super) fn run(work: &FileWork, open: impl FnOnce()) -> Result<(), Failure> {
    match work {
        FileWork::Read { path } => read(path, open).map_err(|error| failure("read", path, &error)),
        FileWork::Write { path, mode } => {
            write(path, *mode, open).map_err(|error| failure("write", path, &error))
        }
    }
}

fn failure(action: &'static str, path: &str, error: &io::Error) -> Failure {
    Failure {
        action,
        path: path.to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn read(path: &str, open: impl FnOnce()) -> io::Result<()> {
    // A pipe without a writer must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    regular(&rustix::fs::fstat(&file)?)?;
    let mut file = File::from(file);
    let mut output = File::from(rustix::stdio::stdout().try_clone_to_owned()?);
    open();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => output.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn write(path: &str, mode: Option<u32>, open: impl FnOnce()) -> io::Result<()> {
    let Place {
        directory,
        name,
        there,
    } = place(path)?;
    if let Some(there) = &there {
        regular(there)?;
        // A new file in its place must not be a way around its permissions.
        rustix::fs::accessat(&directory, &name, Access::WRITE_OK, AtFlags::empty())?;
    }
    let mut draft = Draft::new(&directory)?;
    if let Some(there) = &there {
        let (owner, group) = (Uid::from_raw(there.st_uid), Gid::from_raw(there.st_gid));
        // Only root can; for others it becomes theirs, as by an editor.
        let _ = rustix::fs::fchown(&draft.file, Some(owner), Some(group));
    }
    let mode = mode.or(there.map(|there| there.st_mode & 0o7777));
    let mode = Mode::from_raw_mode(mode.unwrap_or(NEW_MODE));
    rustix::fs::fchmod(&draft.file, mode)?;
    open();
    receive(&mut draft.file)?;
    match rustix::fs::renameat(&directory, &draft.name, &directory, &name) {
        Ok(()) => {
            draft.done = true;
            Ok(())
        }
        // Something is mounted there, so the file must stay; now all of its contents are here.
        Err(Errno::BUSY) => {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory, &name, flags, Mode::empty())?;
            rustix::fs::fchmod(&file, mode)?;
            let mut file = File::from(file);
            draft.file.rewind()?;
            file.set_len(0)?;
            io::copy(&mut draft.file, &mut file).map(drop)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Where a file is to stand.
struct Place {
    directory: OwnedFd,
    name: PathBuf,
    /// What stands there.
    there: Option<Stat>,
}

/// Follows symbolic links up to a name that is none.
fn place(path: &str) -> io::Result<Place> {
    let mut path = PathBuf::from(path);
    let mut from: Option<OwnedFd> = None;
    for _ in 0..LINKS {
        let (parent, name) = split(&path).ok_or(Errno::ISDIR)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = from.as_ref().map_or(CWD, AsFd::as_fd);
        let resolve = ResolveFlags::NO_MAGICLINKS;
        let directory = rustix::fs::openat2(base, parent, flags, Mode::empty(), resolve)?;
        let there = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        let is_link = there
            .as_ref()
            .is_some_and(|there| FileType::from_raw_mode(there.st_mode) == FileType::Symlink);
        if !is_link {
            let name = name.to_owned();
            return Ok(Place {
                directory,
                name,
                there,
            });
        }
        let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
        path = PathBuf::from(std::ffi::OsString::from(
            String::from_utf8(target.into_bytes()).map_err(|_| Errno::ILSEQ)?,
        ));
        from = Some(directory);
    }
    Err(Errno::LOOP.into())
}

/// Directory and name of a file; `None` where the path can only mean a directory.
fn split(path: &Path) -> Option<(&Path, &Path)> {
    let text = path.as_os_str().as_encoded_bytes();
    let last = text.rsplit(|byte| *byte == b'/').next()?;
    if last.is_empty() || last == b"." || last == b".." {
        return None;
    }
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Some((parent, Path::new(path.file_name()?)))
}

/// Whether it is a file with contents that end.
fn regular(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR.into()),
        _ => Err(Errno::OPNOTSUPP.into()),
    }
}

/// A file under a name that nobody looks for; gone when it is not done.
struct Draft<'a> {
    directory: &'a OwnedFd,
    name: String,
    file: File,
    done: bool,
}

impl<'a> Draft<'a> {
    fn new(directory: &'a OwnedFd) -> io::Result<Draft<'a>> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut number = 0;
        loop {
            let pid = rustix::process::getpid().as_raw_nonzero();
            let name = format!(".chalk-upload-{pid}-{number}");
            let mode = Mode::RUSR | Mode::WUSR;
            match rustix::fs::openat(directory, &name, flags, mode) {
                Ok(file) => {
                    return Ok(Draft {
                        directory,
                        name,
                        file: File::from(file),
                        done: false,
                    });
                }
                // Of one that was killed.
                Err(Errno::EXIST) if number < 64 => number += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = rustix::fs::unlinkat(self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Takes the pieces that [`crate::FileInput`] writes.
fn receive(file: &mut File) -> io::Result<()> {
    let mut input = File::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let mut piece = Vec::new();
    loop {
        let mut length = [0; 4];
        let broken = |_| io::Error::from(Errno::CANCELED);
        input.read_exact(&mut length).map_err(broken)?;
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 {
            return Ok(());
        }
        if length > MAX_PIECE {
            return Err(Errno::INVAL.into());
        }
        piece.resize(length, 0);
        input.read_exact(&mut piece).map_err(broken)?;
        file.write_all(&piece)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_directories() {
        let check = |path: &str, expect: Option<(&str, &str)>| {
            let expect = expect.map(|(parent, name)| (Path::new(parent), Path::new(name)));
            assert_eq!(split(Path::new(path)), expect, "{path:?}");
        };
        check("/a/b", Some(("/a", "b")));
        check("/b", Some(("/", "b")));
        check("b", Some((".", "b")));
        check("a/../b", Some(("a/..", "b")));
        check("a/b\nc", Some(("a", "b\nc")));
        check("/", None);
        check("", None);
        check("a/", None);
        check("a/.", None);
        check("a/..", None);
        check("..", None);
    }
}
