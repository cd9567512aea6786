//! What a version of a volume holds: every file, directory and symbolic link with its metadata.
//!
//! The listing is a blob of its own in the blob store, so that a version never changes; contents are
//! further blobs, each once however many files and versions have them. [`Manifest::tree`] gives what
//! nodes mount.

use std::collections::BTreeMap;
use std::ops::Bound;

use chalk_core::Digest;
use chalk_core::tree::{Tree, TreeEntry, TreeNode};
use serde::{Deserialize, Serialize};

use super::error::{Result, VolumeError};
use super::hash::ContentHash;

/// Most entries of a version.
pub(crate) const ENTRY_LIMIT: usize = 500_000;
/// Largest JSON of a listing, in bytes.
pub(super) const LISTING_LIMIT: u64 = 1 << 30;
/// What the JSON says it is.
const SCHEMA: &str = "chalk.volume.listing/v1";

/// Something in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// What it is.
    #[serde(flatten)]
    pub(crate) node: Node,
    /// What is known about it besides.
    #[serde(flatten)]
    pub(crate) metadata: Metadata,
}

/// Kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum Node {
    /// A regular file.
    File(FileContents),
    /// A directory that was made as such; those above files need no entry.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points, as stored.
        target: String,
    },
}

/// Contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileContents {
    /// The blob.
    pub(crate) digest: Digest,
    /// What clients know it by.
    pub(crate) hash: ContentHash,
    /// Bytes.
    pub(crate) size: u64,
    /// The pieces in which it came, in order, if it was more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) chunks: Vec<Chunk>,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// What clients check it by.
    pub(crate) hash: ContentHash,
    /// Bytes.
    pub(crate) size: u64,
}

/// What a client may say about an entry; absent means that it said nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Metadata {
    /// Permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<u32>,
    /// Time of the last change: seconds since 1970, and nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) updated: Option<(i64, i32)>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gid: Option<u32>,
}

/// Totals of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stats {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Files.
    pub(crate) files: u64,
    /// Directories, those that are only implied included.
    pub(crate) dirs: u64,
    /// Symbolic links.
    pub(crate) symlinks: u64,
}

/// Everything that a version holds. Nothing lies below what is no directory.
///
/// Entries are sorted by path, directories with a `/` behind theirs, so that whatever lies below a
/// directory follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    entries: BTreeMap<String, Entry>,
}

/// One line of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// What to go on after: the path, with a `/` behind that of a directory.
    pub(crate) key: &'a str,
    /// What is there.
    pub(crate) what: Listed<'a>,
}

impl<'a> Line<'a> {
    /// The path.
    pub(crate) fn path(&self) -> &'a str {
        self.key.trim_end_matches('/')
    }
}

/// What a [`Line`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed<'a> {
    /// An entry.
    Entry(&'a Entry),
    /// A directory without an entry of its own, above something else.
    Implied,
}

#[derive(Serialize)]
struct Written<'a> {
    schema: &'static str,
    entries: &'a BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Read {
    schema: String,
    entries: BTreeMap<String, Entry>,
}

