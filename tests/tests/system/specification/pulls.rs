//! spec.md, "Pull": manifests and blobs, whether they exist, and ranges of them (end-2, end-3).

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_tests::{INDEX, MANIFEST, World, unique};
use serde_json::json;

use super::{ALGORITHMS, bytes, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_manifest_by_tag_and_by_digest", manifests),
    ("a_manifest_comes_as_the_type_it_was_pushed_as", types),
    ("a_blob_by_its_digest", blobs),
    ("parts_of_a_blob_by_range", ranges),
    ("a_big_blob_in_parts_that_a_client_joins", resumed),
    ("what_is_not_there", missing),
];

fn manifests(world: &World) {
    let (registry, repository) = fresh(world);
    let (digest, text) = registry.push_image(&repository, "v1");
    for name in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/{repository}/manifests/{name}");
        let encoded = path.replace("sha256:", "sha256%3A");
        for path in [path, encoded] {
            for method in ["GET", "HEAD"] {
                let accept = [("accept", MANIFEST)];
                let reply = registry.ask(method, &path, &accept, "").is(200);
                let reply = reply
                    .has("docker-content-digest", &digest.to_string())
                    .has("content-type", MANIFEST)
                    .has("content-length", &text.len().to_string());
                let expect = if method == "GET" { &*text } else { "" };
                assert_eq!(reply.text(), expect);
            }
        }
    }
}

fn types(world: &World) {
    let (registry, repository) = fresh(world);
    let image = registry.image(&repository, Algorithm::Sha256);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let check = |kind: &str, sent: &str, text: &str, expect: &str| {
        let tag = unique();
        registry
            .push_manifest(&repository, &tag, sent, text)
            .is(201);
        // The registry keeps one form of it, whatever the client would rather have.
        for accept in [expect, "*/*", "application/json", kind] {
            let path = format!("/v2/{repository}/manifests/{tag}");
            let reply = registry.ask("GET", &path, &[("accept", accept)], "");
            let reply = reply.is(200).has("content-type", expect);
            assert_eq!(reply.text(), text, "the exact bytes");
        }
    };
    let mut untyped = image.clone();
    untyped.as_object_mut().unwrap().remove("mediaType");
    let mut of_docker = image.clone();
    of_docker["mediaType"] = docker.into();
    let entries = json!({"schemaVersion": 2, "manifests": []}).to_string();
    check(MANIFEST, MANIFEST, &image.to_string(), MANIFEST);
    let parameters = format!("{MANIFEST}; charset=utf-8");
    check(MANIFEST, &parameters, &image.to_string(), MANIFEST);
    check(MANIFEST, "", &untyped.to_string(), MANIFEST);
    check(docker, docker, &untyped.to_string(), docker);
    check(docker, docker, &of_docker.to_string(), docker);
    check(INDEX, INDEX, &entries, INDEX);
    check(list, list, &entries, list);
    check(INDEX, "", &entries, INDEX);
    // White space and unknown members are kept.
    let odd = format!("{{\n \"x\" : [1,2 ],{}\n\n", &image.to_string()[1..]);
    check(MANIFEST, MANIFEST, &odd, MANIFEST);
}

fn blobs(world: &World) {
    let (registry, repository) = fresh(world);
    let big = bytes(3 << 20);
    for algorithm in ALGORITHMS {
        for bytes in [&b""[..], b"{}", &big] {
            let digest = registry.push_blob_as(&repository, bytes, algorithm);
            let path = format!("/v2/{repository}/blobs/{digest}");
            let length = bytes.len().to_string();
            for method in ["GET", "HEAD"] {
                let reply = registry.ask(method, &path, &[], "").is(200);
                let reply = reply
                    .has("docker-content-digest", &digest.to_string())
                    .has("content-length", &length)
                    .has("accept-ranges", "bytes");
                let expect = if method == "GET" { bytes } else { b"" };
                assert!(reply.body == expect, "{method} {path}");
            }
            let etag = format!("\"{digest}\"");
            let known = [("if-none-match", &*etag)];
            registry.ask("GET", &path, &known, "").is(304);
            registry.ask("HEAD", &path, &known, "").is(304);
        }
    }
}

