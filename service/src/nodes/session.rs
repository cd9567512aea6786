//! One session with a node: orders go out, reports come in, until either side ends it.
//!
//! Nothing here waits for a node. Orders go into a queue of bounded length; a node that lets it
//! fill up loses its session and gets everything anew with the next one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chalk_core::Digest;
use chalk_core::wire::agent::{Ask, MAX_REPORT, Order, Report};
use chalk_core::wire::{Problem, problem};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Attached;
use super::grants::Grants;
use super::lines::{LineError, Lines, parse};
use crate::fleet::Fleet;

/// Orders that may wait for a node.
const QUEUE: usize = 4096;
/// How long a node may take for its first line.
const HELLO: Duration = Duration::from_secs(30);
/// How long a session that is to end goes on, so that the last orders get through.
const LAST_ORDERS: Duration = Duration::from_millis(500);
/// How long what a node said is waited for when its time is over.
const HELD_UP: Duration = Duration::from_millis(250);
/// Words of the reports that are known.
const REPORTS: [&str; 8] = [
    "hello",
    "heartbeat",
    "cache",
    "pulling",
    "warmed",
    "warm_failed",
    "sandbox",
    "answer",
];

type Answer = oneshot::Sender<Result<Value, Problem>>;

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    node: Arc<str>,
    /// SHA-256 of the token by which it was opened.
    token: Digest,
    /// Address that the node reaches the service by.
    host: String,
    orders: mpsc::Sender<Bytes>,
    /// What the node may fetch.
    grants: Arc<Grants>,
    asks: Mutex<Option<BTreeMap<u64, Answer>>>,
    next: AtomicU64,
    end: CancellationToken,
    /// Clients that follow output of the node.
    pub(crate) followers: AtomicUsize,
}

impl Session {
    pub(crate) fn node(&self) -> &Arc<str> {
        &self.node
    }

    pub(super) fn token(&self) -> Digest {
        self.token
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    fn asks(&self) -> MutexGuard<'_, Option<BTreeMap<u64, Answer>>> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an order into the queue. `false` when the session is at its end.
    pub(crate) fn send(&self, order: &Order) -> bool {
        self.grants.ordered(&self.node, order);
        let mut line = serde_json::to_vec(order).unwrap_or_default();
        line.push(b'\n');
        match self.orders.try_send(line.into()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(node = &*self.node, "node does not take its orders");
                self.end.cancel();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Asks, and waits for the answer at most `limit`.
    ///
    /// # Errors
    /// What the node answers, or that it went away or did not answer in time.
    pub(crate) async fn ask(&self, ask: Ask, limit: Duration) -> Result<Value, Problem> {
        let request = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        let lost = || lost(&self.node, "went away before it answered");
        match self.asks().as_mut() {
            Some(asks) => asks.insert(request, answer),
            None => return Err(lost()),
        };
        // Also when whoever asks is gone before the answer.
        let _asked = Asked {
            session: self,
            request,
        };
        if !self.send(&Order::Ask { request, ask }) {
            return Err(lost());
        }
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(Problem {
                kind: problem::TIMED_OUT.to_owned(),
                title: "the node did not answer".to_owned(),
                status: 504,
                detail: format!("node `{}` did not answer in {limit:?}", self.node),
                hint: "look at the node's log".to_owned(),
            }),
        }
    }

    fn forget(&self, request: u64) {
        if let Some(asks) = self.asks().as_mut() {
            asks.remove(&request);
        }
    }

    fn answer(&self, request: u64, answer: Result<Value, Problem>) {
        let waiting = self.asks().as_mut().and_then(|asks| asks.remove(&request));
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    /// Done when the session has ended.
    pub(crate) async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Ends the session now.
    pub(crate) fn end(&self) {
        self.end.cancel();
    }

    /// Ends the session when the orders that wait had time to get through.
    pub(crate) fn end_soon(&self) {
        let end = self.end.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LAST_ORDERS).await;
            end.cancel();
        });
    }
}

/// A question that waits for its answer, until it is dropped.
struct Asked<'a> {
    session: &'a Session,
    request: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.session.forget(self.request);
    }
}

/// The node is not there.
pub(crate) fn lost(node: &str, what: &str) -> Problem {
    Problem {
        kind: problem::NODE_LOST.to_owned(),
        title: "the node is not connected".to_owned(),
        status: 503,
        detail: format!("node `{node}` {what}"),
        hint: "see `chalk compute node ls`; a node connects again by itself".to_owned(),
    }
}

