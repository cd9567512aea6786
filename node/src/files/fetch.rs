//! Fetches blobs: checked while they come, visible when they are whole. What may pass is tried
//! again.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::tree::{Tree, TreeNode};
use chalk_core::wire::{Problem, problem};
use chalk_store::failpoint::{Step, around};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{MAX_TREE, Shared, failed};
use crate::cache::{CacheError, Taken};

/// Time without a byte after which a fetch has failed.
const IDLE: Duration = Duration::from_secs(30);
/// Tries of a fetch. With the pauses between them they outlast a restart of the service.
const TRIES: u32 = 8;
/// Pause after the first try that failed; doubles from there, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why a try failed.
enum Fault {
    /// It may pass: the connection broke, or there is none now.
    Passing(Problem),
    Final(Problem),
}

impl Shared {
    /// Fetches a blob to `path`; gives its size, and its room until the table counts it.
    pub(super) async fn fetch(
        &self,
        digest: Digest,
        executable: bool,
        path: &Path,
        limit: Option<u64>,
    ) -> Result<(u64, Option<Taken>), Problem> {
        let (mut pause, mut left) = (FIRST_PAUSE, TRIES);
        loop {
            left -= 1;
            match self.try_fetch(digest, executable, path, limit).await {
                Ok(done) => return Ok(done),
                Err(Fault::Passing(problem)) if left > 0 => {
                    tracing::debug!(%digest, error = problem.detail, left, "fetching again");
                }
                Err(Fault::Passing(problem) | Fault::Final(problem)) => return Err(problem),
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_fetch(
        &self,
        digest: Digest,
        executable: bool,
        path: &Path,
        limit: Option<u64>,
    ) -> Result<(u64, Option<Taken>), Fault> {
        let title = "a mounted file cannot be kept";
        let local = |error: io::Error| Fault::Final(failed(title, &error));
        let silent = |_| {
            let detail = format!("nothing came for {} s", IDLE.as_secs());
            Fault::Passing(broken(digest, &detail))
        };
        let room = |error: CacheError| Fault::Final(error.problem());
        let opened = tokio::time::timeout(IDLE, self.source.fetch(digest)).await;
        let opened = opened.map_err(silent)?;
        let mut stream = opened.map_err(|problem| match problem.status {
            408 | 429 | 500.. => Fault::Passing(problem),
            _ => Fault::Final(problem),
        })?;
        let mut taken = match self.room.get() {
            Some(cache) => Some(
                cache
                    .begin(format!("mounted file {digest}"))
                    .map_err(room)?,
            ),
            None => None,
        };
        let new = tempfile::NamedTempFile::new_in(self.dir.join("new")).map_err(local)?;
        let file = new.reopen().map_err(local)?;
        let mut file = tokio::fs::File::from_std(file);
        let (mut hash, mut size) = (Sha256::new(), 0);
        loop {
            let next = tokio::time::timeout(IDLE, stream.next()).await;
            let Some(bytes) = next.map_err(silent)? else {
                break;
            };
            let bytes =
                bytes.map_err(|error| Fault::Passing(broken(digest, &error.to_string())))?;
            size += bytes.len() as u64;
            if limit.is_some_and(|limit| size > limit) {
                return Err(Fault::Final(bad(
                    digest,
                    "it is longer than any list of a directory may be",
                )));
            }
            if let Some(had) = taken.take() {
                taken = Some(had.grown(size).await.map_err(room)?);
            }
            hash.update(&bytes);
            file.write_all(&bytes).await.map_err(local)?;
        }
        file.flush().await.map_err(local)?;
        if Digest::from_bytes(hash.finalize().into()) != digest {
            return Err(Fault::Final(Problem {
                kind: problem::DIGEST_MISMATCH.to_owned(),
                title: "a mounted file is not what its digest says".to_owned(),
                status: 502,
                detail: format!("what came as {digest} has other contents"),
                hint: "start the sandbox again; if it happens again, the service's store is \
                       damaged"
                    .to_owned(),
            }));
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let permissions = std::fs::Permissions::from_mode(mode);
        file.set_permissions(permissions).await.map_err(local)?;
        file.sync_all().await.map_err(local)?;
        around(Step::NodeFile, || new.persist(path)).map_err(|error| local(error.error))?;
        Ok((size, taken))
    }

    /// Fetches the list of a directory; gives also its files, each once.
    pub(super) async fn fetch_tree(
        &self,
        digest: Digest,
    ) -> Result<(Tree, Vec<(Digest, bool)>), Problem> {
        let local = |error: io::Error| failed("a mounted directory cannot be made", &error);
        let new = tempfile::tempdir_in(self.dir.join("new")).map_err(local)?;
        let path = new.path().join("tree.json");
        let (_, _taken) = self.fetch(digest, false, &path, Some(MAX_TREE)).await?;
        // Lists may be long.
        let read = move || -> Result<_, Problem> {
            let json = std::fs::read(&path).map_err(local)?;
            let tree = Tree::parse(&json).map_err(|error| bad(digest, &error.to_string()))?;
            let files = files_of(&tree);
            Ok((tree, files))
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| local(io::Error::other(error)))?
    }
}

/// The files of a tree, with whether they are executable.
fn files_of(tree: &Tree) -> Vec<(Digest, bool)> {
    let files = tree.entries.iter().filter_map(|entry| match &entry.node {
        TreeNode::File { digest, mode } => Some((*digest, mode == "0755")),
        TreeNode::Dir | TreeNode::Symlink { .. } => None,
    });
    let mut files: Vec<_> = files.collect();
    files.sort_unstable_by_key(|(digest, executable)| (*digest.as_bytes(), *executable));
    files.dedup();
    files
}

fn broken(digest: Digest, detail: &str) -> Problem {
    Problem {
        kind: problem::UNAVAILABLE.to_owned(),
        title: "a mounted file did not come".to_owned(),
        status: 502,
        detail: format!("{digest}: {detail}"),
        hint: "start the sandbox again".to_owned(),
    }
}

fn bad(digest: Digest, detail: &str) -> Problem {
    Problem {
        kind: problem::BAD_REQUEST.to_owned(),
        title: "a mounted directory has no sound list of its files".to_owned(),
        status: 400,
        detail: format!("{digest}: {detail}"),
        hint: String::new(),
    }
}
