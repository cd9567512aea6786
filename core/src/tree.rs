//! Directory trees by content: what `add_dir` and Dockerfile contexts count as.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::jcs::Json;
use crate::source::{Listed, ListedKind, Source, SourceError};
use crate::upload::{Contents, Upload};

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

/// A list that is not a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTree {
    /// The bytes are no JSON list of entries.
    #[error("not a tree: {0}")]
    Json(String),
    /// A path is absolute, empty, or has a `.`, `..` or NUL in it.
    #[error("not a tree: `{0}` is not a relative path without `.` and `..`")]
    Path(String),
    /// A mode is neither `0644` nor `0755`.
    #[error("not a tree: the mode of `{0}` is neither 0644 nor 0755")]
    Mode(String),
    /// Entries are unsorted or stand twice.
    #[error("not a tree: `{0}` does not come after the entry before it")]
    Order(String),
    /// Something lies below what is no directory.
    #[error("not a tree: `{0}` lies below something that is not a directory")]
    Parent(String),
}

impl Tree {
    /// Sorts entries into a tree.
    ///
    /// # Errors
    /// When [`Tree::validate`] refuses the result.
    pub fn new(mut entries: Vec<TreeEntry>) -> Result<Self, InvalidTree> {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let tree = Self { entries };
        tree.validate()?;
        Ok(tree)
    }

    /// Reads the JSON of a tree, and checks it.
    ///
    /// # Errors
    /// When the bytes are no sound tree.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidTree> {
        let mut entries = Vec::new();
        Self::scan(json, |entry| entries.push(entry))?;
        Ok(Self { entries })
    }

    /// Reads the JSON of a tree, checks it, and hands out its entries one by one, so that a tree of
    /// any length takes no memory beyond that of its JSON.
    ///
    /// # Errors
    /// When the bytes are no sound tree; entries before the first unsound one were handed out then.
    pub fn scan(json: &[u8], take: impl FnMut(TreeEntry)) -> Result<(), InvalidTree> {
        let mut order = Order::default();
        let mut unsound = None;
        let entries = Entries {
            order: &mut order,
            unsound: &mut unsound,
            take,
        };
        let mut reader = serde_json::Deserializer::from_slice(json);
        let read = entries.deserialize(&mut reader).and_then(|()| reader.end());
        match (unsound, read) {
            (Some(unsound), _) => Err(unsound),
            (None, Err(error)) => Err(InvalidTree::Json(error.to_string())),
            (None, Ok(())) => Ok(()),
        }
    }

    /// The contents of the files of a tree, from its JSON, in the order of their paths.
    ///
    /// # Errors
    /// When the bytes are no sound tree.
    pub fn files(json: &[u8]) -> Result<Vec<Digest>, InvalidTree> {
        let mut files = Vec::new();
        Self::scan(json, |entry| {
            if let TreeNode::File { digest, .. } = entry.node {
                files.push(digest);
            }
        })?;
        Ok(files)
    }

    /// The digest of the tree of listed entries below `root`, and the files to upload with it: every
    /// regular file once by digest, and the tree's own JSON last.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(
        source: &dyn Source,
        root: &str,
        listed: &[Listed],
    ) -> Result<(Digest, Vec<Upload>), SourceError> {
        let join = |path: &str| crate::source::join(root, path);
        let files: Vec<String> = listed
            .iter()
            .filter(|entry| entry.kind == ListedKind::File)
            .map(|entry| join(&entry.path))
            .collect();
        let facts = source.facts(&files)?;
        if source.is_incomplete() {
            return Ok((Digest::from_bytes([0; 32]), Vec::new()));
        }
        let mut uploads = Vec::new();
        let mut known = files.into_iter().zip(facts);
        let mut entries = Vec::with_capacity(listed.len());
        for entry in listed {
            let node = match &entry.kind {
                ListedKind::Dir => TreeNode::Dir,
                ListedKind::Symlink(target) => TreeNode::Symlink {
                    target: target.clone(),
                },
                ListedKind::File => {
                    let (path, facts) = known.next().ok_or_else(|| SourceError {
                        path: join(&entry.path),
                        reason: "its contents were not read".into(),
                    })?;
                    uploads.push(Upload {
                        digest: facts.digest,
                        size: facts.size,
                        contents: Contents::File(path),
                    });
                    TreeNode::File {
                        digest: facts.digest,
                        mode: if facts.executable { "0755" } else { "0644" }.into(),
                    }
                }
            };
            entries.push(TreeEntry {
                path: entry.path.clone(),
                node,
            });
        }
        let tree = Self::new(entries).map_err(|e| SourceError {
            path: root.to_owned(),
            reason: e.to_string(),
        })?;
        let own = Upload::of(tree.json().into_bytes());
        let digest = own.digest;
        uploads.push(own);
        crate::upload::keep_first(&mut uploads);
        Ok((digest, uploads))
    }

    /// Checks what the type promises: sorted, unique, relative paths, and only directories (listed
    /// or implied) with anything below them.
    ///
    /// # Errors
    /// Names the first entry that breaks a rule.
    pub fn validate(&self) -> Result<(), InvalidTree> {
        let mut order = Order::default();
        self.entries.iter().try_for_each(|entry| order.check(entry))
    }

    /// The RFC 8785 JSON that is hashed and uploaded.
    pub fn json(&self) -> String {
        // Names in the order in which they are written, so that nothing has to be sorted.
        fn document(entry: &TreeEntry) -> Json<'_> {
            let path = ("path", Json::text(&entry.path));
            Json::Map(match &entry.node {
                TreeNode::File { digest, mode } => vec![
                    ("digest", Json::digest(digest)),
                    ("mode", Json::text(mode)),
                    path,
                    ("type", Json::text("file")),
                ],
                TreeNode::Dir => vec![path, ("type", Json::text("dir"))],
                TreeNode::Symlink { target } => vec![
                    path,
                    ("target", Json::text(target)),
                    ("type", Json::text("symlink")),
                ],
            })
        }
        Json::List(self.entries.iter().map(document).collect()).canonical()
    }

    /// SHA-256 of [`Tree::json`].
    pub fn digest(&self) -> Digest {
        Digest::of(self.json().as_bytes())
    }
}

