//! Quotes, escapes and variables in the words of an instruction, as BuildKit's `shell.Lex` reads
//! them: `$x`, `${x}`, `${x:-y}`, `${x:+y}`, `${x:?y}`, `${x#p}`, `${x##p}`, `${x%p}`, `${x%%p}`,
//! `${x/p/y}`, `${x//p/y}`.

use super::pattern;

/// Longest text that an expansion may give, in bytes: without it a few lines of
/// `ENV A=$A$A` would fill the memory.
const LIMIT: usize = 1 << 20;

/// Deepest nesting of `${x:-${y:-…}}`.
const DEPTH: usize = 32;

/// What is known of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Its value.
    Value(String),
    /// That it is not set.
    Unset,
    /// Nothing: it may come from the base image.
    Unknown,
}

/// What became of a text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Expanded {
    /// The text as one word.
    pub(crate) text: String,
    /// The text split at blanks that are not quoted.
    pub(crate) words: Vec<String>,
    /// Whether a variable was unknown, which makes the text worthless.
    pub(crate) unknown: bool,
}

/// Reads texts. The flags are those of BuildKit's lexer.
#[derive(Clone, Copy)]
pub(crate) struct Lexer<'a> {
    /// `\` unless an `escape` directive says otherwise.
    pub(crate) escape: char,
    /// Keep quotation marks.
    pub(crate) raw_quotes: bool,
    /// Keep escape characters.
    pub(crate) raw_escapes: bool,
    /// Quotation marks mean nothing.
    pub(crate) skip_quotes: bool,
    /// Leave variables that are not set as they stand.
    pub(crate) skip_unset: bool,
    /// Values.
    pub(crate) lookup: &'a dyn Fn(&str) -> Lookup,
}

impl<'a> Lexer<'a> {
    /// The lexer for words of canonical instructions.
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Lookup) -> Self {
        Self {
            escape: '\\',
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            skip_unset: false,
            lookup,
        }
    }

    /// Reads `text`. The error says what is wrong with it, in words.
    pub(crate) fn expand(&self, text: &str) -> Result<Expanded, String> {
        let mut reader = Reader {
            lexer: self,
            rest: text.chars().peekable(),
            unknown: false,
            depth: 0,
        };
        let (text, words) = reader.until(None, self.raw_escapes)?;
        Ok(Expanded {
            text,
            words,
            unknown: reader.unknown,
        })
    }
}

struct Reader<'a> {
    lexer: &'a Lexer<'a>,
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    unknown: bool,
    depth: usize,
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    in_word: bool,
}

