//! `.gitignore` and `.chalkignore`, as `gitignore(5)` says.

use std::cell::RefCell;

use crate::glob::Glob;
use crate::sorted::SortedMap;
use crate::source::{Listed, Source, SourceError, join};

/// Names of the files whose lines count, in the order in which they are read at each level.
const FILES: [&str; 2] = [".gitignore", ".chalkignore"];

/// Ignore rules of a directory tree. Lines of deeper directories win over those above, later lines
/// over earlier ones; what lies in a directory that is ignored is ignored, whatever other lines say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitIgnore {
    /// Rules by the directory that they stand in; the root is the empty path.
    rules: SortedMap<Vec<Rule>>,
    /// Rules that no file can override.
    exclude: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// `None` matches nothing.
    glob: Option<Glob>,
    negated: bool,
    dir_only: bool,
    /// Matched against the path from the rule's directory, else against the last name.
    anchored: bool,
}

impl GitIgnore {
    /// No rules but these extra patterns, each read like a line of a `.gitignore` in the root.
    /// Nothing in an ignore file takes back what they leave out.
    pub fn new(exclude: &[String]) -> Self {
        Self {
            rules: SortedMap::default(),
            exclude: exclude.iter().filter_map(|p| Rule::parse(p)).collect(),
        }
    }

    /// Adds the lines of an ignore file that stands in `dir` (empty for the root). Lines of a
    /// second file for the same directory come after those of the first.
    pub fn add(&mut self, dir: &str, text: &str) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let line = match rest.split_once('\n') {
                Some((line, after)) => {
                    rest = after;
                    line.strip_suffix('\r').unwrap_or(line)
                }
                // Git takes a carriage return off only before a line feed.
                None => std::mem::take(&mut rest),
            };
            if !line.starts_with('#') {
                rules.extend(Rule::parse(line));
            }
        }
        self.rules.entry(dir).extend(rules);
    }

    /// Whether a path below the root is left out, itself or through one of its parents.
    pub fn is_ignored(&self, path: &str, is_dir: bool) -> bool {
        path.match_indices('/')
            .any(|(i, _)| self.is_ignored_itself(&path[..i], true))
            || self.is_ignored_itself(path, is_dir)
    }

    /// The same for a path of which no parent is left out, which is what a walk from the root
    /// knows.
    pub fn is_ignored_itself(&self, path: &str, is_dir: bool) -> bool {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == ".git" || verdict(&self.exclude, path, name, is_dir) == Some(true) {
            return true;
        }
        let mut dir = parent;
        loop {
            if let Some(rules) = self.rules.get(dir) {
                let below = path[dir.len()..].trim_start_matches('/');
                if let Some(ignored) = verdict(rules, below, name, is_dir) {
                    return ignored;
                }
            }
            if dir.is_empty() {
                return false;
            }
            dir = dir.rsplit_once('/').map_or("", |(up, _)| up);
        }
    }
}

/// What the last rule that matches says.
fn verdict(rules: &[Rule], path: &str, name: &str, is_dir: bool) -> Option<bool> {
    let matching = rules.iter().rev().find(|rule| {
        (is_dir || !rule.dir_only)
            && rule
                .glob
                .as_ref()
                .is_some_and(|glob| glob.matches(if rule.anchored { path } else { name }))
    });
    matching.map(|rule| !rule.negated)
}

impl Rule {
    fn parse(line: &str) -> Option<Self> {
        let line = trim_trailing_spaces(line);
        let (negated, line) = match line.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (dir_only, line) = match line.strip_suffix('/') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        if line.is_empty() {
            return None;
        }
        let anchored = line.contains('/');
        let line = line.strip_prefix('/').unwrap_or(line);
        Some(Self {
            glob: Glob::git(line),
            negated,
            dir_only,
            anchored,
        })
    }
}

/// Takes spaces off the end, save one that a backslash protects.
fn trim_trailing_spaces(line: &str) -> &str {
    let bytes = line.as_bytes();
    let mut end = None;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b' ' => {
                end.get_or_insert(at);
            }
            b'\\' => {
                at += 1;
                end = None;
            }
            _ => end = None,
        }
        at += 1;
    }
    end.map_or(line, |end| &line[..end])
}

