//! spec.md, "Determining Support" and "API": end-1, and the rules for names.

use chalk_tests::World;

use super::fresh;
use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("end_1_says_that_the_specification_is_served", end_1),
    ("names_are_those_of_the_grammar", names),
];

fn end_1(world: &World) {
    let (registry, _) = fresh(world);
    for path in ["/v2/", "/v2"] {
        registry.get(path).is(200);
        let head = registry.head(path).is(200);
        assert!(head.body.is_empty());
    }
}

fn names(world: &World) {
    let (registry, unique) = fresh(world);
    let good = [
        "a".to_owned(),
        "0".to_owned(),
        "a.b_c__d-e--f/g.h/1".to_owned(),
        "tags/list".to_owned(),
        "manifests/blobs/uploads".to_owned(),
        "x".repeat(200),
    ];
    for name in good {
        let repository = format!("{unique}/{name}");
        let digest = registry.push_blob(&repository, b"named");
        let at = format!("/v2/{repository}/blobs/{digest}");
        assert_eq!(registry.get(&at).is(200).body, b"named", "{repository}");
        registry.push_image(&repository, "v1");
        let list = registry.get(&format!("/v2/{repository}/tags/list")).is(200);
        assert_eq!(list.json()["tags"][0], "v1", "{repository}");
    }
    let bad = [
        "A", "a..b", "a___b", "a.-b", "-a", "a-", "a/-b", "a//b", "_a", "a/_b", "%C3%A4",
    ];
    for name in bad {
        let upload = format!("/v2/{unique}/{name}/blobs/uploads/");
        registry
            .ask("POST", &upload, &[], "")
            .is(400)
            .error("NAME_INVALID");
    }
}
