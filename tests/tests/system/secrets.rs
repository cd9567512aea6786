//! Secrets: there for the step that names them, and nowhere else.

use std::fs;
use std::io::Read;
use std::path::Path;

use chalk_tests::{Layout, Project, Service, World, run, unique};

use crate::Test;
use crate::failures::{sleep_mark, wait_for_process};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_secret_is_seen_by_its_step_and_kept_nowhere",
        a_secret_is_kept_nowhere,
    ),
    ("a_missing_secret_is_refused", a_missing_secret_is_refused),
    ("a_secret_counts_by_name", a_secret_counts_by_name),
];

/// A value that stands nowhere else, and its SHA-256 as busybox prints it.
fn value() -> (String, String) {
    let value = format!("hunter2-{}-correct-horse", unique());
    let digest = chalk_core::Digest::of(value.as_bytes()).hex();
    (value, digest)
}

fn project(mark: &str, digest: &str) -> Project {
    Project::toml(&format!(
        r#"
[image]
base = "busybox"
[[step]]
run_commands = ["sha256sum /run/secrets/api_key | grep -q {digest} && echo checked && sleep {mark}"]
secrets = ["api_key"]
[[step]]
run_commands = ["test ! -e /run/secrets/api_key"]
"#
    ))
}

fn a_secret_is_kept_nowhere(world: &World) {
    let service = world.start("secrets", &[]);
    let (value, digest) = value();
    let mark = format!("2.{}", sleep_mark().replace('.', ""));
    let project = project(&mark, &digest);
    let file = project.arg("image.toml");
    let build = service
        .chalk()
        .args([
            "compute",
            "image",
            "build",
            &file,
            "--json",
            "--secret",
            "api_key=env:MY_KEY",
        ])
        .env("MY_KEY", &value);
    let (ran, seen) = std::thread::scope(|scope| {
        let build = scope.spawn(move || build.run());
        wait_for_process(&mark, true);
        let seen = processes_with(&value);
        (build.join().unwrap(), seen)
    });
    let ran = ran.ok();
    assert_eq!(seen, [""; 0], "the value is in a process list");
    assert!(!ran.stdout.contains(&value) && !ran.stderr.contains(&value));
    assert!(!service.log().contains(&value), "the service logged it");
    let build = service.get("/v1/builds")[0].clone();
    let events = service.events(build["id"].as_str().unwrap(), 0);
    assert!(
        !format!("{events:?}{build}").contains(&value),
        "an event has it"
    );
    let folder = world.folder("layers");
    let mut skopeo = service.skopeo("copy");
    skopeo.arg(format!(
        "docker://{}",
        ran.result()["image"].as_str().unwrap()
    ));
    run(skopeo.arg(format!("oci:{}", folder.display()))).ok();
    let layout = Layout::open(&folder);
    for layer in layout.layers() {
        assert!(!holds(&layer, &value), "a layer has it");
    }
    assert!(
        layout
            .files()
            .entries
            .keys()
            .all(|path| !path.contains("api_key"))
    );
    assert_eq!(
        files_with(service.state(), &value),
        [""; 0],
        "a file of the service has it"
    );
    service.assert_clean();
}

fn holds(bytes: &[u8], value: &str) -> bool {
    bytes
        .windows(value.len())
        .any(|window| window == value.as_bytes())
}

/// Processes with the value in their arguments, apart from the tests' own.
fn processes_with(value: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .filter(|line| holds(line, value))
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect()
}

/// Files below `folder` with the value in them, compressed layers as they are.
fn files_with(folder: &Path, value: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let mut bytes = Vec::new();
                let _ =
                    fs::File::open(entry.path()).and_then(|mut file| file.read_to_end(&mut bytes));
                if holds(&bytes, value) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

fn a_missing_secret_is_refused(world: &World) {
    let service = world.service();
    let project = project("0", &unique());
    let file = project.arg("image.toml");
    let refused = service.image(&["build", &file]);
    assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused}");
    refused.says(&["api_key", "--secret"]);
    let refused = service.image(&["build", &file, "--secret", "api_key=env:NOT_SET_ANYWHERE"]);
    refused.code(2).says(&["NOT_SET_ANYWHERE"]);
    let refused = service.image(&["build", &file, "--secret", "api_key=file:/not/there"]);
    refused.code(2).says(&["/not/there"]);
}

fn a_secret_counts_by_name(world: &World) {
    let service: &Service = world.service();
    let digest = unique();
    let project = project("0", &digest);
    let file = project.arg("image.toml");
    let hash = || {
        service
            .image(&["hash", &file, "--offline", "--json"])
            .ok()
            .json()["recipe_hash"]
            .clone()
    };
    let before = hash();
    let text = fs::read_to_string(project.file("image.toml")).unwrap();
    project.write(
        "image.toml",
        text.replace("secrets = [\"api_key\"]", "secrets = [\"other_key\"]"),
    );
    assert_ne!(hash(), before, "another name is another hash");
}
