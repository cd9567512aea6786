//! The pieces that instructions are made of: keyword, flags, JSON lists, words, `name=value`.

use super::error::Fault;
use crate::error::ErrorCode;
use crate::input::Node;

/// Keyword, flags and the rest of a statement.
pub(crate) struct Split<'a> {
    pub(crate) keyword: &'a str,
    /// `--name[=value]`, quotes and escapes undone, with their offsets.
    pub(crate) flags: Vec<(String, usize)>,
    /// What follows, without blanks around it.
    pub(crate) arguments: &'a str,
    /// Offset of `arguments`.
    pub(crate) offset: usize,
}

/// Blanks between words of an instruction.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Splits a statement at its keyword and flags.
pub(crate) fn split(text: &str, escape: char) -> Split<'_> {
    let start = text.len() - text.trim_start().len();
    let text_end = text.trim_end().len().max(start);
    let body = &text[start..text_end];
    let keyword_end = body.find(is_blank).unwrap_or(body.len());
    let keyword = &body[..keyword_end];
    let rest = body[keyword_end..].trim_start_matches(is_blank);
    let rest_offset = text_end - rest.len();
    let (flags, used) = flags(rest, escape);
    let arguments = rest[used..].trim();
    let offset = rest_offset + used + (rest[used..].len() - rest[used..].trim_start().len());
    Split {
        keyword,
        flags: flags
            .into_iter()
            .map(|(flag, at)| (flag, rest_offset + at))
            .collect(),
        arguments,
        offset,
    }
}

/// Reads words that start with `--`, up to `--` alone; returns them and how much of `rest` they take.
fn flags(rest: &str, escape: char) -> (Vec<(String, usize)>, usize) {
    let mut flags = Vec::new();
    let mut chars = rest.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(start, _)) = chars.peek() else {
            return (flags, rest.len());
        };
        if !rest[start..].starts_with("--") {
            return (flags, start);
        }
        let mut word = String::new();
        let mut quote = None;
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = at;
                    break;
                }
                None if matches!(c, '\'' | '"') => quote = Some(c),
                Some(q) if q == c => quote = None,
                _ if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                _ => word.push(c),
            }
        }
        if word == "--" {
            return (flags, end);
        }
        flags.push((word, start));
    }
}

