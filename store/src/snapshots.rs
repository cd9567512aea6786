//! Unpacked layers on disk, ready to be stacked by overlayfs.
//!
//! A snapshot is a directory `snapshots/<key>/fs`, where the key is what its maker computed from
//! all that went in (a chain of layers, a step key). It is built in `snapshots/.new-<random>/fs`
//! and renamed, so a snapshot that has its name is whole. `work` beside `fs` is free for an overlay
//! mount's own use while the snapshot is built.
//!
//! A snapshot is a copy of what its layers hold, and those are durable blobs. So a commit does not
//! wait for the disk, where a sync of the file system would also wait for everybody else's writes:
//! until [`Snapshots::settle`] has synced it, a file `boot` beside `fs` names the boot that it was
//! written in, and after a restart of the machine [`Snapshots::open`] removes what was not settled.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failpoint::{Step, around};
use crate::layer::remove_tree;

/// What the snapshot directory can fail with.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A key that is no file name of its own.
    #[error("`{0}` is no snapshot key: expected 1 to 200 of `a-z`, `0-9`, `-`, `_`")]
    Key(String),
    /// The file system failed.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A result of the snapshot directory.
pub type Result<T, E = SnapshotError> = std::result::Result<T, E>;

fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.into();
    move |source| SnapshotError::Io {
        action,
        path,
        source,
    }
}

const NEW: &str = ".new-";
const OLD: &str = ".old-";

/// File beside `fs` that says in which boot of the machine an unsynced snapshot was written.
const BOOT: &str = "boot";

/// A directory of snapshots. Several processes may use it at once.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
    /// Identifies this boot of the machine; empty when the kernel does not tell.
    boot: String,
}

