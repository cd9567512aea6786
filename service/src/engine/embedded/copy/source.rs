//! What a copy reads: a tree whose files are blobs, or the merged layers of a stage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};

use chalk_core::Digest;
use chalk_core::glob::{Glob, has_wildcard};
use chalk_core::tree::{Tree, TreeNode};
use chalk_store::BlobStore;
use chalk_store::stack::{EntryKind, Stack, StackEntry};

/// Modification time of files that come without one: the day that npm gives to packed files. Zip
/// archives, and so Python wheels, cannot hold times before 1980.
pub(in crate::engine) const MTIME: i64 = 499_162_500;

/// Most symbolic links followed for one path, as Linux has it.
const MAX_LINKS: usize = 40;
/// Most directories that one pattern may look into.
const MAX_VISITS: usize = 1_000_000;

/// A result with the reason of a failure in words.
pub(in crate::engine) type Result<T> = std::result::Result<T, String>;

/// Where files come from.
pub(in crate::engine) enum Source {
    /// Made of blobs.
    Virtual(Virtual),
    /// Merged layers.
    Layers(Stack),
}

/// A file or directory that is not on this disk as such.
#[derive(Debug, Clone)]
pub(in crate::engine) enum Virtual {
    /// A directory.
    Dir(BTreeMap<Vec<u8>, Virtual>),
    /// A regular file.
    File {
        /// What it holds.
        contents: Contents,
        /// Permission bits.
        mode: u32,
        /// Modification time.
        mtime: i64,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
}

/// Contents of a virtual file.
#[derive(Debug, Clone)]
pub(in crate::engine) enum Contents {
    /// A blob of the store; checked when it is read.
    Blob(Digest),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file of the builder's own.
    Path(std::path::PathBuf),
}

/// A file found in a source.
#[derive(Clone)]
pub(super) enum Node<'a> {
    /// In a virtual tree.
    Virtual(&'a Virtual),
    /// In layers.
    Layers(StackEntry),
}

impl Virtual {
    /// An empty directory.
    pub(in crate::engine) fn empty() -> Self {
        Self::Dir(BTreeMap::new())
    }

    /// The tree of a directory that was uploaded, from its JSON.
    pub(in crate::engine) fn of_tree(json: &[u8]) -> Result<Self> {
        let mut root = Self::empty();
        let mut wrong = None;
        let read = Tree::scan(json, |entry| {
            let node = match entry.node {
                TreeNode::Dir => Self::empty(),
                TreeNode::Symlink { target } => Self::Symlink(target.into_bytes()),
                TreeNode::File { digest, mode } => Self::File {
                    contents: Contents::Blob(digest),
                    // A sound tree has one of two.
                    mode: if mode == "0755" { 0o755 } else { 0o644 },
                    mtime: MTIME,
                },
            };
            if let Err(why) = root.insert(&entry.path, node) {
                wrong.get_or_insert(why);
            }
        });
        match (read, wrong) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(()), Some(why)) => Err(why),
            (Ok(()), None) => Ok(root),
        }
    }

    /// Puts a node at a path, making its parents.
    pub(in crate::engine) fn insert(&mut self, path: &str, node: Self) -> Result<()> {
        let mut dir = self;
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in parents.split('/').filter(|p| !p.is_empty()) {
            let Self::Dir(children) = dir else {
                return Err(format!(
                    "`{path}` lies below something that is no directory"
                ));
            };
            dir = children
                .entry(part.as_bytes().to_vec())
                .or_insert_with(Self::empty);
        }
        let Self::Dir(children) = dir else {
            return Err(format!(
                "`{path}` lies below something that is no directory"
            ));
        };
        if let (Some(Self::Dir(_)), Self::Dir(_)) = (children.get(name.as_bytes()), &node) {
            return Ok(());
        }
        children.insert(name.as_bytes().to_vec(), node);
        Ok(())
    }

    fn find(&self, path: &[u8], follow: bool) -> Option<&Self> {
        let split = |path: &[u8]| -> Vec<Vec<u8>> {
            let words = path.split(|b| *b == b'/').rev();
            let words = words.filter(|w| !w.is_empty() && *w != b".");
            words.map(<[u8]>::to_vec).collect()
        };
        let mut ahead = split(path);
        let mut trail = vec![self];
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                trail.truncate(trail.len().saturating_sub(1).max(1));
                continue;
            }
            let Self::Dir(children) = trail.last()? else {
                return None;
            };
            match children.get(&name)? {
                Self::Symlink(target) if follow || !ahead.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                    }
                    ahead.extend(split(target));
                }
                node => trail.push(node),
            }
        }
        trail.last().copied()
    }
}

