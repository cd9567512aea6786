//! Orders as they come over the wire: one JSON document a line.

use chalk_core::wire::agent::Order;
use serde_json::Value;

/// Longest line that is taken. An order carries at most a piece of standard input.
const LIMIT: usize = 64 << 20;

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// An order.
    Order(Box<Order>),
    /// A question of a kind that is not known here; wants an answer all the same.
    UnknownAsk {
        /// Number for the answer.
        request: u64,
    },
    /// An order of a kind that is not known here; passed over.
    Unknown,
}

/// The other side does not speak the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No JSON object.
    #[error("the service sent a line that is no JSON document: {0}")]
    Syntax(String),
    /// Too long.
    #[error("the service sent a line of more than 64 MiB")]
    TooLong,
}

/// Takes chunks as they come and gives the lines that are whole.
#[derive(Debug, Default)]
pub struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// Takes a chunk.
    ///
    /// # Errors
    /// On the first line that is no JSON document, and on one that is too long.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<Received>, LineError> {
        let mut lines = Vec::new();
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.extend(&rest[..end])?;
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.open);
            if !line.iter().all(u8::is_ascii_whitespace) {
                lines.push(read(&line)?);
            }
        }
        self.extend(rest)?;
        Ok(lines)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        if self.open.len() + bytes.len() > LIMIT {
            return Err(LineError::TooLong);
        }
        self.open.extend_from_slice(bytes);
        Ok(())
    }
}

fn read(line: &[u8]) -> Result<Received, LineError> {
    let known = match serde_json::from_slice::<Order>(line) {
        Ok(order) => return Ok(Received::Order(Box::new(order))),
        Err(error) => error,
    };
    // Newer services may order what is not known here: that is no reason to hang up.
    let value: Value =
        serde_json::from_slice(line).map_err(|e| LineError::Syntax(e.to_string()))?;
    let word = value.get("order").and_then(Value::as_str);
    let request = value.get("request").and_then(Value::as_u64);
    tracing::warn!(order = word, error = %known, "an order that is not understood");
    Ok(match (word, request) {
        (Some("ask"), Some(request)) => Received::UnknownAsk { request },
        _ => Received::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_chunks() {
        let text = concat!(
            r#"{"order":"cancel_warm","id":"é"}"#,
            "\n\n",
            r#"{"order":"ask","request":7,"ask":"sing"}"#,
            "\r\n",
            r#"{"order":"dance"}"#,
            "\n",
            r#"{"order":"removed"}"#,
            "\n",
            "{\"order\"",
        );
        let expect = [
            Received::Order(Box::new(Order::CancelWarm { id: "é".into() })),
            Received::UnknownAsk { request: 7 },
            Received::Unknown,
            Received::Order(Box::new(Order::Removed)),
        ];
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let got: Vec<Received> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| lines.push(chunk).unwrap())
                .collect();
            assert_eq!(got, expect, "chunks of {size}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |text: &str| {
            let error = Lines::default().push(text.as_bytes()).unwrap_err();
            assert!(matches!(error, LineError::Syntax(_)), "{text}");
        };
        check("hello\n");
        check("{\"order\":\n");
        let mut lines = Lines::default();
        let chunk = vec![b' '; 1 << 20];
        let refused = (0..65).find_map(|_| lines.push(&chunk).err());
        assert_eq!(refused, Some(LineError::TooLong));
    }
}
