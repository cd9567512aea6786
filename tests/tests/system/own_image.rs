//! The service's own image: built by itself, and run.

use std::fs;
use std::path::Path;

use chalk_tests::{Project, World, run, tool, wait_until};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[(
    "the_service_builds_its_own_image_and_runs_in_it",
    builds_its_own_image,
)];

fn builds_its_own_image(world: &World) {
    let service = world.start("own-image", &[("serve.node", "true")]);
    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/image/Dockerfile");
    let text = fs::read_to_string(dockerfile).unwrap();
    // A Debian that is here already in the place of the one on Docker Hub.
    let base = "FROM debian:bookworm-slim\n";
    assert!(text.contains(base), "{text}");
    let text = text.replace(base, &format!("FROM {}\n", World::PYTHON));
    let project = Project::new(&[("Dockerfile", &text)]);
    let program = std::env::var("CHALK_TEST_BIN").unwrap();
    let strip = ["--strip-unneeded", "-o", &project.arg("chalk"), &program];
    run(&mut tool("strip", strip)).ok();

    let file = project.arg("Dockerfile");
    let words = [
        "build",
        &file,
        "--name",
        "chalkcompute/chalk:test",
        "--json",
    ];
    let built = service.image(&words).ok().json();
    assert_eq!(built["status"], "built", "{built:#}");
    let image = built["image_hash"].as_str().unwrap();
    let inspect = ["--config", "--tls-verify=false"];
    let config = run(service.skopeo("inspect").args(inspect).arg(format!(
        "docker://{}/chalkcompute/chalk:test",
        service.address()
    )));
    let config = &config.ok().json()["config"];
    assert_eq!(config["User"], "10001:10001", "{config:#}");
    assert_eq!(config["Entrypoint"][0], "chalk", "{config:#}");
    assert_eq!(config["Cmd"][0], "serve", "{config:#}");
    let title = "org.opencontainers.image.title";
    assert_eq!(config["Labels"][title], "chalk", "{config:#}");

    // A port of its own, as the host's network is that of the sandbox.
    let state = "/var/lib/chalk";
    let own = ["--", "serve", "--state", state, "--listen", "127.0.0.1:0"];
    let id = service.detach(image, &own);
    let exec = |words: &[&str]| {
        let words = [&["exec", &id, "--"], words].concat();
        service.sandboxes(&words)
    };
    wait_until("the service in the sandbox runs", || {
        let logs = service.sandboxes(&["logs", &id]);
        logs.stdout.contains("chalk is serving on")
    });
    let user = exec(&["id", "-u"]).ok();
    assert_eq!(user.stdout, "10001\n");
    // What it says of itself, through its own API and the command of the image.
    let images = exec(&["chalk", "image", "ls", "--state", state, "--json"]).ok();
    assert_eq!(images.json().as_array().map(Vec::len), Some(0), "{images}");
    let doctor = exec(&["chalk", "doctor", "--state", state, "--json"]).json();
    let checks = doctor["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == "service");
    let found = found.unwrap_or_else(|| panic!("{doctor:#}"))["found"].as_str();
    let version = format!("version {}", env!("CARGO_PKG_VERSION"));
    assert!(found.unwrap().contains(&version), "{doctor:#}");
    service.sandboxes(&["stop", &id]).ok();
}
