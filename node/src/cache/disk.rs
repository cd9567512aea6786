//! The cache's directory.
//!
//! | path | what |
//! |---|---|
//! | `lock` | held by the process that uses the directory |
//! | `boot` | boot of the machine in which `blobs` were written |
//! | `layers/HEX/` | a whole layer by the digest of its blob: `layer.json`, and `image.erofs` or `fs/` |
//! | `images/HEX.json` | a whole image by the digest of its manifest; its time is that of its last use |
//! | `blobs/HEX` | a blob as it came, for other nodes |
//! | `.new-*`, `.old-*` in any of them | on the way in or out; removed at start |

use std::fs::{self, DirBuilder, File, FileTimes, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chalk_core::Digest;
use chalk_store::failpoint::{Step, around};
use chalk_store::temporary;
use serde::{Deserialize, Serialize};

use super::error::{CacheError, Result, failed};

const NEW: &str = ".new-";
const OLD: &str = ".old-";
const IMAGE: &str = "image.erofs";
const TREE: &str = "fs";
const NOTE: &str = "layer.json";

/// Form of a layer on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerForm {
    /// A file that is mounted as EROFS.
    Erofs,
    /// A directory that overlayfs stacks as it is.
    Directory,
}

/// What is written beside a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerNote {
    /// Digest of the blob.
    pub(crate) digest: Digest,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Digest of the uncompressed layer, checked.
    pub(crate) diff_id: Digest,
    pub(crate) form: LayerForm,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Length of the image file, holes included; 0 for a directory. A file of another length was
    /// damaged since.
    pub(crate) length: u64,
    /// Whether it hides all layers below it.
    #[serde(default)]
    pub(crate) opaque_root: bool,
}

/// An image, as it is kept. Manifest and config are their own proof: they have their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image_hash: Option<Digest>,
    /// What it was pulled by.
    pub(crate) name: String,
    pub(crate) manifest: String,
    pub(crate) config: String,
    pub(crate) config_digest: Digest,
    pub(crate) layers: Vec<LayerRef>,
    /// Labels, sorted.
    #[serde(default)]
    pub(crate) pins: Vec<String>,
}

/// A layer of an image, the lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRef {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// The directory, held by this process.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    _lock: File,
}

/// What stood in the directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) layers: Vec<LayerNote>,
    pub(crate) images: Vec<(ImageRecord, SystemTime)>,
    pub(crate) blobs: Vec<(Digest, u64)>,
}

