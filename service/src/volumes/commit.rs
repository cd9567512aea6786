//! Commits: from changes that a client sends to a version that everybody sees.

use std::sync::Arc;

use super::contents::{Contents, keep};
use super::delta::{Delta, Remove, Upsert, WriteMode};
use super::error::{Result, VolumeError};
use super::manifest::{ENTRY_LIMIT, Entry, FileContents, Manifest, Metadata, Node};
use super::records::{CommitRecord, RefRecord, VersionRecord, key, version_key};
use super::{DEFAULT_REF, Volume, Volumes, blocking, names, version};
use crate::ledger::{Changes, Table};

/// Most versions of a volume.
const VERSION_LIMIT: u64 = 1_000_000;
/// Longest target of a symbolic link, in bytes; that of Linux.
const TARGET_LIMIT: usize = 4095;
/// Threads that keep the contents of one commit, and the least that one of them does.
const THREADS: usize = 8;
const SHARE: usize = 32;
/// Longest name of an author, in bytes.
const AUTHOR_LIMIT: usize = 1024;

/// What a client wants to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Identifier that the client made: however often a commit comes, it makes one version.
    pub(crate) id: String,
    /// Ref that moves; the default one when empty.
    pub(crate) on: String,
    /// Version that the ref must point to; whatever it points to when absent.
    pub(crate) base: Option<u64>,
    /// Who commits.
    pub(crate) author: String,
    /// Paths to take away first.
    pub(crate) removes: Vec<Remove>,
    /// Entries to put.
    pub(crate) changes: Vec<Change>,
}

/// An entry to put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Path, as the client wrote it.
    pub(crate) path: String,
    /// What must be there.
    pub(crate) mode: WriteMode,
    /// What to put.
    pub(crate) node: CommitNode,
    /// What is known about it.
    pub(crate) metadata: Metadata,
}

/// What to put at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitNode {
    /// A file with contents that are somewhere.
    File(Contents),
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink(String),
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It made this version.
    Version(VersionRecord),
    /// The ref points to another version than the base: the newest one, if any.
    Rebase(Option<VersionRecord>),
}

/// Paths that differ between a version and its parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Diff {
    /// Only in the version.
    pub(crate) added: Vec<String>,
    /// In both, with differences.
    pub(crate) modified: Vec<String>,
    /// Only in the parent.
    pub(crate) removed: Vec<String>,
}

impl Volumes {
    /// Makes a version of a volume.
    ///
    /// # Errors
    /// When the changes make no sense or do not fit what is there, or an object was not uploaded.
    /// Nothing has changed then.
    pub(crate) async fn commit(&self, volume: &Arc<Volume>, commit: Commit) -> Result<Committed> {
        names::check_name("identifier of a commit", &commit.id)?;
        if let Some(done) = self.commit_of(volume, &commit.id).await? {
            return Ok(Committed::Version(done));
        }
        let on = match &*commit.on {
            "" => DEFAULT_REF,
            name => name,
        };
        names::check_name("name of a ref", on)?;
        if commit.author.len() > AUTHOR_LIMIT {
            return Err(VolumeError::Invalid(
                "the author is longer than 1024 bytes".into(),
            ));
        }
        let (id, on, author) = (commit.id.clone(), on.to_owned(), commit.author.clone());
        let base = commit.base;
        // Blobs are needed until the version names them, however long that takes.
        let _lease = self.blobs.lease();
        let (blobs, objects) = (self.blobs.clone(), self.objects.clone());
        let project = volume.project().clone();
        // Contents are copied before the volume is held: that takes as long as it takes, and leaves
        // at worst blobs behind that nobody names.
        let delta = blocking(move || {
            let objects = objects.of(&project)?;
            resolve(commit, |contents| keep(&blobs, &objects, contents))
        })
        .await?;

        let _changing = volume.changing.lock().await;
        volume.check_there()?;
        // Another request for the same commit may have been faster.
        if let Some(done) = self.commit_of(volume, &id).await? {
            return Ok(Committed::Version(done));
        }
        let head = self.head(volume, &on).await?;
        if base.is_some_and(|base| head.as_ref().is_none_or(|head| head.number != base)) {
            return Ok(Committed::Rebase(head));
        }
        let mut record = volume.record();
        if record.versions >= VERSION_LIMIT {
            return Err(VolumeError::TooMany {
                what: "versions of a volume",
                found: record.versions + 1,
                limit: VERSION_LIMIT,
            });
        }
        let listings = self.listings.clone();
        let before = head.as_ref().map(|head| head.manifest);
        let (manifest, stats) = blocking(move || {
            let before = before.map(|digest| listings.get(&digest)).transpose()?;
            let next = delta.apply(&before.unwrap_or_default())?;
            let stats = next.stats();
            Ok((listings.put(next)?, stats))
        })
        .await?;

        record.versions += 1;
        let made = VersionRecord {
            number: record.versions,
            sequence: head.as_ref().map_or(1, |head| head.sequence + 1),
            parent: head.map(|head| head.number),
            created: jiff::Timestamp::now(),
            on: on.clone(),
            commit: id.clone(),
            author,
            manifest,
            stats,
        };
        let moved = RefRecord {
            name: on,
            version: made.number,
            updated: made.created,
        };
        let done = CommitRecord {
            version: made.number,
        };
        let changes = Changes::new()
            .put(Table::Volumes, &volume.id, &record)
            .put(Table::VolumeRefs, &key(&volume.id, &moved.name), &moved)
            .put(
                Table::VolumeVersions,
                &version_key(&volume.id, made.number),
                &made,
            )
            .put(Table::VolumeCommits, &key(&volume.id, &id), &done);
        self.ledger.commit(changes).await?;
        volume.write(|state| {
            state.record = record;
            state.refs.insert(moved.name.clone(), moved);
        });
        Ok(Committed::Version(made))
    }

