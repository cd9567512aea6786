//! spec.md, "Mounting a blob from another repository": end-11.

use chalk_core::AnyDigest;
use chalk_tests::{World, unique, with};

use super::{ALGORITHMS, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("from_a_repository_that_is_named", named),
    ("from_wherever_it_is", automatic),
    ("what_cannot_be_mounted_is_uploaded", fallback),
];

fn named(world: &World) {
    let (registry, repository) = fresh(world);
    let target = format!("{repository}/target");
    for algorithm in ALGORITHMS {
        let bytes = unique();
        let digest = registry.push_blob_as(&repository, bytes.as_bytes(), algorithm);
        let path = format!("/v2/{target}/blobs/uploads/?mount={digest}&from={repository}");
        let mounted = registry.ask("POST", &path, &[], "").is(201);
        let mounted = mounted.has("docker-content-digest", &digest.to_string());
        assert_eq!(registry.get(&mounted.location()).is(200).text(), bytes);
        // It is the target's own from now on.
        registry
            .delete(&format!("/v2/{repository}/blobs/{digest}"))
            .is(202);
        assert_eq!(registry.get(&mounted.location()).is(200).text(), bytes);
    }
}

fn automatic(world: &World) {
    let (registry, repository) = fresh(world);
    let target = format!("{repository}/target");
    for algorithm in ALGORITHMS {
        let bytes = unique();
        let digest = registry.push_blob_as(&repository, bytes.as_bytes(), algorithm);
        let path = format!("/v2/{target}/blobs/uploads/?mount={digest}");
        let mounted = registry.ask("POST", &path, &[], "").is(201);
        assert_eq!(registry.get(&mounted.location()).is(200).text(), bytes);
    }
}

fn fallback(world: &World) {
    let (registry, repository) = fresh(world);
    let target = format!("{repository}/target");
    for algorithm in ALGORITHMS {
        let here = registry.push_blob_as(&repository, unique().as_bytes(), algorithm);
        for query in [
            "mount=DIGEST&from=REPOSITORY",
            "mount=DIGEST",
            // It is in the registry, but not there.
            "mount=HERE&from=REPOSITORY/nowhere",
            "mount=HERE&from=..%2F..%2Fetc",
            "mount=sha256:0&from=REPOSITORY",
            "mount=",
        ] {
            let bytes = unique();
            let digest = AnyDigest::of(algorithm, bytes.as_bytes());
            let query = query
                .replace("DIGEST", &digest.to_string())
                .replace("HERE", &here.to_string())
                .replace("REPOSITORY", &repository);
            let path = format!("/v2/{target}/blobs/uploads/?{query}");
            let location = registry.ask("POST", &path, &[], "").is(202).location();
            let end = with(&location, &format!("digest={digest}"));
            let done = registry.ask("PUT", &end, &[], bytes.clone()).is(201);
            assert_eq!(registry.get(&done.location()).is(200).text(), bytes);
        }
        let path = format!("/v2/{target}/blobs/{here}");
        registry.get(&path).is(404).error("BLOB_UNKNOWN");
    }
}
