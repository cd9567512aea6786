//! The hashes of some declarations on a base, as JSON: `tests/sdk` holds them against those that Chalk's
//! own SDK and the npm package give.
//!
//! `declared_hashes REFERENCE@DIGEST`
#![allow(clippy::disallowed_macros)]

use std::process::ExitCode;

use chalk_core::Image;
use chalk_core::image::{LocalOptions, UvSyncOptions};
use chalk_core::source::MemoryFiles;

fn main() -> ExitCode {
    let Some(base) = std::env::args().nth(1) else {
        eprintln!("usage: declared_hashes REFERENCE@DIGEST");
        return ExitCode::from(2);
    };
    let files = MemoryFiles::new()
        .file("app.py", "print('app')\n")
        .file(
            "project/pyproject.toml",
            include_str!("../../examples/uv-project/pyproject.toml"),
        )
        .file(
            "project/uv.lock",
            include_str!("../../examples/uv-project/uv.lock"),
        );
    let base = Image::base(&base);
    let declared = [
        (
            "page",
            base.pip_install(["requests", "pandas>=2.0"])
                .run_commands("apt-get update && apt-get install -y git curl")
                .workdir("/app")
                .env([("PROJECT_ROOT", "/app")]),
        ),
        (
            "file",
            base.add_local_file("app.py", "/app/app.py", LocalOptions::copy())
                .add_local_file("app.py", "/app/run", LocalOptions::copy().mode(0o755)),
        ),
        (
            "instructions",
            base.dockerfile_commands(["EXPOSE 8080", "RUN useradd -m worker", "USER worker"])
                .entrypoint(["/bin/echo"])
                .cmd(["hello"]),
        ),
        (
            "project",
            base.uv_pip_install(["idna==3.7"]).uv_sync_with(
                "project",
                UvSyncOptions::new().extra("shell").workdir("/srv"),
            ),
        ),
    ];
    let mut hashes = serde_json::Map::new();
    for (name, image) in declared {
        match image.resolve(&files) {
            Ok(resolved) => {
                let hash = resolved.spec.image_hash().map(|hash| hash.to_string());
                hashes.insert(name.to_owned(), hash.into());
            }
            Err(errors) => {
                eprintln!("{name}: {errors}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{}", serde_json::Value::Object(hashes));
    ExitCode::SUCCESS
}
