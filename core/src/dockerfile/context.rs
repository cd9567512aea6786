//! Which files of the build context an instruction selects.

use std::collections::BTreeSet;

use super::error::{Fault, Problem};
use crate::Digest;
use crate::glob::{Glob, has_wildcard};
use crate::ignore::DockerIgnore;
use crate::path::clean;
use crate::sorted::SortedMap;
use crate::source::{Listed, ListedKind, Source, SourceError, join};
use crate::spelling::nearest;
use crate::tree::Tree;
use crate::upload::Upload;

/// Most symbolic links on the way to a source.
const LINK_LIMIT: usize = 255;

/// The build context: a directory of a [`Source`], listed when it is first needed.
pub(crate) struct Context<'a> {
    source: &'a dyn Source,
    root: &'a str,
    ignore: DockerIgnore,
    /// Name of the ignore file that was read.
    ignore_file: Option<String>,
    entries: Option<SortedMap<ListedKind>>,
}

/// What an instruction takes from the context.
pub(crate) struct Wanted<'a> {
    /// Sources with every variable expanded; `None` when one is unknown, which takes everything.
    pub(crate) sources: Option<Vec<String>>,
    /// Wildcards mean nothing.
    pub(crate) literal: bool,
    pub(crate) parents: bool,
    pub(crate) exclude: &'a [String],
}

impl<'a> Context<'a> {
    /// Opens a context. `dockerfile` is the path of the Dockerfile, if it came from one: the ignore
    /// file `<dockerfile>.dockerignore` comes before `.dockerignore` of the context.
    pub(crate) fn open(
        source: &'a dyn Source,
        root: &'a str,
        dockerfile: Option<&str>,
    ) -> Result<Self, IgnoreError> {
        let own = dockerfile.map(|file| format!("{file}.dockerignore"));
        let shared = join(root, ".dockerignore");
        let mut ignore_file = None;
        let mut ignore = DockerIgnore::default();
        for file in own.into_iter().chain([shared]) {
            let Some(bytes) = source.read(&file).map_err(IgnoreError::Source)? else {
                continue;
            };
            let text = String::from_utf8(bytes).map_err(|_| {
                IgnoreError::Source(SourceError {
                    path: file.clone(),
                    reason: "an ignore file must be UTF-8 text".into(),
                })
            })?;
            ignore = DockerIgnore::parse(&text).map_err(|invalid| IgnoreError::Pattern {
                file: file.clone(),
                line: invalid.line,
                reason: invalid.reason,
            })?;
            ignore_file = Some(file);
            break;
        }
        Ok(Self {
            source,
            root,
            ignore,
            ignore_file,
            entries: None,
        })
    }

    fn entries(&mut self) -> Result<&SortedMap<ListedKind>, Fault> {
        if self.entries.is_none() {
            let ignore = &self.ignore;
            let listed = self
                .source
                .list(self.root, &mut |dir| !ignore.can_skip(dir))
                .map_err(|e| Fault::new(Problem::Source(e)))?;
            let kept = listed
                .into_iter()
                .filter(|entry| !ignore.matches(&entry.path))
                .map(|entry| (entry.path, entry.kind));
            self.entries = Some(SortedMap::of(kept.collect()));
        }
        Ok(self.entries.get_or_insert_default())
    }

    /// The digest of the tree of what is wanted, the blobs to upload, and the patterns that match nothing.
    pub(crate) fn select(
        &mut self,
        wanted: &Wanted<'_>,
    ) -> Result<(Digest, Vec<Upload>, Vec<String>), Fault> {
        let mut idle = Vec::new();
        let exclude = DockerIgnore::of(wanted.exclude.iter().map(String::as_str))
            .map_err(|e| Fault::flag(format_args!("--exclude: {}", e.reason)))?;
        let mut missing = None;
        let entries = self.entries()?;
        let mut chosen = Chosen {
            entries,
            exclude: &exclude,
            paths: BTreeSet::new(),
        };
        match &wanted.sources {
            None => {
                let all = entries.iter().map(|(path, _)| path.clone());
                chosen.paths.extend(all);
            }
            Some(sources) => {
                for source in sources {
                    let found = if wanted.literal {
                        chosen.add_path(&relative(source))
                    } else if wanted.parents {
                        chosen.add_with_parents(source)?
                    } else {
                        chosen.add(source)?
                    };
                    match found {
                        Found::Yes => {}
                        Found::Nothing => idle.push(source.clone()),
                        Found::Missing(path) => {
                            missing = Some((source.clone(), path));
                            break;
                        }
                    }
                }
            }
        }
        let paths = chosen.paths;
        if let Some((source, path)) = missing {
            return Err(self.missing(&source, &path));
        }
        let entries = self.entries()?;
        let listed: Vec<Listed> = paths
            .into_iter()
            .filter_map(|path| {
                let kind = entries.get(&path)?.clone();
                Some(Listed { path, kind })
            })
            .collect();
        let (digest, uploads) = Tree::read(self.source, self.root, &listed)
            .map_err(|e| Fault::new(Problem::Source(e)))?;
        Ok((digest, uploads, idle))
    }

