//! spec.md, "Pushing Manifests", "Deleting tags" and "Deleting Manifests": end-7a, end-7b, end-9.

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_tests::{EMPTY, INDEX, MANIFEST, RegistryHttp, World, descriptor, unique};
use serde_json::{Value, json};

use super::{ALGORITHMS, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("by_tag_and_by_digest", by_tag_and_by_digest),
    ("by_digest_with_tags", with_tags),
    ("every_part_must_be_there", parts),
    ("layers_that_may_lie_elsewhere", elsewhere),
    ("artifacts_and_images_without_layers", artifacts),
    ("what_is_no_manifest", invalid),
    ("four_megabytes_are_taken_and_no_more", sizes),
    ("a_tag_moves_to_what_is_pushed_last", moved),
    ("a_tag_is_deleted_alone", tag_deleted),
    ("a_manifest_is_deleted_with_its_tags", deleted),
    ("images_named_by_sha512_outlive_a_restart", sha512),
];

fn by_tag_and_by_digest(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let text = registry.image(&repository, algorithm).to_string();
        let digest = AnyDigest::of(algorithm, text.as_bytes());
        let by_digest = registry.push_manifest(&repository, &digest.to_string(), MANIFEST, &text);
        let canonical = AnyDigest::of(Algorithm::Sha256, text.as_bytes());
        let by_tag = registry.push_manifest(&repository, &unique(), MANIFEST, &text);
        for (reply, digest) in [(by_digest, &digest), (by_tag, &canonical)] {
            let reply = reply
                .is(201)
                .has("docker-content-digest", &digest.to_string());
            assert_eq!(registry.get(&reply.location()).is(200).text(), text);
            assert_eq!(reply.header("oci-subject"), "");
            assert_eq!(reply.header("oci-tag"), "");
        }
        let other = AnyDigest::of(algorithm, b"other");
        let refused = registry.push_manifest(&repository, &other.to_string(), MANIFEST, &text);
        refused.is(400).error("DIGEST_INVALID");
        registry
            .get(&format!("/v2/{repository}/manifests/{other}"))
            .is(404);
    }
}

fn with_tags(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let text = registry.image(&repository, algorithm).to_string();
        let digest = AnyDigest::of(algorithm, text.as_bytes());
        let tags: Vec<String> = (0..12)
            .map(|n| format!("{}-{n}", algorithm.name()))
            .collect();
        let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let name = format!("{digest}?{}", query.join("&"));
        let pushed = registry
            .push_manifest(&repository, &name, MANIFEST, &text)
            .is(201);
        let named: Vec<&str> = pushed
            .headers
            .get_all("oci-tag")
            .iter()
            .flat_map(|line| line.to_str().unwrap().split(','))
            .map(str::trim)
            .collect();
        assert_eq!(named, tags);
        for tag in &tags {
            let found = registry.get(&format!("/v2/{repository}/manifests/{tag}"));
            let found = found
                .is(200)
                .has("docker-content-digest", &digest.to_string());
            assert_eq!(found.text(), text);
        }
        // All or none: one that is no tag spoils the push.
        let name = format!("{digest}?tag=fine&tag=.bad");
        let refused = registry.push_manifest(&repository, &name, MANIFEST, &text);
        refused.is(400).error("MANIFEST_INVALID");
        registry
            .get(&format!("/v2/{repository}/manifests/fine"))
            .is(404);
        let many = "&tag=x".repeat(1000);
        let name = format!("{digest}?tag=y{many}");
        registry
            .push_manifest(&repository, &name, MANIFEST, &text)
            .is(414);
    }
}

fn parts(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let image = registry.image(&repository, algorithm);
        let none = AnyDigest::of(algorithm, b"not there");
        let lacks = |pointer: &str| {
            let mut image = image.clone();
            *image.pointer_mut(pointer).unwrap() = json!(none);
            image
        };
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [descriptor(MANIFEST, &none, 7)],
        });
        let of_index = (INDEX, index);
        let of_images = ["/config/digest", "/layers/0/digest"].map(|at| (MANIFEST, lacks(at)));
        for (kind, document) in of_images.into_iter().chain([of_index]) {
            let pushed = registry.push_manifest(&repository, "v1", kind, &document.to_string());
            let refused = pushed.is(404);
            refused.error("MANIFEST_BLOB_UNKNOWN");
            assert!(refused.text().contains(&none.to_string()), "{refused:?}");
            registry
                .get(&format!("/v2/{repository}/manifests/v1"))
                .is(404);
        }
        // Blobs of another repository do not count.
        let other = format!("{repository}/other");
        let text = image.to_string();
        let refused = registry.push_manifest(&other, "v1", MANIFEST, &text);
        refused.is(404).error("MANIFEST_BLOB_UNKNOWN");
        // Nor those that were deleted.
        let config = image["config"]["digest"].as_str().unwrap();
        registry
            .delete(&format!("/v2/{repository}/blobs/{config}"))
            .is(202);
        let refused = registry.push_manifest(&repository, "v1", MANIFEST, &text);
        refused.is(404).error("MANIFEST_BLOB_UNKNOWN");
    }
}

