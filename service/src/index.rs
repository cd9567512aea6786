//! The index of builds, images and names: a redb database in the state directory, with images and
//! names in memory in front of it.
//!
//! Nothing is known here alone. Images and names can be read back from the regional registry
//! (`crate::catalog`), builds from their directories (`crate::builds`); so a database that is
//! missing or damaged is set aside and made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chalk_core::wire::Build;
use chalk_core::{Digest, Platform};
use chalk_store::failpoint::{Step, around};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

/// Version of the tables; another one is made anew.
const VERSION: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const BUILDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("builds");
const IMAGES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("images");
const NAMES: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("names");

/// What the database can fail with.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database failed.
    #[error("the index {} failed", path.display())]
    Database {
        /// File of the database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A damaged database cannot be set aside.
    #[error("failed to set the damaged index {} aside", path.display())]
    Aside {
        /// File of the database.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the index knows of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Platform.
    pub platform: Platform,
    /// Bytes of its layers as stored.
    pub size: u64,
    /// Number of layers.
    pub layers: usize,
    /// When it was built.
    pub created: String,
}

#[derive(Debug, Default)]
struct Memory {
    images: BTreeMap<Digest, Known>,
    names: BTreeMap<String, Digest>,
    /// The same the other way round: an image has few names, and there are many images.
    named: BTreeMap<Digest, BTreeSet<String>>,
}

impl Memory {
    fn new(images: BTreeMap<Digest, Known>, names: BTreeMap<String, Digest>) -> Self {
        let mut named: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        for (name, hash) in &names {
            named.entry(*hash).or_default().insert(name.clone());
        }
        Self {
            images,
            names,
            named,
        }
    }

    /// Gives a name to an image, or takes it away from all.
    fn name(&mut self, name: &str, hash: Option<&Digest>) {
        let before = match hash {
            Some(hash) => self.names.insert(name.to_owned(), *hash),
            None => self.names.remove(name),
        };
        if let Some(before) = before
            && let Some(names) = self.named.get_mut(&before)
        {
            names.remove(name);
            if names.is_empty() {
                self.named.remove(&before);
            }
        }
        if let Some(hash) = hash {
            let names = self.named.entry(*hash).or_default();
            names.insert(name.to_owned());
        }
    }

    /// Forgets an image and its names.
    fn remove(&mut self, hash: &Digest) {
        self.images.remove(hash);
        for name in self.named.remove(hash).unwrap_or_default() {
            self.names.remove(&name);
        }
    }
}

/// The index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    open: Open,
    /// None after it could not be opened again.
    database: RwLock<Option<Database>>,
    memory: RwLock<Memory>,
}

/// Opens the file of a database, or makes an empty one.
type Open = fn(&Path) -> Result<Database, redb::DatabaseError>;

/// How the index was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Whole.
    Whole,
    /// Not there; an empty one was made.
    Missing,
    /// Damaged, or of another version; set aside, and an empty one was made.
    Damaged,
}

type Fallible<T> = Result<T, redb::Error>;

impl Index {
    /// Opens the database file, or makes an empty one when there is none that can be used.
    ///
    /// # Errors
    /// When no database can be made either.
    pub fn open(path: &Path) -> Result<(Self, Found), IndexError> {
        Self::open_by(path, |path| Database::create(path))
    }

    fn open_by(path: &Path, open: Open) -> Result<(Self, Found), IndexError> {
        let mut found = Found::Missing;
        if path.exists() {
            // A damaged file may also make the database code panic.
            let loaded = std::panic::catch_unwind(AssertUnwindSafe(|| Self::load(path, open)));
            let why = match loaded {
                Ok(Ok(Some(index))) => return Ok((index, Found::Whole)),
                Ok(Ok(None)) => "it is of another version".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "its structure is broken".to_owned(),
            };
            let aside = path.with_extension("redb.damaged");
            tracing::warn!(why, aside = %aside.display(), "the index cannot be used and is made anew");
            std::fs::rename(path, &aside).map_err(|source| IndexError::Aside {
                path: path.to_owned(),
                source,
            })?;
            found = Found::Damaged;
        }
        let made = Self::create(path, open).map_err(|e| failed(path, e))?;
        Ok((made, found))
    }

    fn create(path: &Path, open: Open) -> Fallible<Self> {
        let database = open(path)?;
        let write = database.begin_write()?;
        write.open_table(META)?.insert("version", VERSION)?;
        write.open_table(BUILDS)?;
        write.open_table(IMAGES)?;
        write.open_table(NAMES)?;
        write.commit()?;
        Ok(Self {
            path: path.to_owned(),
            open,
            database: RwLock::new(Some(database)),
            memory: RwLock::default(),
        })
    }

