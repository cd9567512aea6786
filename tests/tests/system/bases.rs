//! Bases in registries: absent, closed, for another platform, unreachable, mirrored, rotten.

use std::fs;
use std::process::Command;

use chalk_tests::{Project, Service, World, run, tool, unique};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_base_that_does_not_exist", a_base_that_does_not_exist),
    ("a_base_that_needs_a_login", a_base_that_needs_a_login),
    ("a_base_for_another_platform", a_base_for_another_platform),
    (
        "a_registry_that_cannot_be_reached",
        a_registry_that_cannot_be_reached,
    ),
    ("a_mirror_is_asked_first", a_mirror_is_asked_first),
    ("a_pinned_base_needs_no_tag", a_pinned_base_needs_no_tag),
    (
        "a_fresh_builder_starts_warm_from_an_external_registry",
        warm_from_an_external_registry,
    ),
];

fn on(reference: &str) -> Project {
    Project::toml(&format!(
        "[image]\nbase = \"{reference}\"\n[[step]]\nrun_commands = [\"echo {}\"]\n",
        unique()
    ))
}

/// Pushes the small base into a service's registry with skopeo.
fn push(world: &World, registry: &Service, repository: &str) -> String {
    let reference = format!("{}/{repository}", registry.address());
    let mut skopeo: Command = tool(
        "skopeo",
        [
            "--insecure-policy",
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ],
    );
    skopeo.arg(format!("--dest-creds=chalk:{}", registry.token()));
    skopeo.arg(format!("oci:{}", world.busybox_layout().display()));
    run(skopeo.arg(format!("docker://{reference}"))).ok();
    reference
}

