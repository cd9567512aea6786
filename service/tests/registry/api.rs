//! The distribution API as plain requests, polite and hostile ones.

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_service::registry::Regional as _;
use serde_json::{Value, json};

use crate::fixture::{Embedded, OCI_INDEX, OCI_MANIFEST, digest, noise};
use crate::requests::{code, header};

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
    check("GET", "/v2/app/tags/list?n=x", "", "", 400, "UNSUPPORTED").await;
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
    assert!(server.breaks_off(&at).await, "never whole");
    assert_eq!(server.get(&at).await.status(), 404);
    server.blob("app", &content).await;
    assert_eq!(server.get(&at).await.bytes().await.unwrap(), content);

    // By another algorithm the bytes are held against both digests.
    let name = AnyDigest::of(Algorithm::Sha512, &content);
    let push = format!("/v2/app/blobs/uploads/?digest={name}");
    let done = server.send("POST", &push, &[], content.clone()).await;
    assert_eq!(done.status(), 201);
    let at = format!("/v2/app/blobs/{name}");
    let record = server.registry.blobs().root();
    let record = record.join("names/sha512").join(name.hex());
    for rot in [&path, &record] {
        let sound = std::fs::read(rot).unwrap();
        match rot == &record {
            true => std::fs::write(rot, server.blob("app", b"other").await.to_string()),
            false => std::fs::write(rot, content.iter().rev().copied().collect::<Vec<u8>>()),
        }
        .unwrap();
        assert!(server.breaks_off(&at).await, "never whole");
        assert_eq!(server.get(&at).await.status(), 404);
        let done = server.send("POST", &push, &[], content.clone()).await;
        assert_eq!(done.status(), 201);
        assert_eq!(server.get(&at).await.bytes().await.unwrap(), content);
        assert_eq!(std::fs::read(rot).unwrap(), sound);
    }

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
    let found = again.manifest("team/app", "v1").await.unwrap().unwrap();
    assert_eq!(
        (found.digest, found.media_type.as_str()),
        (manifest, OCI_MANIFEST)
    );
    assert!(again.delete_blob("team/app", digest(b"{}")).unwrap());
    assert_eq!(again.blob("team/app", digest(b"{}")).unwrap(), None);
}
