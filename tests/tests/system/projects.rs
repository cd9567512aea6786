//! `uv_sync`: the environment that the lockfile of a project describes.

use std::path::Path;

use chalk_tests::{ImageFiles, Layout, Node, Project, STEADY, Service, World, run};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_locked_project_is_installed_as_locked",
        a_locked_project_is_installed_as_locked,
    ),
    (
        "what_follows_runs_in_the_environment",
        what_follows_runs_in_the_environment,
    ),
    ("what_uv_refuses_is_told", what_uv_refuses_is_told),
];

/// The files of the example, with another declaration.
fn project(steps: &str) -> Project {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/uv-project");
    let read = |name: &str| std::fs::read_to_string(example.join(name)).unwrap();
    Project::new(&[
        (
            "image.toml",
            &format!("[image]\ndebian_slim = \"3.12\"\n{steps}"),
        ),
        ("api/pyproject.toml", &read("pyproject.toml")),
        ("api/uv.lock", &read("uv.lock")),
    ])
}

fn build_example(service: &Service) -> Value {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/uv-project/image.toml");
    service.build(&example.display().to_string())
}

fn layout(world: &World, service: &Service, built: &Value) -> Layout {
    let folder = world.folder("project");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!("docker://{}", built["image"].as_str().unwrap()));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    Layout::open(&folder)
}

fn a_locked_project_is_installed_as_locked(world: &World) {
    let service = world.start("projects", &STEADY);
    let built = build_example(&service);
    assert_eq!(built["status"], "built", "{built:#}");
    assert_eq!(built["steps"][0]["kind"], "uv_sync", "{built:#}");

    // The layer holds the project's files, its environment with bytecode, and nothing besides.
    let image = layout(world, &service, &built);
    let layers = image.layers();
    let [.., synced, _] = layers.as_slice() else {
        panic!("{} layers", layers.len());
    };
    let mut files = ImageFiles::default();
    files.add(synced);
    let outside: Vec<_> = files
        .entries
        .keys()
        .filter(|path| *path != "app" && !path.starts_with("app/"))
        .collect();
    assert_eq!(outside, [""; 0]);
    let beside: Vec<_> = files
        .entries
        .keys()
        .filter(|path| path.starts_with("app/") && !path.starts_with("app/.venv"))
        .collect();
    assert_eq!(beside, ["app/pyproject.toml", "app/uv.lock"]);
    assert_eq!(files.entries["app/uv.lock"].mode, 0o644);
    let has = |name: &str| files.entries.keys().any(|path| path.contains(name));
    assert!(has("/rich/") && has("/click/") && has("/rich/__pycache__/table.cpython"));
    assert!(!has("iniconfig"), "the step's UV_NO_DEV counts");
    assert!(!has("tables"), "the project itself is not installed");

    // The image enters the environment, and knows nothing of how it was made.
    let config = image.config()["config"].clone();
    let env = config["Env"].as_array().unwrap();
    let path = env.iter().find_map(|e| e.as_str()?.strip_prefix("PATH="));
    assert!(path.unwrap().starts_with("/app/.venv/bin:/"), "{config:#}");
    assert!(env.contains(&"VIRTUAL_ENV=/app/.venv".into()), "{config:#}");
    assert!(!config.to_string().contains("UV_"), "{config:#}");

    let node = Node::start(&service, "node", "local", &world.folder("node"), &[]);
    let hash = built["image_hash"].as_str().unwrap();
    let ran = service.sandbox(hash, &[]).run().ok();
    assert!(
        ran.stdout.contains("/app/.venv/lib/python3") && ran.stdout.contains("click"),
        "{ran}"
    );
    drop(node);

    // Elsewhere, from the start: the same environment, save times, which bytecode holds too.
    let other = world.start("projects-again", &[]);
    let again = build_example(&other);
    assert_eq!(again["image_hash"], built["image_hash"]);
    let mut others = ImageFiles::default();
    let layers = layout(world, &other, &again).layers();
    others.add(&layers[layers.len() - 2]);
    for files in [&mut files, &mut others] {
        files.entries.retain(|path, _| !path.ends_with(".pyc"));
    }
    others.assert_same(&files);
    service.assert_clean();
}

fn what_follows_runs_in_the_environment(world: &World) {
    let service = world.service();
    let project = project(
        r#"user = "worker"
[[step]]
dockerfile_commands = ["USER root", "RUN useradd -m worker", "USER worker"]
[[step]]
uv_sync = { project = "api", workdir = "/home/worker/srv" }
[[step]]
run_commands = [
    'test "$(command -v python)" = /home/worker/srv/.venv/bin/python && test -O "$VIRTUAL_ENV"',
    "cd / && python -c 'import rich, iniconfig' && ! python -c 'import click'",
]
[[step]]
pip_install = ["six==1.16.0"]
[[step]]
run_commands = ["python -c 'import six; assert six.__file__.startswith(\"/home/worker/srv/\")'"]
"#,
    );
    let built = service.build(&project.arg("image.toml"));
    assert_eq!(built["status"], "built", "{built:#}");
    let states = |built: &Value| {
        let steps = built["steps"].as_array().unwrap().iter();
        steps
            .map(|step| step["state"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };

    // A comment in the lockfile is another lockfile, and reruns the step and what follows.
    let lock = std::fs::read_to_string(project.file("api/uv.lock")).unwrap();
    project.write("api/uv.lock", format!("# changed\n{lock}"));
    let again = service.build(&project.arg("image.toml"));
    let (cached, ran) = (vec!["cached"; 3], vec!["ran"; 5]);
    assert_eq!(states(&again), [cached, ran].concat(), "{again:#}");
}

fn what_uv_refuses_is_told(world: &World) {
    let service = world.service();
    let check = |change: &dyn Fn(&Project), step: &str, words: &[&str]| {
        let project = project(&format!("[[step]]\nuv_sync = {step}\n"));
        change(&project);
        let arguments = ["build", &project.arg("image.toml"), "--progress", "plain"];
        service.image(&arguments).code(1).says(words);
    };
    check(
        &|_| {},
        r#"{ project = "api", extras = ["nope"] }"#,
        &["uv_sync", "Extra `nope` is not defined"],
    );
    check(
        &|project| {
            for name in ["api/pyproject.toml", "api/uv.lock"] {
                let text = std::fs::read_to_string(project.file(name)).unwrap();
                project.write(name, text.replace(">=3.11", ">=3.99"));
            }
        },
        r#""api""#,
        &["uv_sync", "3.99"],
    );
    check(
        &|project| project.write("api/uv.lock", "version = \"no lockfile\"\n"),
        r#""api""#,
        &["uv_sync", "uv.lock"],
    );
}
