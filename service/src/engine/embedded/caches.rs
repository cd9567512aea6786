//! Cache directories that are mounted into steps and never become part of a layer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chalk_core::Digest;
use chalk_core::lower::Sharing;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

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
