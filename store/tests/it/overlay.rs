//! The kernel's overlayfs is the judge: what it shows of a mount is what `Stack` shows of the same
//! directories, and its upper directory, packed and applied to a copy, gives the same tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use chalk_store::BlobStore;
use chalk_store::layer::{OverlayAttrs, PackOptions, Target, UnpackOptions, pack, unpack_blob};
use chalk_store::stack::{EntryKind, Stack, StackEntry};

use crate::trees::{describe, is_root};

/// Changes of every kind that a build step makes.
const STEP: &str = r#"
set -e
cd "$1"
rm etc/remove; rm -r tree; mkdir tree; echo new > tree/new
echo more >> etc/change; chmod 4755 bin/tool; chown 7:8 bin/tool
ln bin/tool bin/hard; ln -sf ../etc/change link; mkfifo pipe
mv dir moved; rm -r gone; echo file > gone
rm swap; mkdir swap; echo x > swap/x; touch -d @1000000000 old
mkdir -p deep/a/b; rm -r deep/lower
"#;

fn shown(entry: &StackEntry, lines: &mut BTreeMap<Vec<u8>, String>) {
    for (_, child) in entry.read_dir().unwrap() {
        let mut line = format!(
            "{:?} {:o} {}:{} {}",
            child.kind(),
            child.mode(),
            child.uid(),
            child.gid(),
            child.mtime()
        );
        match child.kind() {
            EntryKind::File => {
                let bytes = std::io::read_to_string(child.open_file().unwrap()).unwrap();
                line += &format!(" {bytes:?}");
            }
            EntryKind::Symlink => line += &child.read_link().unwrap().escape_ascii().to_string(),
            _ => {}
        }
        lines.insert(child.path().to_vec(), line);
        if child.kind() == EntryKind::Dir {
            shown(&child, lines);
        }
    }
}

fn stack_lines(dirs: &[&Path]) -> BTreeMap<Vec<u8>, String> {
    let stack = Stack::open(dirs, OverlayAttrs::Trusted).unwrap();
    let mut lines = BTreeMap::new();
    shown(&stack.get("/").unwrap(), &mut lines);
    lines
}

#[test]
fn the_kernel_agrees() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let lower = at("lower");
    for dir in ["etc", "bin", "tree/sub", "dir", "gone/x", "deep/lower/x"] {
        fs::create_dir_all(lower.join(dir)).unwrap();
    }
    for file in [
        "etc/remove",
        "etc/change",
        "bin/tool",
        "tree/sub/f",
        "dir/f",
        "swap",
        "old",
    ] {
        fs::write(lower.join(file), file).unwrap();
    }
    for dir in ["upper", "work", "merged", "plain", "again", "moved"] {
        fs::create_dir(at(dir)).unwrap();
    }
    // In a mount namespace of its own, which takes the mount along when the shell ends.
    let script = format!(
        "mount -t overlay overlay -o lowerdir={l},upperdir={u},workdir={w},redirect_dir=off,metacopy=off,index=off {m} && \
         sh -c '{STEP}' sh {m} && cp -a {m}/. {p}",
        l = lower.display(),
        u = at("upper").display(),
        w = at("work").display(),
        m = at("merged").display(),
        p = at("plain").display(),
    );
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(script)
        .status()
        .unwrap();
    assert!(status.success());

    let merged = stack_lines(&[&at("plain")]);
    assert!(merged.len() > 15 && !merged.contains_key(b"etc/remove".as_slice()));
    assert_eq!(stack_lines(&[&at("upper"), &lower]), merged);

    let store = BlobStore::open(at("store")).unwrap();
    let layer = pack(&at("upper"), &store, &PackOptions::default(), &mut |_| {
        false
    })
    .unwrap();
    // As a snapshot it says the same over the same lower directory.
    let options = UnpackOptions::default();
    unpack_blob(
        &store,
        &layer.digest,
        Some(&layer.diff_id),
        &at("again"),
        &options,
    )
    .unwrap();
    assert_eq!(stack_lines(&[&at("again"), &lower]), merged);
    // Carried out on a copy of the lower directory, it gives the plain tree.
    let copied = Command::new("cp")
        .arg("-a")
        .arg(lower.join("."))
        .arg(at("moved"))
        .status();
    assert!(copied.unwrap().success());
    let options = UnpackOptions {
        target: Target::Root,
        ..options
    };
    unpack_blob(&store, &layer.digest, None, &at("moved"), &options).unwrap();
    assert_eq!(describe(&at("moved")), describe(&at("plain")));
}
