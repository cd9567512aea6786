//! What an earlier service left: builds that it did not end, and builds that the index lost.

use std::path::Path;

use chalk_core::wire::{Build, BuildStatus, EventKind, Problem, problem};

use super::log::{self, EventLog, Recovered};
use super::{Builds, BuildsError, record, run};

impl Builds {
    /// Ends interrupted builds and puts builds back into the index that it does not know. Called
    /// once, before the service takes requests. Blocks.
    ///
    /// # Errors
    /// When the index fails, or the directory cannot be listed.
    pub(crate) fn recover(&self) -> Result<(), BuildsError> {
        let io = |source| BuildsError::Io {
            action: "list",
            path: self.dir.clone(),
            source,
        };
        for entry in std::fs::read_dir(&self.dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(id) = entry.file_name().into_string() else {
                continue;
            };
            let known = self.index.build(&id)?;
            if known.as_ref().is_some_and(|build| build.status.is_final()) {
                continue;
            }
            let Some(begun) = known.or_else(|| read_record(&entry.path())) else {
                tracing::warn!(build = id, "a build without a record is removed");
                self.forget(&[id])?;
                continue;
            };
            if begun.id != id {
                continue;
            }
            let ended = self.end_interrupted(begun);
            if self.index.image(&ended.image_hash).is_none() {
                self.projects
                    .release_image(&ended.project, &ended.image_hash);
            }
            self.index.put_build(&ended)?;
        }
        self.forget_lost()?;
        if let Some(newest) = self.index.build_ids()?.last() {
            self.ids.follow(newest);
        }
        self.prune()
    }

    /// Reads the events of a build that has no end in the index; gives it one if it has none.
    fn end_interrupted(&self, mut build: Build) -> Build {
        let path = self.events_path(&build.id);
        let recovered = log::recover(&path).unwrap_or_default();
        for event in &recovered.kinds {
            record::apply(&mut build, event);
        }
        if matches!(recovered.kinds.last(), Some(EventKind::Finished { .. })) {
            return build;
        }
        tracing::warn!(build = build.id, "build was interrupted");
        let why = Problem {
            kind: problem::INTERRUPTED.to_owned(),
            title: "build interrupted".to_owned(),
            status: 500,
            detail: "the service stopped while the build waited or ran".to_owned(),
            hint: "build again: the steps that had ended are kept".to_owned(),
        };
        run::end(&mut build, Err(why), String::new());
        build.status = BuildStatus::Failed;
        // It ended when it was last heard of, not when somebody found it.
        if !recovered.last.is_empty() {
            build.seconds = record::seconds_between(&build.created, &recovered.last);
            build.finished = Some(recovered.last.clone());
        }
        if let Err(error) = write_end(&path, &recovered, &build) {
            tracing::warn!(build = build.id, %error, "the events of a build have no end");
        }
        build
    }

    /// Forgets rows whose directory is gone.
    fn forget_lost(&self) -> Result<(), BuildsError> {
        let mut lost = self.index.build_ids()?;
        lost.retain(|id| !self.build_dir(id).is_dir());
        if lost.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            builds = lost.len(),
            "builds without a directory are forgotten"
        );
        self.forget(&lost)
    }
}

fn read_record(dir: &Path) -> Option<Build> {
    let json = std::fs::read(dir.join("build.json")).ok()?;
    serde_json::from_slice(&json).ok()
}

fn write_end(path: &Path, recovered: &Recovered, build: &Build) -> std::io::Result<()> {
    if !path.exists() {
        std::fs::File::create_new(path)?;
    }
    let log = EventLog::resume(path, recovered)?;
    log.close(build.clone());
    match log.fault() {
        Some(fault) => Err(std::io::Error::other(fault)),
        None => Ok(()),
    }
}
