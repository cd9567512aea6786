//! The layers below a step, as directories that can be stacked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalk_core::Digest;
use chalk_sandbox::users::{ResolvedUser, resolve};
use chalk_store::BlobStore;
use chalk_store::stack::Stack;

use super::copy::{Source, export};
use super::layers::{LayerDir, LayerDirs};
use super::merge::merge;
use super::owners::overlay_attrs;
use super::run::StepError;
use crate::engine::EngineError;

/// Layers over the base before they are merged: each costs a little with every file that is
/// looked up, and the kernel stacks 500 at most.
const DEEP: usize = 100;
/// Largest `/etc/passwd` or `/etc/group` that is read.
const USERS_LIMIT: u64 = 8 << 20;

/// Layer directories in order.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Chain {
    base_key: Digest,
    /// Bottom first.
    dirs: Vec<Arc<LayerDir>>,
    /// How many of them are the base's.
    base: usize,
}

impl Chain {
    /// The layers of a base, bottom first; `base_key` names it in caches.
    pub(in crate::engine) fn new(base_key: Digest, dirs: Vec<Arc<LayerDir>>) -> Self {
        let base = dirs.len();
        Self {
            base_key,
            dirs,
            base,
        }
    }

    /// Key of the base.
    pub(in crate::engine) fn base_key(&self) -> Digest {
        self.base_key
    }

    /// Lays a directory over the others; merges them when there are many.
    ///
    /// # Errors
    /// When merging fails.
    pub(in crate::engine) async fn push(
        &mut self,
        dir: Arc<LayerDir>,
        layers: &LayerDirs,
    ) -> Result<(), EngineError> {
        self.dirs.push(dir);
        if self.dirs.len() - self.base <= DEEP {
            return Ok(());
        }
        let parts: Vec<Arc<LayerDir>> = self.dirs.drain(self.base..).collect();
        self.dirs.push(merge_dirs(parts, layers).await?);
        Ok(())
    }

    /// The directories for an overlay, the topmost first; `empty` stands for a base without any.
    pub(in crate::engine) fn lower_dirs(&self, empty: &Path) -> Vec<PathBuf> {
        let mut lower = Vec::with_capacity(self.dirs.len());
        for dir in self.dirs.iter().rev() {
            lower.push(dir.path().to_owned());
            if dir.opaque() {
                break;
            }
        }
        if lower.is_empty() {
            lower.push(empty.to_owned());
        }
        lower
    }

    /// Who `user[:group]` is in the image. Reads two small files.
    ///
    /// # Errors
    /// When there is no such user or group; in words.
    pub(in crate::engine) fn user(&self, spec: &str) -> Result<ResolvedUser, String> {
        user_in(&self.lower_dirs(Path::new("")), spec)
    }

    /// Makes what is at `path` appear in the empty directory `into`; gives where.
    ///
    /// # Errors
    /// When it is not there or cannot be copied.
    pub(super) async fn export(
        &self,
        path: &str,
        into: &Path,
        store: &BlobStore,
    ) -> Result<PathBuf, StepError> {
        let lower = self.lower_dirs(into);
        let (path, into, store) = (path.to_owned(), into.to_owned(), store.clone());
        blocking(move || {
            let stack = Stack::open(&lower, overlay_attrs()).map_err(|e| e.to_string())?;
            export(Source::Layers(stack), &path, &into, &store)
        })
        .await
    }
}

/// Who `user[:group]` is in the image made of these directories, the topmost first.
///
/// # Errors
/// When there is no such user or group; in words.
pub(in crate::engine) fn user_in(lower: &[PathBuf], spec: &str) -> Result<ResolvedUser, String> {
    let real = lower.iter().filter(|dir| !dir.as_os_str().is_empty());
    let stack = Stack::open(real, overlay_attrs()).map_err(|e| e.to_string())?;
    let read = |path: &str| -> Result<Vec<u8>, String> {
        let found = stack.read(path, USERS_LIMIT).map_err(|e| e.to_string())?;
        Ok(found.unwrap_or_default())
    };
    resolve(spec, &read("etc/passwd")?, &read("etc/group")?).map_err(|e| e.to_string())
}

/// One directory that shows what a pile of them shows, bottom first.
///
/// # Errors
/// When the file system refuses.
pub(in crate::engine) async fn merge_dirs(
    parts: Vec<Arc<LayerDir>>,
    layers: &LayerDirs,
) -> Result<Arc<LayerDir>, EngineError> {
    let failed = |cause: String| EngineError::Storage {
        doing: "merge layers".to_owned(),
        cause,
    };
    // What an opaque one hides need not be merged.
    let first = parts.iter().rposition(|dir| dir.opaque());
    let parts: Vec<Arc<LayerDir>> = parts.into_iter().skip(first.unwrap_or(0)).collect();
    let merged = layers
        .create_like(first.is_some())
        .map_err(|e| failed(e.to_string()))?;
    let into = merged.path().to_owned();
    let done = tokio::task::spawn_blocking(move || {
        let paths: Vec<&Path> = parts.iter().map(|dir| dir.path()).collect();
        merge(&paths, &into)
    });
    match done.await {
        Ok(Ok(())) => Ok(merged),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Runs work that blocks; its error is the step's failure.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(StepError::failed),
        Err(error) => Err(StepError::Engine(EngineError::Host(error.to_string()))),
    }
}