    fn missing(&self, source: &str, path: &str) -> Fault {
        let fault = |text: String| Fault::new(Problem::Context(text));
        if self.ignore.matches(path)
            && let Some(file) = &self.ignore_file
            && self.source.facts(&[join(self.root, path)]).is_ok()
        {
            return fault(format!(
                "`{source}` is left out of the build context by {file}"
            ))
            .hint(format_args!(
                "take it back in with a line `!{path}` in {file}"
            ));
        }
        let message = fault(format!(
            "`{source}` is not in the build context `{}`",
            if self.root.is_empty() { "." } else { self.root }
        ));
        if source.starts_with("../") || source.contains("/../") {
            return message.hint("a source cannot leave the context: choose a context further up");
        }
        let entries = self.entries.as_ref();
        let dir = path.rsplit_once('/').map(|(dir, _)| dir);
        let siblings: Vec<&str> = entries
            .into_iter()
            .flat_map(SortedMap::iter)
            .map(|(path, _)| path.as_str())
            .filter(|entry| entry.rsplit_once('/').map(|(dir, _)| dir) == dir)
            .collect();
        if let Some(near) = nearest(path, &siblings) {
            return message.hint(format_args!("did you mean `{near}`?"));
        }
        // The same name elsewhere is the other likely slip.
        let name = path.rsplit('/').next();
        let same: Vec<&str> = entries
            .into_iter()
            .flat_map(SortedMap::iter)
            .map(|(path, _)| path.as_str())
            .filter(|entry| entry.rsplit('/').next() == name)
            .take(3)
            .collect();
        if !same.is_empty() {
            return message.hint(format_args!("did you mean `{}`?", same.join("` or `")));
        }
        let some: Vec<&str> = siblings.into_iter().take(5).collect();
        if some.is_empty() {
            return message.hint("nothing lies in that directory");
        }
        message.hint(format_args!("what lies there: {}", some.join(", ")))
    }
}

/// What went wrong with an ignore file.
pub(crate) enum IgnoreError {
    Source(SourceError),
    Pattern {
        file: String,
        line: usize,
        reason: String,
    },
}

enum Found {
    Yes,
    /// A pattern without a match.
    Nothing,
    /// No such path.
    Missing(String),
}

struct Chosen<'a> {
    entries: &'a SortedMap<ListedKind>,
    exclude: &'a DockerIgnore,
    paths: BTreeSet<String>,
}

/// A source as a path below the root: no `..`, no slashes around it, empty for the root.
fn relative(source: &str) -> String {
    clean(&format!("/{source}"))[1..].to_owned()
}