fn ranges(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let digest = registry.push_blob_as(&repository, b"0123456789", algorithm);
        let path = format!("/v2/{repository}/blobs/{digest}");
        let check = |range: &str, status: u16, of: &str, expect: &str| {
            let reply = registry.ask("GET", &path, &[("range", range)], "");
            let reply = reply.is(status).has("content-range", of);
            assert_eq!(reply.text(), expect, "{range}");
            if status == 206 {
                let length = expect.len().to_string();
                let digest = digest.to_string();
                reply
                    .has("content-length", &length)
                    .has("docker-content-digest", &digest);
            }
        };
        check("bytes=0-0", 206, "bytes 0-0/10", "0");
        check("bytes=2-4", 206, "bytes 2-4/10", "234");
        check("bytes=8-", 206, "bytes 8-9/10", "89");
        check("bytes=8-99", 206, "bytes 8-9/10", "89");
        check("bytes=-3", 206, "bytes 7-9/10", "789");
        check("bytes=-99", 206, "bytes 0-9/10", "0123456789");
        check("bytes=10-", 416, "bytes */10", "");
        check("bytes=10-12", 416, "bytes */10", "");
        check("bytes=-0", 416, "bytes */10", "");
        check("bytes=5-4", 416, "bytes */10", "");
        // Several ranges, other units and nonsense a server may answer with the whole.
        for range in ["bytes=0-1,4-5", "pages=1-2", "bytes=x-y", "bytes"] {
            check(range, 200, "", "0123456789");
        }
        // RFC 9110, section 13.1.5: a range only of what the client has seen.
        let etag = format!("\"{digest}\"");
        let ranged = |tag: &str| {
            let headers = [("range", "bytes=2-4"), ("if-range", tag)];
            registry.ask("GET", &path, &headers, "")
        };
        assert_eq!(ranged(&etag).is(206).text(), "234");
        assert_eq!(ranged("\"other\"").is(200).text(), "0123456789");
    }
    let empty = registry.push_blob(&repository, b"");
    let path = format!("/v2/{repository}/blobs/{empty}");
    let nothing = registry.ask("GET", &path, &[("range", "bytes=0-")], "");
    nothing.is(416).has("content-range", "bytes */0");
}

fn resumed(world: &World) {
    let (registry, repository) = fresh(world);
    let big = bytes(5 << 20);
    let digest = registry.push_blob(&repository, &big);
    let path = format!("/v2/{repository}/blobs/{digest}");
    let mut got = Vec::new();
    for step in [1, 1 << 20, 3 << 20, usize::MAX] {
        let first = got.len();
        let last = first.saturating_add(step).saturating_sub(1);
        let range = format!("bytes={first}-{last}");
        let part = registry.ask("GET", &path, &[("range", &range)], "").is(206);
        got.extend(part.body);
    }
    assert!(got == big);
}

fn missing(world: &World) {
    let (registry, repository) = fresh(world);
    let (known, _) = registry.push_image(&repository, "v1");
    let blob = registry.push_blob(&repository, b"here");
    let nowhere = format!("{repository}/nowhere");
    for algorithm in ALGORITHMS {
        let none = AnyDigest::of(algorithm, b"not there");
        let paths = [
            (format!("{repository}/blobs/{none}"), "BLOB_UNKNOWN"),
            (format!("{repository}/manifests/{none}"), "MANIFEST_UNKNOWN"),
            (format!("{nowhere}/blobs/{none}"), "BLOB_UNKNOWN"),
        ];
        for (path, code) in paths {
            let path = format!("/v2/{path}");
            registry.get(&path).is(404).error(code);
            assert!(registry.head(&path).is(404).body.is_empty());
        }
    }
    let paths = [
        (format!("{repository}/manifests/v2"), "MANIFEST_UNKNOWN"),
        (format!("{nowhere}/manifests/v1"), "MANIFEST_UNKNOWN"),
        // What one repository has is not in another, and a manifest is no blob.
        (format!("{nowhere}/manifests/{known}"), "MANIFEST_UNKNOWN"),
        (format!("{nowhere}/blobs/{blob}"), "BLOB_UNKNOWN"),
        (format!("{repository}/blobs/{known}"), "BLOB_UNKNOWN"),
        (format!("{repository}/manifests/{blob}"), "MANIFEST_UNKNOWN"),
    ];
    for (path, code) in paths {
        registry.get(&format!("/v2/{path}")).is(404).error(code);
        registry.head(&format!("/v2/{path}")).is(404);
    }
}
