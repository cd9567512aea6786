//! What the service knows alone: nodes, tokens, warms, sandboxes, volumes and the pre-warm list.
//!
//! The database `nodes.redb` in the state directory. Unlike the index it cannot be rebuilt from the
//! registry, so one that is damaged is not set aside silently: the service does not start on it.
//!
//! A database that failed takes nothing more until it is opened again, which the writer does before
//! it gives changes up. As long as that does not help, the service says that it is not ready.
//!
//! One thread writes. It takes all changes that wait, commits them together (with a sync to the
//! disk), and only then tells those who wait, so that many writers share one sync. After a crash
//! the database holds every change that somebody was told of, and of one transaction all or
//! nothing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use chalk_store::failpoint::{Step, around};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

/// Version of the tables.
const VERSION: &[u8] = b"1";
/// Most changes in one commit.
const BATCH: usize = 4096;
/// Pauses before the database is opened again, and changes tried once more.
const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Single values by name.
    Meta,
    /// Nodes by name.
    Nodes,
    /// Join tokens by identifier.
    Joins,
    /// Warms by identifier, without their targets.
    Warms,
    /// Targets of warms by identifier of the warm, `/` and place in its list.
    Targets,
    /// Sandboxes by identifier.
    Sandboxes,
    /// Nodes that were removed, by the hash of their tokens.
    Removed,
    /// Clients with their tokens, by identifier.
    Clients,
    /// Volumes by identifier.
    Volumes,
    /// Refs of volumes by identifier of the volume, `/` and name.
    VolumeRefs,
    /// Versions of volumes by identifier of the volume, `/` and number.
    VolumeVersions,
    /// Commits to volumes by identifier of the volume, `/` and that of the commit.
    VolumeCommits,
    /// Projects by name.
    Projects,
    /// Images of projects by project, `/` and image hash.
    ProjectImages,
    /// Blobs of projects, with their sizes, by project, `/` and digest.
    ProjectBlobs,
    /// What nodes were told to have, by node, `/` and digest.
    NodeGrants,
}

impl Table {
    const ALL: [Self; 16] = [
        Self::Meta,
        Self::Nodes,
        Self::Joins,
        Self::Warms,
        Self::Targets,
        Self::Sandboxes,
        Self::Removed,
        Self::Clients,
        Self::Volumes,
        Self::VolumeRefs,
        Self::VolumeVersions,
        Self::VolumeCommits,
        Self::Projects,
        Self::ProjectImages,
        Self::ProjectBlobs,
        Self::NodeGrants,
    ];

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Self::Meta => "meta",
            Self::Nodes => "nodes",
            Self::Joins => "joins",
            Self::Warms => "warms",
            Self::Targets => "targets",
            Self::Sandboxes => "sandboxes",
            Self::Removed => "removed",
            Self::Clients => "clients",
            Self::Volumes => "volumes",
            Self::VolumeRefs => "volume_refs",
            Self::VolumeVersions => "volume_versions",
            Self::VolumeCommits => "volume_commits",
            Self::Projects => "projects",
            Self::ProjectImages => "project_images",
            Self::ProjectBlobs => "project_blobs",
            Self::NodeGrants => "node_grants",
        })
    }
}

