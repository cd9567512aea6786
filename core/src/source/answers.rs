//! Local files that are read between calls instead of during them.
//!
//! A browser, and Node when it must not block, reads files asynchronously, while [`Source`] answers at
//! once. [`Answers`] holds what was read so far. What it does not know it notes down and makes up, so
//! that one pass finds as many questions as it can; the result of such a pass counts for nothing.
//!
//! ```
//! # use chalk_core::{Digest, Image, source::{Answers, FileFacts}, image::Strategy};
//! let image = Image::scratch().add_local_file("app.py", "/app.py", Strategy::Copy);
//! let mut answers = Answers::new();
//! let resolved = loop {
//!     let result = image.resolve(&answers);
//!     let open = answers.take_open();
//!     if open.is_empty() {
//!         break result?;
//!     }
//!     for path in open.contents {
//!         let facts = FileFacts { digest: Digest::of(b"read now"), executable: false, size: 8 };
//!         answers.contents(&path, facts);
//!     }
//! };
//! # assert_eq!(resolved.uploads[0].size, 8);
//! # Ok::<(), chalk_core::error::SpecErrors>(())
//! ```

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::{FileFacts, Listed, ListedKind, Source, SourceError, join};
use crate::Digest;
use crate::sorted::SortedMap;

/// What is known of local files, and what was asked besides.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    known: SortedMap<Known>,
    open: RefCell<Open>,
}

/// What is known of one path.
#[derive(Debug, Clone, Default)]
struct Known {
    /// `Some(None)`: there is no such file.
    text: Option<Option<Vec<u8>>>,
    /// One level; names are single words, sorted.
    listing: Option<Vec<Listed>>,
    facts: Option<FileFacts>,
    failure: Option<String>,
}

/// Questions without an answer yet; paths as the declaration writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// Small files whose bytes are wanted, if they are there.
    pub texts: BTreeSet<String>,
    /// Directories of which one level is wanted.
    pub listings: BTreeSet<String>,
    /// Files whose digest, size and mode are wanted.
    pub contents: BTreeSet<String>,
}

impl Open {
    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.listings.is_empty() && self.contents.is_empty()
    }

    fn len(&self) -> usize {
        self.texts.len() + self.listings.len()
    }
}

impl Answers {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was asked in vain since the last time.
    pub fn take_open(&self) -> Open {
        self.open.take()
    }

    /// The bytes of a small file; `None` when it is not there.
    pub fn text(&mut self, path: &str, bytes: Option<Vec<u8>>) {
        self.known.entry(key(path)).text = Some(bytes);
    }

    /// What lies directly in a directory, in any order and with nothing left out but sockets, devices
    /// and pipes.
    pub fn listing(&mut self, dir: &str, mut entries: Vec<Listed>) {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        self.known.entry(key(dir)).listing = Some(entries);
    }

    /// Facts about a file.
    pub fn contents(&mut self, path: &str, facts: FileFacts) {
        self.known.entry(key(path)).facts = Some(facts);
    }

    /// Says that a path cannot be read, and why.
    pub fn failure(&mut self, path: &str, reason: String) {
        self.known.entry(key(path)).failure = Some(reason);
    }

    /// What is known of a path.
    fn check(&self, path: &str) -> Result<Option<&Known>, SourceError> {
        let known = self.known.get(key(path));
        match known.and_then(|known| known.failure.as_ref()) {
            None => Ok(known),
            Some(reason) => Err(SourceError {
                path: path.to_owned(),
                reason: reason.clone(),
            }),
        }
    }

    /// Whether the listing of its directory is known and does not have the file.
    fn is_absent(&self, path: &str) -> bool {
        let (dir, name) = path.rsplit_once('/').unwrap_or((".", path));
        let dir = if dir.is_empty() { "/" } else { dir };
        let listing = self.known.get(dir).and_then(|dir| dir.listing.as_ref());
        listing.is_some_and(|entries| {
            let place = entries.binary_search_by(|entry| entry.path.as_str().cmp(name));
            place.is_err()
        })
    }

    fn list_below(
        &self,
        root: &str,
        below: &str,
        enter: &mut dyn FnMut(&str) -> bool,
        listed: &mut Vec<Listed>,
    ) -> Result<(), SourceError> {
        let dir = join(root, below);
        let Some(entries) = self.check(&dir)?.and_then(|dir| dir.listing.as_ref()) else {
            self.open.borrow_mut().listings.insert(key(&dir).to_owned());
            return Ok(());
        };
        for entry in entries {
            let path = join(below, &entry.path);
            let asked = self.open.borrow().len();
            let mut descend = entry.kind == ListedKind::Dir && enter(&path);
            if descend && asked != self.open.borrow().len() {
                // Rules that are still to be read may leave out what lies deeper.
                descend = false;
                let dir = join(root, &path);
                let known = self.known.get(key(&dir));
                if known.is_none_or(|dir| dir.listing.is_none()) {
                    self.open.borrow_mut().listings.insert(key(&dir).to_owned());
                }
            }
            listed.push(Listed {
                path: path.clone(),
                kind: entry.kind.clone(),
            });
            if descend {
                self.list_below(root, &path, enter, listed)?;
            }
        }
        Ok(())
    }
}

/// A directory without the slash at its end.
fn key(dir: &str) -> &str {
    match dir.trim_end_matches('/') {
        "" if dir.starts_with('/') => "/",
        "" => ".",
        dir => dir,
    }
}

