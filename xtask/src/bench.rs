//! Speed and size against peers installed on the same machine, in one run.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::host::{self, Package, cargo, package};
use crate::run::{self, Failure, Result, at, command};
use crate::{base, compile, npm, wasm};

/// Where the table goes.
const PAGE: &str = "docs/benchmarks.md";

/// What stands above the table.
const ABOUT: &str = "\
# Benchmarks

Written by `cargo xtask bench`, which builds everything by the release profile, measures ours and the
peers in one run, and takes medians. Ratios are ours by the peer's. Run it on an otherwise idle machine.
";

/// What builds and the registry are measured against.
const BUILD_PEERS: [Package; 7] = [
    package("buildah", "/usr/bin/buildah"),
    package("busybox-static", "/bin/busybox"),
    package("curl", "/usr/bin/curl"),
    package("docker-registry", "/usr/bin/docker-registry"),
    package("docker.io", "/usr/sbin/dockerd"),
    package("openssl", "/usr/bin/openssl"),
    package("skopeo", "/usr/bin/skopeo"),
];

/// What nodes are measured against.
const PEERS: [Package; 8] = [
    package("containerd", "/usr/bin/ctr"),
    package("curl", "/usr/bin/curl"),
    package("docker.io", "/usr/sbin/dockerd"),
    package("iproute2", "/usr/sbin/tc"),
    package("runc", "/usr/sbin/runc"),
    package("skopeo", "/usr/bin/skopeo"),
    package("umoci", "/usr/bin/umoci"),
    package("golang-github-containers-common", PROFILE),
];

/// The system-call filter that runc is measured with.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// What stands below the table of builds.
const ABOUT_BUILDS: &str = "\
Cold means that a service, or a daemon, starts with an empty state directory, and pushes to a registry that has
nothing: caches of layers and packages are empty on both sides. All pull the base from one `docker-registry` on
loopback and download packages over the same network. Ours is the whole `chalk compute image build`, which
pushes to the service's own registry; a peer pushes to a `docker-registry` of its own. The files of both images
are compared: after installations all but logs, caches, bytecode and records of package managers, after copies all.
`CHALK_BENCH_ROUNDS`, `CHALK_BENCH_COPY_MIB`, `CHALK_BENCH_COPY_FILES` and `CHALK_BENCH_BASE_MIB` change how
often and how much.

Where the time goes, and what the limit is:

- Cold: pip's and apt's steps are three quarters of ours: downloads, copying files into place, compiling bytecode,
  dpkg. The base is unpacked while it comes; each layer is packed while the next step runs, so that only the last
  one's packing shows. The peers install the same, compress by gzip on one core, and push when all is built.
- Nothing changed: half is the start and the end of the program: the kernel maps it, the dynamic linker, since it may
  lie anywhere in memory, writes 59,000 addresses into it, and its memory is given back. The rest is the words of the
  command, settings, declaration, a connection and one request, all on one thread. It is bound by one core, while
  `docker build` mostly waits.
- A package added: uv has every wheel, and bytecode of unchanged files is kept, so what is left of pip's step is
  copying all files (a new layer must hold them); and the raw command after it runs anew in full, as at the peers.
- The last command changed: nine tenths are apt itself. A third is the download of its lists and packages, the most
  that a caching proxy can save; the other two thirds, parsing lists and dpkg, are the same for all, and put
  the limit at about half of `docker build` + `docker push`.
- Copies: each byte is hashed by the client and, while it is stored, by the service; is copied into the step's files;
  and is packed: two more hashes and zstd, which keep all cores busy. Of the 17.6 seconds of a core that the service
  takes to copy and to pack 2 GiB, zstd's match finder takes 6.5, SHA-256 3.4, the kernel's copying 3.1. `docker build`
  alone only copies: it compresses and hashes when it pushes, which is why there are two rows. On two cores zstd and
  the hashes alone take 5 s, a quarter of what `docker build` takes without them.
