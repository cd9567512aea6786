//! One session: from the first line to the end of the connection.
//!
//! Reading and writing never wait for each other. If they did, two sides that are slow at once
//! would wait for each other for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalk_core::wire::NodeRuntime;
use chalk_core::wire::agent::{MAX_REPORT, Order, Report, SandboxReport};
use futures_util::StreamExt as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::asks;
use super::call::{CallError, Connection};
use super::lines::{LineError, Lines, Received};
use crate::settings::Runtime;

/// Lines that wait to be sent; whoever has more to say waits.
const WAITING: usize = 64;
/// Images in one report of the cache.
const PIECE: usize = 512;
/// Changes of the cache are collected for so long.
const CACHE_PAUSE: Duration = Duration::from_millis(100);
/// Longest that the service may take for its first line.
const WELCOME: Duration = Duration::from_secs(30);
/// Longest that the service may take to close a session that this side ended.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bounds of what the service may ask for as the time between heartbeats.
const HEARTBEATS: std::ops::RangeInclusive<u64> = 1..=3600;

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The service closed it.
    Closed,
    /// The node was removed.
    Removed,
}

/// Why a session broke.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the service did not say welcome")]
    NoWelcome,
}

/// What the first order says that the writing side needs.
struct Welcome {
    heartbeat: Duration,
    cache_known: Option<u64>,
}

/// Where lines to the service are put; `None` ends what this side says.
#[derive(Clone)]
struct Outbox(mpsc::Sender<Option<Bytes>>);

/// The session is over.
struct Gone;

impl Outbox {
    async fn say(&self, report: &Report) -> Result<(), Gone> {
        match line(report) {
            Some(line) => self.0.send(Some(line.into())).await.map_err(|_| Gone),
            None => Ok(()),
        }
    }
}

/// A report as a line; `None` when it cannot be one. The service ends a session that sends it a
/// line that is too long, and with the next one the node would say the same.
fn line(report: &Report) -> Option<Vec<u8>> {
    let mut line = match serde_json::to_vec(report) {
        Ok(line) => line,
        Err(error) => {
            tracing::error!(%error, "a report cannot be written as JSON");
            return None;
        }
    };
    if line.len() < MAX_REPORT {
        line.push(b'\n');
        return Some(line);
    }
    tracing::error!(bytes = line.len(), "a report is too long for the service");
    match report {
        Report::Answer { request, .. } => self::line(&Report::Answer {
            request: *request,
            value: None,
            error: Some(asks::too_long(line.len())),
        }),
        _ => None,
    }
}

/// Holds a session until it ends; `joined` is called when the service said welcome.
pub(super) async fn hold(
    agent: &Arc<Agent>,
    connection: &Connection,
    token: &str,
    stop: &CancellationToken,
    joined: impl FnOnce(),
) -> Result<End, SessionError> {
    let (sender, lines) = mpsc::channel(WAITING);
    let outbox = Outbox(sender);
    // The channel is empty, so this does not wait.
    let _ = outbox.say(&hello(agent)).await;
    let lines = ReceiverStream::new(lines).take_while(|line| std::future::ready(line.is_some()));
    let body = lines.filter_map(|line| std::future::ready(line.map(Ok)));
    let response = tokio::select! {
        response = connection.session(token, body) => response?,
        () = stop.cancelled() => return Ok(End::Closed),
    };

    let (welcome, welcomed) = oneshot::channel();
    let writing = tokio::spawn({
        let (agent, outbox, stop) = (agent.clone(), outbox.clone(), stop.clone());
        async move { write(&agent, &outbox, welcomed, &stop).await }
    });
    let end = tokio::select! {
        end = read(agent, response, &outbox, welcome, joined) => end,
        () = async { stop.cancelled().await; tokio::time::sleep(GOODBYE).await } => Ok(End::Closed),
    };
    writing.abort();
    end
}

