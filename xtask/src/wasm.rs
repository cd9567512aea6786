//! Shows that `core` builds for the browser.

use std::path::Path;

use crate::host::{self, package};
use crate::run::{self, Result, command};

const TARGET: &str = "wasm32-unknown-unknown";

/// Builds `chalk-core` for WebAssembly and says with which toolchain: rustup's target where it is
/// there or can be added, else the one of Debian, whose standard library is built from source.
pub(crate) fn check() -> Result<String> {
    let folder = host::target().join("wasm").display().to_string();
    let arguments = [
        "build",
        "--quiet",
        "--locked",
        "--package",
        "chalk-core",
        "--target",
        TARGET,
        // Nobody runs this build.
        "--config",
        "profile.dev.package.'*'.opt-level=0",
        "--target-dir",
        &folder,
    ];
    if rustup_has_target() || rustup_adds_target() {
        run::run(&mut host::cargo(arguments))?;
        return Ok("rustup's target".to_owned());
    }
    // Documentation folders, because `/usr/bin/rustc` may be that of the much older package `rustc`.
    host::install(&[
        package("rustc-web", "/usr/share/doc/rustc-web"),
        package("cargo-web", "/usr/share/doc/cargo-web"),
        package("rust-web-src", "/usr/share/doc/rust-web-src"),
        package("rust-web-llvm", "/usr/share/doc/rust-web-llvm"),
        package("lld-22", "/usr/share/doc/lld-22"),
    ])?;
    let mut cargo = command("/usr/bin/cargo", arguments);
    cargo
        .arg("-Zbuild-std=std,panic_abort")
        .current_dir(host::workspace())
        // Unstable flags on a released compiler; only this build sees them.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", "/usr/bin/rustc")
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN");
    run::run(&mut cargo)?;
    Ok("Debian's toolchain".to_owned())
}

fn rustup_has_target() -> bool {
    let sysroot = run::capture(&mut command("rustc", ["--print", "sysroot"]));
    sysroot.is_ok_and(|path| {
        Path::new(path.trim())
            .join("lib/rustlib")
            .join(TARGET)
            .is_dir()
    })
}

fn rustup_adds_target() -> bool {
    run::succeeds(&mut command("rustup", ["target", "add", TARGET]))
}
