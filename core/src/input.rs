//! Documents from outside as trees that remember where everything stood, so that an error can name
//! field, line and column. TOML and JSON are read into the same tree, and specs, declarations and
//! lock files are read from it.

mod json;
mod toml;

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{ErrorCode, Fault, Position, Segment, SpecError};
use crate::jcs::Json;
use crate::spelling::nearest;

/// Longest text that is read, in bytes.
pub(crate) const TEXT_LIMIT: usize = 32 << 20;

/// Deepest nesting; a spec needs 8.
const DEPTH_LIMIT: usize = 32;

/// A value and where it stood.
#[derive(Debug)]
pub(crate) struct Node {
    /// Offset in the text in bytes; `None` when it came from no text.
    at: Option<usize>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Bool(bool),
    Number(Option<u32>),
    List(Vec<Node>),
    Map(Vec<Field>),
    /// Anything else, by its name for people.
    Other(&'static str),
}

#[derive(Debug)]
struct Field {
    name: String,
    /// Offset of the name.
    at: Option<usize>,
    node: Node,
    growth: Growth,
}

/// Which lines of a TOML text further down may add to a field; of no use when the text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// None: a value, a list or an inline table.
    Never,
    /// `[table.of.it]`: it was begun by its own header.
    ByHeaders,
    /// `[it]`, and dotted keys within that: only tables within it had headers.
    ByHeaderOrKeys,
    /// `it.name = …`: a dotted key began it.
    ByKeys,
    /// `[[it]]`: a list of tables.
    ByTables,
}

/// The fields of a map, all of them known.
pub(crate) struct Fields<'n>(&'n [Field]);

impl Node {
    /// Reads a JSON text.
    pub(crate) fn from_json(text: &str) -> Result<Self, SpecError> {
        check_size(text)?;
        json::read(text)
    }

    /// Reads a TOML text.
    pub(crate) fn from_toml(text: &str) -> Result<Self, SpecError> {
        check_size(text)?;
        toml::read(text)
    }

    fn new(at: Option<usize>, value: Value) -> Self {
        Self { at, value }
    }

