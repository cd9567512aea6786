//! Directories that live as long as a build.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::Span;

use crate::engine::EngineError;

/// The scratch directory of one build; removed when dropped, and by [`sweep`] at the next start
/// when the process died before.
#[derive(Debug)]
pub(in crate::engine) struct Scratch {
    path: PathBuf,
    next: AtomicUsize,
}

fn failed(doing: &str, path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Storage {
        doing: format!("{doing} {}", path.display()),
        cause: error.to_string(),
    }
}

/// Removes what builds that died left in `parent`, and makes it if it is not there.
///
/// # Errors
/// When it cannot be made or read.
pub(in crate::engine) fn sweep(parent: &Path) -> Result<(), EngineError> {
    fs::create_dir_all(parent).map_err(|e| failed("make", parent, &e))?;
    let entries = fs::read_dir(parent).map_err(|e| failed("read", parent, &e))?;
    for entry in entries.flatten() {
        remove(&entry.path());
    }
    Ok(())
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a scratch directory stays behind");
        }
        _ => {}
    }
}

impl Scratch {
    /// Makes one in `parent`; `id` is part of its name, for people.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(in crate::engine) fn new(parent: &Path, id: &str) -> Result<Self, EngineError> {
        let id: String = id
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(64)
            .collect();
        let path = tempfile::Builder::new()
            .prefix(&format!("{id}-"))
            .tempdir_in(parent)
            .map_err(|e| failed("make a directory in", parent, &e))?
            .keep();
        Ok(Self {
            path,
            next: AtomicUsize::new(0),
        })
    }

    /// A new empty directory (mode 0755), named after what it is for.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(in crate::engine) fn dir(&self, purpose: &str) -> Result<PathBuf, EngineError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{purpose}-{number}"));
        fs::create_dir(&path).map_err(|e| failed("make", &path, &e))?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o755))
            .map_err(|e| failed("make", &path, &e.into()))?;
        Ok(path)
    }

    /// Removes it all, off the async threads.
    pub(in crate::engine) async fn close(self) {
        let span = Span::current();
        let _ = tokio::task::spawn_blocking(move || span.in_scope(|| drop(self))).await;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}
