//! File name patterns of three families: Go's `filepath.Match` (sources of `COPY`), moby's
//! patterns (`.dockerignore`, `--exclude`) and git's (`.gitignore`).
//!
//! `globset` speaks none of the three: git matches bytes, has POSIX classes and gives `**` a meaning
//! only between slashes, moby lets `**` stand anywhere, and a pattern that a stranger wrote must never
//! cost more than its length times the path's. One small automaton serves all three.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    /// Git matches bytes, Go characters.
    bytes: bool,
    /// Literal text that every match starts with.
    prefix: String,
    /// Literal text that every match ends with.
    suffix: String,
}

/// A pattern that its family refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a file pattern: {reason}")]
pub struct InvalidGlob {
    /// What was given.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// This unit (a byte or a character).
    Unit(u32),
    /// Any unit but `/`.
    One,
    /// One unit of a set.
    Class(Class),
    /// Any number of units but `/`.
    Star,
    /// Any number of units.
    Any,
    /// Nothing, or anything that ends in `/`. Always followed by [`Token::InDirs`].
    Dirs,
    /// The state after a unit that [`Token::Dirs`] took.
    InDirs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    negated: bool,
    /// Whether a negated set has `/` in it.
    slash: bool,
    ranges: Vec<(u32, u32)>,
}

impl Class {
    fn has(&self, unit: u32) -> bool {
        if !self.slash && unit == u32::from(b'/') {
            return false;
        }
        self.ranges
            .iter()
            .any(|&(low, high)| (low..=high).contains(&unit))
            != self.negated
    }
}

