//! Files of the registry: small, durable, and readable without any database.
//!
//! ```text
//! repositories/<repository>/_manifests/<algorithm>/<hex>           media type of the manifest
//! repositories/<repository>/_tags/<tag>                            digest
//! repositories/<repository>/_layers/<algorithm>/<hex>              empty
//! repositories/<repository>/_referrers/<algorithm>/<subject>/<hex> descriptor of the referrer
//! tmp/                                                             files on their way
//! ```
//!
//! A manifest or blob is known by the digest that it was pushed under. No part of a repository's name starts with `_`, so repositories nest without clashes. The bytes
//! themselves are in the blob store.
//!
//! With a [`Bucket`], the files are its objects, and the directory holds none: paths below the root
//! are their keys. Others may then change them, too.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_core::reference::{is_repository, is_tag};

use chalk_store::failpoint::{Step, around};

use super::bucket::{Bucket, Version};
use super::error::EmbeddedError;

type Result<T> = std::result::Result<T, EmbeddedError>;

/// Files here are links and descriptors; more than this is none of ours.
const FILE_LIMIT: u64 = 4 << 20;

/// Root directory of the registry's files.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    bucket: Option<Bucket>,
}

/// What a file was when it was looked at, to change it only if it is still that.
#[derive(Debug)]
pub(super) enum Seen {
    /// Nobody else changes it.
    Own,
    /// An object, or none.
    Object(Version),
}

impl Layout {
    pub(super) fn open(root: &Path, bucket: Option<Bucket>) -> Result<Self> {
        for sub in ["repositories", "tmp"] {
            let dir = root.join(sub);
            fs::create_dir_all(&dir).map_err(EmbeddedError::io("create", &dir))?;
        }
        // Only a process that died leaves anything here.
        let tmp = root.join("tmp");
        let entries = fs::read_dir(&tmp).map_err(EmbeddedError::io("list", &tmp))?;
        for entry in entries {
            let path = entry.map_err(EmbeddedError::io("list", &tmp))?.path();
            fs::remove_file(&path).map_err(EmbeddedError::io("remove", &path))?;
        }
        sync_dir(root)?;
        Ok(Self {
            root: root.to_owned(),
            bucket,
        })
    }

