//! Projects: which images, names and blobs belong to whom, and how much each may take.
//!
//! - A *name* belongs to the project that its repository begins with (`ml/app:v1` to `ml`), and to the
//!   default project if there is none of that name.
//! - An *image*, which goes by the hash of its declaration, belongs to every project that built it. What
//!   no project has belongs to the default one, as everything did before there were projects.
//! - A *blob* belongs to every project that uploaded or pushed it or has an image with it. Bytes are
//!   kept once, whoever has them.
//!
//! As long as there is only the default project and it has no quota, nothing is counted and everybody
//! sees everything. With the first project or quota all that the store holds is written down as the
//! default project's, and from then on everything is counted ([`Projects::counts`]).
//!
//! A removed project keeps its name and images for good, so that nobody inherits them unasked.

mod scope;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chalk_core::Digest;
use chalk_core::wire::{
    DEFAULT_PROJECT, Problem, Project, ProjectRequest, ProjectUsage, Quotas, problem,
};
use chalk_store::{BlobError, BlobStore};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ledger::{Changes, Ledger, LedgerError, Table};
use crate::nodes::not_kept;
use crate::places::{IMAGES, RESERVED};
pub(crate) use scope::Scope;

/// Most projects, removed ones included.
const LIMIT: usize = 10_000;
/// Longest name.
const NAME_LIMIT: usize = 63;
/// Rows that are written in one go when counting begins.
const ROWS: usize = 4096;
/// Where the ledger keeps how far counting has come.
const COUNTING: &str = "projects";

/// What is kept of a project.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    created: Option<Timestamp>,
    #[serde(default)]
    quotas: Quotas,
    #[serde(default)]
    removed: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Entry {
    record: Record,
    images: BTreeSet<Digest>,
    blobs: BTreeMap<Digest, u64>,
    /// Sum of the sizes in `blobs`.
    bytes: u64,
}

/// How far counting has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Counting {
    /// Nobody counts.
    #[default]
    Off,
    /// What the store holds is being written down.
    Begun,
    /// Everything is written down as it comes.
    On,
}

#[derive(Debug, Default)]
struct State {
    counting: Counting,
    projects: BTreeMap<Arc<str>, Entry>,
}

impl State {
    fn entry(&self, project: &str) -> Option<&Entry> {
        self.projects.get(project)
    }

    fn there(&self, project: &str) -> bool {
        self.entry(project)
            .is_some_and(|entry| entry.record.removed.is_none())
    }
}

/// Whose a repository of the registry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Images by their hashes: each belongs to the projects that built it.
    Images,
    /// The service's own: cached steps and the directory of names.
    Service,
    /// Bases that were imported for all.
    Imports,
    /// A project's.
    Project(Arc<str>),
}

/// All projects.
#[derive(Debug)]
pub(crate) struct Projects {
    ledger: Arc<Ledger>,
    blobs: BlobStore,
    state: RwLock<State>,
    /// Held while projects are made, changed and removed.
    changing: tokio::sync::Mutex<()>,
}

/// There is no project of that name.
pub(crate) fn no_such(name: &str) -> Problem {
    let name: String = name.chars().take(NAME_LIMIT).collect();
    Problem {
        kind: problem::NOT_FOUND.to_owned(),
        title: "no such project".to_owned(),
        status: 404,
        detail: format!("there is no project `{name}`"),
        hint: "`chalk project ls` lists them".to_owned(),
    }
}

fn taken(name: &str, why: &str) -> Problem {
    Problem {
        kind: problem::NAME_TAKEN.to_owned(),
        title: "the name is taken".to_owned(),
        status: 409,
        detail: format!("`{name}` {why}"),
        hint: "take another name".to_owned(),
    }
}

/// Whether a project may be called so.
fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=NAME_LIMIT).contains(&name.len())
        && bytes.first().is_some_and(|byte| word(*byte))
        && bytes.last().is_some_and(|byte| word(*byte))
        && bytes.iter().all(|byte| word(*byte) || *byte == b'-')
}

/// Key of an image or blob of a project.
fn key(project: &str, digest: &Digest) -> String {
    format!("{project}/{}", digest.hex())
}

