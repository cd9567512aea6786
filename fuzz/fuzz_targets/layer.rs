//! Layers from strangers: nothing outside of the directory is touched, nothing panics, and what is
//! only looked at counts as what is unpacked. The first byte chooses the way, the rest is the tar.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use chalk_store::layer::{Devices, Limits, OverlayAttrs, Target, UnpackOptions, inspect, unpack};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    entries: 100,
    path: 4095,
    ratio: 100,
    ratio_from: 1 << 18,
};

/// A folder with a root and with things that no layer may reach.
static WORLD: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("chalk-fuzz-layer-{}", std::process::id()));
    fs::create_dir_all(dir.join("outside")).expect("a folder");
    fs::write(dir.join("outside/file"), "untouched").expect("a file");
    fs::write(dir.join("beside"), "untouched").expect("a file");
    dir
});

/// Makes the checksums of all headers right, which chance would hardly ever find.
fn with_checksums(mut tar: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..at + 512) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = std::str::from_utf8(&header[124..135]).unwrap_or_default();
        let size = u64::from_str_radix(digits.trim_matches(['\0', ' ']), 8).unwrap_or(0);
        let padded = usize::try_from(size.div_ceil(512)).unwrap_or(usize::MAX);
        at = padded.saturating_mul(512).saturating_add(at + 512);
    }
    tar
}

/// Everything in a folder but its `root`, by path, with the contents of files.
fn around(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.ends_with("root") {
            continue;
        }
        let data = fs::symlink_metadata(&path).expect("its data");
        let contents = if data.is_file() {
            fs::read(&path).expect("its contents")
        } else {
            vec![]
        };
        if data.is_dir() {
            around(&path, found);
        }
        found.insert(path, contents);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((way, tar)) = input.split_first() else {
        return;
    };
    let tar = if way & 1 == 0 {
        with_checksums(tar.to_vec())
    } else {
        tar.to_vec()
    };
    let target = match way & 6 {
        0 => Target::Root,
        2 => Target::Snapshot(OverlayAttrs::Trusted),
        _ => Target::Snapshot(OverlayAttrs::User),
    };
    let options = UnpackOptions {
        target,
        devices: Devices::Skip,
        limits: LIMITS,
        keep_owner: false,
    };
    let root = WORLD.join("root");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir(&root).expect("a root");
    let mut before = BTreeMap::new();
    around(&WORLD, &mut before);
    let unpacked = unpack(tar.as_slice(), "fuzzed", &root, &options);
    let mut after = BTreeMap::new();
    around(&WORLD, &mut after);
    assert_eq!(before, after);
    if let Ok(unpacked) = unpacked {
        let looked = inspect(tar.as_slice(), "fuzzed", &LIMITS).expect("what can be unpacked");
        assert_eq!(unpacked.diff_id, looked.diff_id);
        assert_eq!(unpacked.entries, looked.entries);
        assert_eq!(unpacked.file_bytes, looked.file_bytes);
    }
});
