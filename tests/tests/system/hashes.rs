//! One hash for one declaration, whatever it is written in.

use chalk_core::source::MemoryFiles;
use chalk_tests::{Chalk, Project, World};
use serde_json::Value;

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    (
        "toml_spec_json_and_rust_agree",
        toml_spec_json_and_rust_agree,
    ),
    (
        "order_and_spelling_that_mean_nothing",
        order_and_spelling_that_mean_nothing,
    ),
    ("declarations_that_differ", declarations_that_differ),
];

fn hash(project: &Project, file: &str) -> Value {
    let hash = [
        "compute",
        "image",
        "hash",
        "--offline",
        "--json",
        &project.arg(file),
    ];
    Chalk::new().args(hash).run().ok().json()
}

fn of(text: &str) -> String {
    let value = hash(&Project::toml(text), "image.toml");
    value["recipe_hash"].as_str().unwrap().to_owned()
}

fn example() -> String {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/quickstart/image.toml"
    );
    std::fs::read_to_string(path).unwrap()
}

fn toml_spec_json_and_rust_agree(_: &World) {
    let project = Project::toml(&example());
    let from_toml = hash(&project, "image.toml");
    let spec = Chalk::new()
        .args(["compute", "image", "spec", &project.arg("image.toml")])
        .run()
        .ok();
    project.write("spec.json", &spec.stdout);
    let from_json = hash(&project, "spec.json");
    for key in ["recipe_hash", "steps", "platform", "base"] {
        assert_eq!(from_toml[key], from_json[key], "{key}");
    }
    let in_rust = chalk_core::Image::debian_slim("3.12")
        .pip_install(["requests", "pandas>=2.0"])
        .run_commands("apt-get update && apt-get install -y git curl")
        .workdir("/app")
        .env([("PROJECT_ROOT", "/app")]);
    let spec = in_rust.resolve(&MemoryFiles::new()).unwrap().spec;
    assert_eq!(from_toml["recipe_hash"], spec.recipe_hash().to_string());
}

fn order_and_spelling_that_mean_nothing(_: &World) {
    let same = |one: &str, two: &str| assert_eq!(of(one), of(two), "{one}\n{two}");
    let image = "[image]\ndebian_slim = \"3.12\"\n";
    same(
        &format!("{image}env = {{ A = \"1\", B = \"2\" }}"),
        &format!("{image}env = {{ B = \"2\", A = \"1\" }}"),
    );
    same(
        &format!("{image}[[step]]\nrun_commands = [\"a\", \"b\"]"),
        &format!("{image}[[step]]\nrun_commands = [\"a\"]\n[[step]]\nrun_commands = [\"b\"]"),
    );
    same(
        &format!("{image}[[step]]\npip_install = [\"Pandas >=2.0\", \"requests\"]"),
        &format!("{image}[[step]]\npip_install = [\"requests\", \"pandas>=2.0\"]"),
    );
    same(
        image,
        "[image]\ndebian_slim = \"3.12\"\nplatform = \"linux/amd64\"",
    );
    same(image, "[image]\nbase = \"python:3.12-slim-bookworm\"");
    same(image, &format!("{image}name = \"team/app\""));
}

fn declarations_that_differ(_: &World) {
    let image = "[image]\ndebian_slim = \"3.12\"\n";
    let all = [
        image.to_owned(),
        format!("{image}env = {{ A = \"1 B 2\" }}"),
        format!("{image}env = {{ A = \"1\", B = \"2\" }}"),
        format!("{image}runtime_env = {{ A = \"1\", B = \"2\" }}"),
        format!("{image}[[step]]\nrun_commands = [\"echo hi root\"]"),
        format!("{image}user = \"root\"\n[[step]]\nrun_commands = [\"echo hi\"]"),
        format!("{image}[[step]]\nrun_commands = [\"a b\"]"),
        format!("{image}[[step]]\nrun_commands = [\"a\", \"b\"]"),
        format!("{image}[[step]]\nrun_commands = [\"caf\u{e9}\"]"),
        format!("{image}[[step]]\nrun_commands = [\"cafe\u{301}\"]"),
        "[image]\ndebian_slim = \"3.11\"\n".to_owned(),
        format!("{image}platform = \"linux/arm64\""),
    ];
    let hashes: std::collections::BTreeSet<String> = all.iter().map(|text| of(text)).collect();
    assert_eq!(hashes.len(), all.len());
}
