//! JSON texts (RFC 8259) as trees. serde_json, to which the tests hold this reader, does not say where
//! a value stands, and would be 25 KB of the WebAssembly file.

use super::{DEPTH_LIMIT, Field, Node, Value, position};
use crate::error::{ErrorCode, Fault, SpecError};

/// Reads a text.
pub(super) fn read(text: &str) -> Result<Node, SpecError> {
    let mut reader = Reader { text, at: 0 };
    reader.document().map_err(|Wrong { at, words }| {
        let fault = match words {
            Some(words) => {
                let end = if at == text.len() {
                    ", but the text ends"
                } else {
                    ""
                };
                Fault::new(ErrorCode::Syntax, format!("not JSON: {words}{end}"))
            }
            None => {
                let message = format!("nested deeper than {DEPTH_LIMIT}");
                Fault::new(ErrorCode::Limit, message)
            }
        };
        SpecError {
            position: Some(position(text, at)),
            ..fault.into_error()
        }
    })
}

struct Reader<'t> {
    text: &'t str,
    /// Offset of what comes next.
    at: usize,
}

/// What is wrong and where: too deep a nesting, or a text that is no JSON.
struct Wrong {
    at: usize,
    words: Option<&'static str>,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Node, Wrong> {
        let node = self.value(0)?;
        self.blanks();
        match self.peek() {
            None => Ok(node),
            Some(_) => Err(self.wrong("expected the end after the value")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Wrong> {
        self.blanks();
        let at = self.at;
        if depth > DEPTH_LIMIT {
            return Err(Wrong { at, words: None });
        }
        let value = match self.peek() {
            Some(b'"') => Value::Text(self.string()?),
            Some(b'[') => Value::List(self.list(depth)?),
            Some(b'{') => Value::Map(self.map(depth)?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ if self.eat("true") => Value::Bool(true),
            _ if self.eat("false") => Value::Bool(false),
            _ if self.eat("null") => Value::Other("null"),
            _ => return Err(self.wrong("expected a value")),
        };
        Ok(Node::new(Some(at), value))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Wrong> {
        let mut items = Vec::new();
        self.at += 1;
        self.blanks();
        if self.eat("]") {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.eat("]") {
                return Ok(items);
            }
            if !self.eat(",") {
                return Err(self.wrong("expected `,` or `]`"));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Field>, Wrong> {
        let mut fields = Vec::new();
        self.at += 1;
        self.blanks();
        if self.eat("}") {
            return Ok(fields);
        }
        loop {
            self.blanks();
            let at = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.wrong("key must be a string"));
            }
            let name = self.string()?;
            self.blanks();
            if !self.eat(":") {
                return Err(self.wrong("expected `:`"));
            }
            fields.push(Field::new(name, Some(at), self.value(depth + 1)?));
            self.blanks();
            if self.eat("}") {
                return Ok(fields);
            }
            if !self.eat(",") {
                return Err(self.wrong("expected `,` or `}`"));
            }
        }
    }

    /// Section 7.
    fn string(&mut self) -> Result<String, Wrong> {
        let begin = self.at;
        let mut string = String::new();
        self.at += 1;
        loop {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | ..b' ')) {
                self.at += 1;
            }
            string.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(string);
                }
                Some(b'\\') => string.push(self.escape()?),
                Some(_) => return Err(self.wrong("control characters in a string need an escape")),
                None => {
                    let words = Some("the string does not end");
                    return Err(Wrong { at: begin, words });
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Wrong> {
        let wrong = self.wrong("no such escape");
        self.at += 1;
        let escaped = match self.peek() {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at -= 1;
                let lone = self.wrong("a surrogate stands alone");
                let first = self.unit().ok_or(wrong)?;
                let pair = match first {
                    0xd800..0xdc00 => [first, self.unit().unwrap_or_default()],
                    _ => [first, 0],
                };
                return match char::decode_utf16(pair).next() {
                    Some(Ok(c)) => Ok(c),
                    _ => Err(lone),
                };
            }
            _ => return Err(wrong),
        };
        self.at += 1;
        Ok(escaped)
    }

    /// `\uXXXX`.
    fn unit(&mut self) -> Option<u16> {
        let escape = self.text.get(self.at..self.at + 6)?;
        let digits = escape.strip_prefix("\\u")?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 6;
        u16::from_str_radix(digits, 16).ok()
    }

    /// Section 6.
    fn number(&mut self) -> Result<Value, Wrong> {
        let start = self.at;
        self.eat("-");
        if !self.eat("0") {
            self.digits()?;
        }
        if self.eat(".") {
            self.digits()?;
        }
        if self.eat("e") || self.eat("E") {
            let _ = self.eat("+") || self.eat("-");
            self.digits()?;
        }
        let number = &self.text[start..self.at];
        Ok(Value::Number(number.parse().ok()))
    }

    /// One digit and more.
    fn digits(&mut self) -> Result<(), Wrong> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        match self.at > start {
            true => Ok(()),
            false => Err(self.wrong("expected a digit")),
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over `word` if it comes next.
    fn eat(&mut self, word: &str) -> bool {
        let comes = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        if comes {
            self.at += word.len();
        }
        comes
    }

    fn wrong(&self, words: &'static str) -> Wrong {
        Wrong {
            at: self.at,
            words: Some(words),
        }
    }
}

#[cfg(test)]
mod tests;
