//! Python requirements: the small grammar of `docs/hash-v1.md` by which plain ones are normalised.
//!
//! The grammar is PEP 508 without URLs, with the versions of PEP 440. Everything else that pip
//! understands (URLs, paths, options) is kept as it was written; what pip would refuse is an error
//! here already.

use crate::error::{ErrorCode, Fault, each};
use crate::spec::check::no_packages;

/// Names of files that pip installs rather than looks up.
const ARCHIVES: [&str; 12] = [
    ".whl",
    ".zip",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz",
    ".tar.xz",
    ".txz",
    ".tar.lz",
    ".tlz",
    ".tar.lzma",
];

/// Marker variables of PEP 508, old spellings included.
const VARIABLES: [&str; 17] = [
    "python_version",
    "python_full_version",
    "os_name",
    "os.name",
    "sys_platform",
    "sys.platform",
    "platform_release",
    "platform_system",
    "platform_version",
    "platform.version",
    "platform_machine",
    "platform.machine",
    "platform_python_implementation",
    "platform.python_implementation",
    "python_implementation",
    "implementation_name",
    "implementation_version",
];

/// Comparison operators, longest first where one begins another.
const OPERATORS: [&str; 8] = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];

/// Deepest nesting of parentheses in a marker.
const MARKER_DEPTH: usize = 64;

/// The normal form of an install list: sorted and freed of duplicates when every entry is plain,
/// else as it was written.
pub(crate) fn normalise_list(packages: Vec<String>) -> Result<Vec<String>, Fault> {
    if packages.is_empty() {
        return Err(no_packages());
    }
    let plain = each(&packages, |package| normalise(package))?;
    let plain: Option<Vec<String>> = plain.into_iter().collect();
    Ok(match plain {
        Some(mut plain) => {
            plain.sort_unstable();
            plain.dedup();
            plain
        }
        None => packages,
    })
}

/// Whether pip could read the entry.
pub(crate) fn check(text: &str) -> Result<(), Fault> {
    normalise(text).map(drop)
}

/// The normal form of a plain requirement; `None` for a URL, path or option, which is kept.
fn normalise(text: &str) -> Result<Option<String>, Fault> {
    if text.contains(['\n', '\r', '\0']) {
        let fault = Fault::new(ErrorCode::Requirement, "a requirement is one line");
        return Err(fault.hint("write one requirement per entry"));
    }
    if text.trim().is_empty() {
        return Err(
            Fault::new(ErrorCode::Requirement, "the requirement is empty").hint("remove it"),
        );
    }
    if is_verbatim(text) {
        return Ok(None);
    }
    let mut scanner = Scanner { rest: text };
    requirement(&mut scanner).map(Some).map_err(|expected| {
        let column = text[..text.len() - scanner.rest.len()].chars().count() + 1;
        let message =
            format!("`{text}` is not a requirement: expected {expected} at character {column}");
        let hint = "write one `name`, `name>=1.0` or `name[extra]==1.0; marker` per entry";
        Fault::new(ErrorCode::Requirement, message).hint(hint)
    })
}

/// Whether pip reads the entry as something else than a name with versions.
fn is_verbatim(text: &str) -> bool {
    let text = text.trim();
    let (head, marker) = text.split_once(';').unwrap_or((text, ""));
    let file = head
        .split('[')
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_ascii_lowercase();
    text.starts_with('-')
        || head.contains(['@', '/', '\\'])
        || head.starts_with('.')
        || text.contains("${")
        || head.contains(" --")
        || marker.contains(" --")
        || ARCHIVES.iter().any(|ending| file.ends_with(ending))
}

struct Scanner<'t> {
    rest: &'t str,
}

impl<'t> Scanner<'t> {
    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Eats the first of `words` that stands here, without regard to case.
    fn eat_word(&mut self, words: &[&str]) -> bool {
        for word in words {
            let start = self.rest.get(..word.len());
            if start.is_some_and(|start| start.eq_ignore_ascii_case(word)) {
                self.rest = &self.rest[word.len()..];
                return true;
            }
        }
        false
    }