/// What the rules of a tree need to know of the entries before one.
#[derive(Default)]
struct Order {
    last: Option<String>,
    /// Lengths of the beginnings of `last` that are entries and no directories. Where an entry lies
    /// below one, all between the two begin with its path, since they are sorted.
    leaves: Vec<usize>,
}

impl Order {
    fn check(&mut self, entry: &TreeEntry) -> Result<(), InvalidTree> {
        let path = entry.path.as_str();
        let word = |word: &str| !matches!(word, "" | "." | "..") && !word.contains('\0');
        if !path.split('/').all(word) {
            return Err(InvalidTree::Path(path.to_owned()));
        }
        if let Some(last) = &self.last {
            if last.as_str() >= path {
                return Err(InvalidTree::Order(path.to_owned()));
            }
            let same = |(a, b): &(u8, u8)| a == b;
            let shared = last.bytes().zip(path.bytes()).take_while(same).count();
            while self.leaves.last().is_some_and(|leaf| *leaf > shared) {
                self.leaves.pop();
            }
        }
        let bytes = path.as_bytes();
        if self
            .leaves
            .iter()
            .any(|leaf| bytes.get(*leaf) == Some(&b'/'))
        {
            return Err(InvalidTree::Parent(path.to_owned()));
        }
        match &entry.node {
            TreeNode::Dir => {}
            TreeNode::File { mode, .. } => {
                if mode != "0644" && mode != "0755" {
                    return Err(InvalidTree::Mode(path.to_owned()));
                }
            }
            TreeNode::Symlink { target } => {
                if target.is_empty() || target.contains('\0') {
                    return Err(InvalidTree::Path(path.to_owned()));
                }
            }
        }
        if entry.node != TreeNode::Dir {
            self.leaves.push(path.len());
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.push_str(path);
        Ok(())
    }
}

/// The list of a tree's JSON, whose entries are checked and handed on as they come.
struct Entries<'a, F> {
    order: &'a mut Order,
    /// Which rule was broken; the reader can only say that one was.
    unsound: &'a mut Option<InvalidTree>,
    take: F,
}

