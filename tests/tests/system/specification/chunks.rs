//! spec.md, "Pushing a blob in chunks" and "Cancel a blob upload": end-5, end-6, end-13, end-14.

use chalk_core::AnyDigest;
use chalk_tests::{RegistryHttp, Reply, World, with};

use super::{ALGORITHMS, bytes, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("chunks_in_order_make_a_blob", in_order),
    (
        "a_chunk_out_of_order_is_416_and_changes_nothing",
        out_of_order,
    ),
    ("a_stream_needs_no_content_range", streamed),
    ("the_last_chunk_may_come_with_put", last_by_put),
    ("a_chunk_is_as_long_as_it_says", lengths),
    ("an_upload_goes_on_after_a_restart", after_a_restart),
    ("an_upload_can_be_cancelled", cancelled),
    ("an_upload_belongs_to_its_repository", of_one_repository),
];

fn chunk(registry: &RegistryHttp, method: &str, at: &str, first: usize, bytes: &[u8]) -> Reply {
    let range = format!("{}-{}", first, first + bytes.len() - 1);
    let headers = [
        ("content-range", &*range),
        ("content-type", "application/octet-stream"),
    ];
    registry.ask(method, at, &headers, bytes.to_vec())
}

/// Closes an upload of these bytes and expects that they can be pulled.
#[track_caller]
fn close(registry: &RegistryHttp, location: &str, bytes: &[u8], digest: &AnyDigest) {
    let end = with(location, &format!("digest={digest}"));
    let done = registry.ask("PUT", &end, &[], "").is(201);
    let done = done.has("docker-content-digest", &digest.to_string());
    assert!(registry.get(&done.location()).is(200).body == bytes);
}

fn in_order(world: &World) {
    let (registry, repository) = fresh(world);
    let bytes = bytes(1 << 20);
    for algorithm in ALGORITHMS {
        let query = format!("digest-algorithm={}", algorithm.name());
        for query in ["", &*query] {
            let path = format!("/v2/{repository}/blobs/uploads/?{query}");
            let opened = registry.ask("POST", &path, &[], "").is(202);
            // There is no least size of a chunk: even one byte will do.
            let opened = opened.has("oci-chunk-min-length", "");
            let mut location = opened.location();
            let mut first = 0;
            for size in [1, 700_000, 2, (1 << 20) - 700_003] {
                let part = &bytes[first..first + size];
                let done = chunk(&registry, "PATCH", &location, first, part).is(202);
                first += size;
                let range = format!("0-{}", first - 1);
                let done = done.has("range", &range);
                location = done.location();
                let status = registry.get(&location).is(204).has("range", &range);
                location = status.location();
            }
            close(
                &registry,
                &location,
                &bytes,
                &AnyDigest::of(algorithm, &bytes),
            );
        }
    }
}

fn out_of_order(world: &World) {
    let (registry, repository) = fresh(world);
    let bytes = bytes(30_000);
    let mut location = registry.upload(&repository);
    let refused = chunk(
        &registry,
        "PATCH",
        &location,
        10_000,
        &bytes[10_000..20_000],
    );
    refused.is(416).error("BLOB_UPLOAD_INVALID");
    let done = chunk(&registry, "PATCH", &location, 0, &bytes[..10_000]).is(202);
    location = done.location();
    for wrong in [0, 9_999, 10_001, 20_000] {
        let part = &bytes[wrong..wrong + 10_000];
        for method in ["PATCH", "PUT"] {
            let digest = AnyDigest::of(ALGORITHMS[0], &bytes);
            let at = match method {
                "PUT" => with(&location, &format!("digest={digest}")),
                _ => location.clone(),
            };
            let refused = chunk(&registry, method, &at, wrong, part).is(416);
            refused.error("BLOB_UPLOAD_INVALID");
            // Where it stands, right away and by asking.
            assert_eq!(refused.header("range"), "0-9999");
            location = refused.location();
            let status = registry.get(&location).is(204);
            location = status.has("range", "0-9999").location();
        }
    }
    let done = chunk(&registry, "PATCH", &location, 10_000, &bytes[10_000..]);
    let location = done.is(202).has("range", "0-29999").location();
    let digest = AnyDigest::of(ALGORITHMS[0], &bytes);
    close(&registry, &location, &bytes, &digest);
}

fn streamed(world: &World) {
    let (registry, repository) = fresh(world);
    let bytes = bytes(500_000);
    for algorithm in ALGORITHMS {
        let location = registry.upload(&repository);
        let (one, two) = bytes.split_at(200_000);
        let done = registry.stream("PATCH", &location, &[], &[&one[..7], &one[7..]]);
        let location = done.is(202).has("range", "0-199999").location();
        // A second goes on where the first ended.
        let done = registry.stream("PATCH", &location, &[], &[two]);
        let location = done.is(202).has("range", "0-499999").location();
        close(
            &registry,
            &location,
            &bytes,
            &AnyDigest::of(algorithm, &bytes),
        );
    }
}