    fn take_while(&mut self, sound: impl Fn(char) -> bool) -> &'t str {
        let end = self.rest.find(|c| !sound(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn digits(&mut self) -> bool {
        !self.take_while(|c| c.is_ascii_digit()).is_empty()
    }

    /// A name or an extra: letters and digits, with `.`, `_` and `-` inside.
    fn identifier(&mut self) -> Option<&'t str> {
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let start = self.rest;
        let word = self.take_while(inner);
        let sound = word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.ends_with(|c: char| c.is_ascii_alphanumeric());
        if !sound {
            self.rest = start;
        }
        sound.then_some(word)
    }
}

/// What was expected where the scanner stopped.
type Expected = &'static str;

fn requirement(s: &mut Scanner<'_>) -> Result<String, Expected> {
    s.blanks();
    let mut out = normal_name(s.identifier().ok_or("a name")?);
    s.blanks();
    if s.eat("[") {
        let extras = extras(s)?;
        if !extras.is_empty() {
            out.push_str(&format!("[{}]", extras.join(",")));
        }
        s.blanks();
    }
    let parentheses = s.eat("(");
    out.push_str(&specifiers(s, parentheses)?.join(","));
    s.blanks();
    if s.eat(";") {
        s.blanks();
        let marker_text = s.rest.trim_end_matches([' ', '\t']);
        marker(s, 0)?;
        if s.rest.is_empty() {
            out.push(';');
            out.push_str(marker_text);
        }
    }
    if s.rest.is_empty() {
        Ok(out)
    } else {
        Err("`[`, a comparison such as `>=1.0`, `;` or the end")
    }
}

/// PEP 503: lower case, runs of `-`, `_` and `.` are one `-`.
fn normal_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.ends_with('-') {
            out.push('-');
        }
    }
    out
}

/// The normal form of a text that is the name of an extra and nothing else.
pub(crate) fn extra_name(text: &str) -> Option<String> {
    let mut s = Scanner { rest: text };
    let name = s.identifier().filter(|_| s.rest.is_empty());
    name.map(normal_name)
}

fn extras<'t>(s: &mut Scanner<'t>) -> Result<Vec<&'t str>, Expected> {
    let mut extras = Vec::new();
    s.blanks();
    if s.eat("]") {
        return Ok(extras);
    }
    loop {
        s.blanks();
        extras.push(s.identifier().ok_or("the name of an extra")?);
        s.blanks();
        if s.eat("]") {
            extras.sort_unstable();
            extras.dedup();
            return Ok(extras);
        }
        if !s.eat(",") {
            return Err("`,` or `]`");
        }
    }
}

fn specifiers(s: &mut Scanner<'_>, parentheses: bool) -> Result<Vec<String>, Expected> {
    let mut specifiers = Vec::new();
    loop {
        s.blanks();
        let Some(operator) = OPERATORS.into_iter().find(|operator| s.eat(operator)) else {
            // None at all, or a comma after the last, which `packaging` allows.
            break;
        };
        s.blanks();
        let start = s.rest;
        version(s, operator)?;
        let version = &start[..start.len() - s.rest.len()];
        specifiers.push(format!("{operator}{version}"));
        s.blanks();
        if !s.eat(",") {
            break;
        }
    }
    if parentheses && !s.eat(")") {
        return Err("`,` or `)`");
    }
    // What follows `===` up to the next blank is its version, a comma too: it must stay the last.
    specifiers.sort_unstable_by_key(|text| (text.starts_with("==="), text.clone()));
    specifiers.dedup();
    match specifiers
        .iter()
        .filter(|text| text.starts_with("==="))
        .count()
    {
        0 | 1 => Ok(specifiers),
        _ => Err("one version after `===`, not several"),
    }
}

/// A version of PEP 440, as far as the operator allows.
fn version(s: &mut Scanner<'_>, operator: &str) -> Result<(), Expected> {
    const EXPECTED: Expected = "a version such as `1.0`";
    if operator == "===" {
        let text = s.take_while(|c| !c.is_whitespace() && !matches!(c, ';' | ')'));
        return match text {
            "" => Err(EXPECTED),
            text if text.contains(',') => Err("a blank before the comma that follows `===`"),
            _ => Ok(()),
        };
    }
    s.eat_word(&["v"]);
    if !s.digits() {
        return Err(EXPECTED);
    }
    let mut parts = 1;
    if s.eat("!") && !s.digits() {
        return Err(EXPECTED);
    }
    let equality = operator == "==" || operator == "!=";
    loop {
        let before = s.rest;
        if equality && s.eat(".*") {
            return Ok(());
        }
        if !(s.eat(".") && s.digits()) {
            s.rest = before;
            break;
        }
        parts += 1;
    }
    if operator == "~=" && parts < 2 {
        return Err("a second number: `~=` compares all but the last");
    }
    suffix(s, &["alpha", "beta", "preview", "pre", "a", "b", "c", "rc"]);
    let before = s.rest;
    if !(s.eat("-") && s.digits()) {
        s.rest = before;
        suffix(s, &["post", "rev", "r"]);
    }
    suffix(s, &["dev"]);
    if equality && s.eat("+") {
        loop {
            if s.take_while(|c| c.is_ascii_alphanumeric()).is_empty() {
                return Err("letters or digits of a local version");
            }
            let before = s.rest;
            let separated = s.eat(".") || s.eat("-") || s.eat("_");
            if !separated || !s.rest.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                s.rest = before;
                break;
            }
        }
    }
    Ok(())
}

/// `[-_.]? word [-_.]? digits*`, if it stands here.
fn suffix(s: &mut Scanner<'_>, words: &[&str]) {
    let before = s.rest;
    let _ = s.eat("-") || s.eat("_") || s.eat(".");
    if s.eat_word(words) {
        let _ = s.eat("-") || s.eat("_") || s.eat(".");
        s.digits();
    } else {
        s.rest = before;
    }
}

