//! Numbered server-sent events, over broken connections: each is handed over once, in order.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use chalk_core::wire::{Event, OutputEvent, OutputEventKind, WarmEvent, exit};
use futures_util::{Stream, StreamExt as _};
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::Client;
use crate::error::Failure;
use crate::sse;

/// Tries in a row without an event before a follower gives up: about half a minute.
const TRIES: u32 = 14;

/// Events that are numbered.
pub(crate) trait Numbered {
    fn seq(&self) -> u64;

    /// Whether it is told to everyone, whatever number they know.
    fn is_for_all(&self) -> bool {
        false
    }
}

impl Numbered for Event {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Numbered for WarmEvent {
    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Numbered for OutputEvent {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn is_for_all(&self) -> bool {
        matches!(
            self.kind,
            OutputEventKind::Exited { .. } | OutputEventKind::Failed { .. }
        )
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>;

/// The events of one path.
pub(crate) struct Events<'a, T> {
    client: &'a Client,
    path: String,
    after: u64,
    open: Option<(Chunks, sse::Parser)>,
    ready: VecDeque<String>,
    failures: u32,
    kind: PhantomData<fn() -> T>,
}

impl Client {
    /// The events of `path` that come after the number `after`.
    pub(crate) fn events<T>(&self, path: String, after: u64) -> Events<'_, T> {
        Events {
            client: self,
            path,
            after,
            open: None,
            ready: VecDeque::new(),
            failures: 0,
            kind: PhantomData,
        }
    }
}

impl<T: Numbered + DeserializeOwned> Events<'_, T> {
    /// The next event, over broken connections. Whoever asks knows which event is the last.
    pub(crate) async fn next(&mut self) -> Result<T, Failure> {
        loop {
            let failure = match self.step().await {
                Ok(Some(event)) => {
                    self.failures = 0;
                    return Ok(event);
                }
                Ok(None) => None,
                Err(failure) if failure.transient => Some(failure),
                Err(failure) => return Err(failure),
            };
            self.open = None;
            self.failures += 1;
            if self.failures >= TRIES {
                return Err(failure.unwrap_or_else(|| {
                    Failure::new(
                        exit::UNREACHABLE,
                        "the service ends its answers before they are complete",
                    )
                }));
            }
            let wait = Duration::from_millis(100 << self.failures.min(5));
            tokio::time::sleep(wait).await;
        }
    }

    /// The next event of those that are there; `None` at their end.
    pub(crate) async fn next_of_now(&mut self) -> Result<Option<T>, Failure> {
        self.step().await
    }

    /// The next event on this connection; `None` when it ended.
    async fn step(&mut self) -> Result<Option<T>, Failure> {
        loop {
            while let Some(data) = self.ready.pop_front() {
                let event: T = serde_json::from_str(&data).map_err(|e| {
                    Failure::new(
                        exit::UNREACHABLE,
                        "the service sent an event that is not one",
                    )
                    .why(e)
                })?;
                if event.seq() > self.after || event.is_for_all() {
                    self.after = self.after.max(event.seq());
                    return Ok(Some(event));
                }
            }
            let (chunks, parser) = match &mut self.open {
                Some(open) => open,
                None => {
                    let request = self
                        .client
                        .request(Method::GET, &self.path)
                        .header("Last-Event-ID", self.after)
                        .header(reqwest::header::ACCEPT, "text/event-stream");
                    let response = self.client.send(request).await?;
                    let chunks = Box::pin(response.bytes_stream());
                    self.open.insert((chunks, sse::Parser::default()))
                }
            };
            match chunks.next().await {
                Some(Ok(chunk)) => self.ready.extend(parser.push(&chunk)),
                None => return Ok(None),
                Some(Err(error)) => {
                    self.open = None;
                    return Err(Failure::new(
                        exit::UNREACHABLE,
                        "the service's answer broke off before it was complete",
                    )
                    .why(error)
                    .transient());
                }
            }
        }
    }
}