    /// The version that a commit made.
    ///
    /// # Errors
    /// When the ledger fails.
    pub(crate) async fn commit_of(
        &self,
        volume: &Arc<Volume>,
        id: &str,
    ) -> Result<Option<VersionRecord>> {
        let (ledger, volume, key) = (self.ledger.clone(), volume.clone(), key(&volume.id, id));
        blocking(move || {
            let done: Option<CommitRecord> = ledger.get(Table::VolumeCommits, &key)?;
            done.map(|done| version(&ledger, &volume, done.version))
                .transpose()
        })
        .await
    }

    /// The newest version of a ref; none where nothing was committed yet.
    async fn head(&self, volume: &Arc<Volume>, on: &str) -> Result<Option<VersionRecord>> {
        let selector = super::Selector::Ref(on.to_owned());
        self.version(volume, &selector).await
    }

    /// What a version changed.
    ///
    /// # Errors
    /// When a listing cannot be read.
    pub(crate) async fn diff(&self, volume: &Arc<Volume>, made: &VersionRecord) -> Result<Diff> {
        let (ledger, listings) = (self.ledger.clone(), self.listings.clone());
        let (volume, made) = (volume.clone(), made.clone());
        blocking(move || {
            let after = listings.get(&made.manifest)?;
            let before = match made.parent {
                Some(parent) => listings.get(&version(&ledger, &volume, parent)?.manifest)?,
                None => Arc::default(),
            };
            Ok(diff(&before, &after))
        })
        .await
    }
}

fn diff(before: &Manifest, after: &Manifest) -> Diff {
    let mut diff = Diff::default();
    for (path, entry) in after.iter() {
        match before.get(path) {
            None => diff.added.push(path.to_owned()),
            Some(old) if old != entry => diff.modified.push(path.to_owned()),
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|(path, _)| after.get(path).is_none());
    diff.removed = gone.map(|(path, _)| path.to_owned()).collect();
    diff
}

/// Checks what a client sent, and has the contents of files kept. Blocks.
fn resolve(
    commit: Commit,
    keep: impl Fn(&Contents) -> Result<FileContents> + Sync,
) -> Result<Delta> {
    let found = commit.removes.len() + commit.changes.len();
    if found > ENTRY_LIMIT {
        return Err(VolumeError::TooMany {
            what: "changes in a commit",
            found: found as u64,
            limit: ENTRY_LIMIT as u64,
        });
    }
    let remove = |remove: Remove| {
        let path = names::clean_path(&remove.path)?;
        Ok(Remove { path, ..remove })
    };
    let removes = commit.removes.into_iter().map(remove);
    let removes = removes.collect::<Result<_>>()?;
    let all = |share: &[Change]| -> Result<Vec<Upsert>> {
        share.iter().map(|change| upsert(change, &keep)).collect()
    };
    let share = commit.changes.len().div_ceil(THREADS).max(SHARE);
    // Each new blob waits for the disk, which takes several together when several wait.
    let resolved: Vec<Result<Vec<Upsert>>> = std::thread::scope(|scope| {
        let begin = |share| {
            let thread = std::thread::Builder::new().name("commit".into());
            thread.spawn_scoped(scope, move || all(share))
        };
        let threads: Vec<_> = commit.changes.chunks(share).map(begin).collect();
        let joined = threads.into_iter().map(|thread| {
            let thread = thread.map_err(VolumeError::io("begin to take in"))?;
            thread.join().unwrap_or(Err(VolumeError::Stopping))
        });
        joined.collect()
    });
    let mut upserts = Vec::with_capacity(commit.changes.len());
    for share in resolved {
        upserts.append(&mut share?);
    }
    Ok(Delta { removes, upserts })
}

fn upsert(change: &Change, keep: impl Fn(&Contents) -> Result<FileContents>) -> Result<Upsert> {
    let path = names::entry_path(&change.path)?;
    let node = match &change.node {
        CommitNode::File(contents) => Node::File(keep(contents)?),
        CommitNode::Dir => Node::Dir,
        CommitNode::Symlink(target) => {
            if target.is_empty() || target.len() > TARGET_LIMIT || target.contains('\0') {
                return Err(VolumeError::Invalid(format!(
                    "the target of the symbolic link `{path}` is empty, longer than 4095 bytes, or has a NUL"
                )));
            }
            Node::Symlink {
                target: target.clone(),
            }
        }
    };
    let mut metadata = change.metadata.clone();
    metadata.mode = metadata.mode.map(|mode| mode & 0o7777);
    Ok(Upsert {
        path,
        mode: change.mode,
        entry: Entry { node, metadata },
    })
}
