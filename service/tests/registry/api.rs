//! The distribution API as plain requests, polite and hostile ones.

use std::time::Duration;

use chalk_core::Digest;
use chalk_service::registry::RegistryLimits;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::fixture::{Embedded, OCI_INDEX, OCI_MANIFEST, digest, noise};

impl Embedded {
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = http.request(method, self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "").await
    }

    /// Pushes a blob in one request.
    async fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let done = self.send("POST", &path, &[], bytes.to_vec()).await;
        assert_eq!(done.status(), 201);
        assert_eq!(
            header(&done, "location"),
            format!("/v2/{repository}/blobs/{digest}")
        );
        digest
    }

    /// Pushes an image of one layer, with a subject if given.
    async fn image(&self, repository: &str, tag: &str, subject: Option<Digest>) -> Digest {
        let config = self.blob(repository, b"{}").await;
        let descriptor =
            |digest: Digest| json!({"mediaType": "a/config", "digest": digest, "size": 2});
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config),
            "layers": [],
            "annotations": {"tag": tag},
        });
        if let Some(subject) = subject {
            manifest["subject"] = descriptor(subject);
        }
        let bytes = manifest.to_string();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let kind = [("content-type", OCI_MANIFEST)];
        let put = self.send("PUT", &path, &kind, bytes.clone()).await;
        assert_eq!(put.status(), 201);
        let digest = digest(bytes.as_bytes());
        assert_eq!(header(&put, "docker-content-digest"), digest.to_string());
        let subject = subject
            .map(|subject| subject.to_string())
            .unwrap_or_default();
        assert_eq!(header(&put, "oci-subject"), subject);
        digest
    }

    /// Opens an upload.
    async fn upload(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let opened = self.send("POST", &path, &[], "").await;
        assert_eq!(opened.status(), 202);
        header(&opened, "location")
    }
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    value
        .map(|value| value.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

/// First code of an error body.
async fn code(response: Response) -> String {
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    body["errors"][0]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test]
async fn refusals_have_status_and_code() {
    let server = Embedded::start().await;
    server.image("app", "v1", None).await;
    let upload = server.upload("app").await;
    let known = digest(b"{}");
    let unknown = digest(b"unknown");
    let check = async |method: &str, path: &str, kind: &str, body: &str, status, expect: &str| {
        let headers = [("content-type", kind)];
        let response = server.send(method, path, &headers, body.to_owned()).await;
        assert_eq!(response.status().as_u16(), status, "{method} {path}");
        assert_eq!(code(response).await, expect, "{method} {path}");
    };
    check("GET", "/v2/App/tags/list", "", "", 400, "NAME_INVALID").await;
    check(
        "GET",
        "/v2/..%2f..%2fetc/tags/list",
        "",
        "",
        400,
        "NAME_INVALID",
    )
    .await;
    check("GET", "/v2/a%00b/manifests/v1", "", "", 400, "NAME_INVALID").await;
    check("GET", "/v2/_tags/manifests/v1", "", "", 400, "NAME_INVALID").await;
    check(
        "PUT",
        "/v2/app/_manifests/manifests/x",
        "",
        "{}",
        400,
        "NAME_INVALID",
    )
    .await;
    check(
        "POST",
        "/v2/a//b/blobs/uploads/",
        "",
        "",
        400,
        "NAME_INVALID",
    )
    .await;
    check("GET", "/v2/none/tags/list", "", "", 404, "NAME_UNKNOWN").await;
    check(
        "GET",
        "/v2/app/tags/list?n=x",
        "",
        "",
        400,
        "PAGINATION_NUMBER_INVALID",
    )
    .await;
    check("GET", "/v2/app", "", "", 404, "UNSUPPORTED").await;
    check("POST", "/v2/app/manifests/v1", "", "", 405, "UNSUPPORTED").await;
    check("DELETE", "/v2/", "", "", 405, "UNSUPPORTED").await;
    check(
        "GET",
        "/v2/app/manifests/v2",
        "",
        "",
        404,
        "MANIFEST_UNKNOWN",
    )
    .await;
    check(
        "GET",
        "/v2/app/manifests/.v2",
        "",
        "",
        404,
        "MANIFEST_UNKNOWN",
    )
    .await;
    check(
        "GET",
        "/v2/app/manifests/sha256:0",
        "",
        "",
        400,
        "DIGEST_INVALID",
    )
    .await;
    check(
        "GET",
        &format!("/v2/app/manifests/{known}"),
        "",
        "",
        404,
        "MANIFEST_UNKNOWN",
    )
    .await;
    check(
        "DELETE",
        "/v2/app/manifests/v2",
        "",
        "",
        404,
        "MANIFEST_UNKNOWN",
    )
    .await;
    check(
        "GET",
        &format!("/v2/app/blobs/{unknown}"),
        "",
        "",
        404,
        "BLOB_UNKNOWN",
    )
    .await;
    check(
        "GET",
        &format!("/v2/other/blobs/{known}"),
        "",
        "",
        404,
        "BLOB_UNKNOWN",
    )
    .await;
    check(
        "DELETE",
        &format!("/v2/app/blobs/{unknown}"),
        "",
        "",
        404,
        "BLOB_UNKNOWN",
    )
    .await;
    check(
        "GET",
        "/v2/app/blobs/sha512:00",
        "",
        "",
        400,
        "DIGEST_INVALID",
    )
    .await;
    check("GET", "/v2/app/referrers/x", "", "", 400, "DIGEST_INVALID").await;
    check(
        "PUT",
        "/v2/app/manifests/.v2",
        OCI_INDEX,
        "{}",
        400,
        "MANIFEST_INVALID",
    )
    .await;
    check(
        "PUT",
        "/v2/app/manifests/v2",
        OCI_INDEX,
        "no",
        400,
        "MANIFEST_INVALID",
    )
    .await;
    check(
        "PUT",
        "/v2/app/manifests/v2",
        "text/html",
        "{}",
        400,
        "MANIFEST_INVALID",
    )
    .await;
    let empty = r#"{"schemaVersion":2,"manifests":[]}"#;
    let at = format!("/v2/app/manifests/{unknown}");
    check("PUT", &at, OCI_INDEX, empty, 400, "DIGEST_INVALID").await;
    let lacking = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{unknown}","size":7}},"layers":[]}}"#
    );
    check(
        "PUT",
        "/v2/app/manifests/v2",
        OCI_MANIFEST,
        &lacking,
        404,
        "MANIFEST_BLOB_UNKNOWN",
    )
    .await;
    let elsewhere = lacking.replace(&unknown.to_string(), &known.to_string());
    check(
        "PUT",
        "/v2/b/manifests/v2",
        OCI_MANIFEST,
        &elsewhere,
        404,
        "MANIFEST_BLOB_UNKNOWN",
    )
    .await;
    let large = format!(
        r#"{{"schemaVersion":2,"manifests":[],"x":"{}"}}"#,
        "x".repeat(4 << 20)
    );
    check(
        "PUT",
        "/v2/app/manifests/v2",
        OCI_INDEX,
        &large,
        413,
        "SIZE_INVALID",
    )
    .await;
    let bad = format!("/v2/app/blobs/uploads/?digest={unknown}");
    check("POST", &bad, "", "content", 400, "DIGEST_INVALID").await;
    check(
        "POST",
        "/v2/app/blobs/uploads/?digest=md5:1",
        "",
        "x",
        400,
        "DIGEST_INVALID",
    )
    .await;
    check("PUT", &upload, "", "x", 400, "DIGEST_INVALID").await;
    let elsewhere = upload.replace("/app/", "/other/");
    check("PATCH", &elsewhere, "", "x", 404, "BLOB_UPLOAD_UNKNOWN").await;
    let climb = "/v2/app/blobs/uploads/..%2F..%2Fsecret";
    check("GET", climb, "", "", 404, "UNSUPPORTED").await;
    check(
        "GET",
        "/v2/app/blobs/uploads/1",
        "",
        "",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    )
    .await;
    let files: Vec<_> = std::fs::read_dir(server.dir.path()).unwrap().collect();
    assert_eq!(files.len(), 2, "nothing but store and registry");
}

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
async fn blobs_by_range_and_etag() {
    let server = Embedded::start().await;
    let at = format!("/v2/app/blobs/{}", server.blob("app", b"0123456789").await);
    let check = async |range: &str, status: u16, content_range: &str, expect: &str| {
        let got = server.send("GET", &at, &[("range", range)], "").await;
        assert_eq!(got.status().as_u16(), status, "{range}");
        assert_eq!(header(&got, "content-range"), content_range, "{range}");
        assert_eq!(got.text().await.unwrap(), expect, "{range}");
    };
    check("bytes=2-4", 206, "bytes 2-4/10", "234").await;
    check("bytes=8-", 206, "bytes 8-9/10", "89").await;
    check("bytes=-1", 206, "bytes 9-9/10", "9").await;
    check("bytes=10-", 416, "bytes */10", "").await;
    check("bytes=0-0,2-2", 200, "", "0123456789").await;
    let head = server.send("HEAD", &at.replace(':', "%3A"), &[], "").await;
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-length")),
        (200, "10".into())
    );
    let etag = header(&head, "etag");
    let known = server
        .send("GET", &at, &[("if-none-match", &etag)], "")
        .await;
    assert_eq!(known.status(), 304);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Embedded::start().await;
    for tag in ["v3", "V1", "v10", "v2"] {
        server.image("app", tag, None).await;
    }
    server.blob("a/blobs/uploads", b"x").await;
    let mut path = "/v2/app/tags/list?n=3".to_owned();
    let mut pages = Vec::new();
    while !path.is_empty() {
        let page = server.get(&path).await;
        let link = header(&page, "link");
        let body: Value = serde_json::from_str(&page.text().await.unwrap()).unwrap();
        assert_eq!(body["name"], "app");
        pages.push(body["tags"].clone());
        path = link
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap()
            .to_owned();
    }
    assert_eq!(pages, [json!(["V1", "v10", "v2"]), json!(["v3"])]);
    let catalog = server.get("/v2/_catalog?n=1").await;
    assert_eq!(
        header(&catalog, "link"),
        "</v2/_catalog?n=1&last=a/blobs/uploads>; rel=\"next\""
    );
    assert_eq!(
        catalog.text().await.unwrap(),
        r#"{"repositories":["a/blobs/uploads"]}"#
    );
}

