//! The npm package: `core` as WebAssembly, the JavaScript around it, and how large they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::host::{self, package};
use crate::npm;
use crate::run::{self, Failure, Result, at, command};
use crate::stamp::Stamp;

const TARGET: &str = "wasm32-unknown-unknown";

/// Every engine that can run the package has these since 2023; without them wasm-opt refuses what
/// rustc makes.
const FEATURES: [&str; 8] = [
    "--enable-bulk-memory",
    "--enable-bulk-memory-opt",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
    "--enable-simd",
];

/// Functions stay apart and in the order of their names: what is generic then repeats itself close by,
/// which takes a tenth off the compressed file.
const SHAPE: [&str; 2] = [
    "--one-caller-inline-max-function-size=10",
    "--reorder-functions-by-name",
];

/// What the package is made of.
const SOURCES: [&str; 13] = [
    "Cargo.lock",
    "Cargo.toml",
    "core/Cargo.toml",
    "core/src",
    "wasm/Cargo.toml",
    "wasm/build.mjs",
    "wasm/js",
    "wasm/package-lock.json",
    "wasm/package.json",
    "wasm/src",
    "wasm/tsconfig.json",
    "wasm/wire.mjs",
    "xtask/src/wasm.rs",
];

/// Limits of the WebAssembly file: raw, and as `gzip -9` makes it. They keep what was reached; the aim
/// in `docs/benchmarks.md` is lower.
const LIMITS: (u64, u64) = (457_000, 181_000);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build WebAssembly with Debian's toolchain even where rustup's can.
    #[arg(long)]
    debian: bool,
}

/// Builds the npm package with its tarball, and prints the sizes.
///
/// # Errors
/// When a tool is missing and cannot be installed, when a build fails, or when the file is larger
/// than its limits.
pub(crate) fn run(options: &Options) -> Result<()> {
    println!("{}", package_file(options)?);
    let tarball = pack()?;
    println!("{} ({} bytes)", tarball.display(), size(&tarball)?);
    Ok(())
}

/// Builds the npm package by the toolchain that is there, and says which, and the sizes.
///
/// # Errors
/// As [`run()`].
pub(crate) fn check() -> Result<String> {
    package_file(&Options { debian: false })
}

/// The built package as its sources are now; built only when they changed.
///
/// # Errors
/// As [`run()`].
pub(crate) fn fresh() -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let built = folder().join("dist/chalk.wasm").exists();
    if built && Stamp::of("wasm", SOURCES)?.is_fresh() {
        return Ok(());
    }
    check().map(drop)
}

/// Where the npm package lies.
pub(crate) fn folder() -> PathBuf {
    host::workspace().join("wasm")
}

/// Packs the built package into `target/npm`.
///
/// # Errors
/// When npm fails.
pub(crate) fn pack() -> Result<PathBuf> {
    let out = host::target().join("npm");
    if out.exists() {
        fs::remove_dir_all(&out).map_err(at(&out))?;
    }
    fs::create_dir_all(&out).map_err(at(&out))?;
    let mut pack = command("npm", ["pack", "--silent", "--pack-destination"]);
    run::capture(pack.arg(&out).current_dir(folder()))?;
    let mut files = fs::read_dir(&out).map_err(at(&out))?;
    let file = files.next().transpose().map_err(at(&out))?;
    file.map(|file| file.path())
        .ok_or_else(|| Failure::Other("npm pack made no file".to_owned()))
}

fn package_file(options: &Options) -> Result<String> {
    npm::install(&folder())?;
    let stamp = Stamp::of("wasm", SOURCES)?;
    let (file, toolchain) = compile(options)?;
    let generated = folder().join("js/generated");
    fs::create_dir_all(&generated).map_err(at(&generated))?;
    bind(&file, &generated)?;
    let module = optimise(&generated)?;
    schema(&generated)?;
    npm::script(&folder(), "build")?;
    stamp.keep()?;
    let raw = size(&module)?;
    let packed = run::capture_bytes(command("gzip", ["-9", "--stdout"]).arg(&module))?.len() as u64;
    let sizes = format!("{raw} bytes, {packed} gzip, by {toolchain}");
    if raw > LIMITS.0 || packed > LIMITS.1 {
        return Err(Failure::Other(format!(
            "the WebAssembly file is too large: {sizes}; at most {} and {}",
            LIMITS.0, LIMITS.1
        )));
    }
    Ok(sizes)
}

