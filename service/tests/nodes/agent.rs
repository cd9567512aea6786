//! An agent that speaks the wire, and does what a test tells it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalk_core::Digest;
use chalk_core::wire::agent::{Ask, ImageRef, Order, Registered, Report, SandboxReport};
use chalk_core::wire::{CacheUsage, CachedImage, NodeState, Problem, Receipt, problem};
use futures_util::StreamExt;
use reqwest::{Body, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::service::{Api, PATIENCE, ok};

/// A machine that joined.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) token: String,
    pub(crate) mirror: Option<String>,
    pub(crate) epoch: String,
    pub(crate) sandboxes: Vec<SandboxReport>,
}

/// A session of it.
pub(crate) struct Agent {
    pub(crate) joined: Joined,
    pub(crate) http: reqwest::Client,
    reports: mpsc::Sender<Result<Bytes, std::io::Error>>,
    orders: mpsc::Receiver<Order>,
    seen: VecDeque<Order>,
    reader: tokio::task::JoinHandle<()>,
}

/// A client that speaks HTTP/2 at once, as agents do.
pub(crate) fn h2() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy();
    client.http2_prior_knowledge().build().unwrap()
}

impl Joined {
    /// Joins with the administrator's token.
    pub(crate) async fn new(api: &Api, name: &str, region: Option<&str>) -> Self {
        let request = json!({"name": name, "region": region, "version": "test"});
        let registered: Registered = ok(api
            .request(Method::POST, "/v1/agent/register")
            .json(&request))
        .await;
        assert_eq!(registered.name, name);
        Self {
            url: api.url(),
            name: registered.name,
            token: registered.token,
            mirror: None,
            epoch: "1".to_owned(),
            sandboxes: Vec::new(),
        }
    }

    /// Serves blobs, as it says.
    pub(crate) fn serving(mut self) -> Self {
        self.mirror = Some(format!("http://{}.example:1", self.name));
        self
    }

    /// Connects to the service that it joined, or that has taken its place.
    pub(crate) async fn connect(mut self, api: &Api) -> Agent {
        self.url = api.url();
        let mut agent = self.open().await.unwrap();
        let welcome = agent.order().await;
        assert!(matches!(welcome, Order::Welcome { .. }), "{welcome:?}");
        agent.seen.push_front(welcome);
        api.until_node(&agent.joined.name, NodeState::Ready).await;
        agent
    }

    /// Opens a session and greets.
    pub(crate) async fn open(self) -> Result<Agent, StatusCode> {
        let http = h2();
        let (reports, body) = mpsc::channel(64);
        let request = http
            .post(format!("{}/v1/agent/session", self.url))
            .bearer_auth(&self.token)
            .body(Body::wrap_stream(ReceiverStream::new(body)));
        let response = request.send().await.unwrap();
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        let (send, orders) = mpsc::channel(4096);
        let reader = tokio::spawn(async move {
            let mut stream = response.bytes_stream();
            let mut text = Vec::new();
            while let Some(Ok(bytes)) = stream.next().await {
                text.extend_from_slice(&bytes);
                while let Some(end) = text.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    let order = serde_json::from_slice(&line).unwrap();
                    if send.send(order).await.is_err() {
                        return;
                    }
                }
            }
        });
        let agent = Agent {
            joined: self,
            http,
            reports,
            orders,
            seen: VecDeque::new(),
            reader,
        };
        agent
            .report(&Report::Hello {
                version: "test".into(),
                labels: [("name".to_owned(), agent.joined.name.clone())].into(),
                mirror: agent.joined.mirror.clone(),
                epoch: agent.joined.epoch.clone(),
                usage: CacheUsage::default(),
                sandboxes: agent
                    .joined
                    .sandboxes
                    .iter()
                    .map(|s| s.id.clone())
                    .collect(),
                running: 0,
                runtime: chalk_core::wire::NodeRuntime::default(),
            })
            .await;
        for sandbox in &agent.joined.sandboxes {
            agent.report(&Report::Sandbox(sandbox.clone())).await;
        }
        Ok(agent)
    }
}

impl Agent {
    /// Joins and connects.
    pub(crate) async fn new(api: &Api, name: &str) -> Self {
        Joined::new(api, name, None).await.connect(api).await
    }

    pub(crate) async fn report(&self, report: &Report) {
        let mut line = serde_json::to_vec(report).unwrap();
        line.push(b'\n');
        let _ = self.reports.send(Ok(line.into())).await;
    }

    /// Sends bytes as they are.
    pub(crate) async fn raw(&self, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        let _ = self.reports.send(Ok(bytes)).await;
    }

    /// The next order; `None` when the session ended.
    pub(crate) async fn try_order(&mut self) -> Option<Order> {
        if let Some(order) = self.seen.pop_front() {
            return Some(order);
        }
        let order = tokio::time::timeout(PATIENCE, self.orders.recv());
        order.await.expect("an order")
    }