impl Words {
    /// A character that splits words when it is a blank.
    fn soft(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
            self.in_word = true;
        } else if self.in_word && !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
            self.in_word = false;
        }
    }

    fn hard(&mut self, text: &str) {
        self.word.push_str(text);
        self.in_word = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

impl Reader<'_> {
    /// Reads up to `stop`, which is taken, or to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
    ) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("substitutions are nested too deeply".into());
        }
        let mut result = String::new();
        let mut words = Words::default();
        while let Some(&c) = self.rest.peek() {
            if stop == Some(c) {
                self.rest.next();
                self.depth -= 1;
                return Ok((result, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.soft(c));
                    result.push_str(&value);
                }
                '<' => {
                    let mark = self.heredoc_mark();
                    words.hard(&mark);
                    result.push_str(&mark);
                }
                '\'' if !self.lexer.skip_quotes => {
                    let text = self.single_quoted()?;
                    words.hard(&text);
                    result.push_str(&text);
                }
                '"' if !self.lexer.skip_quotes => {
                    let text = self.double_quoted(raw_escapes)?;
                    words.hard(&text);
                    result.push_str(&text);
                }
                c if c == self.lexer.escape => {
                    self.rest.next();
                    let mut kept = String::new();
                    if raw_escapes {
                        kept.push(c);
                    }
                    kept.extend(self.rest.next());
                    if !kept.is_empty() {
                        words.hard(&kept);
                        result.push_str(&kept);
                    }
                }
                c => {
                    self.rest.next();
                    words.soft(c);
                    result.push(c);
                }
            }
            if result.len() > LIMIT {
                return Err(format!("it grows over {LIMIT} bytes"));
            }
        }
        match stop {
            Some(stop) => Err(format!("`{stop}` is missing")),
            None => Ok((result, words.finish())),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let quote = self.rest.next().filter(|_| self.lexer.raw_quotes);
        text.extend(quote);
        for c in self.rest.by_ref() {
            if c == '\'' {
                text.extend(quote);
                return Ok(text);
            }
            text.push(c);
        }
        Err("a `'` is not closed".into())
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, String> {
        let mut text = String::new();
        let quote = self.rest.next().filter(|_| self.lexer.raw_quotes);
        text.extend(quote);
        loop {
            match self.rest.peek() {
                None => return Err("a `\"` is not closed".into()),
                Some('"') => {
                    self.rest.next();
                    text.extend(quote);
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(&c) => {
                    self.rest.next();
                    if c != self.lexer.escape {
                        text.push(c);
                        continue;
                    }
                    if raw_escapes {
                        text.push(c);
                    }
                    match self.rest.peek() {
                        None => {}
                        Some(&next) if matches!(next, '"' | '$') || next == c => {
                            self.rest.next();
                            text.push(next);
                        }
                        Some(_) => text.push(c),
                    }
                }
            }
        }
    }

    /// `<<` and the blanks after it, so that `<< EOF` is one word.
    fn heredoc_mark(&mut self) -> String {
        self.rest.next();
        if self.rest.next_if_eq(&'<').is_none() {
            return "<".into();
        }
        let mut mark = "<<".to_owned();
        while let Some(c) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
            mark.push(c);
        }
        mark
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.rest.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(c);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.rest.next()),
            _ => {
                while let Some(c) = self.rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                }
            }
        }
        name
    }

    fn get(&mut self, name: &str) -> Option<String> {
        match (self.lexer.lookup)(name) {
            Lookup::Value(value) => Some(value),
            Lookup::Unset => None,
            Lookup::Unknown => {
                self.unknown = true;
                None
            }
        }
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.rest.next();
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let value = self.get(&name);
            return Ok(match value {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        match self.rest.peek() {
            None => return Err("`${` is not closed by `}`".into()),
            Some('{' | '}' | ':') => {
                return Err("`${` is not followed by the name of a variable".into());
            }
            _ => {}
        }
        let name = self.name();
        match self.rest.next() {
            None => Err("`${` is not closed by `}`".into()),
            Some('}') => {
                let value = self.get(&name);
                Ok(match value {
                    None if self.lexer.skip_unset => format!("${{{name}}}"),
                    value => value.unwrap_or_default(),
                })
            }
            Some(':') => match self.rest.next() {
                Some(modifier @ ('-' | '+' | '?')) => self.modified(&name, modifier, true),
                Some(other) => Err(format!("`${{{name}:{other}` is no substitution")),
                None => Err("`${` is not closed by `}`".into()),
            },
            Some(modifier @ ('-' | '+' | '?' | '#' | '%')) => self.modified(&name, modifier, false),
            Some('/') => self.replaced(&name),
            Some(other) => Err(format!("`${{{name}{other}` is no substitution")),
        }
    }

    fn modified(&mut self, name: &str, modifier: char, null: bool) -> Result<String, String> {
        let is_pattern = matches!(modifier, '#' | '%');
        let (word, _) = self.until(Some('}'), is_pattern)?;
        let value = self.get(name);
        let Some(value) = value else {
            return match modifier {
                _ if self.lexer.skip_unset => {
                    let colon = if null { ":" } else { "" };
                    Ok(format!("${{{name}{colon}{modifier}{word}}}"))
                }
                '-' => Ok(word),
                '?' if !self.unknown => {
                    let reason = if word.is_empty() {
                        "it must be set"
                    } else {
                        &word
                    };
                    Err(format!("`{name}` is not set: {reason}"))
                }
                _ => Ok(String::new()),
            };
        };
        let absent = null && value.is_empty();
        match modifier {
            '-' if absent => Ok(word),
            '+' if absent => Ok(String::new()),
            '+' => Ok(word),
            '?' if absent => {
                let reason = if word.is_empty() {
                    "it must not be empty"
                } else {
                    &word
                };
                Err(format!("`{name}` is empty: {reason}"))
            }
            '#' | '%' => {
                let (pattern, greedy) = match word.strip_prefix(modifier) {
                    Some(rest) => (rest, true),
                    None => (word.as_str(), false),
                };
                if modifier == '#' {
                    pattern::trim_prefix(pattern, &value, greedy)
                } else {
                    pattern::trim_suffix(pattern, &value, greedy)
                }
            }
            _ => Ok(value),
        }
    }

    fn replaced(&mut self, name: &str) -> Result<String, String> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        let value = self.get(name);
        match value {
            None if self.lexer.skip_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => pattern::replace(&pattern, &value.unwrap_or_default(), &replacement, all),
        }
    }
}

