//! Cache directories that are mounted into steps and never become part of a layer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_core::lower::Sharing;
use chalk_store::failpoint::{Step, around};
use chalk_store::snapshots::remove_all;
use chalk_store::uses::{Horizon, Uses};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::disk::tree_bytes;
use crate::engine::EngineError;

/// Present beside a cache directory once its first contents are whole.
const READY: &str = ".ready";

/// All cache directories of a builder.
#[derive(Debug)]
pub(super) struct Caches {
    dir: PathBuf,
    /// One lock for each directory that was used for itself. Grows with the number of caches that
    /// one process has seen, a few dozen bytes each.
    locks: Mutex<BTreeMap<PathBuf, Arc<AsyncMutex<()>>>>,
    /// When directories were last used.
    uses: Uses<PathBuf>,
}

/// A cache directory in use. Others that want it for themselves wait until this is dropped.
#[derive(Debug)]
pub(super) struct CacheDir {
    path: PathBuf,
    fresh: bool,
    _lock: Option<OwnedMutexGuard<()>>,
}

impl CacheDir {
    /// The directory on the host.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its first contents are still to be made; then [`finish`](Self::finish) it.
    pub(super) fn fresh(&self) -> bool {
        self.fresh
    }

    /// Gives a fresh directory its mode and owner, and notes that it is whole.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn finish(&self, mode: u32, uid: u32, gid: u32) -> Result<(), EngineError> {
        let done = || -> io::Result<()> {
            chown(&self.path, Some(uid), Some(gid))?;
            rustix::fs::chmod(&self.path, rustix::fs::Mode::from_raw_mode(mode & 0o7777))?;
            fs::write(marker(&self.path), b"")
        };
        done().map_err(|e| failed(&self.path, &e))
    }
}

fn marker(path: &Path) -> PathBuf {
    path.with_extension(&READY[1..])
}

fn failed(path: &Path, error: &io::Error) -> EngineError {
    EngineError::Storage {
        doing: format!("prepare the cache directory {}", path.display()),
        cause: error.to_string(),
    }
}

impl Caches {
    /// Keeps directories below `dir`.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            locks: Mutex::new(BTreeMap::new()),
            uses: Uses::default(),
        }
    }

    /// The directory of a tool for one base and user, owned by that user.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn tool(
        &self,
        tool: &str,
        base: &Digest,
        uid: u32,
        gid: u32,
    ) -> Result<PathBuf, EngineError> {
        let path = self.dir.join(format!("{tool}-{}-{uid}", &base.hex()[..16]));
        self.note(&path);
        if !path.is_dir() {
            make(&path, uid, gid).map_err(|e| failed(&path, &e))?;
        }
        Ok(path)
    }

    /// The directory of a `RUN --mount=type=cache`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) async fn mount(&self, id: &str, sharing: Sharing) -> Result<CacheDir, EngineError> {
        let name = format!("mount-{}", Digest::of(id.as_bytes()).hex());
        let first = self.dir.join(&name);
        let (path, lock) = match sharing {
            Sharing::Locked => {
                let lock = self.lock_of(&first).lock_owned().await;
                (first, Some(lock))
            }
            Sharing::Private => self.free(&name),
            Sharing::Shared => (first, None),
        };
        self.note(&path);
        if marker(&path).exists() {
            return Ok(CacheDir {
                path,
                fresh: false,
                _lock: lock,
            });
        }
        // Whoever fills it keeps other users out until it is full.
        let filling = match lock {
            Some(lock) => lock,
            None => self.lock_of(&path).lock_owned().await,
        };
        let fresh = !marker(&path).exists();
        if fresh {
            let made = || -> io::Result<()> {
                if path.exists() {
                    fs::remove_dir_all(&path)?;
                }
                make(&path, 0, 0)
            };
            made().map_err(|e| failed(&path, &e))?;
        }
        let keep = fresh || sharing != Sharing::Shared;
        Ok(CacheDir {
            path,
            fresh,
            _lock: keep.then_some(filling),
        })
    }

    /// Notes that a directory is used: from now on it stays, or is already gone.
    fn note(&self, path: &PathBuf) {
        self.uses.hold(path).used(|| {
            match fs::File::open(path).and_then(|dir| dir.set_modified(SystemTime::now())) {
                // It is made just after this.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                noted => noted,
            }
        });
    }

    /// All directories, each with its bytes and when a step last used it. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn list(&self) -> io::Result<Vec<(String, u64, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') || !entry.file_type()?.is_dir() {
                continue;
            }
            // One that is just made anew.
            let Ok(used) = fs::symlink_metadata(entry.path()).and_then(|meta| meta.modified())
            else {
                continue;
            };
            found.push((name, tree_bytes(&entry.path()), used));
        }
        Ok(found)
    }

    /// Removes a directory unless a step used it after the horizon; whether it did. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn drop_unused(&self, name: &str, horizon: &Horizon) -> io::Result<bool> {
        let path = self.dir.join(name);
        // The next start removes what is left under such a name.
        let aside = self
            .dir
            .join(format!(".tmp-{:032x}", rand::random::<u128>()));
        {
            let held = self.uses.hold(&path);
            let used = match fs::symlink_metadata(&path).and_then(|meta| meta.modified()) {
                Ok(used) => used,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(e),
            };
            if held.is_used(horizon, used) {
                return Ok(false);
            }
            // First what says that it is whole.
            match fs::remove_file(marker(&path)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            around(Step::GcCache, || fs::rename(&path, &aside))?;
            held.gone();
        }
        remove_all(&aside)?;
        Ok(true)
    }

    /// Waits until nobody else uses a directory.
    pub(super) async fn lock(&self, path: PathBuf) -> CacheDir {
        let lock = self.lock_of(&path).lock_owned().await;
        CacheDir {
            path,
            fresh: false,
            _lock: Some(lock),
        }
    }

    /// The first of the directories of that name that nobody uses.
    fn free(&self, name: &str) -> (PathBuf, Option<OwnedMutexGuard<()>>) {
        let mut number = 0;
        loop {
            let path = self.dir.join(format!("{name}-{number}"));
            if let Ok(lock) = self.lock_of(&path).try_lock_owned() {
                return (path, Some(lock));
            }
            number += 1;
        }
    }

    fn lock_of(&self, path: &Path) -> Arc<AsyncMutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(path.to_owned()).or_default())
    }
}

