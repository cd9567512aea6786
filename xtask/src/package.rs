//! `cargo xtask package`: the Debian package, with manual pages and completions that the program itself
//! writes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

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
    let chalk = host::build_chalk(&options.profile)?;
    let quick = options.profile == "dev";
    let made = make(&chalk, quick, options.version.as_deref())?;
    println!("{}", made.display());
    Ok(())
}

/// Makes the package of a program that is built already; gives its path.
///
/// # Errors
/// As [`run`].
pub(crate) fn make(chalk: &Path, quick: bool, version: Option<&str>) -> Result<PathBuf> {
    host::install(&PACKAGES)?;
    let cargo_deb = host::cargo_tool(
        "cargo-deb",
        "cargo-deb",
        CARGO_DEB,
        // It compresses by the programs `xz` and `gzip`.
        &["--no-default-features"],
    )?;
    let folder = host::target().join("package");
    lay_out(chalk, &folder.join("release"))?;
    let out = folder.join("debian");
    run::remove(&out)?;
    fs::create_dir_all(&out).map_err(at(&out))?;
    // Nothing is built, and stripping was done: with another target folder than that of cargo, cargo-deb
    // takes what was laid out there.
    let mut deb = command(
        &cargo_deb.display().to_string(),
        [
            "--quiet",
            "--locked",
            "--no-build",
            "--no-strip",
            "--package",
            "chalk",
        ],
    );
    deb.args(["--compress-system", "--output"]).arg(&out);
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
    for (shell, name) in COMPLETIONS {
        let path = completions.join(name);
        let file = File::create(&path).map_err(at(&path))?;
        run::run(command(&program, ["completions", shell]).stdout(file))?;
    }
    Ok(())
}
