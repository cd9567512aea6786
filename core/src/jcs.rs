//! JSON as this crate writes it: canonical (RFC 8785, "JCS") for hashing, indented for people.
//!
//! Documents here hold texts, lists, maps, booleans and small whole numbers only, which is why
//! nothing in this module can fail: RFC 8785's rules for fractions and for numbers over 2^53 are
//! never met.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::Digest;

/// A JSON value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number below 2^53.
    Number(u32),
    /// Unicode text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Json<'a>>),
    /// A map: names are unique; the order is the one that people see.
    Map(Vec<(&'a str, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// A borrowed or owned text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(text.into())
    }

    /// A digest as text.
    pub fn digest(digest: &Digest) -> Self {
        Self::text(digest.to_string())
    }

    /// A list of texts.
    pub fn texts<T: AsRef<str> + 'a>(texts: impl IntoIterator<Item = &'a T>) -> Self {
        Self::List(texts.into_iter().map(|t| Self::text(t.as_ref())).collect())
    }

    /// A map of texts.
    pub fn text_map(map: &'a BTreeMap<String, String>) -> Self {
        let pair = |(name, value): (&'a String, &'a String)| (name.as_str(), Self::text(value));
        Self::Map(map.iter().map(pair).collect())
    }

    /// Whether it is an empty list or map, which a document leaves out.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List(items) => items.is_empty(),
            Self::Map(items) => items.is_empty(),
            Self::Bool(_) | Self::Number(_) | Self::Text(_) => false,
        }
    }

    /// The RFC 8785 text: no blanks, names sorted by their UTF-16 code units.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write_canonical(&mut out);
        out
    }

    /// SHA-256 of [`Json::canonical`].
    pub fn hash(&self) -> Digest {
        Digest::of(self.canonical().as_bytes())
    }

    fn write_canonical(&self, out: &mut String) {
        match self {
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(value) => out.push_str(&value.to_string()),
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write_canonical(out);
                }
                out.push(']');
            }
            Self::Map(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_unstable_by(|(a, _), (b, _)| by_utf16(a, b));
                out.push('{');
                for (i, (name, value)) in sorted.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_text(name, out);
                    out.push(':');
                    value.write_canonical(out);
                }
                out.push('}');
            }
        }
    }

    /// Indented by two blanks, names in the order of the map, ending in a newline.
    pub fn pretty(&self) -> String {
        let mut out = String::new();
        self.write_pretty(0, &mut out);
        out.push('\n');
        out
    }

    fn write_pretty(&self, depth: usize, out: &mut String) {
        let line = |depth: usize, out: &mut String| {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        };
        match self {
            Self::List(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(depth + 1, out);
                    item.write_pretty(depth + 1, out);
                }
                line(depth, out);
                out.push(']');
            }
            Self::Map(fields) if !fields.is_empty() => {
                out.push('{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    line(depth + 1, out);
                    write_text(name, out);
                    out.push_str(": ");
                    value.write_pretty(depth + 1, out);
                }
                line(depth, out);
                out.push('}');
            }
            other => other.write_canonical(out),
        }
    }
}

/// Order by UTF-16 code units (RFC 8785, section 3.2.3). It differs from that of the bytes only beyond
/// ASCII.
fn by_utf16(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() {
        return a.cmp(b);
    }
    a.encode_utf16().cmp(b.encode_utf16())
}

/// A JSON string as ECMAScript's `JSON.stringify` writes it (RFC 8785, section 3.2.2.2).
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    // What is escaped is ASCII, so runs between are whole characters and are copied as they are.
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0c => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            control => out.push_str(&format!("\\u{control:04x}")),
        }
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => serializer.serialize_u32(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => items.serialize(serializer),
            Self::Map(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_canonical_json() {
        let check = |value: Json<'_>, expect: &str| assert_eq!(value.canonical(), expect);
        check(Json::Number(0), "0");
        check(Json::Bool(true), "true");
        check(
            Json::text("\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f}\"\\/\u{7f}é€😀\u{2028}"),
            "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\\"\\\\/\u{7f}é€😀\u{2028}\"",
        );
        // U+FB33 sorts after U+1F600, whose first UTF-16 code unit is U+D83D: the order of RFC
        // 8785's own example, and not the order of code points.
        let names = [
            "\u{20ac}",
            "\r",
            "\u{fb33}",
            "1",
            "\u{1f600}",
            "\u{80}",
            "ö",
        ];
        check(
            Json::Map(names.iter().map(|n| (*n, Json::List(vec![]))).collect()),
            "{\"\\r\":[],\"1\":[],\"\u{80}\":[],\"ö\":[],\"€\":[],\"😀\":[],\"\u{fb33}\":[]}",
        );
    }

    #[test]
    fn both_writers_and_serde_agree() {
        let value = Json::Map(vec![
            ("b", Json::List(vec![Json::text("\u{1}x"), Json::Number(7)])),
            ("a", Json::Map(vec![("", Json::Bool(false))])),
        ]);
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&value.pretty()), parse(&value.canonical()));
        assert_eq!(
            serde_json::to_value(&value).unwrap(),
            parse(&value.canonical())
        );
    }
}