impl Projects {
    /// Projects of an earlier service. Blocks.
    ///
    /// # Errors
    /// When the ledger or the store cannot be read.
    pub(crate) fn load(ledger: Arc<Ledger>, blobs: BlobStore) -> Result<Self, LedgerError> {
        let mut state = State {
            counting: ledger.get(Table::Meta, COUNTING)?.unwrap_or_default(),
            ..State::default()
        };
        state
            .projects
            .insert(DEFAULT_PROJECT.into(), Entry::default());
        for (name, record) in ledger.all::<Record>(Table::Projects, "")? {
            state.projects.entry(name.into()).or_default().record = record;
        }
        let split = |key: &str| {
            let (project, hex) = key.split_once('/')?;
            let digest = format!("sha256:{hex}").parse::<Digest>().ok()?;
            Some((Arc::<str>::from(project), digest))
        };
        for key in ledger.keys(Table::ProjectImages, "")? {
            if let Some((project, hash)) = split(&key) {
                state
                    .projects
                    .entry(project)
                    .or_default()
                    .images
                    .insert(hash);
            }
        }
        for (key, size) in ledger.all::<u64>(Table::ProjectBlobs, "")? {
            if let Some((project, digest)) = split(&key) {
                let entry = state.projects.entry(project).or_default();
                if entry.blobs.insert(digest, size).is_none() {
                    entry.bytes += size;
                }
            }
        }
        let interrupted = state.counting == Counting::Begun;
        let projects = Self {
            ledger,
            blobs,
            state: RwLock::new(state),
            changing: tokio::sync::Mutex::default(),
        };
        if interrupted {
            projects.count_all()?;
        }
        Ok(projects)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is written down what belongs to whom: there are other projects than the default
    /// one, or that has a quota. Until then everything belongs to the default project.
    pub(crate) fn counts(&self) -> bool {
        self.read().counting != Counting::Off
    }

    /// Whether there is a project of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.read().there(name)
    }

    /// Begins to count: all that the store holds is the default project's by then.
    async fn begin_counting(self: &Arc<Self>) -> Result<(), Problem> {
        if self.counts() {
            return Ok(());
        }
        let begun = Changes::new().put(Table::Meta, COUNTING, &Counting::Begun);
        let kept = self.ledger.commit(begun).await;
        kept.map_err(|error| not_kept(&error))?;
        // From here on what comes is written down by those who take it in.
        self.write().counting = Counting::Begun;
        let this = self.clone();
        let counted = tokio::task::spawn_blocking(move || this.count_all()).await;
        let counted = counted.unwrap_or(Err(LedgerError::Stopping));
        counted.map_err(|error| not_kept(&error))
    }

    /// Writes down all that the store holds as the default project's. Blocks.
    fn count_all(&self) -> Result<(), LedgerError> {
        let fault = |error: BlobError| LedgerError::Failed {
            path: self.blobs.root().to_owned(),
            reason: error.to_string(),
        };
        let mut batch = Vec::with_capacity(ROWS);
        for found in self.blobs.list().map_err(fault)? {
            let (blob, _) = found.map_err(fault)?;
            batch.push((blob.digest, blob.size));
            if batch.len() == ROWS {
                self.keep_blobs(DEFAULT_PROJECT, std::mem::take(&mut batch));
            }
        }
        self.keep_blobs(DEFAULT_PROJECT, batch);
        // The ledger keeps the order: this row is there only with all before it.
        self.ledger
            .later(Changes::new().put(Table::Meta, COUNTING, &Counting::On));
        self.write().counting = Counting::On;
        Ok(())
    }