/// Docker's file of logins, for a service's registry.
fn logins(registry: &Service, password: &str) -> Project {
    let pair = run(tool(
        "sh",
        ["-c", &format!("printf chalk:{password} | base64 -w0")],
    )
    .arg("--"))
    .ok();
    let auth = pair.stdout.trim();
    let address = registry.address();
    Project::new(&[(
        "config.json",
        &format!(r#"{{"auths": {{"{address}": {{"auth": "{auth}"}}}}}}"#),
    )])
}

fn a_base_that_does_not_exist(world: &World) {
    let service = world.service();
    let logins = logins(service, service.token());
    let client = world.start(
        "absent",
        &[
            ("registry.credentials", &logins.arg("config.json")),
            ("registry.insecure", service.address()),
        ],
    );
    let reference = format!("{}/team/absent:1", service.address());
    let project = on(&reference);
    let file = project.arg("image.toml");
    let hash = client.image(&["hash", &file]).ok();
    hash.says(&["warning", "not found"]);
    for verb in ["plan", "build"] {
        client
            .image(&[verb, &file])
            .code(4)
            .says(&[&reference, "not"]);
    }
    let dockerfile = Project::new(&[("Dockerfile", &format!("FROM {reference}\nRUN true\n"))]);
    client
        .image(&["build", &dockerfile.arg("Dockerfile")])
        .code(4)
        .says(&[&reference]);
}

fn a_base_that_needs_a_login(world: &World) {
    let registry = world.service();
    let reference = push(world, registry, &format!("closed/{}:1", unique()));
    let insecure = ("registry.insecure", registry.address());
    for password in [None, Some("wrong")] {
        let logins = password.map_or_else(
            || Project::new(&[("config.json", "{}")]),
            |p| logins(registry, p),
        );
        let client = world.start(
            "closed",
            &[
                ("registry.credentials", &logins.arg("config.json")),
                insecure,
            ],
        );
        let refused = client
            .image(&["build", &on(&reference).arg("image.toml")])
            .code(3);
        refused.says(&[registry.address(), "login"]);
    }
    let logins = logins(registry, registry.token());
    let client = world.start(
        "closed",
        &[
            ("registry.credentials", &logins.arg("config.json")),
            insecure,
        ],
    );
    let built = client.build(&on(&reference).arg("image.toml"));
    assert_eq!(built["status"], "built", "{built:#}");
    assert!(
        !client.log().contains(registry.token()),
        "the password is in no log"
    );
    // A helper, as Docker's `credsStore` names one.
    let helper = Project::new(&[
        ("config.json", "{\"credsStore\": \"chalktest\"}"),
        (
            "docker-credential-chalktest",
            &format!(
                "#!/bin/sh\ncat >/dev/null\necho '{{\"Username\": \"chalk\", \"Secret\": \"{}\"}}'\n",
                registry.token()
            ),
        ),
    ]);
    helper.chmod("docker-credential-chalktest", 0o755);
    let path = format!(
        "{}:{}",
        helper.path().display(),
        std::env::var("PATH").unwrap()
    );
    let build = client_with_path(
        world,
        &path,
        &helper.arg("config.json"),
        registry,
        &on(&reference),
    );
    assert_eq!(build["status"], "built", "{build:#}");
}

/// A build in the command's own process, so that its `PATH` is the one that counts.
fn client_with_path(
    world: &World,
    path: &str,
    credentials: &str,
    registry: &Service,
    project: &Project,
) -> serde_json::Value {
    let state = world.state("helper");
    chalk_tests::Chalk::on(&state)
        .args([
            "compute",
            "image",
            "build",
            &project.arg("image.toml"),
            "--json",
        ])
        .args(["--set", &format!("registry.credentials={credentials}")])
        .args([
            "--set",
            &format!("registry.insecure={}", registry.address()),
        ])
        .env("PATH", path)
        .run()
        .ok()
        .result()
}

fn a_base_for_another_platform(world: &World) {
    let service = world.service();
    let project = Project::toml("[image]\nbase = \"busybox\"\nplatform = \"linux/arm64\"\n");
    let file = project.arg("image.toml");
    service
        .image(&["plan", &file])
        .code(2)
        .says(&["linux/arm64", "linux/amd64"]);
    service
        .image(&["build", &file])
        .code(2)
        .says(&["linux/arm64"]);
}

fn a_registry_that_cannot_be_reached(world: &World) {
    let service = world.service();
    for host in ["127.0.0.1:1", "registry.invalid"] {
        let project = on(&format!("{host}/team/app:1"));
        let refused = service
            .image(&["build", &project.arg("image.toml")])
            .code(3);
        refused.says(&[host]);
    }
    // The hash of the recipe needs nobody.
    let project = on("registry.invalid/team/app:1");
    service
        .image(&["hash", &project.arg("image.toml"), "--offline"])
        .ok();
}

fn a_mirror_is_asked_first(world: &World) {
    let registry = world.start("mirror", &[]);
    push(world, &registry, "library/mirrored:1");
    let logins = logins(&registry, registry.token());
    let mirrors = format!("docker.io=http://{}", registry.address());
    let mut client = world.start(
        "mirrored",
        &[
            ("registry.credentials", &logins.arg("config.json")),
            ("registry.mirrors", &mirrors),
        ],
    );
    let project = on("mirrored:1");
    let file = project.arg("image.toml");
    let hash = client.image(&["hash", &file, "--json"]).ok().json();
    assert_eq!(
        hash["base"]["ref"], "docker.io/library/mirrored:1",
        "the mirror's name does not count"
    );
    assert_eq!(client.build(&file)["status"], "built");

    // What was pulled is kept, and checked: a rotten copy is fetched again.
    client.stop();
    let layers = chalk_tests::Layout::open(world.busybox_layout()).manifest();
    let digest = layers["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let find = tool("find", [client.state().as_os_str()]);
    let mut find = find;
    let found = run(find.args(["-type", "f", "-path", &format!("*blobs/sha256/{digest}")])).ok();
    for path in found.stdout.lines() {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let _ = fs::remove_dir_all(client.state().join("snapshots"));
    client.start_again(&[]);
    let again = on("mirrored:1");
    let built = client
        .image(&["build", &again.arg("image.toml"), "--json"])
        .ok();
    assert_eq!(
        built.result()["status"],
        "built",
        "{built}\n{}",
        client.log()
    );
    client.stop();
    client.assert_clean();
}

fn a_pinned_base_needs_no_tag(world: &World) {
    let service = world.service();
    let project = Project::toml("[image]\nbase = \"busybox\"\nenv = { A = \"1\" }\n");
    let file = project.arg("image.toml");
    let locked = service.image(&["lock", &file]).ok();
    let lock = fs::read_to_string(project.file("image.lock")).expect("a lock beside the file");
    let hash = service.image(&["hash", &file, "--json"]).ok().json();
    let digest = hash["base"]["digest"].as_str().unwrap();
    assert!(lock.contains(digest), "{lock} {locked}");
    // With the lock, no service and no registry is needed for the image hash.
    let offline = service
        .image(&["hash", &file, "--offline", "--json"])
        .ok()
        .json();
    assert_eq!(offline["image_hash"], hash["image_hash"]);
    let by_digest = Project::toml(&format!(
        "[image]\nbase = \"busybox@{digest}\"\nenv = {{ A = \"1\" }}\n"
    ));
    let by_digest = service
        .image(&["hash", &by_digest.arg("image.toml"), "--offline", "--json"])
        .ok()
        .json();
    assert_eq!(
        by_digest["image_hash"], hash["image_hash"],
        "same bytes, same hash"
    );
}

fn warm_from_an_external_registry(world: &World) {
    let registry = world.start("external", &[]);
    let logins = logins(&registry, registry.token());
    let builder = || {
        let state = world.folder("builder");
        let settings = [
            ("registry.url", registry.address()),
            ("registry.prefix", "fleet"),
            ("registry.insecure", registry.address()),
            ("registry.credentials", &logins.arg("config.json")),
        ];
        Service::start(&state, &settings)
    };
    let first = builder();
    let layout = world.busybox_layout().display().to_string();
    first
        .image(&["import", &layout, "--as", "example.com/shared:1"])
        .ok();
    let mark = unique();
    let text = format!(
        "[image]\nbase = \"example.com/shared:1\"\n[[step]]\n\
         run_commands = [\"echo {mark} > /one\", \"echo two > /two\"]\n"
    );
    let project = Project::toml(&text);
    let file = project.arg("image.toml");
    let built = first
        .image(&["build", &file, "--json", "--name", "team/app:1"])
        .ok()
        .result();
    let image = built["image"].as_str().unwrap();
    assert!(
        image.starts_with(&format!("{}/fleet/", registry.address())),
        "{image}"
    );
    let mut skopeo = registry.skopeo("inspect");
    run(skopeo.arg(format!("docker://{image}"))).ok();
    drop(first);

    // Another machine: nothing on its disk, the same registry.
    let second = builder();
    let again = second.build(&file);
    assert_eq!(again["status"], "reused", "{again:#}");
    assert_eq!(again["digest"], built["digest"]);
    project.write("image.toml", text.replace("echo two", "echo changed"));
    let changed = second.build(&file);
    let steps = changed["steps"].as_array().unwrap();
    let states: Vec<&str> = steps
        .iter()
        .map(|step| step["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["cached", "ran"], "{changed:#}");
    let layout = world.folder("changed");
    let mut skopeo = registry.skopeo("copy");
    skopeo.arg(format!("docker://{}", changed["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", layout.display()))).ok();
    let files = chalk_tests::Layout::open(&layout).files().entries;
    assert!(files.contains_key("one") && files.contains_key("two"));
}
