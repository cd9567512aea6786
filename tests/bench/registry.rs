//! The embedded registry against `docker-registry`: the same client, the same bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chalk_core::Digest;
use chalk_tests::{Distribution, Service, World};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::json;

use crate::process::processor_seconds;
use crate::row::{Aim, Row, Times, rounds};
use crate::wire::{Connection, load};

/// Runs of each.
const ROUNDS: usize = 3;
/// Blobs of one run.
const BLOBS: usize = 300;
/// Bytes of one.
const BLOB: usize = 1_000_000;
/// Pushed at once.
const PUSHES: usize = 8;
/// Requests of one run.
const HEADS: usize = 20_000;
/// On the way at once.
const HEADS_AT_ONCE: usize = 32;
const REPOSITORY: &str = "bench/registry";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry that is asked.
struct Registry {
    address: String,
    headers: String,
}

impl Registry {
    fn ours(service: &Service) -> Self {
        let login = STANDARD.encode(format!("chalk:{}", service.token()));
        Self {
            address: service.address().to_owned(),
            headers: format!("authorization: Basic {login}\r\n"),
        }
    }

    fn theirs(registry: &Distribution) -> Self {
        Self {
            address: registry.address().to_owned(),
            headers: String::new(),
        }
    }

    /// Pushes a blob as clients do: a session, then all of its bytes.
    fn push(&self, connection: &mut Connection, bytes: &[u8]) -> Digest {
        let uploads = format!("/v2/{REPOSITORY}/blobs/uploads/");
        let begun = connection.ask("POST", &uploads, &self.headers, b"");
        assert_eq!(begun.status, 202);
        let place = begun.location.expect("a session");
        let place = place.split_once("/v2/").expect("a place").1;
        let digest = Digest::of(bytes);
        let mark = if place.contains('?') { '&' } else { '?' };
        let put = format!("/v2/{place}{mark}digest={digest}");
        let binary = format!("{}content-type: application/octet-stream\r\n", self.headers);
        let done = connection.ask("PUT", &put, &binary, bytes);
        assert_eq!(done.status, 201);
        digest
    }
}

/// Pushes of blobs that nobody has yet.
pub(crate) fn pushes(world: &World) -> Vec<Row> {
    let service = world.start_empty("bench-registry", &[("prewarm.images", "")]);
    let distribution = Distribution::start(&world.folder("bench-distribution"));
    let registries = [Registry::ours(&service), Registry::theirs(&distribution)];
    let mut random = StdRng::seed_from_u64(4);
    let mut rates = [vec![], vec![]];
    for _ in 0..rounds(ROUNDS) {
        let blobs: Vec<Vec<u8>> = (0..BLOBS)
            .map(|_| {
                let mut blob = vec![0; BLOB];
                random.fill_bytes(&mut blob);
                blob
            })
            .collect();
        for (registry, rates) in registries.iter().zip(&mut rates) {
            let pushed = load(&registry.address, PUSHES, BLOBS, |connection, number| {
                registry.push(connection, &blobs[number]);
            });
            rates.push(BLOBS as f64 / pushed.seconds);
            // Each is there, whole.
            let mut connection = Connection::open(&registry.address);
            for blob in &blobs {
                let path = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(blob));
                let found = connection.ask("GET", &path, &registry.headers, b"");
                assert_eq!((found.status, found.body == *blob), (200, true));
            }
        }
    }
    let [ours, theirs] = rates.map(|rates| Times::of(rates).median());
    vec![
        Row::against(
            "1 MB blobs pushed, durable, against `docker-registry`",
            "blobs/s",
            ours,
            theirs,
            Aim::Least(3.0),
        )
        .note(format!(
            "{PUSHES} at once, POST and PUT; {BLOBS} in a run; disk of the checkout"
        )),
    ]
}

/// Questions for a manifest by its tag.
pub(crate) fn heads(world: &World) -> Vec<Row> {
    let service = world.start_empty("bench-registry", &[("prewarm.images", "")]);
    let distribution = Distribution::start(&world.folder("bench-distribution"));
    let registries = [Registry::ours(&service), Registry::theirs(&distribution)];
    let path = format!("/v2/{REPOSITORY}/manifests/v1");
    for registry in &registries {
        let mut connection = Connection::open(&registry.address);
        let config = b"{}";
        let digest = registry.push(&mut connection, config);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest, "size": config.len()}});
        let headers = format!("{}content-type: {MANIFEST}\r\n", registry.headers);
        let put = connection.ask("PUT", &path, &headers, manifest.to_string().as_bytes());
        assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
    }
    let (mut rates, mut processor) = ([vec![], vec![]], vec![]);
    for _ in 0..rounds(ROUNDS) {
        for (at, registry) in registries.iter().enumerate() {
            let headers = format!("{}accept: {MANIFEST}\r\n", registry.headers);
            let before = processor_seconds(service.pid());
            let asked = load(&registry.address, HEADS_AT_ONCE, HEADS, |connection, _| {
                assert_eq!(connection.ask("HEAD", &path, &headers, b"").status, 200);
            });
            rates[at].push(HEADS as f64 / asked.seconds);
            if at == 0 {
                let used = processor_seconds(service.pid()) - before;
                processor.push(used / HEADS as f64 * 1e6);
            }
        }
    }
    let [ours, theirs] = rates.map(|rates| Times::of(rates).median());
    let processor = Times::of(processor).median();
    vec![
        Row::against(
            "manifest HEADs by tag, against `docker-registry`",
            "requests/s",
            ours,
            theirs,
            Aim::Least(8.0),
        )
        .note(format!(
            "{HEADS_AT_ONCE} at once over kept connections; ours takes {processor:.0} µs of a processor each"
        )),
    ]
}
