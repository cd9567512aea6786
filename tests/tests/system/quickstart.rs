//! The example of the README: built once, skipped ever after, partly rebuilt after a change, and
//! usable by other people's tools.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chalk_tests::{Layout, Project, Service, World, run, tool};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("the_example_from_end_to_end", the_example_from_end_to_end),
    ("the_other_examples_build", the_other_examples_build),
    (
        "typed_installs_leave_nothing_but_packages",
        typed_installs_leave_nothing_but_packages,
    ),
];

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

fn copied(world: &World, service: &Service, result: &Value) -> Layout {
    let folder = world.folder("copied");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{}", result["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    Layout::open(&folder)
}

fn the_other_examples_build(world: &World) {
    let service = world.service();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let build = |path: &str| service.build(&examples.join(path).display().to_string());

    let result = build("with-files/image.toml");
    let layout = copied(world, service, &result);
    let config = &layout.config()["config"];
    assert_eq!(
        config["Cmd"],
        serde_json::json!(["python", "-m", "greeter"])
    );
    let env = config["Env"].as_array().unwrap();
    assert!(env.contains(&"GREETING=hello".into()), "{config:#}");
    let files = layout.files().entries;
    assert_eq!(files["usr/local/bin/greet"].mode, 0o755);
    assert_eq!(files["app/greeter/__main__.py"].mode, 0o644);
    assert!(
        files
            .keys()
            .any(|path| path.starts_with("app/greeter/__pycache__/"))
    );

    let result = build("dockerfile/Dockerfile");
    let layout = copied(world, service, &result);
    assert_eq!(layout.config()["config"]["WorkingDir"], "/app");
    let files = layout.files().entries;
    assert_eq!(files["usr/local/bin/hello"].mode, 0o755);
    assert_eq!(files["app/app.py"].kind, "file");
    assert!(!files.contains_key("app/Dockerfile") && !files.contains_key("wheels"));
}

/// What a step of one kind leaves behind, besides what it is for: caches, the installer, the CA
/// bundle and the proxies of the build are in no layer.
fn typed_installs_leave_nothing_but_packages(world: &World) {
    let service = world.start("installs", &[]);
    let project = Project::toml(
        r#"
[image]
debian_slim = "3.12"
[[step]]
pip_install = ["six==1.16.0"]
[[step]]
apt_install = ["tree"]
[[step]]
uv_pip_install = ["idna==3.7"]
"#,
    );
    let built = service
        .image(&["build", &project.arg("image.toml"), "--json"])
        .ok();
    let layout = copied(world, &service, &built.result());
    let layers = layout.layers();
    let [.., pip, apt, uv] = layers.as_slice() else {
        panic!("{} layers", layers.len());
    };
    let outside = |layer: &[u8], allowed: &[&str]| {
        let mut files = chalk_tests::ImageFiles::default();
        files.add(layer);
        let folders = [
            "tmp",
            "usr",
            "usr/local",
            "usr/local/lib",
            "usr/local/bin",
            "var",
            "var/lib",
            "var/log",
        ];
        files.entries.retain(|path, entry| {
            let parent = entry.kind == "dir" && folders.contains(&path.as_str());
            !parent && !allowed.iter().any(|prefix| path.starts_with(prefix))
        });
        files.entries.into_keys().collect::<Vec<_>>()
    };
    let packages = ["usr/local/lib/python3"];
    assert_eq!(outside(pip, &packages), [""; 0], "pip_install");
    assert_eq!(outside(uv, &packages), [""; 0], "uv_pip_install");
    let debian = [
        "usr/bin",
        "usr/share",
        "var/lib/dpkg",
        "var/lib/apt",
        "var/log/",
        "var/cache",
    ];
    assert_eq!(outside(apt, &debian), [""; 0], "apt_install");
    let mut apt_files = chalk_tests::ImageFiles::default();
    apt_files.add(apt);
    let junk = apt_files.entries.iter().filter(|(path, entry)| {
        let lists = path.starts_with("var/lib/apt/lists/") || path.starts_with("var/cache/apt/");
        entry.kind == "file" && lists
    });
    assert_eq!(
        junk.map(|(path, _)| path).collect::<Vec<_>>(),
        [""; 0],
        "lists and archives"
    );
    let config = layout.config().to_string().to_lowercase();
    for word in ["proxy=", "ssl_cert", "pip_cache", "pip_cert", "uv_cache"] {
        assert!(!config.contains(word), "{word} in {config}");
    }
    service.assert_clean();
}
