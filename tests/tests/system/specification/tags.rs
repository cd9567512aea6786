//! spec.md, "Listing Tags": end-8a and end-8b.

use chalk_tests::{MANIFEST, RegistryHttp, World};
use serde_json::json;

use super::fresh;
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("all_tags_in_order", all),
    ("pages_by_n_last_and_link", pages),
    ("repositories_without_tags_and_none", without),
];

const TAGS: [&str; 7] = ["0", "A", "Z", "_x", "a", "a.b", "v10"];

fn fill(registry: &RegistryHttp, repository: &str) {
    let (_, text) = registry.push_image(repository, TAGS[3]);
    for tag in TAGS.iter().rev() {
        registry
            .push_manifest(repository, tag, MANIFEST, &text)
            .is(201);
    }
}

fn all(world: &World) {
    let (registry, repository) = fresh(world);
    fill(&registry, &repository);
    let list = registry.get(&format!("/v2/{repository}/tags/list")).is(200);
    let list = list.has("content-type", "application/json").has("link", "");
    assert_eq!(list.json(), json!({"name": repository, "tags": TAGS}));
}

fn pages(world: &World) {
    let (registry, repository) = fresh(world);
    fill(&registry, &repository);
    let base = format!("/v2/{repository}/tags/list");
    for n in 1..=8 {
        // By the link.
        let (mut path, mut found) = (format!("{base}?n={n}"), Vec::new());
        while !path.is_empty() {
            let page = registry.get(&path).is(200);
            let tags = page.json()["tags"].as_array().unwrap().clone();
            let link = page.header("link");
            found.extend(tags.iter().map(|tag| tag.as_str().unwrap().to_owned()));
            assert_eq!(tags.len() == n, found.len() == n * found.len().div_ceil(n));
            path = match link.strip_prefix('<').and_then(|link| link.split_once('>')) {
                Some((next, rest)) => {
                    assert_eq!(rest, "; rel=\"next\"");
                    assert_eq!(tags.len(), n, "no short page before the last");
                    next.to_owned()
                }
                None => String::new(),
            };
        }
        assert_eq!(found, TAGS, "n={n}");
        // By the last tag.
        for (at, last) in TAGS.iter().enumerate() {
            let page = registry.get(&format!("{base}?n={n}&last={last}")).is(200);
            let rest = &TAGS[at + 1..];
            let expect = &rest[..rest.len().min(n)];
            assert_eq!(page.json()["tags"], json!(expect), "n={n} last={last}");
            assert_eq!(page.header("link").is_empty(), rest.len() <= n);
        }
    }
    let check = |query: &str, expect: &[&str]| {
        let page = registry.get(&format!("{base}?{query}")).is(200);
        assert_eq!(page.json()["tags"], json!(expect), "{query}");
        page.has("link", "");
    };
    check("n=0", &[]);
    check("n=0&last=A", &[]);
    check("last=a", &["a.b", "v10"]);
    check("last=b", &["v10"]);
    check("last=zzz", &[]);
    check("n=1000000000", &TAGS);
    for bad in ["n=-1", "n=x", "n=1.5"] {
        let refused = registry.get(&format!("{base}?{bad}"));
        refused.is(400).error("UNSUPPORTED");
    }
}

fn without(world: &World) {
    let (registry, repository) = fresh(world);
    let path = format!("/v2/{repository}/tags/list");
    registry.get(&path).is(404).error("NAME_UNKNOWN");
    registry.push_blob(&repository, b"only a blob");
    let nothing = json!({"name": repository, "tags": []});
    assert_eq!(registry.get(&path).is(200).json(), nothing);
    registry.push_image(&repository, "v1");
    registry
        .delete(&format!("/v2/{repository}/manifests/v1"))
        .is(202);
    assert_eq!(registry.get(&path).is(200).json(), nothing);
}
