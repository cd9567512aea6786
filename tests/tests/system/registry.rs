//! The registry and the API as other people's tools meet them.

use chalk_tests::{Project, World, get, request, run, tool, unique};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "every_call_but_health_needs_the_token",
        every_call_but_health_needs_the_token,
    ),
    ("errors_are_problem_documents", errors_are_problem_documents),
    (
        "skopeo_pushes_lists_and_deletes",
        skopeo_pushes_lists_and_deletes,
    ),
    ("buildah_pushes_and_pulls", buildah_pushes_and_pulls),
    (
        "the_spec_is_a_referrer_of_the_image",
        the_spec_is_a_referrer_of_the_image,
    ),
    (
        "a_web_page_cannot_call_the_service",
        a_web_page_cannot_call_the_service,
    ),
];

fn every_call_but_health_needs_the_token(world: &World) {
    let service = world.service();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(
            request(&format!("{}{path}", service.url()), None, &[]).status,
            200,
            "{path}"
        );
    }
    let paths = [
        "/v1/info",
        "/v1/builds",
        "/v1/images",
        "/v2/",
        "/v2/chalk/images/tags/list",
    ];
    for path in paths {
        let url = format!("{}{path}", service.url());
        assert_eq!(request(&url, None, &[]).status, 401, "{path}");
        assert_eq!(request(&url, Some("wrong"), &[]).status, 401, "{path}");
        let right = get(&url, service.token());
        assert!(matches!(right.status, 200 | 404), "{path}: {right:?}");
    }
    let head = request(&format!("{}/v2/", service.url()), None, &["--include"]);
    let challenge = head.body.to_lowercase();
    assert!(
        challenge.contains("www-authenticate: basic")
            && challenge.contains("www-authenticate: bearer realm="),
        "docker logs in by this: {head:?}"
    );
    assert!(
        challenge.contains("docker-distribution-api-version: registry/2.0"),
        "{head:?}"
    );
}

fn errors_are_problem_documents(world: &World) {
    let service = world.service();
    let url = |path: &str| format!("{}{path}", service.url());
    let check = |response: chalk_tests::Response, status: u16, kind: &str| {
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(
            response.content_type, "application/problem+json",
            "{response:?}"
        );
        let problem = response.json();
        assert_eq!(problem["type"], kind, "{problem:#}");
        assert_eq!(problem["status"], status, "{problem:#}");
        assert!(!problem["title"].as_str().unwrap().is_empty());
    };
    let token = Some(service.token());
    check(
        get(&url("/v1/builds/none"), service.token()),
        404,
        "urn:chalk:not-found",
    );
    check(
        request(&url("/v1/info"), None, &[]),
        401,
        "urn:chalk:unauthorized",
    );
    let json = ["--header", "Content-Type: application/json", "--data"];
    let post = |body: &str| {
        request(
            &url("/v1/builds"),
            token,
            &[json[0], json[1], json[2], body],
        )
    };
    check(post("{"), 400, "urn:chalk:bad-request");
    check(
        post("{\"spec\": {\"schema\": \"chalk.image/v1\"}}"),
        400,
        "urn:chalk:bad-request",
    );
}

fn layout(world: &World) -> String {
    format!("oci:{}", world.busybox_layout().display())
}

fn skopeo_pushes_lists_and_deletes(world: &World) {
    let service = world.service();
    let repository = format!("{}/tools/{}", service.address(), unique());
    let credentials = format!("chalk:{}", service.token());
    let skopeo = |arguments: &[&str]| {
        run(&mut tool(
            "skopeo",
            ["--insecure-policy"].iter().chain(arguments),
        ))
    };
    let target = format!("docker://{repository}:one");
    skopeo(&[
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        "--dest-creds",
        &credentials,
        &layout(world),
        &target,
    ])
    .ok();
    let two = format!("docker://{repository}:two");
    let both = [
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--src-creds",
        &credentials,
        "--dest-creds",
        &credentials,
    ];
    let mut copy = vec!["copy", "--preserve-digests"];
    copy.extend(both);
    copy.extend([target.as_str(), two.as_str()]);
    skopeo(&copy).ok();
    let side = ["--tls-verify=false", "--creds", &credentials];
    let tags = skopeo(&[
        "list-tags",
        side[0],
        side[1],
        side[2],
        &format!("docker://{repository}"),
    ])
    .ok()
    .json();
    assert_eq!(tags["Tags"], serde_json::json!(["one", "two"]));
    let digest = |tag: &str| {
        let reference = format!("docker://{repository}:{tag}");
        skopeo(&[
            "inspect",
            side[0],
            side[1],
            side[2],
            "--format",
            "{{.Digest}}",
            &reference,
        ])
    };
    let pushed = digest("two").ok().stdout;
    let index = std::fs::read(world.busybox_layout().join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"][0]["digest"], pushed.trim());
    skopeo(&["delete", side[0], side[1], side[2], &two]).ok();
    assert!(!digest("two").status.success(), "deleted");
    let anonymous = skopeo(&["inspect", "--tls-verify=false", "--no-creds", &target]);
    assert!(!anonymous.status.success(), "{anonymous}");
}

fn buildah_pushes_and_pulls(world: &World) {
    let service = world.service();
    let storage = world.folder("buildah");
    let buildah = |arguments: &[&str]| {
        let mut buildah = tool("buildah", ["--storage-driver", "vfs"]);
        buildah
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run"));
        run(buildah.args(arguments))
    };
    let credentials = format!("chalk:{}", service.token());
    let remote = format!("docker://{}/buildah/app:1", service.address());
    let flags = ["--tls-verify=false", "--creds", &credentials];
    let id = buildah(&["pull", &layout(world)])
        .ok()
        .stdout
        .trim()
        .to_owned();
    buildah(&["push", flags[0], flags[1], flags[2], &id, &remote]).ok();
    buildah(&["rmi", "--all"]).ok();
    let again = buildah(&["pull", flags[0], flags[1], flags[2], &remote]).ok();
    assert_eq!(again.stdout.trim(), id);
}

fn the_spec_is_a_referrer_of_the_image(world: &World) {
    let service = world.service();
    let mark = unique();
    let project = Project::toml(&format!(
        "[image]\nbase = \"busybox\"\n[[step]]\nrun_commands = [\"echo {mark}\"]\n"
    ));
    let built = service.build(&project.arg("image.toml"));
    let digest = built["digest"].as_str().unwrap();
    let referrers = service.get(&format!("/v2/chalk/images/referrers/{digest}"));
    let manifests = referrers["manifests"].as_array().expect("an index");
    let spec = manifests
        .iter()
        .find(|m| m["artifactType"] == "application/vnd.chalk.spec.v1+json");
    let spec = spec.unwrap_or_else(|| panic!("no spec among {referrers:#}"));
    let manifest = service.get(&format!(
        "/v2/chalk/images/manifests/{}",
        spec["digest"].as_str().unwrap()
    ));
    let blob = manifest["layers"][0]["digest"].as_str().unwrap();
    let spec = service.get(&format!("/v2/chalk/images/blobs/{blob}"));
    assert!(spec.to_string().contains(&mark), "{spec:#}");
    assert_eq!(manifest["subject"]["digest"], digest);
}

/// DNS rebinding: a page that reaches the loopback address under a name of its own.
fn a_web_page_cannot_call_the_service(world: &World) {
    let service = world.service();
    let url = format!("{}/v1/info", service.url());
    let foreign = request(
        &url,
        Some(service.token()),
        &["--header", "Host: evil.example"],
    );
    assert!(matches!(foreign.status, 400 | 403 | 421), "{foreign:?}");
}
