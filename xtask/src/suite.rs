//! `cargo xtask test`: every check and test of the project, on one machine, from nothing.

use std::time::{Duration, Instant};

use crate::host::{self, Package, cargo, package};
use crate::run::{self, Failure, Result, command};
use crate::{base, chart, compile, fuzz, wasm, web};

mod installed;
mod javascript;
mod lanes;
mod python;
mod sdk;

/// What the suites use besides Rust: the peers that they compare with, and plain tools.
const PACKAGES: [Package; 19] = [
    package("buildah", "/usr/bin/buildah"),
    package("busybox-static", "/bin/busybox"),
    package("ca-certificates", "/etc/ssl/certs/ca-certificates.crt"),
    package("chromium", "/usr/bin/chromium"),
    package("containerd", "/usr/bin/containerd"),
    package("curl", "/usr/bin/curl"),
    package("docker.io", "/usr/sbin/dockerd"),
    package("docker-registry", "/usr/bin/docker-registry"),
    package("e2fsprogs", "/sbin/mke2fs"),
    package("erofs-utils", "/usr/bin/fsck.erofs"),
    package("faketime", "/usr/bin/faketime"),
    package("iproute2", "/usr/sbin/ip"),
    package("openssl", "/usr/bin/openssl"),
    package("procps", "/usr/bin/pgrep"),
    package("python3", "/usr/bin/python3"),
    package("runc", "/usr/sbin/runc"),
    package("skopeo", "/usr/bin/skopeo"),
    package("uidmap", "/usr/bin/newuidmap"),
    package("zstd", "/usr/bin/zstd"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only these steps, separated by commas, in their usual order.
    #[arg(long, value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    /// Print the names of the steps and what they do.
    #[arg(long)]
    list: bool,
    /// Name, or a part of the names, of whole-system tests and of those of the SDK; all by default.
    #[arg(last = true)]
    filter: Option<String>,
}

/// One row of the table. The function returns a note for the table, often empty.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Options) -> Result<String>,
}

/// What came of a step.
struct Row {
    name: &'static str,
    outcome: Result<String>,
    took: Duration,
}

impl Row {
    /// Of a step that could not begin.
    fn failed(step: &Step, failure: Failure) -> Self {
        Self {
            name: step.name,
            outcome: Err(failure),
            took: Duration::ZERO,
        }
    }
}

static STEPS: [Step; 20] = [
    Step {
        name: "packages",
        about: "Debian packages that the suites use, and the base image",
        run: packages,
    },
    Step {
        name: "fmt",
        about: "cargo fmt --check",
        run: fmt,
    },
    // Before anything that compiles the service, which takes the page in.
    Step {
        name: "wasm",
        about: "the npm package with its WebAssembly file, and their sizes",
        run: |_| wasm::check(),
    },
    Step {
        name: "web",
        about: "the page, and its size",
        run: |_| web::check().map(|()| String::new()),
    },
    Step {
        name: "clippy",
        about: "cargo clippy, warnings denied",
        run: clippy,
    },
    Step {
        name: "deny",
        about: "licences, sources and bans of dependencies; advisories where reachable",
        run: deny,
    },
    Step {
        name: "unit",
        about: "unit and integration tests of the crates",
        run: unit,
    },
    Step {
        name: "doc",
        about: "examples in the documentation, and that it builds without warnings",
        run: doc,
    },
    Step {
        name: "vectors",
        about: "the hash vectors, by the independent Python script",
        run: vectors,
    },
    Step {
        name: "fuzz",
        about: "a short run of every fuzz target",
        run: |_| fuzz::check(),
    },
    Step {
        name: "build",
        about: "the chalk command that the whole-system tests drive",
        run: |_| compile::chalk("dev").map(|path| path.display().to_string()),
    },
    Step {
        name: "chart",
        about: "the Helm chart, by helm itself and by the schemas of Kubernetes",
        run: |_| chart::check(),
    },
    Step {
        name: "system",
        about: "whole-system tests: real base image, pip, apt, docker, skopeo, registries, S3",
        run: system,
    },
    Step {
        name: "installed",
        about: "the Debian package in a bare Debian: the quick start, upgrade, removal",
        run: installed::check,
    },
    Step {
        name: "sdk",
        about: "Chalk's own Python SDK, unmodified, against a real service",
        run: sdk::check,
    },
    Step {
        name: "npm",
        about: "tests of the npm package, its client against a real service",
        run: |_| javascript::package(),
    },
    Step {
        name: "page",
        about: "tests of the page in Chromium",
        run: |_| javascript::page(),
    },
    Step {
        name: "packed",
        about: "the packed npm package: old and new Node.js, Chromium, Vite, esbuild, TypeScript",
        run: |_| javascript::packed(),
    },
    Step {
        name: "random",
        about: "10,000 made-up specs have the same hashes in Rust and in WebAssembly",
        run: |_| javascript::random(),
    },
    Step {
        name: "connected",
        about: "the page of a real service in Chromium: hashes, builds, failures",
        run: |_| javascript::connected(),
    },
];

fn names() -> clap::builder::PossibleValuesParser {
    STEPS
        .iter()
        .map(|step| step.name)
        .collect::<Vec<_>>()
        .into()
}

