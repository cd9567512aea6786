//! Garbage that all trials begin with, for collections in the middle of their work.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use chalk_core::AnyDigest;
use chalk_core::any_digest::Algorithm;

use crate::payload::{MANIFEST, Noise, Pushed, digest};

/// Settings with which the garbage goes, and nothing that a trial makes.
pub(crate) const SETTINGS: [&str; 4] =
    ["gc.age=1d", "gc.keep=0", "gc.caches_age=1d", "gc.interval="];
/// How old it is.
const AGE: Duration = Duration::from_secs(10 * 24 * 3600);
/// Images that have tags, and blobs that nothing names.
const IMAGES: u64 = 6;
const BLOBS: u64 = 6;

/// Puts garbage into the state directory of a service that does not run.
pub(crate) fn plant(state: &Path) {
    let repository = state.join("registry/repositories/torture/old");
    let hex = |bytes: &[u8]| digest(bytes).trim_start_matches("sha256:").to_owned();
    let blob = |bytes: &[u8]| put(&state.join("store/blobs/sha256").join(hex(bytes)), bytes);
    let noise = |seed, length| Noise { seed, length };
    for number in 0..IMAGES {
        // Half of the layers are such as the clients push.
        let layers = [noise(number, 4096), noise(900 + number, 700)];
        let image = Pushed::of(&layers);
        for bytes in &image.blobs {
            blob(bytes);
            put(&repository.join("_layers/sha256").join(hex(bytes)), b"");
        }
        let manifest = &image.manifest;
        blob(manifest);
        let link = repository.join("_manifests/sha256").join(hex(manifest));
        put(&link, MANIFEST.as_bytes());
        let tag = repository.join(format!("_tags/v{number}"));
        put(&tag, digest(manifest).as_bytes());
    }
    for number in 0..BLOBS {
        let bytes = noise(950 + number, 10_000).bytes();
        blob(&bytes);
        let name = AnyDigest::of(Algorithm::Sha512, &bytes).hex();
        let record = format!("{}\n", digest(&bytes));
        put(
            &state.join("store/names/sha512").join(name),
            record.as_bytes(),
        );
    }
    let cache = state.join("engine/caches/uv-0123456789abcdef-0");
    put(&cache.join("wheel"), &[1; 1000]);
    age(&cache);
    // What a service leaves that dies between the directory of a build and its record.
    let build = state.join("builds/unrecorded");
    fs::create_dir_all(build).expect("make a folder");
}

fn put(path: &Path, bytes: &[u8]) {
    let folder = path.parent().expect("a folder");
    fs::create_dir_all(folder).expect("make a folder");
    fs::write(path, bytes).expect("write a file");
    age(path);
}

fn age(path: &Path) {
    let file = File::open(path).expect("just made");
    file.set_modified(SystemTime::now() - AGE)
        .expect("its own file");
}
