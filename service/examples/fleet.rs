//! Load of many nodes on a service: `cargo run --release --example fleet [-- NODES...]`.
//!
//! Starts a service in a process of its own with 10,000 images in its index, connects simulated
//! nodes (heartbeats, caches of 300 images, a change of the cache with each heartbeat), and prints
//! a JSON document a line for 10, 100 and 1,000 nodes: processor seconds of the service while
//! nothing but heartbeats happens, its memory, and the time until a warm of all nodes has reached
//! every one, and until all have answered.

// Measures nothing that it does not expect to work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chalk_core::spec::{Base, Spec, Step, StepKind};
use chalk_core::wire::agent::{Order, Registered, Report};
use chalk_core::wire::{CacheUsage, CachedImage, PlanStep, Receipt, Warm, WarmStatus};
use chalk_core::{Digest, Platform, Reference};
use chalk_service::bases::BaseError;
use chalk_service::engine::{Engine, EngineError, EventSink, Job, Outcome};
use chalk_service::index::{Index, Known};
use chalk_service::places::IMAGES;
use chalk_service::resolve::PinBases;
use chalk_service::{Parts, Service, Settings, Surroundings};
use chalk_store::registry::Progress;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// Images in the index.
const IMAGES_KNOWN: u32 = 10_000;
/// Images in the cache of each node.
const CACHED: u32 = 300;
/// Time between heartbeats, as the service's default.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// For how long the load of heartbeats is measured.
const WINDOW: Duration = Duration::from_secs(20);
/// Nodes that join at once: the simulation itself must not be what is slow.
const JOINING: usize = 32;
/// Ticks of a second in `/proc/PID/stat` (`proc_pid_stat(5)`, USER_HZ).
const TICKS: f64 = 100.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match args.split_first() {
        Some((word, rest)) if word == "serve" => runtime.block_on(serve(Path::new(&rest[0]))),
        _ => {
            let counts: Vec<usize> = args.iter().map(|text| text.parse().unwrap()).collect();
            let counts = if counts.is_empty() {
                vec![10, 100, 1000]
            } else {
                counts
            };
            for count in counts {
                println!("{}", runtime.block_on(measure(count)));
            }
        }
    }
}

/// Builds nothing.
struct Nothing;

#[async_trait]
impl Engine for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    async fn plan(&self, _: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        Ok(Vec::new())
    }

    async fn build(
        &self,
        _: &Job,
        _: &dyn EventSink,
        _: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        Err(EngineError::Cancelled)
    }
}

#[async_trait]
impl PinBases for Nothing {
    async fn pin(&self, reference: &Reference, _: &Platform) -> Result<Digest, BaseError> {
        Err(BaseError::NotFound {
            reference: reference.clone(),
            detail: "nothing is here".into(),
        })
    }
}

fn digest(number: u32) -> Digest {
    Digest::of(&number.to_le_bytes())
}

/// The service: prints address, token and the hash of an image that can be warmed.
async fn serve(dir: &Path) {
    let (index, _) = Index::open(&dir.join("chalk.redb")).unwrap();
    let known = |number: u32| Known {
        digest: digest(number),
        platform: Platform::default(),
        size: 1 << 28,
        layers: 8,
        created: "2026-01-01T00:00:00Z".into(),
    };
    let image = |number: u32| {
        (
            Digest::of(format!("image {number}").as_bytes()),
            known(number),
        )
    };
    let images: BTreeMap<Digest, Known> = (0..IMAGES_KNOWN).map(image).collect();
    index.replace_images(images, BTreeMap::new()).unwrap();
    drop(index);
    let mut settings = Settings::embedded();
    settings.state.dir = dir.to_owned();
    settings.prewarm.images.clear();
    let mut regional = None;
    let running = Service::start_with(settings, |around: Surroundings<'_>| {
        regional = Some((around.regional, around.blobs));
        Ok(Parts {
            engine: Arc::new(Nothing),
            bases: Arc::new(Nothing),
        })
    });
    let running = running.await.unwrap();
    let (regional, blobs) = regional.unwrap();
    let mut spec = Spec::new(Base::Scratch);
    spec.steps.push(Step::new(StepKind::Run {
        command: "true".into(),
    }));
    let hash = spec.image_hash().unwrap();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": []}});
    let blob = blobs.put(config.to_string().as_bytes()).unwrap();
    let none = Progress::none();
    let pushed = regional.push_blob(IMAGES, &blob, &blobs, &none);
    pushed.await.unwrap();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": [], "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": blob.digest, "size": blob.size}});
    let bytes = manifest.to_string().into_bytes().into();
    let tag = hash.hex();
    let put = regional.put_manifest(IMAGES, &tag, kind, bytes);
    put.await.unwrap();
    println!("{} {} {hash}", running.url, running.token);
    // Ends with its parent.
    std::future::pending::<()>().await;
}

