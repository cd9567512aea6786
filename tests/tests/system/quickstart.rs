//! The example of the README: built once, skipped ever after, partly rebuilt after a change, and
//! usable by other people's tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chalk_tests::{Layout, Project, Service, World, run, tool};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("the_example_from_end_to_end", the_example_from_end_to_end)];

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/image.toml")
}

/// Each part goes on from the image of the first, which takes a while to build.
fn the_example_from_end_to_end(world: &World) {
    // Debian's Docker 20.10 reads no zstd layers.
    let service = world.start("quickstart", &[("build.compression", "gzip")]);
    let first = service.build(&example().display().to_string());
    assert_eq!(first["status"], "built", "{first:#}");
    assert_eq!(states(&first), ["pip_install ran", "run ran"], "{first:#}");

    the_second_build_does_nothing(&service, &first);
    mtime_and_runtime_env_rerun_nothing(&service, &first);
    adding_a_package_reruns_its_step_and_what_follows(&service);
    skopeo_copies_it(world, &service, &first);
    docker_pulls_runs_and_pushes_it(world, &service, &first);
    service.assert_clean();
}

fn states(result: &Value) -> Vec<String> {
    let steps = result["steps"].as_array().expect("steps");
    let word = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
    steps
        .iter()
        .map(|step| format!("{} {}", word(step, "kind"), word(step, "state")))
        .collect()
}

fn blobs(service: &Service) -> BTreeSet<PathBuf> {
    let find = [
        service.state().as_os_str(),
        "-path".as_ref(),
        "*/blobs/sha256/*".as_ref(),
    ];
    let found = run(&mut tool("find", find)).stdout;
    found.lines().map(PathBuf::from).collect()
}

fn the_second_build_does_nothing(service: &Service, first: &Value) {
    let before = blobs(service);
    assert!(!before.is_empty(), "blobs lie in the state directory");
    let file = example().display().to_string();
    let again = service
        .image(&["build", &file, "--json", "--progress", "rawjson"])
        .ok();
    let result = again.result();
    assert_eq!(result["status"], "reused", "{again}");
    for key in ["image_hash", "digest", "image"] {
        assert_eq!(result[key], first[key], "{key}");
    }
    assert_eq!(
        states(&result),
        ["pip_install cached", "run cached"],
        "{again}"
    );
    for line in again.stderr.lines() {
        let event: Value = serde_json::from_str(line).expect("events are JSON");
        let kind = event["type"].as_str().unwrap_or_default();
        let idle = !matches!(kind, "step_started" | "log" | "step_done" | "pulling");
        assert!(
            idle && (kind != "pushed" || event["present"] == true),
            "{event}"
        );
    }
    assert_eq!(blobs(service), before, "nothing was stored");
}

fn changed(change: impl Fn(String) -> String) -> Project {
    let text = fs::read_to_string(example()).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "the example still has what the test changes");
    Project::toml(&changed)
}

fn mtime_and_runtime_env_rerun_nothing(service: &Service, first: &Value) {
    let project = Project::toml(&fs::read_to_string(example()).unwrap());
    let moved = service.build(&project.arg("image.toml"));
    assert_eq!(
        moved["status"], "reused",
        "another path and another mtime: {moved:#}"
    );

    let project =
        changed(|text| text.replace("[image]", "[image]\nruntime_env = { STAGE = \"test\" }"));
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "built", "{built:#}");
    assert_eq!(states(&built), ["pip_install cached", "run cached"]);
    assert_ne!(built["image_hash"], first["image_hash"]);
}

fn adding_a_package_reruns_its_step_and_what_follows(service: &Service) {
    let project = changed(|text| text.replace("\"pandas>=2.0\"", "\"pandas>=2.0\", \"rich\""));
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "built", "{built:#}");
    assert_eq!(states(&built), ["pip_install ran", "run ran"]);

    let project = changed(|text| text.replace("git curl", "git curl && true"));
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(
        states(&built),
        ["pip_install cached", "run ran"],
        "{built:#}"
    );
}

fn skopeo_copies_it(world: &World, service: &Service, first: &Value) {
    let folder = world.folder("skopeo");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{}", first["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    let layout = Layout::open(&folder);
    let index: Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], first["digest"]);
    let config = layout.config();
    assert_eq!(config["config"]["WorkingDir"], "/app");
    let files = layout.files();
    assert!(
        files.entries.contains_key("usr/bin/git"),
        "apt's files are there"
    );
    let junk = files
        .entries
        .keys()
        .filter(|path| path.starts_with("root/.cache") || path.ends_with(".deb"));
    assert_eq!(junk.collect::<Vec<_>>(), [""; 0], "caches are in no layer");
}

fn docker_pulls_runs_and_pushes_it(world: &World, service: &Service, first: &Value) {
    let docker = world.docker();
    docker.login(service);
    let image = first["image"].as_str().unwrap();
    docker.run(["pull", "--quiet", image]).ok();
    let program = "import os, pandas, requests; print(os.getcwd(), os.environ['PROJECT_ROOT'], \
                   pandas.DataFrame({'a': [1, 2]}).a.sum())";
    let ran = docker
        .run([
            "run",
            "--rm",
            "--network",
            "host",
            image,
            "python",
            "-c",
            program,
        ])
        .ok();
    assert_eq!(ran.stdout, "/app /app 3\n", "{ran}");
    docker
        .run([
            "run",
            "--rm",
            "--network",
            "host",
            image,
            "git",
            "--version",
        ])
        .ok();

    // Back in under another name, and out again: the same bytes.
    let copy = format!("{}/team/copy:1", service.address());
    docker.run(["tag", image, &copy]).ok();
    docker.run(["push", "--quiet", &copy]).ok();
    let pushed = docker.run([
        "inspect",
        "--format",
        "{{range .RepoDigests}}{{println .}}{{end}}",
        &copy,
    ]);
    let prefix = format!("{}/team/copy@", service.address());
    let pushed = pushed.ok().stdout;
    let digest = pushed
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .expect("a digest");
    let digest = digest.to_owned();
    docker.run(["rmi", &copy]).ok();
    let pinned = format!("{prefix}{digest}");
    docker.run(["pull", "--quiet", &pinned]).ok();
    let mut skopeo = service.skopeo("inspect");
    skopeo
        .args(["--format", "{{.Digest}}"])
        .arg(format!("docker://{copy}"));
    assert_eq!(run(&mut skopeo).ok().stdout.trim(), digest);
}
