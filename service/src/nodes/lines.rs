//! JSON documents, one a line, out of a request's body.

use axum::body::{Body, BodyDataStream, Bytes};
use chalk_core::wire::{Problem, problem};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// A line is longer than is taken.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// A line is no JSON document of the kind that is expected.
    #[error("a line cannot be read: {0}")]
    Wrong(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl LineError {
    /// What the other side is told.
    pub(crate) fn problem(&self) -> Problem {
        Problem {
            kind: problem::BAD_REQUEST.to_owned(),
            title: "the stream is wrong".to_owned(),
            status: 400,
            detail: self.to_string(),
            hint: String::new(),
        }
    }
}

/// The lines of a body.
pub(crate) struct Lines {
    body: BodyDataStream,
    limit: usize,
    chunk: Bytes,
    partial: Vec<u8>,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub(crate) fn new(body: Body, limit: usize) -> Self {
        Self {
            body: body.into_data_stream(),
            limit,
            chunk: Bytes::new(),
            partial: Vec::new(),
        }
    }

    /// The bytes of the next line that is not empty; `None` at the end. Nothing is lost when the
    /// future is dropped.
    ///
    /// # Errors
    /// When a line is too long or the connection broke.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, LineError> {
        loop {
            if let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') {
                let piece = self.chunk.split_to(end + 1).slice(..end);
                let line = self.line(piece)?;
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.partial.len() + self.chunk.len() > self.limit {
                return Err(LineError::TooLong(self.limit));
            }
            self.partial.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
            match self.body.next().await {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => return Err(LineError::Broken(error.to_string())),
                // What follows the last line's end is a line that was not finished.
                None => return Ok(None),
            }
        }
    }

    fn line(&mut self, piece: Bytes) -> Result<Bytes, LineError> {
        if self.partial.len() + piece.len() > self.limit {
            return Err(LineError::TooLong(self.limit));
        }
        if self.partial.is_empty() {
            return Ok(piece);
        }
        self.partial.extend_from_slice(&piece);
        Ok(std::mem::take(&mut self.partial).into())
    }
}

/// Reads a line. `None` for a document whose `tag` has a word that is not known, which is skipped.
///
/// # Errors
/// When it is no such document.
pub(crate) fn parse<T: DeserializeOwned>(
    line: &[u8],
    tag: &str,
    known: impl Fn(&str) -> bool,
) -> Result<Option<T>, LineError> {
    match serde_json::from_slice(line) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let document: serde_json::Value =
                serde_json::from_slice(line).map_err(|e| LineError::Wrong(e.to_string()))?;
            match document.get(tag).and_then(|word| word.as_str()) {
                Some(word) if !known(word) => Ok(None),
                _ => Err(LineError::Wrong(error.to_string())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_out_of_any_chunks() {
        let check = async |chunks: &[&str], limit: usize, expect: Result<&[&str], ()>| {
            let stream: Vec<_> = chunks
                .iter()
                .map(|c| Ok::<_, std::io::Error>((*c).to_owned()))
                .collect();
            let body = Body::from_stream(futures_util::stream::iter(stream));
            let mut lines = Lines::new(body, limit);
            let mut got = Vec::new();
            let ended = loop {
                match lines.next().await {
                    Ok(Some(line)) => got.push(String::from_utf8(line.to_vec()).unwrap()),
                    Ok(None) => break Ok(()),
                    Err(_) => break Err(()),
                }
            };
            match expect {
                Ok(lines) => assert_eq!(
                    (got, ended),
                    (lines.iter().map(|l| (*l).to_owned()).collect(), Ok(()))
                ),
                Err(()) => assert_eq!(ended, Err(())),
            }
        };
        check(&["a\nb\n"], 9, Ok(&["a", "b"])).await;
        check(&["a", "b", "c\n\n\nd", "e\nf"], 9, Ok(&["abc", "de"])).await;
        check(&["abc\n"], 3, Ok(&["abc"])).await;
        check(&["abcd\n"], 3, Err(())).await;
        check(&["ab", "cd", "e"], 3, Err(())).await;
        check(&[], 3, Ok(&[])).await;
    }
}
