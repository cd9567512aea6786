//! Files in memory.

use std::collections::BTreeMap;

use super::{FileFacts, Listed, ListedKind, Source, SourceError};
use crate::Digest;

/// A [`Source`] over files in memory: what a browser was given, what a test needs, or nothing at
/// all for a declaration that names no file. Paths are taken as text, `a/../b` being `b`.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    File { contents: Vec<u8>, executable: bool },
    Dir,
    Symlink(String),
}

impl MemoryFiles {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.with(
            path,
            Entry::File {
                contents: contents.into(),
                executable: false,
            },
        )
    }

    /// Adds a regular file that its owner may execute.
    #[must_use]
    pub fn executable(self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.with(
            path,
            Entry::File {
                contents: contents.into(),
                executable: true,
            },
        )
    }

    /// Adds a directory; those that files lie in need not be added.
    #[must_use]
    pub fn dir(self, path: &str) -> Self {
        self.with(path, Entry::Dir)
    }

    /// Adds a symbolic link. Reading does not follow it.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, Entry::Symlink(target.to_owned()))
    }

    fn with(mut self, path: &str, entry: Entry) -> Self {
        let path = normal(path);
        for (i, _) in path.match_indices('/').filter(|(i, _)| *i > 0) {
            self.entries
                .entry(path[..i].to_owned())
                .or_insert(Entry::Dir);
        }
        self.entries.insert(path, entry);
        self
    }

    fn list_below(
        &self,
        root: &str,
        below: &str,
        enter: &mut dyn FnMut(&str) -> bool,
        listed: &mut Vec<Listed>,
    ) {
        let dir = super::join(root, below);
        for (path, entry) in &self.entries {
            let Some(name) = name_in(&dir, path) else {
                continue;
            };
            let path = super::join(below, name);
            let kind = match entry {
                Entry::File { .. } => ListedKind::File,
                Entry::Symlink(target) => ListedKind::Symlink(target.clone()),
                Entry::Dir => ListedKind::Dir,
            };
            let descend = kind == ListedKind::Dir && enter(&path);
            listed.push(Listed {
                path: path.clone(),
                kind,
            });
            if descend {
                self.list_below(root, &path, enter, listed);
            }
        }
    }
}

/// The name of `path` if it lies directly in `dir`.
fn name_in<'p>(dir: &str, path: &'p str) -> Option<&'p str> {
    let name = match dir {
        "" => path.strip_prefix('/').is_none().then_some(path),
        "/" => path.strip_prefix('/'),
        dir => path
            .strip_prefix(dir)
            .and_then(|rest| rest.strip_prefix('/')),
    };
    name.filter(|name| !name.is_empty() && !name.contains('/'))
}

/// The clean path; empty for the declaration's own directory.
fn normal(path: &str) -> String {
    let path = crate::path::clean(path);
    if path == "." { String::new() } else { path }
}

impl Source for MemoryFiles {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        match self.entries.get(&normal(path)) {
            Some(Entry::File { contents, .. }) => Ok(Some(contents.clone())),
            None => Ok(None),
            Some(Entry::Dir | Entry::Symlink(_)) => Err(SourceError {
                path: path.to_owned(),
                reason: "not a regular file".into(),
            }),
        }
    }

    fn facts(&self, paths: &[String]) -> Result<Vec<FileFacts>, SourceError> {
        let facts = |path: &String| {
            let fail = |reason: &str| SourceError {
                path: path.clone(),
                reason: reason.to_owned(),
            };
            match self.entries.get(&normal(path)) {
                Some(Entry::File {
                    contents,
                    executable,
                }) => Ok(FileFacts {
                    digest: Digest::of(contents),
                    executable: *executable,
                    size: contents.len() as u64,
                }),
                Some(Entry::Dir) => Err(fail("is a directory")),
                Some(Entry::Symlink(_)) => Err(fail("is a symbolic link")),
                None => Err(fail("no such file")),
            }
        };
        paths.iter().map(facts).collect()
    }

    fn list(
        &self,
        path: &str,
        enter: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<Listed>, SourceError> {
        let root = normal(path);
        let known = root.is_empty() || root == "/";
        if !known && !matches!(self.entries.get(&root), Some(Entry::Dir)) {
            return Err(SourceError {
                path: path.to_owned(),
                reason: "no such directory".into(),
            });
        }
        let mut listed = Vec::new();
        self.list_below(&root, "", enter, &mut listed);
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_reads() {
        let files = MemoryFiles::new()
            .file("./src/a.py", "a")
            .executable("src/bin/run", "b")
            .symlink("src/link", "a.py")
            .file("/etc/x", "x");
        let list = |root: &str, refuse: &str| {
            let listed = files.list(root, &mut |dir| dir != refuse).unwrap();
            listed.into_iter().map(|l| l.path).collect::<Vec<_>>()
        };
        assert_eq!(list("src", ""), ["a.py", "bin", "bin/run", "link"]);
        assert_eq!(list("src/./bin/..", "bin"), ["a.py", "bin", "link"]);
        assert_eq!(list(".", "src"), ["src"]);
        assert_eq!(list("/", ""), ["etc", "etc/x"]);
        assert!(files.list("nowhere", &mut |_| true).is_err());
        assert_eq!(files.read("src/../src/a.py"), Ok(Some(b"a".to_vec())));
        assert_eq!(files.read("b"), Ok(None));
        assert!(files.facts(&["src/bin/run".into()]).unwrap()[0].executable);
        assert!(files.facts(&["src".into()]).is_err());
    }
}