- A big base: the pull writes, hashes and unpacks each byte once as it arrives (SHA-256 of both forms, inflate, two
  copies by the kernel); with as many layers at once as there are cores it is bound by them, and on slow disks by
  writing compressed blobs and files. The blobs are durable before the image is; the files, which can be made again,
  are synced later.
";

/// What stands below the table of the app.
const ABOUT_APP: &str = "\
The release build in a pseudo-terminal of 160 columns and 50 rows, against `chalk-simulate` in a process of its
own on the same machine. A frame is from the model to what is written to the terminal, as the app notes it
by `CHALK_APP_FRAMES`; a key counts from its writing to the arrival of the frame that shows what it does. The
lines of the long logs are hex digits of chance, which can hardly be kept smaller than they are: of long ones
not all are kept.
";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Measure only these sections, separated by commas; what stands of the others is kept.
    #[arg(long, value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    /// Install the peers that this machine lacks.
    #[arg(long)]
    install_peers: bool,
    /// Parts of a section to measure, whose figures are printed and not written to the page; all by
    /// default.
    #[arg(last = true)]
    parts: Vec<String>,
}

/// One section of the page.
struct Section {
    name: &'static str,
    title: &'static str,
    measure: fn(&Options) -> Result<Value>,
}

const SECTIONS: [Section; 6] = [
    Section {
        name: "builds",
        title: "Builds",
        measure: builds,
    },
    Section {
        name: "service",
        title: "The service",
        measure: service,
    },
    Section {
        name: "registry",
        title: "The registry",
        measure: registry,
    },
    Section {
        name: "npm",
        title: "The npm package",
        measure: npm_package,
    },
    Section {
        name: "nodes",
        title: "Nodes",
        measure: nodes,
    },
    Section {
        name: "app",
        title: "The terminal app",
        measure: app,
    },
];

fn names() -> Vec<&'static str> {
    SECTIONS.iter().map(|section| section.name).collect()
}

/// Measures, prints the tables, and writes them into the documentation.
///
/// # Errors
/// When something cannot be built or measured. An aim that is missed is told in the table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let file = host::workspace().join(PAGE);
    let before = fs::read_to_string(&file).map_err(at(&file))?;
    let mut page = ABOUT.to_owned();
    for section in &SECTIONS {
        let heading = format!("\n## {}\n", section.title);
        page.push_str(&heading);
        let wanted = options.only.is_empty() || options.only.iter().any(|n| n == section.name);
        if !wanted {
            let kept = before.split_once(&heading).map_or("", |(_, rest)| rest);
            page.push_str(kept.split_once("\n## ").map_or(kept, |(kept, _)| kept));
            continue;
        }
        eprintln!("measuring {}; this takes a few minutes", section.name);
        let found = (section.measure)(options)?;
        let table = table(&found)?;
        print!("{table}");
        let _ = write!(page, "\n{table}\n");
        if let Some(about) = found["about"].as_str() {
            let _ = writeln!(page, "{about}");
        }
        let _ = writeln!(page, "Machine: {}.", machine(&found)?);
    }
    if !options.parts.is_empty() {
        eprintln!("{PAGE} stays as it is: it holds whole sections");
        return Ok(());
    }
    fs::write(&file, page).map_err(at(&file))
}

/// Sees to it that the peers are there.
///
/// # Errors
/// When some are missing and were not asked for, or cannot be installed.
fn peers(options: &Options, packages: &[Package]) -> Result<()> {
    if options.install_peers {
        return host::install(packages);
    }
    let missing = host::missing(packages);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::Other(format!(
            "this machine lacks {}: add `--install-peers`, or install them",
            missing.join(" ")
        ))),
    }
}

/// Size and speed of the npm package.
fn npm_package(_: &Options) -> Result<Value> {
    host::install(&[package("chromium", "/usr/bin/chromium")])?;
    let toolchain = wasm::check()?;
    let chalk = compile::programs("release", &[], &[])?.join("chalk");
    let folder = wasm::folder().join("bench");
    npm::install(&folder)?;
    let mut node = command("node", ["run.mjs"]);
    node.arg(&chalk)
        .arg("/usr/bin/chromium")
        .current_dir(&folder);
    let mut found = measurements(&mut node)?;
    found["about"] = format!("WebAssembly: {toolchain}.").into();
    Ok(found)
}