impl Disk {
    /// Opens the directory and removes what is not whole.
    pub(crate) fn open(root: &Path) -> Result<(Self, Found)> {
        make_dir(root)?;
        let root = root.canonicalize().map_err(failed("resolve", root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(failed("create", &path))?;
        if lock.try_lock().is_err() {
            return Err(CacheError::Locked(root.display().to_string()));
        }
        // A node may die while it finds out what the kernel mounts.
        temporary::sweep(&root).map_err(failed("tidy", &root))?;
        for sub in ["layers", "images", "blobs"] {
            make_dir(&root.join(sub))?;
        }
        let disk = Self { root, _lock: lock };
        let found = Found {
            layers: disk.find_layers()?,
            images: disk.find_images()?,
            blobs: disk.find_blobs()?,
        };
        Ok((disk, found))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a layer is: the file to mount, or the directory to stack.
    pub(crate) fn layer(&self, digest: &Digest, form: LayerForm) -> PathBuf {
        self.layer_dir(digest).join(match form {
            LayerForm::Erofs => IMAGE,
            LayerForm::Directory => TREE,
        })
    }

    fn layer_dir(&self, digest: &Digest) -> PathBuf {
        self.root.join("layers").join(digest.hex())
    }

    fn image(&self, digest: &Digest) -> PathBuf {
        self.root
            .join("images")
            .join(format!("{}.json", digest.hex()))
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    /// A directory for a layer on its way in.
    pub(crate) fn new_layer(&self) -> Result<NewLayer> {
        let path = self.root.join("layers").join(temporary(NEW));
        let dir = DirBuilder::new().mode(0o700).create(&path);
        dir.map_err(failed("create", &path))?;
        Ok(NewLayer { path: Some(path) })
    }

    /// A file for a blob on its way in.
    pub(crate) fn new_blob(&self) -> Result<(PathBuf, File)> {
        let path = self.root.join("blobs").join(temporary(NEW));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let file = file.map_err(failed("create", &path))?;
        Ok((path, file))
    }

    /// Gives a layer its name, when all of it is on the disk; gives the note of what has the name
    /// then. A whole layer that has it already stays, and the new one is dropped.
    pub(crate) fn commit_layer(&self, mut new: NewLayer, note: LayerNote) -> Result<LayerNote> {
        let dir = new.dir().to_owned();
        let path = dir.join(NOTE);
        let note_text = serde_json::to_vec_pretty(&note).unwrap_or_default();
        around(Step::NodeLayerNote, || write_synced(&path, &note_text))?;
        around(Step::NodeLayerSync, || match note.form {
            LayerForm::Erofs => sync(&dir.join(IMAGE)),
            LayerForm::Directory => {
                let file = File::open(&dir).map_err(failed("open", &dir))?;
                rustix::fs::syncfs(&file).map_err(failed("sync", &dir))
            }
        })?;
        sync(&dir)?;
        let target = self.layer_dir(&note.digest);
        let mut named = around(Step::NodeLayerRename, || fs::rename(&dir, &target));
        if matches!(&named, Err(e) if is_taken(e)) {
            // An eviction that failed halfway leaves a layer that the cache has forgotten.
            if let Some(there) = self.read_note(&note.digest) {
                return Ok(there);
            }
            if let Some(old) = self.retire_layer(&note.digest)? {
                remove_dir(&old)?;
            }
            named = fs::rename(&dir, &target);
        }
        named.map_err(failed("publish", &target))?;
        new.path = None;
        sync(&self.root.join("layers"))?;
        Ok(note)
    }

    /// Takes a layer's name away; gives what is left to be removed.
    pub(crate) fn retire_layer(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        let path = self.layer_dir(digest);
        let old = self.root.join("layers").join(temporary(OLD));
        match fs::rename(&path, &old) {
            Ok(()) => Ok(Some(old)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("remove", &path)(e)),
        }
    }

    /// Writes the record of an image, durably.
    pub(crate) fn put_image(&self, record: &ImageRecord, used: SystemTime) -> Result<()> {
        let path = self.image(&record.digest);
        let new = self.root.join("images").join(temporary(NEW));
        let bytes = serde_json::to_vec_pretty(record).unwrap_or_default();
        let written = write_synced(&new, &bytes)
            .and_then(|()| set_time(&new, used))
            .and_then(|()| {
                let named = around(Step::NodeImage, || fs::rename(&new, &path));
                named.map_err(failed("publish", &path))
            });
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        sync(&self.root.join("images"))
    }

    /// Notes when an image was used last.
    pub(crate) fn touch_image(&self, digest: &Digest, used: SystemTime) -> Result<()> {
        set_time(&self.image(digest), used)
    }

    /// Not synced: a record that comes back after a crash of the machine misses its layers, or has
    /// them all.
    pub(crate) fn remove_image(&self, digest: &Digest) -> Result<()> {
        remove_file(&self.image(digest))
    }

    /// Takes a blob's name away; gives what is left to be removed.
    pub(crate) fn retire_blob(&self, digest: &Digest) -> Option<PathBuf> {
        let old = self.root.join("blobs").join(temporary(OLD));
        fs::rename(self.blob(digest), &old).ok().map(|()| old)
    }

    /// Whether a layer is there as it was when it got its name.
    fn is_whole(&self, note: &LayerNote) -> bool {
        let meta = fs::symlink_metadata(self.layer(&note.digest, note.form));
        meta.is_ok_and(|meta| match note.form {
            LayerForm::Erofs => meta.is_file() && meta.len() == note.length,
            LayerForm::Directory => meta.is_dir(),
        })
    }

    /// The note of a layer, if it is there and whole.
    fn read_note(&self, digest: &Digest) -> Option<LayerNote> {
        let bytes = fs::read(self.layer_dir(digest).join(NOTE)).ok()?;
        let note: LayerNote = serde_json::from_slice(&bytes).ok()?;
        (note.digest == *digest && self.is_whole(&note)).then_some(note)
    }

    fn find_layers(&self) -> Result<Vec<LayerNote>> {
        let dir = self.root.join("layers");
        let mut found = Vec::new();
        for name in names(&dir)? {
            let digest = format!("sha256:{name}").parse::<Digest>().ok();
            match digest.and_then(|digest| self.read_note(&digest)) {
                Some(note) => found.push(note),
                None => remove_dir(&dir.join(&name))?,
            }
        }
        Ok(found)
    }

    fn find_images(&self) -> Result<Vec<(ImageRecord, SystemTime)>> {
        let dir = self.root.join("images");
        let mut found = Vec::new();
        for name in names(&dir)? {
            let path = dir.join(&name);
            let read = || {
                let record: ImageRecord = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
                let sound = name == format!("{}.json", record.digest.hex())
                    && Digest::of(record.manifest.as_bytes()) == record.digest
                    && Digest::of(record.config.as_bytes()) == record.config_digest;
                let used = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
                sound.then_some((record, used))
            };
            match read() {
                Some(image) => found.push(image),
                None => {
                    tracing::warn!(path = %path.display(), "record of an image is damaged");
                    remove_file(&path)?;
                }
            }
        }
        Ok(found)
    }

    /// Kept blobs are not synced: what a crash of the machine may have torn is not served.
    fn find_blobs(&self) -> Result<Vec<(Digest, u64)>> {
        let now = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let marker = self.root.join("boot");
        let same = !now.is_empty() && fs::read_to_string(&marker).is_ok_and(|then| then == now);
        let dir = self.root.join("blobs");
        let mut found = Vec::new();
        for name in names(&dir)? {
            let path = dir.join(&name);
            let digest = format!("sha256:{name}").parse::<Digest>().ok();
            match (digest.filter(|_| same), fs::metadata(&path)) {
                (Some(digest), Ok(meta)) => found.push((digest, meta.len())),
                _ => remove_file(&path)?,
            }
        }
        fs::write(&marker, now).map_err(failed("write", &marker))?;
        Ok(found)
    }
}

/// A layer on its way in. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct NewLayer {
    path: Option<PathBuf>,
}

impl NewLayer {
    fn dir(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// The file for an EROFS image.
    pub(crate) fn image(&self) -> Result<File> {
        let path = self.dir().join(IMAGE);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        file.map_err(failed("create", &path))
    }

    /// The directory to unpack into.
    pub(crate) fn tree(&self) -> Result<PathBuf> {
        let path = self.dir().join(TREE);
        let made = DirBuilder::new().create(&path);
        // Whatever the umask is: `/` of a sandbox shows these bits.
        let open = Permissions::from_mode(0o755);
        made.and_then(|()| fs::set_permissions(&path, open))
            .map_err(failed("create", &path))?;
        Ok(path)
    }

    /// Bytes that it takes on the disk.
    pub(crate) fn usage(&self) -> u64 {
        usage(self.dir())
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = remove_dir(path)
        {
            // The next start sweeps it.
            tracing::warn!(%error, "unfinished layer stays for now");
        }
    }
}

/// Bytes on disk of all files below `path`; hard links count once.
fn usage(path: &Path) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let mut ahead = vec![path.to_owned()];
    let mut bytes = 0;
    while let Some(path) = ahead.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.is_dir() {
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            ahead.extend(below.map(|entry| entry.path()));
        }
        if meta.is_dir() || meta.nlink() == 1 || seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
    }
    bytes
}

fn temporary(prefix: &str) -> String {
    format!("{prefix}{:032x}", rand::random::<u128>())
}

/// Names in a directory; what was on its way in or out is removed.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let path = entry.path();
        match entry.file_name().into_string() {
            Ok(name) if name.starts_with(NEW) || name.starts_with(OLD) => {
                match entry
                    .file_type()
                    .map_err(failed("inspect", &path))?
                    .is_dir()
                {
                    true => remove_dir(&path)?,
                    false => remove_file(&path)?,
                }
            }
            Ok(name) => names.push(name),
            Err(_) => {}
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a directory could not be renamed because its target is there and not empty.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
    )
}

fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("create", path))?;
    let private = Permissions::from_mode(0o700);
    fs::set_permissions(path, private).map_err(failed("set mode of", path))
}