/// Compiles the engine. The standard library is built with it, for size, so that panics are traps
/// and its algorithms the small ones; that needs its source and unstable flags, which the compiler of
/// a release takes when told to.
fn compile(options: &Options) -> Result<(PathBuf, &'static str)> {
    let folder = host::target().join("wasm");
    let (mut cargo, name, folder) = if !options.debian && rustup_has_source() {
        (host::cargo([]), "rustup's toolchain", folder.join("rustup"))
    } else {
        // Documentation folders, because `/usr/bin/rustc` may be that of the much older package
        // `rustc`.
        host::install(&[
            package("rustc-web", "/usr/share/doc/rustc-web"),
            package("cargo-web", "/usr/share/doc/cargo-web"),
            package("rust-web-src", "/usr/share/doc/rust-web-src"),
            package("rust-web-llvm", "/usr/share/doc/rust-web-llvm"),
            package("lld-22", "/usr/share/doc/lld-22"),
        ])?;
        let mut cargo = Command::new("/usr/bin/cargo");
        cargo
            .current_dir(host::workspace())
            .env("RUSTC", "/usr/bin/rustc")
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN");
        (cargo, "Debian's toolchain", folder.join("debian"))
    };
    cargo
        .args(["build", "--quiet", "--locked", "--package", "chalk-wasm"])
        .args(["--profile", "wasm", "--target", TARGET])
        .args(["-Zbuild-std=std,panic_abort"])
        .args(["-Zbuild-std-features=optimize_for_size"])
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "RUSTFLAGS",
            "-Ctarget-feature=+simd128 -Zunstable-options -Cpanic=immediate-abort \
             -Zlocation-detail=none",
        );
    run::run(&mut cargo)?;
    let file = folder.join(TARGET).join("wasm/chalk_wasm.wasm");
    Ok((file, name))
}

/// Whether rustup's toolchain has the source of the standard library, or can be given it.
fn rustup_has_source() -> bool {
    let has = || {
        let sysroot = run::capture(&mut command("rustc", ["--print", "sysroot"]));
        sysroot.is_ok_and(|path| {
            Path::new(path.trim())
                .join("lib/rustlib/src/rust/library/std")
                .is_dir()
        })
    };
    has() || run::succeeds(&mut command("rustup", ["component", "add", "rust-src"])) && has()
}

/// Writes the JavaScript glue and the bound module.
fn bind(file: &Path, generated: &Path) -> Result<()> {
    let mut bind = Command::new(wasm_bindgen()?);
    bind.args(["--target", "web", "--omit-default-module-path"])
        .args(["--out-name", "engine", "--out-dir"])
        .arg(generated)
        .arg(file);
    run::run(&mut bind)
}

/// wasm-bindgen's command at exactly the version that the crate has in `Cargo.lock`: the two must
/// agree on the shape of what passes between them.
fn wasm_bindgen() -> Result<PathBuf> {
    let lock = host::workspace().join("Cargo.lock");
    let text = fs::read_to_string(&lock).map_err(at(&lock))?;
    let version = text
        .split("[[package]]")
        .find(|entry| entry.contains("\nname = \"wasm-bindgen\"\n"))
        .and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next())
        .ok_or_else(|| Failure::Other("Cargo.lock has no wasm-bindgen".to_owned()))?;
    host::cargo_tool("wasm-bindgen-cli", "wasm-bindgen", version, &[])
}

fn optimise(generated: &Path) -> Result<PathBuf> {
    let bound = generated.join("engine_bg.wasm");
    let module = generated.join("chalk.wasm");
    // Not one of before, should nothing be written.
    if module.exists() {
        fs::remove_file(&module).map_err(at(&module))?;
    }
    let program = folder().join("node_modules/.bin/wasm-opt");
    let mut optimise = command(&program.display().to_string(), ["-Oz"]);
    optimise.args(FEATURES).args(SHAPE);
    run::run(optimise.arg(&bound).arg("--output").arg(&module))?;
    for rest in [bound, generated.join("engine_bg.wasm.d.ts")] {
        fs::remove_file(&rest).map_err(at(&rest))?;
    }
    Ok(module)
}

/// Writes the JSON Schemas of which the package's build makes TypeScript types.
fn schema(generated: &Path) -> Result<()> {
    let mut example = host::cargo(["run", "--quiet", "--locked", "--package", "chalk-wasm"]);
    example.args(["--features", "schema", "--example", "schema"]);
    let text = run::capture_stdout(&mut example)?;
    let file = generated.join("schema.json");
    fs::write(&file, text).map_err(at(&file))
}

fn size(path: &Path) -> Result<u64> {
    Ok(path.metadata().map_err(at(path))?.len())
}
