//! The npm folders: their packages at the locked versions, and their scripts.

use std::path::Path;
use std::process::Command;

use crate::host;
use crate::run::{self, Failure, Result, command};

/// Oldest Node.js that builds and tests run on, major and minor.
const NODE: (u32, u32) = (20, 19);

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
    let path = format!("PATH={}", std::env::var("PATH").unwrap_or_default());
    let mut script = host::as_root("env", [&path, "npm", "run", "--silent", name])?;
    script.current_dir(folder);
    Ok(script)
}

fn check_node() -> Result<()> {
    let version = run::capture(&mut command("node", ["--version"])).unwrap_or_default();
    let mut numbers = version.trim().trim_start_matches('v').split('.');
    let mut number = || numbers.next().and_then(|text| text.parse::<u32>().ok());
    if number().zip(number()) >= Some(NODE) {
        return Ok(());
    }
    let found = match version.trim() {
        "" => "there is none".to_owned(),
        version => format!("found {version}"),
    };
    let (major, minor) = NODE;
    Err(Failure::Other(format!(
        "Node.js {major}.{minor} or newer is needed, {found}; see https://nodejs.org/en/download"
    )))
}