    /// What the value is, for people.
    fn kind(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a text",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Other(word) => word,
        }
    }

    /// The error of a fault that lies in this tree, which is the root of `text`.
    pub(crate) fn locate(&self, fault: Fault, text: &str) -> SpecError {
        SpecError {
            position: self.offset_of(fault.path()).map(|at| position(text, at)),
            ..fault.into_error()
        }
    }

    /// Where a field stands, or the last part of the way to it that is there.
    pub(crate) fn offset_of<'p>(&self, path: impl Iterator<Item = &'p Segment>) -> Option<usize> {
        let mut node = self;
        let mut at = self.at;
        for segment in path {
            let next = match (segment, &node.value) {
                (Segment::Field(name), Value::Map(fields)) => fields
                    .iter()
                    // A repeated name is at fault in its last place.
                    .rfind(|field| field.name == *name)
                    .map(|field| (field.at, &field.node)),
                (Segment::Index(index), Value::List(items)) => {
                    items.get(*index).map(|item| (item.at, item))
                }
                _ => None,
            };
            let Some((place, child)) = next else { break };
            at = place;
            node = child;
        }
        at
    }

    /// The fields of a map, each of which must be among `known`.
    pub(crate) fn fields(&self, known: &[&str]) -> Result<Fields<'_>, Fault> {
        let Value::Map(fields) = &self.value else {
            return Err(self.wrong_type("a map"));
        };
        for (i, field) in fields.iter().enumerate() {
            let name = field.name.as_str();
            if !known.contains(&name) {
                let fault = Fault::new(
                    ErrorCode::UnknownField,
                    format_args!("no such field: `{name}`"),
                );
                let hint = match nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                return Err(fault.hint(hint).in_field(name));
            }
            if fields[..i].iter().any(|other| other.name == name) {
                let fault = Fault::new(ErrorCode::Conflict, "stands twice");
                return Err(fault.hint("keep one of them").in_field(name));
            }
        }
        Ok(Fields(fields))
    }

    /// A text.
    pub(crate) fn text(&self) -> Result<&str, Fault> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong_type("a text")),
        }
    }

    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        self.text().ok()
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&self) -> Result<bool, Fault> {
        match self.value {
            Value::Bool(value) => Ok(value),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    /// A whole number.
    pub(crate) fn number(&self) -> Result<usize, Fault> {
        match self.value {
            Value::Number(Some(value)) => Ok(value as usize),
            _ => Err(self.wrong_type("a whole number from 0 to 4294967295")),
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self) -> Result<&[Node], Fault> {
        match &self.value {
            Value::List(items) => Ok(items),
            _ => Err(self.wrong_type("a list")),
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self) -> Result<Vec<String>, Fault> {
        match &self.value {
            Value::List(items) => crate::error::each(items, |item| item.text().map(str::to_owned)),
            _ => Err(self.wrong_type("a list of texts")),
        }
    }

    /// A map of texts by any name, in order.
    pub(crate) fn text_map(&self) -> Result<Vec<(String, String)>, Fault> {
        let Value::Map(fields) = &self.value else {
            return Err(self.wrong_type("a map of texts"));
        };
        let mut names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Fault::new(ErrorCode::Conflict, "stands twice").in_field(twice[0]));
        }
        let mut pairs = Vec::with_capacity(fields.len());
        for field in fields {
            let value = field
                .node
                .text()
                .map_err(|fault| fault.in_field(&field.name))?;
            pairs.push((field.name.clone(), value.to_owned()));
        }
        Ok(pairs)
    }

    fn wrong_type(&self, expected: &str) -> Fault {
        let found = self.kind();
        let fault = Fault::new(
            ErrorCode::WrongType,
            format!("expected {expected}, found {found}"),
        );
        match self.value {
            Value::Other("null") => fault.hint("leave the field out"),
            _ => fault,
        }
    }
}

impl Field {
    fn new(name: String, at: Option<usize>, node: Node) -> Self {
        let growth = Growth::Never;
        Self {
            name,
            at,
            node,
            growth,
        }
    }
}

impl<'n> Fields<'n> {
    /// The field of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        self.0
            .iter()
            .find(|field| field.name == name)
            .map(|field| &field.node)
    }

    /// Whether the field is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names of the fields, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'n str> {
        self.0.iter().map(|field| field.name.as_str())
    }

    /// Reads the field if it is there.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'n Node) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let Some(node) = self.get(name) else {
            return Ok(None);
        };
        read(node).map(Some).map_err(|fault| fault.in_field(name))
    }

    /// Reads a field that has to be there.
    pub(crate) fn need<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'n Node) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.read(name, read)?
            .ok_or_else(|| Fault::new(ErrorCode::Missing, format_args!("`{name}` is missing")))
    }
}

fn check_size(text: &str) -> Result<(), SpecError> {
    if text.len() > TEXT_LIMIT {
        let message = format!("longer than {} MiB", TEXT_LIMIT >> 20);
        return Err(Fault::new(ErrorCode::Limit, message).into_error());
    }
    Ok(())
}

/// Line and column of a byte offset.
pub(crate) fn position(text: &str, at: usize) -> Position {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: small(before.matches('\n').count() + 1),
        column: small(before[line_start..].chars().count() + 1),
    }
}

/// Texts are limited to far less than 2^32 bytes.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl From<Json<'_>> for Node {
    fn from(json: Json<'_>) -> Self {
        let value = match json {
            Json::Bool(value) => Value::Bool(value),
            Json::Number(number) => Value::Number(Some(number)),
            Json::Text(text) => Value::Text(text.into_owned()),
            Json::List(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Json::Map(fields) => {
                let field = |(name, value): (&str, Json<'_>)| {
                    Field::new(name.to_owned(), None, value.into())
                };
                Value::Map(fields.into_iter().map(field).collect())
            }
        };
        Self { at: None, value }
    }
}

/// Reading without places, for documents inside other documents.
impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl NodeVisitor {
    fn node<E>(value: Value) -> Result<Node, E> {
        Ok(Node { at: None, value })
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a spec")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Self::node(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Self::node(Value::Number(value.try_into().ok()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Self::node(Value::Number(value.try_into().ok()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // A browser has no other numbers than these.
        let whole = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
        Self::node(Value::Number(whole.then_some(value as u32)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Self::node(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Self::node(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Self::node(Value::Other("null"))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Self::node(Value::Other("null"))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Self::node(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, node)) = map.next_entry()? {
            fields.push(Field::new(name, None, node));
        }
        Self::node(Value::Map(fields))
    }
}
