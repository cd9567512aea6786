//! Virtual environments of Python with packages of PyPI.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::{self, package};
use crate::run::{self, Result, at, command};

/// A virtual environment below `home` with what `words` of pip say; `recipe` tells whether that was
/// done.
///
/// # Errors
/// When it cannot be made.
pub(super) fn environment(
    home: &Path,
    name: &str,
    recipe: &str,
    words: &[&str],
) -> Result<PathBuf> {
    host::install(&[package("python3-venv", "/usr/share/doc/python3-venv")])?;
    let (place, stamp) = (home.join(name), home.join(format!("{name}.recipe")));
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) && place.is_dir() {
        return Ok(place);
    }
    run::remove(&stamp)?;
    run::remove(&place)?;
    fs::create_dir_all(home).map_err(at(home))?;
    run::run(command("python3", ["-m", "venv"]).arg(&place))?;
    let pip = program(&place, "pip");
    run::run(command(&pip, ["install", "--quiet", "--disable-pip-version-check"]).args(words))?;
    fs::write(&stamp, recipe).map_err(at(&stamp))?;
    Ok(place)
}

/// A program of an environment.
pub(super) fn program(environment: &Path, name: &str) -> String {
    environment.join("bin").join(name).display().to_string()
}

/// `moto_server`, the S3-compatible store of the suites, as `tests/s3` pins it.
///
/// # Errors
/// When PyPI does not have it, or cannot be reached.
pub(super) fn moto_server() -> Result<String> {
    let list = host::workspace().join("tests/s3/requirements.txt");
    let wanted = fs::read_to_string(&list).map_err(at(&list))?;
    let list = list.display().to_string();
    let words = ["--require-hashes", "--requirement", &list];
    let place = environment(&host::target().join("s3"), "moto", &wanted, &words)?;
    Ok(program(&place, "moto_server"))
}
