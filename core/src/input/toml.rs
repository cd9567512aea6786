//! TOML texts (TOML 1.1) as trees: toml_parser says what stands where, and this module which tables
//! it belongs to, by the rules of the `toml` crate, to which the tests hold it. That crate makes more
//! of a text (dates, fractions, Rust types) than a declaration needs: 100 KB more of WebAssembly.

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, parse_document};
use toml_parser::{ErrorSink, Expected, ParseError, Raw, Source, Span};

use super::{DEPTH_LIMIT, Field, Growth, Node, Value, position};
use crate::error::{ErrorCode, Fault, SpecError};

/// How many keys are passed over in looking for others: a text of 32 MiB could hold a table of
/// millions. Enough for a table of ten thousand.
const LOOKUP_LIMIT: usize = 1 << 26;

/// Reads a text.
pub(super) fn read(text: &str) -> Result<Node, SpecError> {
    let source = Source::new(text);
    let mut reader = Reader {
        source,
        tables: Tables::default(),
        root: Vec::new(),
        table: Vec::new(),
        header: None,
        bracket: 0,
        keys: Vec::new(),
        open: Vec::new(),
        depth: 0,
        fault: None,
    };
    let mut broken: Option<ParseError> = None;
    parse_document(&source.lex().into_vec(), &mut reader, &mut broken);
    reader.close_table();
    let (code, error) = match (reader.fault, broken) {
        // What the parser says where it was not let in makes no sense.
        (Some(fault @ (ErrorCode::Limit, _)), _) | (Some(fault), None) => fault,
        (_, Some(error)) => (ErrorCode::Syntax, error),
        (None, None) => return Ok(Node::new(Some(0), Value::Map(reader.root))),
    };
    let message = match code {
        ErrorCode::Limit => error.description().to_owned(),
        _ => message(&error),
    };
    Err(SpecError {
        position: error.unexpected().map(|span| position(text, span.start())),
        ..Fault::new(code, message).into_error()
    })
}

/// What is wrong besides the syntax.
type Wrong = (ErrorCode, ParseError);

fn message(error: &ParseError) -> String {
    let mut message = format!("not TOML: {}", error.description());
    for (i, expected) in error.expected().unwrap_or_default().iter().enumerate() {
        message.push_str(if i == 0 { ", expected " } else { ", " });
        match expected {
            Expected::Literal("\n") => message.push_str("newline"),
            Expected::Literal(text) => message.extend(["`", text, "`"]),
            Expected::Description(text) => message.push_str(text),
            _ => message.push_str("something else"),
        }
    }
    message
}

fn wrong(code: ErrorCode, message: String, span: Span) -> Wrong {
    (code, ParseError::new(message).with_unexpected(span))
}

fn too_deep(span: Span) -> Wrong {
    let message = format!("nested deeper than {DEPTH_LIMIT}");
    wrong(ErrorCode::Limit, message, span)
}

/// A part of a key between dots.
struct Key {
    name: String,
    span: Span,
}

/// `[table]` or `[[table]]`.
struct Header {
    path: Vec<Key>,
    key: Key,
    is_list: bool,
    /// Offset of the bracket.
    at: usize,
}

/// A list or inline table whose end has not come.
struct Open {
    node: Node,
    /// Its key; empty in a list.
    keys: Vec<Key>,
    /// Depth around it.
    depth: usize,
}

/// Takes what the parser finds. What it holds once something is wrong is of no use.
struct Reader<'t> {
    source: Source<'t>,
    tables: Tables,
    root: Vec<Field>,
    /// The table of the last header, which becomes a part of `root` when the next one comes.
    table: Vec<Field>,
    header: Option<Header>,
    /// Offset of the last header's bracket.
    bracket: usize,
    /// The key that is being read.
    keys: Vec<Key>,
    open: Vec<Open>,
    /// Depth of the innermost table or list.
    depth: usize,
    /// What is wrong first, besides the syntax.
    fault: Option<Wrong>,
}