    pub(crate) async fn order(&mut self) -> Order {
        self.try_order().await.expect("a session")
    }

    /// Whether an order is there, or comes within a while.
    pub(crate) async fn is_told(&mut self) -> bool {
        let pause = Duration::from_millis(100);
        while let Ok(Some(order)) = tokio::time::timeout(pause, self.orders.recv()).await {
            self.seen.push_back(order);
        }
        self.seen
            .iter()
            .any(|o| !matches!(o, Order::Welcome { .. } | Order::Prewarm { .. }))
    }

    /// The next order of that kind; others are passed over.
    pub(crate) async fn wait<T>(&mut self, want: impl Fn(Order) -> Option<T>) -> T {
        loop {
            if let Some(found) = want(self.order().await) {
                return found;
            }
        }
    }

    /// The next order of a warm.
    pub(crate) async fn warm(&mut self) -> (String, ImageRef, Option<String>) {
        self.wait(|order| match order {
            Order::Warm { id, image, pin } => Some((id, image, pin)),
            _ => None,
        })
        .await
    }

    /// The next word about draining.
    pub(crate) async fn drain(&mut self) -> bool {
        self.wait(|order| match order {
            Order::Drain { draining } => Some(draining),
            _ => None,
        })
        .await
    }

    /// The next question.
    pub(crate) async fn ask(&mut self) -> (u64, Ask) {
        self.wait(|order| match order {
            Order::Ask { request, ask } => Some((request, ask)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn answer(&self, request: u64, value: Value) {
        self.report(&Report::Answer {
            request,
            value: Some(value),
            error: None,
        })
        .await;
    }

    pub(crate) async fn pulling(&self, id: &str, done: u64, total: u64) {
        self.report(&Report::Pulling {
            id: id.to_owned(),
            done,
            total,
            layers: Vec::new(),
        })
        .await;
    }

    /// Reports a warm as ready.
    pub(crate) async fn warmed(&self, id: &str, image: &ImageRef, fetched: u64, present: u64) {
        let receipt = Receipt {
            digest: image.digest,
            bytes_fetched: fetched,
            bytes_from_mirrors: fetched / 2,
            bytes_present: present,
            digests_verified: 4,
            seconds: 0.5,
        };
        let id = id.to_owned();
        self.report(&Report::Warmed { id, receipt }).await;
        if self.joined.mirror.is_some() {
            self.cached(0, false, &[image.digest]).await;
        }
    }

    pub(crate) async fn warm_failed(&self, id: &str, retries_left: u32) {
        let error = Problem {
            kind: problem::DISK_FULL.to_owned(),
            title: "the disk is full".to_owned(),
            status: 500,
            detail: "made up".to_owned(),
            hint: String::new(),
        };
        self.report(&Report::WarmFailed {
            id: id.to_owned(),
            error,
            retries_left,
        })
        .await;
    }

    /// Reports images in the cache.
    pub(crate) async fn cached(&self, revision: u64, whole: bool, digests: &[Digest]) {
        self.reports_cache(revision, whole, digests, true).await;
    }

    /// Reports images in the cache, with their blobs or without.
    pub(crate) async fn reports_cache(
        &self,
        revision: u64,
        whole: bool,
        digests: &[Digest],
        blobs_kept: bool,
    ) {
        let put = digests.iter().map(|digest| CachedImage {
            digest: *digest,
            image_hash: None,
            image: "x".into(),
            bytes: 1,
            layers: 1,
            pins: Vec::new(),
            in_use: 0,
            last_used: "2026-01-01T00:00:00Z".into(),
            blobs_kept,
        });
        self.report(&Report::Cache {
            revision,
            whole,
            put: put.collect(),
            gone: Vec::new(),
        })
        .await;
    }

    /// Does what it is told about warms, at once, until the session ends.
    pub(crate) fn obey(mut self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while let Some(order) = self.orders.recv().await {
                if let Order::Warm { id, image, .. } = order {
                    self.pulling(&id, 1, 2).await;
                    self.warmed(&id, &image, 2, 0).await;
                }
            }
        })
    }

    /// Ends the connection as a kill does.
    pub(crate) fn kill(self) -> Joined {
        self.reader.abort();
        self.joined
    }

    /// Sends heartbeats until it is dropped.
    pub(crate) fn beats(&self) -> Arc<tokio_util::sync::DropGuard> {
        let end = tokio_util::sync::CancellationToken::new();
        let (reports, stop) = (self.reports.clone(), end.clone());
        tokio::spawn(async move {
            let beat = serde_json::to_vec(&Report::Heartbeat {
                usage: CacheUsage::default(),
                sandboxes: 0,
            })
            .unwrap();
            let line: Bytes = [&beat[..], b"\n"].concat().into();
            while !stop.is_cancelled() && reports.send(Ok(line.clone())).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Arc::new(end.drop_guard())
    }
}