fn make(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)?;
    chown(path, Some(uid), Some(gid))
}

#[cfg(test)]
mod tests {
    use chalk_store::uses::Leases;

    use super::*;

    #[tokio::test]
    async fn shares_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(dir.path().join("caches"));
        let first = caches.mount("x", Sharing::Shared).await.unwrap();
        assert!(first.fresh());
        fs::write(first.path().join("file"), b"1").unwrap();
        first.finish(0o700, 0, 0).unwrap();
        drop(first);
        let second = caches.mount("x", Sharing::Shared).await.unwrap();
        let third = caches.mount("x", Sharing::Shared).await.unwrap();
        assert!(!second.fresh() && second.path().join("file").exists());
        assert_eq!(second.path(), third.path());
        assert_ne!(
            caches.mount("y", Sharing::Shared).await.unwrap().path(),
            third.path()
        );

        let one = caches.mount("p", Sharing::Private).await.unwrap();
        one.finish(0o755, 0, 0).unwrap();
        let two = caches.mount("p", Sharing::Private).await.unwrap();
        assert_ne!(one.path(), two.path());
        let path = one.path().to_owned();
        drop(one);
        assert_eq!(
            caches.mount("p", Sharing::Private).await.unwrap().path(),
            path
        );

        let held = caches.mount("l", Sharing::Locked).await.unwrap();
        held.finish(0o755, 0, 0).unwrap();
        let mut waiting = Box::pin(caches.mount("l", Sharing::Locked));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(!waiting.await.unwrap().fresh());
    }

    #[tokio::test]
    async fn only_unused_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(dir.path().to_owned());
        let old = SystemTime::now() - std::time::Duration::from_secs(7200);
        for name in ["a", "b"] {
            let cache = caches.mount(name, Sharing::Shared).await.unwrap();
            fs::write(cache.path().join("file"), vec![1; 10_000]).unwrap();
            cache.finish(0o700, 0, 0).unwrap();
        }
        for (name, bytes, _) in caches.list().unwrap() {
            assert!(bytes >= 10_000);
            let file = fs::File::open(dir.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        // As after a restart, which forgets what it remembers.
        let caches = Caches::new(dir.path().to_owned());
        assert!(!caches.mount("a", Sharing::Shared).await.unwrap().fresh());
        let horizon = Leases::default().horizon(std::time::Duration::from_secs(3600), None);
        let mut gone = 0;
        for (name, ..) in caches.list().unwrap() {
            gone += usize::from(caches.drop_unused(&name, &horizon).unwrap());
        }
        assert_eq!(gone, 1);
        assert!(!caches.mount("a", Sharing::Shared).await.unwrap().fresh());
        assert!(caches.mount("b", Sharing::Shared).await.unwrap().fresh());
        assert!(!caches.drop_unused("none", &horizon).unwrap());
    }

    #[tokio::test]
    async fn what_was_not_filled_is_filled_again() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(dir.path().join("caches"));
        let torn = caches.mount("x", Sharing::Locked).await.unwrap();
        fs::write(torn.path().join("half"), b"").unwrap();
        drop(torn);
        let again = caches.mount("x", Sharing::Locked).await.unwrap();
        assert!(again.fresh() && !again.path().join("half").exists());
    }
}
