//! Volumes: named trees of files with immutable versions behind refs that move.
//!
//! A commit puts a new version behind a ref: contents become blobs of the blob store (deduplicated by
//! SHA-256 with everything else there), the listing of the version becomes a blob, and last the ledger
//! takes version, ref and commit in one transaction, so that nobody sees half of it. Clients name
//! contents by BLAKE3, upload them as objects to signed addresses, and refer to them when they commit.
//!
//! A volume that is deleted frees its name at once; its blobs stay until the store is collected.

pub(crate) mod addresses;
mod commit;
mod contents;
mod delta;
mod error;
mod hash;
mod listings;
mod manifest;
mod names;
mod objects;
mod records;
mod refs;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::DEFAULT_PROJECT;
use chalk_store::{BlobError, BlobStore};

pub(crate) use commit::{Change, Commit, CommitNode, Committed};
pub(crate) use contents::{Contents, Piece};
pub(crate) use delta::{Remove, WriteMode};
pub(crate) use error::{Result, VolumeError};
pub(crate) use hash::ContentHash;
pub(crate) use manifest::{Entry, FileContents, Listed, Manifest, Metadata, Node};
pub(crate) use names::{DEFAULT_REF, clean_path};
pub(crate) use objects::{HeldObjects, OBJECT_LIMIT, ObjectWriter};
pub(crate) use records::{RefRecord, VersionRecord, VolumeKind, VolumeRecord};

use crate::ids::Ids;
use crate::ledger::{Changes, Ledger, Table};
use listings::Listings;
use manifest::LISTING_LIMIT;
use objects::Objects;

/// Most volumes.
const VOLUME_LIMIT: usize = 100_000;
/// Pause between two looks for uploaded objects that are too old.
const SWEEP: Duration = Duration::from_secs(3600);

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    ledger: Arc<Ledger>,
    blobs: BlobStore,
    objects: Objects,
    listings: Listings,
    ids: Ids,
    known: RwLock<Known>,
    /// Held while a volume is made, so that no two take one name.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: BTreeMap<String, Arc<Volume>>,
    /// Identifiers by project and name.
    by_name: BTreeMap<(Arc<str>, String), String>,
}

/// A volume, with where its refs point.
#[derive(Debug)]
pub(crate) struct Volume {
    id: String,
    project: Arc<str>,
    name: String,
    state: RwLock<State>,
    /// Held while the volume changes.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    record: VolumeRecord,
    refs: BTreeMap<String, RefRecord>,
    deleted: bool,
}

/// How a client names a volume: by identifier if it is not empty, by name otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VolumeName {
    /// Identifier.
    pub(crate) id: String,
    /// Name.
    pub(crate) name: String,
    /// Project to look in; for a name the default one, and for an identifier any, when there is none.
    pub(crate) project: Option<Arc<str>>,
}

/// How a client names a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Selector {
    /// The newest one of the default ref.
    #[default]
    Default,
    /// The newest one of a ref.
    Ref(String),
    /// That one.
    Version(u64),
}

/// A page of something, and what to go on after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page<T> {
    /// Items in order.
    pub(crate) items: Vec<T>,
    /// None at the end.
    pub(crate) next: Option<String>,
}