fn elsewhere(world: &World) {
    let (registry, repository) = fresh(world);
    let none = AnyDigest::of(Algorithm::Sha256, b"not there");
    let oci = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let docker = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let image = registry.image(&repository, Algorithm::Sha256);
    for kind in [
        oci.to_owned(),
        format!("{oci}+gzip"),
        format!("{oci}+zstd"),
        docker.to_owned(),
    ] {
        let mut image = image.clone();
        let mut layer = descriptor(&kind, &none, 123);
        layer["urls"] = json!(["https://store.example/layer"]);
        image["layers"].as_array_mut().unwrap().insert(0, layer);
        let text = image.to_string();
        registry
            .push_manifest(&repository, "v1", MANIFEST, &text)
            .is(201);
        let got = registry.get(&format!("/v2/{repository}/manifests/v1"));
        assert_eq!(got.is(200).text(), text);
    }
}

/// A manifest of nothing but the empty descriptor (OCI image specification, `manifest.md`).
fn empty(registry: &RegistryHttp, repository: &str) -> Value {
    let digest = registry.push_blob(repository, b"{}");
    let mut nothing = descriptor(EMPTY, &digest, 2);
    nothing["data"] = json!("e30=");
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example",
        "config": nothing,
        "layers": [nothing],
    })
}

fn artifacts(world: &World) {
    let (registry, repository) = fresh(world);
    let artifact = empty(&registry, &repository);
    let mut without_layers = artifact.clone();
    without_layers["layers"] = json!([]);
    let mut with_more = artifact.clone();
    with_more["org.example.unknown"] = json!({"any": [1, null, "thing"]});
    for document in [artifact, without_layers, with_more] {
        let text = document.to_string();
        registry
            .push_manifest(&repository, "a", MANIFEST, &text)
            .is(201);
        let got = registry.get(&format!("/v2/{repository}/manifests/a"));
        assert_eq!(got.is(200).text(), text);
    }
    // Indexes of images, of indexes, and of nothing.
    let (image, text) = registry.push_image(&repository, "image");
    let mut entry = descriptor(MANIFEST, &image, text.len());
    for depth in 0..3 {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        let text = index.to_string();
        registry
            .push_manifest(&repository, &format!("i{depth}"), INDEX, &text)
            .is(201);
        let digest = AnyDigest::of(Algorithm::Sha256, text.as_bytes());
        entry = descriptor(INDEX, &digest, text.len());
    }
    let nothing = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    registry
        .push_manifest(&repository, "none", INDEX, &nothing.to_string())
        .is(201);
}

fn invalid(world: &World) {
    let (registry, repository) = fresh(world);
    let image = registry.image(&repository, Algorithm::Sha256);
    let changed = |pointer: &str, value: Value| {
        let mut image = image.clone();
        *image.pointer_mut(pointer).unwrap() = value;
        image.to_string()
    };
    let bad = [
        (MANIFEST, String::new()),
        (MANIFEST, "no JSON".to_owned()),
        (MANIFEST, "[]".to_owned()),
        (MANIFEST, "{}".to_owned()),
        (MANIFEST, format!("{image}}}")),
        (
            MANIFEST,
            image.to_string().replace("mediaType", "schemaVersion"),
        ),
        (MANIFEST, changed("/schemaVersion", json!(1))),
        (MANIFEST, changed("/config", json!(null))),
        (MANIFEST, changed("/config/digest", json!("sha256:short"))),
        (MANIFEST, changed("/config/size", json!(-1))),
        (MANIFEST, changed("/layers", json!({}))),
        // Two readers must not see two things in one document.
        (MANIFEST, changed("/mediaType", json!(INDEX))),
        (INDEX, image.to_string()),
        ("text/html", image.to_string()),
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            "{}".to_owned(),
        ),
    ];
    for (kind, text) in bad {
        let refused = registry.push_manifest(&repository, "v1", kind, &text);
        refused.is(400).error("MANIFEST_INVALID");
    }
    let text = image.to_string();
    for tag in [".dot", "-dash", "a+b", &"x".repeat(129), "%C3%A4"] {
        let refused = registry.push_manifest(&repository, tag, MANIFEST, &text);
        refused.is(400).error("MANIFEST_INVALID");
    }
    for digest in [
        "sha256:0",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "a:b",
    ] {
        let refused = registry.push_manifest(&repository, digest, MANIFEST, &text);
        refused.is(400).error("DIGEST_INVALID");
    }
    for tag in ["_", "0", &"x".repeat(128), "A.b-c_D"] {
        registry
            .push_manifest(&repository, tag, MANIFEST, &text)
            .is(201);
    }
}