/// Speed of builds.
fn builds(options: &Options) -> Result<Value> {
    let mut found = against_peers("builds", options)?;
    found["about"] = ABOUT_BUILDS.into();
    Ok(found)
}

/// Speed and size of the service, and of hashes.
fn service(options: &Options) -> Result<Value> {
    against_peers("service", options)
}

/// Speed of the registry.
fn registry(options: &Options) -> Result<Value> {
    against_peers("registry", options)
}

/// A section that the program of measurements takes with the base and [`BUILD_PEERS`].
fn against_peers(section: &str, options: &Options) -> Result<Value> {
    peers(options, &BUILD_PEERS)?;
    let base = base::stand_in()?;
    compile::programs("release", &["chalk-bench"], &[])?;
    let mut bench = host::driver("chalk-bench")?;
    bench.arg(section).args(&options.parts);
    measurements(bench.env("CHALK_TEST_BASE", &base))
}

/// Speed of nodes.
fn nodes(options: &Options) -> Result<Value> {
    peers(options, &PEERS)?;
    let base = base::stand_in()?;
    let release = compile::programs("release", &["chalk-bench"], &[])?;
    for (package, name) in [("chalk-node", "starts"), ("chalk-service", "fleet")] {
        let words = ["--quiet", "--locked", "--release", "--package", package];
        run::run(cargo(["build"]).args(words).args(["--example", name]))?;
    }
    let mut bench = host::driver("chalk-bench")?;
    bench
        .arg("nodes")
        .args(&options.parts)
        .env("CHALK_TEST_BASE", &base)
        .env("CHALK_BENCH_STARTS", release.join("examples/starts"))
        .env("CHALK_BENCH_FLEET", release.join("examples/fleet"));
    measurements(&mut bench)
}

/// Speed and size of the terminal app.
fn app(options: &Options) -> Result<Value> {
    compile::programs("release", &["chalk-bench", "chalk-simulate"], &[])?;
    let mut bench = host::driver("chalk-bench")?;
    let mut found = measurements(bench.arg("app").args(&options.parts))?;
    found["about"] = ABOUT_APP.into();
    Ok(found)
}

/// The JSON that a program of measurements prints.
fn measurements(program: &mut Command) -> Result<Value> {
    let text = run::capture_stdout(program)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Other(format!("the measurements are no JSON: {error}")))
}

fn table(found: &Value) -> Result<String> {
    let rows = found["rows"].as_array();
    let rows = rows.ok_or_else(|| Failure::Other("no measurements came back".to_owned()))?;
    let mut table =
        String::from("| case | ours | peer | ratio | aim | |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let number = |name: &str| row[name].as_f64().map(short).unwrap_or_default();
        let mut name = text("name").to_owned();
        if !text("note").is_empty() {
            let _ = write!(name, " ({})", text("note"));
        }
        let unit = text("unit");
        let peer = match number("peer").as_str() {
            "" => String::new(),
            peer => format!("{peer} {unit}"),
        };
        let met = match row["met"].as_bool() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        let _ = writeln!(
            table,
            "| {name} | {} {unit} | {peer} | {} | {} | {met} |",
            number("ours"),
            number("ratio"),
            text("aim"),
        );
    }
    Ok(table)
}

/// A number with as many digits as it deserves.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small > 0.0 && small < 0.1 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

/// Processor, kernel and versions, in a line.
fn machine(found: &Value) -> Result<String> {
    let file = "/proc/cpuinfo";
    let cpus = fs::read_to_string(file).map_err(at(file))?;
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kernel = run::capture(&mut command("uname", ["-sr"]))?;
    let mut text = format!(
        "{} × {}, {}",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernel.trim()
    );
    for (name, version) in found["versions"].as_object().into_iter().flatten() {
        let _ = write!(text, ", {name} {}", version.as_str().unwrap_or_default());
    }
    Ok(text)
}