impl Volume {
    fn new(record: VolumeRecord, refs: BTreeMap<String, RefRecord>) -> Self {
        Self {
            id: record.id.clone(),
            project: record.project().into(),
            name: record.name.clone(),
            state: RwLock::new(State {
                record,
                refs,
                deleted: false,
            }),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Project that it belongs to.
    pub(crate) fn project(&self) -> &Arc<str> {
        &self.project
    }

    /// What is kept of it.
    pub(crate) fn record(&self) -> VolumeRecord {
        self.read(|state| state.record.clone())
    }

    /// Its refs that point somewhere, by name.
    pub(crate) fn refs(&self) -> Vec<RefRecord> {
        self.read(|state| state.refs.values().cloned().collect())
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is still there; asked by those who hold [`changing`](Self::changing).
    fn check_there(&self) -> Result<()> {
        if self.read(|state| state.deleted) {
            return Err(VolumeError::NoVolume(self.name.clone()));
        }
        Ok(())
    }

    /// Number of the version that a selector means; none where nothing was committed yet.
    fn number(&self, selector: &Selector) -> Result<Option<u64>> {
        let name = match selector {
            Selector::Version(number) => return Ok(Some(*number)),
            Selector::Default => DEFAULT_REF,
            Selector::Ref(name) => name,
        };
        match self.read(|state| state.refs.get(name).map(|found| found.version)) {
            None if name != DEFAULT_REF => Err(VolumeError::NoRef {
                volume: self.name.clone(),
                name: name.to_owned(),
            }),
            found => Ok(found),
        }
    }
}

impl Volumes {
    /// Volumes of an earlier service; `dir` is where uploaded objects lie. Blocks.
    ///
    /// # Errors
    /// When the ledger or the directory cannot be read.
    pub(crate) fn load(ledger: Arc<Ledger>, blobs: BlobStore, dir: PathBuf) -> Result<Self> {
        let ids = Ids::default();
        let mut known = Known::default();
        let mut refs: BTreeMap<String, BTreeMap<String, RefRecord>> = BTreeMap::new();
        for (key, found) in ledger.all::<RefRecord>(Table::VolumeRefs, "")? {
            if let Some((volume, _)) = key.split_once('/') {
                let refs = refs.entry(volume.to_owned()).or_default();
                refs.insert(found.name.clone(), found);
            }
        }
        for (id, record) in ledger.all::<VolumeRecord>(Table::Volumes, "")? {
            ids.follow(&id);
            let project = record.project().into();
            let name = (project, record.name.clone());
            known.by_name.insert(name, id.clone());
            let refs = refs.remove(&id).unwrap_or_default();
            known.by_id.insert(id, Arc::new(Volume::new(record, refs)));
        }
        Ok(Self {
            ledger,
            objects: Objects::open(dir)?,
            listings: Listings::new(blobs.clone()),
            blobs,
            ids,
            known: RwLock::new(known),
            making: tokio::sync::Mutex::default(),
        })
    }

    /// Blobs that versions of volumes are made of. A listing that is lost leads to nothing. Looks
    /// at them without using them. Blocks.
    ///
    /// # Errors
    /// When ledger or store fail.
    pub(crate) fn reachable(&self) -> Result<HashSet<Digest>> {
        let mut found = HashSet::new();
        let versions = self
            .ledger
            .all::<VersionRecord>(Table::VolumeVersions, "")?;
        for (key, version) in versions {
            if !found.insert(version.manifest) {
                continue;
            }
            let json = match self.blobs.inspect(&version.manifest, LISTING_LIMIT) {
                Ok(json) => json,
                Err(BlobError::NotFound(_) | BlobError::Mismatch { .. }) => {
                    tracing::warn!(version = key, "the listing of a version is lost");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for (_, entry) in Manifest::parse(version.manifest, &json)?.iter() {
                if let Node::File(contents) = &entry.node {
                    found.insert(contents.digest);
                }
            }
        }
        Ok(found)
    }

    /// Uploaded objects, kept and too old. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn objects_held(&self) -> Result<HeldObjects> {
        self.objects.held(objects::KEPT)
    }

    /// Removes uploaded objects that are too old. Blocks.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn sweep_objects(&self) -> Result<()> {
        self.objects.sweep(objects::KEPT)
    }

    /// Removes uploaded objects that are too old, from time to time.
    pub(crate) async fn run(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let objects = self.objects.clone();
            if let Err(error) = blocking(move || objects.sweep(objects::KEPT)).await {
                tracing::warn!(%error, "old uploads of volumes were not removed");
            }
        }
    }

    /// Makes a volume of a project.
    ///
    /// # Errors
    /// When the name is no good or taken.
    pub(crate) async fn create(
        &self,
        project: &Arc<str>,
        name: &str,
        kind: VolumeKind,
    ) -> Result<Arc<Volume>> {
        let key = (project.clone(), name.to_owned());
        names::check_name("name of a volume", name)?;
        let _making = self.making.lock().await;
        let taken = || VolumeError::Exists {
            kind: "volume",
            name: name.to_owned(),
        };
        self.read(|known| {
            if known.by_name.contains_key(&key) {
                return Err(taken());
            }
            if known.by_id.len() >= VOLUME_LIMIT {
                return Err(VolumeError::TooMany {
                    what: "volumes",
                    found: known.by_id.len() as u64 + 1,
                    limit: VOLUME_LIMIT as u64,
                });
            }
            Ok(())
        })?;
        let record = VolumeRecord {
            id: self.ids.next(),
            name: name.to_owned(),
            project: Some(project.to_string()),
            kind,
            created: jiff::Timestamp::now(),
            versions: 0,
        };
        let changes = Changes::new().put(Table::Volumes, &record.id, &record);
        self.ledger.commit(changes).await?;
        let volume = Arc::new(Volume::new(record, BTreeMap::new()));
        self.write(|known| {
            known.by_name.insert(key, volume.id.clone());
            known.by_id.insert(volume.id.clone(), volume.clone());
        });
        Ok(volume)
    }

    /// Finds a volume.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn get(&self, wanted: &VolumeName) -> Result<Arc<Volume>> {
        let VolumeName { id, name, project } = wanted;
        let found = self.read(|known| {
            let id = if id.is_empty() {
                let project = project.clone().unwrap_or_else(default_project);
                known.by_name.get(&(project, name.clone()))?
            } else {
                id
            };
            let found = known.by_id.get(id);
            let of =
                |volume: &&Arc<Volume>| project.as_ref().is_none_or(|own| *own == volume.project);
            found.filter(of).cloned()
        });
        let named = if id.is_empty() { name } else { id };
        found.ok_or_else(|| VolumeError::NoVolume(named.chars().take(200).collect()))
    }

    /// Volumes of a project, or of all, by project and name: at most `limit` whose names begin with
    /// `prefix` and come after `after`, a name of the default project or `<project>/<name>`.
    pub(crate) fn list(
        &self,
        project: Option<&Arc<str>>,
        prefix: &str,
        kind: Option<VolumeKind>,
        after: &str,
        limit: usize,
    ) -> Page<VolumeRecord> {
        self.read(|known| {
            let after = (!after.is_empty()).then(|| match after.split_once('/') {
                Some((project, name)) => (Arc::from(project), name.to_owned()),
                None => (default_project(), after.to_owned()),
            });
            let first = project.map_or_else(|| Arc::from(""), Arc::clone);
            let from = match &after {
                Some(after) => Bound::Excluded(after.clone()),
                None => Bound::Included((first, String::new())),
            };
            let mut found = known
                .by_name
                .range((from, Bound::Unbounded))
                .take_while(|((owner, _), _)| project.is_none_or(|own| own == owner))
                .filter(|((_, name), _)| name.starts_with(prefix))
                .filter_map(|(_, id)| known.by_id.get(id))
                .map(|volume| volume.record())
                .filter(|record| kind.is_none_or(|kind| kind == record.kind));
            let items: Vec<VolumeRecord> = found.by_ref().take(limit).collect();
            let more = found.next().is_some();
            let last = items.last().map(|record| match record.project() {
                DEFAULT_PROJECT => record.name.clone(),
                project => format!("{project}/{}", record.name),
            });
            Page {
                next: last.filter(|_| more),
                items,
            }
        })
    }

    /// Deletes a volume with all its versions. What sandboxes have mounted stays with them.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn delete(&self, wanted: &VolumeName) -> Result<()> {
        let volume = self.get(wanted)?;
        let _changing = volume.changing.lock().await;
        volume.check_there()?;
        let (ledger, id) = (self.ledger.clone(), volume.id.clone());
        let changes = blocking(move || {
            let mut changes = Changes::new().remove(Table::Volumes, &id);
            let prefix = records::key(&id, "");
            for table in [
                Table::VolumeRefs,
                Table::VolumeVersions,
                Table::VolumeCommits,
            ] {
                for key in ledger.keys(table, &prefix)? {
                    changes = changes.remove(table, &key);
                }
            }
            Ok(changes)
        });
        self.ledger.commit(changes.await?).await?;
        volume.write(|state| state.deleted = true);
        self.write(|known| {
            known.by_id.remove(&volume.id);
            let name = (volume.project.clone(), volume.name.clone());
            known.by_name.remove(&name);
        });
        Ok(())
    }

