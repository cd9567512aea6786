//! What clients do, all through the HTTP API: builds that follow each other, warms, sandboxes, nodes
//! that are drained; and what the nodes' own sandboxes do to their caches.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chalk_core::Digest;
use chalk_core::wire::{Build, BuildReply, BuildRequest, Sandbox, SandboxRequest, WarmRequest};
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::Method;
use serde::de::DeserializeOwned;

use crate::cache::SimulatedImages;
use crate::catalogue::Catalogue;
use crate::chance;
use crate::engine::Pace;
use crate::specs::{self, Version};

/// How often a client looks whether its build has ended.
const LOOK: Duration = Duration::from_millis(1500);
/// Seconds between two warms, two changes of who is drained, and two sandboxes.
const WARMS: f64 = 25.0;
const DRAINS: f64 = 40.0;
const SANDBOXES: f64 = 3.0;
/// Nodes of which one is drained at a time.
const DRAINED: usize = 80;
/// Seconds between two things that a node's own sandboxes do to its cache.
const USES: f64 = 15.0;

pub(crate) type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A client of the service.
pub(crate) struct Client {
    pub(crate) seed: u64,
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) pace: Arc<Pace>,
    /// Names of all nodes.
    pub(crate) nodes: Vec<String>,
    /// Next version of each repository.
    pub(crate) versions: Vec<AtomicU32>,
}

impl Client {
    /// A call; what the service refuses is an error with its words.
    async fn call(&self, method: Method, path: &str, body: Option<String>) -> Fallible<String> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if status.is_success() {
            Ok(text)
        } else {
            Err(text.into())
        }
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Fallible<T> {
        let text = self
            .call(Method::POST, path, Some(serde_json::to_string(body)?))
            .await?;
        Ok(serde_json::from_str(&text)?)
    }

    async fn pause(&self, seconds: f64, rng: &mut StdRng) {
        let seconds = seconds * rng.random_range(0.5..1.5);
        tokio::time::sleep(self.pace.seconds(seconds)).await;
    }

    /// Builds one image after the other, for ever.
    pub(crate) async fn build_on(self: Arc<Self>, number: u32) {
        let mut rng = chance::of(self.seed, format_args!("builder {number}"));
        loop {
            if self.build(&mut rng).await.is_err() {
                // The queue is full, or the service stops.
                tokio::time::sleep(LOOK).await;
            }
            self.pause(0.5, &mut rng).await;
        }
    }

    async fn build(&self, rng: &mut StdRng) -> Fallible<()> {
        let repository = rng.random_range(0..self.catalogue.repositories());
        let next = &self.versions[repository as usize];
        // Now and then something is asked for that is there.
        let number = match rng.random_bool(0.1) {
            true => next.load(Ordering::Relaxed).saturating_sub(1),
            false => next.fetch_add(1, Ordering::Relaxed),
        };
        let version = Version { repository, number };
        let request = BuildRequest {
            spec: specs::spec(self.seed, version),
            name: None,
            force: rng.random_bool(0.02),
            secrets: Default::default(),
            cancel_on_disconnect: false,
            compression: None,
        };
        let mut reply: BuildReply = self.post("/v1/builds", &request).await?;
        if let BuildReply::NeedsBlobs(_) = reply {
            for bytes in specs::uploads(self.seed, version) {
                let path = format!("/v1/blobs/{}", Digest::of(&bytes));
                let text = String::from_utf8(bytes)?;
                self.call(Method::PUT, &path, Some(text)).await?;
            }
            reply = self.post("/v1/builds", &request).await?;
        }
        let BuildReply::Accepted(build) = reply else {
            return Ok(());
        };
        let path = format!("/v1/builds/{}", build.id);
        let mut patience = rng.random_bool(0.04).then(|| rng.random_range(2..20));
        loop {
            tokio::time::sleep(LOOK.min(self.pace.seconds(4.0))).await;
            let build: Build = serde_json::from_str(&self.call(Method::GET, &path, None).await?)?;
            if build.status.is_final() {
                return Ok(());
            }
            if let Some(left) = &mut patience {
                *left -= 1;
                if *left == 0 {
                    self.call(Method::DELETE, &path, None).await?;
                }
            }
        }
    }