/// Runs the steps, goes on after a failure, and prints a table at the end.
///
/// # Errors
/// When any step failed, or by an interrupt.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for step in &STEPS {
            println!("{:10}{}", step.name, step.about);
        }
        return Ok(());
    }
    let start = Instant::now();
    let chosen =
        |step: &&Step| options.only.is_empty() || options.only.iter().any(|name| name == step.name);
    let (alone, beside) = lanes::parted(STEPS.iter().filter(chosen).collect());
    let mut rows = Vec::new();
    for step in alone {
        heading(step);
        let row = carry_out(step, options);
        match &row.outcome {
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => eprintln!("{failure}"),
            Ok(_) => {}
        }
        rows.push(row);
    }
    rows.extend(lanes::run(&beside, options)?);
    println!("\n{:10}{:8}{:>9}  note", "step", "result", "seconds");
    for Row {
        name,
        outcome,
        took,
    } in &rows
    {
        let (result, note) = match outcome {
            Ok(note) => ("ok", note.as_str()),
            Err(_) => ("FAILED", "see above"),
        };
        let row = format!("{name:10}{result:8}{:>9.1}  {note}", took.as_secs_f64());
        println!("{}", row.trim_end());
    }
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| row.outcome.is_err())
        .map(|row| row.name)
        .collect();
    let took = minutes(start.elapsed());
    if failed.is_empty() {
        println!("all {} steps passed in {took}", rows.len());
        return Ok(());
    }
    Err(Failure::Other(format!(
        "{} of {} steps failed in {took}: {}",
        failed.len(),
        rows.len(),
        failed.join(", ")
    )))
}

fn heading(step: &Step) {
    eprintln!("\n--- {}: {}", step.name, step.about);
}

fn carry_out(step: &Step, options: &Options) -> Row {
    let began = Instant::now();
    let outcome = (step.run)(options);
    Row {
        name: step.name,
        outcome,
        took: began.elapsed(),
    }
}

fn minutes(time: Duration) -> String {
    format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
}

fn packages(_: &Options) -> Result<String> {
    host::install(&PACKAGES)?;
    base::stand_in().map(|layout| layout.display().to_string())
}

fn fmt(_: &Options) -> Result<String> {
    run::run(&mut cargo(["fmt", "--all", "--check"]))?;
    // No member of the workspace.
    let fuzz = ["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"];
    run::run(&mut cargo(fuzz)).map(|()| String::new())
}

fn clippy(_: &Options) -> Result<String> {
    // The whole-system tests are no part of all targets, since a plain `cargo test` leaves them out.
    for targets in [&["--all-targets"][..], &["--test", "system"]] {
        let mut clippy = cargo(["clippy", "--quiet", "--locked", "--workspace"]);
        clippy.args(targets).args([
            "--features",
            "chalk-tests/programs",
            "--",
            "--deny",
            "warnings",
        ]);
        run::run(&mut clippy)?;
    }
    Ok(String::new())
}

fn deny(_: &Options) -> Result<String> {
    let program = host::cargo_deny()?.display().to_string();
    let check = |what: &[&str]| {
        let words = ["--log-level", "error", "check"];
        let mut deny = command(&program, words.iter().chain(what));
        run::run(deny.current_dir(host::workspace()))
    };
    check(&["bans", "licenses", "sources"])?;
    let mut fetch = command(&program, ["fetch", "db"]);
    if !run::succeeds(fetch.current_dir(host::workspace())) {
        return Ok("advisories not checked: their database cannot be fetched".to_owned());
    }
    check(&["--disable-fetch", "advisories"])?;
    Ok("with advisories".to_owned())
}

fn unit(_: &Options) -> Result<String> {
    let nextest = run::succeeds(&mut cargo(["nextest", "--version"]));
    let program: &[&str] = if nextest {
        &["nextest", "run"]
    } else {
        &["test"]
    };
    // Documentation examples have a step of their own.
    let targets = ["--lib", "--bins", "--tests"];
    let mut tests = cargo(program.iter().copied());
    tests
        .args(["--locked", "--no-fail-fast", "--workspace"])
        .args(targets)
        .env("CHALK_TEST_BASE", base::stand_in()?);
    run_tests(&mut tests)?;
    Ok(if nextest {
        "by nextest"
    } else {
        "by cargo test"
    }
    .to_owned())
}

fn doc(_: &Options) -> Result<String> {
    run::run(&mut cargo(["test", "--locked", "--workspace", "--doc"]))?;
    let mut doc = cargo(["doc", "--quiet", "--locked", "--workspace", "--no-deps"]);
    // With the examples, the features are those of the tests, and nothing is checked once more for others.
    doc.args(["--lib", "--bins", "--examples"])
        .args(["--features", "chalk-tests/programs"]);
    run::run(doc.env("RUSTDOCFLAGS", "--deny warnings"))?;
    Ok(String::new())
}

fn vectors(_: &Options) -> Result<String> {
    let script = host::workspace().join("tests/vectors/check.py");
    run::run(&mut command("python3", [script])).map(|()| String::new())
}

fn system(options: &Options) -> Result<String> {
    let chalk = compile::chalk("dev")?;
    let program = compile::system_tests()?.display().to_string();
    // Not through cargo, which would not pass an interrupt on: the suite takes its services down.
    let mut tests = host::as_root(&program, options.filter.as_deref())?;
    tests
        .current_dir(host::workspace())
        .env("CHALK_TEST_BASE", base::stand_in()?)
        .env("CHALK_TEST_BIN", chalk)
        .env("CHALK_TEST_MOTO", python::moto_server()?);
    run::run(&mut tests).map(|()| String::new())
}

/// Runs cargo's tests as root: they mount, unshare and chown. Without root, the test programs (not
/// cargo) run under sudo.
fn run_tests(tests: &mut std::process::Command) -> Result<()> {
    if !host::is_root()? {
        let arch = std::env::consts::ARCH.to_uppercase();
        let variable = format!("CARGO_TARGET_{arch}_UNKNOWN_LINUX_GNU_RUNNER");
        tests.env(variable, "sudo --preserve-env");
    }
    run::run(tests)
}
