//! Results on standard output: tables for people, JSON for scripts.

use std::io::{self, Write as _};

use chalk_core::wire::exit;
use serde::Serialize;

use crate::error::Failure;

/// Prints one line. A reader that went away is no failure.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::FAILED, "cannot write to standard output").why(e))
        }
        _ => Ok(()),
    }
}

/// Says something on standard error that is no part of the result.
pub(crate) fn aside(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints one JSON document on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|e| Failure::new(exit::FAILED, "cannot print the result as JSON").why(e))?;
    line(&text)
}

/// Prints rows under headings, columns aligned.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let width = |text: &str| unicode_width::UnicodeWidthStr::width(text);
    let mut widths: Vec<usize> = headings.iter().map(|h| width(h)).collect();
    for row in rows {
        for (known, cell) in widths.iter_mut().zip(row) {
            *known = (*known).max(width(cell));
        }
    }
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, &wide) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', wide - width(cell) + 2));
        }
        line(text.trim_end())
    };
    print(&mut headings.iter().copied())?;
    rows.iter()
        .try_for_each(|row| print(&mut row.iter().map(String::as_str)))
}

/// The first 12 hex digits of a digest, as long as people need.
pub(crate) fn short(digest: chalk_core::Digest) -> String {
    digest.hex()[..12].to_owned()
}
