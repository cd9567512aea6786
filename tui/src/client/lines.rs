//! Answers of lines of JSON; an empty line says that more will come.

use bytes::BytesMut;
use chalk_core::wire::exit;
use reqwest::Response;
use serde::de::DeserializeOwned;

use super::Client;
use crate::error::Failure;

/// Longest line that is taken.
const LINE_LIMIT: usize = 16 << 20;

/// An answer that comes.
#[derive(Debug)]
pub(crate) struct Lines {
    client: Client,
    response: Response,
    held: BytesMut,
}

impl Lines {
    pub(super) fn new(client: Client, response: Response) -> Self {
        Self {
            client,
            response,
            held: BytesMut::new(),
        }
    }

    /// The next line that is not empty; `None` at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let mut seen = 0;
        loop {
            let end = self.held[seen..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.held.split_to(seen + end + 1);
                seen = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|e| {
                    let what = format!("{} did not answer as a chalk service", self.client.url);
                    Failure::new(exit::UNREACHABLE, what).why(e)
                });
            }
            seen = self.held.len();
            if seen > LINE_LIMIT {
                let what = format!("{} answers with a line without end", self.client.url);
                return Err(Failure::new(exit::UNREACHABLE, what));
            }
            let chunk = self.response.chunk().await;
            match chunk.map_err(|e| self.client.unreachable(&e))? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
