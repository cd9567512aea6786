//! From the text of a Dockerfile to statements: directives, comments, continuations, heredocs.
//!
//! The crate `parse-dockerfile` reads one heredoc, at the very start of a `RUN`, and forgets the delimiter's name; `RUN cat <<EOF > /x` makes it take the body for instructions.
//! Nothing on top of it can repair that, so this follows BuildKit's own line reader; the crate
//! serves as a second opinion in the tests.

use super::error::{DockerfileError, Fault, Problem};
use super::expand::{Lexer, Lookup};
use super::syntax;

/// Longest Dockerfile, in bytes.
pub(crate) const TEXT_LIMIT: usize = 4 << 20;

/// Most instructions.
const STATEMENT_LIMIT: usize = 10_000;

/// Most heredocs of one instruction.
const HEREDOC_LIMIT: usize = 256;

/// One instruction with its continuations joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Keyword and arguments, without the lines of heredocs.
    pub(crate) text: String,
    /// Bodies in the order of their marks.
    pub(crate) heredocs: Vec<Heredoc>,
    /// Where each piece of `text` came from: offset, line, column.
    pieces: Vec<(usize, u32, u32)>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The delimiter without quotes.
    pub(crate) name: String,
    /// No part of the delimiter is quoted: `COPY` expands variables in the body.
    pub(crate) expand: bool,
    /// `<<-`: leading tabs are taken off.
    pub(crate) strip_tabs: bool,
    /// The body as it stands in the file.
    pub(crate) body: String,
}

