//! Peers: other nodes that serve their blobs, well or badly.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::StatusCode;
use chalk_node::agent::Access;
use chalk_node::cache::{Cache, CacheSettings};
use chalk_node::mirror::{self, Bounds};
use tokio::sync::watch;

use crate::registry::{Fault, Image, Layer, Packing, Registry};
use crate::{access, assert_whole, settings, silent, source, with_peers};

fn mirroring(dir: &std::path::Path) -> CacheSettings {
    CacheSettings {
        mirror_bytes: 64 << 20,
        ..settings(dir)
    }
}

/// Serves a cache as a node does; gives its URL and the switch of its token.
async fn serve(cache: &Cache) -> (String, watch::Sender<Option<Access>>) {
    serve_within(cache, Bounds::default()).await
}

async fn serve_within(cache: &Cache, bounds: Bounds) -> (String, watch::Sender<Option<Access>>) {
    let access = watch::Sender::new(Some(access()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(mirror::serve(
        listener,
        cache.clone(),
        access.subscribe(),
        bounds,
    ));
    (format!("http://{address}"), access)
}

fn two_layers() -> Image {
    Image::new(
        "two",
        &[
            Layer::noise(1, 1_500_000, Packing::Zstd),
            Layer::noise(2, 500_000, Packing::Gzip),
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_fills_while_it_is_filled() {
    let image = two_layers();
    let registry = Registry::start(&[&image]).await;
    registry.slow_to(5_000);
    let temp = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    let mut before: Vec<String> = Vec::new();
    let mut pulls = Vec::new();
    for n in 0..4 {
        let cache = crate::open(CacheSettings {
            // Longer than a mirror lets a blob wait that is queued there.
            peer_idle: Duration::from_secs(10),
            ..mirroring(&temp.path().join(n.to_string()))
        });
        let (url, access) = serve(&cache).await;
        let source = with_peers(source(&registry, &image), &before);
        let progress = silent();
        let mut seen = progress.subscribe();
        let pulling = cache.clone();
        pulls.push(tokio::spawn(async move {
            pulling.ensure(&source, None, &progress).await.unwrap()
        }));
        // The next node is told when this one pulls.
        seen.wait_for(|p| p.total > 0).await.unwrap();
        before = vec![url];
        nodes.push((cache, access));
    }
    let mut receipts = Vec::new();
    for pull in pulls {
        receipts.push(pull.await.unwrap());
    }
    let layers: u64 = image.layers.iter().map(|l| l.blob.len() as u64).sum();
    let small = (image.manifest.len() + image.config.len()) as u64;
    assert_eq!(receipts[0].bytes_from_mirrors, 0);
    for receipt in &receipts[1..] {
        assert_eq!(
            (receipt.bytes_from_mirrors, receipt.bytes_fetched),
            (layers, layers + small)
        );
    }
    // The registry sent each layer once (and configs, which are blobs, too).
    assert!(registry.sent() < layers + 10_000, "{}", registry.sent());
    for (cache, _) in &nodes {
        assert_whole(cache, &image);
    }
}

/// The second source of bytes is the registry; the first one fails in some way.
async fn passed_over(faults: &[Fault]) -> (Vec<Option<String>>, Vec<Option<String>>) {
    let image = Image::new("one", &[Layer::noise(3, 1_000_000, Packing::Zstd)]);
    let layer = image.layers[0].digest;
    let registry = Registry::start(&[&image]).await;
    let peer = Registry::start(&[&image]).await;
    peer.fail(layer, faults);
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(mirroring(temp.path()));
    let source = with_peers(source(&registry, &image), &[peer.url()]);
    cache.ensure(&source, None, &silent()).await.unwrap();
    assert_whole(&cache, &image);
    (peer.asked(&layer), registry.asked(&layer))
}

fn all() -> Vec<Option<String>> {
    vec![None]
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_send_wrong_bytes_are_not_asked_again() {
    for at in [0, 17, 700_000] {
        let (peer, registry) = passed_over(&[Fault::Wrong(at)]).await;
        assert_eq!((peer, registry), (all(), all()), "{at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lied_once_is_asked_for_no_other_layer() {
    let first = Image::new("first", &[Layer::noise(3, 1_000_000, Packing::Zstd)]);
    let then = two_layers();
    let registry = Registry::start(&[&first, &then]).await;
    let peer = Registry::start(&[&first, &then]).await;
    peer.fail(first.layers[0].digest, &[Fault::Wrong(17)]);
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(mirroring(temp.path()));
    for image in [&first, &then] {
        let source = with_peers(source(&registry, image), &[peer.url()]);
        cache.ensure(&source, None, &silent()).await.unwrap();
        assert_whole(&cache, image);
    }
    assert_eq!(peer.asked(&first.layers[0].digest), all());
    for layer in &then.layers {
        assert_eq!(peer.asked(&layer.digest).len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_stall_break_or_end_early_are_left() {
    for fault in [Fault::Stall(250_000), Fault::Cut(250_000)] {
        let (peer, registry) = passed_over(&[fault]).await;
        assert_eq!(peer, all(), "{fault:?}");
        // The registry sends only what the peer did not.
        assert!(
            registry.len() == 1 && registry[0].is_some(),
            "{fault:?}: {registry:?}"
        );
    }
    let (peer, registry) = passed_over(&[Fault::Truncated(10)]).await;
    assert_eq!(peer, all());
    assert_eq!(registry.len(), 1);
    assert!(registry[0].is_some());
    let (peer, registry) = passed_over(&[Fault::Oversized(10)]).await;
    assert_eq!((peer.len(), registry.len()), (1, 1));
    for status in [404, 500, 401] {
        let (peer, registry) = passed_over(&[Fault::Status(status)]).await;
        assert_eq!((peer, registry), (all(), all()), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_about_to_have_it_is_waited_for() {
    let queued = [Fault::Status(503), Fault::Status(503)];
    let (peer, registry) = passed_over(&queued).await;
    assert_eq!((peer.len(), registry.len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_not_there_cost_little() {
    let image = two_layers();
    let registry = Registry::start(&[&image]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(mirroring(temp.path()));
    // Nobody listens; and one that takes connections but never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = [
        "http://127.0.0.1:1".to_owned(),
        format!("http://{}", deaf.local_addr().unwrap()),
        "no url at all".to_owned(),
    ];
    let source = with_peers(source(&registry, &image), &peers);
    let progress = silent();
    let pull = cache.ensure(&source, None, &progress);
    let receipt = tokio::time::timeout(Duration::from_secs(20), pull).await;
    assert_eq!(receipt.unwrap().unwrap().bytes_from_mirrors, 0);
    assert_whole(&cache, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_serves_blobs_and_nothing_else() {
    let image = two_layers();
    let registry = Registry::start(&[&image]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(mirroring(temp.path()));
    cache
        .ensure(&source(&registry, &image), None, &silent())
        .await
        .unwrap();
    let (url, access) = serve(&cache).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let layer = &image.layers[0];
    let ask = async |method: reqwest::Method, path: String, range: &str, token: &str| {
        let mut request = http
            .request(method, format!("{url}{path}"))
            .bearer_auth(token);
        if !range.is_empty() {
            request = request.header("range", range);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        (status, headers, answer.bytes().await.unwrap())
    };
    let get = reqwest::Method::GET;
    let path = |name: &str| format!("/v2/{name}/blobs/{}", layer.digest);
    let (status, headers, body) = ask(get.clone(), path("any/name"), "", "peers").await;
    assert_eq!((status, &body), (StatusCode::OK, &layer.blob));
    assert_eq!(headers["docker-content-digest"], layer.digest.to_string());
    let (status, headers, body) = ask(get.clone(), path("n"), "bytes=1000-1999", "peers").await;
    assert_eq!(
        (status, &body[..]),
        (StatusCode::PARTIAL_CONTENT, &layer.blob[1000..2000])
    );
    let whole = layer.blob.len();
    assert_eq!(headers["content-range"], format!("bytes 1000-1999/{whole}"));
    let (status, headers, body) = ask(reqwest::Method::HEAD, path("n"), "", "peers").await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert_eq!(headers["content-length"], whole.to_string());
    let beyond = format!("bytes={whole}-");
    let (status, ..) = ask(get.clone(), path("n"), &beyond, "peers").await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    for (method, path, token, expect) in [
        (get.clone(), path("n"), "wrong", 401),
        (get.clone(), path("n"), "", 401),
        (
            get.clone(),
            format!("/v2/n/manifests/{}", image.digest),
            "peers",
            404,
        ),
        (
            get.clone(),
            format!("/v2/n/blobs/{}", image.digest),
            "peers",
            404,
        ),
        (get.clone(), path("..%2f.."), "peers", 404),
        (get.clone(), "/v2/n/tags/list".into(), "peers", 404),
        (get.clone(), "/etc/passwd".into(), "peers", 404),
        (reqwest::Method::PUT, path("n"), "peers", 405),
        (reqwest::Method::DELETE, path("n"), "peers", 405),
        (
            reqwest::Method::POST,
            "/v2/n/blobs/uploads/".into(),
            "peers",
            405,
        ),
    ] {
        let (status, ..) = ask(method.clone(), path.clone(), "", token).await;
        assert_eq!(status.as_u16(), expect, "{method} {path} by {token:?}");
    }
    access.send_replace(None);
    let (status, ..) = ask(get, path("n"), "", "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

/// A connection to the mirror that has sent `text`.
fn connection(url: &str, text: &str) -> std::net::TcpStream {
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(&url["http://".len()..]).unwrap();
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).unwrap();
    socket.write_all(text.as_bytes()).unwrap();
    socket
}

/// What comes on a connection until it ends, and whether it ended well.
fn rest(mut socket: std::net::TcpStream) -> (Vec<u8>, bool) {
    use std::io::{ErrorKind, Read};
    let mut bytes = Vec::new();
    let ended = socket.read_to_end(&mut bytes);
    if let Err(error) = &ended {
        let kind = error.kind();
        assert!(
            kind != ErrorKind::WouldBlock && kind != ErrorKind::TimedOut,
            "{error}"
        );
    }
    (bytes, ended.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_nothing_are_given_up() {
    const MIB: usize = 1 << 20;
    let image = Image::new("large", &[Layer::noise(5, 32 * MIB, Packing::Plain)]);
    let registry = Registry::start(&[&image]).await;
    let temp = tempfile::tempdir().unwrap();
    let cache = crate::open(mirroring(temp.path()));
    cache
        .ensure(&source(&registry, &image), None, &silent())
        .await
        .unwrap();
    let bounds = Bounds {
        connections: 1,
        head: Duration::from_millis(300),
        sending: Duration::from_millis(300),
    };
    let (url, _access) = serve_within(&cache, bounds).await;
    let get = format!(
        "GET /v2/n/blobs/{} HTTP/1.1\r\nhost: n\r\nauthorization: Bearer peers\r\n\r\n",
        image.layers[0].digest
    );
    let sent = tokio::task::spawn_blocking(move || {
        // One that says nothing, one that begins to say something, and one that reads nothing, each
        // of which has to be gone for the next to have its turn.
        let silent = connection(&url, "");
        let slow = connection(&url, "GET /v2/ HT");
        let deaf = connection(&url, &get);
        let last = connection(
            &url,
            &get.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"),
        );
        let whole = rest(last);
        for idle in [silent, slow] {
            let (answer, _) = rest(idle);
            assert!(answer.len() < 1000, "{}", answer.len());
        }
        (rest(deaf).0.len(), whole)
    });
    let (to_the_deaf, (whole, ended)) = sent.await.unwrap();
    assert!(to_the_deaf < 32 * MIB, "{to_the_deaf}");
    assert!(ended && whole.ends_with(&image.layers[0].blob));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_come_at_once_keep_to_the_budget() {
    let temp = tempfile::tempdir().unwrap();
    let layers: Vec<Layer> = (0..4)
        .map(|seed| Layer::noise(seed, 1 << 20, Packing::Plain))
        .collect();
    let image = Image::new("four", &layers);
    let registry = Registry::start(&[&image]).await;
    registry.slow_to(10_000);
    let cache = crate::open(CacheSettings {
        mirror_bytes: 5 << 19,
        parallel: 4,
        ..settings(temp.path())
    });
    cache
        .ensure(&source(&registry, &image), None, &silent())
        .await
        .unwrap();
    let blobs = std::fs::read_dir(temp.path().join("blobs")).unwrap();
    let kept: u64 = blobs.map(|b| b.unwrap().metadata().unwrap().len()).sum();
    assert!((1 << 20..=5 << 19).contains(&kept), "{kept}");
    // The room of those that came is there for the next.
    let other = Image::new("other", &[Layer::noise(9, 2 << 20, Packing::Plain)]);
    let registry = Registry::start(&[&other]).await;
    cache
        .ensure(&source(&registry, &other), None, &silent())
        .await
        .unwrap();
    let blob = temp.path().join("blobs").join(other.layers[0].digest.hex());
    assert!(blob.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_blobs_have_a_budget_of_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let images: Vec<Image> = (0..4)
        .map(|n| {
            Image::new(
                &format!("i{n}"),
                &[Layer::noise(n, 1 << 20, Packing::Plain)],
            )
        })
        .collect();
    let all: Vec<&Image> = images.iter().collect();
    let registry = Registry::start(&all).await;
    let small = CacheSettings {
        mirror_bytes: 5 << 19,
        ..settings(temp.path())
    };
    let cache = crate::open(small.clone());
    let blobs = || {
        std::fs::read_dir(temp.path().join("blobs"))
            .unwrap()
            .count()
    };
    for (n, image) in images.iter().enumerate() {
        cache
            .ensure(&source(&registry, image), None, &silent())
            .await
            .unwrap();
        assert_eq!(blobs(), (n + 1).min(2));
    }
    assert_eq!(cache.usage().images, 4);
    drop(cache);
    // They outlive a restart of the node, and shrink to a smaller budget.
    let cache = crate::open(small.clone());
    assert_eq!(blobs(), 2);
    drop(cache);
    let cache = Cache::open(CacheSettings {
        mirror_bytes: 0,
        ..small
    })
    .unwrap();
    assert_eq!(blobs(), 0);
    for image in &images {
        assert_whole(&cache, image);
    }
}
