//! Whether ours and a peer built the same.

use std::collections::BTreeSet;

use chalk_tests::{Entry, ImageFiles};

/// Files that package managers write anew each time: logs, caches, records of who installed what.
/// Bytecode holds times, where pip compiles it.
const THEIR_OWN: [&str; 8] = [
    "var/log/",
    "var/cache/",
    "var/lib/apt/",
    "tmp/",
    "run/",
    "root/.cache/",
    "etc/ld.so.cache",
    "var/lib/dpkg/",
];

/// Expects the same files after an installation by pip and apt.
#[track_caller]
pub(crate) fn assert_installed(ours: &ImageFiles, theirs: &ImageFiles) {
    let (ours, theirs) = (kept(ours), kept(theirs));
    assert!(ours.len() > 1000, "{} files are no image", ours.len());
    let differing: Vec<_> = ours.symmetric_difference(&theirs).collect();
    assert!(
        differing.is_empty(),
        "{} files differ, such as {:#?}",
        differing.len(),
        &differing[..differing.len().min(20)]
    );
}

/// Paths of files, with kind, mode and contents where these are to be the same.
fn kept(files: &ImageFiles) -> BTreeSet<(String, &'static str, u32, String)> {
    let entries = files.entries.iter();
    let entries = entries.filter(|(path, _)| !is_their_own(path));
    entries
        .map(|(path, entry)| {
            let Entry {
                kind,
                mode,
                contents,
                ..
            } = entry;
            let contents = match is_record(path) {
                true => String::new(),
                false => contents.clone(),
            };
            (path.clone(), *kind, *mode, contents)
        })
        .collect()
}

fn is_their_own(path: &str) -> bool {
    THEIR_OWN.iter().any(|place| path.starts_with(place))
        || path.contains("__pycache__")
        || path.ends_with(".dist-info/REQUESTED")
        || path.ends_with(".dist-info/INSTALLER")
}

/// Whether the contents may differ though the file is the same: lists of what was installed, and the
/// scripts that an installer makes of entry points.
fn is_record(path: &str) -> bool {
    path.ends_with(".dist-info/RECORD") || path.starts_with("usr/local/bin/")
}

/// Expects the same tree, to the byte.
#[track_caller]
pub(crate) fn assert_copied(ours: &ImageFiles, theirs: &ImageFiles, below: &str) {
    let of = |files: &ImageFiles| -> BTreeSet<(String, &'static str, String)> {
        let entries = files.entries.iter();
        let entries = entries.filter(|(path, _)| path.starts_with(below));
        entries
            .map(|(path, entry)| (path.clone(), entry.kind, entry.contents.clone()))
            .collect()
    };
    let (ours, theirs) = (of(ours), of(theirs));
    assert!(!ours.is_empty(), "nothing below {below}");
    let differing: Vec<_> = ours.symmetric_difference(&theirs).take(20).collect();
    assert!(differing.is_empty(), "the trees differ: {differing:#?}");
}
