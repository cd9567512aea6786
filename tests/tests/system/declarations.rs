//! Bad declarations: each is refused before anything is built, with the place and the way out.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use chalk_tests::{Chalk, Project, World};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("bad_toml", bad_toml),
    ("bad_fields", bad_fields),
    ("bad_dockerfiles", bad_dockerfiles),
    ("bad_files", bad_files),
    ("bad_spec_json", bad_spec_json),
    ("bad_usage", bad_usage),
];

/// Expects that the declaration is refused with exit code 2 and these words.
#[track_caller]
fn check(project: &Project, file: &str, words: &[&str]) {
    let file = project.arg(file);
    Chalk::new()
        .args(["compute", "image", "hash", "--offline", &file])
        .run()
        .code(2)
        .says(words);
}

#[track_caller]
fn toml(text: &str, words: &[&str]) {
    check(&Project::toml(text), "image.toml", words);
}

/// A step on a sound image.
#[track_caller]
fn step(text: &str, words: &[&str]) {
    toml(
        &format!("[image]\nbase = \"busybox\"\n[[step]]\n{text}\n"),
        words,
    );
}

fn bad_toml(_: &World) {
    toml(
        "[image]\nbase = \"busybox\"\nbasee = 1\n",
        &["image.toml:3:1", "basee"],
    );
    toml(
        "[image]\nbase = \"busybox\"\n\n[[steps]]\n",
        &["image.toml:4:", "steps"],
    );
    toml("[image]\nbase = \"busybox\n", &["image.toml:2:"]);
    toml("[image\n", &["image.toml:1:"]);
    toml("[image]\nbase = 3\n", &["image.toml:2:", "base"]);
    toml("", &["image"]);
    toml("[image]\nworkdir = \"/app\"\n", &["base", "debian_slim"]);
    toml(
        "[image]\nbase = \"busybox\"\ndebian_slim = \"3.12\"\n",
        &["base", "debian_slim"],
    );
    step(
        "run_commands = [\"a\"]\npip_install = [\"b\"]",
        &["image.toml:", "pip_install"],
    );
    step(
        "run_command = [\"a\"]",
        &["image.toml:4:1", "run_command", "run_commands"],
    );
    step(
        "add_local_file = { src = \"a\", dest = \"/a\", strategie = \"copy\" }",
        &["image.toml:4:", "strategie"],
    );
    step(
        "add_local_file = { src = \"a\", dest = \"/a\", strategy = \"move\" }",
        &["image.toml:4:", "move", "copy", "mount"],
    );
}

fn bad_fields(_: &World) {
    step("pip_install = [\"requests =>2\"]", &["requests =>2"]);
    step("pip_install = [\"\"]", &["pip_install"]);
    step("pip_install = [\"-e\\nevil\"]", &["pip_install"]);
    step("run_commands = [\"\"]", &["run_commands", "empty"]);
    step("run_commands = [\"  \"]", &["run_commands", "empty"]);
    step("run_commands = [\"a\\u0000b\"]", &["NUL"]);
    let copy = |dest: &str| {
        format!("add_local_file = {{ src = \"a\", dest = \"{dest}\", strategy = \"copy\" }}")
    };
    step(&copy("app/a"), &["app/a", "absolute"]);
    step(&copy("/app/../etc/passwd"), &["/app/../etc/passwd", ".."]);
    step(&copy(""), &["dest"]);
    step("dockerfile_commands = [\"FROM debian\"]", &["FROM"]);
    step("dockerfile_commands = [\"RUNN true\"]", &["RUNN"]);
    let image = |line: &str| format!("[image]\nbase = \"busybox\"\n{line}\n");
    toml(
        &image("env = { \"A=B\" = \"1\" }"),
        &["image.toml:3:", "A=B"],
    );
    toml(&image("env = { \"1A\" = \"1\" }"), &["1A"]);
    toml(&image("runtime_env = { \"A B\" = \"1\" }"), &["A B"]);
    toml(&image("workdir = \"app\""), &["workdir", "absolute"]);
    toml(&image("workdir = \"/a/../b\""), &["workdir", ".."]);
    toml(
        &image("platform = \"windows\""),
        &["platform", "windows", "linux/amd64"],
    );
    toml(
        "[image]\nbase = \"Not A Reference\"\n",
        &["Not A Reference"],
    );
    toml("[image]\nbase = \"busybox@sha256:12\"\n", &["sha256"]);
    toml("[image]\ndebian_slim = \"latest; rm\"\n", &["debian_slim"]);
}