    fn load(path: &Path, open: Open) -> Fallible<Option<Self>> {
        let database = open(path)?;
        let (mut images, mut names) = (BTreeMap::new(), BTreeMap::new());
        let read = database.begin_read()?;
        let version = read.open_table(META)?.get("version")?.map(|v| v.value());
        if version != Some(VERSION) {
            return Ok(None);
        }
        for row in read.open_table(IMAGES)?.iter()? {
            let (hash, known) = row?;
            let Ok(known) = serde_json::from_slice(known.value()) else {
                return Ok(None);
            };
            let hash = Digest::from_bytes(*hash.value());
            images.insert(hash, known);
        }
        for row in read.open_table(NAMES)?.iter()? {
            let (name, hash) = row?;
            let hash = Digest::from_bytes(*hash.value());
            names.insert(name.value().to_owned(), hash);
        }
        read.open_table(BUILDS)?;
        drop(read);
        Ok(Some(Self {
            path: path.to_owned(),
            open,
            database: RwLock::new(Some(database)),
            memory: RwLock::new(Memory::new(images, names)),
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        // Nothing that changes the maps panics in between.
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the database. After a fault of the disk the database takes nothing more
    /// until it was opened again; so that is done, and it is tried once more.
    fn with<T>(&self, act: impl Fn(&Database) -> Fallible<T>) -> Result<T, IndexError> {
        let once = || {
            let database = self.database.read();
            let database = database.unwrap_or_else(PoisonError::into_inner);
            match &*database {
                Some(database) => act(database),
                None => Err(redb::Error::DatabaseClosed),
            }
        };
        once()
            .or_else(|error| {
                tracing::warn!(%error, path = %self.path.display(), "the index is opened again");
                self.open_again()?;
                once()
            })
            .map_err(|e| failed(&self.path, e))
    }

    /// Opens the database again, which is closed first.
    fn open_again(&self) -> Fallible<()> {
        let database = self.database.write();
        let mut database = database.unwrap_or_else(PoisonError::into_inner);
        *database = None;
        *database = Some((self.open)(&self.path)?);
        Ok(())
    }

    /// What is known of the image of that hash.
    pub fn image(&self, hash: &Digest) -> Option<Known> {
        self.read().images.get(hash).cloned()
    }

    /// All images.
    pub fn images(&self) -> Vec<(Digest, Known)> {
        let memory = self.read();
        memory.images.iter().map(|(h, k)| (*h, k.clone())).collect()
    }

    /// Hashes of the images whose hex digits begin with `prefix` and that are `seen`, at most two.
    pub fn with_prefix(&self, prefix: &str, seen: impl Fn(&Digest) -> bool) -> Vec<Digest> {
        let start = format!("{prefix:0<64}");
        let Ok(start) = format!("sha256:{start}").parse::<Digest>() else {
            return Vec::new();
        };
        let memory = self.read();
        let from = memory
            .images
            .range((Bound::Included(start), Bound::Unbounded));
        from.map(|(hash, _)| *hash)
            .take_while(|hash| hash.hex().starts_with(prefix))
            .filter(seen)
            .take(2)
            .collect()
    }

    /// The image that has that name.
    pub fn named(&self, name: &str) -> Option<Digest> {
        self.read().names.get(name).copied()
    }

    /// Names of an image, sorted.
    pub fn names_of(&self, hash: &Digest) -> Vec<String> {
        let memory = self.read();
        let names = memory.named.get(hash).into_iter().flatten();
        names.cloned().collect()
    }

    /// All names with their images.
    pub fn names(&self) -> BTreeMap<String, Digest> {
        self.read().names.clone()
    }

    /// Keeps an image. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_image(&self, hash: &Digest, known: &Known) -> Result<(), IndexError> {
        if self.read().images.get(hash) == Some(known) {
            return Ok(());
        }
        let json = serde_json::to_vec(known).unwrap_or_default();
        self.write(Durability::Immediate, |write| {
            let mut table = write.open_table(IMAGES)?;
            table.insert(hash.as_bytes(), json.as_slice())?;
            Ok(())
        })?;
        self.memory().images.insert(*hash, known.clone());
        Ok(())
    }

    /// Forgets an image and its names. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_image(&self, hash: &Digest) -> Result<(), IndexError> {
        let names = self.names_of(hash);
        self.write(Durability::Immediate, |write| {
            write.open_table(IMAGES)?.remove(hash.as_bytes())?;
            let mut table = write.open_table(NAMES)?;
            for name in &names {
                table.remove(name.as_str())?;
            }
            Ok(())
        })?;
        self.memory().remove(hash);
        Ok(())
    }

    /// Forgets images with their names, and other names, at once. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_all(&self, images: &[Digest], mut names: Vec<String>) -> Result<(), IndexError> {
        names.extend(images.iter().flat_map(|hash| self.names_of(hash)));
        self.write(Durability::Immediate, |write| {
            let mut table = write.open_table(IMAGES)?;
            for hash in images {
                table.remove(hash.as_bytes())?;
            }
            let mut table = write.open_table(NAMES)?;
            for name in &names {
                table.remove(name.as_str())?;
            }
            Ok(())
        })?;
        let mut memory = self.memory();
        images.iter().for_each(|hash| memory.remove(hash));
        names.iter().for_each(|name| memory.name(name, None));
        Ok(())
    }

    /// Gives a name to an image, or takes it away from all. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_name(&self, name: &str, hash: Option<&Digest>) -> Result<(), IndexError> {
        if self.named(name).as_ref() == hash {
            return Ok(());
        }
        self.write(Durability::Immediate, |write| {
            let mut table = write.open_table(NAMES)?;
            match hash {
                Some(hash) => table.insert(name, hash.as_bytes())?,
                None => table.remove(name)?,
            };
            Ok(())
        })?;
        self.memory().name(name, hash);
        Ok(())
    }

