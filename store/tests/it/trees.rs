//! Random directory trees: made up, built on disk, and described for comparison.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use chalk_core::Digest;
use chalk_store::layer::OverlayAttrs;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

#[derive(Debug, Clone)]
pub(crate) enum Node {
    File {
        content: Vec<u8>,
        mode: u32,
        attrs: Vec<(Vec<u8>, Vec<u8>)>,
        mtime: i64,
    },
    Dir {
        below: Tree,
        mode: u32,
        opaque: bool,
    },
    Symlink(Vec<u8>),
    Fifo,
    Whiteout,
    /// To the file built last, if there is one.
    HardLink,
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn attrs() -> OverlayAttrs {
    if is_root() {
        OverlayAttrs::Trusted
    } else {
        OverlayAttrs::User
    }
}

fn opaque_name() -> &'static str {
    if is_root() {
        "trusted.overlay.opaque"
    } else {
        "user.overlay.opaque"
    }
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no separator", |b| *b != b'/' && *b != 0);
    let odd = vec(byte, 1..12).prop_filter("a name", |n| {
        n != b"." && n != b".." && !n.starts_with(b".wh.")
    });
    let plain = "[a-z.-]{1,6}"
        .prop_map(String::into_bytes)
        .prop_filter("a name", |n| n != b"." && n != b"..");
    let long = (90usize..=250).prop_map(|n| vec![b'n'; n]);
    prop_oneof![6 => plain, 2 => odd, 1 => long]
}

fn link_targets() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-z/.]{1,20}".prop_map(String::into_bytes),
        (95usize..300).prop_map(|n| b"/etc/../x".repeat(n / 9 + 1)),
    ]
}

fn file_attrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let user = ("user\\.[a-z]{1,5}", vec(any::<u8>(), 0..40))
        .prop_filter("overlayfs' own", |(n, _)| n != "user.overlay")
        .prop_map(|(name, value)| (name.into_bytes(), value));
    // A version 2 capability with a newline in it: cap_net_admin, cap_net_raw and two more.
    let capability = Just((
        b"security.capability".to_vec(),
        b"\x01\x00\x00\x02\x0a\x30\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
            .to_vec(),
    ));
    vec(
        prop_oneof![3 => user.boxed(), u32::from(is_root()) => capability.boxed()],
        0..3,
    )
}

fn leaves(deletions: bool) -> impl Strategy<Value = Node> {
    let content = prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => (500usize..70_000).prop_map(|n| vec![7; n]),
    ];
    let mode = prop_oneof![
        Just(0o644),
        Just(0o755),
        Just(0o4755),
        Just(0o2711),
        Just(0o400),
        Just(0o7777),
        Just(0u32)
    ];
    let file = (content, mode, file_attrs(), 0i64..2_000_000_000).prop_map(
        |(content, mode, attrs, mtime)| Node::File {
            content,
            mode,
            attrs,
            mtime,
        },
    );
    prop_oneof![
        6 => file,
        1 => link_targets().prop_map(Node::Symlink),
        1 => Just(Node::Fifo),
        2 => Just(Node::HardLink),
        if deletions { 2 } else { 0 } => Just(Node::Whiteout),
    ]
}

/// Trees of a few levels; with `deletions`, overlayfs' marks among them.
pub(crate) fn trees(deletions: bool) -> impl Strategy<Value = Tree> {
    let node = leaves(deletions).prop_recursive(4, 40, 6, move |inner| {
        let mode = prop_oneof![
            Just(0o755),
            Just(0o1777),
            Just(0o2775),
            Just(0o555),
            Just(0o700)
        ];
        (btree_map(names(), inner, 0..6), mode, any::<bool>()).prop_map(
            move |(below, mode, opaque)| Node::Dir {
                below,
                mode,
                opaque: opaque && deletions,
            },
        )
    });
    btree_map(names(), node, 0..8)
}

