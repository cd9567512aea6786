//! Uploaded objects on their way into a version: chunks of files, packs of many small files, and
//! lists of changes, named by their BLAKE3.
//!
//! They lie beside the blob store until they are a day old: a commit copies what it names into blobs,
//! and a client that has just uploaded an object need not do so again for the next commit. Chunks, which
//! may be big together, go two hours after a commit.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chalk_core::wire::DEFAULT_PROJECT;
use chalk_store::failpoint::{Step, around};
use tempfile::NamedTempFile;

use super::error::{Result, VolumeError};
use super::hash::{ContentHash, ContentHasher};

/// Largest object, in bytes: packs have 64 MiB and a header, chunks 8 MiB, and a list of changes
/// grows with the number of files.
pub(crate) const OBJECT_LIMIT: u64 = 512 << 20;
/// How long an object stays after it was last uploaded or asked for.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Directory with those of each project but the default one.
const PROJECTS: &str = "projects";
/// How long an object stays after a commit took over what is in it.
const SPENT: Duration = Duration::from_secs(2 * 3600);

/// The directory of uploaded objects.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    dir: PathBuf,
    /// Held while it is said that an object is there, and while old ones go.
    telling: Arc<Mutex<()>>,
    /// Held while a directory of objects is made, until it is on the disk: so none is used before.
    making: Arc<Mutex<()>>,
}

