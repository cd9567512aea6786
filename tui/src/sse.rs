//! Server-sent events (HTML standard, section 9.2.6), as far as the service uses them: `data`
//! fields and comments.

/// Takes chunks as they come and gives the data of each whole event.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    data: String,
    after_cr: bool,
}

impl Parser {
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in chunk {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => self.end_of_line(&mut events),
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_of_line(&mut self, events: &mut Vec<String>) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if !self.data.is_empty() {
                // The standard drops the last line feed of the data.
                self.data.pop();
                events.push(std::mem::take(&mut self.data));
            }
            return;
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
            self.data.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Parser;

    #[test]
    fn events_come_whole_whatever_the_chunks() {
        let text =
            ": hello\n\nid: 1\ndata: {\"a\":1}\n\nid: 2\r\ndata: x\r\ndata:y\r\n\r\ndata: é\n\n";
        let expect = vec!["{\"a\":1}".to_owned(), "x\ny".to_owned(), "é".to_owned()];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let got: Vec<String> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|c| parser.push(c))
                .collect();
            assert_eq!(got, expect, "chunks of {size}");
        }
    }
}
