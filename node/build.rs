//! Makes Rust of containerd's gRPC definitions in `proto/`, which hold what a node uses of them.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(Path::new("proto/containerd"))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .btree_map(".")
        .bytes(".")
        .include_file("containerd.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