/// Whether Go's `filepath.Match` would read `text` as more than a plain path.
pub fn has_wildcard(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

impl Glob {
    /// A pattern of Go's `filepath.Match` on Unix: `*`, `?`, `[a-z]`, `[^a-z]`, `\x`.
    ///
    /// # Errors
    /// When Go answers `ErrBadPattern`.
    pub fn go(pattern: &str) -> Result<Self, InvalidGlob> {
        let mut tokens = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::One,
                '[' => Token::Class(go_class(pattern, &mut rest)?),
                '\\' => Token::Unit(u32::from(rest.next().ok_or_else(|| InvalidGlob {
                    pattern: pattern.to_owned(),
                    reason: "nothing follows its last `\\`",
                })?)),
                c => Token::Unit(u32::from(c)),
            });
        }
        Ok(Self::of(tokens, false))
    }

    /// A cleaned pattern of moby's `patternmatcher`: as [`Glob::go`], and `**` for any number of
    /// directories.
    ///
    /// # Errors
    /// When Go's `filepath.Match` answers `ErrBadPattern`.
    pub fn docker(pattern: &str) -> Result<Self, InvalidGlob> {
        Self::go(pattern)?;
        // Moby compares the end of the path when only literal text follows a leading `**`.
        if let Some(tail) = pattern.strip_prefix("**")
            && !tail.starts_with('/')
            && !tail.contains(['*', '?', '[', ']', '\\'])
        {
            let tail = tail.chars().map(|c| Token::Unit(u32::from(c)));
            return Ok(Self::of(
                std::iter::once(Token::Any).chain(tail).collect(),
                false,
            ));
        }
        let mut tokens = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '*' if rest.next_if_eq(&'*').is_some() => {
                    rest.next_if_eq(&'/');
                    if rest.peek().is_none() {
                        tokens.push(Token::Any);
                    } else {
                        tokens.extend([Token::Dirs, Token::InDirs]);
                    }
                }
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::One),
                '[' => tokens.push(Token::Class(go_class(pattern, &mut rest)?)),
                '\\' => tokens.extend(rest.next().map(|c| Token::Unit(u32::from(c)))),
                c => tokens.push(Token::Unit(u32::from(c))),
            }
        }
        Ok(Self::of(tokens, false))
    }

    /// A pattern of git's `wildmatch` with `WM_PATHNAME` (`gitignore(5)`). `None` for one that
    /// matches nothing, such as an unclosed bracket.
    pub fn git(pattern: &str) -> Option<Self> {
        let bytes = pattern.as_bytes();
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&b) = bytes.get(at) {
            at += 1;
            match b {
                b'*' => {
                    let start = at - 1;
                    while bytes.get(at) == Some(&b'*') {
                        at += 1;
                    }
                    let after_slash = start == 0 || bytes[start - 1] == b'/';
                    match bytes.get(at) {
                        Some(b'/') if at - start == 2 && after_slash => {
                            tokens.extend([Token::Dirs, Token::InDirs]);
                            at += 1;
                        }
                        None if at - start == 2 && after_slash => {
                            // `a/**` is what lies in a, not a itself.
                            tokens.extend([
                                Token::Class(Class {
                                    negated: true,
                                    slash: true,
                                    ranges: Vec::new(),
                                }),
                                Token::Any,
                            ]);
                        }
                        _ => tokens.push(Token::Star),
                    }
                }
                b'?' => tokens.push(Token::One),
                b'[' => {
                    let (class, end) = git_class(bytes, at)?;
                    tokens.push(Token::Class(class));
                    at = end;
                }
                b'\\' => {
                    tokens.push(Token::Unit(u32::from(*bytes.get(at)?)));
                    at += 1;
                }
                b => tokens.push(Token::Unit(u32::from(b))),
            }
        }
        Some(Self::of(tokens, true))
    }

    fn of(tokens: Vec<Token>, bytes: bool) -> Self {
        let literal = |token: &Token| match token {
            Token::Unit(unit) if *unit < 128 || !bytes => char::from_u32(*unit),
            _ => None,
        };
        let prefix: String = tokens.iter().map_while(literal).collect();
        let suffix: Vec<char> = tokens.iter().rev().map_while(literal).collect();
        Self {
            prefix,
            suffix: suffix.into_iter().rev().collect(),
            tokens,
            bytes,
        }
    }

    /// Whether the pattern has no wildcard.
    pub fn is_literal(&self) -> bool {
        self.tokens.iter().all(|t| matches!(t, Token::Unit(_)))
    }

    /// Literal text that everything it matches starts with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the whole of `path` matches. Takes time in the product of both lengths at most.
    pub fn matches(&self, path: &str) -> bool {
        if !path.starts_with(&self.prefix) || !path.ends_with(&self.suffix) {
            return false;
        }
        // One bit per position in the pattern; the last is the match.
        let mut states = vec![false; self.tokens.len() + 1];
        let mut next = states.clone();
        self.enter(&mut states, 0);
        let mut step = |unit: u32| {
            next.fill(false);
            let slash = unit == u32::from(b'/');
            for (at, token) in self.tokens.iter().enumerate() {
                if !states[at] {
                    continue;
                }
                match token {
                    Token::Unit(want) if *want == unit => self.enter(&mut next, at + 1),
                    Token::One if !slash => self.enter(&mut next, at + 1),
                    Token::Class(class) if class.has(unit) => self.enter(&mut next, at + 1),
                    Token::Star if !slash => self.enter(&mut next, at),
                    Token::Any => self.enter(&mut next, at),
                    Token::Dirs => {
                        next[at + 1] = true;
                        if slash {
                            self.enter(&mut next, at + 2);
                        }
                    }
                    Token::InDirs => {
                        next[at] = true;
                        if slash {
                            self.enter(&mut next, at + 1);
                        }
                    }
                    _ => {}
                }
            }
            std::mem::swap(&mut states, &mut next);
        };
        if self.bytes {
            path.bytes().for_each(|b| step(u32::from(b)));
        } else {
            path.chars().for_each(|c| step(u32::from(c)));
        }
        states[self.tokens.len()]
    }

    /// Marks `at` and every position that is reached from it without a unit.
    fn enter(&self, states: &mut [bool], mut at: usize) {
        loop {
            if std::mem::replace(&mut states[at], true) {
                return;
            }
            at += match self.tokens.get(at) {
                Some(Token::Star | Token::Any) => 1,
                Some(Token::Dirs) => 2,
                _ => return,
            };
        }
    }
}

