//! The cache of a node against registries and peers that do as they please.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests state what they expect by panicking"
)]

mod crashes;
mod eviction;
mod faults;
mod measure;
mod peers;
mod pulls;
mod registry;
mod reports;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chalk_core::Digest;
use chalk_node::CacheForm;
use chalk_node::agent::{Access, PullProgress};
use chalk_node::cache::{Cache, CacheError, CacheSettings, ImageSource, LeasedLayer};
use chalk_store::registry::{Client, CredentialSource, Options, Retry};
use tokio::sync::watch;

use registry::{Image, Registry};

/// Settings that make tests of faults short.
fn settings(dir: &Path) -> CacheSettings {
    CacheSettings {
        form: CacheForm::Auto,
        attempts: 4,
        first_delay: Duration::from_millis(20),
        peer_idle: Duration::from_millis(400),
        peer_patience: Duration::from_secs(5),
        ..CacheSettings::new(dir)
    }
}

/// Opens a cache, waiting for pulls of its last life that are still being given up.
#[allow(clippy::needless_pass_by_value, reason = "called as `Cache::open` is")]
fn open(settings: CacheSettings) -> Cache {
    loop {
        match Cache::open(settings.clone()) {
            Err(CacheError::Locked(_)) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
}

fn client() -> Client {
    Client::new(Options {
        credentials: CredentialSource::Anonymous,
        idle_timeout: Duration::from_millis(700),
        connect_timeout: Duration::from_secs(2),
        retry: Retry {
            attempts: 3,
            first_delay: Duration::from_millis(20),
            max_delay: Duration::from_millis(100),
        },
        ..Options::default()
    })
    .unwrap()
}

/// What a node gets from its service.
fn access() -> Access {
    Access {
        url: "http://service".into(),
        token: "node".into(),
        peer_token: "peers".into(),
    }
}

/// Where to get `image`; without peers.
fn source(registry: &Registry, image: &Image) -> ImageSource {
    let (_, peers) = watch::channel(Vec::new());
    ImageSource {
        digest: image.digest,
        image_hash: None,
        name: image.name.clone(),
        repository: format!("{}/some/image", registry.address).parse().unwrap(),
        client: client(),
        peers,
        access: watch::channel(Some(access())).1,
    }
}

fn with_peers(mut source: ImageSource, peers: &[String]) -> ImageSource {
    source.peers = watch::channel(peers.to_vec()).1;
    source
}

fn silent() -> watch::Sender<PullProgress> {
    watch::Sender::new(PullProgress::default())
}

/// The bytes that a finished layer of the cache has on disk.
fn on_disk(layer: &LeasedLayer) -> Vec<u8> {
    std::fs::read(&layer.path).unwrap()
}

/// Checks that each layer of a leased image is what its blob makes, byte for byte.
fn assert_whole(cache: &Cache, image: &Image) {
    let lease = cache.lease(&image.digest).unwrap();
    let digests: Vec<Digest> = lease.layers().iter().map(|layer| layer.digest).collect();
    let expect: Vec<Digest> = image.layers.iter().map(|layer| layer.digest).collect();
    assert_eq!(digests, expect);
    for (layer, made) in lease.layers().iter().zip(&image.layers) {
        assert!(on_disk(layer) == made.erofs(), "{}", layer.digest);
    }
}

/// Names of layers below the cache's directory, unfinished ones included.
fn layer_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("layers")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An image that has been pulled into a fresh cache.
async fn pulled(
    temp: &Path,
    settings: CacheSettings,
    image: &Image,
) -> (Arc<Registry>, Cache, ImageSource) {
    let _ = temp;
    let registry = Registry::start(&[image]).await;
    let cache = open(settings);
    let source = source(&registry, image);
    cache.ensure(&source, None, &silent()).await.unwrap();
    (registry, cache, source)
}
