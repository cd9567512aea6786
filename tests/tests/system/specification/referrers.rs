//! spec.md, "Pushing Manifests with Subject" and "Listing Referrers": end-12a and end-12b.

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;
use chalk_tests::{EMPTY, INDEX, MANIFEST, RegistryHttp, Reply, World, descriptor};
use serde_json::{Value, json};

use super::{ALGORITHMS, fresh};
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_push_with_a_subject_says_so", subjects),
    ("descriptors_have_type_and_annotations", descriptors),
    ("a_filter_by_artifact_type", filtered),
    ("a_subject_that_is_not_there", missing_subject),
    ("a_deleted_referrer_is_listed_no_more", deleted),
    ("a_list_too_long_for_one_answer_comes_in_pages", pages),
    ("bad_digests_and_unknown_repositories", refused),
];

/// An artifact that refers to `subject`.
fn artifact(registry: &RegistryHttp, repository: &str, kind: &str, subject: &Value) -> Value {
    let empty = descriptor(EMPTY, &registry.push_blob(repository, b"{}"), 2);
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": empty,
        "layers": [empty],
        "subject": subject,
        "annotations": {"org.example.kind": kind},
    })
}

/// Pushes a document by its digest.
#[track_caller]
fn push(
    registry: &RegistryHttp,
    repository: &str,
    kind: &str,
    algorithm: Algorithm,
    document: &Value,
) -> (AnyDigest, Reply) {
    let text = document.to_string();
    let digest = AnyDigest::of(algorithm, text.as_bytes());
    let pushed = registry.push_manifest(repository, &digest.to_string(), kind, &text);
    (digest, pushed.is(201))
}

#[track_caller]
fn list(registry: &RegistryHttp, repository: &str, subject: &AnyDigest, query: &str) -> Reply {
    let path = format!("/v2/{repository}/referrers/{subject}{query}");
    let reply = registry.get(&path).is(200).has("content-type", INDEX);
    let index = reply.json();
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], INDEX);
    assert!(index["manifests"].is_array(), "{index:#}");
    reply
}

fn digests(reply: &Reply) -> Vec<String> {
    let index = reply.json();
    let all = index["manifests"].as_array().unwrap().iter();
    all.map(|one| one["digest"].as_str().unwrap().to_owned())
        .collect()
}

fn subjects(world: &World) {
    let (registry, repository) = fresh(world);
    for of_subject in ALGORITHMS {
        let image = registry.image(&repository, of_subject);
        let (subject, plain) = push(&registry, &repository, MANIFEST, of_subject, &image);
        assert_eq!(plain.header("oci-subject"), "");
        let points = descriptor(MANIFEST, &subject, image.to_string().len());
        let mut expect = Vec::new();
        for algorithm in ALGORITHMS {
            let kind = format!("application/{}", algorithm.name());
            let note = artifact(&registry, &repository, &kind, &points);
            let index = json!({
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [],
                "subject": points,
                "annotations": {"by": algorithm.name()},
            });
            for (kind, document) in [(MANIFEST, note), (INDEX, index)] {
                let (digest, pushed) = push(&registry, &repository, kind, algorithm, &document);
                pushed.has("oci-subject", &subject.to_string());
                expect.push(digest.to_string());
            }
        }
        let mut found = digests(&list(&registry, &repository, &subject, ""));
        found.sort();
        expect.sort();
        assert_eq!(found, expect);
        // Under a tag, too.
        let note = artifact(&registry, &repository, "application/tagged", &points);
        let tagged = registry.push_manifest(&repository, "note", MANIFEST, &note.to_string());
        tagged.is(201).has("oci-subject", &subject.to_string());
        let found = digests(&list(&registry, &repository, &subject, ""));
        assert_eq!(found.len(), 5);
    }
}

fn descriptors(world: &World) {
    let (registry, repository) = fresh(world);
    let (subject, text) = registry.push_image(&repository, "v1");
    let points = descriptor(MANIFEST, &subject, text.len());
    let plain = artifact(&registry, &repository, "application/vnd.example", &points);
    let mut by_config = plain.clone();
    by_config["artifactType"] = "".into();
    by_config["config"]["mediaType"] = "application/vnd.example.config".into();
    let mut without = by_config.clone();
    let members = without.as_object_mut().unwrap();
    members.remove("artifactType");
    members.remove("annotations");
    let index = |kind: Option<&str>| {
        let mut index = json!({"schemaVersion": 2, "manifests": [], "subject": points});
        if let Some(kind) = kind {
            index["artifactType"] = kind.into();
        }
        index
    };
    let config = json!("application/vnd.example.config");
    let cases = [
        (MANIFEST, plain, json!("application/vnd.example")),
        (MANIFEST, by_config, config.clone()),
        (MANIFEST, without, config),
        (
            INDEX,
            index(Some("application/list")),
            json!("application/list"),
        ),
        (INDEX, index(Some("")), Value::Null),
        (INDEX, index(None), Value::Null),
    ];
    for (kind, document, expect) in cases {
        let (digest, _) = push(&registry, &repository, kind, Algorithm::Sha256, &document);
        let all = list(&registry, &repository, &subject, "").json();
        let all = all["manifests"].as_array().unwrap();
        let found = all.iter().find(|one| one["digest"] == digest.to_string());
        let found = found.unwrap();
        assert_eq!(found["mediaType"], kind);
        assert_eq!(found["size"], document.to_string().len());
        assert_eq!(found["artifactType"], expect, "{document:#}");
        let has_kind = found.as_object().unwrap().contains_key("artifactType");
        assert_eq!(has_kind, expect != Value::Null, "omitted, not null");
        let annotations = document.get("annotations").unwrap_or(&Value::Null);
        assert_eq!(&found["annotations"], annotations);
    }
}

