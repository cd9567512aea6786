//! Figures on a real root file system.

use std::path::Path;

use chalk_store::BlobStore;
use chalk_store::layer::{PackOptions, UnpackOptions, pack, unpack, unpack_blob};

/// Times the real base image when one is named: `CHALK_TEST_ROOTFS=base.tar cargo test -p
/// chalk-store --test it real_root -- --ignored --nocapture`.
#[test]
#[ignore = "needs a root file system tar and root"]
fn real_root_file_system() {
    let Some(tar) = std::env::var_os("CHALK_TEST_ROOTFS") else {
        panic!("set CHALK_TEST_ROOTFS");
    };
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path().join("store")).unwrap();
    let options = UnpackOptions::default();
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&first).unwrap();
    std::fs::create_dir(&second).unwrap();
    let start = std::time::Instant::now();
    let file = std::fs::File::open(Path::new(&tar)).unwrap();
    let unpacked = unpack(file, "rootfs", &first, &options).unwrap();
    println!("unpack plain: {:?} {unpacked:?}", start.elapsed());
    for compression in ["zstd", "gzip", "none"] {
        let start = std::time::Instant::now();
        let options = PackOptions {
            compression: compression.parse().unwrap(),
            ..PackOptions::default()
        };
        let packed = pack(&first, &store, &options, &mut |_| false).unwrap();
        println!("pack {compression}: {:?} {packed:?}", start.elapsed());
        let start = std::time::Instant::now();
        let fresh = second.join(compression);
        std::fs::create_dir(&fresh).unwrap();
        let again = unpack_blob(
            &store,
            &packed.digest,
            Some(&packed.diff_id),
            &fresh,
            &UnpackOptions::default(),
        )
        .unwrap();
        println!("unpack {compression}: {:?} {again:?}", start.elapsed());
        let repacked = pack(&fresh, &store, &options, &mut |_| false).unwrap();
        assert_eq!(repacked, packed);
    }
}