fn marker(s: &mut Scanner<'_>, depth: usize) -> Result<(), Expected> {
    loop {
        s.blanks();
        if s.eat("(") {
            if depth == MARKER_DEPTH {
                return Err("fewer parentheses");
            }
            marker(s, depth + 1)?;
            s.blanks();
            if !s.eat(")") {
                return Err("`)`");
            }
        } else {
            operand(s)?;
            s.blanks();
            comparison(s)?;
            s.blanks();
            operand(s)?;
        }
        s.blanks();
        let before = s.rest;
        match s.take_while(|c| c.is_ascii_alphanumeric() || c == '_') {
            "and" | "or" => {}
            _ => {
                s.rest = before;
                return Ok(());
            }
        }
    }
}

fn operand(s: &mut Scanner<'_>) -> Result<(), Expected> {
    const EXPECTED: Expected = "a marker variable or a quoted text";
    for quote in ["'", "\""] {
        if s.eat(quote) {
            s.take_while(|c| !quote.starts_with(c));
            return if s.eat(quote) {
                Ok(())
            } else {
                Err("the closing quote")
            };
        }
    }
    let before = s.rest;
    let word = s.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if word == "extra" || VARIABLES.contains(&word) {
        return Ok(());
    }
    s.rest = before;
    Err(EXPECTED)
}

fn comparison(s: &mut Scanner<'_>) -> Result<(), Expected> {
    if OPERATORS.into_iter().any(|operator| s.eat(operator)) {
        return Ok(());
    }
    let before = s.rest;
    let mut word = s.take_while(|c| c.is_ascii_alphabetic());
    if word == "not" {
        s.blanks();
        word = s.take_while(|c| c.is_ascii_alphabetic());
    }
    if word == "in" {
        return Ok(());
    }
    s.rest = before;
    Err("a comparison such as `>=`, `in` or `not in`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_plain_requirements() {
        let check = |text: &str, expect: &str| {
            assert_eq!(normalise(text).unwrap().as_deref(), Some(expect), "{text}");
        };
        check("requests", "requests");
        check("  Pandas >= 2.0 ", "pandas>=2.0");
        check("Foo._-Bar", "foo-bar");
        check("a [ b , A,b ] >1 , <2", "a[A,b]<2,>1");
        check("a[]", "a");
        check("a (>=1,<2)", "a<2,>=1");
        check("a ()", "a");
        check("a>1,", "a>1");
        check("a===1 ,>0", "a>0,===1");
        check("a==1.*", "a==1.*");
        check("a~=1.4.2.post1", "a~=1.4.2.post1");
        check(
            "a==1!2.0rc1.post2.dev3+cu12.1",
            "a==1!2.0rc1.post2.dev3+cu12.1",
        );
        check("a==1.0a.dev1", "a==1.0a.dev1");
        check("a===any-thing+X", "a===any-thing+X");
        check("a==V1.0-1", "a==V1.0-1");
        check(
            "a>1 ;  python_version < '3.9' and (os_name == \"nt\" or 'x' not  in platform_machine) ",
            "a>1;python_version < '3.9' and (os_name == \"nt\" or 'x' not  in platform_machine)",
        );
        check("a;extra=='x'", "a;extra=='x'");
    }

    #[test]
    fn keeps_what_pip_reads_otherwise() {
        for text in [
            "-e .",
            "--index-url https://x",
            "a @ https://x/a.whl",
            "a@git+https://x",
            "git+https://x",
            "./a",
            "/a",
            "a/b",
            "a.whl",
            "A-1.0.tar.gz",
            "a.whl[x]",
            "a==1 --hash=sha256:00",
            "a==1; os_name=='x' --hash=sha256:00",
            "a==${V}",
        ] {
            assert_eq!(normalise(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn refuses_what_pip_refuses() {
        for text in [
            "",
            " ",
            "requests pandas",
            "requests,pandas",
            "a>=",
            "a>=>1",
            "a=1",
            "a,>=1",
            "a>=1.*",
            "a~=1",
            "a>1+local",
            "a[",
            "a[b",
            "a[b,]",
            "é",
            "a>1;",
            "a;x",
            "a;os_name",
            "a;os_name=='x",
            "a;os_name=='x' and",
            "a;(os_name=='x'",
            "a (>=1",
            "a >1)",
            "a==1.0.x",
            "a_",
            "a\nb",
        ] {
            assert!(normalise(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sorts_only_plain_lists() {
        let check = |list: &[&str], expect: &[&str]| {
            let list = list.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(normalise_list(list).unwrap(), expect);
        };
        check(&["b", "A", "a"], &["a", "b"]);
        check(&["b", "--pre", "A"], &["b", "--pre", "A"]);
    }
}