impl Snapshots {
    /// Opens the directory, making it (mode 0700: file owners and setuid bits in there are the
    /// images', not this host's) when it is not there, and removes unfinished snapshots that
    /// nobody builds any more, and those that a crash of the machine may have left incomplete.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io_error("create", dir))?;
        let root = dir.canonicalize().map_err(io_error("resolve", dir))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let snapshots = Self { root, boot };
        snapshots.sweep()?;
        Ok(snapshots)
    }

    /// Where the snapshots lie.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of a finished snapshot, to be used as a lower directory.
    pub fn get(&self, key: &str) -> Result<Option<PathBuf>> {
        let path = self.path(key)?.join("fs");
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(Some(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("inspect", path)(e)),
        }
    }

    /// Starts a snapshot.
    pub fn create(&self) -> Result<NewSnapshot> {
        loop {
            let path = self
                .root
                .join(format!("{NEW}{:032x}", rand::random::<u128>()));
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(io_error("create", &path))?;
            let lock = File::open(&path).map_err(io_error("open", &path))?;
            lock.lock().map_err(io_error("lock", &path))?;
            // A sweep may have come between creation and lock.
            let made = fs::DirBuilder::new().create(path.join("fs"));
            // Whatever the umask is: `/` of a step shows these bits.
            let open = fs::Permissions::from_mode(0o755);
            match made.and_then(|()| fs::set_permissions(path.join("fs"), open)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(io_error("create", path)(e)),
            }
            let work = path.join("work");
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&work)
                .map_err(io_error("create", work))?;
            return Ok(NewSnapshot {
                snapshots: self.clone(),
                path: Some(path),
                lock,
            });
        }
    }

    /// Keys of all finished snapshots, sorted.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut keys: Vec<String> = self.names()?.into_iter().filter(|n| is_key(n)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Removes a snapshot, whatever modes and flags its files have; `false` when there is none.
    /// It must not be mounted. The name goes first, so a half removed snapshot is never seen.
    pub fn remove(&self, key: &str) -> Result<bool> {
        match self.set_aside(key)? {
            Some(aside) => aside.remove().map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes the name of a snapshot away at once; its files go later.
    pub fn set_aside(&self, key: &str) -> Result<Option<Aside>> {
        let path = self.path(key)?;
        let name = format!("{OLD}{:032x}", rand::random::<u128>());
        match fs::rename(&path, self.root.join(&name)) {
            Ok(()) => Ok(Some(Aside {
                snapshots: self.clone(),
                name,
            })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("remove", path)(e)),
        }
    }

    /// When a snapshot was last used or made, as far as somebody [noted](Self::note_use).
    pub fn last_use(&self, key: &str) -> Result<Option<SystemTime>> {
        let path = self.path(key)?;
        match fs::symlink_metadata(&path).and_then(|meta| meta.modified()) {
            Ok(time) => Ok(Some(time)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("inspect", path)(e)),
        }
    }

    /// Notes that a snapshot is used now.
    pub fn note_use(&self, key: &str) -> io::Result<()> {
        let path = self.path(key).map_err(io::Error::other)?;
        File::open(path)?.set_modified(SystemTime::now())
    }

    /// Makes every snapshot that is finished by now survive a crash of the machine. Waits for the
    /// disk; meant for a quiet moment.
    pub fn settle(&self) -> Result<()> {
        let markers: Vec<PathBuf> = self
            .list()?
            .into_iter()
            .map(|key| self.root.join(key).join(BOOT))
            .filter(|marker| marker.exists())
            .collect();
        if markers.is_empty() {
            return Ok(());
        }
        let root = File::open(&self.root).map_err(io_error("open", &self.root))?;
        around(Step::SnapshotSync, || rustix::fs::syncfs(&root))
            .map_err(|e| io_error("sync", &self.root)(e.into()))?;
        for marker in markers {
            match around(Step::SnapshotSettle, || fs::remove_file(&marker)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", marker)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        if is_key(key) {
            Ok(self.root.join(key))
        } else {
            Err(SnapshotError::Key(key.escape_debug().to_string()))
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.root).map_err(io_error("list", &self.root))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_error("list", &self.root))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    fn sweep(&self) -> Result<()> {
        for name in self.names()? {
            let path = self.root.join(&name);
            if name.starts_with(NEW) {
                // Held while it is built, here or in another process.
                let free = File::open(&path).is_ok_and(|d| d.try_lock().is_ok());
                if !free {
                    continue;
                }
            } else if !name.starts_with(OLD) && !self.is_doubtful(&name)? {
                continue;
            }
            self.remove_name(&name)?;
        }
        Ok(())
    }

    /// Whether a finished snapshot was written in another boot and not synced since.
    fn is_doubtful(&self, name: &str) -> Result<bool> {
        let marker = self.root.join(name).join(BOOT);
        match fs::read_to_string(&marker) {
            Ok(boot) => Ok(self.boot.is_empty() || boot != self.boot),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(io_error("read", marker)(e)),
        }
    }

    fn remove_name(&self, name: &str) -> Result<()> {
        let dir = File::open(&self.root).map_err(io_error("open", &self.root))?;
        remove_tree(dir.as_fd(), Path::new(name).as_os_str().as_bytes())
            .map_err(|e| io_error("remove", self.root.join(name))(e.into()))
    }
}

/// Removes a directory with all below it, whatever modes and flags its files have; links are
/// never followed, and no other file system is entered. Absent is fine.
pub fn remove_all(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(parent)?;
    Ok(remove_tree(dir.as_fd(), name.as_bytes())?)
}

/// A snapshot without a name. The next start removes it if nobody does.
#[derive(Debug)]
pub struct Aside {
    snapshots: Snapshots,
    name: String,
}

impl Aside {
    /// Removes its files.
    pub fn remove(self) -> Result<()> {
        self.snapshots.remove_name(&self.name)
    }
}

fn is_key(text: &str) -> bool {
    let sound = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=200).contains(&text.len()) && text.bytes().all(sound)
}

/// A snapshot being built. Dropping it removes it.
#[derive(Debug)]
pub struct NewSnapshot {
    snapshots: Snapshots,
    path: Option<PathBuf>,
    lock: File,
}

impl NewSnapshot {
    /// The directory to fill: unpack a layer into it, or mount it as an overlay's upper directory.
    pub fn fs(&self) -> PathBuf {
        self.dir().join("fs")
    }

    /// An empty directory on the same file system, for an overlay's `workdir`.
    pub fn work(&self) -> PathBuf {
        self.dir().join("work")
    }

    fn dir(&self) -> PathBuf {
        self.path.clone().unwrap_or_default()
    }

    /// Gives the snapshot its name, and gives the directory to mount. If
    /// another builder of the same key was faster, its snapshot stays and this one is removed.
    /// No overlay may be mounted on it any more.
    pub fn commit(mut self, key: &str) -> Result<PathBuf> {
        let target = self.snapshots.path(key)?;
        let Some(path) = self.path.clone() else {
            return Ok(target.join("fs"));
        };
        let dir = File::open(&path).map_err(io_error("open", &path))?;
        remove_tree(dir.as_fd(), b"work")
            .map_err(|e| io_error("remove", path.join("work"))(e.into()))?;
        let marker = path.join(BOOT);
        around(Step::SnapshotMark, || {
            fs::write(&marker, &self.snapshots.boot)
        })
        .map_err(io_error("write", marker))?;
        let renamed = around(Step::SnapshotRename, || {
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &path,
                rustix::fs::CWD,
                &target,
                rustix::fs::RenameFlags::NOREPLACE,
            )
        });
        match renamed {
            Ok(()) => {
                self.path = None;
                self.lock.unlock().map_err(io_error("unlock", &target))?;
            }
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {}
            Err(e) => return Err(io_error("publish", target)(e.into())),
        }
        Ok(target.join("fs"))
    }
}

