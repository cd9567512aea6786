//! JSON with more than one way to write the same: names in any order, characters raw or escaped.

use proptest::prelude::*;

/// A JSON value whose writer has choices.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    Bool(bool),
    Number(usize),
    Text(String, Escape),
    List(Vec<Raw>),
    Map(Vec<(String, Raw)>),
}

/// Which characters of a text are written as `\uXXXX`, besides those that must be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Escape {
    Few,
    BeyondAscii,
    All,
}

impl Raw {
    /// A map without the fields that are not there.
    pub(crate) fn map<const N: usize>(fields: [(&str, Option<Raw>); N]) -> Raw {
        let fields = fields.into_iter();
        Raw::Map(
            fields
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect(),
        )
    }

    /// Writes the text.
    pub(crate) fn write(&self, out: &mut String) {
        match self {
            Raw::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Raw::Number(value) => out.push_str(&value.to_string()),
            Raw::Text(text, escape) => write_text(text, *escape, out),
            Raw::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    item.write(out);
                }
                out.push(']');
            }
            Raw::Map(fields) => {
                out.push('{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    write_text(name, Escape::Few, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_text(text: &str, escape: Escape, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        let escaped = match escape {
            Escape::Few => c < ' ',
            Escape::BeyondAscii => !(' '..='~').contains(&c),
            Escape::All => true,
        };
        match c {
            _ if escaped => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04X}"));
                }
            }
            '"' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A text, written in any way.
pub(crate) fn text(value: impl Strategy<Value = String>) -> impl Strategy<Value = Raw> {
    let escape = prop_oneof![
        6 => Just(Escape::Few),
        2 => Just(Escape::BeyondAscii),
        1 => Just(Escape::All),
    ];
    (value, escape).prop_map(|(value, escape)| Raw::Text(value, escape))
}

/// Maps with their names in any order.
pub(crate) fn shuffled(map: impl Strategy<Value = Raw>) -> impl Strategy<Value = Raw> {
    let fields = map.prop_map(|map| match map {
        Raw::Map(fields) => fields,
        other => vec![(String::new(), other)],
    });
    fields.prop_shuffle().prop_map(Raw::Map)
}
