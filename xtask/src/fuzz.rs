//! A short run of every fuzz target, on the stable compiler: libFuzzer needs LLVM's coverage
//! instrumentation, which stable has, and no sanitizer, since `core` has no unsafe code.

use std::fs;

use crate::host::{self, package};
use crate::run::{self, Failure, Result, at, command};

/// Seconds for each target. A long run is a matter of `cargo fuzz`.
const SECONDS: u32 = 10;

/// What cargo-fuzz gives rustc, without sanitizers.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg=fuzzing -Ccodegen-units=1 -Cdebug-assertions";

/// Runs every target for a while, from its corpus in the repository. Says how many there are.
///
/// # Errors
/// When a target cannot be built, or finds something; what it found lies in `target/fuzz/found`.
pub(crate) fn check() -> Result<String> {
    // libFuzzer itself is C++.
    host::install(&[package("g++", "/usr/bin/g++")])?;
    let fuzz = host::workspace().join("fuzz");
    let folder = host::target().join("fuzz");
    // With a target, build scripts and macros of the host stay free of the instrumentation.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = host::cargo(["build", "--quiet", "--locked", "--release"]);
    build
        .args(["--target", &triple, "--manifest-path"])
        .arg(fuzz.join("Cargo.toml"));
    build
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTFLAGS", RUSTFLAGS);
    run::run(&mut build)?;

    let sources = fuzz.join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&sources).map_err(at(&sources))? {
        let path = entry.map_err(at(&sources))?.path();
        targets.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    targets.sort();
    let found = folder.join("found");
    fs::create_dir_all(&found).map_err(at(&found))?;
    for target in &targets {
        let grown = folder.join("corpus").join(target);
        fs::create_dir_all(&grown).map_err(at(&grown))?;
        let program = folder.join(&triple).join("release").join(target);
        let mut fuzzer = command(&program.display().to_string(), [&grown]);
        fuzzer.arg(fuzz.join("corpus").join(target));
        fuzzer.args([
            format!("-max_total_time={SECONDS}"),
            "-timeout=10".to_owned(),
        ]);
        fuzzer.arg(format!("-artifact_prefix={}/{target}-", found.display()));
        fuzzer.args(["-print_final_stats=1", "-verbosity=0"]);
        run::capture(&mut fuzzer).map_err(|failure| match failure {
            Failure::Ended { .. } => {
                Failure::Other(format!("{failure}\ninput: in {}", found.display()))
            }
            other => other,
        })?;
    }
    Ok(format!("{} targets, {SECONDS} s each", targets.len()))
}