impl Source {
    /// Finds a path, inside the source whatever links say.
    pub(super) fn find(&self, path: &[u8], follow: bool) -> Result<Option<Node<'_>>> {
        match self {
            Self::Virtual(root) => Ok(root.find(path, follow).map(Node::Virtual)),
            Self::Layers(stack) => {
                let found = stack.lookup(path, follow).map_err(|e| words(&e))?;
                Ok(found.map(Node::Layers))
            }
        }
    }

    /// The paths that a pattern means, sorted. A plain path must exist; a pattern may match
    /// nothing. `**` stands for any number of directories.
    pub(super) fn expand(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        if !has_wildcard(pattern) {
            let path = pattern.as_bytes();
            return match self.find(path, false)? {
                Some(_) => Ok(vec![path.to_vec()]),
                None => Err(format!("`{pattern}` is not there")),
            };
        }
        let parts: Vec<&str> = pattern
            .split('/')
            .filter(|p| !p.is_empty() && *p != ".")
            .collect();
        let mut found = Vec::new();
        let mut visits = 0;
        self.expand_parts(&parts, Vec::new(), &mut found, &mut visits)?;
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn expand_parts(
        &self,
        parts: &[&str],
        at: Vec<u8>,
        found: &mut Vec<Vec<u8>>,
        visits: &mut usize,
    ) -> Result<()> {
        *visits += 1;
        if *visits > MAX_VISITS {
            return Err("the pattern looks into too many directories".to_owned());
        }
        let Some((part, rest)) = parts.split_first() else {
            if self.find(&at, false)?.is_some() {
                found.push(at);
            }
            return Ok(());
        };
        if !has_wildcard(part) {
            return self.expand_parts(rest, join(&at, part.as_bytes()), found, visits);
        }
        if *part == "**" && !rest.is_empty() {
            self.expand_parts(rest, at.clone(), found, visits)?;
        }
        let Some(dir) = self.find(&at, true)? else {
            return Ok(());
        };
        if dir.kind() != EntryKind::Dir {
            return Ok(());
        }
        let glob = Glob::go(part).map_err(|e| e.to_string())?;
        for (name, child) in dir.children()? {
            let path = join(&at, &name);
            if *part == "**" {
                if child.kind() == EntryKind::Dir {
                    self.expand_parts(parts, path.clone(), found, visits)?;
                }
                if rest.is_empty() {
                    found.push(path);
                }
            } else if std::str::from_utf8(&name).is_ok_and(|name| glob.matches(name)) {
                self.expand_parts(rest, path, found, visits)?;
            }
        }
        Ok(())
    }
}

/// `dir` and `name` with a slash between, if `dir` is not the root.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

/// An error with its causes.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl<'a> Node<'a> {
    pub(super) fn kind(&self) -> EntryKind {
        match self {
            Self::Virtual(Virtual::Dir(_)) => EntryKind::Dir,
            Self::Virtual(Virtual::File { .. }) => EntryKind::File,
            Self::Virtual(Virtual::Symlink(_)) => EntryKind::Symlink,
            Self::Layers(entry) => entry.kind(),
        }
    }

    /// Permission bits; directories of trees have none of their own.
    pub(super) fn mode(&self) -> u32 {
        match self {
            Self::Virtual(Virtual::File { mode, .. }) => *mode,
            Self::Virtual(_) => 0o755,
            Self::Layers(entry) => entry.mode(),
        }
    }

    /// User and group.
    pub(super) fn owner(&self) -> (u32, u32) {
        match self {
            Self::Virtual(_) => (0, 0),
            Self::Layers(entry) => (entry.uid(), entry.gid()),
        }
    }

    pub(super) fn mtime(&self) -> i64 {
        match self {
            Self::Virtual(Virtual::File { mtime, .. }) => *mtime,
            Self::Virtual(_) => MTIME,
            Self::Layers(entry) => entry.mtime(),
        }
    }

    /// What is in a directory, sorted by name.
    pub(super) fn children(&self) -> Result<Vec<(Vec<u8>, Node<'a>)>> {
        match self {
            Self::Virtual(Virtual::Dir(children)) => Ok(children
                .iter()
                .map(|(name, node)| (name.clone(), Node::Virtual(node)))
                .collect()),
            Self::Virtual(_) => Ok(Vec::new()),
            Self::Layers(entry) => {
                let entries = entry.read_dir().map_err(|e| words(&e))?;
                let node = |(name, entry)| (name, Node::Layers(entry));
                Ok(entries.into_iter().map(node).collect())
            }
        }
    }

    /// Target of a symbolic link.
    pub(super) fn target(&self) -> Result<Vec<u8>> {
        match self {
            Self::Virtual(Virtual::Symlink(target)) => Ok(target.clone()),
            Self::Virtual(_) => Ok(Vec::new()),
            Self::Layers(entry) => entry.read_link().map_err(|e| words(&e)),
        }
    }

    /// Extended attributes.
    pub(super) fn attributes(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        match self {
            Self::Virtual(_) => Ok(BTreeMap::new()),
            Self::Layers(entry) => entry.attributes().map_err(|e| words(&e)),
        }
    }

    /// What tells hard links of one file, if it has several.
    pub(super) fn link(&self) -> Option<(u64, u64)> {
        match self {
            Self::Layers(entry) if entry.kind() == EntryKind::File => {
                let (device, inode, links) = entry.inode();
                (links > 1).then_some((device, inode))
            }
            _ => None,
        }
    }

    /// Writes the contents of a regular file; `buffer` is for what passes through this process.
    pub(super) fn write_to(
        &self,
        out: &mut File,
        store: &BlobStore,
        buffer: &mut [u8],
    ) -> Result<()> {
        // File to file: the kernel copies.
        let by_kernel = |mut file: File, out: &mut File| {
            let copied = io::copy(&mut file, out);
            copied.map(drop).map_err(|e| e.to_string())
        };
        match self {
            Self::Virtual(Virtual::File { contents, .. }) => match contents {
                Contents::Blob(digest) => {
                    let mut blob = store.open_verified(digest).map_err(|e| words(&e))?;
                    copy(&mut blob, out, buffer).map_err(|e| e.to_string())
                }
                Contents::Bytes(bytes) => out.write_all(bytes).map_err(|e| e.to_string()),
                Contents::Path(path) => {
                    by_kernel(File::open(path).map_err(|e| e.to_string())?, out)
                }
            },
            Self::Virtual(_) => Ok(()),
            Self::Layers(entry) => by_kernel(entry.open_file().map_err(|e| words(&e))?, out),
        }
    }

    /// A reader of the contents of a regular file.
    pub(super) fn open(&self, store: &BlobStore) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Virtual(Virtual::File { contents, .. }) => match contents {
                Contents::Blob(digest) => {
                    let blob = store.open_verified(digest).map_err(|e| words(&e))?;
                    Ok(Box::new(blob))
                }
                Contents::Bytes(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
                Contents::Path(path) => {
                    let file = File::open(path).map_err(|e| e.to_string())?;
                    Ok(Box::new(file))
                }
            },
            Self::Virtual(_) => Ok(Box::new(io::empty())),
            Self::Layers(entry) => {
                let file = entry.open_file().map_err(|e| words(&e))?;
                Ok(Box::new(file))
            }
        }
    }
}