impl<'de, F: FnMut(TreeEntry)> DeserializeSeed<'de> for Entries<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(TreeEntry)> Visitor<'de> for Entries<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(entry) = list.next_element::<TreeEntry>()? {
            if let Err(unsound) = self.order.check(&entry) {
                *self.unsound = Some(unsound);
                return Err(A::Error::custom("an entry is unsound"));
            }
            (self.take)(entry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> TreeEntry {
        TreeEntry {
            path: path.into(),
            node: TreeNode::File {
                digest: Digest::of(b""),
                mode: "0644".into(),
            },
        }
    }

    #[test]
    fn has_one_pinned_form() {
        let tree = Tree::new(vec![
            TreeEntry {
                path: "l".into(),
                node: TreeNode::Symlink { target: "a".into() },
            },
            TreeEntry {
                path: "d".into(),
                node: TreeNode::Dir,
            },
            file("d/a"),
        ])
        .unwrap();
        assert_eq!(
            tree.json(),
            concat!(
                r#"[{"path":"d","type":"dir"},{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427"#,
                r#"ae41e4649b934ca495991b7852b855","mode":"0644","path":"d/a","type":"file"},"#,
                r#"{"path":"l","target":"a","type":"symlink"}]"#
            )
        );
        assert_eq!(Tree::parse(tree.json().as_bytes()), Ok(tree));
    }

    #[test]
    fn nothing_lies_below_a_leaf() {
        // Every set of three names over an alphabet with what sorts before and after the slash.
        let mut names = Vec::new();
        for a in ["a", "a-", "a0", "b"] {
            names.push(a.to_owned());
            for b in ["/a", "/-", "-/a", "0/a", "/a/b"] {
                names.push(format!("{a}{b}"));
            }
        }
        names.sort();
        names.dedup();
        let dir = |path: &str| TreeEntry {
            path: path.into(),
            node: TreeNode::Dir,
        };
        for (i, x) in names.iter().enumerate() {
            for (j, y) in names.iter().enumerate().skip(i + 1) {
                for z in &names[j + 1..] {
                    for leaves in 0..8_u8 {
                        let three = [x, y, z];
                        let entry = |(n, path): (usize, &&String)| match leaves & (1 << n) {
                            0 => dir(path),
                            _ => file(path),
                        };
                        let entries: Vec<_> = three.iter().enumerate().map(entry).collect();
                        let below = |path: &str| {
                            entries.iter().any(|e| {
                                e.node != TreeNode::Dir && path.starts_with(&format!("{}/", e.path))
                            })
                        };
                        let expect = three.iter().find(|path| below(path));
                        let expect = match expect {
                            Some(path) => Err(InvalidTree::Parent((*path).clone())),
                            None => Ok(()),
                        };
                        let tree = Tree { entries };
                        assert_eq!(tree.validate(), expect, "{tree:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn refuses_what_could_leave_its_root() {
        let check = |json: &str, expect: InvalidTree| {
            assert_eq!(Tree::parse(json.as_bytes()), Err(expect), "{json}");
        };
        let dir = |path: &str| format!(r#"[{{"path":"{path}","type":"dir"}}]"#);
        for path in ["", "/a", "a/", "a//b", "../a", "a/../b", "./a"] {
            check(&dir(path), InvalidTree::Path(path.into()));
        }
        check(
            r#"[{"path":"b","type":"dir"},{"path":"a","type":"dir"}]"#,
            InvalidTree::Order("a".into()),
        );
        check(
            r#"[{"path":"a","type":"symlink","target":"/etc"},{"path":"a/b","type":"dir"}]"#,
            InvalidTree::Parent("a/b".into()),
        );
        assert_eq!(
            Tree::new(vec![file("a"), file("a-b"), file("a/b")]),
            Err(InvalidTree::Parent("a/b".into()))
        );
        assert!(matches!(
            Tree::parse(b"[{\"path\":\"a\",\"type\":\"pipe\"}]"),
            Err(InvalidTree::Json(_))
        ));
    }
}
