//! spec.md, "Pushing a blob monolithically": end-4a, end-4b, end-4c and end-6.

use chalk_core::AnyDigest;
use chalk_tests::{RegistryHttp, World, with};

use super::{ALGORITHMS, bytes, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("post_then_put", post_then_put),
    ("a_single_post", single_post),
    ("a_wrong_digest_stores_nothing", wrong_digest),
    ("one_blob_pushed_by_many_at_once", at_once),
    ("a_blob_over_the_limit_is_refused", too_large),
];

/// Expects that an upload ended well, and that its blob can be pulled from where it says.
#[track_caller]
fn assert_created(registry: &RegistryHttp, reply: chalk_tests::Reply, bytes: &[u8], digest: &str) {
    let reply = reply.is(201).has("docker-content-digest", digest);
    let pulled = registry.get(&reply.location()).is(200);
    assert!(pulled.body == bytes, "{digest}");
}

fn post_then_put(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        for bytes in [Vec::new(), b"{}".to_vec(), bytes(2 << 20)] {
            let digest = AnyDigest::of(algorithm, &bytes).to_string();
            let plain = format!("/v2/{repository}/blobs/uploads/");
            let told = format!("{plain}?digest-algorithm={}", algorithm.name());
            for path in [plain, told] {
                let opened = registry.ask("POST", &path, &[("content-length", "0")], "");
                let location = opened.is(202).location();
                let id = location.split('/').next_back().unwrap();
                let id = id.split('?').next().unwrap();
                let groups: Vec<usize> = id.split('-').map(str::len).collect();
                assert_eq!(groups, [8, 4, 4, 4, 12], "a UUID: {id}");
                let end = with(&location, &format!("digest={digest}"));
                let kind = [("content-type", "application/octet-stream")];
                let done = registry.ask("PUT", &end, &kind, bytes.clone());
                assert_created(&registry, done, &bytes, &digest);
                registry.get(&location).is(404).error("BLOB_UPLOAD_UNKNOWN");
            }
        }
    }
    // Two uploads are two sessions; of a body whose length nobody knows, all of it counts.
    let (one, two) = (registry.upload(&repository), registry.upload(&repository));
    assert_ne!(one, two);
    let digest = AnyDigest::of(ALGORITHMS[0], b"in parts").to_string();
    let end = with(&one, &format!("digest={}", digest.replace(':', "%3A")));
    let done = registry.stream("PUT", &end, &[], &[b"in ", b"", b"parts"]);
    assert_created(&registry, done, b"in parts", &digest);
    registry.delete(&two).is(204);
}

fn single_post(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        for bytes in [Vec::new(), bytes(1 << 20)] {
            let digest = AnyDigest::of(algorithm, &bytes).to_string();
            let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
            // The second finds it there already.
            for _ in 0..2 {
                let done = registry.ask("POST", &path, &[], bytes.clone());
                assert_created(&registry, done, &bytes, &digest);
            }
        }
    }
}

fn wrong_digest(world: &World) {
    let (registry, repository) = fresh(world);
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    for algorithm in ALGORITHMS {
        let wrong = AnyDigest::of(algorithm, b"announced");
        let end = with(&registry.upload(&repository), &format!("digest={wrong}"));
        let refused = registry.ask("PUT", &end, &[], "sent");
        refused.is(400).error("DIGEST_INVALID");
        let post = format!("{uploads}?digest={wrong}");
        let refused = registry.ask("POST", &post, &[], "sent");
        refused.is(400).error("DIGEST_INVALID");
        for digest in [wrong, AnyDigest::of(algorithm, b"sent")] {
            registry
                .get(&format!("/v2/{repository}/blobs/{digest}"))
                .is(404);
        }
    }
    for bad in [
        "sha256:0",
        "sha512:00",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha256",
        "",
    ] {
        let end = with(&registry.upload(&repository), &format!("digest={bad}"));
        registry
            .ask("PUT", &end, &[], "x")
            .is(400)
            .error("DIGEST_INVALID");
    }
    let unknown = format!("{uploads}?digest-algorithm=md5");
    let refused = registry.ask("POST", &unknown, &[], "");
    refused.is(400).error("DIGEST_INVALID");
}

fn at_once(world: &World) {
    let (_, repository) = fresh(world);
    let service = world.service();
    let bytes = bytes(4 << 20);
    for algorithm in ALGORITHMS {
        let digest = AnyDigest::of(algorithm, &bytes).to_string();
        std::thread::scope(|threads| {
            for number in 0..8 {
                let (bytes, digest, repository) = (&bytes, &digest, &repository);
                threads.spawn(move || {
                    let registry = RegistryHttp::of(service);
                    // Half of them into one repository, half each into its own.
                    let repository = match number % 2 {
                        0 => repository.clone(),
                        _ => format!("{repository}/{number}"),
                    };
                    let end = with(&registry.upload(&repository), &format!("digest={digest}"));
                    let done = registry.ask("PUT", &end, &[], bytes.clone());
                    assert_created(&registry, done, bytes, digest);
                });
            }
        });
    }
}

fn too_large(world: &World) {
    let service = world.start_empty("limit", &[("limits.blob", "64KiB")]);
    let registry = RegistryHttp::of(&service);
    let fits = bytes(64 << 10);
    let digest = registry.push_blob("app", &fits);
    registry.get(&format!("/v2/app/blobs/{digest}")).is(200);
    let more = bytes((64 << 10) + 1);
    let digest = AnyDigest::of(ALGORITHMS[0], &more);
    let post = format!("/v2/app/blobs/uploads/?digest={digest}");
    registry
        .ask("POST", &post, &[], more.clone())
        .is(413)
        .error("SIZE_INVALID");
    // Chunk by chunk, and without a length, it is found on the way.
    let location = registry.upload("app");
    registry.ask("PATCH", &location, &[], fits).is(202);
    registry
        .ask("PATCH", &location, &[], "x")
        .is(413)
        .error("SIZE_INVALID");
    registry.delete(&location).is(204);
    let end = with(&registry.upload("app"), &format!("digest={digest}"));
    let refused = registry.stream("PUT", &end, &[], &[&more]);
    refused.is(413).error("SIZE_INVALID");
    registry.get(&format!("/v2/app/blobs/{digest}")).is(404);
}