#[tokio::test]
async fn referrers_follow_their_subject() {
    let server = Embedded::start().await;
    let subject = server.image("app", "v1", None).await;
    let note = server.image("app", "note", Some(subject)).await;
    let list = async |query: &str| {
        let got = server
            .get(&format!("/v2/app/referrers/{subject}{query}"))
            .await;
        assert_eq!(got.status(), 200);
        assert_eq!(header(&got, "content-type"), OCI_INDEX);
        let applied = header(&got, "oci-filters-applied");
        let body: Value = serde_json::from_str(&got.text().await.unwrap()).unwrap();
        (body["manifests"].clone(), applied)
    };
    let (all, applied) = list("").await;
    assert_eq!(all[0]["digest"], note.to_string());
    assert_eq!(all[0]["artifactType"], "a/config");
    assert_eq!(all[0]["annotations"]["tag"], "note");
    assert_eq!(applied, "");
    let (some, applied) = list("?artifactType=a%2Fconfig").await;
    assert_eq!((&some, applied.as_str()), (&all, "artifactType"));
    assert_eq!(list("?artifactType=a/b").await.0, json!([]));
    let gone = server
        .send("DELETE", &format!("/v2/app/manifests/{note}"), &[], "")
        .await;
    assert_eq!(gone.status(), 202);
    assert_eq!(list("").await.0, json!([]));
    assert_eq!(
        server.get("/v2/app/manifests/note").await.status(),
        404,
        "its tag goes along"
    );
    let nobody = server.get(&format!("/v2/none/referrers/{subject}")).await;
    assert_eq!(nobody.status(), 200);
}