fn filtered(world: &World) {
    let (registry, repository) = fresh(world);
    let (subject, text) = registry.push_image(&repository, "v1");
    let points = descriptor(MANIFEST, &subject, text.len());
    let kinds = ["application/vnd.a+json", "application/vnd.b"];
    let pushed = kinds.map(|kind| {
        let note = artifact(&registry, &repository, kind, &points);
        let (digest, _) = push(&registry, &repository, MANIFEST, Algorithm::Sha256, &note);
        digest.to_string()
    });
    let all = list(&registry, &repository, &subject, "");
    assert_eq!(all.header("oci-filters-applied"), "");
    assert_eq!(digests(&all).len(), 2);
    for (kind, digest) in kinds.iter().zip(&pushed) {
        let encoded = kind.replace('+', "%2B").replace('/', "%2F");
        let query = format!("?artifactType={encoded}");
        let some = list(&registry, &repository, &subject, &query);
        let some = some.has("oci-filters-applied", "artifactType");
        assert_eq!(digests(&some), std::slice::from_ref(digest));
    }
    let none = list(&registry, &repository, &subject, "?artifactType=x%2Fy");
    let none = none.has("oci-filters-applied", "artifactType");
    assert!(digests(&none).is_empty());
}

fn missing_subject(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let image = registry.image(&repository, algorithm);
        let text = image.to_string();
        let subject = AnyDigest::of(algorithm, text.as_bytes());
        let points = descriptor(MANIFEST, &subject, text.len());
        assert!(digests(&list(&registry, &repository, &subject, "")).is_empty());
        let note = artifact(&registry, &repository, "application/early", &points);
        let (digest, pushed) = push(&registry, &repository, MANIFEST, algorithm, &note);
        pushed.has("oci-subject", &subject.to_string());
        // Before its subject is there, after that came, and after that went.
        let path = format!("/v2/{repository}/manifests/{subject}");
        for step in ["", "push", "delete"] {
            match step {
                "push" => drop(push(&registry, &repository, MANIFEST, algorithm, &image)),
                "delete" => drop(registry.delete(&path).is(202)),
                _ => drop(registry.get(&path).is(404)),
            }
            let found = digests(&list(&registry, &repository, &subject, ""));
            assert_eq!(found, [digest.to_string()], "{step}");
        }
    }
}

fn deleted(world: &World) {
    let (registry, repository) = fresh(world);
    for algorithm in ALGORITHMS {
        let (subject, text) = registry.push_image(&repository, "v1");
        let points = descriptor(MANIFEST, &subject, text.len());
        let note = artifact(&registry, &repository, "application/note", &points);
        let mut untyped = note.clone();
        untyped.as_object_mut().unwrap().remove("mediaType");
        let (first, _) = push(&registry, &repository, MANIFEST, algorithm, &note);
        let (second, _) = push(&registry, &repository, MANIFEST, algorithm, &untyped);
        registry
            .delete(&format!("/v2/{repository}/manifests/{first}"))
            .is(202);
        let found = digests(&list(&registry, &repository, &subject, ""));
        assert_eq!(found, [second.to_string()]);
        registry
            .delete(&format!("/v2/{repository}/manifests/{second}"))
            .is(202);
        assert!(digests(&list(&registry, &repository, &subject, "")).is_empty());
    }
}

fn pages(world: &World) {
    let (registry, repository) = fresh(world);
    let (subject, text) = registry.push_image(&repository, "v1");
    let points = descriptor(MANIFEST, &subject, text.len());
    let mut expect = Vec::new();
    for number in 0..7 {
        let kind = if number < 5 {
            "application/many"
        } else {
            "application/few"
        };
        let mut note = artifact(&registry, &repository, kind, &points);
        note["annotations"]["pad"] = format!("{number}").repeat(1 << 20).into();
        let (digest, _) = push(&registry, &repository, MANIFEST, Algorithm::Sha256, &note);
        expect.push((kind, digest.to_string()));
    }
    expect.sort_by(|a, b| a.1.cmp(&b.1));
    for kind in ["", "application/many"] {
        let query = match kind {
            "" => String::new(),
            kind => format!("?artifactType={kind}"),
        };
        let mut path = format!("/v2/{repository}/referrers/{subject}{query}");
        let (mut found, mut answers) = (Vec::new(), 0);
        while !path.is_empty() {
            let page = registry.get(&path).is(200).has("content-type", INDEX);
            assert!(page.body.len() <= 4 << 20, "an index that fits: {path}");
            let filter = if kind.is_empty() { "" } else { "artifactType" };
            let page = page.has("oci-filters-applied", filter);
            found.extend(digests(&page));
            answers += 1;
            let link = page.header("link");
            let next = link.strip_prefix('<').and_then(|link| link.split_once('>'));
            path = next.map_or_else(String::new, |(next, rest)| {
                assert_eq!(rest, "; rel=\"next\"");
                next.to_owned()
            });
        }
        let wanted = expect
            .iter()
            .filter(|(of, _)| kind.is_empty() || *of == kind);
        let wanted: Vec<&String> = wanted.map(|(_, digest)| digest).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted);
        assert!(answers > 1, "one megabyte each");
    }
}

fn refused(world: &World) {
    let (registry, repository) = fresh(world);
    for bad in [
        "sha256:0",
        "v1",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ] {
        let path = format!("/v2/{repository}/referrers/{bad}");
        registry.get(&path).is(400).error("DIGEST_INVALID");
    }
    for algorithm in ALGORITHMS {
        let nothing = AnyDigest::of(algorithm, b"nothing");
        let nowhere = format!("{repository}/nowhere");
        assert!(digests(&list(&registry, &nowhere, &nothing, "")).is_empty());
    }
}