impl Heredoc {
    /// The body as it is used: without leading tabs after `<<-`.
    pub(crate) fn contents(&self) -> String {
        if !self.strip_tabs {
            return self.body.clone();
        }
        self.body
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// A Dockerfile as statements.
#[derive(Debug)]
pub(crate) struct Script {
    /// `\`, or the backtick after `# escape=`.
    pub(crate) escape: char,
    /// Value and line of `# syntax=`.
    pub(crate) syntax: Option<(String, u32)>,
    pub(crate) statements: Vec<Statement>,
    /// Lines on which an empty line continues an instruction.
    pub(crate) empty_continuations: Vec<u32>,
}

impl Statement {
    /// A statement from a canonical text: one line, save the bodies of heredocs.
    pub(crate) fn canonical(text: &str) -> Result<Self, Fault> {
        check_size(text)?;
        let (head, body) = text.split_once('\n').unwrap_or((text, ""));
        let marks = heredoc_marks(head, '\\')?;
        if marks.is_empty() {
            return Ok(Self {
                text: text.to_owned(),
                heredocs: Vec::new(),
                pieces: vec![(0, 1, 1)],
            });
        }
        let mut lines = body.split_inclusive('\n');
        let heredocs = marks
            .into_iter()
            .map(|mark| read_heredoc(mark, &mut lines))
            .collect::<Result<_, _>>()?;
        if lines.next().is_some() {
            return Err(Fault::syntax("expected nothing after the last heredoc"));
        }
        Ok(Self {
            text: head.to_owned(),
            heredocs,
            pieces: vec![(0, 1, 1)],
        })
    }

    /// Line on which it starts.
    pub(crate) fn line(&self) -> u32 {
        self.pieces.first().map_or(1, |piece| piece.1)
    }

    /// Gives a fault its place.
    pub(crate) fn locate(&self, fault: Fault, file: &str) -> DockerfileError {
        let offset = fault.offset().min(self.text.len());
        let before = |piece: &&(usize, u32, u32)| piece.0 <= offset;
        let &(start, line, column) = self.pieces.iter().rev().find(before).unwrap_or(&(0, 1, 1));
        let between = self.text.get(start..offset).unwrap_or_default();
        let (problem, hint) = fault.into_parts();
        DockerfileError {
            file: file.to_owned(),
            line,
            column: column + small(between.chars().count()),
            problem,
            hint,
        }
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn check_size(text: &str) -> Result<(), Fault> {
    if text.len() > TEXT_LIMIT {
        return Err(Fault::new(Problem::Limit(format!(
            "the text has {} bytes; at most {TEXT_LIMIT} are read",
            text.len()
        ))));
    }
    if let Some(offset) = text.find('\0') {
        return Err(Fault::syntax("a NUL cannot stand in a Dockerfile").at(offset));
    }
    Ok(())
}

/// Reads a whole Dockerfile.
pub(crate) fn read(text: &str, file: &str) -> Result<Script, DockerfileError> {
    let place = |fault: Fault, line: u32, column: u32| {
        let (problem, hint) = fault.into_parts();
        DockerfileError {
            file: file.to_owned(),
            line,
            column,
            problem,
            hint,
        }
    };
    check_size(text).map_err(|fault| {
        let before = text.get(..fault.offset()).unwrap_or_default();
        let line = small(before.matches('\n').count()) + 1;
        place(fault, line, 1)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut directives = Directives::default();
    let mut script = Script {
        escape: '\\',
        syntax: None,
        statements: Vec::new(),
        empty_continuations: Vec::new(),
    };
    let mut lines = text.split_inclusive('\n');
    let mut number = 0;
    while let Some(line) = lines.next() {
        number += 1;
        let line = line.trim_end_matches(['\r', '\n']);
        let trimmed = line.trim_start();
        directives
            .read(trimmed, number, &mut script)
            .map_err(|fault| place(fault, number, 1))?;
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let column = small(line.chars().count() - trimmed.chars().count()) + 1;
        let mut statement = Statement {
            text: String::new(),
            heredocs: Vec::new(),
            pieces: vec![(0, number, column)],
        };
        let mut open = push(&mut statement.text, trimmed, script.escape);
        while open {
            let Some(line) = lines.next() else { break };
            number += 1;
            let line = line.trim_end_matches(['\r', '\n']);
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line.trim_start().is_empty() {
                script.empty_continuations.push(number);
                continue;
            }
            statement.pieces.push((statement.text.len(), number, 1));
            open = push(&mut statement.text, line, script.escape);
        }
        if statement.text.trim().is_empty() {
            continue;
        }
        let marks = heredoc_marks(&statement.text, script.escape)
            .map_err(|fault| statement.locate(fault, file))?;
        for mark in marks {
            let mut taken = lines.by_ref().inspect(|_| number += 1);
            let heredoc = read_heredoc(mark, &mut taken).map_err(|fault| {
                let offset = statement.text.find("<<").unwrap_or(0);
                statement.locate(fault.at(offset), file)
            })?;
            statement.heredocs.push(heredoc);
        }
        script.statements.push(statement);
        if script.statements.len() > STATEMENT_LIMIT {
            let fault = Fault::new(Problem::Limit(format!(
                "more than {STATEMENT_LIMIT} instructions"
            )));
            return Err(place(fault, number, 1));
        }
    }
    Ok(script)
}

/// Adds a line, and says whether it is continued: it ends in one escape character, and blanks.
fn push(text: &mut String, line: &str, escape: char) -> bool {
    let end = line.trim_end_matches([' ', '\t']);
    match end.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => {
            text.push_str(rest);
            true
        }
        _ => {
            text.push_str(line);
            false
        }
    }
}

/// Directives stand before everything else, each at most once.
#[derive(Default)]
struct Directives {
    done: bool,
    seen: Vec<String>,
}

impl Directives {
    fn read(&mut self, line: &str, number: u32, script: &mut Script) -> Result<(), Fault> {
        if self.done {
            return Ok(());
        }
        let directive = line.strip_prefix('#').and_then(|rest| rest.split_once('='));
        let Some((name, value)) = directive else {
            self.done = true;
            return Ok(());
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !matches!(name.as_str(), "syntax" | "escape" | "check") || value.is_empty() {
            self.done = true;
            return Ok(());
        }
        if self.seen.contains(&name) {
            return Err(Fault::syntax(format_args!(
                "the directive `{name}` stands twice"
            )));
        }
        match name.as_str() {
            "escape" => match value {
                "\\" => {}
                "`" => script.escape = '`',
                _ => {
                    return Err(Fault::syntax(format_args!(
                        "`{value}` cannot be the escape character: expected `\\` or a backtick"
                    )));
                }
            },
            "syntax" => script.syntax = Some((value.to_owned(), number)),
            _ => {}
        }
        self.seen.push(name);
        Ok(())
    }
}

/// Takes the body of a heredoc, and its last line, from `lines`.
fn read_heredoc(
    mut mark: Heredoc,
    lines: &mut dyn Iterator<Item = &str>,
) -> Result<Heredoc, Fault> {
    for line in lines {
        let mut end = line.trim_end_matches(['\r', '\n']);
        if mark.strip_tabs {
            end = end.trim_start_matches('\t');
        }
        if end == mark.name {
            return Ok(mark);
        }
        mark.body.push_str(line);
    }
    Err(Fault::syntax(format_args!(
        "the heredoc is not closed: expected a line `{}`",
        mark.name
    )))
}

/// The heredocs that a statement announces, their bodies still empty.
fn heredoc_marks(text: &str, escape: char) -> Result<Vec<Heredoc>, Fault> {
    if !text.contains("<<") || !syntax::may_have_heredocs(text, escape) {
        return Ok(Vec::new());
    }
    let unset = |_: &str| Lookup::Unset;
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        skip_unset: true,
        ..Lexer::new(&unset)
    };
    // A line that the lexer cannot read has no heredoc: a shell may well read it.
    let words = lexer.expand(text).map_or_else(|_| Vec::new(), |e| e.words);
    let mut marks = Vec::new();
    for word in words {
        marks.extend(heredoc_mark(&word)?);
    }
    if marks.len() > HEREDOC_LIMIT {
        return Err(Fault::new(Problem::Limit(format!(
            "more than {HEREDOC_LIMIT} heredocs in one instruction"
        ))));
    }
    Ok(marks)
}

/// Reads `<<EOF`, `<<-EOF`, `3<<"EOF"`; `None` for any other word.
pub(crate) fn heredoc_mark(word: &str) -> Result<Option<Heredoc>, Fault> {
    let Some(rest) = word
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .strip_prefix("<<")
    else {
        return Ok(None);
    };
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let unset = |_: &str| Lookup::Unset;
    let lexer = Lexer {
        skip_unset: true,
        ..Lexer::new(&unset)
    };
    let read = |lexer: Lexer<'_>| {
        lexer.expand(rest).map_err(|reason| {
            Fault::syntax(format_args!(
                "the delimiter of the heredoc `{word}`: {reason}"
            ))
        })
    };
    let words = read(lexer)?.words;
    let raw = read(Lexer {
        raw_quotes: true,
        ..lexer
    })?
    .words;
    let ([name], [raw]) = (words.as_slice(), raw.as_slice()) else {
        return Ok(None);
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: name.clone(),
        expand: quotes(name) == quotes(raw),
        strip_tabs,
        body: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let script = read(text, "Dockerfile").unwrap();
        script.statements.into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn joins_and_drops_lines() {
        let check = |text: &str, expect: &[&str]| assert_eq!(texts(text), expect, "{text:?}");
        check("FROM a\n\n# c\n  RUN b\n", &["FROM a", "RUN b"]);
        check("RUN a \\\n  b", &["RUN a   b"]);
        check("RUN a \\  \r\n  b\r\n", &["RUN a   b"]);
        check("RUN a \\\n# c\n\n  # d\n b", &["RUN a  b"]);
        check("RUN a\\\\\nRUN b", &["RUN a\\\\", "RUN b"]);
        check("RUN a\\", &["RUN a"]);
        check("\\\nRUN a", &["RUN a"]);
        check("R\\\nUN a", &["RUN a"]);
        check("\u{feff}FROM a", &["FROM a"]);
        check("# escape=`\nRUN a `\n b\\\nRUN c", &["RUN a  b\\", "RUN c"]);
        check("# x\n# escape=`\nRUN a\\\nb", &["RUN ab"]);
        check("#syntax=a/b\n# ESCAPE = `\nRUN a`\nb", &["RUN ab"]);
        check("", &[]);
    }

    #[test]
    fn takes_heredocs() {
        let check = |text: &str, expect: &[(&str, bool, &str)]| {
            let script = read(text, "Dockerfile").unwrap();
            let got: Vec<_> = script.statements[0]
                .heredocs
                .iter()
                .map(|h| (h.name.as_str(), h.expand, h.body.as_str()))
                .collect();
            assert_eq!(got, expect, "{text:?}");
            assert_eq!(script.statements.len(), 1, "{text:?}");
        };
        check("RUN <<EOF\na\n# b\n\nEOF\n", &[("EOF", true, "a\n# b\n\n")]);
        check("RUN cat <<EOF > /x\na\nEOF", &[("EOF", true, "a\n")]);
        check("RUN cat << EOF\na\nEOF", &[("EOF", true, "a\n")]);
        check("RUN cat <<'EOF'\n$a\nEOF", &[("EOF", false, "$a\n")]);
        check("RUN cat <<\"E\"F\n$a\nEF", &[("EF", false, "$a\n")]);
        check("RUN <<-EOF\n\t\ta\n\tEOF", &[("EOF", true, "\t\ta\n")]);
        check("RUN 3<<EOF\na\r\nEOF\r\n", &[("EOF", true, "a\r\n")]);
        check(
            "COPY <<a <<b /d/\n1\na\n2\nb\n",
            &[("a", true, "1\n"), ("b", true, "2\n")],
        );
        check("ONBUILD RUN <<E\na\nE", &[("E", true, "a\n")]);
        check("RUN <<EOF\nEOF", &[("EOF", true, "")]);
        check("RUN <<EOF \\\n && b\na\nEOF", &[("EOF", true, "a\n")]);
        // Not heredocs.
        check("RUN cat <<<word", &[]);
        check("RUN echo $((1<<2))", &[]);
        check("RUN echo '<<EOF'", &[]);
        check("RUN [\"a\", \"<<EOF\"]", &[]);
        check("CMD cat <<EOF", &[]);
        check("RUN echo \"<<EOF", &[]);
    }

    #[test]
    fn places_errors() {
        let check = |text: &str, line: u32, column: u32, part: &str| {
            let error = read(text, "f").unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{error}");
            assert!(error.to_string().contains(part), "{error}");
        };
        check("FROM a\nRUN <<EOF\nx\n", 2, 5, "expected a line `EOF`");
        check("# escape=x\n", 1, 1, "escape character");
        check("# syntax=a\n# syntax=b", 2, 1, "stands twice");
        check("FROM a\nRUN b\0", 2, 1, "NUL");
        let error = read(&"x".repeat(TEXT_LIMIT + 1), "f").unwrap_err();
        assert!(matches!(error.problem, Problem::Limit(_)));
    }

    #[test]
    fn strips_tabs_where_asked() {
        let script = read("COPY <<-E /\n\t\ta\n\t b\tc\nE", "f").unwrap();
        assert_eq!(script.statements[0].heredocs[0].contents(), "a\n b\tc\n");
    }
}
