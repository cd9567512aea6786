//! The stand-in for `python:3.12-slim-bookworm` where no registry can be reached: Debian bookworm
//! with its own Python 3.11 and pip, laid out as the official image is, as an OCI layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::host::{self, Package, package};
use crate::run::{self, Failure, Result, at, command};

/// The reference that the stand-in is imported under.
pub(crate) const REFERENCE: &str = "python:3.12-slim-bookworm";

/// What making the base needs.
pub(crate) const PACKAGES: [Package; 2] = [
    package("mmdebstrap", "/usr/bin/mmdebstrap"),
    package(
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ),
];

const SUITE: &str = "bookworm";
const INCLUDE: &str = "python3,python3-pip,python3-venv,ca-certificates";
/// The official images allow `pip install` outside a virtual environment...
const ALLOW_PIP: &str = r#"rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED"#;
/// ...and have the commands `python` and `pip`.
const SHORT_NAMES: &str = r#"for name in python pip; do
test -e "$1/usr/local/bin/$name" || ln -s "../../bin/${name}3" "$1/usr/local/bin/$name"; done"#;
/// Neither do they keep the packages that apt downloaded, nor its binary caches.
const CLEAN_APT: &str = r#"cat > "$1/etc/apt/apt.conf.d/docker-clean" <<'END'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END"#;
/// Raised when the layout changes in a way that the constants above do not show.
const REVISION: u32 = 1;

/// Path of the stand-in's OCI layout; made on the first call and kept under `target/base`.
///
/// # Errors
/// When mmdebstrap is missing and cannot be installed, or the Debian archive cannot be reached.
pub(crate) fn stand_in() -> Result<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let home = host::target().join("base");
    let layout = home.join("python-3.12-slim-bookworm");
    let stamp = home.join("recipe");
    let recipe =
        format!("{REVISION}\n{SUITE}\n{INCLUDE}\n{ALLOW_PIP}\n{SHORT_NAMES}\n{CLEAN_APT}\n");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) && layout.is_dir() {
        return Ok(layout);
    }
    host::install(&PACKAGES)?;
    fs::create_dir_all(&home).map_err(at(&home))?;
    run::remove(&stamp)?;
    run::remove(&layout)?;
    let fresh = home.join("layout.new");
    run::remove(&fresh)?;
    eprintln!("making a base image with mmdebstrap (about half a minute; kept for next time)");
    let outcome = make(&home, &fresh);
    run::remove(&home.join("rootfs"))?;
    outcome?;
    fs::rename(&fresh, &layout).map_err(at(&layout))?;
    fs::write(&stamp, recipe).map_err(at(&stamp))?;
    Ok(layout)
}

fn make(home: &Path, layout: &Path) -> Result<()> {
    let rootfs = home.join("rootfs");
    run::remove(&rootfs)?;
    let rootfs = rootfs.display().to_string();
    run::capture(&mut host::as_root(
        "mmdebstrap",
        [
            "--quiet",
            "--variant=minbase",
            "--format=directory",
            &format!("--include={INCLUDE}"),
            &format!("--customize-hook={ALLOW_PIP}"),
            &format!("--customize-hook={SHORT_NAMES}"),
            &format!("--customize-hook={CLEAN_APT}"),
            SUITE,
            &rootfs,
        ],
    )?)?;
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(at(&blobs))?;
    let tar = blobs.join("layer.tar").display().to_string();
    // Published images carry no device nodes; whoever runs them brings `/dev`.
    run::capture(&mut host::as_root(
        "tar",
        [
            "--create",
            "--sort=name",
            "--numeric-owner",
            "--exclude=./dev/*",
            "--file",
            &tar,
            "--directory",
            &rootfs,
            ".",
        ],
    )?)?;
    let diff_id = sha256(Path::new(&tar))?;
    run::capture(&mut command("gzip", ["--no-name", "--force", &tar]))?;
    let layer = file_blob(&blobs, &blobs.join("layer.tar.gz"))?;
    let config = json_blob(
        &blobs,
        &json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": {
                "Env": [
                    "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "LANG=C.UTF-8",
                ],
                "Cmd": ["python3"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
            "history": [{"created_by": format!("mmdebstrap --include={INCLUDE} {SUITE}")}],
        }),
    )?;
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json_blob(
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": describe("application/vnd.oci.image.config.v1+json", &config),
            "layers": [describe("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        }),
    )?;
    let mut entry = describe(manifest_type, &manifest);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "3.12-slim-bookworm"});
    write_json(
        &layout.join("index.json"),
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }),
    )?;
    write_json(
        &layout.join("oci-layout"),
        &json!({"imageLayoutVersion": "1.0.0"}),
    )
}

/// A blob of the layout: hex SHA-256 and size in bytes.
struct Blob {
    sha256: String,
    size: u64,
}

fn describe(media_type: &str, blob: &Blob) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", blob.sha256), "size": blob.size})
}

fn json_blob(blobs: &Path, value: &Value) -> Result<Blob> {
    let path = blobs.join("new.json");
    write_json(&path, value)?;
    file_blob(blobs, &path)
}

/// Moves a file to its place under its digest.
fn file_blob(blobs: &Path, path: &Path) -> Result<Blob> {
    let sha256 = sha256(path)?;
    let size = path.metadata().map_err(at(path))?.len();
    fs::rename(path, blobs.join(&sha256)).map_err(at(path))?;
    Ok(Blob { sha256, size })
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, value.to_string()).map_err(at(path))
}

/// Hex SHA-256 of a file, by coreutils: xtask carries no hash crate.
fn sha256(path: &Path) -> Result<String> {
    let line = run::capture(&mut command("sha256sum", [path]))?;
    match line.split_whitespace().next() {
        Some(digits) if digits.len() == 64 => Ok(digits.to_owned()),
        _ => Err(Failure::Other(format!("sha256sum printed `{line}`"))),
    }
}

/// The host's architecture in the words of OCI images.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(Failure::Other(format!(
            "no stand-in base for the architecture {other}: x86_64 and aarch64 are known"
        ))),
    }
}
