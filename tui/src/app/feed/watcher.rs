//! Tells when a declared file changes on disk.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Shared;
use crate::app::event::Feed;

/// Time without changes after which files are read: editors write in several steps.
const REST: Duration = Duration::from_millis(120);

/// Watches the directories that declared files lie in: editors put new files in the place of old
/// ones, which a watch on the file itself would miss.
pub(super) struct FileWatcher {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    task: JoinHandle<()>,
}

impl FileWatcher {
    pub(super) fn new(shared: Shared) -> Self {
        let changed = Arc::new(Notify::new());
        let seen = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = event.is_ok_and(|event| {
                matches!(
                    event.kind,
                    EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)
                )
            });
            if matters {
                seen.notify_one();
            }
        });
        let task = tokio::spawn(async move {
            loop {
                changed.notified().await;
                while tokio::time::timeout(REST, changed.notified()).await.is_ok() {}
                shared.tell(Feed::FilesChanged).await;
            }
        });
        Self {
            watcher: watcher.ok(),
            watched: BTreeSet::new(),
            task,
        }
    }

    /// Watches these directories and no others. What cannot be watched is not: the app's own reload
    /// still reads it.
    pub(super) fn watch(&mut self, directories: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for old in self.watched.difference(directories) {
            let _ = watcher.unwatch(old);
        }
        let mut watched: BTreeSet<PathBuf> =
            self.watched.intersection(directories).cloned().collect();
        for new in directories.difference(&self.watched) {
            if watcher.watch(new, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(new.clone());
            }
        }
        self.watched = watched;
    }
}

impl Drop for FileWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