impl Drop for NewSnapshot {
    fn drop(&mut self) {
        let Some(name) = self.path.as_deref().and_then(Path::file_name) else {
            return;
        };
        if let Some(name) = name.to_str()
            && let Err(error) = self.snapshots.remove_name(name)
        {
            // The next start sweeps it.
            tracing::warn!(%error, "unfinished snapshot stays for now");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn snapshots() -> (tempfile::TempDir, Snapshots) {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path().join("snapshots")).unwrap();
        (dir, snapshots)
    }

    fn entries(snapshots: &Snapshots) -> usize {
        fs::read_dir(snapshots.root()).unwrap().count()
    }

    #[test]
    fn commit_gives_the_name_and_the_first_wins() {
        let (_dir, snapshots) = snapshots();
        let (first, second) = (snapshots.create().unwrap(), snapshots.create().unwrap());
        fs::write(first.fs().join("who"), "first").unwrap();
        fs::write(second.fs().join("who"), "second").unwrap();
        fs::write(first.work().join("left"), "").unwrap();
        assert_eq!(snapshots.get("abc").unwrap(), None);
        let path = first.commit("abc").unwrap();
        assert_eq!(second.commit("abc").unwrap(), path);
        assert_eq!(snapshots.get("abc").unwrap().as_ref(), Some(&path));
        assert_eq!(fs::read_to_string(path.join("who")).unwrap(), "first");
        assert!(!path.with_file_name("work").exists());
        assert_eq!(snapshots.list().unwrap(), ["abc"]);
        assert_eq!(entries(&snapshots), 1);
        for bad in ["", "..", "a/b", ".new-1", "ABC", &"x".repeat(201)] {
            assert!(
                matches!(snapshots.get(bad), Err(SnapshotError::Key(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn only_what_nobody_builds_is_swept() {
        let (_dir, snapshots) = snapshots();
        let alive = snapshots.create().unwrap();
        fs::create_dir_all(snapshots.root().join(".new-dead/fs/x")).unwrap();
        fs::create_dir_all(snapshots.root().join(".old-dead/fs/x")).unwrap();
        Snapshots::open(snapshots.root()).unwrap();
        assert_eq!(entries(&snapshots), 1);
        alive.commit("a").unwrap();
        drop(snapshots.create().unwrap());
        assert_eq!(snapshots.list().unwrap(), ["a"]);
        assert_eq!(entries(&snapshots), 1);
    }

    #[test]
    fn a_crash_of_the_machine_leaves_only_what_was_settled() {
        let (_dir, snapshots) = snapshots();
        let commit = |key: &str| snapshots.create().unwrap().commit(key).unwrap();
        commit("settled");
        snapshots.settle().unwrap();
        commit("fresh");
        let reopened = Snapshots::open(snapshots.root()).unwrap();
        assert_eq!(reopened.list().unwrap(), ["fresh", "settled"]);
        // What the same files look like after a restart of the machine.
        commit("torn");
        fs::write(snapshots.root().join("fresh").join(BOOT), "another boot").unwrap();
        fs::write(snapshots.root().join("torn").join(BOOT), "").unwrap();
        let reopened = Snapshots::open(snapshots.root()).unwrap();
        assert_eq!(reopened.list().unwrap(), ["settled"]);
    }

    #[test]
    fn removal_is_not_fooled() {
        let (dir, snapshots) = snapshots();
        let victim = dir.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("kept"), "").unwrap();
        let new = snapshots.create().unwrap();
        let locked = new.fs().join("locked");
        fs::create_dir_all(locked.join("below")).unwrap();
        fs::write(locked.join("below/file"), "").unwrap();
        symlink(&victim, new.fs().join("link")).unwrap();
        let root = new.commit("hostile").unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            // ext4, xfs and btrfs know the flag; elsewhere the modes alone are tried.
            for path in [
                root.join("locked/below/file"),
                root.join("locked/below"),
                root.join("locked"),
            ] {
                let file = File::open(path).unwrap();
                let _ = rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE);
            }
        }
        let _ = fs::set_permissions(root.join("locked"), fs::Permissions::from_mode(0o000));
        // Deeper than there are descriptors, and than a path may be long.
        let mut at = File::open(&root).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deep", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
            let mode = rustix::fs::Mode::empty();
            at = rustix::fs::openat(&at, "deep", flags, mode).unwrap().into();
        }
        assert!(snapshots.remove("hostile").unwrap());
        assert!(!snapshots.remove("hostile").unwrap());
        assert_eq!(entries(&snapshots), 0);
        assert!(victim.join("kept").exists());
    }
}
