//! What projects have, and whether they may have more.

use std::collections::BTreeSet;

use chalk_core::Digest;
use chalk_core::wire::{DEFAULT_PROJECT, Problem, Storage, problem};

use chalk_store::BlobError;

use super::{Changes, Counting, Projects, Table, key, not_kept};

fn exceeded(status: u16, detail: String, hint: &str) -> Problem {
    Problem {
        kind: problem::QUOTA_EXCEEDED.to_owned(),
        title: "a quota of the project is used up".to_owned(),
        status,
        detail,
        hint: hint.to_owned(),
    }
}

impl Projects {
    /// Whether a project has an image: it has built it, or is the default one and nobody else has.
    pub(crate) fn has_image(&self, project: &str, hash: &Digest) -> bool {
        let state = self.read();
        if state.counting == Counting::Off {
            return project == DEFAULT_PROJECT;
        }
        let own = state
            .entry(project)
            .is_some_and(|entry| entry.images.contains(hash));
        let orphan = || {
            !state
                .projects
                .values()
                .any(|entry| entry.images.contains(hash))
        };
        own || project == DEFAULT_PROJECT && orphan()
    }

    /// Whether a project has a blob.
    pub(crate) fn has_blob(&self, project: &str, digest: &Digest) -> bool {
        let state = self.read();
        if state.counting == Counting::Off {
            return project == DEFAULT_PROJECT;
        }
        state
            .entry(project)
            .is_some_and(|entry| entry.blobs.contains_key(digest))
    }

    /// Gives an image to a project. Done when that is on the disk.
    ///
    /// # Errors
    /// When the ledger fails.
    pub(crate) async fn keep_image(&self, project: &str, hash: &Digest) -> Result<(), Problem> {
        let kept = {
            let state = self.read();
            let there = state
                .entry(project)
                .is_some_and(|entry| entry.images.contains(hash));
            if state.counting == Counting::Off || there {
                return Ok(());
            }
            let row = Changes::new().put(Table::ProjectImages, &key(project, hash), &());
            self.ledger.begin(row)
        };
        kept.await.map_err(|error| not_kept(&error))?;
        let mut state = self.write();
        state
            .projects
            .entry(project.into())
            .or_default()
            .images
            .insert(*hash);
        Ok(())
    }

    /// Takes an image back that a project was given for a build which made none: another project's
    /// is not for it.
    pub(crate) fn release_image(&self, project: &str, hash: &Digest) {
        let mut state = self.write();
        let entry = state.projects.get_mut(project);
        if entry.is_some_and(|entry| entry.images.remove(hash)) {
            let row = Changes::new().remove(Table::ProjectImages, &key(project, hash));
            self.ledger.later(row);
        }
    }

    /// Forgets an image that was deleted, whoever had it.
    pub(crate) fn forget_image(&self, hash: &Digest) {
        let mut state = self.write();
        let mut changes = Changes::new();
        for (name, entry) in &mut state.projects {
            if entry.images.remove(hash) {
                changes = changes.remove(Table::ProjectImages, &key(name, hash));
            }
        }
        self.ledger.later(changes);
    }

    /// Writes down that a project has blobs of those sizes. What a crash takes of that away, clients
    /// bring again.
    pub(crate) fn keep_blobs(&self, project: &str, blobs: impl IntoIterator<Item = (Digest, u64)>) {
        let mut changes = Changes::new();
        let mut state = self.write();
        if state.counting == Counting::Off {
            return;
        }
        let entry = state.projects.entry(project.into()).or_default();
        for (digest, size) in blobs {
            if entry.blobs.insert(digest, size).is_none() {
                entry.bytes += size;
                changes = changes.put(Table::ProjectBlobs, &key(project, &digest), &size);
            }
        }
        self.ledger.later(changes);
    }

    /// Blobs that the store has no more count for nobody.
    pub(crate) fn forget_blobs(&self, gone: &[Digest]) {
        let mut state = self.write();
        let mut changes = Changes::new();
        for (name, entry) in &mut state.projects {
            for digest in gone {
                if let Some(size) = entry.blobs.remove(digest) {
                    entry.bytes -= size;
                    changes = changes.remove(Table::ProjectBlobs, &key(name, digest));
                }
            }
        }
        self.ledger.later(changes);
    }

    /// Forgets blobs that the garbage collection took from the store. Blocks.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub(crate) fn forget_gone(&self) -> Result<(), BlobError> {
        let mut gone: BTreeSet<Digest> = BTreeSet::new();
        for entry in self.read().projects.values() {
            gone.extend(entry.blobs.keys());
        }
        // Listed, since to ask for a blob is to use it.
        for found in self.blobs.list()? {
            gone.remove(&found?.0.digest);
        }
        let gone: Vec<Digest> = gone.into_iter().collect();
        self.forget_blobs(&gone);
        Ok(())
    }

    /// What a project stores.
    pub(crate) fn storage(&self, project: &str) -> Storage {
        let state = self.read();
        let entry = state.entry(project);
        Storage {
            blobs: entry.map_or(0, |entry| entry.blobs.len() as u64),
            bytes: entry.map_or(0, |entry| entry.bytes),
        }
    }

    /// Whether a project may store `more` bytes.
    ///
    /// # Errors
    /// [`problem::QUOTA_EXCEEDED`].
    pub(crate) fn room(&self, project: &str, more: u64) -> Result<(), Problem> {
        let state = self.read();
        let Some(entry) = state.entry(project) else {
            return Ok(());
        };
        match entry.record.quotas.storage_bytes {
            Some(quota) if entry.bytes.saturating_add(more) > quota => Err(exceeded(
                507,
                format!(
                    "project `{project}` stores {} bytes and may store {quota}",
                    entry.bytes
                ),
                "delete images and collect the registry, or have an administrator raise the quota: `chalk project set --storage SIZE`",
            )),
            _ => Ok(()),
        }
    }

    /// Whether a project with `live` builds may begin another one.
    ///
    /// # Errors
    /// [`problem::QUOTA_EXCEEDED`].
    pub(crate) fn may_build(&self, project: &str, live: usize) -> Result<(), Problem> {
        let state = self.read();
        let quota = state
            .entry(project)
            .and_then(|entry| entry.record.quotas.builds);
        match quota {
            Some(quota) if live as u64 >= quota => Err(exceeded(
                429,
                format!(
                    "project `{project}` has {live} builds that wait or run, and may have {quota}"
                ),
                "wait until one has ended, or have an administrator raise the quota: `chalk project set --builds N`",
            )),
            _ => Ok(()),
        }
    }
}