#[tokio::test]
async fn rotten_blob_breaks_off_and_can_be_pushed_anew() {
    let server = Embedded::start().await;
    let content = noise(1 << 20);
    let digest = server.blob("app", &content).await;
    let at = format!("/v2/app/blobs/{digest}");
    let path = server.registry.blobs().path(&digest);
    let mut rotten = content.clone();
    rotten[500_000] ^= 1;
    std::fs::write(&path, rotten).unwrap();
    assert!(server.get(&at).await.bytes().await.is_err(), "never whole");
    assert_eq!(server.get(&at).await.status(), 404);
    server.blob("app", &content).await;
    assert_eq!(server.get(&at).await.bytes().await.unwrap(), content);

    let manifest = server.image("app", "v1", None).await;
    std::fs::write(server.registry.blobs().path(&manifest), "{}").unwrap();
    assert_eq!(server.get("/v2/app/manifests/v1").await.status(), 404);
    server.image("app", "v1", None).await;
    assert_eq!(server.get("/v2/app/manifests/v1").await.status(), 200);
}

#[tokio::test]
async fn registry_outlives_a_restart() {
    let server = Embedded::start().await;
    let manifest = server.image("team/app", "v1", None).await;
    let blobs = chalk_store::BlobStore::open(server.dir.path().join("store")).unwrap();
    let dir = server.dir.path().join("registry");
    let again = chalk_service::registry::Registry::open(dir, blobs).unwrap();
    assert_eq!(again.repositories().unwrap(), ["team/app"]);
    assert_eq!(again.tags("team/app").unwrap(), ["v1"]);
    assert_eq!(again.manifests("team/app").unwrap(), [manifest]);
    assert_eq!(again.linked("team/app").unwrap(), [digest(b"{}")]);
    let found = again.manifest("team/app", "v1").unwrap().unwrap();
    assert_eq!(
        (found.digest, found.media_type.as_str()),
        (manifest, OCI_MANIFEST)
    );
    assert!(again.delete_blob("team/app", &digest(b"{}")).unwrap());
    assert_eq!(again.blob("team/app", &digest(b"{}")).unwrap(), None);
}
