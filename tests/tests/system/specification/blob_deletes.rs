//! spec.md, "Deleting Blobs": end-10.

use chalk_core::AnyDigest;
use chalk_tests::{World, unique};

use super::{ALGORITHMS, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_deleted_blob_is_gone_from_its_repository", deleted),
    ("a_blob_that_is_not_there", missing),
];

fn deleted(world: &World) {
    let (registry, repository) = fresh(world);
    let other = format!("{repository}/other");
    for algorithm in ALGORITHMS {
        let bytes = unique();
        let digest = registry.push_blob_as(&repository, bytes.as_bytes(), algorithm);
        registry.push_blob_as(&other, bytes.as_bytes(), algorithm);
        let path = format!("/v2/{repository}/blobs/{digest}");
        registry.delete(&path).is(202);
        for method in ["GET", "HEAD", "DELETE"] {
            registry.ask(method, &path, &[], "").is(404);
        }
        // The other repository has its own.
        let kept = registry.get(&format!("/v2/{other}/blobs/{digest}"));
        assert_eq!(kept.is(200).text(), bytes);
        // Pushed again, it is there again.
        registry.push_blob_as(&repository, bytes.as_bytes(), algorithm);
        assert_eq!(registry.get(&path).is(200).text(), bytes);
    }
}

fn missing(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let none = AnyDigest::of(algorithm, b"not there");
        let path = format!("/v2/{repository}/blobs/{none}");
        registry.delete(&path).is(404).error("BLOB_UNKNOWN");
    }
    for bad in ["sha256:0", "sha512:0", "latest"] {
        let path = format!("/v2/{repository}/blobs/{bad}");
        registry.delete(&path).is(400).error("DIGEST_INVALID");
    }
}
