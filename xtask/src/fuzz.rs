//! A short run of every fuzz target, on the stable compiler: libFuzzer needs LLVM's coverage
//! instrumentation, which stable has, and no sanitizer, since our code there has nothing unsafe.

use std::fs;
use std::num::NonZero;
use std::path::Path;

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
    // libFuzzer ends its process without a chance to clean up.
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).map_err(at(&temporary))?;
    let programs = folder.join(&triple).join("release");
    let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
    for several in targets.chunks(at_once) {
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let running: Vec<_> = several
                .iter()
                .map(|target| {
                    let (programs, folder, found) = (&programs, &folder, &found);
                    let corpus = fuzz.join("corpus").join(target);
                    scope.spawn(move || run_target(target, programs, &corpus, folder, found))
                })
                .collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined
                .map(|ended| {
                    let panicked = |_| Err(Failure::Other("a run panicked".to_owned()));
                    ended.unwrap_or_else(panicked)
                })
                .collect()
        });
        outcomes.into_iter().collect::<Result<()>>()?;
    }
    run::remove(&temporary)?;
    Ok(format!("{} targets, {SECONDS} s each", targets.len()))
}

fn run_target(
    target: &str,
    programs: &Path,
    corpus: &Path,
    folder: &Path,
    found: &Path,
) -> Result<()> {
    let grown = folder.join("corpus").join(target);
    fs::create_dir_all(&grown).map_err(at(&grown))?;
    let program = programs.join(target).display().to_string();
    let mut fuzzer = command(&program, [&grown]);
    fuzzer.arg(corpus).env("TMPDIR", folder.join("tmp"));
    fuzzer.args([
        format!("-max_total_time={SECONDS}"),
        "-timeout=10".to_owned(),
        format!("-artifact_prefix={}/{target}-", found.display()),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
    ]);
    let outcome = run::capture(&mut fuzzer);
    outcome.map(|_| ()).map_err(|failure| match failure {
        Failure::Ended { .. } => {
            Failure::Other(format!("{failure}\ninput: in {}", found.display()))
        }
        other => other,
    })
}