fn hello(agent: &Agent) -> Report {
    let sandboxes = agent.sandboxes.reports();
    let running = sandboxes.iter().filter(|s| !s.state.is_final()).count();
    Report::Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: agent.settings.labels.clone(),
        mirror: agent.mirror.clone(),
        epoch: agent.epoch.clone(),
        usage: agent.images.usage(),
        sandboxes: sandboxes.into_iter().map(|report| report.id).collect(),
        running,
        runtime: match agent.settings.runtime {
            Runtime::Chalk => NodeRuntime::Chalk,
            Runtime::Containerd(_) => NodeRuntime::Containerd,
        },
    }
}

async fn read(
    agent: &Arc<Agent>,
    response: reqwest::Response,
    outbox: &Outbox,
    welcome: oneshot::Sender<Welcome>,
    joined: impl FnOnce(),
) -> Result<End, SessionError> {
    let mut first = Some((welcome, joined));
    let mut chunks = response.bytes_stream();
    let mut lines = Lines::default();
    let deadline = Instant::now() + WELCOME;
    loop {
        let next = match &first {
            None => chunks.next().await,
            Some(_) => tokio::time::timeout_at(deadline, chunks.next())
                .await
                .map_err(|_| SessionError::NoWelcome)?,
        };
        let chunk = match next {
            None => return Ok(End::Closed),
            Some(chunk) => chunk.map_err(|e| SessionError::Broken(e.to_string()))?,
        };
        for line in lines.push(&chunk)? {
            let order = match line {
                Received::Order(order) => *order,
                Received::Unknown => continue,
                Received::UnknownAsk { request } => {
                    let answer = Report::Answer {
                        request,
                        value: None,
                        error: Some(asks::unknown()),
                    };
                    let outbox = outbox.clone();
                    tokio::spawn(async move { outbox.say(&answer).await.ok() });
                    continue;
                }
            };
            match (order, first.take()) {
                (
                    Order::Welcome {
                        heartbeat_seconds,
                        cache_known,
                        peer_token,
                        draining,
                    },
                    Some((welcome, joined)),
                ) => {
                    agent.welcomed(peer_token, draining);
                    let seconds = heartbeat_seconds.clamp(*HEARTBEATS.start(), *HEARTBEATS.end());
                    let _ = welcome.send(Welcome {
                        heartbeat: Duration::from_secs(seconds),
                        cache_known,
                    });
                    joined();
                }
                (Order::Removed, _) => return Ok(End::Removed),
                (_, Some(_)) => return Err(SessionError::NoWelcome),
                (order, None) => carry_out(agent, outbox, order),
            }
        }
    }
}

/// Begins what is ordered, without waiting for it.
fn carry_out(agent: &Arc<Agent>, outbox: &Outbox, order: Order) {
    match order {
        Order::Welcome { .. } | Order::Removed => {}
        Order::PeerToken { token } => agent.trust_peers_by(token),
        Order::Prewarm { images } => agent.prewarm.set(images),
        Order::Warm { id, image, pin } => agent.warms.order(&id, image, pin),
        Order::CancelWarm { id } => agent.warms.cancel(&id),
        Order::StartSandbox { id, image, request } => {
            agent.sandboxes.start(id, image, *request);
        }
        Order::Drain { draining } => agent.drain(draining),
        Order::Ask { request, ask } => {
            let (agent, outbox) = (agent.clone(), outbox.clone());
            tokio::spawn(async move {
                let (value, error) = match asks::answer(&agent, ask).await {
                    Ok(value) => (Some(value), None),
                    Err(problem) => (None, Some(problem)),
                };
                let answer = Report::Answer {
                    request,
                    value,
                    error,
                };
                // An answer belongs to its session.
                let _ = outbox.say(&answer).await;
            });
        }
    }
}