/// What all nodes share.
struct Fleet {
    url: String,
    token: String,
    connected: AtomicUsize,
    ordered: AtomicUsize,
    told: Notify,
}

async fn measure(count: usize) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([Path::new("serve"), dir.path()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let fleet = Arc::new(Fleet {
        url: words[0].to_owned(),
        token: words[1].to_owned(),
        connected: AtomicUsize::new(0),
        ordered: AtomicUsize::new(0),
        told: Notify::new(),
    });
    let began = Instant::now();
    let joining = Arc::new(Semaphore::new(JOINING));
    for number in 0..count {
        tokio::spawn(node(fleet.clone(), number, joining.clone()));
    }
    let until = async |reached: &dyn Fn() -> bool| {
        while !reached() {
            let _ = tokio::time::timeout(Duration::from_millis(50), fleet.told.notified()).await;
        }
    };
    until(&|| fleet.connected.load(Ordering::SeqCst) == count).await;
    let connected = began.elapsed().as_secs_f64();
    // Caches are taken in, and the first heartbeats are spread.
    tokio::time::sleep(Duration::from_secs(5)).await;

    let before = cpu(&child);
    tokio::time::sleep(WINDOW).await;
    let idle = (cpu(&child) - before) / WINDOW.as_secs_f64();

    let http = client();
    let before = cpu(&child);
    let began = Instant::now();
    let request = http.post(format!("{}/v1/warms", fleet.url));
    let request = request.bearer_auth(&fleet.token);
    let warm = request.json(&json!({"images": [words[2]]})).send();
    let warm: Warm = warm.await.unwrap().json().await.unwrap();
    assert_eq!(warm.nodes.len(), count);
    until(&|| fleet.ordered.load(Ordering::SeqCst) >= count).await;
    let reached = began.elapsed().as_secs_f64();
    loop {
        let got = http.get(format!("{}/v1/warms/{}", fleet.url, warm.id));
        let got: Warm = got
            .bearer_auth(&fleet.token)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        if got.status == WarmStatus::Ready {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let ready = began.elapsed().as_secs_f64();
    let row = json!({
        "nodes": count,
        "images": IMAGES_KNOWN,
        "connected_seconds": connected,
        "idle_cores": idle,
        "warm_reached_seconds": reached,
        "warm_ready_seconds": ready,
        "warm_cpu_seconds": cpu(&child) - before,
        "rss_bytes": rss(&child),
        "peak_rss_bytes": status(&child, "VmHWM:"),
    });
    let _ = child.kill();
    let _ = child.wait();
    row
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy();
    // Nothing here goes over TLS, and a thousand clients need not read the system's certificates.
    let client = client.tls_danger_accept_invalid_certs(true);
    client.http2_prior_knowledge().build().unwrap()
}

/// Processor seconds of a process so far.
fn cpu(child: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let fields: Vec<f64> = fields.map(|text| text.parse().unwrap_or(0.0)).collect();
    (fields[11] + fields[12]) / TICKS
}

fn rss(child: &Child) -> u64 {
    status(child, "VmRSS:")
}

fn status(child: &Child, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

fn line(report: &Report) -> Result<Bytes, std::io::Error> {
    let mut line = serde_json::to_vec(report).unwrap();
    line.push(b'\n');
    Ok(line.into())
}

fn cached(number: u32) -> CachedImage {
    CachedImage {
        digest: digest(number % IMAGES_KNOWN),
        image_hash: None,
        image: "registry.example/chalk/images:x".into(),
        bytes: 1 << 28,
        layers: 8,
        pins: Vec::new(),
        in_use: 0,
        last_used: "2026-01-01T00:00:00Z".into(),
        blobs_kept: true,
    }
}

/// A simulated node: it has what it is told at once.
async fn node(fleet: Arc<Fleet>, number: usize, joining: Arc<Semaphore>) {
    let mut joins = Some(joining.acquire_owned().await.unwrap());
    let http = client();
    let register = http.post(format!("{}/v1/agent/register", fleet.url));
    let body = json!({"name": format!("n{number}"), "version": "simulated"});
    let joined = register.bearer_auth(&fleet.token).json(&body).send();
    let joined: Registered = joined.await.unwrap().json().await.unwrap();
    let (reports, body) = mpsc::channel(64);
    let session = http.post(format!("{}/v1/agent/session", fleet.url));
    let session = session
        .bearer_auth(&joined.token)
        .body(reqwest::Body::wrap_stream(ReceiverStream::new(body)))
        .send();
    let mut orders = session.await.unwrap().bytes_stream();
    let usage = CacheUsage::default();
    let hello = Report::Hello {
        version: "simulated".into(),
        labels: BTreeMap::new(),
        mirror: Some(format!("http://n{number}.example:7475")),
        epoch: "1".into(),
        usage,
        sandboxes: Vec::new(),
        running: 0,
        runtime: chalk_core::wire::NodeRuntime::default(),
    };
    reports.send(line(&hello)).await.unwrap();
    let first = u32::try_from(number).unwrap() * 31;
    let all = Report::Cache {
        revision: 1,
        whole: true,
        put: (first..first + CACHED).map(cached).collect(),
        gone: Vec::new(),
    };
    reports.send(line(&all)).await.unwrap();
    let beats = reports.clone();
    tokio::spawn(async move {
        // Spread over the interval, as those of nodes that start at different times are.
        let offset = HEARTBEAT.mul_f64((number % 97) as f64 / 97.0);
        tokio::time::sleep(offset).await;
        for round in 0.. {
            let heartbeat = Report::Heartbeat {
                usage,
                sandboxes: 0,
            };
            let changed = Report::Cache {
                revision: u64::from(round) + 2,
                whole: false,
                put: vec![cached(first + CACHED + round)],
                gone: vec![digest((first + round) % IMAGES_KNOWN)],
            };
            let sent = beats.send(line(&heartbeat)).await.is_ok();
            if !sent || beats.send(line(&changed)).await.is_err() {
                return;
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    });
    let mut text = Vec::new();
    while let Some(Ok(bytes)) = orders.next().await {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let order: Vec<u8> = text.drain(..=end).collect();
            match serde_json::from_slice(&order).unwrap() {
                Order::Welcome { .. } => {
                    joins.take();
                    fleet.connected.fetch_add(1, Ordering::SeqCst);
                    fleet.told.notify_one();
                }
                Order::Warm { id, image, .. } => {
                    fleet.ordered.fetch_add(1, Ordering::SeqCst);
                    fleet.told.notify_one();
                    let pulling = Report::Pulling {
                        id: id.clone(),
                        done: 1,
                        total: 2,
                        layers: Vec::new(),
                    };
                    reports.send(line(&pulling)).await.unwrap();
                    let receipt = Receipt {
                        digest: image.digest,
                        bytes_fetched: 2,
                        bytes_from_mirrors: 2,
                        bytes_present: 0,
                        digests_verified: 4,
                        seconds: 0.1,
                    };
                    let warmed = Report::Warmed { id, receipt };
                    reports.send(line(&warmed)).await.unwrap();
                }
                _ => {}
            }
        }
    }
}