/// Lists what counts of the directory `root`: everything that `.gitignore` and `.chalkignore` at
/// every level and the patterns of `exclude` leave, never `.git`. Directories are entries too.
/// Sorted by path.
///
/// # Errors
/// When the directory or one of its ignore files cannot be read.
pub fn select(
    source: &dyn Source,
    root: &str,
    exclude: &[String],
) -> Result<Vec<Listed>, SourceError> {
    let ignore = RefCell::new(GitIgnore::new(exclude));
    let mut failed = None;
    load(source, root, "", &mut ignore.borrow_mut())?;
    let mut listed = source.list(root, &mut |dir| {
        let mut ignore = ignore.borrow_mut();
        if failed.is_some() || ignore.is_ignored(dir, true) {
            return false;
        }
        match load(source, root, dir, &mut ignore) {
            Ok(()) => true,
            Err(e) => {
                failed = Some(e);
                false
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let ignore = ignore.into_inner();
    listed.retain(|entry| {
        let is_dir = entry.kind == crate::source::ListedKind::Dir;
        !ignore.is_ignored(&entry.path, is_dir)
    });
    listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(listed)
}

fn load(
    source: &dyn Source,
    root: &str,
    dir: &str,
    ignore: &mut GitIgnore,
) -> Result<(), SourceError> {
    for name in FILES {
        let path = join(&join(root, dir), name);
        if let Some(bytes) = source.read(&path)? {
            let text = String::from_utf8(bytes).map_err(|_| SourceError {
                path,
                reason: "an ignore file must be UTF-8 text".into(),
            })?;
            ignore.add(dir, &text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_like_git() {
        let check = |files: &[(&str, &str)], path: &str, is_dir: bool, expect: bool| {
            let mut ignore = GitIgnore::default();
            for (dir, text) in files {
                ignore.add(dir, text);
            }
            assert_eq!(ignore.is_ignored(path, is_dir), expect, "{files:?} {path}");
        };
        check(&[("", "*.pyc")], "a/b/c.pyc", false, true);
        check(&[("", "/x")], "a/x", false, false);
        check(&[("", "/x")], "x", false, true);
        check(&[("", "a/x")], "b/a/x", false, false);
        check(&[("", "**/a/x")], "b/a/x", false, true);
        check(&[("", "build/")], "build", false, false);
        check(&[("", "build/")], "build", true, true);
        check(&[("", "build/")], "src/build/x", false, true);
        // A parent that is left out cannot be taken back in from below.
        check(&[("", "a/\n!a/b")], "a/b", false, true);
        check(&[("", "a/*\n!a/b")], "a/b", false, false);
        // Nearer files win.
        check(
            &[("", "*.log"), ("keep", "!*.log")],
            "keep/x.log",
            false,
            false,
        );
        check(&[("", "*.log"), ("keep", "!*.log")], "x.log", false, true);
        check(&[("sub", "/x")], "sub/x", false, true);
        check(&[("sub", "/x")], "sub/y/x", false, false);
        // Two files at one level: the second wins.
        check(&[("", "x"), ("", "!x")], "x", false, false);
        check(&[("", "\\#x\n\\!y")], "#x", false, true);
        check(&[("", "\\#x\n\\!y")], "!y", false, true);
        check(&[("", "x  \ny\\ ")], "x", false, true);
        check(&[("", "x  \ny\\ ")], "y ", false, true);
        check(&[("", "# x\r\nz\r\n")], "z", false, true);
        check(&[("", "foo/")], "a/.git/x", false, true);
        check(&[("", "!.git")], ".git", true, true);
        check(&[("", "/")], "x", true, false);
    }

    #[test]
    fn excludes_win_over_files() {
        let mut ignore = GitIgnore::new(&["*.md".into(), "!README.md".into()]);
        ignore.add("", "!x.md\nREADME.md");
        assert!(ignore.is_ignored("x.md", false));
        assert!(ignore.is_ignored("README.md", false));
        assert!(!ignore.is_ignored("x.rs", false));
    }
}