    /// Warms images somewhere, again and again.
    pub(crate) async fn warm_on(self: Arc<Self>) {
        let mut rng = chance::of(self.seed, "warms");
        loop {
            let _ = self.warm(&mut rng).await;
            self.pause(WARMS, &mut rng).await;
        }
    }

    async fn warm(&self, rng: &mut StdRng) -> Fallible<()> {
        let mut request = WarmRequest::default();
        for _ in 0..rng.random_range(1..4) {
            request.images.extend(self.some_image(rng));
        }
        match rng.random_range(0..6) {
            0 => request.region = Some(self.region_of_some_node(rng)?),
            1 => {
                let gpu = chance::one(rng, &["h100", "a100", "l4"]);
                request.labels.insert("gpu".to_owned(), gpu.to_owned());
            }
            _ => {
                let count = rng.random_range(1..=self.nodes.len().min(40));
                let names: Vec<&str> = self.nodes.iter().map(String::as_str).collect();
                let names = chance::some(rng, &names, count);
                request.nodes = names.into_iter().map(str::to_owned).collect();
            }
        }
        request.pin = rng.random_bool(0.2);
        self.post::<serde_json::Value>("/v1/warms", &request)
            .await
            .map(drop)
    }

    fn some_image(&self, rng: &mut StdRng) -> Option<String> {
        let all = self.catalogue.all();
        let at = rng.random_range(0..all.len().max(1));
        all.get(at).map(|made| made.hash.to_string())
    }

    fn region_of_some_node(&self, rng: &mut StdRng) -> Fallible<String> {
        let at = rng.random_range(0..self.nodes.len().max(1));
        let name = self.nodes.get(at).ok_or("there is no node")?;
        let region = crate::fleet::region_of(name).ok_or("no node is called so")?;
        Ok(region.to_owned())
    }

    /// Drains some nodes, and lets others take work again.
    pub(crate) async fn drain_on(self: Arc<Self>) {
        let mut rng = chance::of(self.seed, "drains");
        let wanted = self.nodes.len().div_ceil(DRAINED);
        let mut drained: Vec<String> = Vec::new();
        while !self.nodes.is_empty() {
            let name = &self.nodes[rng.random_range(0..self.nodes.len())];
            drained.push(name.clone());
            let _ = self
                .call(Method::POST, &format!("/v1/nodes/{name}/drain"), None)
                .await;
            if drained.len() > wanted {
                let name = drained.remove(0);
                let _ = self
                    .call(Method::POST, &format!("/v1/nodes/{name}/undrain"), None)
                    .await;
                self.pause(DRAINS, &mut rng).await;
            }
        }
    }

    /// Starts a sandbox now and then.
    pub(crate) async fn start_sandboxes_on(self: Arc<Self>) {
        let mut rng = chance::of(self.seed, "sandboxes");
        loop {
            if let Some(image) = self.some_image(&mut rng) {
                let request = SandboxRequest {
                    image,
                    ..SandboxRequest::default()
                };
                let _ = self.post::<Sandbox>("/v1/sandboxes", &request).await;
            }
            self.pause(SANDBOXES, &mut rng).await;
        }
    }
}

/// Lets the sandboxes of all nodes use their caches.
pub(crate) async fn use_caches(
    seed: u64,
    caches: Vec<Arc<SimulatedImages>>,
    catalogue: Arc<Catalogue>,
) {
    const ROUNDS: usize = 10;
    let mut rng = chance::of(seed, "uses");
    let share = USES / ROUNDS as f64;
    let mut images = catalogue.all();
    for round in 0_usize.. {
        if round % 100 == 99 {
            images = catalogue.all();
        }
        for cache in caches.iter().skip(round % ROUNDS).step_by(ROUNDS) {
            cache.use_some(&images, &mut rng);
        }
        tokio::time::sleep(Duration::from_secs_f64(share)).await;
    }
}
