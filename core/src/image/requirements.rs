//! Requirements files: their lines as the list that `pip_install` would have been given.
//!
//! Format: pip's "Requirements File Format". Files that a line names with `-r` are inlined, since
//! their contents must count. A constraints file (`-c`) cannot be inlined (a constraint does not
//! install anything) and is refused with the way out.

use crate::error::{ErrorCode, Fault, Position, SpecError};
use crate::path::clean;
use crate::source::{Source, SourceError};

/// Deepest chain of `-r`.
const DEPTH_LIMIT: usize = 32;

/// The requirements of the file at `path` and of those that it includes, in order.
pub(super) fn read(source: &dyn Source, path: &str) -> Result<Vec<String>, SpecError> {
    let mut out = Vec::new();
    read_into(source, path, &mut Vec::new(), &mut out)?;
    Ok(out)
}

fn read_into(
    source: &dyn Source,
    path: &str,
    open: &mut Vec<String>,
    out: &mut Vec<String>,
) -> Result<(), SpecError> {
    let fail = |fault: Fault| SpecError {
        file: Some(path.to_owned()),
        ..fault.into_error()
    };
    let unreadable = |error: SourceError| Fault::new(ErrorCode::File, error.reason);
    let bytes = source
        .read(path)
        .map_err(|error| fail(unreadable(error)))?
        .ok_or_else(|| {
            let fault = Fault::new(ErrorCode::File, "no such file");
            fail(fault.hint("paths are relative to the declaring file"))
        })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let message = format!("line {} is not UTF-8 text", line + 1);
        fail(Fault::new(ErrorCode::File, message).hint("save the file as UTF-8"))
    })?;
    open.push(clean(path));
    for (number, line) in lines(text.strip_prefix('\u{feff}').unwrap_or(&text)) {
        let fail = |fault: Fault| SpecError {
            position: Some(Position {
                line: number,
                column: 1,
            }),
            ..fail(fault)
        };
        if let Some(include) = option_value(&line, "-r", "--requirement")
            && !include.contains("://")
        {
            let include = sibling(path, include);
            if open.contains(&include) {
                let fault = Fault::new(
                    ErrorCode::Requirement,
                    format_args!("{include} includes itself"),
                );
                return Err(fail(fault.hint("remove the line")));
            }
            if open.len() == DEPTH_LIMIT {
                let message = format!("more than {DEPTH_LIMIT} files include each other");
                return Err(fail(Fault::new(ErrorCode::Limit, message)));
            }
            read_into(source, &include, open, out)?;
        } else if let Some(constraints) = option_value(&line, "-c", "--constraint")
            && !constraints.contains("://")
        {
            let message = format!("the constraints file `{constraints}` cannot be inlined");
            let hint = "write its pins into the requirements, or copy it in with `add_local_file` \
                        and give its path in the image: `pip_install` with `-c /path`";
            return Err(fail(Fault::new(ErrorCode::Requirement, message).hint(hint)));
        } else {
            crate::requirement::check(&line).map_err(fail)?;
            out.push(line);
        }
    }
    open.pop();
    Ok(())
}

/// The logical lines with their numbers: continuations joined, comments and blank lines gone.
fn lines(text: &str) -> Vec<(u32, String)> {
    let mut lines = Vec::new();
    let mut joined = String::new();
    let mut first = 1;
    for (number, line) in (1..).zip(text.lines()) {
        if joined.is_empty() {
            first = number;
        }
        // A comment ends a continuation and is not continued itself, as in pip.
        let comment = line.trim_start().starts_with('#');
        match line.strip_suffix('\\') {
            Some(start) if !comment => {
                joined.push_str(start);
                continue;
            }
            _ if comment => {}
            _ => joined.push_str(line),
        }
        push_line(&mut lines, first, &mut joined);
    }
    push_line(&mut lines, first, &mut joined);
    lines
}

fn push_line(lines: &mut Vec<(u32, String)>, number: u32, joined: &mut String) {
    let line = std::mem::take(joined);
    let comment = line.match_indices('#').find(|(at, _)| {
        line[..*at]
            .chars()
            .next_back()
            .is_none_or(char::is_whitespace)
    });
    let line = comment.map_or(line.as_str(), |(at, _)| &line[..at]).trim();
    if !line.is_empty() {
        lines.push((number, line.to_owned()));
    }
}

/// The value of an option in the forms `-r x`, `-rx`, `--requirement x` and `--requirement=x`.
fn option_value<'l>(line: &'l str, short: &str, long: &str) -> Option<&'l str> {
    let value = match line.strip_prefix(long) {
        Some(rest) => rest.strip_prefix('=').or_else(|| {
            rest.starts_with(char::is_whitespace)
                .then(|| rest.trim_start())
        })?,
        None => line.strip_prefix(short)?.trim_start(),
    };
    Some(value.trim_matches(['"', '\'']))
}

/// `include` as the file at `path` means it.
fn sibling(path: &str, include: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, _)) if !include.starts_with('/') => clean(&format!("{dir}/{include}")),
        _ => clean(include),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemoryFiles;

    #[test]
    fn reads_lines_as_pip_does() {
        let files = MemoryFiles::new()
            .file(
                "req/all.txt",
                "\u{feff}# comment\r\nrequests # why\r\n\npandas>=2.0,\\\n  <3\n-r base.txt\n\
                 -r ../more.txt\nurl @ https://x/a#egg=b\n",
            )
            .file("req/base.txt", "numpy\\\n# gone\nscipy")
            .file(
                "more.txt",
                "--index-url=https://x\n--requirement=req/base.txt",
            );
        assert_eq!(
            read(&files, "req/all.txt").unwrap(),
            [
                "requests",
                "pandas>=2.0,  <3",
                "numpy",
                "scipy",
                "--index-url=https://x",
                "numpy",
                "scipy",
                "url @ https://x/a#egg=b",
            ]
        );
    }

    #[test]
    fn names_file_and_line() {
        let check = |text: &str, expect: &str| {
            let files = MemoryFiles::new()
                .file("a.txt", text)
                .file("b.txt", "-r a.txt");
            assert_eq!(read(&files, "a.txt").unwrap_err().to_string(), expect);
        };
        check(
            "x\n-c pins.txt",
            "a.txt:2:1: the constraints file `pins.txt` cannot be inlined; write its pins into the \
             requirements, or copy it in with `add_local_file` and give its path in the image: \
             `pip_install` with `-c /path`",
        );
        check(
            "-r b.txt",
            "b.txt:1:1: a.txt includes itself; remove the line",
        );
        check(
            "-rnowhere",
            "nowhere: no such file; paths are relative to the declaring file",
        );
        check(
            "\n\\\na b",
            "a.txt:3:1: `a b` is not a requirement: expected `[`, a comparison such as `>=1.0`, `;` \
             or the end at character 3; write one `name`, `name>=1.0` or `name[extra]==1.0; marker` \
             per entry",
        );
        let files = MemoryFiles::new().file("a.txt", b"x\n\xff".to_vec());
        let error = read(&files, "a.txt").unwrap_err().to_string();
        assert_eq!(
            error,
            "a.txt: line 2 is not UTF-8 text; save the file as UTF-8"
        );
    }
}