/// Begins a session of a node that showed that token: the answer's body are the orders. `host` is
/// the address by which the node reaches us.
pub(crate) fn open(
    fleet: &Arc<Fleet>,
    node: Arc<str>,
    token: Digest,
    host: String,
    body: Body,
) -> Response {
    let (orders, queue) = mpsc::channel(QUEUE);
    let end = fleet.stop().child_token();
    let session = Arc::new(Session {
        node,
        token,
        host,
        orders,
        grants: fleet.nodes().grants().clone(),
        asks: Mutex::new(Some(BTreeMap::new())),
        next: AtomicU64::new(0),
        end: end.clone(),
        followers: AtomicUsize::new(0),
    });
    tokio::spawn(run(fleet.clone(), session, Lines::new(body, MAX_REPORT)));
    let lines = ReceiverStream::new(queue).map(Ok::<_, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let lines = lines.take_until(end.cancelled_owned());
    (headers, Body::from_stream(lines)).into_response()
}

/// Reads reports until the session ends.
async fn run(fleet: Arc<Fleet>, session: Arc<Session>, mut lines: Lines) {
    let hello = tokio::select! {
        line = tokio::time::timeout(HELLO, lines.next()) => line,
        () = session.end.cancelled() => return,
    };
    let hello = match hello {
        Ok(Ok(Some(line))) => parse::<Report>(&line, "report", |w| REPORTS.contains(&w)),
        Ok(Ok(None)) | Err(_) => Ok(None),
        Ok(Err(error)) => Err(error),
    };
    let hello = match hello {
        Ok(Some(hello @ Report::Hello { .. })) => hello,
        Ok(_) => {
            tracing::debug!(node = &*session.node, "session without a greeting");
            return session.end();
        }
        Err(error) => {
            tracing::warn!(node = &*session.node, %error, "session is refused");
            return session.end();
        }
    };
    // Much may have happened since its token was looked at.
    match fleet.up(&session, &hello) {
        Attached::Yes => {}
        Attached::Removed => {
            session.send(&Order::Removed);
            return session.end_soon();
        }
        Attached::Refused => return session.end(),
    }
    tracing::info!(node = &*session.node, "node is connected");
    let heard = listen(&fleet, &session, &mut lines).await;
    session.end();
    // Whoever waits for an answer is told that none comes.
    session.asks().take();
    fleet.down(&session, heard);
}

/// Gives since when the node is gone.
async fn listen(fleet: &Arc<Fleet>, session: &Arc<Session>, lines: &mut Lines) -> Instant {
    let patience = fleet.nodes().lost_after();
    let mut heard = Instant::now();
    loop {
        let line = match next(session, lines, heard + patience).await {
            Next::Line(line) => line,
            Next::End => return Instant::now(),
            // When we were held up ourselves, what it said meanwhile is still on its way through
            // the connection.
            Next::Silence => match next(session, lines, Instant::now() + HELD_UP).await {
                Next::Line(line) => line,
                Next::End => return Instant::now(),
                Next::Silence => {
                    tracing::warn!(node = &*session.node, "node is silent");
                    return heard;
                }
            },
        };
        heard = Instant::now();
        let report = match line {
            Ok(Some(line)) => parse(&line, "report", |word| REPORTS.contains(&word)),
            Ok(None) => return heard,
            Err(error) => Err(error),
        };
        match report {
            Ok(Some(Report::Answer {
                request,
                value,
                error,
            })) => {
                let answer = error.map_or(Ok(value.unwrap_or_default()), Err);
                session.answer(request, answer);
            }
            Ok(Some(report)) => fleet.report(session, &report),
            Ok(None) => {}
            Err(error) => {
                tracing::info!(node = &*session.node, %error, "session ends");
                return heard;
            }
        }
    }
}

/// What comes next in a session.
enum Next {
    Line(Result<Option<Bytes>, LineError>),
    /// The session ended, or nobody takes its orders any more.
    End,
    /// Nothing came until then.
    Silence,
}

async fn next(session: &Session, lines: &mut Lines, until: Instant) -> Next {
    tokio::select! {
        // What was said counts before the time at which it is heard.
        biased;
        () = session.end.cancelled() => Next::End,
        () = session.orders.closed() => Next::End,
        line = lines.next() => Next::Line(line),
        () = tokio::time::sleep_until(until) => Next::Silence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_question_whose_asker_is_gone_is_forgotten() {
        let (orders, mut queue) = mpsc::channel(4);
        let dir = tempfile::tempdir().unwrap();
        let ledger = crate::ledger::Ledger::open(&dir.path().join("l")).unwrap();
        let session = Session {
            node: "n".into(),
            token: Digest::of(b"token"),
            host: String::new(),
            orders,
            grants: Arc::new(Grants::load(ledger.into()).unwrap()),
            asks: Mutex::new(Some(BTreeMap::new())),
            next: AtomicU64::new(0),
            end: CancellationToken::new(),
            followers: AtomicUsize::new(0),
        };
        {
            let asking = session.ask(Ask::CacheList, Duration::from_secs(60));
            tokio::pin!(asking);
            assert!(futures_util::poll!(asking.as_mut()).is_pending());
            assert!(queue.recv().await.is_some());
            assert_eq!(session.asks().as_ref().unwrap().len(), 1);
        }
        assert!(session.asks().as_ref().unwrap().is_empty());
    }
}