async fn write(
    agent: &Agent,
    outbox: &Outbox,
    welcomed: oneshot::Receiver<Welcome>,
    stop: &CancellationToken,
) -> Result<(), Gone> {
    let Welcome {
        heartbeat,
        cache_known,
    } = tokio::select! {
        welcome = welcomed => welcome.map_err(|_| Gone)?,
        () = stop.cancelled() => return outbox.0.send(None).await.map_err(|_| Gone),
    };
    let mut sandboxes = say_sandboxes(agent, outbox).await?;
    let mut known = cache_known;
    let mut revisions = agent.images.revision();
    let mut cache_due = Some(Instant::now());
    agent.warms.begin_session();
    let mut warms_due: Option<Instant> = None;
    let mut beat = tokio::time::interval(heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                let heartbeat = Report::Heartbeat {
                    usage: agent.images.usage(),
                    sandboxes: agent.sandboxes.running(),
                };
                outbox.say(&heartbeat).await?;
            }
            change = sandboxes.recv() => match change {
                Ok(report) => outbox.say(&Report::Sandbox(report)).await?,
                // More changes than are kept: every state as it is now says as much.
                Err(RecvError::Lagged(_)) => sandboxes = say_sandboxes(agent, outbox).await?,
                Err(RecvError::Closed) => return Err(Gone),
            },
            () = agent.warms.changed() => warms_due = say_warms(agent, outbox).await?,
            () = until(warms_due) => warms_due = say_warms(agent, outbox).await?,
            changed = revisions.changed(), if cache_due.is_none() => {
                changed.map_err(|_| Gone)?;
                cache_due = Some(Instant::now() + CACHE_PAUSE);
            }
            () = until(cache_due) => {
                cache_due = None;
                revisions.mark_unchanged();
                known = say_cache(agent, outbox, known).await?;
            }
            () = stop.cancelled() => {
                while let Ok(report) = sandboxes.try_recv() {
                    outbox.say(&Report::Sandbox(report)).await?;
                }
                say_warms(agent, outbox).await?;
                return outbox.0.send(None).await.map_err(|_| Gone);
            }
        }
    }
}

/// Waits until then; for ever without a time.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Says the state of every sandbox, one a line: all together may be more than a line takes. Gives
/// what changes from then on.
async fn say_sandboxes(
    agent: &Agent,
    outbox: &Outbox,
) -> Result<broadcast::Receiver<SandboxReport>, Gone> {
    // Before looking, so that no change is missed.
    let changes = agent.sandboxes.changes();
    for report in agent.sandboxes.reports() {
        outbox.say(&Report::Sandbox(report)).await?;
    }
    Ok(changes)
}

async fn say_warms(agent: &Agent, outbox: &Outbox) -> Result<Option<Instant>, Gone> {
    let (reports, again) = agent.warms.take_reports();
    let mut said = Ok(());
    for report in &reports {
        if said.is_ok() {
            said = outbox.say(report).await;
        }
        if said.is_err() {
            agent.warms.not_said(report);
        }
    }
    said.map(|()| again)
}

/// Says what changed since `known`, and gives the revision that is known then.
async fn say_cache(
    agent: &Agent,
    outbox: &Outbox,
    known: Option<u64>,
) -> Result<Option<u64>, Gone> {
    let delta = agent.images.since(known);
    let mut whole = delta.whole;
    let mut put = delta.put.into_iter().peekable();
    let mut gone = delta.gone;
    if !whole && put.peek().is_none() && gone.is_empty() {
        return Ok(Some(delta.revision));
    }
    loop {
        let piece: Vec<_> = put.by_ref().take(PIECE).collect();
        let last = put.peek().is_none();
        let report = Report::Cache {
            // A service that heard only a part must not take it for all.
            revision: if last { delta.revision } else { 0 },
            whole,
            put: piece,
            gone: std::mem::take(&mut gone),
        };
        outbox.say(&report).await?;
        whole = false;
        if last {
            return Ok(Some(delta.revision));
        }
    }
}