    /// The bucket that holds the files, if one does.
    pub(super) fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// The key of a file in the bucket.
    fn key<'a>(&self, path: &'a Path) -> std::borrow::Cow<'a, str> {
        let inside = path.strip_prefix(&self.root).unwrap_or(path);
        inside.to_string_lossy()
    }

    /// Directory of a repository whose name was checked just here: nothing else makes paths.
    pub(super) fn repository(&self, name: &str) -> Result<PathBuf> {
        if !is_repository(name) {
            return Err(EmbeddedError::NameInvalid(name.to_owned()));
        }
        Ok(self.root.join("repositories").join(name))
    }

    pub(super) fn manifest(&self, repository: &str, digest: &AnyDigest) -> Result<PathBuf> {
        self.link(repository, "_manifests", digest)
    }

    pub(super) fn layer(&self, repository: &str, digest: &AnyDigest) -> Result<PathBuf> {
        self.link(repository, "_layers", digest)
    }

    /// Directory of the referrers of `subject`.
    pub(super) fn referrers(&self, repository: &str, subject: &AnyDigest) -> Result<PathBuf> {
        self.link(repository, "_referrers", subject)
    }

    fn link(&self, repository: &str, kind: &str, digest: &AnyDigest) -> Result<PathBuf> {
        let mut path = self.repository(repository)?;
        path.extend([kind, digest.algorithm().name(), &digest.hex()]);
        Ok(path)
    }

    /// Digests of all manifests of a repository, sorted.
    pub(super) fn manifests(&self, repository: &str) -> Result<Vec<AnyDigest>> {
        self.links(repository, "_manifests")
    }

    /// Digests of all blobs of a repository, sorted.
    pub(super) fn layers(&self, repository: &str) -> Result<Vec<AnyDigest>> {
        self.links(repository, "_layers")
    }

    fn links(&self, repository: &str, kind: &str) -> Result<Vec<AnyDigest>> {
        let dir = self.repository(repository)?.join(kind);
        let mut all = Vec::new();
        for algorithm in Algorithm::ALL {
            let names = self.names(&dir.join(algorithm.name()))?;
            let digests = names.iter().filter_map(|hex| AnyDigest::from_hex(hex));
            all.extend(digests.filter(|digest| digest.algorithm() == algorithm));
        }
        Ok(all)
    }

    pub(super) fn tag(&self, repository: &str, tag: &str) -> Result<PathBuf> {
        if !is_tag(tag) {
            return Err(EmbeddedError::TagInvalid(tag.to_owned()));
        }
        Ok(self.tags(repository)?.join(tag))
    }

    pub(super) fn tags(&self, repository: &str) -> Result<PathBuf> {
        Ok(self.repository(repository)?.join("_tags"))
    }

    /// Whether a repository was ever written to.
    pub(super) fn exists(&self, repository: &str) -> Result<bool> {
        let dir = self.repository(repository)?;
        if self.bucket.is_some() {
            let mut names = self.names(&dir)?.into_iter();
            return Ok(names.any(|name| name == "_manifests" || name == "_layers"));
        }
        Ok(dir.join("_manifests").is_dir() || dir.join("_layers").is_dir())
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &Path) -> Result<bool> {
        match &self.bucket {
            Some(bucket) => Ok(bucket.size(&self.key(path))?.is_some()),
            None => Ok(path.exists()),
        }
    }

    /// What a file is now.
    pub(super) fn seen(&self, path: &Path) -> Result<Seen> {
        match &self.bucket {
            Some(bucket) => Ok(Seen::Object(bucket.version(&self.key(path))?)),
            None => Ok(Seen::Own),
        }
    }

    /// Puts a whole file in its place if that is as it was seen.
    ///
    /// # Errors
    /// `ConditionFailed` when it is not.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8], seen: Seen) -> Result<()> {
        match (&self.bucket, seen) {
            (Some(bucket), Seen::Object(version)) => {
                bucket.replace(&self.key(path), bytes, version)
            }
            _ => self.write(path, bytes),
        }
    }

    /// Puts a whole file in its place, durably: written aside, synced, renamed, directory synced.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if let Some(bucket) = &self.bucket {
            return bucket.write(&self.key(path), bytes);
        }
        self.make_parent(path)?;
        let mut file = tempfile::NamedTempFile::new_in(self.root.join("tmp"))
            .map_err(EmbeddedError::io("create a file for", path))?;
        file.write_all(bytes)
            .and_then(|()| around(Step::LinkSync, || file.as_file().sync_all()))
            .map_err(EmbeddedError::io("write", path))?;
        around(Step::LinkRename, || file.persist(path))
            .map_err(|e| EmbeddedError::io("publish", path)(e.error))?;
        sync_parent(path)
    }

    /// Puts an empty file in its place, durably; nothing when it is there.
    pub(super) fn touch(&self, path: &Path) -> Result<()> {
        if self.has(path)? {
            return Ok(());
        }
        if let Some(bucket) = &self.bucket {
            return bucket.write(&self.key(path), b"");
        }
        self.make_parent(path)?;
        around(Step::LinkTouch, || File::create(path))
            .map_err(EmbeddedError::io("create", path))?;
        sync_parent(path)
    }

    fn make_parent(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        // From the first directory that is missing on, each is made durable in the one above.
        let missing: Vec<&Path> = parent.ancestors().take_while(|dir| !dir.is_dir()).collect();
        for dir in missing.into_iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => sync_parent(dir)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(EmbeddedError::io("create", dir)(e)),
            }
        }
        Ok(())
    }

    /// All repositories that have a manifest or a layer, sorted.
    pub(super) fn all(&self) -> Result<Vec<String>> {
        let root = self.root.join("repositories");
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            for entry in self.names(&root.join(&name))? {
                if entry == "_manifests" || entry == "_layers" {
                    found.push(name.clone());
                } else if !entry.starts_with('_') {
                    let child = match name.as_str() {
                        "" => entry,
                        above => format!("{above}/{entry}"),
                    };
                    if is_repository(&child) {
                        open.push(child);
                    }
                }
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Contents of a small file; `None` when it is not there.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match &self.bucket {
            Some(bucket) => bucket.read(&self.key(path)),
            None => read(path),
        }
    }

    /// Removes a file, durably; `false` when it was not there.
    pub(super) fn remove(&self, path: &Path) -> Result<bool> {
        match &self.bucket {
            Some(bucket) => bucket.remove(&self.key(path)),
            None => remove(path),
        }
    }

    /// Removes a file if it is there; a crash of the machine may bring it back.
    pub(super) fn drop(&self, path: &Path) -> Result<()> {
        if let Some(bucket) = &self.bucket {
            return bucket.remove(&self.key(path)).map(drop);
        }
        match fs::remove_file(path) {
            Err(e) if !is_absent(&e) => Err(EmbeddedError::io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Names in a directory, sorted; none when it is not there.
    pub(super) fn names(&self, dir: &Path) -> Result<Vec<String>> {
        match &self.bucket {
            Some(bucket) => bucket.names(&self.key(dir)),
            None => names(dir),
        }
    }

    /// Names of files in a directory, sorted, each with the time when it was written; none when it is
    /// not there.
    pub(super) fn dated(&self, dir: &Path) -> Result<Vec<(String, SystemTime)>> {
        let mut dated = match &self.bucket {
            Some(bucket) => bucket.list(&self.key(dir))?,
            None => {
                let names = names(dir)?.into_iter();
                names
                    .map(|name| (name.clone(), written(&dir.join(name))))
                    .collect()
            }
        };
        dated.sort();
        Ok(dated)
    }
}

/// When a file was written; now, when that is not known.
fn written(path: &Path) -> SystemTime {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.unwrap_or_else(|_| SystemTime::now())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(EmbeddedError::io("open", path)(e)),
    };
    let mut bytes = Vec::new();
    let read = file.take(FILE_LIMIT).read_to_end(&mut bytes);
    read.map_err(EmbeddedError::io("read", path))?;
    Ok(Some(bytes))
}

fn remove(path: &Path) -> Result<bool> {
    match around(Step::LinkRemove, || fs::remove_file(path)) {
        Ok(()) => {
            sync_parent(path)?;
            Ok(true)
        }
        Err(e) if is_absent(&e) => Ok(false),
        Err(e) => Err(EmbeddedError::io("remove", path)(e)),
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(EmbeddedError::io("list", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(EmbeddedError::io("list", dir))?.file_name();
        // Names of ours are ASCII.
        names.extend(name.into_string());
    }
    names.sort();
    Ok(names)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<()> {
    let synced = around(Step::LinkSyncDir, || File::open(dir)?.sync_all());
    synced.map_err(EmbeddedError::io("sync", dir))
}