/// Copies to the end, by pieces of the buffer's size.
fn copy(from: &mut impl Read, out: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => out.write_all(&buffer[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(paths: &[(&str, Option<&str>)]) -> Source {
        let mut root = Virtual::empty();
        for (path, target) in paths {
            let node = match target {
                Some(target) => Virtual::Symlink(target.as_bytes().to_vec()),
                None => Virtual::File {
                    contents: Contents::Bytes(Vec::new()),
                    mode: 0o644,
                    mtime: 0,
                },
            };
            root.insert(path, node).unwrap();
        }
        Source::Virtual(root)
    }

    #[test]
    fn expands_patterns() {
        let source = source(&[
            ("a.py", None),
            ("b.txt", None),
            ("src/a.py", None),
            ("src/deep/b.py", None),
            ("link", Some("src")),
        ]);
        let check = |pattern: &str, expect: &[&str]| {
            let got = source.expand(pattern).unwrap();
            let got: Vec<&str> = got
                .iter()
                .map(|p| std::str::from_utf8(p).unwrap())
                .collect();
            assert_eq!(got, expect, "{pattern}");
        };
        check("*.py", &["a.py"]);
        check("*", &["a.py", "b.txt", "link", "src"]);
        check("s*/*.py", &["src/a.py"]);
        check("src/*/*", &["src/deep/b.py"]);
        check("**/*.py", &["a.py", "src/a.py", "src/deep/b.py"]);
        check("l*/a.py", &["link/a.py"]);
        check("[ab].*", &["a.py", "b.txt"]);
        check("none*", &[]);
        check("src", &["src"]);
        check(".", &["."]);
        assert!(source.expand("missing").unwrap_err().contains("`missing`"));
    }

    #[test]
    fn links_stay_inside() {
        let source = source(&[
            ("etc/passwd", None),
            ("up", Some("../../../etc")),
            ("abs", Some("/etc/passwd")),
            ("loop", Some("loop")),
        ]);
        let check = |path: &str, expect: bool| {
            let found = source.find(path.as_bytes(), true).unwrap();
            assert_eq!(found.is_some(), expect, "{path}");
        };
        check("up/passwd", true);
        check("abs", true);
        check("../../etc/passwd", true);
        check("loop", false);
        check("abs/x", false);
    }

    #[test]
    fn trees_without_listed_parents_and_with_files_as_parents() {
        let mut root = Virtual::empty();
        root.insert("a/b/c", Virtual::empty()).unwrap();
        root.insert("a/b", Virtual::empty()).unwrap();
        assert!(root.find(b"a/b/c", false).is_some());
        root.insert("f", Virtual::Symlink(b"x".to_vec())).unwrap();
        assert!(root.insert("f/g", Virtual::empty()).is_err());
    }
}