    /// The version that a selector means; none where nothing was committed yet.
    ///
    /// # Errors
    /// When there is no such ref or version.
    pub(crate) async fn version(
        &self,
        volume: &Arc<Volume>,
        selector: &Selector,
    ) -> Result<Option<VersionRecord>> {
        let Some(number) = volume.number(selector)? else {
            return Ok(None);
        };
        let (ledger, volume) = (self.ledger.clone(), volume.clone());
        blocking(move || version(&ledger, &volume, number).map(Some)).await
    }

    /// What a version holds.
    ///
    /// # Errors
    /// When its listing cannot be read.
    pub(crate) async fn listing(&self, version: &VersionRecord) -> Result<Arc<Manifest>> {
        let (listings, digest) = (self.listings.clone(), version.manifest);
        blocking(move || listings.get(&digest)).await
    }

    /// Pins a version for a sandbox: the [`chalk_core::tree::Tree`] whose blob it mounts.
    ///
    /// # Errors
    /// When there is no such volume or version, or nothing was committed yet.
    pub(crate) async fn mount(
        &self,
        project: &Arc<str>,
        name: &str,
        selector: &Selector,
    ) -> Result<Digest> {
        let volume = self.get(&VolumeName {
            name: name.to_owned(),
            project: Some(project.clone()),
            ..VolumeName::default()
        })?;
        let Some(version) = self.version(&volume, selector).await? else {
            return Err(VolumeError::Empty {
                volume: volume.name.clone(),
                name: DEFAULT_REF.to_owned(),
            });
        };
        let (listings, blobs) = (self.listings.clone(), self.blobs.clone());
        blocking(move || {
            let tree = listings.get(&version.manifest)?.tree()?;
            Ok(blobs.put(tree.json().as_bytes())?.digest)
        })
        .await
    }

