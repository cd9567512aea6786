//! Fetches blobs: checked while they come, visible when they are whole.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use chalk_core::Digest;
use chalk_core::tree::Tree;
use chalk_core::wire::{Problem, problem};
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{MAX_TREE, Shared, failed};

impl Shared {
    /// Fetches a blob to `path`; gives its size.
    pub(super) async fn fetch(
        &self,
        digest: Digest,
        executable: bool,
        path: &Path,
        limit: Option<u64>,
    ) -> Result<u64, Problem> {
        let title = "a mounted file cannot be kept";
        let local = |error: io::Error| failed(title, &error);
        let mut stream = self.source.fetch(digest).await?;
        let new = tempfile::NamedTempFile::new_in(self.dir.join("new")).map_err(local)?;
        let file = new.reopen().map_err(local)?;
        let mut file = tokio::fs::File::from_std(file);
        let (mut hash, mut size) = (Sha256::new(), 0);
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| broken(digest, &error))?;
            size += bytes.len() as u64;
            if limit.is_some_and(|limit| size > limit) {
                return Err(bad(
                    digest,
                    "it is longer than any list of a directory may be",
                ));
            }
            hash.update(&bytes);
            file.write_all(&bytes).await.map_err(local)?;
        }
        file.flush().await.map_err(local)?;
        if Digest::from_bytes(hash.finalize().into()) != digest {
            return Err(Problem {
                kind: problem::DIGEST_MISMATCH.to_owned(),
                title: "a mounted file is not what its digest says".to_owned(),
                status: 502,
                detail: format!("what came as {digest} has other contents"),
                hint: "start the sandbox again; if it happens again, the service's store is \
                       damaged"
                    .to_owned(),
            });
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let permissions = std::fs::Permissions::from_mode(mode);
        file.set_permissions(permissions).await.map_err(local)?;
        file.sync_all().await.map_err(local)?;
        new.persist(path).map_err(|error| local(error.error))?;
        Ok(size)
    }

    /// Fetches the list of a directory.
    pub(super) async fn fetch_tree(&self, digest: Digest) -> Result<Tree, Problem> {
        let new = tempfile::tempdir_in(self.dir.join("new"))
            .map_err(|error| failed("a mounted directory cannot be made", &error))?;
        let path = new.path().join("tree.json");
        self.fetch(digest, false, &path, Some(MAX_TREE)).await?;
        let json = tokio::fs::read(&path)
            .await
            .map_err(|error| failed("a mounted directory cannot be made", &error))?;
        Tree::parse(&json).map_err(|error| bad(digest, &error.to_string()))
    }
}

fn broken(digest: Digest, error: &io::Error) -> Problem {
    Problem {
        kind: problem::UNAVAILABLE.to_owned(),
        title: "a mounted file did not come".to_owned(),
        status: 502,
        detail: format!("{digest}: {error}"),
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