/// A flag value as [`split`] reads it back.
pub(crate) fn escape_flag(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if c.is_whitespace() || matches!(c, '\'' | '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A JSON list of strings. `Ok(None)` for anything that is not a JSON list.
pub(crate) fn json_list(arguments: &str) -> Result<Option<Vec<String>>, Fault> {
    if !arguments.starts_with('[') {
        return Ok(None);
    }
    let texts = match Node::from_json(arguments) {
        Ok(node) => node.texts().ok(),
        Err(error) if error.code == ErrorCode::Limit => None,
        Err(_) => return Ok(None),
    };
    match texts {
        Some(texts) => Ok(Some(texts)),
        None => Err(Fault::syntax("a JSON list here holds strings only")),
    }
}

/// Words between blanks, quotes and escapes untouched.
pub(crate) fn blank_separated(arguments: &str) -> Vec<String> {
    arguments
        .split(is_blank)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Words between blanks that are neither quoted nor escaped; quotes and escapes stay.
pub(crate) fn quoted_words(arguments: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut chars = arguments.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(q) if q == c => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // An escape character at the very end is dropped.
            if let Some(escaped) = chars.next() {
                word.push(c);
                word.push(escaped);
            }
            continue;
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `name` and the rest after the first blanks, if there are any.
pub(crate) fn split_once_blank(arguments: &str) -> Option<(&str, &str)> {
    let (name, rest) = arguments.split_once(is_blank)?;
    Some((name, rest.trim_start_matches(is_blank)))
}

/// Whether heredocs may stand in a statement: `RUN`, `COPY`, `ADD` (after `ONBUILD` too), not in
/// JSON form.
pub(crate) fn may_have_heredocs(text: &str, escape: char) -> bool {
    let statement = split(text, escape);
    match statement.keyword.to_ascii_uppercase().as_str() {
        "ONBUILD" => may_have_heredocs_after_onbuild(statement.arguments, escape),
        _ => is_heredoc_keyword(&statement),
    }
}

fn may_have_heredocs_after_onbuild(text: &str, escape: char) -> bool {
    is_heredoc_keyword(&split(text, escape))
}

fn is_heredoc_keyword(statement: &Split<'_>) -> bool {
    ["RUN", "COPY", "ADD"]
        .iter()
        .any(|keyword| statement.keyword.eq_ignore_ascii_case(keyword))
        && matches!(json_list(statement.arguments), Ok(None))
}

/// One line of comma-separated values, as Go's `encoding/csv` reads it.
pub(crate) fn csv_fields(line: &str) -> Result<Vec<String>, Fault> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices();
            let after = loop {
                match chars.next() {
                    None => {
                        return Err(Fault::flag(format_args!(
                            "a `\"` is not closed in `{line}`"
                        )));
                    }
                    Some((at, '"')) => match quoted[at + 1..].chars().next() {
                        Some('"') => {
                            chars.next();
                            field.push('"');
                        }
                        _ => break &quoted[at + 1..],
                    },
                    Some((_, c)) => field.push(c),
                }
            };
            fields.push(field);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(fields),
                None => {
                    return Err(Fault::flag(format_args!(
                        "expected `,` after `\"` in `{line}`"
                    )));
                }
            }
        } else {
            let (field, next) = match rest.split_once(',') {
                Some((field, next)) => (field, Some(next)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(Fault::flag(format_args!(
                    "a `\"` stands within the unquoted value `{field}`"
                )));
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

/// A value as [`csv_fields`] reads it back.
pub(crate) fn csv_quote(field: &str) -> String {
    if field.contains(['"', ',']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_flags() {
        let check = |text: &str, flags: &[&str], arguments: &str| {
            let got = split(text, '\\');
            let got_flags: Vec<_> = got.flags.iter().map(|(flag, _)| flag.as_str()).collect();
            assert_eq!(
                (got_flags.as_slice(), got.arguments),
                (flags, arguments),
                "{text}"
            );
            assert!(text[got.offset..].starts_with(got.arguments), "{text}");
        };
        check("RUN a --b", &[], "a --b");
        check("RUN --a=b  --c d", &["--a=b", "--c"], "d");
        check("RUN --a='b c' d", &["--a=b c"], "d");
        check("RUN --a=b\\ c d", &["--a=b c"], "d");
        check("RUN --a=b -- --c d", &["--a=b"], "--c d");
        check("RUN --a", &["--a"], "");
        check("RUN\t x ", &[], "x");
        check("  RUN", &[], "");
        check("RUN --a=\"b", &["--a=b"], "");
        check("RUN é --x", &[], "é --x");
    }

    #[test]
    fn escaped_flags_read_back() {
        for value in ["a b", "a'\"\\b", "", "x=y"] {
            let text = format!("RUN --f={} x", escape_flag(value));
            assert_eq!(split(&text, '\\').flags[0].0, format!("--f={value}"));
        }
    }

    #[test]
    fn reads_words_and_lists() {
        assert_eq!(
            quoted_words("a='b c' d\\ e \"f \\\" g\" h\\", '\\'),
            ["a='b c'", "d\\ e", "\"f \\\" g\"", "h"]
        );
        assert_eq!(json_list("[\"a\", \"b\"]").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(json_list("[ -e x ]"), Ok(None));
        assert_eq!(json_list("['a']"), Ok(None));
        assert!(json_list("[1]").is_err());
        assert_eq!(
            csv_fields("a=b,\"c=d,\"\"e\",f").unwrap(),
            ["a=b", "c=d,\"e", "f"]
        );
        assert!(csv_fields("a\"b").is_err());
        assert!(csv_fields("\"a").is_err());
        assert!(csv_fields("\"a\"b").is_err());
        assert_eq!(csv_fields("").unwrap(), [""]);
    }
}
