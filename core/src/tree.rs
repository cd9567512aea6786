//! Directory trees by content: what `add_dir` and Dockerfile contexts count as.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A directory tree: entries sorted by the bytes of their path. Its digest is the SHA-256 of the
/// RFC 8785 JSON of the list, and that JSON is uploaded as a blob beside the files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tree {
    /// Sorted, unique by path; parents need not be listed.
    pub entries: Vec<TreeEntry>,
}

/// One entry of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    /// Relative path with `/`, no `.` or `..` words, no leading or trailing slash.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub node: TreeNode,
}

/// Kinds of tree entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum TreeNode {
    /// A regular file.
    File {
        /// Digest of the contents.
        digest: Digest,
        /// `0755` if its owner may execute it, else `0644`.
        mode: String,
    },
    /// A directory (so that empty ones exist).
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points, as stored.
        target: String,
    },
}
