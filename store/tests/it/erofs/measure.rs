//! How long images take and how large they are, beside directories.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use chalk_store::erofs::{self, Options};
use chalk_store::layer::{UnpackOptions, unpack};

use super::{in_namespace, mount};

/// Not part of the suite: how long and how large, against a directory.
/// `CHALK_LAYER=layer.tar cargo test --release -p chalk-store --test it measure -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn measure() {
    let layer = std::env::var_os("CHALK_LAYER").unwrap();
    let temp =
        tempfile::tempdir_in(std::env::var_os("CHALK_DIR").unwrap_or("/tmp".into())).unwrap();
    let open = || File::open(&layer).unwrap();
    std::io::copy(&mut open(), &mut std::io::sink()).unwrap();
    let usage = |path: &Path| {
        let output = Command::new("du").arg("-sk").arg(path).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let sync = || Command::new("sync").status().unwrap();
    let cold = || {
        sync();
        File::create("/proc/sys/vm/drop_caches")
            .unwrap()
            .write_all(b"3")
            .unwrap();
    };
    let read_all = |dir: &Path| {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "cd {} && find . -type f -print0 | xargs -0 cat > /dev/null",
                dir.display()
            ))
            .status()
            .unwrap();
        assert!(status.success());
    };
    for round in 0..3 {
        let dir = temp.path().join(format!("dir{round}"));
        let image = temp.path().join(format!("image{round}"));
        fs::create_dir(&dir).unwrap();
        sync();
        let begin = std::time::Instant::now();
        unpack(open(), "base", &dir, &UnpackOptions::default()).unwrap();
        let unpacked = begin.elapsed();
        let synced = File::open(temp.path()).unwrap();
        rustix::fs::syncfs(&synced).unwrap();
        let unpacked_synced = begin.elapsed();
        let begin = std::time::Instant::now();
        let file = File::create_new(&image).unwrap();
        let written = erofs::write(open(), "base", &file, &Options::default()).unwrap();
        let wrote = begin.elapsed();
        file.sync_all().unwrap();
        let wrote_synced = begin.elapsed();
        println!(
            "unpack {unpacked:?}, on disk {unpacked_synced:?}; image {wrote:?}, on disk {wrote_synced:?}"
        );
        println!(
            "{}\n{}\n{} bytes, {} inodes",
            usage(&dir),
            usage(&image),
            written.size,
            written.inodes
        );
        let at = temp.path().join("at");
        in_namespace(|| {
            cold();
            let begin = std::time::Instant::now();
            read_all(&dir);
            let first = begin.elapsed();
            let begin = std::time::Instant::now();
            read_all(&dir);
            println!("directory: cold {first:?}, warm {:?}", begin.elapsed());
            cold();
            let begin = std::time::Instant::now();
            assert!(mount(&image, &at));
            let mounted = begin.elapsed();
            let begin = std::time::Instant::now();
            read_all(&at);
            let first = begin.elapsed();
            let begin = std::time::Instant::now();
            read_all(&at);
            println!(
                "image: mount {mounted:?}, cold {first:?}, warm {:?}",
                begin.elapsed()
            );
            rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
            let begin = std::time::Instant::now();
            assert!(mount(&image, &at));
            println!("mount, warm {:?}", begin.elapsed());
        });
    }
}