fn last_by_put(world: &World) {
    let (registry, repository) = fresh(world);
    let bytes = bytes(10_000);
    for algorithm in ALGORITHMS {
        for ranged in [true, false] {
            let location = registry.upload(&repository);
            let done = chunk(&registry, "PATCH", &location, 0, &bytes[..6_000]).is(202);
            let digest = AnyDigest::of(algorithm, &bytes);
            let end = with(&done.location(), &format!("digest={digest}"));
            let rest = &bytes[6_000..];
            let done = match ranged {
                true => chunk(&registry, "PUT", &end, 6_000, rest),
                false => registry.ask("PUT", &end, &[], rest.to_vec()),
            };
            assert!(registry.get(&done.is(201).location()).is(200).body == bytes);
        }
    }
}

fn lengths(world: &World) {
    let (registry, repository) = fresh(world);
    let location = registry.upload(&repository);
    for bad in ["0-8", "0-10", "bytes 0-8/9"] {
        let refused = registry.ask("PATCH", &location, &[("content-range", bad)], "0123456789");
        refused.is(400).error("SIZE_INVALID");
    }
    for bad in [
        "",
        "x",
        "0",
        "5-",
        "-5",
        "9-0",
        "0-9/10",
        "+0-9",
        "bytes=0-9",
    ] {
        let refused = registry.ask("PATCH", &location, &[("content-range", bad)], "0123456789");
        refused.is(400).error("BLOB_UPLOAD_INVALID");
    }
    registry.get(&location).is(204).has("range", "0-0");
    // Without a length, it shows on the way.
    let range = [("content-range", "0-5")];
    let long = registry.stream("PATCH", &location, &range, &[b"0123", b"456789"]);
    long.is(400).error("SIZE_INVALID");
    let location = registry.upload(&repository);
    let short = registry.stream("PATCH", &location, &range, &[b"0123"]);
    short.is(400).error("SIZE_INVALID");
    let status = registry.get(&location).is(204).has("range", "0-3");
    let done = chunk(&registry, "PATCH", &status.location(), 4, b"45").is(202);
    let digest = AnyDigest::of(ALGORITHMS[0], b"012345");
    close(&registry, &done.location(), b"012345", &digest);
}

fn after_a_restart(world: &World) {
    let mut service = world.start_empty("resumed", &[]);
    let bytes = bytes(1 << 20);
    for algorithm in ALGORITHMS {
        let registry = RegistryHttp::of(&service);
        let location = registry.upload("app");
        let done = chunk(&registry, "PATCH", &location, 0, &bytes[..600_000]).is(202);
        let location = done.location();
        service.kill();
        service.start_again(&[]);
        let registry = RegistryHttp::of(&service);
        let status = registry.get(&location).is(204);
        // What was acknowledged is there.
        let location = status.has("range", "0-599999").location();
        let done = chunk(&registry, "PATCH", &location, 600_000, &bytes[600_000..]);
        let location = done.is(202).location();
        close(
            &registry,
            &location,
            &bytes,
            &AnyDigest::of(algorithm, &bytes),
        );
    }
}

fn cancelled(world: &World) {
    let (registry, repository) = fresh(world);
    let location = registry.upload(&repository);
    let done = chunk(&registry, "PATCH", &location, 0, b"some bytes").is(202);
    let location = done.location();
    assert!(registry.delete(&location).is(204).body.is_empty());
    let digest = AnyDigest::of(ALGORITHMS[0], b"some bytes");
    let end = with(&location, &format!("digest={digest}"));
    for (method, at) in [
        ("GET", &location),
        ("PATCH", &location),
        ("PUT", &end),
        ("DELETE", &location),
    ] {
        let gone = registry.ask(method, at, &[], "");
        gone.is(404).error("BLOB_UPLOAD_UNKNOWN");
    }
    registry
        .get(&format!("/v2/{repository}/blobs/{digest}"))
        .is(404);
}

fn of_one_repository(world: &World) {
    let (registry, repository) = fresh(world);
    let other = format!("{repository}/other");
    let location = registry.upload(&repository);
    let moved = location.replace(&repository, &other);
    for method in ["GET", "PATCH", "DELETE"] {
        let refused = registry.ask(method, &moved, &[], "x");
        refused.is(404).error("BLOB_UPLOAD_UNKNOWN");
    }
    for id in ["none", "00000000-0000-4000-8000-000000000000"] {
        let path = format!("/v2/{repository}/blobs/uploads/{id}");
        registry.get(&path).is(404).error("BLOB_UPLOAD_UNKNOWN");
    }
    registry.delete(&location).is(204);
}