fn set_mtime(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn build(dir: &Path, tree: &Tree) {
    fs::create_dir(dir).unwrap();
    build_in(dir, tree, &mut None, 0);
}

fn build_in(dir: &Path, tree: &Tree, last: &mut Option<std::path::PathBuf>, depth: u32) {
    for (i, (name, node)) in tree.iter().enumerate() {
        let path = dir.join(OsStr::from_bytes(name));
        let mtime = 1_700_000_000 + i as i64;
        match node {
            Node::File {
                content,
                mode,
                attrs,
                mtime,
            } => {
                fs::write(&path, content).unwrap();
                if is_root() {
                    let (uid, gid) = (depth * 1000, 3_000_000 * i as u32);
                    std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
                }
                for (name, value) in attrs {
                    xattr::set(&path, OsStr::from_bytes(name), value).unwrap();
                }
                let mode = if is_root() { *mode } else { *mode | 0o400 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                set_mtime(&path, *mtime);
                *last = Some(path);
            }
            Node::Dir {
                below,
                mode,
                opaque,
            } => {
                fs::create_dir(&path).unwrap();
                build_in(&path, below, last, depth + 1);
                if *opaque {
                    xattr::set(&path, opaque_name(), b"y").unwrap();
                }
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                set_mtime(&path, mtime);
            }
            Node::Symlink(target) => {
                symlink(OsStr::from_bytes(target), &path).unwrap();
                set_mtime(&path, mtime);
            }
            Node::Fifo => {
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o640), 0)
                    .unwrap();
                set_mtime(&path, mtime);
            }
            Node::Whiteout => {
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)
                    .unwrap();
            }
            Node::HardLink => {
                if let Some(last) = last {
                    fs::hard_link(last, &path).unwrap();
                }
            }
        }
    }
    // Building below changed the times of directories built before.
    for (i, (name, node)) in tree.iter().enumerate() {
        if matches!(node, Node::Dir { .. }) {
            set_mtime(&dir.join(OsStr::from_bytes(name)), 1_700_000_000 + i as i64);
        }
    }
}

/// One line per file, by path: all that a layer keeps.
pub(crate) fn describe(dir: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut lines = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    describe_in(dir, dir, &mut lines, &mut inodes);
    lines
}

fn describe_in(
    root: &Path,
    dir: &Path,
    lines: &mut BTreeMap<Vec<u8>, String>,
    inodes: &mut BTreeMap<(u64, u64), Vec<u8>>,
) {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        let meta = match fs::symlink_metadata(&path) {
            // overlayfs lists marks of deletions in directories that only one layer has.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                lines.insert(name, "listed, but not there".into());
                continue;
            }
            meta => meta.unwrap(),
        };
        let kind = FileType::from_raw_mode(meta.mode());
        if kind == FileType::CharacterDevice && meta.rdev() == 0 {
            lines.insert(name, "whiteout".into());
            continue;
        }
        let mut line = format!(
            "{kind:?} mode={:o} owner={}:{} mtime={} device={}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.rdev(),
        );
        match kind {
            FileType::RegularFile => line += &format!(" {}", Digest::of(&fs::read(&path).unwrap())),
            FileType::Symlink => line += &format!(" -> {:?}", fs::read_link(&path).unwrap()),
            _ => {}
        }
        if !meta.is_dir() {
            let first = inodes
                .entry((meta.dev(), meta.ino()))
                .or_insert_with(|| name.clone());
            line += &format!(" same as {}", first.escape_ascii());
        }
        if meta.is_file() || meta.is_dir() {
            let mut attrs: Vec<_> = xattr::list(&path).unwrap().collect();
            attrs.sort();
            for attr in attrs {
                let value = xattr::get(&path, &attr).unwrap().unwrap();
                let name = CString::new(attr.as_bytes()).unwrap();
                line += &format!(" {name:?}={}", value.escape_ascii());
            }
        }
        lines.insert(name, line);
        if meta.is_dir() {
            describe_in(root, &path, lines, inodes);
        }
    }
}