/// The set after `[`, as Go's `matchChunk` reads it.
fn go_class(
    pattern: &str,
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<Class, InvalidGlob> {
    let invalid = |reason| InvalidGlob {
        pattern: pattern.to_owned(),
        reason,
    };
    let unclosed = "a `[` is not closed by `]`";
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let unit = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| match rest.next() {
        Some('-' | ']') => Err(invalid(
            "a set in `[…]` is empty or has a `-` without bounds",
        )),
        Some('\\') => rest.next().ok_or_else(|| invalid(unclosed)),
        Some(c) => Ok(c),
        None => Err(invalid(unclosed)),
    };
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Ok(Class {
                negated,
                slash: true,
                ranges,
            });
        }
        let low = u32::from(unit(rest)?);
        let high = if rest.next_if_eq(&'-').is_some() {
            u32::from(unit(rest)?)
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// The set after `[`, which ends before the returned position, as git's `dowild` reads it.
fn git_class(bytes: &[u8], mut at: usize) -> Option<(Class, usize)> {
    let negated = matches!(bytes.get(at)?, b'!' | b'^');
    if negated {
        at += 1;
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    // The byte that a following `-` makes the start of a range.
    let mut previous: Option<u8> = None;
    let mut first = true;
    loop {
        let b = *bytes.get(at)?;
        if b == b']' && !first {
            let class = Class {
                negated,
                slash: false,
                ranges,
            };
            return Some((class, at + 1));
        }
        first = false;
        at += 1;
        match b {
            b'\\' => {
                let escaped = *bytes.get(at)?;
                at += 1;
                ranges.push((u32::from(escaped), u32::from(escaped)));
                previous = Some(escaped);
            }
            b'-' if previous.is_some() && !matches!(bytes.get(at), None | Some(b']')) => {
                let mut high = bytes[at];
                at += 1;
                if high == b'\\' {
                    high = *bytes.get(at)?;
                    at += 1;
                }
                let low = previous.take()?;
                ranges.push((u32::from(low), u32::from(high)));
            }
            b'[' if bytes.get(at) == Some(&b':') => {
                let name = at + 1;
                let end = name + bytes.get(name..)?.iter().position(|&b| b == b']')?;
                if bytes[end - 1] == b':' && end > name {
                    posix_class(&bytes[name..end - 1], &mut ranges)?;
                    at = end + 1;
                    previous = None;
                } else {
                    ranges.push((u32::from(b), u32::from(b)));
                    previous = Some(b);
                }
            }
            b => {
                ranges.push((u32::from(b), u32::from(b)));
                previous = Some(b);
            }
        }
    }
}

fn posix_class(name: &[u8], ranges: &mut Vec<(u32, u32)>) -> Option<()> {
    let sets: &[(u8, u8)] = match name {
        b"alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        b"alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        b"blank" => &[(b' ', b' '), (b'\t', b'\t')],
        b"cntrl" => &[(0, 31), (127, 127)],
        b"digit" => &[(b'0', b'9')],
        b"graph" => &[(33, 126)],
        b"lower" => &[(b'a', b'z')],
        b"print" => &[(32, 126)],
        b"punct" => &[(33, 47), (58, 64), (91, 96), (123, 126)],
        // Git's own isspace() knows no vertical tab and no form feed.
        b"space" => &[(b' ', b' '), (b'\t', b'\n'), (b'\r', b'\r')],
        b"upper" => &[(b'A', b'Z')],
        b"xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    };
    ranges.extend(sets.iter().map(|&(a, b)| (u32::from(a), u32::from(b))));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_like_go() {
        // The table of Go's own `path/filepath/match_test.go`.
        let check = |pattern: &str, path: &str, expect: Option<bool>| {
            let got = Glob::go(pattern).ok().map(|g| g.matches(path));
            assert_eq!(got, expect, "{pattern} {path}");
        };
        check("abc", "abc", Some(true));
        check("*", "abc", Some(true));
        check("*c", "abc", Some(true));
        check("a*", "a", Some(true));
        check("a*", "abc", Some(true));
        check("a*", "ab/c", Some(false));
        check("a*/b", "abc/b", Some(true));
        check("a*/b", "a/c/b", Some(false));
        check("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true));
        check("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true));
        check("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false));
        check("a*b?c*x", "abxbbxdbxebxczzx", Some(true));
        check("a*b?c*x", "abxbbxdbxebxczzy", Some(false));
        check("ab[c]", "abc", Some(true));
        check("ab[b-d]", "abc", Some(true));
        check("ab[e-g]", "abc", Some(false));
        check("ab[^c]", "abc", Some(false));
        check("ab[^e-g]", "abc", Some(true));
        check("a\\*b", "a*b", Some(true));
        check("a\\*b", "ab", Some(false));
        check("a?b", "a☺b", Some(true));
        check("a[^a]b", "a☺b", Some(true));
        check("a???b", "a☺b", Some(false));
        check("[a-ζ]*", "α", Some(true));
        check("*[a-ζ]", "A", Some(false));
        check("a?b", "a/b", Some(false));
        check("a*b", "a/b", Some(false));
        check("[\\]a]", "]", Some(true));
        check("[\\-]", "-", Some(true));
        check("[x\\-]", "z", Some(false));
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a\\",
        ] {
            check(bad, "a", None);
        }
    }

    #[test]
    fn matches_like_moby() {
        // Cases of moby/patternmatcher's own test.
        let check = |pattern: &str, path: &str, expect: bool| {
            assert_eq!(
                Glob::docker(pattern).unwrap().matches(path),
                expect,
                "{pattern} {path}"
            );
        };
        for path in ["file", "dir/file", "dir/dir/file.txt"] {
            check("**", path, true);
        }
        check("**/", "file", true);
        check("dir/**", "dir/dir2/file", true);
        check("dir/**", "dir", false);
        check("**/dir2/*", "dir/dir2/file", true);
        check("**/dir2/**", "dir/dir2/dir2/file", true);
        check("**file", "dir/file", true);
        check("**file", "dirfile", true);
        check("**/file", "dirfile", false);
        check("**/file", "dir/dir/file", true);
        check("**/file*.txt", "dir/dir/file.txt", true);
        check("a**/*.txt", "a/dir/dir/file.txt", true);
        check("a/*/b", "a/b", false);
        check("a**/b", "ab", true);
        check("**/**/*.txt", "file.txt", true);
        check("**/*.txt2", "file.txt", false);
        check("a[b-d]e", "ace", true);
        check("abc.def", "abcZdef", false);
        check("abc?def", "abcZdef", true);
        check("a\\\\", "a\\", true);
        check("**/foo/bar", "dir/dir2/foo/bar", true);
        check("abc/**", "abc/def/ghi", true);
        check("**/.foo", "bar.foo", false);
        check("a(b)c/def", "a(b)c/def", true);
        check("*/c*e", "x/ce", true);
    }

    #[test]
    fn matches_like_git() {
        let check = |pattern: &str, path: &str, expect: bool| {
            let got = Glob::git(pattern).is_some_and(|g| g.matches(path));
            assert_eq!(got, expect, "{pattern} {path}");
        };
        // Cases of git's t3070-wildmatch with slashes.
        check("foo", "foo", true);
        check("???", "foo", true);
        check("??", "foo", false);
        check("f*", "foo", true);
        check("*foo*", "foo", true);
        check("\\*", "*", true);
        check("**/foo", "foo", true);
        check("**/foo", "a/b/foo", true);
        check("foo/**", "foo/a/b", true);
        check("foo/**", "foo", false);
        check("foo/**/bar", "foo/bar", true);
        check("foo/**/**/bar", "foo/b/a/z/bar", true);
        check("foo/*/bar", "foo/a/b/bar", false);
        check("foo**bar", "foo/bar", false);
        check("foo**bar", "fooxbar", true);
        check("foo?bar", "foo/bar", false);
        check("foo[^a]bar", "foo/bar", false);
        check("[[:alpha:]][[:digit:]]", "a1", true);
        check("[[:xdigit:]]", "g", false);
        check("[]-]", "]", true);
        check("[!]a-]", "]", false);
        check("[!a]", "b", true);
        check("[a-c]x", "bx", true);
        check("[", "[", false);
        check("a\\", "a", false);
        check("é", "é", true);
        check("?", "é", false);
        check("??", "é", true);
    }

    #[test]
    fn hostile_patterns_are_cheap() {
        let glob = Glob::go(&"a*".repeat(200)).unwrap();
        assert!(!glob.matches(&format!("{}b/", "a".repeat(5000))));
    }
}
