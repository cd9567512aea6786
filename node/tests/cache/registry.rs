//! A registry that can be told to misbehave.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use chalk_core::Digest;
use chalk_store::erofs;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;

/// How blobs are packed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A layer as a registry has it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) blob: Bytes,
    tar: Vec<u8>,
}

impl Layer {
    pub(crate) fn of(tar: Vec<u8>, packing: Packing) -> Self {
        let blob = match packing {
            Packing::Plain => tar.clone(),
            Packing::Zstd => zstd::encode_all(&tar[..], 3).unwrap(),
            Packing::Gzip => {
                let level = flate2::Compression::new(1);
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&tar).unwrap();
                encoder.finish().unwrap()
            }
        };
        Self {
            digest: Digest::of(&blob),
            diff_id: Digest::of(&tar),
            blob: blob.into(),
            tar,
        }
    }

    /// A layer with a file of `size` bytes that compress to themselves.
    pub(crate) fn noise(seed: u64, size: usize, packing: Packing) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut content = Vec::with_capacity(size + 8);
        while content.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        content.truncate(size);
        let name = format!("file{seed}");
        Self::of(tar(&[(&name, &content), ("shared", b"same")]), packing)
    }

    /// The EROFS image that it becomes.
    pub(crate) fn erofs(&self) -> Vec<u8> {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let options = erofs::Options::default();
        erofs::write(&self.tar[..], "layer", temp.as_file(), &options).unwrap();
        std::fs::read(temp.path()).unwrap()
    }
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An image as a registry has it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) manifest: Bytes,
    pub(crate) config: Bytes,
    pub(crate) layers: Vec<Layer>,
}

impl Image {
    pub(crate) fn new(name: &str, layers: &[Layer]) -> Self {
        Self::with_diff_ids(
            name,
            layers,
            &layers.iter().map(|l| l.diff_id).collect::<Vec<_>>(),
        )
    }

    pub(crate) fn with_diff_ids(name: &str, layers: &[Layer], diff_ids: &[Digest]) -> Self {
        let sizes: Vec<u64> = layers.iter().map(|l| l.blob.len() as u64).collect();
        Self::saying(name, layers, diff_ids, &sizes)
    }

    /// An image whose manifest gives the layers these sizes.
    pub(crate) fn with_sizes(name: &str, layers: &[Layer], sizes: &[u64]) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|l| l.diff_id).collect();
        Self::saying(name, layers, &diff_ids, sizes)
    }

    fn saying(name: &str, layers: &[Layer], diff_ids: &[Digest], sizes: &[u64]) -> Self {
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [format!("NAME={name}")]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string();
        let blobs: Vec<_> = layers
            .iter()
            .zip(sizes)
            .map(|(layer, size)| {
                serde_json::json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": layer.digest,
                    "size": size,
                })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(config.as_bytes()),
                "size": config.len(),
            },
            "layers": blobs,
        });
        let manifest = manifest.to_string();
        Self {
            name: name.to_owned(),
            digest: Digest::of(manifest.as_bytes()),
            manifest: manifest.into(),
            config: config.into(),
            layers: layers.to_vec(),
        }
    }

    /// Bytes of all its parts.
    pub(crate) fn size(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.blob.len() as u64);
        layers.sum::<u64>() + (self.manifest.len() + self.config.len()) as u64
    }
}

/// What happens to one request for a blob.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The connection breaks after so many bytes.
    Cut(usize),
    /// Nothing more comes after so many bytes.
    Stall(usize),
    /// One byte is another.
    Wrong(usize),
    /// The answer is this much shorter, and says so.
    Truncated(usize),
    /// The answer is this much longer.
    Oversized(usize),
    /// This status.
    Status(u16),
    /// The range is ignored.
    NoRange,
}

/// The registry.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    manifests: BTreeMap<Digest, Bytes>,
    blobs: BTreeMap<Digest, Bytes>,
    faults: Mutex<BTreeMap<Digest, VecDeque<Fault>>>,
    /// Each request for a blob with the range that it asked for.
    asked: Mutex<Vec<(Digest, Option<String>)>>,
    /// Bytes of blobs that were handed out.
    sent: AtomicU64,
    /// Whether it answers at all.
    pub(crate) up: watch::Sender<bool>,
    /// Bytes of a body between two pauses of a millisecond; 0 for no pauses.
    pace: AtomicU64,
}