    /// Whether an object was uploaded to a project and is kept for another while.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn has_objects(
        &self,
        project: &Arc<str>,
        wanted: Vec<(ContentHash, u64)>,
    ) -> Result<Vec<bool>> {
        let (objects, project) = (self.objects.clone(), project.clone());
        let look = move || {
            let objects = objects.of(&project)?;
            wanted
                .iter()
                .map(|(hash, size)| objects.has(hash, *size))
                .collect()
        };
        blocking(look).await
    }

    /// Begins the upload of an object to a project, or the default one.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) async fn upload(&self, project: Option<&str>) -> Result<ObjectWriter> {
        let objects = self.objects.clone();
        let project = project.unwrap_or(DEFAULT_PROJECT).to_owned();
        blocking(move || objects.of(&project)?.writer()).await
    }

    /// Reads a whole object of at most `limit` bytes that was uploaded to a project.
    ///
    /// # Errors
    /// When it is not there, too large, or not what its hash says.
    pub(crate) async fn object(
        &self,
        project: &Arc<str>,
        hash: ContentHash,
        limit: u64,
    ) -> Result<Vec<u8>> {
        use std::io::Read as _;

        let (objects, project) = (self.objects.clone(), project.clone());
        blocking(move || {
            let mut bytes = Vec::new();
            let object = objects.of(&project)?.open_object(&hash)?;
            let read = object.take(limit + 1).read_to_end(&mut bytes);
            let size = read.map_err(VolumeError::io("read"))? as u64;
            if size > limit {
                return Err(VolumeError::TooMany {
                    what: "bytes of a list of changes",
                    found: size,
                    limit,
                });
            }
            let actual = ContentHash::of(&bytes);
            if actual != hash {
                return Err(VolumeError::Mismatch {
                    expected: hash,
                    expected_size: size,
                    actual,
                    actual_size: size,
                });
            }
            Ok(bytes)
        })
        .await
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn default_project() -> Arc<str> {
    DEFAULT_PROJECT.into()
}

/// A version by number. Blocks.
fn version(ledger: &Ledger, volume: &Volume, number: u64) -> Result<VersionRecord> {
    let found = ledger.get(
        Table::VolumeVersions,
        &records::version_key(&volume.id, number),
    )?;
    found.ok_or_else(|| VolumeError::NoVersion {
        volume: volume.name.clone(),
        version: number,
    })
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(VolumeError::Stopping))
}

#[cfg(test)]
mod tests;
