//! Mounted files: what clients upload for a sandbox, by digest, ready to be mounted.
//!
//! A blob lies under its digest, once as a plain file and once as an executable one if both are
//! wanted. A directory is a tree of hard links to its blobs: made at the cost of a few system calls
//! a file, with nothing copied, and sharing the page cache with every other tree that has the
//! same file. (An EROFS image a tree would have to be written first, which takes longer than a
//! sandbox takes to start, and could share nothing.)
//!
//! What no sandbox holds goes, least recently used first, when all together passes the budget, and
//! when the cache that shares its room with the files needs it. Room is taken from there before bytes
//! are written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::Digest;
use chalk_core::tree::{Tree, TreeNode};
use chalk_core::wire::{CacheItem, Problem, problem};
use chalk_store::failpoint::{Step, around};
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};

use crate::cache::{FileCache, Room};

mod fetch;
mod table;

use table::{Key, Table};

/// Blobs of one tree that are fetched at once.
const AT_ONCE: usize = 8;

/// Longest JSON of a tree.
const MAX_TREE: u64 = 256 << 20;

/// Bytes of a blob as they come.
pub type BlobStream = BoxStream<'static, io::Result<Bytes>>;

/// Where blobs come from: the service. What comes is checked against the digest here.
#[async_trait]
pub trait BlobSource: Send + Sync + 'static {
    /// Opens a blob.
    async fn fetch(&self, digest: Digest) -> Result<BlobStream, Problem>;
}

/// The mounted files of a node. Cheap to clone.
#[derive(Clone)]
pub struct Files(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    source: Arc<dyn BlobSource>,
    table: Arc<Table>,
    room: OnceLock<Room>,
}

/// A file or directory that stays as long as this value lives.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    key: Key,
    table: Arc<Table>,
}

impl Held {
    /// Where it lies; must not be changed.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.release(&self.key);
    }
}

impl Files {
    /// Opens the files in `dir`, which is made, with room for `budget` bytes.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(dir: &Path, budget: u64, source: Arc<dyn BlobSource>) -> io::Result<Files> {
        for name in ["blobs", "trees", "new"] {
            let path = dir.join(name);
            if name == "new" && path.exists() {
                // What was not whole when an earlier life ended.
                std::fs::remove_dir_all(&path)?;
            }
            std::fs::create_dir_all(&path)?;
        }
        let dir = std::fs::canonicalize(dir)?;
        let table = Arc::new(Table::read(&dir, budget)?);
        let room = OnceLock::new();
        Ok(Files(Arc::new(Shared {
            dir,
            source,
            table,
            room,
        })))
    }

    /// A file with the contents of a blob.
    ///
    /// # Errors
    /// When it cannot be fetched or is not what its digest says.
    pub async fn file(&self, digest: Digest, executable: bool) -> Result<Held, Problem> {
        let key = Key::Blob { digest, executable };
        let path = self.0.blob_path(digest, executable);
        let held = self.hold(key.clone());
        let _alone = self.0.table.alone(&key).await;
        if !path.exists() {
            let (size, taken) = self.0.fetch(digest, executable, &path, None).await?;
            self.0.table.add(&key, size, Vec::new());
            // Only now: in between the bytes would not count.
            drop(taken);
        }
        Ok(held)
    }

    /// A directory that is as the tree says whose JSON has this digest.
    ///
    /// # Errors
    /// As [`Files::file`], and when the blob is no sound tree.
    pub async fn tree(&self, digest: Digest) -> Result<Held, Problem> {
        let key = Key::Tree { digest };
        let path = self.0.dir.join("trees").join(digest.hex());
        let held = self.hold(key.clone());
        let _alone = self.0.table.alone(&key).await;
        if path.exists() {
            return Ok(held);
        }
        let (tree, wanted) = self.0.fetch_tree(digest).await?;
        let blobs: Vec<Held> = futures_util::stream::iter(wanted)
            .map(|(digest, executable)| self.file(digest, executable))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let shared = Arc::clone(&self.0);
        let made = tokio::task::spawn_blocking(move || shared.make_tree(&tree, &path)).await;
        made.map_err(io::Error::other)
            .and_then(|made| made)
            .map_err(|error| failed("a mounted directory cannot be made", &error))?;
        let keys = blobs.iter().map(|blob| blob.key.clone()).collect();
        self.0.table.add(&key, 0, keys);
        Ok(held)
    }

    /// Bytes that all files take together.
    pub fn usage(&self) -> u64 {
        self.0.table.usage()
    }

    fn hold(&self, key: Key) -> Held {
        self.0.table.hold(&key);
        Held {
            path: match &key {
                Key::Blob { digest, executable } => self.0.blob_path(*digest, *executable),
                Key::Tree { digest } => self.0.dir.join("trees").join(digest.hex()),
            },
            key,
            table: Arc::clone(&self.0.table),
        }
    }
}

impl FileCache for Files {
    fn limit_to(&self, room: Room) {
        if self.0.room.set(room).is_err() {
            tracing::warn!("files take their room from one cache");
        }
    }

    fn used(&self) -> u64 {
        self.usage()
    }

    fn held(&self) -> u64 {
        self.0.table.held()
    }

    fn items(&self) -> Vec<CacheItem> {
        self.0.table.items()
    }

    fn free(&self, bytes: u64) -> Vec<CacheItem> {
        let evicted = self.0.table.free(bytes);
        evicted.remove();
        evicted.items
    }
}

impl Shared {
    fn blob_path(&self, digest: Digest, executable: bool) -> PathBuf {
        table::blob_path(&self.dir, digest, executable)
    }

    /// Makes a tree beside its place, then puts it there.
    fn make_tree(&self, tree: &Tree, path: &Path) -> io::Result<()> {
        let new = tempfile::tempdir_in(self.dir.join("new"))?;
        let root = new.path().join("tree");
        std::fs::create_dir(&root)?;
        // A sound tree has sound paths, each below a directory of its own: `Tree::parse` saw to it.
        for entry in &tree.entries {
            let at = root.join(&entry.path);
            if let Some(parent) = at.parent() {
                std::fs::create_dir_all(parent)?;
            }
            match &entry.node {
                TreeNode::Dir => std::fs::create_dir_all(&at)?,
                TreeNode::Symlink { target } => std::os::unix::fs::symlink(target, &at)?,
                TreeNode::File { digest, mode } => {
                    let blob = self.blob_path(*digest, mode == "0755");
                    match std::fs::hard_link(&blob, &at) {
                        // A filesystem bounds the links of one file.
                        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                            std::fs::copy(&blob, &at).map(drop)?;
                        }
                        result => result?,
                    }
                }
            }
        }
        readable(&root)?;
        std::fs::File::open(&root)?.sync_all()?;
        around(Step::NodeTree, || std::fs::rename(&root, path))?;
        std::fs::File::open(self.dir.join("trees"))?.sync_all()
    }
}

/// Lets everybody read the directories, whatever the umask is.
fn readable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            readable(&entry.path())?;
        }
    }
    Ok(())
}

fn failed(title: &str, error: &io::Error) -> Problem {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    Problem {
        kind: if full {
            problem::DISK_FULL
        } else {
            problem::INTERNAL
        }
        .to_owned(),
        title: title.to_owned(),
        status: if full { 507 } else { 500 },
        detail: error.to_string(),
        hint: String::new(),
    }
}

#[cfg(test)]
mod tests;