impl Manifest {
    /// The bytes that are kept.
    pub(super) fn json(&self) -> Vec<u8> {
        let written = Written {
            schema: SCHEMA,
            entries: &self.entries,
        };
        // The types have no maps with other keys than texts, so that this cannot fail.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Reads what [`json`](Self::json) gave, which was verified by its digest.
    pub(super) fn parse(digest: Digest, json: &[u8]) -> Result<Self> {
        let broken = |reason: String| VolumeError::Broken {
            manifest: digest,
            reason,
        };
        let read: Read = serde_json::from_slice(json).map_err(|e| broken(e.to_string()))?;
        if read.schema != SCHEMA {
            return Err(broken(format!("its schema is `{}`", read.schema)));
        }
        Ok(Self {
            entries: read.entries,
        })
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries by path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        let entries = self.entries.iter();
        entries.map(|(key, entry)| (key.trim_end_matches('/'), entry))
    }

    /// The entry at a clean path.
    pub(crate) fn get(&self, path: &str) -> Option<&Entry> {
        let entry = self.entries.get(path);
        entry.or_else(|| self.entries.get(&format!("{path}/")))
    }

    /// Whether a clean path is a directory, with or without an entry; the root is.
    pub(crate) fn is_dir(&self, path: &str) -> bool {
        let prefix = prefix_of(path);
        path.is_empty()
            || self
                .from(Bound::Included(&prefix))
                .is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    /// Whether a directory has anything in it.
    pub(super) fn has_below(&self, dir: &str) -> bool {
        let prefix = prefix_of(dir);
        self.from(Bound::Excluded(&prefix))
            .is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    /// The first entry from a key on.
    fn from(&self, key: Bound<&str>) -> Option<(&str, &Entry)> {
        let mut rest = self.entries.range::<str, _>((key, Bound::Unbounded));
        rest.next().map(|(key, entry)| (&**key, entry))
    }

    /// Puts an entry at a clean path, in the place of what was there.
    pub(super) fn insert(&mut self, path: String, entry: Entry) {
        self.remove(&path);
        let key = match entry.node {
            Node::Dir => format!("{path}/"),
            _ => path,
        };
        self.entries.insert(key, entry);
    }

    /// Takes the entry at a clean path away; `false` if there was none.
    pub(super) fn remove(&mut self, path: &str) -> bool {
        let removed = self.entries.remove(path);
        let removed = removed.or_else(|| self.entries.remove(&format!("{path}/")));
        removed.is_some()
    }

    /// Takes everything below a directory away.
    pub(super) fn remove_below(&mut self, dir: &str) {
        let prefix = prefix_of(dir);
        let mut rest = self.entries.split_off(&prefix);
        // `0` is what comes after `/`.
        let mut after = match prefix.strip_suffix('/') {
            Some(dir) => rest.split_off(&format!("{dir}0")),
            None => BTreeMap::new(),
        };
        self.entries.append(&mut after);
    }

    /// Lists a directory, or with `recursive` everything below it: at most `limit` lines after the
    /// one whose key was `after`. Gives key, path and what is there; directories are listed also
    /// where they have no entry.
    pub(crate) fn list(
        &self,
        dir: &str,
        recursive: bool,
        after: &str,
        limit: usize,
    ) -> Vec<Line<'_>> {
        let prefix = prefix_of(dir);
        let mut lines = Vec::new();
        let mut last = after.max(&prefix).to_owned();
        while lines.len() < limit {
            let from = match last.strip_suffix('/') {
                // Everything below it is passed over: `0` is what comes after `/`.
                Some(dir) if !recursive && last != prefix => format!("{dir}0"),
                _ => last.clone(),
            };
            let Some((key, entry)) = self.from(Bound::Excluded(&from)) else {
                break;
            };
            let Some(rest) = key.strip_prefix(&prefix) else {
                break;
            };
            // The directories on the way to the entry come before it.
            let dirs = rest
                .match_indices('/')
                .map(|(end, _)| prefix.len() + end + 1);
            let dirs = dirs.filter(|end| *end < key.len() && key[..*end] > *last);
            let mut news: Vec<(&str, Listed<'_>)> = dirs
                .map(|end| {
                    (
                        &key[..end],
                        self.entries
                            .get(&key[..end])
                            .map_or(Listed::Implied, Listed::Entry),
                    )
                })
                .collect();
            news.push((key, Listed::Entry(entry)));
            if !recursive {
                news.truncate(1);
            }
            news.truncate(limit - lines.len());
            last = news.last().map_or(key, |(key, _)| key).to_owned();
            lines.extend(news.into_iter().map(|(key, what)| Line { key, what }));
        }
        lines
    }

    /// Totals.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let mut dirs = std::collections::BTreeSet::new();
        for (key, entry) in &self.entries {
            dirs.extend(key.match_indices('/').map(|(end, _)| &key[..end]));
            match &entry.node {
                Node::File(file) => {
                    stats.files += 1;
                    stats.bytes = stats.bytes.saturating_add(file.size);
                }
                Node::Dir => {}
                Node::Symlink { .. } => stats.symlinks += 1,
            }
        }
        stats.dirs = dirs.len() as u64;
        stats
    }

    /// What nodes mount. Of the permission bits, whether the owner may execute a file is kept.
    pub(crate) fn tree(&self) -> Result<Tree> {
        let entry = |(path, entry): (&str, &Entry)| TreeEntry {
            path: path.to_owned(),
            node: match &entry.node {
                Node::File(file) => TreeNode::File {
                    digest: file.digest,
                    mode: match entry.metadata.mode {
                        Some(mode) if mode & 0o100 != 0 => "0755",
                        _ => "0644",
                    }
                    .to_owned(),
                },
                Node::Dir => TreeNode::Dir,
                Node::Symlink { target } => TreeNode::Symlink {
                    target: target.clone(),
                },
            },
        };
        Tree::new(self.iter().map(entry).collect())
            .map_err(|e| VolumeError::Conflict(e.to_string()))
    }
}

fn prefix_of(dir: &str) -> String {
    if dir.is_empty() {
        String::new()
    } else {
        format!("{dir}/")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn file(contents: &[u8]) -> Entry {
        Entry {
            node: Node::File(FileContents {
                digest: Digest::of(contents),
                hash: ContentHash::of(contents),
                size: contents.len() as u64,
                chunks: Vec::new(),
            }),
            metadata: Metadata::default(),
        }
    }

    const DIR: Entry = Entry {
        node: Node::Dir,
        metadata: Metadata {
            mode: None,
            updated: None,
            uid: None,
            gid: None,
        },
    };

    fn of(paths: &[&str]) -> Manifest {
        let mut manifest = Manifest::default();
        for path in paths {
            manifest.insert((*path).to_owned(), file(path.as_bytes()));
        }
        manifest
    }

    fn keys(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(|line| line.key.to_owned()).collect()
    }

    #[test]
    fn lists_directories_once_and_in_order() {
        let mut manifest = of(&["a/1", "a/b/2", "a-b", "a.txt", "c"]);
        for path in ["a/b", "e"] {
            manifest.insert(path.to_owned(), DIR);
        }
        let check = |dir: &str, recursive: bool, expect: &[&str]| {
            let got = keys(&manifest.list(dir, recursive, "", 100));
            assert_eq!(got, expect, "{dir} {recursive}");
        };
        check("", false, &["a-b", "a.txt", "a/", "c", "e/"]);
        check("a", false, &["a/1", "a/b/"]);
        check("a/b", false, &["a/b/2"]);
        check(
            "",
            true,
            &["a-b", "a.txt", "a/", "a/1", "a/b/", "a/b/2", "c", "e/"],
        );
        check("a", true, &["a/1", "a/b/", "a/b/2"]);
        check("e", true, &[]);
        check("nothing", true, &[]);
    }

    #[test]
    fn a_tree_has_what_nodes_need() {
        let mut manifest = of(&["d/run.sh"]);
        let mut script = file(b"x");
        script.metadata.mode = Some(0o100755);
        manifest.insert("d/run.sh".into(), script);
        manifest.insert(
            "l".into(),
            Entry {
                node: Node::Symlink { target: "d".into() },
                metadata: Metadata::default(),
            },
        );
        let tree = manifest.tree().unwrap();
        let expect = format!(
            r#"[{{"digest":"{}","mode":"0755","path":"d/run.sh","type":"file"}},{{"path":"l","target":"d","type":"symlink"}}]"#,
            Digest::of(b"x")
        );
        assert_eq!(tree.json(), expect);
    }

    #[test]
    fn keeps_everything_and_refuses_strangers() {
        let mut manifest = of(&["a/b"]);
        let mut entry = file(b"two chunks");
        entry.metadata = Metadata {
            mode: Some(0o640),
            updated: Some((-1, 999_999_999)),
            uid: Some(0),
            gid: Some(7),
        };
        if let Node::File(file) = &mut entry.node {
            let (first, second) = (ContentHash::of(b"two "), ContentHash::of(b"chunks"));
            file.chunks = vec![
                Chunk {
                    hash: first,
                    size: 4,
                },
                Chunk {
                    hash: second,
                    size: 6,
                },
            ];
        }
        manifest.insert("c".into(), entry);
        let json = manifest.json();
        let digest = Digest::of(&json);
        assert_eq!(Manifest::parse(digest, &json).unwrap(), manifest);
        assert!(Manifest::parse(digest, b"{}").is_err());
        assert!(Manifest::parse(digest, br#"{"schema":"other/v1","entries":{}}"#).is_err());
    }

    proptest! {
        #[test]
        fn pages_add_up_to_the_whole(
            names in proptest::collection::vec(("[abc]([-./0]?[abc]){0,4}", proptest::bool::weighted(0.2)), 0..12),
            recursive: bool,
            size in 1usize..4,
        ) {
            let mut manifest = Manifest::default();
            for (name, dir) in &names {
                let taken = name
                    .match_indices('/')
                    .any(|(end, _)| manifest.get(&name[..end]).is_some_and(|e| *e != DIR));
                if !taken && (*dir || !manifest.is_dir(name)) {
                    let entry = if *dir { DIR } else { file(name.as_bytes()) };
                    manifest.insert(name.clone(), entry);
                }
            }
            let whole = keys(&manifest.list("", recursive, "", 1000));
            prop_assert!(whole.is_sorted());
            let mut expect = std::collections::BTreeSet::new();
            for (path, entry) in manifest.iter() {
                let slash = if entry.node == Node::Dir { "/" } else { "" };
                let key = format!("{path}{slash}");
                let dirs = key.match_indices('/').map(|(end, _)| key[..=end].to_owned());
                expect.extend(dirs.take(if recursive { usize::MAX } else { 1 }));
                if recursive || !path.contains('/') {
                    expect.insert(key.clone());
                }
            }
            prop_assert_eq!(&whole, &expect.into_iter().collect::<Vec<_>>());
            let mut seen = Vec::new();
            let mut after = String::new();
            loop {
                let page = keys(&manifest.list("", recursive, &after, size));
                let Some(last) = page.last() else { break };
                after = last.clone();
                seen.extend(page);
            }
            prop_assert_eq!(seen, whole);
        }
    }
}