impl Registry {
    pub(crate) async fn start(images: &[&Image]) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut blobs = BTreeMap::new();
        for image in images {
            blobs.insert(Digest::of(&image.config), image.config.clone());
            blobs.extend(image.layers.iter().map(|l| (l.digest, l.blob.clone())));
        }
        let registry = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            manifests: images
                .iter()
                .map(|i| (i.digest, i.manifest.clone()))
                .collect(),
            blobs,
            faults: Mutex::default(),
            asked: Mutex::default(),
            sent: AtomicU64::new(0),
            up: watch::Sender::new(true),
            pace: AtomicU64::new(0),
        });
        let app = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{*path}", get(answer))
            .with_state(Arc::clone(&registry));
        tokio::spawn(async move { axum::serve(listener, app).await });
        registry
    }

    /// As a peer is named.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn fail(&self, digest: Digest, faults: &[Fault]) {
        self.faults
            .lock()
            .unwrap()
            .entry(digest)
            .or_default()
            .extend(faults);
    }

    /// Slows every body to about `bytes` a millisecond.
    pub(crate) fn slow_to(&self, bytes: u64) {
        self.pace.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn asked(&self, digest: &Digest) -> Vec<Option<String>> {
        let asked = self.asked.lock().unwrap();
        let of = asked.iter().filter(|(of, _)| of == digest);
        of.map(|(_, range)| range.clone()).collect()
    }

    /// What was asked for, in that order.
    pub(crate) fn order(&self) -> Vec<Digest> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(digest, _)| *digest).collect()
    }

    /// Bytes of layers sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

async fn answer(
    State(registry): State<Arc<Registry>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !*registry.up.borrow() {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let (kind, digest) = {
        let mut parts = path.rsplit('/');
        let digest = parts.next().unwrap().parse::<Digest>();
        (parts.next().unwrap_or_default().to_owned(), digest)
    };
    let Ok(digest) = digest else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if kind == "manifests" {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        return match registry.manifests.get(&digest) {
            Some(manifest) => ([(CONTENT_TYPE, kind)], manifest.clone()).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        };
    }
    let Some(blob) = registry.blobs.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(RANGE).map(|v| v.to_str().unwrap().to_owned());
    registry.asked.lock().unwrap().push((digest, range.clone()));
    let fault = registry
        .faults
        .lock()
        .unwrap()
        .get_mut(&digest)
        .and_then(VecDeque::pop_front);
    let from = match (range, fault) {
        (_, Some(Fault::NoRange)) | (None, _) => 0,
        (Some(range), _) => range["bytes=".len()..]
            .trim_end_matches('-')
            .parse()
            .unwrap(),
    };
    body(&registry, &blob, from, fault)
}

fn body(registry: &Arc<Registry>, blob: &Bytes, from: usize, fault: Option<Fault>) -> Response {
    if from >= blob.len() && from > 0 {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let mut bytes = blob[from..].to_vec();
    let (mut ends, mut breaks) = (bytes.len(), false);
    match fault {
        Some(Fault::Status(status)) => {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        Some(Fault::Cut(n)) => (ends, breaks) = (n.min(ends), true),
        Some(Fault::Stall(n)) => ends = n.min(ends),
        Some(Fault::Wrong(at)) => {
            let at = at.min(ends - 1);
            bytes[at] ^= 0x55;
        }
        Some(Fault::Truncated(n)) => {
            bytes.truncate(ends.saturating_sub(n));
            ends = bytes.len();
        }
        Some(Fault::Oversized(n)) => {
            bytes.resize(ends + n, 7);
            ends = bytes.len();
        }
        Some(Fault::NoRange) | None => {}
    }
    let length = bytes.len();
    let stalls = matches!(fault, Some(Fault::Stall(_)));
    let chunks: Vec<Bytes> = bytes[..ends]
        .chunks(16 << 10)
        .map(Bytes::copy_from_slice)
        .collect();
    let pace = registry.pace.load(Ordering::Relaxed);
    let told = Arc::clone(registry);
    let data = stream::iter(chunks).then(move |chunk| {
        let registry = Arc::clone(&told);
        async move {
            if let Some(pause) = (chunk.len() as u64).checked_div(pace) {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            if !*registry.up.borrow() {
                return Err(std::io::Error::other("gone"));
            }
            registry
                .sent
                .fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Ok(chunk)
        }
    });
    let end = stream::once(async move {
        if stalls {
            std::future::pending::<()>().await;
        }
        Err(std::io::Error::other("cut"))
    });
    let body = match breaks || stalls {
        true => Body::from_stream(data.chain(end)),
        false => Body::from_stream(data),
    };
    let status = match from {
        0 => StatusCode::OK,
        _ => StatusCode::PARTIAL_CONTENT,
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    if from > 0 {
        let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
        answer
            .headers_mut()
            .insert("content-range", range.parse().unwrap());
    }
    answer
}