impl Chosen<'_> {
    fn add(&mut self, source: &str) -> Result<Found, Fault> {
        let source = relative(source);
        if !has_wildcard(&source) {
            return Ok(self.add_path(&source));
        }
        let (dir, pattern) = split_wildcard(&source);
        let glob = glob(pattern)?;
        let Some(dir) = self.follow(dir) else {
            return Ok(Found::Nothing);
        };
        let matches: Vec<String> = self
            .below(&dir)
            .filter(|(rest, _)| glob.matches(rest))
            .map(|(_, path)| path.to_owned())
            .collect();
        if matches.is_empty() {
            return Ok(Found::Nothing);
        }
        for path in matches {
            self.add_path(&path);
        }
        Ok(Found::Yes)
    }

    /// `COPY --parents`: what follows `/./` in the source is a pattern of its own.
    fn add_with_parents(&mut self, source: &str) -> Result<Found, Fault> {
        let (base, pattern) = source.split_once("/./").unwrap_or(("", source));
        let (base, pattern) = (relative(base), relative(pattern));
        let plain = !has_wildcard(&base) && !has_wildcard(&pattern);
        let bases: Vec<String> = if has_wildcard(&base) {
            let (dir, rest) = split_wildcard(&base);
            let glob = glob(rest)?;
            match self.follow(dir) {
                Some(dir) => self
                    .below(&dir)
                    .filter(|(rest, _)| glob.matches(rest))
                    .map(|(_, path)| path.to_owned())
                    .collect(),
                None => Vec::new(),
            }
        } else {
            self.follow(&base).into_iter().collect()
        };
        let matcher = DockerIgnore::of([pattern.as_str()])
            .map_err(|e| Fault::new(Problem::Context(e.reason)))?;
        let mut found = false;
        for base in &bases {
            let matches: Vec<String> = self
                .below(base)
                .filter(|(rest, _)| pattern.is_empty() || matcher.matches(rest))
                .filter(|(rest, _)| !self.exclude.matches(rest))
                .map(|(_, path)| path.to_owned())
                .collect();
            found |= !matches.is_empty();
            self.paths.extend(matches);
        }
        Ok(match (found, plain) {
            (true, _) => Found::Yes,
            (false, true) => Found::Missing(join(&base, &pattern)),
            (false, false) => Found::Nothing,
        })
    }

    /// Adds what a plain path names: a file, or a directory with everything below it.
    fn add_path(&mut self, path: &str) -> Found {
        let Some(real) = self.follow(path) else {
            return Found::Missing(path.to_owned());
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        match self.entries.get(&real) {
            Some(ListedKind::File) => {
                if !self.exclude.matches(name) {
                    self.paths.insert(real);
                }
            }
            Some(ListedKind::Symlink(_)) | None if !real.is_empty() && !self.is_dir(&real) => {
                return Found::Missing(path.to_owned());
            }
            _ => {
                let below: Vec<String> = self
                    .below(&real)
                    .filter(|(rest, _)| !self.exclude.matches(rest))
                    .map(|(_, path)| path.to_owned())
                    .collect();
                self.paths.extend(below);
                if !real.is_empty() {
                    self.paths.insert(real);
                }
            }
        }
        Found::Yes
    }

    fn is_dir(&self, path: &str) -> bool {
        self.entries.get(path) == Some(&ListedKind::Dir) || self.below(path).next().is_some()
    }

    /// Everything below a directory: path from there, and path from the root.
    fn below(&self, dir: &str) -> impl Iterator<Item = (&str, &str)> {
        let prefix = match dir {
            "" => String::new(),
            dir => format!("{dir}/"),
        };
        self.entries
            .starting_at(&prefix)
            .iter()
            .map_while(move |(path, _)| Some((path.strip_prefix(&prefix)?, path.as_str())))
    }

    /// Where a path leads when every link in it is followed, within the context; the links on the
    /// way are chosen too. `None` when nothing is there.
    fn follow(&mut self, path: &str) -> Option<String> {
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(word) = rest.pop() {
            match word.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(word),
            }
            let here = at.join("/");
            match self.entries.get(&here) {
                Some(ListedKind::Symlink(target)) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return None;
                    }
                    if target.starts_with('/') {
                        at.clear();
                    } else {
                        at.pop();
                    }
                    rest.extend(target.split('/').rev().map(str::to_owned));
                    self.paths.insert(here);
                }
                Some(ListedKind::File) if !rest.iter().all(String::is_empty) => return None,
                Some(_) => {}
                // A directory that is left out, with something in it that is taken back in.
                None if self.below(&here).next().is_some() => {}
                None => return None,
            }
        }
        Some(at.join("/"))
    }
}

fn glob(pattern: &str) -> Result<Glob, Fault> {
    Glob::go(pattern).map_err(|e| Fault::new(Problem::Context(e.to_string())))
}

/// Splits at the first word with a wildcard.
fn split_wildcard(source: &str) -> (&str, &str) {
    let mut at = 0;
    for word in source.split('/') {
        if has_wildcard(word) {
            break;
        }
        at += word.len() + 1;
    }
    (source[..at].trim_end_matches('/'), &source[at..])
}
