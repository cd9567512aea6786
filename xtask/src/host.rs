//! What this machine has and lacks: Debian packages, root, cargo tools.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::run::{self, Failure, Result, at, command};

/// Version of cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// A Debian package and the file that shows that it is there.
pub(crate) struct Package {
    /// Name for apt.
    pub(crate) name: &'static str,
    /// A file of it that we use.
    pub(crate) file: &'static str,
}

/// Lists packages by name and file.
pub(crate) const fn package(name: &'static str, file: &'static str) -> Package {
    Package { name, file }
}

/// Root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo puts what it builds: `CARGO_TARGET_DIR`, else `target/`.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Where programs lie that we brought because the machine has none.
pub(crate) fn own_programs() -> PathBuf {
    target().join("tools/path")
}

/// The search path of what we start: the machine's, behind our own programs where there are any.
pub(crate) fn search_path() -> std::ffi::OsString {
    let machine = std::env::var_os("PATH").unwrap_or_default();
    let own = own_programs();
    if !own.is_dir() {
        return machine;
    }
    let all = std::iter::once(own).chain(std::env::split_paths(&machine));
    std::env::join_paths(all).unwrap_or(machine)
}

/// The cargo that runs us.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = command(&program, arguments);
    command.current_dir(workspace());
    // Set for xtask itself by `cargo run`; a nested cargo would take them for its own.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST") {
            command.env_remove(name);
        }
    }
    if compiles_once() {
        command
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
    }
    command
}

/// Whether nobody has worked on the code here: what is compiled once, as by CI, needs no state for the next
/// time and no tables of lines, which together take a quarter of the time of our own crates.
fn compiles_once() -> bool {
    static ONCE: OnceLock<bool> = OnceLock::new();
    *ONCE.get_or_init(|| {
        let entries = std::fs::read_dir(target().join("debug/incremental"));
        let mut names = entries.into_iter().flatten().flatten();
        !names.any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"chalk_"))
    })
}

/// Whether we are root.
pub(crate) fn is_root() -> Result<bool> {
    let path = Path::new("/proc/self");
    Ok(path.metadata().map_err(at(path))?.uid() == 0)
}

/// A program that needs root: through `sudo` when we are not.
pub(crate) fn as_root<'a>(
    program: &'a str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<Command> {
    if is_root()? {
        return Ok(command(program, arguments));
    }
    let words = ["--preserve-env", program].into_iter().chain(arguments);
    Ok(command("sudo", words))
}

/// A program of the release profile that drives `chalk` from outside, as root, with what it finds
/// the others by.
///
/// # Errors
/// As [`as_root`].
pub(crate) fn driver(name: &str) -> Result<Command> {
    let release = target().join("release");
    let mut driver = as_root(&release.join(name).display().to_string(), [])?;
    driver
        .env("CHALK_TEST_BIN", release.join("chalk"))
        .env("CHALK_TEST_SIMULATOR", release.join("chalk-simulate"))
        .env("CARGO_TARGET_DIR", target());
    Ok(driver)
}

/// Names of the packages that are missing.
pub(crate) fn missing(packages: &[Package]) -> Vec<&'static str> {
    let missing = packages.iter().filter(|p| !Path::new(p.file).exists());
    missing.map(|package| package.name).collect()
}

/// Installs the packages that are missing. Says what it does on standard error.
///
/// # Errors
/// When apt is not there or fails; the message names what to install by hand.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Failure::Other(format!(
            "this machine has no apt-get; install by hand what these Debian packages hold: {}",
            missing.join(" ")
        )));
    }
    eprintln!("installing {}", missing.join(" "));
    apt(&["update", "-qq"])?;
    let mut words = vec!["install", "-y", "-qq", "--no-install-recommends"];
    words.extend(missing);
    apt(&words)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let words = ["DEBIAN_FRONTEND=noninteractive", "apt-get"]
        .into_iter()
        .chain(arguments.iter().copied());
    run::capture(&mut as_root("env", words)?).map(drop)
}

/// Path of cargo-deny in the pinned version.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_tool("cargo-deny", "cargo-deny", CARGO_DENY, &[])
}

/// Path of a program of a crate, at a version; built into `target/tools` once, with further words for
/// `cargo install`.
pub(crate) fn cargo_tool(
    name: &str,
    program: &str,
    version: &str,
    words: &[&str],
) -> Result<PathBuf> {
    let root = target().join("tools");
    let path = root.join("bin").join(program);
    let text = path.display().to_string();
    let found = run::capture(&mut command(&text, ["--version"])).unwrap_or_default();
    if found.split_whitespace().nth(1) == Some(version) {
        return Ok(path);
    }
    let build = root.join("build");
    let install = |locked: bool| {
        // Without optimisation it takes a fifth of the time to build, and two seconds to run.
        let mut install = cargo(["install", "--quiet", "--debug", "--force"]);
        if locked {
            install.arg("--locked");
        }
        install
            .args(words)
            .args(["--version", version, name, "--root"])
            .arg(&root)
            .arg("--target-dir")
            .arg(&build);
        install
    };
    // A mirror of the registry may lack a release that the crate's own lock file names.
    let locked = run::capture(&mut install(true));
    if locked.is_err() {
        run::run(&mut install(false))?;
    }
    if build.exists() {
        std::fs::remove_dir_all(&build).map_err(at(&build))?;
    }
    Ok(path)
}