    /// Puts other images and names in the place of all. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn replace_images(
        &self,
        images: BTreeMap<Digest, Known>,
        names: BTreeMap<String, Digest>,
    ) -> Result<(), IndexError> {
        self.write(Durability::Immediate, |write| {
            write.delete_table(IMAGES)?;
            write.delete_table(NAMES)?;
            let mut table = write.open_table(IMAGES)?;
            for (hash, known) in &images {
                let json = serde_json::to_vec(known).unwrap_or_default();
                table.insert(hash.as_bytes(), json.as_slice())?;
            }
            let mut table = write.open_table(NAMES)?;
            for (name, hash) in &names {
                table.insert(name.as_str(), hash.as_bytes())?;
            }
            Ok(())
        })?;
        *self.memory() = Memory::new(images, names);
        Ok(())
    }

    /// Keeps a build. One that is not final need not survive a crash of the machine: it is read
    /// back from its directory then. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_build(&self, build: &Build) -> Result<(), IndexError> {
        let json = serde_json::to_vec(build).unwrap_or_default();
        let durability = if build.status.is_final() {
            Durability::Immediate
        } else {
            Durability::None
        };
        self.write(durability, |write| {
            let mut table = write.open_table(BUILDS)?;
            table.insert(build.id.as_str(), json.as_slice())?;
            Ok(())
        })
    }

    /// Forgets builds. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn remove_builds(&self, ids: &[String]) -> Result<(), IndexError> {
        self.write(Durability::Immediate, |write| {
            let mut table = write.open_table(BUILDS)?;
            for id in ids {
                table.remove(id.as_str())?;
            }
            Ok(())
        })
    }

    /// The build of that id. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn build(&self, id: &str) -> Result<Option<Build>, IndexError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(BUILDS)?;
            let row = table.get(id)?;
            Ok(row.and_then(|json| serde_json::from_slice(json.value()).ok()))
        })
    }

    /// Ids of all builds, oldest first. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn build_ids(&self) -> Result<Vec<String>, IndexError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(BUILDS)?;
            let ids = table.iter()?.map(|row| Ok(row?.0.value().to_owned()));
            ids.collect()
        })
    }

    /// Builds that `wanted` keeps, newest first, at most `limit`, those before `before` only. Blocks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn builds(
        &self,
        limit: usize,
        before: Option<&str>,
        wanted: impl Fn(Build) -> Option<Build>,
    ) -> Result<Vec<Build>, IndexError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(BUILDS)?;
            let mut builds = Vec::new();
            let end = before.map_or(Bound::Unbounded, Bound::Excluded);
            for row in table.range::<&str>((Bound::Unbounded, end))?.rev() {
                let (_, json) = row?;
                let build = serde_json::from_slice(json.value()).ok();
                builds.extend(build.and_then(&wanted));
                if builds.len() >= limit {
                    break;
                }
            }
            Ok(builds)
        })
    }

    fn write(
        &self,
        durability: Durability,
        change: impl Fn(&redb::WriteTransaction) -> Fallible<()>,
    ) -> Result<(), IndexError> {
        self.with(|database| {
            let mut write = database.begin_write()?;
            write.set_durability(durability)?;
            change(&write)?;
            around(Step::IndexCommit, || write.commit())?;
            Ok(())
        })
    }
}

fn failed(path: &Path, source: redb::Error) -> IndexError {
    IndexError::Database {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
