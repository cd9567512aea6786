//! Takes the built page, `web/dist`, into the program (without it the program has no page), and makes
//! Rust of the gRPC definitions in `proto/`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

// What only the service uses of the shared file is dead here.
#[allow(dead_code)]
#[path = "src/http/page/pack.rs"]
mod pack;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    page()?;
    definitions()
}

/// All `.proto` files below `dir`, sorted.
fn protos(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

fn definitions() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files = Vec::new();
    protos(Path::new("proto"), &mut files)?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    let set = compiler.file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .btree_map(".")
        .bytes(".")
        .include_file("proto.rs")
        .compile_fds(set)?;
    Ok(())
}

fn page() -> Result<(), Box<dyn std::error::Error>> {
    let web = Path::new("../web");
    let dist = web.join("dist");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/http/page/pack.rs");
    // Cargo would run this on every build while a path that it watches does not exist.
    let watched = if dist.exists() { &dist } else { web };
    println!("cargo::rerun-if-changed={}", watched.display());
    let files = if dist.exists() {
        pack::pack(&dist)?
    } else {
        Vec::new()
    };
    let out = std::env::var("OUT_DIR")?;
    let mut table = String::from("&[\n");
    for (number, file) in files.iter().enumerate() {
        let plain = format!("{out}/{number}");
        fs::write(&plain, &file.bytes)?;
        let gzip = match &file.gzip {
            Some(bytes) => {
                let path = format!("{plain}.gz");
                fs::write(&path, bytes)?;
                format!("Some(include_bytes!({path:?}))")
            }
            None => "None".to_owned(),
        };
        writeln!(
            table,
            "Embedded {{ path: {:?}, media_type: {:?}, tag: {:?}, immutable: {}, \
             bytes: include_bytes!({plain:?}), gzip: {gzip} }},",
            file.path, file.media_type, file.tag, file.immutable,
        )?;
    }
    table.push(']');
    fs::write(format!("{out}/page.rs"), table)?;
    Ok(())
}
