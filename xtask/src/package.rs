//! `cargo xtask package`: the Debian package, with manual pages and completions that the program itself
//! writes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compile;
use crate::host::{self, Package, package};
use crate::run::{self, Result, at, command};

/// Version of cargo-deb that the metadata in `tui/Cargo.toml` is written for.
const CARGO_DEB: &str = "3.8.0";

/// What making a package needs: the names of the libraries' packages, and the compiler's own `strip`.
const PACKAGES: [Package; 2] = [
    package("binutils", "/usr/bin/strip"),
    package("dpkg-dev", "/usr/bin/dpkg-shlibdeps"),
];

/// Shells, and what their completions are called where they look for them.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "chalk"), ("zsh", "_chalk"), ("fish", "chalk.fish")];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cargo profile of the chalk command; with `dev` the package is made fast, and is large.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Version of the package [default: that of the program, and `-1`]
    #[arg(long)]
    version: Option<String>,
}

/// Makes the package and prints its path.
///
/// # Errors
/// When the program cannot be built, or cargo-deb cannot be had or fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chalk = compile::chalk(&options.profile)?;
    let versions = [options.version.as_deref()];
    for made in make(&chalk, options.profile == "dev", versions)? {
        println!("{}", made.display());
    }
    Ok(())
}

/// Makes packages of a program that is built already, one of each version, all but which is the same;
/// without one it is that of the program. Gives their paths.
///
/// # Errors
/// As [`run()`].
pub(crate) fn make<const N: usize>(
    chalk: &Path,
    quick: bool,
    versions: [Option<&str>; N],
) -> Result<Vec<PathBuf>> {
    host::install(&PACKAGES)?;
    // It compresses by the programs `xz` and `gzip`.
    let features = ["--no-default-features"];
    let cargo_deb = host::cargo_tool("cargo-deb", "cargo-deb", CARGO_DEB, &features)?;
    let folder = host::target().join("package");
    lay_out(chalk, &folder.join("release"))?;
    let package = |version: Option<&str>| {
        // It removes packages of other versions from where it puts one.
        let out = folder.join(version.unwrap_or("debian"));
        run::remove(&out)?;
        fs::create_dir_all(&out).map_err(at(&out))?;
        // Nothing is built, and stripping was done: with another target folder than that of cargo,
        // cargo-deb takes what was laid out there.
        let words = ["--quiet", "--locked", "--no-build", "--no-strip"];
        let mut deb = command(&cargo_deb.display().to_string(), words);
        deb.args(["--package", "chalk", "--compress-system", "--output"])
            .arg(&out);
        if quick {
            deb.args(["--compress-type", "gz", "--fast"]);
        }
        if let Some(version) = version {
            deb.args(["--deb-version", version]);
        }
        deb.current_dir(host::workspace())
            .env("CARGO_TARGET_DIR", &folder);
        let path = run::capture_stdout(&mut deb)?;
        Ok(PathBuf::from(path.trim()))
    };
    versions.into_iter().map(package).collect()
}

/// Puts the stripped program and what it writes of itself into a folder.
fn lay_out(chalk: &Path, folder: &Path) -> Result<()> {
    run::remove(folder)?;
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let program = folder.join("chalk");
    let words = [
        Path::new("--strip-unneeded"),
        Path::new("-o"),
        &program,
        chalk,
    ];
    run::capture(&mut command("strip", words))?;
    let program = program.display().to_string();
    let man = man.display().to_string();
    run::run(&mut command(&program, ["man-pages", &man]))?;
    let words = ["--recursive", "--best", "--no-name", &man];
    run::run(&mut command("gzip", words))?;
    for (shell, name) in COMPLETIONS {
        let path = completions.join(name);
        let script = run::capture_bytes(&mut command(&program, ["completions", shell]))?;
        fs::write(&path, script).map_err(at(&path))?;
    }
    Ok(())
}
