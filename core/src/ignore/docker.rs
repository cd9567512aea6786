//! `.dockerignore`, as moby's `patternmatcher` and `ignorefile` read it.

use crate::glob::{Glob, InvalidGlob};

/// Patterns of a `.dockerignore`, of `--exclude`, or of `--parents`. The last one that matches a
/// path or one of its parents decides; `!` takes a path back in, whatever its parents are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerIgnore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    glob: Glob,
    negated: bool,
}

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct InvalidPattern {
    /// Line of the file or position in the list, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl DockerIgnore {
    /// Reads a `.dockerignore`: one pattern a line, `#` comments, all anchored at the root of the
    /// context.
    ///
    /// # Errors
    /// When a line is no pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (i, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let (negated, pattern) = match line.trim().strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line.trim()),
            };
            if pattern.is_empty() && !negated {
                continue;
            }
            let pattern = match pattern {
                "" => String::new(),
                pattern => crate::path::clean(pattern),
            };
            let pattern = match pattern.strip_prefix('/') {
                Some(rest) if !rest.is_empty() => rest,
                _ => &pattern,
            };
            patterns.extend(Pattern::new(pattern, negated, i + 1)?);
        }
        Ok(Self { patterns })
    }

    /// Patterns given one by one (`--exclude`).
    ///
    /// # Errors
    /// When one is no pattern.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPattern> {
        let mut read = Vec::new();
        for (i, pattern) in patterns.into_iter().enumerate() {
            let pattern = pattern.trim();
            if pattern.is_empty() {
                continue;
            }
            let cleaned = crate::path::clean(pattern);
            let (negated, pattern) = match cleaned.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, cleaned.as_str()),
            };
            read.extend(Pattern::new(pattern, negated, i + 1)?);
        }
        Ok(Self { patterns: read })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether `path` is left out (or, for `--parents`, taken in).
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.negated == matched && pattern.matches_with_parents(path) {
                matched = !pattern.negated;
            }
        }
        matched
    }

    /// Whether nothing below the directory can count, so that a lister need not descend.
    pub fn can_skip(&self, dir: &str) -> bool {
        if !self.matches(dir) {
            return false;
        }
        let below = format!("{dir}/");
        !self.patterns.iter().any(|pattern| {
            let prefix = pattern.glob.prefix();
            pattern.negated
                && (prefix.starts_with(&below)
                    || !pattern.glob.is_literal() && below.starts_with(prefix))
        })
    }
}

impl Pattern {
    fn new(pattern: &str, negated: bool, line: usize) -> Result<Option<Self>, InvalidPattern> {
        if pattern.is_empty() {
            return Err(InvalidPattern {
                line,
                reason: "a `!` without a pattern after it".into(),
            });
        }
        let glob = Glob::docker(pattern).map_err(|e: InvalidGlob| InvalidPattern {
            line,
            reason: e.to_string(),
        })?;
        Ok(Some(Self { glob, negated }))
    }

    fn matches_with_parents(&self, path: &str) -> bool {
        self.glob.matches(path)
            || path
                .match_indices('/')
                .any(|(i, _)| self.glob.matches(&path[..i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_like_moby() {
        let check = |text: &str, path: &str, expect: bool| {
            assert_eq!(
                DockerIgnore::parse(text).unwrap().matches(path),
                expect,
                "{text:?} {path}"
            );
        };
        // docs.docker.com, "dockerignore file".
        check("*/temp*", "somedir/temporary.txt", true);
        check("*/temp*", "somedir/temp", true);
        check("*/temp*", "temp", false);
        check("*/*/temp*", "somedir/subdir/temporary.txt", true);
        check("temp?", "tempa", true);
        check("**/*.go", "a/b/c.go", true);
        check("*.md\n!README*.md\nREADME-secret.md", "README.md", false);
        check(
            "*.md\n!README*.md\nREADME-secret.md",
            "README-secret.md",
            true,
        );
        check(
            "*.md\nREADME-secret.md\n!README*.md",
            "README-secret.md",
            false,
        );
        // Anchored at the root, unlike .gitignore.
        check("build", "build/x", true);
        check("build", "src/build", false);
        check("/build", "build", true);
        check("build/", "build", true);
        check("./build/../dist", "dist/x", true);
        // A parent that is left out does not bind, unlike .gitignore.
        check("a\n!a/b/c", "a/b/c", false);
        check("a\n!a/b/c", "a/b/d", true);
        check("*\n!src", "src/x/y", false);
        check("*\n!src/**/*.rs", "src/a/b.rs", false);
        check("*\n!src/**/*.rs", "src/a/b.c", true);
        // Comments, blanks, byte order mark, carriage returns.
        check("\u{feff}# c\r\n\r\n  x  \r\n", "x", true);
        check("  # no comment", "# no comment", true);
        check("! x", "x", false);
        check("y\n!  y", "y", false);
        check("", "x", false);
        check(".", "x", false);
        check("/", "x", false);
        check("..", "x", false);
    }

    #[test]
    fn refuses_bad_patterns() {
        assert_eq!(DockerIgnore::parse("a\n[").unwrap_err().line, 2);
        assert_eq!(DockerIgnore::parse("!").unwrap_err().line, 1);
        assert!(DockerIgnore::of(["a\\"]).is_err());
    }

    #[test]
    fn tells_which_directories_can_be_skipped() {
        let check = |text: &str, dir: &str, expect: bool| {
            assert_eq!(
                DockerIgnore::parse(text).unwrap().can_skip(dir),
                expect,
                "{text:?} {dir}"
            );
        };
        check("node_modules", "node_modules", true);
        check("node_modules", "src", false);
        check("*\n!src/a", "src", false);
        check("*\n!src/a", "target", true);
        check("*\n!**/*.rs", "target", false);
        check("*\n!sr*/x", "src", false);
        check("*\n!sr*/x", "target", true);
        check("a\n!b", "a", true);
    }
}