impl Reader<'_> {
    /// Puts the table of the last header where that says.
    fn close_table(&mut self) {
        let table = std::mem::take(&mut self.table);
        match self.header.take() {
            Some(header) if self.fault.is_none() => {
                let put = self.tables.put(&mut self.root, header, table);
                self.fault = put.err();
            }
            Some(_) => {}
            None => self.root = table,
        }
    }

    fn open_table(&mut self, span: Span) {
        self.close_table();
        self.bracket = span.start();
        self.depth = 0;
        self.keys.clear();
    }

    fn begin_table(&mut self, is_list: bool) {
        let mut path = std::mem::take(&mut self.keys);
        let Some(key) = path.pop() else { return };
        self.depth = path.len() + 1 + usize::from(is_list);
        if self.fault.is_none() && !is_list {
            match self.tables.take(&mut self.root, &path, &key) {
                Ok(table) => self.table = table,
                Err(fault) => self.fault = Some(fault),
            }
        }
        self.header = Some(Header {
            path,
            key,
            is_list,
            at: self.bracket,
        });
    }

    /// Begins a list or an inline table; whether the parser shall go into it.
    fn open(&mut self, span: Span, value: Value) -> bool {
        self.check_item(span);
        let keys = std::mem::take(&mut self.keys);
        let depth = self.depth;
        self.depth += keys.len().max(1);
        let node = Node::new(Some(span.start()), value);
        self.open.push(Open { node, keys, depth });
        let may_enter = self.open.len() <= DEPTH_LIMIT;
        if !may_enter {
            self.fault = Some(too_deep(span));
        }
        may_enter
    }

    fn close(&mut self) {
        if let Some(open) = self.open.pop() {
            self.keys = open.keys;
            self.depth = open.depth;
            self.value(open.node);
        }
    }

    /// Puts a value where it belongs.
    fn value(&mut self, node: Node) {
        let keys = std::mem::take(&mut self.keys);
        if self.fault.is_some() {
            return;
        }
        let fields = match self.open.last_mut().map(|open| &mut open.node.value) {
            Some(Value::List(items)) => return items.push(node),
            Some(Value::Map(fields)) => fields,
            _ => &mut self.table,
        };
        self.fault = self.tables.set(fields, keys, node).err();
    }

    /// Refuses a key that goes too deep.
    fn check_depth(&mut self, span: Span) {
        if self.depth + self.keys.len() >= DEPTH_LIMIT {
            self.fault.get_or_insert_with(|| too_deep(span));
        }
    }

    /// Refuses an item of a list that stands too deep; values with keys were checked with these.
    fn check_item(&mut self, span: Span) {
        if self.keys.is_empty() {
            self.check_depth(span);
        }
    }

    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'_> {
        let text = self.source.input().get(span.start()..span.end());
        Raw::new_unchecked(text.unwrap_or_default(), encoding, span)
    }
}

impl EventReceiver for Reader<'_> {
    fn std_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.open_table(span);
    }

    fn std_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.begin_table(false);
    }

    fn array_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.open_table(span);
    }

    fn array_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.begin_table(true);
    }

    fn inline_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open(span, Value::Map(Vec::new()))
    }

    fn inline_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close();
    }

    fn array_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open(span, Value::List(Vec::new()))
    }

    fn array_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close();
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, _: &mut dyn ErrorSink) {
        self.check_depth(span);
        if self.fault.is_none() {
            let mut name = String::new();
            let raw = self.raw(span, encoding);
            let mut fault = None;
            raw.decode_key(&mut name, &mut fault);
            self.fault = fault.map(|fault| (ErrorCode::Syntax, fault));
            self.keys.push(Key { name, span });
        }
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, _: &mut dyn ErrorSink) {
        self.check_item(span);
        if self.fault.is_none() {
            let mut text = String::new();
            let mut fault = None;
            let kind = self
                .raw(span, encoding)
                .decode_scalar(&mut text, &mut fault);
            self.fault = fault.map(|fault| (ErrorCode::Syntax, fault));
            let value = match kind {
                ScalarKind::String => Value::Text(text),
                ScalarKind::Boolean(value) => Value::Bool(value),
                ScalarKind::Integer(radix) => {
                    Value::Number(u32::from_str_radix(&text, radix.value()).ok())
                }
                ScalarKind::Float => Value::Number(None),
                // No field takes one, so its digits need no look.
                ScalarKind::DateTime => Value::Other("a date"),
            };
            self.value(Node::new(Some(span.start()), value));
        }
    }

    fn comment(&mut self, span: Span, error: &mut dyn ErrorSink) {
        self.raw(span, None).decode_comment(error);
    }

    fn newline(&mut self, span: Span, error: &mut dyn ErrorSink) {
        self.raw(span, None).decode_newline(error);
    }
}

/// Finds and makes the tables that keys speak of.
#[derive(Default)]
struct Tables {
    /// Keys that were passed over.
    passed: usize,
}