/// What the database can fail with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The database cannot be opened.
    #[error(
        "{} cannot be used: {reason}; it holds nodes, warms, sandboxes and volumes, which nothing else knows: bring back a copy, or remove it to begin without any",
        path.display()
    )]
    Open {
        /// File of the database.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A change or a look-up failed.
    #[error("{} failed: {reason}", path.display())]
    Failed {
        /// File of the database.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The service stops.
    #[error("the service stops")]
    Stopping,
}

/// A change.
#[derive(Debug)]
enum Change {
    Put(Table, String, Vec<u8>),
    Remove(Table, String),
}

/// Changes that belong together: all of them are kept, or none.
#[derive(Debug, Default)]
pub(crate) struct Changes(Vec<Change>);

impl Changes {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Keeps a value.
    pub(crate) fn put(mut self, table: Table, key: &str, value: &impl Serialize) -> Self {
        // The types have no maps with other keys than texts, so that this cannot fail.
        let json = serde_json::to_vec(value).unwrap_or_default();
        self.0.push(Change::Put(table, key.to_owned(), json));
        self
    }

    /// Forgets a value.
    pub(crate) fn remove(mut self, table: Table, key: &str) -> Self {
        self.0.push(Change::Remove(table, key.to_owned()));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Told = oneshot::Sender<Result<(), LedgerError>>;

/// Opens the file of a database, or makes an empty one.
type Open = fn(&Path) -> Result<Database, redb::DatabaseError>;

/// The open database.
#[derive(Debug)]
struct File {
    path: PathBuf,
    open: Open,
    /// None after it could not be opened again.
    database: RwLock<Option<Database>>,
    /// Whether the newest changes were kept.
    sound: AtomicBool,
}

impl File {
    fn failed(&self, reason: &dyn std::fmt::Display) -> LedgerError {
        LedgerError::Failed {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    /// Does something with the database.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, LedgerError> {
        let database = self.database.read();
        let database = database.unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(database) => act(database).map_err(|e| self.failed(&e)),
            None => Err(self.failed(&"it cannot be opened again")),
        }
    }

    /// Opens the database again, which is closed first.
    fn open_again(&self) -> Result<(), LedgerError> {
        let database = self.database.write();
        let mut database = database.unwrap_or_else(PoisonError::into_inner);
        *database = None;
        *database = Some(load(&self.path, self.open).map_err(|e| self.failed(&e))?);
        Ok(())
    }

    /// Commits changes, in several tries if need be.
    fn keep(&self, changes: &[&Change]) -> Result<(), LedgerError> {
        let mut done = self.with(|database| apply(database, changes));
        for pause in PAUSES {
            let Err(error) = &done else {
                break;
            };
            tracing::warn!(%error, "the database is opened again");
            std::thread::sleep(pause);
            let opened = self.open_again();
            done = opened.and_then(|()| self.with(|database| apply(database, changes)));
        }
        self.sound.store(done.is_ok(), Ordering::Relaxed);
        done
    }
}

/// The database.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Arc<File>,
    changes: Option<Sender<(Changes, Option<Told>)>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Ledger {
    /// Waits until what was given is on the disk.
    fn drop(&mut self) {
        self.changes = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Ledger {
    /// Opens the database, or makes an empty one. Blocks.
    ///
    /// # Errors
    /// [`LedgerError::Open`].
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_by(path, |path| Database::create(path))
    }

    fn open_by(path: &Path, open: Open) -> Result<Self, LedgerError> {
        let unusable = |reason: String| LedgerError::Open {
            path: path.to_owned(),
            reason,
        };
        let file = Arc::new(File {
            path: path.to_owned(),
            open,
            database: RwLock::new(Some(load(path, open).map_err(unusable)?)),
            sound: AtomicBool::new(true),
        });
        let (changes, waiting) = channel();
        let shared = file.clone();
        let writer = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || write(&shared, &waiting))
            .map_err(|e| unusable(e.to_string()))?;
        Ok(Self {
            file,
            changes: Some(changes),
            writer: Some(writer),
        })
    }

    /// Whether what is given is kept, as far as is known.
    pub(crate) fn is_sound(&self) -> bool {
        self.file.sound.load(Ordering::Relaxed)
    }

    /// Makes changes; done when they are on the disk.
    ///
    /// # Errors
    /// When the database fails, or the service stops.
    pub(crate) async fn commit(&self, changes: Changes) -> Result<(), LedgerError> {
        self.begin(changes).await
    }

    /// Takes changes at once; what it gives is done when they are on the disk.
    pub(crate) fn begin(
        &self,
        changes: Changes,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send + use<> {
        let (told, done) = oneshot::channel();
        self.send(changes, Some(told));
        async { done.await.unwrap_or(Err(LedgerError::Stopping)) }
    }

    /// Makes changes in the order in which they were given, some time later.
    pub(crate) fn later(&self, changes: Changes) {
        if !changes.is_empty() {
            self.send(changes, None);
        }
    }

    fn send(&self, changes: Changes, told: Option<Told>) {
        if let Some(queue) = &self.changes {
            let _ = queue.send((changes, told));
        }
    }

    /// A single value. Blocks.
    ///
    /// # Errors
    /// When the database fails, or the value is not of that type.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
    ) -> Result<Option<T>, LedgerError> {
        let found = self.file.with(|database| {
            let table = database.begin_read()?.open_table(table.definition())?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        })?;
        let parsed = found.map(|json| serde_json::from_slice(&json));
        parsed.transpose().map_err(|e| self.file.failed(&e))
    }

    /// All keys of a table that begin with `prefix`. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) fn keys(&self, table: Table, prefix: &str) -> Result<Vec<String>, LedgerError> {
        self.file.with(|database| {
            let mut found = Vec::new();
            let rows = database.begin_read()?.open_table(table.definition())?;
            for row in rows.range::<&str>(prefix..)? {
                let (key, _) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push(key.value().to_owned());
            }
            Ok(found)
        })
    }

    /// All values of a table whose keys begin with `prefix`, by key; those that cannot be read are
    /// left out with a warning. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) fn all<T: DeserializeOwned>(
        &self,
        table: Table,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, LedgerError> {
        let mut found = Vec::new();
        self.file.with(|database| {
            let rows = database.begin_read()?.open_table(table.definition())?;
            for row in rows.range::<&str>(prefix..)? {
                let (key, json) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                match serde_json::from_slice(json.value()) {
                    Ok(value) => found.push((key.value().to_owned(), value)),
                    Err(error) => {
                        tracing::warn!(?table, key = key.value(), %error, "a record is left out");
                    }
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

fn load(path: &Path, open: Open) -> Result<Database, String> {
    // A damaged file may also make the database code panic.
    let opened = std::panic::catch_unwind(|| load_sound(path, open));
    opened.unwrap_or_else(|_| Err("its structure is broken".to_owned()))
}

fn load_sound(path: &Path, open: Open) -> Result<Database, String> {
    let make = || -> Result<Database, redb::Error> {
        let database = open(path)?;
        let write = database.begin_write()?;
        for table in Table::ALL {
            write.open_table(table.definition())?;
        }
        write.commit()?;
        Ok(database)
    };
    let database = make().map_err(|e| e.to_string())?;
    let check = || -> Result<Option<Vec<u8>>, redb::Error> {
        let write = database.begin_write()?;
        let mut meta = write.open_table(Table::Meta.definition())?;
        let found = meta.get("version")?.map(|v| v.value().to_vec());
        if found.is_none() {
            meta.insert("version", VERSION)?;
        }
        drop(meta);
        write.commit()?;
        Ok(found)
    };
    match check().map_err(|e| e.to_string())? {
        Some(version) if version != VERSION => Err("a newer chalk wrote it".to_owned()),
        _ => Ok(database),
    }
}

/// Commits what comes in until nobody can send any more.
fn write(file: &File, waiting: &Receiver<(Changes, Option<Told>)>) {
    while let Ok(first) = waiting.recv() {
        let mut count = first.0.0.len();
        let mut batch = vec![first];
        while count < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            count += next.0.0.len();
            batch.push(next);
        }
        let changes = batch.iter().flat_map(|(changes, _)| &changes.0);
        let done = file.keep(&changes.collect::<Vec<_>>());
        if let Err(error) = &done {
            tracing::error!(%error, "changes were not kept");
        }
        for told in batch.into_iter().filter_map(|(_, told)| told) {
            let _ = told.send(done.clone());
        }
    }
}

fn apply(database: &Database, changes: &[&Change]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut tables = Vec::new();
        for table in Table::ALL {
            tables.push(write.open_table(table.definition())?);
        }
        for change in changes {
            match change {
                Change::Put(table, key, value) => {
                    tables[*table as usize].insert(key.as_str(), value.as_slice())?;
                }
                Change::Remove(table, key) => {
                    tables[*table as usize].remove(key.as_str())?;
                }
            }
        }
    }
    around(Step::LedgerCommit, || write.commit())?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_told_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.redb");
        {
            let ledger = Ledger::open(&path).unwrap();
            let changes = Changes::new()
                .put(Table::Targets, "a/1", &1)
                .put(Table::Targets, "a/2", &2)
                .put(Table::Targets, "b/1", &3)
                .put(Table::Nodes, "a/1", &4);
            ledger.commit(changes).await.unwrap();
            ledger.later(Changes::new().remove(Table::Targets, "a/1"));
            ledger.later(Changes::new().put(Table::Targets, "a/2", &5));
        }
        let ledger = Ledger::open(&path).unwrap();
        let all = |prefix: &str| ledger.all::<u32>(Table::Targets, prefix).unwrap();
        assert_eq!(all("a/"), [("a/2".to_owned(), 5)]);
        assert_eq!(all("").len(), 2);
        assert_eq!(ledger.get::<u32>(Table::Nodes, "a/1").unwrap(), Some(4));
        assert_eq!(ledger.get::<u32>(Table::Nodes, "b").unwrap(), None);
        assert!(ledger.get::<String>(Table::Nodes, "a/1").is_err());
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.redb");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let error = Ledger::open(&path).unwrap_err().to_string();
        assert!(error.contains("nothing else knows"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap().len(), 10_000);
    }

    /// A disk that fails once somebody says so.
    #[derive(Debug)]
    struct Disk(redb::backends::FileBackend, &'static AtomicBool);

    impl redb::StorageBackend for Disk {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> std::io::Result<()> {
            if self.1.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("the disk fails"));
            }
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }

    /// A database on a disk that fails while `fails` says so.
    pub(crate) fn failing(
        path: &Path,
        fails: &'static AtomicBool,
    ) -> Result<Database, redb::DatabaseError> {
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let disk = Disk(redb::backends::FileBackend::new(file)?, fails);
        redb::Builder::new().create_with_backend(disk)
    }

    #[tokio::test]
    async fn a_disk_that_failed_for_a_while_is_used_again() {
        static FAILS: AtomicBool = AtomicBool::new(false);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes.redb");
        let ledger = Ledger::open_by(&path, |path| failing(path, &FAILS)).unwrap();
        let put = |key: &str| Changes::new().put(Table::Nodes, key, &1);
        ledger.commit(put("before")).await.unwrap();
        FAILS.store(true, Ordering::Relaxed);
        let error = ledger.commit(put("meanwhile")).await.unwrap_err();
        assert!(matches!(error, LedgerError::Failed { .. }), "{error}");
        assert!(!ledger.is_sound());
        FAILS.store(false, Ordering::Relaxed);
        ledger.commit(put("after")).await.unwrap();
        assert!(ledger.is_sound());
        for key in ["before", "after"] {
            assert_eq!(ledger.get::<u32>(Table::Nodes, key).unwrap(), Some(1));
        }
    }
}
