//! Bytecode of installed packages, kept from build to build: an unchanged file of a package is compiled
//! once per base and user.

use super::Python;

/// Compiles all packages of the Python that runs it, as uv and pip do.
pub(super) const COMPILE: &str = include_str!("bytecode.py");

/// Options of uv that install elsewhere than into the packages of its Python, or want no bytecode.
const FOR_UV: [&str; 4] = ["--target", "--prefix", "-t", "--no-compile"];

/// Whether what uv installs by these options can be compiled here; else uv has to do it.
pub(in crate::engine) fn is_ours(python: &Python, uv_args: &[String]) -> bool {
    let for_uv = |arg: &String| FOR_UV.iter().any(|option| arg.starts_with(option));
    python.implementation == "cpython" && !uv_args.iter().any(for_uv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uv_alone_knows_is_left_to_it() {
        let check = |implementation: &str, args: &[&str], ours: bool| {
            let python = Python {
                version: (3, 12),
                executable: "/usr/bin/python3".to_owned(),
                implementation: implementation.to_owned(),
                writable: true,
                pip: true,
                config: std::collections::BTreeMap::new(),
            };
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(is_ours(&python, &args), ours, "{implementation} {args:?}");
        };
        check("cpython", &["--upgrade", "--trusted-host=a"], true);
        check("pypy", &[], false);
        for option in [
            "--target=/opt",
            "-t/opt",
            "--prefix",
            "--no-compile-bytecode",
        ] {
            check("cpython", &["--upgrade", option], false);
        }
    }
}