impl Tables {
    fn find(&mut self, fields: &[Field], key: &Key) -> Result<Option<usize>, Wrong> {
        self.passed += fields.len();
        if self.passed > LOOKUP_LIMIT {
            let message = "too many keys in a table".to_owned();
            return Err(wrong(ErrorCode::Limit, message, key.span));
        }
        Ok(fields.iter().position(|field| field.name == key.name))
    }

    /// The table at the end of a path, and how it may grow. `dotted`: of a key, not of a header.
    fn descend<'f>(
        &mut self,
        mut fields: &'f mut Vec<Field>,
        path: &[Key],
        dotted: bool,
    ) -> Result<(&'f mut Vec<Field>, Growth), Wrong> {
        let mut growth = Growth::Never;
        for key in path {
            let found = self.find(fields, key)?;
            let index = found.unwrap_or(fields.len());
            if found.is_none() {
                let growth = if dotted {
                    Growth::ByKeys
                } else {
                    Growth::ByHeaderOrKeys
                };
                let node = Node::new(Some(key.span.start()), Value::Map(Vec::new()));
                fields.push(key.field(node, growth));
            }
            let field = &mut fields[index];
            growth = field.growth;
            let kind = field.node.kind();
            let fail = |what: &str| {
                let message = format!("cannot extend {what} with a dotted key");
                Err(wrong(ErrorCode::Syntax, message, key.span))
            };
            fields = match (&mut field.node.value, growth) {
                (Value::List(tables), Growth::ByTables) => {
                    growth = Growth::ByHeaders;
                    match tables.last_mut().map(|node| &mut node.value) {
                        Some(Value::Map(fields)) => fields,
                        _ => return fail(kind),
                    }
                }
                (Value::Map(_), Growth::Never) => return fail("an inline table"),
                (Value::Map(_), Growth::ByHeaders) if dotted => return Err(key.duplicate()),
                (Value::Map(fields), _) => {
                    if dotted {
                        field.growth = Growth::ByKeys;
                    }
                    fields
                }
                _ => return fail(kind),
            };
        }
        Ok((fields, growth))
    }

    /// `key = value`.
    fn set(
        &mut self,
        fields: &mut Vec<Field>,
        mut path: Vec<Key>,
        node: Node,
    ) -> Result<(), Wrong> {
        let Some(key) = path.pop() else { return Ok(()) };
        let (fields, growth) = self.descend(fields, &path, true)?;
        if growth == Growth::ByHeaders || self.find(fields, &key)?.is_some() {
            return Err(key.duplicate());
        }
        fields.push(key.field(node, Growth::Never));
        Ok(())
    }

    /// What is there of the table that a header begins.
    fn take(
        &mut self,
        root: &mut Vec<Field>,
        path: &[Key],
        key: &Key,
    ) -> Result<Vec<Field>, Wrong> {
        let (fields, _) = self.descend(root, path, false)?;
        let Some(index) = self.find(fields, key)? else {
            return Ok(Vec::new());
        };
        let field = fields.remove(index);
        match field.node.value {
            Value::Map(fields) if field.growth == Growth::ByHeaderOrKeys => Ok(fields),
            _ => Err(key.duplicate()),
        }
    }

    /// Puts the table of a header where that says.
    fn put(
        &mut self,
        root: &mut Vec<Field>,
        header: Header,
        table: Vec<Field>,
    ) -> Result<(), Wrong> {
        let Header {
            path,
            key,
            is_list,
            at,
        } = header;
        let (fields, _) = self.descend(root, &path, false)?;
        let node = Node::new(Some(at), Value::Map(table));
        if !is_list {
            fields.push(key.field(node, Growth::ByHeaders));
            return Ok(());
        }
        let Some(index) = self.find(fields, &key)? else {
            let list = Node::new(Some(at), Value::List(vec![node]));
            fields.push(key.field(list, Growth::ByTables));
            return Ok(());
        };
        match &mut fields[index] {
            Field {
                growth: Growth::ByTables,
                node:
                    Node {
                        value: Value::List(tables),
                        ..
                    },
                ..
            } => tables.push(node),
            _ => return Err(key.duplicate()),
        }
        Ok(())
    }
}

impl Key {
    fn field(&self, node: Node, growth: Growth) -> Field {
        Field {
            name: self.name.clone(),
            at: Some(self.span.start()),
            node,
            growth,
        }
    }

    fn duplicate(&self) -> Wrong {
        wrong(ErrorCode::Syntax, "duplicate key".to_owned(), self.span)
    }
}

#[cfg(test)]
mod tests;
