//! spec.md, "Pushing Manifests with Subject" and "API": conditional requests by the `ETag` of a
//! manifest, as RFC 9110, section 13, says.

use chalk_core::any_digest::Algorithm;
use chalk_tests::{MANIFEST, RegistryHttp, World};

use super::fresh;
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_push_only_over_what_was_seen", only_over),
    ("a_push_only_where_nothing_is", only_new),
    ("of_many_conditional_pushes_one_wins", one_wins),
];

fn only_over(world: &World) {
    let (registry, repository) = fresh(world);
    registry.push_image(&repository, "v1");
    let path = format!("/v2/{repository}/manifests/v1");
    let seen = registry.get(&path).is(200).header("etag").to_owned();
    registry
        .ask("GET", &path, &[("if-none-match", &seen)], "")
        .is(304);
    registry
        .ask("HEAD", &path, &[("if-none-match", &seen)], "")
        .is(304);
    let text = registry.image(&repository, Algorithm::Sha256).to_string();
    let push = |tag: &str| {
        let headers = [("content-type", MANIFEST), ("if-match", tag)];
        registry.ask("PUT", &path, &headers, text.clone())
    };
    push("\"other\"").is(412);
    assert_eq!(registry.get(&path).header("etag"), seen);
    let pushed = push(&seen).is(201).header("etag").to_owned();
    assert_eq!(registry.get(&path).header("etag"), pushed);
    push(&seen).is(412);
    push("*").is(201);
    let delete = |tag: &str| registry.ask("DELETE", &path, &[("if-match", tag)], "");
    delete(&seen).is(412);
    delete(&pushed).is(202);
    push("*").is(412);
}

fn only_new(world: &World) {
    let (registry, repository) = fresh(world);
    let text = registry.image(&repository, Algorithm::Sha256).to_string();
    let path = format!("/v2/{repository}/manifests/v1");
    let headers = [("content-type", MANIFEST), ("if-none-match", "*")];
    registry.ask("PUT", &path, &headers, text.clone()).is(201);
    registry.ask("PUT", &path, &headers, text).is(412);
}

fn one_wins(world: &World) {
    let (registry, repository) = fresh(world);
    registry.push_image(&repository, "v1");
    let path = format!("/v2/{repository}/manifests/v1");
    let seen = registry.get(&path).is(200).header("etag").to_owned();
    let statuses: Vec<u16> = std::thread::scope(|threads| {
        let pushes: Vec<_> = (0..8)
            .map(|_| {
                let (path, seen, repository) = (&path, &*seen, &repository);
                threads.spawn(move || {
                    let registry = RegistryHttp::of(world.service());
                    let text = registry.image(repository, Algorithm::Sha256).to_string();
                    let headers = [("content-type", MANIFEST), ("if-match", seen)];
                    registry.ask("PUT", path, &headers, text).status
                })
            })
            .collect();
        pushes
            .into_iter()
            .map(|push| push.join().unwrap())
            .collect()
    });
    let won = statuses.iter().filter(|&&status| status == 201).count();
    let lost = statuses.iter().filter(|&&status| status == 412).count();
    assert_eq!((won, lost), (1, 7), "{statuses:?}");
}