fn sizes(world: &World) {
    let (registry, repository) = fresh(world);
    let mut image = registry.image(&repository, Algorithm::Sha256);
    let mut sized = |bytes: usize| {
        image["annotations"] = json!({"pad": ""});
        let rest = bytes - image.to_string().len();
        image["annotations"]["pad"] = "x".repeat(rest).into();
        image.to_string()
    };
    let limit = 4 << 20;
    let text = sized(limit);
    registry
        .push_manifest(&repository, "full", MANIFEST, &text)
        .is(201);
    let got = registry.get(&format!("/v2/{repository}/manifests/full"));
    assert!(got.is(200).text() == text);
    let text = sized(limit + 1);
    let refused = registry.push_manifest(&repository, "over", MANIFEST, &text);
    refused.is(413).error("SIZE_INVALID");
    let path = format!("/v2/{repository}/manifests/over");
    let refused = registry.stream(
        "PUT",
        &path,
        &[("content-type", MANIFEST)],
        &[text.as_bytes()],
    );
    refused.is(413).error("SIZE_INVALID");
    registry.get(&path).is(404);
}

fn moved(world: &World) {
    let (registry, repository) = fresh(world);
    let (first, _) = registry.push_image(&repository, "v1");
    let (second, text) = registry.push_image(&repository, "v1");
    let got = registry
        .get(&format!("/v2/{repository}/manifests/v1"))
        .is(200);
    assert_eq!(
        got.has("docker-content-digest", &second.to_string()).text(),
        text
    );
    registry
        .get(&format!("/v2/{repository}/manifests/{first}"))
        .is(200);
}

fn tag_deleted(world: &World) {
    let (registry, repository) = fresh(world);
    let (digest, text) = registry.push_image(&repository, "v1");
    registry
        .push_manifest(&repository, "v2", MANIFEST, &text)
        .is(201);
    let path = format!("/v2/{repository}/manifests/v1");
    registry.delete(&path).is(202);
    registry.get(&path).is(404).error("MANIFEST_UNKNOWN");
    registry.delete(&path).is(404).error("MANIFEST_UNKNOWN");
    for name in ["v2".to_owned(), digest.to_string()] {
        registry
            .get(&format!("/v2/{repository}/manifests/{name}"))
            .is(200);
    }
}

fn deleted(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let text = registry.image(&repository, algorithm).to_string();
        let digest = AnyDigest::of(algorithm, text.as_bytes());
        let name = format!("{digest}?tag=v1&tag=v2");
        registry
            .push_manifest(&repository, &name, MANIFEST, &text)
            .is(201);
        let (other, _) = registry.push_image(&repository, "other");
        let path = format!("/v2/{repository}/manifests/{digest}");
        registry.delete(&path).is(202);
        for name in [&*digest.to_string(), "v1", "v2"] {
            let path = format!("/v2/{repository}/manifests/{name}");
            registry.get(&path).is(404).error("MANIFEST_UNKNOWN");
        }
        registry.delete(&path).is(404).error("MANIFEST_UNKNOWN");
        registry
            .get(&format!("/v2/{repository}/manifests/{other}"))
            .is(200);
        registry
            .get(&format!("/v2/{repository}/manifests/other"))
            .is(200);
        let elsewhere = format!("/v2/{repository}/nowhere/manifests/{digest}");
        registry
            .delete(&elsewhere)
            .is(404)
            .error("MANIFEST_UNKNOWN");
        // Pushed again, it is there again.
        registry
            .push_manifest(&repository, "v3", MANIFEST, &text)
            .is(201);
    }
}

fn sha512(world: &World) {
    let mut service = world.start_empty("sha512", &[]);
    let registry = RegistryHttp::of(&service);
    let image = registry.image("app", Algorithm::Sha512);
    let text = image.to_string();
    let digest = AnyDigest::of(Algorithm::Sha512, text.as_bytes());
    let entry = descriptor(MANIFEST, &digest, text.len());
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    let of_index = AnyDigest::of(Algorithm::Sha512, index.as_bytes());
    registry
        .push_manifest("app", &digest.to_string(), MANIFEST, &text)
        .is(201);
    let name = format!("{of_index}?tag=all");
    registry.push_manifest("app", &name, INDEX, &index).is(201);
    service.kill();
    service.start_again(&[]);
    let registry = RegistryHttp::of(&service);
    let all = registry.get("/v2/app/manifests/all").is(200);
    let all = all.has("docker-content-digest", &of_index.to_string());
    let image = all.json()["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let image = registry
        .get(&format!("/v2/app/manifests/{image}"))
        .is(200)
        .json();
    for blob in [&image["config"], &image["layers"][0]] {
        let digest = blob["digest"].as_str().unwrap();
        assert!(digest.starts_with("sha512:"), "{digest}");
        let got = registry.get(&format!("/v2/app/blobs/{digest}")).is(200);
        let actual = AnyDigest::of(Algorithm::Sha512, &got.body);
        assert_eq!(actual.to_string(), digest);
    }
}