fn bad_dockerfiles(_: &World) {
    let dockerfile = |text: &str, words: &[&str]| {
        check(&Project::new(&[("Dockerfile", text)]), "Dockerfile", words);
    };
    dockerfile("FROM busybox\nRUNN true\n", &["Dockerfile:2:1", "RUNN"]);
    dockerfile("FROM busybox\n\nCOPY\n", &["Dockerfile:3:", "COPY"]);
    dockerfile("RUN true\n", &["Dockerfile:1:", "FROM"]);
    dockerfile("", &["FROM"]);
    dockerfile("FROM busybox\nRUN <<EOF\ntrue\n", &["Dockerfile:2:", "EOF"]);
    dockerfile(
        "FROM busybox\nCOPY --from=nothere /a /b\nENV A\n",
        &["Dockerfile:"],
    );
    dockerfile(
        "FROM busybox\nRUN --mount=type=nothing true\n",
        &["Dockerfile:2:", "nothing"],
    );
    dockerfile(
        "FROM busybox\nCOPY absent.txt /\n",
        &["Dockerfile:2:", "absent.txt"],
    );
    dockerfile(
        "FROM busybox\nCOPY ../outside /\n",
        &["Dockerfile:2:", "outside"],
    );
    let ignored = Project::new(&[
        ("Dockerfile", "FROM busybox\nCOPY notes.md /\n"),
        (".dockerignore", "*.md\n"),
        ("notes.md", "x"),
    ]);
    check(
        &ignored,
        "Dockerfile",
        &["Dockerfile:2:", "notes.md", ".dockerignore"],
    );
}

fn bad_files(_: &World) {
    step(
        "add_local_file = { src = \"absent.txt\", dest = \"/a\", strategy = \"copy\" }",
        &["absent.txt"],
    );
    step(
        "add_local_dir = { src = \"absent\", dest = \"/a\", strategy = \"copy\" }",
        &["absent"],
    );
    step(
        "pip_install_from_requirements = \"absent.txt\"",
        &["absent.txt"],
    );
    let folder = "[image]\nbase = \"busybox\"\n[[step]]\nadd_local_dir = { src = \"src\", dest = \"/a\", strategy = \"copy\" }\n";
    let project = Project::new(&[("image.toml", folder), ("src/fine", "")]);
    let odd = OsStr::from_bytes(b"not-\xff-utf8");
    fs::write(project.file("src").join(odd), "x").unwrap();
    check(&project, "image.toml", &["not-", "UTF-8"]);

    let requirements =
        "[image]\nbase = \"busybox\"\n[[step]]\npip_install_from_requirements = \"r.txt\"\n";
    let project = Project::new(&[
        ("image.toml", requirements),
        ("r.txt", "requests\n\nx y z\n"),
    ]);
    check(&project, "image.toml", &["r.txt", "3", "x y z"]);
    let project = Project::new(&[("fine.txt", "")]);
    Chalk::new()
        .args(["image", "hash", "--offline", &project.arg("absent.toml")])
        .run()
        .code(2)
        .says(&["absent.toml"]);
}

fn bad_spec_json(_: &World) {
    let json = |text: &str, words: &[&str]| {
        check(&Project::new(&[("spec.json", text)]), "spec.json", words);
    };
    json("{", &["spec.json", "1"]);
    json("{\"schema\": \"chalk.image/v9\"}", &["chalk.image/v9"]);
    json(
        r#"{"schema": "chalk.image/v1", "platform": "linux/amd64", "base": {"ref": "busybox"}, "steps": [{"kind": "runn", "command": "x"}]}"#,
        &["runn"],
    );
    json(
        r#"{"schema": "chalk.image/v1", "platform": "linux/amd64", "base": {"ref": "busybox"}, "stepz": []}"#,
        &["stepz"],
    );
}

fn bad_usage(_: &World) {
    let check = |arguments: &[&str], code: i32, words: &[&str]| {
        let chalk = Chalk::new()
            .args(arguments)
            .env("CHALK_TOKEN", "x".repeat(43));
        chalk.run().code(code).says(words);
    };
    check(&["frobnicate"], 2, &["frobnicate"]);
    check(&["compute", "image", "build"], 2, &["FILE"]);
    check(&["compute", "image", "hash", "--nope", "x"], 2, &["--nope"]);
    check(
        &["config", "show", "--set", "build.paralell=3"],
        2,
        &["build.paralell", "build.parallel"],
    );
    check(
        &["config", "show", "--set", "build.parallel=many"],
        2,
        &["build.parallel", "many"],
    );
    check(
        &["compute", "image", "ls", "--server", "nowhere"],
        2,
        &["nowhere"],
    );
    check(
        &["compute", "image", "ls", "--server", "http://127.0.0.1:1"],
        3,
        &["127.0.0.1:1"],
    );
    let help = Chalk::new().arg("--help").run().ok();
    for word in ["serve", "compute", "Exit codes", "130"] {
        assert!(help.stdout.contains(word), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = Chalk::new().args(["completions", shell]).run().ok();
        assert!(script.stdout.contains("chalk"), "{shell}");
    }
}