/// Removes a directory, whatever modes and flags its files have.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    chalk_store::snapshots::remove_all(path).map_err(failed("remove", path))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

fn set_time(path: &Path, time: SystemTime) -> Result<()> {
    let set = || File::open(path)?.set_times(FileTimes::new().set_modified(time));
    set().map_err(failed("set time of", path))
}

fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_left_that_died_over_its_probe_goes() {
        let temp = tempfile::tempdir().unwrap();
        let left = tempfile::tempdir_in(temp.path()).unwrap().keep();
        fs::create_dir(left.join("at")).unwrap();
        Disk::open(temp.path()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_name_that_a_whole_layer_has_is_no_error() {
        let temp = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(temp.path()).unwrap();
        let note = LayerNote {
            digest: Digest::of(b"layer"),
            size: 5,
            diff_id: Digest::of(b"layer"),
            form: LayerForm::Erofs,
            bytes: 3,
            length: 3,
            opaque_root: false,
        };
        let commit = |bytes: &[u8]| {
            let new = disk.new_layer().unwrap();
            new.image().unwrap().write_all(bytes).unwrap();
            let length = bytes.len() as u64;
            disk.commit_layer(
                new,
                LayerNote {
                    length,
                    ..note.clone()
                },
            )
        };
        let path = disk.layer(&note.digest, LayerForm::Erofs);
        assert_eq!(commit(b"one").unwrap(), note);
        // The first one stays, whatever the second would have been.
        assert_eq!(commit(b"other").unwrap(), note);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        // One that is not whole makes way.
        fs::write(&path, "on").unwrap();
        assert_eq!(commit(b"three").unwrap().length, 5);
        assert_eq!(fs::read(&path).unwrap(), b"three");
        let names = fs::read_dir(temp.path().join("layers")).unwrap();
        assert_eq!(names.count(), 1);
    }
}