impl Objects {
    /// Opens the directory, which is ours alone, and drops what was being written when an earlier
    /// service died.
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        let objects = Self {
            dir,
            telling: Arc::default(),
            making: Arc::default(),
        };
        for place in objects.others()?.iter().chain([&objects]) {
            let incoming = place.incoming();
            match fs::remove_dir_all(&incoming) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(VolumeError::io("clear away")(e));
                }
                _ => {}
            }
            fs::create_dir_all(&incoming).map_err(VolumeError::io("make room for"))?;
        }
        objects.sweep(KEPT)?;
        Ok(objects)
    }

    /// Those of a project: nobody commits, or learns of, what another one uploaded. Blocks.
    pub(super) fn of(&self, project: &str) -> Result<Self> {
        if project == DEFAULT_PROJECT {
            return Ok(self.clone());
        }
        let objects = Self {
            dir: self.dir.join(PROJECTS).join(project),
            telling: self.telling.clone(),
            making: self.making.clone(),
        };
        fs::create_dir_all(objects.incoming()).map_err(VolumeError::io("make room for"))?;
        Ok(objects)
    }

    /// Those of each project but the default one.
    fn others(&self) -> Result<Vec<Self>> {
        let listed = match fs::read_dir(self.dir.join(PROJECTS)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed.map_err(VolumeError::io("list"))?,
        };
        let mut others = Vec::new();
        for entry in listed {
            let dir = entry.map_err(VolumeError::io("list"))?.path();
            others.push(Self {
                dir,
                telling: self.telling.clone(),
                making: self.making.clone(),
            });
        }
        Ok(others)
    }

    fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        let hex = hash.to_string();
        self.dir.join(&hex[..2]).join(hex)
    }

    /// Whether an object is there; it then stays for another while.
    pub(super) fn has(&self, hash: &ContentHash, size: u64) -> Result<bool> {
        let fault = VolumeError::io("look for");
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        match File::open(self.path(hash)) {
            Ok(file) => {
                if file.metadata().is_ok_and(|meta| meta.len() == size) {
                    let touched = file.set_modified(SystemTime::now());
                    return touched.map(|()| true).map_err(fault);
                }
                Ok(false)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(fault(e)),
        }
    }

    /// Says that what an object holds is in a blob by now: it need not stay for long.
    pub(super) fn spend(&self, hash: &ContentHash) {
        let since = SystemTime::now().checked_sub(KEPT.saturating_sub(SPENT));
        // It may be gone already, and goes later if not.
        if let (Some(since), Ok(file)) = (since, File::open(self.path(hash))) {
            let _ = file.set_modified(since);
        }
    }

    /// Opens an object for reading.
    pub(super) fn open_object(&self, hash: &ContentHash) -> Result<File> {
        File::open(self.path(hash)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => VolumeError::NoObject(*hash),
            _ => VolumeError::io("open")(e),
        })
    }

    /// Begins an object.
    pub(super) fn writer(&self) -> Result<ObjectWriter> {
        let file = NamedTempFile::new_in(self.incoming());
        Ok(ObjectWriter {
            objects: self.clone(),
            file: file.map_err(VolumeError::io("make"))?,
            hasher: ContentHasher::default(),
            size: 0,
        })
    }

    /// All objects of all projects, each with its bytes and when it was last uploaded or asked for.
    fn list(&self) -> Result<Vec<(PathBuf, u64, SystemTime)>> {
        let mut found = Vec::new();
        for place in self.others()?.iter().chain([self]) {
            place.list_here(&mut found)?;
        }
        Ok(found)
    }

    fn list_here(&self, found: &mut Vec<(PathBuf, u64, SystemTime)>) -> Result<()> {
        let listed = |dir: &Path| -> io::Result<Vec<fs::DirEntry>> { fs::read_dir(dir)?.collect() };
        let fault = || VolumeError::io("list");
        for shard in listed(&self.dir).map_err(fault())? {
            if shard.file_name().len() != 2 {
                continue;
            }
            for object in listed(&shard.path()).map_err(fault())? {
                if let Ok(meta) = object.metadata()
                    && let Ok(modified) = meta.modified()
                {
                    found.push((object.path(), meta.len(), modified));
                }
            }
        }
        Ok(())
    }

    /// How many there are that are older than `age`, and how many others.
    pub(super) fn held(&self, age: Duration) -> Result<HeldObjects> {
        let mut held = HeldObjects::default();
        for (_, size, modified) in self.list()? {
            let (count, bytes) = match is_older(modified, age) {
                true => (&mut held.old, &mut held.old_bytes),
                false => (&mut held.kept, &mut held.kept_bytes),
            };
            *count += 1;
            *bytes += size;
        }
        Ok(held)
    }

    /// Removes objects that are older than `age`.
    pub(super) fn sweep(&self, age: Duration) -> Result<()> {
        for (path, _, modified) in self.list()? {
            if !is_older(modified, age) {
                continue;
            }
            let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody may just have been told that it is there.
            let meta = fs::metadata(&path).and_then(|meta| meta.modified());
            if !meta.is_ok_and(|modified| is_older(modified, age)) {
                continue;
            }
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(VolumeError::io("remove")(e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Uploaded objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HeldObjects {
    /// How many stay, and their bytes.
    pub(crate) kept: u64,
    pub(crate) kept_bytes: u64,
    /// How many are too old, and their bytes.
    pub(crate) old: u64,
    pub(crate) old_bytes: u64,
}

fn is_older(modified: SystemTime, age: Duration) -> bool {
    let now = SystemTime::now();
    now.duration_since(modified).is_ok_and(|since| since > age)
}

/// An object that comes in. Dropping it discards what was written.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    objects: Objects,
    file: NamedTempFile,
    hasher: ContentHasher,
    size: u64,
}

impl Write for ObjectWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter {
    /// Gives the object its name, once it is on the disk.
    ///
    /// # Errors
    /// When it is not what was announced, or the disk fails.
    pub(crate) fn commit(self, expected: ContentHash, expected_size: u64) -> Result<()> {
        let actual = self.hasher.finish();
        if actual != expected || self.size != expected_size {
            return Err(VolumeError::Mismatch {
                expected,
                expected_size,
                actual,
                actual_size: self.size,
            });
        }
        let fault = || VolumeError::io("keep");
        let path = self.objects.path(&expected);
        let shard = path.parent().unwrap_or(&self.objects.dir);
        {
            let making = &self.objects.making;
            let _making = making.lock().unwrap_or_else(PoisonError::into_inner);
            match fs::create_dir(shard) {
                Ok(()) => synced(&self.objects.dir).map_err(fault())?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fault()(e)),
            }
        }
        around(Step::ObjectSync, || self.file.as_file().sync_all()).map_err(fault())?;
        around(Step::ObjectRename, || self.file.persist(&path)).map_err(|e| fault()(e.error))?;
        synced(shard).map_err(fault())
    }
}

fn synced(dir: &Path) -> io::Result<()> {
    around(Step::ObjectSyncDir, || File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(objects: &Objects, bytes: &[u8], hash: ContentHash, size: u64) -> Result<()> {
        let mut writer = objects.writer()?;
        for piece in bytes.chunks(3) {
            writer.write_all(piece).unwrap();
        }
        writer.commit(hash, size)
    }

    #[test]
    fn only_what_was_announced_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path().join("objects")).unwrap();
        let hash = ContentHash::of(b"chunk");
        let wrong = ContentHash::of(b"other");
        assert!(matches!(
            upload(&objects, b"chunk", wrong, 5),
            Err(VolumeError::Mismatch { .. })
        ));
        assert!(matches!(
            upload(&objects, b"chunk", hash, 6),
            Err(VolumeError::Mismatch { .. })
        ));
        assert!(!objects.has(&hash, 5).unwrap());
        let gone = objects.open_object(&hash);
        assert!(matches!(gone, Err(VolumeError::NoObject(h)) if h == hash));
        upload(&objects, b"chunk", hash, 5).unwrap();
        upload(&objects, b"chunk", hash, 5).unwrap();
        assert!(objects.has(&hash, 5).unwrap());
        assert!(!objects.has(&hash, 4).unwrap());
        assert_eq!(fs::read_dir(objects.incoming()).unwrap().count(), 0);
    }

    #[test]
    fn old_objects_go_unless_somebody_asked_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(dir.path().to_owned()).unwrap();
        let past = SystemTime::now() - KEPT - Duration::from_secs(60);
        let hashes = [b"a", b"b"].map(|bytes| {
            let hash = ContentHash::of(bytes);
            upload(&objects, bytes, hash, 1).unwrap();
            let file = objects.open_object(&hash).unwrap();
            file.set_modified(past).unwrap();
            hash
        });
        assert!(objects.has(&hashes[0], 1).unwrap());
        fs::write(objects.incoming().join("half"), b"x").unwrap();
        let objects = Objects::open(dir.path().to_owned()).unwrap();
        assert!(objects.has(&hashes[0], 1).unwrap());
        assert!(!objects.has(&hashes[1], 1).unwrap());
        assert_eq!(fs::read_dir(objects.incoming()).unwrap().count(), 0);
        // One that a commit took over goes sooner.
        objects.spend(&hashes[0]);
        let later = Duration::from_secs(60);
        objects.sweep(KEPT - SPENT + later).unwrap();
        assert!(objects.open_object(&hashes[0]).is_ok());
        objects.sweep(KEPT - SPENT - later).unwrap();
        assert!(objects.open_object(&hashes[0]).is_err());
    }
}