/// `text` as a word that expands to itself.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:,=+@%^~".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '$' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Rewrites a word whose escape character is the backtick to one whose escape character is the
/// backslash.
pub(crate) fn from_backticks(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word.chars().peekable();
    let mut quote = None;
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some('\''), c) => {
                if c == '\'' {
                    quote = None;
                }
                out.push(c);
            }
            (_, '\\') => out.push_str("\\\\"),
            (None, '`') => {
                if let Some(escaped) = rest.next() {
                    out.push('\\');
                    out.push(escaped);
                }
            }
            (Some(_), '`') => match rest.peek() {
                Some(&escaped @ ('"' | '$')) => {
                    rest.next();
                    out.push('\\');
                    out.push(escaped);
                }
                Some('`') => {
                    rest.next();
                    out.push('`');
                }
                _ => out.push('`'),
            },
            (None, c @ ('\'' | '"')) => {
                quote = Some(c);
                out.push(c);
            }
            (Some('"'), '"') => {
                quote = None;
                out.push('"');
            }
            (_, c) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Lookup {
        match name {
            "HOME" => Lookup::Value("/root".into()),
            "EMPTY" => Lookup::Value(String::new()),
            "PWD" => Lookup::Value("/home".into()),
            "SHELL" => Lookup::Value("bash".into()),
            "FILE" => Lookup::Value("a/b/c.tar.gz".into()),
            "STAR" => Lookup::Value("x*y?z".into()),
            "KOREAN" => Lookup::Value("한국어".into()),
            "TWO" => Lookup::Value("a  b".into()),
            "BASE" => Lookup::Unknown,
            _ => Lookup::Unset,
        }
    }

    fn check(text: &str, expect: Result<&str, &str>) {
        match (Lexer::new(&lookup).expand(text), expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got.text, expect, "{text}"),
            (Err(got), Err(expect)) => assert!(got.contains(expect), "{text}: {got}"),
            (got, expect) => panic!("{text}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn expands_like_buildkit() {
        // Cases of BuildKit's `shell/envVarTest`.
        for (text, expect) in [
            ("hello", "hello"),
            ("he'll'o", "hello"),
            ("he\\'llo", "he'llo"),
            ("he\\\\'llo'", "he\\llo"),
            ("abc\\tdef", "abctdef"),
            ("\"abc\\tdef\"", "abc\\tdef"),
            ("\"abc\\\"def\"", "abc\"def"),
            ("'abc\\def'", "abc\\def"),
            ("he\"llo\"", "hello"),
            ("he$PWD", "he/home"),
            ("he${PWD}llo", "he/homello"),
            ("'he${PWD}'", "he${PWD}"),
            ("\"he$PWD\"", "he/home"),
            ("he\\$PWD", "he$PWD"),
            ("\"he\\$PWD\"", "he$PWD"),
            ("he${hi}", "he"),
            ("he${hi}xx", "hexx"),
            ("he$", "he$"),
            ("he$.", "he$."),
            ("he$1x", "hex"),
            ("he$@x", "hex"),
            ("he$pwd.", "he."),
            ("he${XXX:-000}xx", "he000xx"),
            ("he${PWD:-000}xx", "he/homexx"),
            ("he${XXX:-$PWD}xx", "he/homexx"),
            ("he${XXX:-${PWD:-yyy}}xx", "he/homexx"),
            ("he${XXX:-${YYY:-yyy}}xx", "heyyyxx"),
            ("he${XXX:YYY}", "!"),
            ("he${XXX-000}", "he000"),
            ("he${EMPTY-000}", "he"),
            ("he${EMPTY:-000}", "he000"),
            ("he${XXX:+000}", "he"),
            ("he${PWD:+000}", "he000"),
            ("he${EMPTY+000}", "he000"),
            ("he${EMPTY:+000}", "he"),
            ("${PWD:?no}", "/home"),
            ("\"$PWD $HOME\"", "/home /root"),
            ("$KOREAN", "한국어"),
            ("안녕${XXX:-\\$PWD:}xx", "안녕$PWD:xx"),
            ("a\\", "a"),
            ("\"a\\\"", "!"),
            ("<<EOF", "<<EOF"),
            // Patterns.
            ("${FILE#*/}", "b/c.tar.gz"),
            ("${FILE##*/}", "c.tar.gz"),
            ("${FILE%.*}", "a/b/c.tar"),
            ("${FILE%%.*}", "a/b/c"),
            ("${FILE#?}", "/b/c.tar.gz"),
            ("${FILE#x}", "a/b/c.tar.gz"),
            ("${FILE/b/x}", "a/x/c.tar.gz"),
            ("${FILE/\\//-}", "a-b/c.tar.gz"),
            ("${FILE//\\//-}", "a-b-c.tar.gz"),
            ("${FILE/b*/x}", "a/x"),
            ("${FILE/b//}", "a///c.tar.gz"),
            ("${STAR#x\\*}", "y?z"),
            ("${STAR%\\?z}", "x*y"),
            ("${XXX#a}", ""),
        ] {
            let expect = if expect == "!" { Err("") } else { Ok(expect) };
            check(text, expect);
        }
        check("${XXX:?need it}", Err("need it"));
        check("${EMPTY:?}", Err("must not be empty"));
        check("${", Err("not closed"));
        check("${}", Err("name of a variable"));
        check("${PWD", Err("not closed"));
        check("${PWD:-x", Err("missing"));
        check("'a", Err("not closed"));
        check("${FILE#\\a}", Err("pattern"));
    }

    #[test]
    fn splits_words() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(
                Lexer::new(&lookup).expand(text).unwrap().words,
                expect,
                "{text}"
            );
        };
        check("a  b", &["a", "b"]);
        check("$TWO", &["a", "b"]);
        check("\"$TWO\" c", &["a  b", "c"]);
        check("a\\ b", &["a b"]);
        check("x${XXX:-1 2}", &["x1", "2"]);
        check("  ", &[]);
        check("'' a", &["a"]);
    }

    #[test]
    fn knows_what_it_does_not_know() {
        let check = |text: &str, expect: bool| {
            assert_eq!(
                Lexer::new(&lookup).expand(text).unwrap().unknown,
                expect,
                "{text}"
            );
        };
        check("$BASE/x", true);
        check("${BASE:?must}", true);
        check("${XXX:-$BASE}", true);
        check("'$BASE'", false);
        check("$PWD", false);
    }

    #[test]
    fn quoting_is_undone_by_expanding() {
        for text in [
            "",
            "a",
            "a b",
            "a\"b'c\\d$e`f",
            "\n\t",
            "${x}",
            "<<EOF",
            "é",
        ] {
            assert_eq!(Lexer::new(&lookup).expand(&quote(text)).unwrap().text, text);
        }
    }

    #[test]
    fn backticks_become_backslashes() {
        let tick = |text: &str| {
            let lexer = Lexer {
                escape: '`',
                ..Lexer::new(&lookup)
            };
            lexer.expand(text).unwrap().text
        };
        for text in [
            "C:\\a\\b",
            "a` b",
            "a``b",
            "\"C:\\x\\\"",
            "\"a`\"b`$c`d``\"",
            "'a`b\\'",
            "x`",
            "\\$PWD",
        ] {
            let back = Lexer::new(&lookup).expand(&from_backticks(text)).unwrap();
            assert_eq!(back.text, tick(text), "{text}");
        }
    }

    #[test]
    fn growth_and_depth_are_limited() {
        let big = |_: &str| Lookup::Value("x".repeat(LIMIT / 2));
        assert!(Lexer::new(&big).expand("$a$b$c").is_err());
        let deep = format!("{}{}", "${a:-".repeat(5000), "}".repeat(5000));
        assert!(Lexer::new(&lookup).expand(&deep).is_err());
    }
}