impl Source for Answers {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        if let Some(bytes) = self.check(path)?.and_then(|file| file.text.as_ref()) {
            return Ok(bytes.clone());
        }
        if !self.is_absent(path) {
            self.open.borrow_mut().texts.insert(path.to_owned());
        }
        Ok(None)
    }

    fn facts(&self, paths: &[String]) -> Result<Vec<FileFacts>, SourceError> {
        const UNKNOWN: FileFacts = FileFacts {
            digest: Digest::from_bytes([0; 32]),
            executable: false,
            size: 0,
        };
        let facts = |path: &String| {
            let known = self.check(path)?.and_then(|file| file.facts);
            Ok(known.unwrap_or_else(|| {
                self.open.borrow_mut().contents.insert(path.clone());
                UNKNOWN
            }))
        };
        paths.iter().map(facts).collect()
    }

    fn list(
        &self,
        path: &str,
        enter: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Vec<Listed>, SourceError> {
        let mut listed = Vec::new();
        self.list_below(path, "", enter, &mut listed)?;
        Ok(listed)
    }

    fn is_incomplete(&self) -> bool {
        !self.open.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::image::{DockerfileOptions, LocalOptions, Resolved, Strategy};
    use crate::source::MemoryFiles;

    /// Resolves with answers from `files`, and says how many rounds it took and what was listed.
    fn resolve(
        image: &Image,
        files: &MemoryFiles,
    ) -> (Result<Resolved, String>, usize, Vec<String>) {
        let mut answers = Answers::new();
        let mut listed = Vec::new();
        for round in 1..100 {
            let result = image.resolve(&answers);
            let open = answers.take_open();
            if open.is_empty() {
                return (result.map_err(|e| e.to_string()), round, listed);
            }
            for path in open.texts {
                match files.read(&path) {
                    Ok(bytes) => answers.text(&path, bytes),
                    Err(e) => answers.failure(&path, e.reason),
                }
            }
            for dir in open.listings {
                listed.push(dir.clone());
                match files.list(&dir, &mut |_| false) {
                    Ok(entries) => answers.listing(&dir, entries),
                    Err(e) => answers.failure(&dir, e.reason),
                }
            }
            for path in open.contents {
                match files.facts(std::slice::from_ref(&path)) {
                    Ok(facts) => answers.contents(&path, facts[0]),
                    Err(e) => answers.failure(&path, e.reason),
                }
            }
        }
        panic!("asks for ever");
    }

    fn files() -> MemoryFiles {
        MemoryFiles::new()
            .file("app.py", "app")
            .file("requirements.txt", "-r more/base.txt\nrequests\n")
            .file("more/base.txt", "pandas\n")
            .file("src/.gitignore", "node_modules/\n*.log\n")
            .file("src/.chalkignore", "!keep.log\n")
            .file("src/keep.log", "1")
            .file("src/drop.log", "2")
            .executable("src/deep/er/run", "3")
            .file("src/deep/.gitignore", "*.tmp\n")
            .file("src/deep/x.tmp", "4")
            .file("src/node_modules/a/b", "5")
            .symlink("src/link", "keep.log")
            .file(
                "ctx/Dockerfile",
                "FROM alpine\nCOPY a /\nCOPY b/ /b\nCOPY c* /\n",
            )
            .file("ctx/.dockerignore", "b/secret\n")
            .file("ctx/a", "a")
            .file("ctx/b/x", "x")
            .file("ctx/b/secret", "y")
            .file("ctx/c1", "c")
    }

    #[test]
    fn gives_what_a_direct_source_gives() {
        let check = |image: Image, rounds: usize| {
            let files = files();
            let direct = image.resolve(&files).map_err(|e| e.to_string());
            let (asked, took, _) = resolve(&image, &files);
            assert_eq!(asked, direct);
            assert!(took <= rounds, "{took} rounds: {image:?}");
        };
        let copy = LocalOptions::copy;
        check(Image::scratch().run_commands("x"), 1);
        check(
            Image::scratch()
                .add_local_file("app.py", "/a/", copy())
                .add_local_dir("src", "/src", copy())
                .add_local_dir("./src/", "/again", copy().exclude("deep"))
                .add_local_dir("nowhere/later", "/mounted", Strategy::Mount),
            6,
        );
        check(
            Image::scratch().add_local_dir(".", "/all", Strategy::Copy),
            6,
        );
        let path = "ctx/Dockerfile";
        check(
            Image::from_dockerfile_path(path, DockerfileOptions::new()),
            6,
        );
        check(
            Image::scratch().pip_install_from_requirements("requirements.txt"),
            3,
        );
        for wrong in ["gone", "src"] {
            check(Image::scratch().add_local_file(wrong, "/x", copy()), 2);
        }
        for wrong in ["gone", "app.py"] {
            check(Image::scratch().add_local_dir(wrong, "/x", copy()), 2);
        }
        check(Image::scratch().pip_install_from_requirements("gone"), 2);
    }

    #[test]
    fn what_is_ignored_is_not_listed() {
        let image = Image::scratch().add_local_dir("src", "/src", Strategy::Copy);
        let (_, _, listed) = resolve(&image, &files());
        assert_eq!(listed, ["src", "src/deep", "src/deep/er"]);
    }
}
