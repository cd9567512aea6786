//! Uploads as plain requests: in order, out of order, broken off, too large.

use std::time::Duration;

use chalk_service::registry::RegistryLimits;
use tokio::io::AsyncWriteExt as _;

use crate::fixture::{Embedded, digest, noise};
use crate::requests::{code, header};

#[tokio::test]
async fn chunks_come_in_order() {
    let server = Embedded::start().await;
    let upload = server.upload("app").await;
    let content = noise(300_000);
    let (first, second) = content.split_at(100_000);
    let range = |start: usize, len: usize| format!("{start}-{}", start + len - 1);
    let patch = async |start: usize, bytes: &[u8]| {
        let range = range(start, bytes.len());
        server
            .send(
                "PATCH",
                &upload,
                &[("content-range", &range)],
                bytes.to_vec(),
            )
            .await
    };
    let done = patch(0, first).await;
    assert_eq!(
        (done.status().as_u16(), header(&done, "range")),
        (202, range(0, 100_000))
    );
    for wrong in [0, 99_999, 100_001] {
        let refused = patch(wrong, second).await;
        assert_eq!(refused.status(), 416, "{wrong}");
        assert_eq!(header(&refused, "range"), range(0, 100_000));
        assert_eq!(header(&refused, "location"), upload);
    }
    let short = [("content-range", "100000-100001")];
    let refused = server.send("PATCH", &upload, &short, second.to_vec()).await;
    assert_eq!(refused.status(), 400);
    let status = server.get(&upload).await;
    assert_eq!(
        (status.status().as_u16(), header(&status, "range")),
        (204, range(0, 100_000))
    );
    let whole = digest(&content);
    let end = format!("{upload}?digest={whole}");
    let last = range(100_000, 200_000);
    let done = server
        .send("PUT", &end, &[("content-range", &last)], second.to_vec())
        .await;
    assert_eq!(done.status(), 201);
    assert_eq!(header(&done, "docker-content-digest"), whole.to_string());
    let got = server
        .get(&format!("/v2/app/blobs/{whole}"))
        .await
        .bytes()
        .await
        .unwrap();
    assert_eq!(got, content);
    assert_eq!(server.get(&upload).await.status(), 404);
}

#[tokio::test]
async fn uploads_end_in_every_way() {
    let server = Embedded::start().await;
    let cancelled = server.upload("app").await;
    assert_eq!(
        server.send("DELETE", &cancelled, &[], "").await.status(),
        204
    );
    assert_eq!(
        server.send("DELETE", &cancelled, &[], "").await.status(),
        404
    );

    let wrong = server.upload("app").await;
    let end = format!("{wrong}?digest={}", digest(b"other"));
    assert_eq!(server.send("PUT", &end, &[], "content").await.status(), 400);
    assert_eq!(
        server.send("PUT", &end, &[], "other").await.status(),
        404,
        "it is gone"
    );

    let (one, empty) = (
        server.blob("app", b"x").await,
        server.blob("app", b"").await,
    );
    let got = server.get(&format!("/v2/app/blobs/{empty}")).await;
    assert_eq!(
        (got.status().as_u16(), got.content_length()),
        (200, Some(0))
    );

    let mount = async |query: &str| {
        let path = format!("/v2/other/blobs/uploads/?{query}");
        server.send("POST", &path, &[], "").await.status().as_u16()
    };
    assert_eq!(mount(&format!("mount={one}&from=nowhere")).await, 202);
    assert_eq!(mount(&format!("mount={one}&from=../app")).await, 202);
    assert_eq!(
        mount(&format!("mount={}&from=app", digest(b"none"))).await,
        202
    );
    assert_eq!(mount("mount=sha512:00&from=app").await, 202);
    assert_eq!(
        server.get(&format!("/v2/other/blobs/{one}")).await.status(),
        404
    );
    assert_eq!(mount(&format!("mount={one}&from=app")).await, 201);
    assert_eq!(mount(&format!("mount={empty}")).await, 201);
    assert_eq!(
        server.get(&format!("/v2/other/blobs/{one}")).await.status(),
        200
    );
}

#[tokio::test]
async fn client_that_vanishes_leaves_a_resumable_upload() {
    let server = Embedded::start().await;
    let upload = server.upload("app").await;
    let content = noise(200_000);
    let mut socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = format!("PATCH {upload} HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&content[..150_000]).await.unwrap();
    socket.flush().await.unwrap();
    drop(socket);
    // The server notices in its own time; a new request waits for that.
    let mut received = String::new();
    for _ in 0..500 {
        received = header(&server.get(&upload).await, "range");
        if received == "0-149999" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(received, "0-149999");
    let whole = digest(&content);
    let end = format!("{upload}?digest={whole}");
    let rest = content[150_000..].to_vec();
    let range = [("content-range", "150000-199999")];
    assert_eq!(server.send("PUT", &end, &range, rest).await.status(), 201);
}

#[tokio::test]
async fn limits_hold() {
    let limits = RegistryLimits {
        blob_bytes: 1000,
        uploads: 2,
        ..RegistryLimits::default()
    };
    let server = Embedded::with(limits, |router| router).await;
    let large = noise(1001);
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest(&large));
    let refused = server.send("POST", &path, &[], large.clone()).await;
    assert_eq!(
        (refused.status().as_u16(), code(refused).await.as_str()),
        (413, "SIZE_INVALID")
    );
    // Without a length, it is found on the way.
    let parts = futures_util::stream::iter([Ok::<_, std::io::Error>(large)]);
    let refused = server
        .send("POST", &path, &[], reqwest::Body::wrap_stream(parts))
        .await;
    assert_eq!(refused.status(), 413);
    let left = std::fs::read_dir(server.registry.blobs().root().join("uploads")).unwrap();
    assert_eq!(left.count(), 0);

    let first = server.upload("app").await;
    server.upload("app").await;
    let refused = server.send("POST", "/v2/app/blobs/uploads/", &[], "").await;
    assert_eq!(refused.status(), 429);
    assert!(!header(&refused, "retry-after").is_empty());
    server.send("DELETE", &first, &[], "").await;
    server.upload("app").await;
}

#[tokio::test]
async fn uploads_expire_by_themselves() {
    let limits = RegistryLimits {
        upload_expiry: Duration::from_secs(1),
        ..RegistryLimits::default()
    };
    let server = Embedded::with(limits, |router| router).await;
    let upload = server.upload("app").await;
    // Nobody starts another: they are looked for all the same.
    let gone = async {
        while server.get(&upload).await.status() != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
    let left = std::fs::read_dir(server.registry.blobs().root().join("uploads")).unwrap();
    assert_eq!(left.count(), 0);
}