    /// Makes a project. `in_use` says whether the registry has repositories below a name.
    ///
    /// # Errors
    /// When the name is no good or taken, or the ledger fails.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: ProjectRequest,
        in_use: impl Future<Output = Result<bool, Problem>>,
    ) -> Result<Project, Problem> {
        let name = request.name;
        if !is_name(&name) {
            return Err(Problem::wrong_request(format!(
                "name: expected 1 to {NAME_LIMIT} lower-case letters, digits and hyphens, from a letter or digit to one"
            )));
        }
        if RESERVED.contains(&&*name) {
            return Err(taken(&name, "is the service's own"));
        }
        let _changing = self.changing.lock().await;
        match self.read().entry(&name).map(|entry| &entry.record) {
            Some(Record { removed: None, .. }) => {
                return Err(taken(&name, "is a project already"));
            }
            Some(_) => {
                let why = "was a project, and what is left of it must not come into other hands";
                return Err(taken(&name, why));
            }
            None => {}
        }
        if self.read().projects.len() >= LIMIT {
            return Err(Problem::wrong_request(format!(
                "there are {LIMIT} projects, and there cannot be more"
            )));
        }
        if in_use.await? {
            let why = "is what repositories of the default project begin with";
            return Err(taken(&name, why));
        }
        self.begin_counting().await?;
        let record = Record {
            created: Some(Timestamp::now()),
            quotas: request.quotas,
            removed: None,
        };
        self.keep(&name, record).await?;
        tracing::info!(name, "project was made");
        self.shown(&name).ok_or_else(|| no_such(&name))
    }

    async fn keep(&self, name: &str, record: Record) -> Result<(), Problem> {
        let changes = Changes::new().put(Table::Projects, name, &record);
        let kept = self.ledger.commit(changes).await;
        kept.map_err(|error| not_kept(&error))?;
        self.write().projects.entry(name.into()).or_default().record = record;
        Ok(())
    }

    /// Sets what a project may take.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn set(
        self: &Arc<Self>,
        name: &str,
        quotas: Quotas,
    ) -> Result<Project, Problem> {
        let _changing = self.changing.lock().await;
        let record = self.record(name)?;
        if quotas != Quotas::default() {
            self.begin_counting().await?;
        }
        self.keep(name, Record { quotas, ..record }).await?;
        self.shown(name).ok_or_else(|| no_such(name))
    }

    fn record(&self, name: &str) -> Result<Record, Problem> {
        let state = self.read();
        let found = state.entry(name).filter(|_| state.there(name));
        found
            .map(|entry| entry.record.clone())
            .ok_or_else(|| no_such(name))
    }

    /// Removes a project for good. What it has is seen by administrators alone from then on.
    ///
    /// # Errors
    /// When there is none, it is the default one, or the ledger fails.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), Problem> {
        if name == DEFAULT_PROJECT {
            return Err(Problem {
                kind: problem::CONFLICT.to_owned(),
                title: "the project stays".to_owned(),
                status: 409,
                detail: "the default project has everything that no other one has".to_owned(),
                hint: String::new(),
            });
        }
        let _changing = self.changing.lock().await;
        let mut record = self.record(name)?;
        record.removed = Some(Timestamp::now());
        self.keep(name, record).await?;
        // What the blobs were counted for is nobody's business any more.
        let blobs = {
            let mut state = self.write();
            let entry = state.projects.get_mut(name);
            entry.map(|entry| {
                entry.bytes = 0;
                std::mem::take(&mut entry.blobs)
            })
        };
        let blobs: Vec<Digest> = blobs.unwrap_or_default().into_keys().collect();
        for part in blobs.chunks(ROWS) {
            let rows = part.iter().fold(Changes::new(), |changes, digest| {
                changes.remove(Table::ProjectBlobs, &key(name, digest))
            });
            self.ledger.later(rows);
        }
        tracing::info!(name, "project was removed");
        Ok(())
    }

    /// A project as clients see it, without its builds.
    pub(crate) fn shown(&self, name: &str) -> Option<Project> {
        let state = self.read();
        let entry = state.entry(name).filter(|_| state.there(name))?;
        let counts = state.counting != Counting::Off;
        Some(Project {
            name: name.to_owned(),
            created: entry.record.created.map(|time| time.to_string()),
            quotas: entry.record.quotas,
            usage: ProjectUsage {
                builds: 0,
                images: entry.images.len() as u64,
                storage_bytes: counts.then_some(entry.bytes),
            },
        })
    }

    /// Names of all projects that were not removed, sorted.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let state = self.read();
        let there = state.projects.keys().filter(|name| state.there(name));
        there.cloned().collect()
    }

    /// Whose the repository is.
    pub(crate) fn owner(&self, repository: &str) -> Owner {
        if repository == IMAGES {
            return Owner::Images;
        }
        let first = repository.split('/').next().unwrap_or_default();
        match first {
            "chalk" => Owner::Service,
            "imports" => Owner::Imports,
            _ => {
                // A removed project still has what is below its name.
                let state = self.read();
                let found = state.projects.get_key_value(first);
                let name = found.map(|(name, _)| name.clone());
                Owner::Project(name.unwrap_or_else(|| DEFAULT_PROJECT.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
