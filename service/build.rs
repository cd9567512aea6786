//! Takes the built page, `web/dist`, into the program; without it the program has no page.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

// What only the service uses of the shared file is dead here.
#[allow(dead_code)]
#[path = "src/http/page/pack.rs"]
mod pack;

fn main() -> Result<(), Box<dyn std::error::Error>> {
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
