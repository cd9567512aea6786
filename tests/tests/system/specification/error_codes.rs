//! spec.md, "Error Codes": each code of the table, its status, and the form of the answer.

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_tests::{INDEX, MANIFEST, RegistryHttp, World, descriptor, with};
use serde_json::json;

use super::fresh;
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("every_code_of_the_table", table),
    ("who_may_not", denied),
    ("too_many_open_uploads", too_many),
];

fn table(world: &World) {
    let (registry, repository) = fresh(world);
    let (_, image) = registry.push_image(&repository, "v1");
    let none = AnyDigest::of(Algorithm::Sha256, b"nothing");
    let at = |rest: String| format!("/v2/{repository}/{rest}");
    let check = |method: &str, path: &str, body: &str, status: u16, code: &str| {
        let headers = [("content-type", MANIFEST)];
        let reply = registry.ask(method, path, &headers, body.to_owned());
        let reply = reply.is(status).has("content-type", "application/json");
        reply.error(code);
    };
    check("GET", &at(format!("blobs/{none}")), "", 404, "BLOB_UNKNOWN");
    let upload = registry.upload(&repository);
    let refused = registry.ask("PATCH", &upload, &[("content-range", "nonsense")], "x");
    refused.is(400).error("BLOB_UPLOAD_INVALID");
    check(
        "GET",
        &at("blobs/uploads/none".into()),
        "",
        404,
        "BLOB_UPLOAD_UNKNOWN",
    );
    let end = with(&upload, &format!("digest={none}"));
    check("PUT", &end, "something", 400, "DIGEST_INVALID");
    let lacks = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, &none, 7)]});
    let path = at("manifests/v2".into());
    let refused = registry.ask("PUT", &path, &[("content-type", INDEX)], lacks.to_string());
    refused.is(404).error("MANIFEST_BLOB_UNKNOWN");
    check("PUT", &path, "{}", 400, "MANIFEST_INVALID");
    check("GET", &path, "", 404, "MANIFEST_UNKNOWN");
    check("PUT", "/v2/No/manifests/v1", &image, 400, "NAME_INVALID");
    check(
        "GET",
        &at("nowhere/tags/list".into()),
        "",
        404,
        "NAME_UNKNOWN",
    );
    let huge = "x".repeat((4 << 20) + 1);
    check("PUT", &path, &huge, 413, "SIZE_INVALID");
    for path in ["tags/list", "manifests/v1", "blobs/uploads/"] {
        let refused = registry.ask("PATCH", &at(path.into()), &[], "").is(405);
        assert!(!refused.header("allow").is_empty());
        refused.error("UNSUPPORTED");
    }
    check("GET", &at("unknown/path".into()), "", 404, "UNSUPPORTED");
}

fn denied(world: &World) {
    let service = world.service();
    let made = service.nodes(&["token", "create"]).ok().json();
    let join = made["token"].as_str().unwrap();
    for (token, status, code) in [
        (None, 401, "UNAUTHORIZED"),
        (Some("wrong"), 401, "UNAUTHORIZED"),
        (Some(join), 403, "DENIED"),
    ] {
        let registry = RegistryHttp::at(service.url(), token);
        for (method, path) in [
            ("GET", "/v2/"),
            ("GET", "/v2/app/tags/list"),
            ("PUT", "/v2/app/manifests/v1"),
            ("POST", "/v2/app/blobs/uploads/"),
        ] {
            let refused = registry.ask(method, path, &[], "").is(status);
            let challenge = !refused.header("www-authenticate").is_empty();
            assert_eq!(challenge, status == 401, "{refused:?}");
            refused.error(code);
        }
    }
}

fn too_many(world: &World) {
    let service = world.start_empty("uploads", &[]);
    let registry = RegistryHttp::of(&service);
    let path = "/v2/app/blobs/uploads/";
    let mut open = Vec::new();
    // The limit is not part of the interface; that there is one is.
    let refused = loop {
        assert!(open.len() < 10_000, "no limit");
        let reply = registry.ask("POST", path, &[], "");
        match reply.status {
            202 => open.push(reply.location()),
            _ => break reply,
        }
    };
    let refused = refused.is(429);
    let seconds = refused.header("retry-after").parse::<u32>();
    assert!(seconds.is_ok(), "{refused:?}");
    refused.error("TOOMANYREQUESTS");
    registry.delete(&open.pop().unwrap()).is(204);
    registry.ask("POST", path, &[], "").is(202);
}
