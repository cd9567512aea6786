//! The suites that Node.js runs: each is a script of a `package.json`, and finds what it needs by
//! environment variables.

use std::fs;
use std::path::PathBuf;

use crate::run::{self, Result, at, command};
use crate::{base, compile, host, npm, wasm, web};

/// The npm package's own tests, the client's against a real service among them.
pub(super) fn package() -> Result<String> {
    wasm::fresh()?;
    npm::install(&wasm::folder())?;
    let mut tests = npm::script_as_root(&wasm::folder(), "test")?;
    tests
        .env("CHALK_TEST_BASE", base::stand_in()?)
        .env("CHALK_TEST_BIN", chalk()?);
    run::run(&mut tests).map(|()| String::new())
}

/// The page's own tests, from a plain file server.
pub(super) fn page() -> Result<String> {
    web::fresh()?;
    npm::script(&web::folder(), "test").map(|()| String::new())
}

/// The packed package as a stranger installs it.
pub(super) fn packed() -> Result<String> {
    installed("packed", &[("CHALK_TEST_BIN", chalk()?)])
}

/// The packed package against Rust, over made-up specs.
pub(super) fn random() -> Result<String> {
    let make = compile::example("random_specs")?;
    let specs = run::capture_stdout(&mut command(&make.display().to_string(), [""; 0]))?;
    let file = host::target().join("random-specs.jsonl");
    fs::write(&file, specs).map_err(at(&file))?;
    let outcome = installed("random", &[("CHALK_TEST_SPECS", file.clone())]);
    run::remove(&file)?;
    outcome
}

/// The page that `chalk serve` has in it, against that very service.
pub(super) fn connected() -> Result<String> {
    web::fresh()?;
    installed(
        "connected",
        &[
            ("CHALK_TEST_BASE", base::stand_in()?),
            ("CHALK_TEST_BIN", chalk()?),
        ],
    )
}

/// Runs a script of `tests/npm` with the packed package at hand.
fn installed(script: &str, variables: &[(&str, PathBuf)]) -> Result<String> {
    wasm::fresh()?;
    let folder = host::workspace().join("tests/npm");
    npm::install(&folder)?;
    let mut tests = npm::script_as_root(&folder, script)?;
    tests
        .env("CHALK_TEST_PACKAGE", wasm::pack()?)
        .envs(variables.iter().map(|(name, value)| (name, value)));
    run::run(&mut tests).map(|()| String::new())
}

fn chalk() -> Result<PathBuf> {
    compile::chalk("dev")
}
