//! Layers made by somebody who means harm, each by the name of the harm.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use chalk_store::layer::{
    Compression, Devices, EntryProblem, LayerError, Limits, OverlayAttrs, Target, UnpackOptions,
    Unpacked, inspect, unpack, unpack_blob,
};
use chalk_store::{BlobError, BlobStore};
use proptest::prelude::*;
use tar::{EntryType, Header};

use crate::trees::{attrs, describe, is_root};

/// A tar written without any of the checks that a decent program makes.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn entry(self, kind: EntryType, path: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.raw(&header, content)
    }

    pub(crate) fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, path, "", content.as_bytes())
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    pub(crate) fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let start = self.0.len();
        self = self.entry(EntryType::Char, path, "", b"");
        let mut header = Header::from_byte_slice(&self.0[start..]).clone();
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        self.0.truncate(start);
        self.raw(&header, b"")
    }

    /// PAX records for the next entry, each with its right length.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..6)
                .map(|n| rest + n)
                .find(|n| n.to_string().len() + rest == *n);
            write!(bytes, "{} {key}=", length.unwrap()).unwrap();
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.entry(EntryType::XHeader, "pax", "", &bytes)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A place to unpack to, with a victim beside it.
struct Place {
    _temp: tempfile::TempDir,
    outside: PathBuf,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (outside, root) = (temp.path().join("outside"), temp.path().join("root"));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        Self {
            _temp: temp,
            outside,
            root,
        }
    }

    fn unpack(&self, tar: &[u8], options: &UnpackOptions) -> Result<Unpacked, LayerError> {
        let before = describe(&self.outside);
        let fresh = fs::read_dir(&self.root).unwrap().next().is_none();
        let result = unpack(tar, "evil", &self.root, options);
        assert_eq!(describe(&self.outside), before, "something changed outside");
        let beside = self.root.parent().unwrap();
        assert_eq!(
            fs::read_dir(beside).unwrap().count(),
            2,
            "something new outside"
        );
        // An image of the same layer says the same.
        if fresh && options.target == Target::Snapshot(OverlayAttrs::Trusted) {
            crate::erofs::agrees(tar, options, &result, &self.root);
        }
        result
    }
}

fn snapshot() -> UnpackOptions {
    UnpackOptions {
        target: Target::Snapshot(attrs()),
        ..UnpackOptions::default()
    }
}

fn onto_root() -> UnpackOptions {
    UnpackOptions {
        target: Target::Root,
        ..UnpackOptions::default()
    }
}

/// Both ways to unpack refuse `tar` for its entry `entry`.
fn refused(tar: Tar, entry: &str, problem: &EntryProblem) {
    let bytes = tar.end();
    for options in [snapshot(), onto_root()] {
        match Place::new().unpack(&bytes, &options) {
            Err(LayerError::Entry {
                layer,
                entry: at,
                problem: why,
            }) => {
                assert_eq!(
                    (layer.as_str(), at.as_str(), &why),
                    ("evil", entry, problem)
                );
            }
            other => panic!("{entry}: {other:?}"),
        }
    }
}

#[test]
fn parent_directories_in_paths() {
    for path in ["../evil", "a/../../evil", "a/b/..", "/../evil", ".."] {
        refused(
            Tar::default().file(path, ""),
            path,
            &EntryProblem::ParentDir,
        );
    }
}

#[test]
fn absolute_paths_stay_inside() {
    let place = Place::new();
    let path = format!("{}/x", place.outside.display());
    let tar = Tar::default()
        .file(&path, "evil")
        .file("//etc//./passwd", "x")
        .end();
    place.unpack(&tar, &snapshot()).unwrap();
    assert_eq!(
        fs::read_to_string(place.root.join(&path[1..])).unwrap(),
        "evil"
    );
    assert_eq!(
        fs::read_to_string(place.root.join("etc/passwd")).unwrap(),
        "x"
    );
}

#[test]
fn symlinks_lead_nowhere_outside() {
    for options in [snapshot(), onto_root()] {
        let place = Place::new();
        let outside = place.outside.display().to_string();
        for target in [
            &outside[..],
            "../outside",
            "../../../../../../../../..",
            "/",
        ] {
            let tar = Tar::default()
                .symlink("link", target)
                .file("link/victim", "overwritten")
                .end();
            // Refused, or written below the root; `unpack` looks at what is outside.
            let _ = place.unpack(&tar, &options);
            let kept = fs::read_link(place.root.join("link")).unwrap();
            assert_eq!(kept, Path::new(target), "targets stay as they are");
        }
    }
}

#[test]
fn symlink_in_the_place_of_a_file_is_replaced_not_followed() {
    let place = Place::new();
    let victim = place.outside.join("victim");
    symlink(&victim, place.root.join("lower")).unwrap();
    let tar = Tar::default()
        .symlink("same", victim.to_str().unwrap())
        .file("same", "mine")
        .file("lower", "mine")
        .end();
    place.unpack(&tar, &onto_root()).unwrap();
    for name in ["same", "lower"] {
        let path = place.root.join(name);
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(path).unwrap(), "mine");
    }
}

#[test]
fn directory_swapped_for_a_symlink_while_in_use() {
    let place = Place::new();
    let tar = Tar::default()
        .dir("d")
        .file("d/one", "")
        .symlink("d", place.outside.to_str().unwrap())
        .file("d/victim", "overwritten")
        .end();
    let result = place.unpack(&tar, &snapshot());
    assert!(matches!(
        result,
        Err(LayerError::Entry {
            problem: EntryProblem::NotInDirectory,
            ..
        })
    ));
}

#[test]
fn hard_links_out_of_the_root() {
    for target in ["../outside/victim", "x/../../outside/victim"] {
        let problem = EntryProblem::LinkOutside(target.into());
        refused(Tar::default().hard_link("h", target), "h", &problem);
    }
    for target in ["/etc/passwd", "nothing", "/"] {
        let problem = EntryProblem::LinkTarget(target.into());
        refused(Tar::default().hard_link("h", target), "h", &problem);
    }
    let problem = EntryProblem::LinkTarget("d/passwd".into());
    refused(
        Tar::default()
            .symlink("d", "/etc")
            .hard_link("h", "d/passwd"),
        "h",
        &problem,
    );
}

#[test]
fn hard_link_through_a_symlink_to_a_host_file() {
    let place = Place::new();
    let victim = place.outside.join("victim");
    // A link to the symlink itself, which stays a symlink; writing the name anew replaces it.
    let tar = Tar::default()
        .symlink("s", victim.to_str().unwrap())
        .hard_link("h", "s")
        .file("h", "mine")
        .end();
    place.unpack(&tar, &snapshot()).unwrap();
    assert!(place.root.join("s").is_symlink());
    assert_eq!(fs::read_to_string(place.root.join("h")).unwrap(), "mine");
}

#[test]
fn hard_link_to_itself_and_to_a_directory() {
    let place = Place::new();
    let tar = Tar::default().file("a", "kept").hard_link("a", "./a").end();
    place.unpack(&tar, &snapshot()).unwrap();
    assert_eq!(fs::read_to_string(place.root.join("a")).unwrap(), "kept");
    let problem = EntryProblem::LinkTarget("d".into());
    refused(Tar::default().dir("d").hard_link("h", "d"), "h", &problem);
}

#[test]
fn whiteouts_of_nothing_and_of_parents() {
    for path in [".wh.", "a/.wh..", "a/.wh..."] {
        refused(Tar::default().file(path, ""), path, &EntryProblem::Whiteout);
    }
}

#[test]
fn whiteouts_through_symlinks_spare_the_outside() {
    let place = Place::new();
    for way in [place.outside.to_str().unwrap(), "../outside"] {
        let _ = fs::remove_file(place.root.join("d"));
        symlink(way, place.root.join("d")).unwrap();
        for path in ["d/.wh.victim", "d/.wh..wh..opq"] {
            let tar = Tar::default().file(path, "").end();
            let _ = place.unpack(&tar, &onto_root());
        }
    }
}

#[test]
fn opaque_directory_full_of_symlinks_is_emptied_not_followed() {
    let place = Place::new();
    fs::create_dir_all(place.root.join("d/sub")).unwrap();
    symlink(&place.outside, place.root.join("d/out")).unwrap();
    symlink(&place.outside, place.root.join("d/sub/out")).unwrap();
    let tar = Tar::default()
        .file("d/new", "")
        .file("d/.wh..wh..opq", "")
        .end();
    place.unpack(&tar, &onto_root()).unwrap();
    let left: Vec<_> = describe(&place.root).into_keys().collect();
    assert_eq!(left, [b"d".to_vec(), b"d/new".to_vec()]);
}

#[test]
fn whiteouts_spare_what_their_own_layer_brings() {
    let tar = Tar::default()
        .file(".wh.gone", "")
        .file("d/new", "")
        .file(".wh.d", "")
        .file(".wh.e", "")
        .file("e/deep/new", "")
        .end();
    let place = Place::new();
    for path in ["gone/x", "d/old", "e/old"] {
        let path = place.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    place.unpack(&tar, &onto_root()).unwrap();
    let left: Vec<_> = describe(&place.root)
        .into_keys()
        .map(|p| String::from_utf8(p).unwrap())
        .collect();
    assert_eq!(left, ["d", "d/new", "e", "e/deep", "e/deep/new"]);

    // The same layer as a snapshot: the directories hide what is below them.
    let place = Place::new();
    place.unpack(&tar, &snapshot()).unwrap();
    let lines = describe(&place.root);
    assert_eq!(lines[&b"gone".to_vec()], "whiteout");
    for dir in [&b"d"[..], b"e"] {
        assert!(lines[dir].contains("overlay.opaque\"=y"), "{}", lines[dir]);
    }
}

#[test]
fn device_nodes_are_left_out_refused_or_made() {
    let tar = || {
        Tar::default()
            .device("dev/null", 1, 3)
            .hard_link("dev/nil", "dev/null")
    };
    let place = Place::new();
    let unpacked = place.unpack(&tar().end(), &snapshot()).unwrap();
    assert_eq!(unpacked.skipped_devices, 2);
    let lines = describe(&place.root);
    assert_eq!(lines[&b"dev/null".to_vec()], "whiteout");

    let refuse = UnpackOptions {
        devices: Devices::Refuse,
        ..snapshot()
    };
    let error = Place::new().unpack(&tar().end(), &refuse).unwrap_err();
    assert!(matches!(
        error,
        LayerError::Entry {
            problem: EntryProblem::Device,
            ..
        }
    ));

    if is_root() {
        let create = UnpackOptions {
            devices: Devices::Create,
            ..snapshot()
        };
        let place = Place::new();
        place.unpack(&tar().end(), &create).unwrap();
        let meta = fs::symlink_metadata(place.root.join("dev/nil")).unwrap();
        assert!(meta.file_type().is_char_device());
        // Number 0/0 would be a forged deletion.
        let place = Place::new();
        let unpacked = place
            .unpack(&Tar::default().device("d", 0, 0).end(), &onto_root())
            .unwrap();
        assert_eq!(unpacked.skipped_devices, 1);
        assert!(describe(&place.root).is_empty());
    }
}

#[test]
fn forged_overlay_attributes_are_dropped() {
    let place = Place::new();
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"x"),
            ("SCHILY.xattr.user.fine", b"a\nb\0c"),
        ])
        .dir("d")
        .end();
    place.unpack(&tar, &snapshot()).unwrap();
    let names: Vec<_> = xattr::list(place.root.join("d")).unwrap().collect();
    assert_eq!(names, ["user.fine"]);
    let value = xattr::get(place.root.join("d"), "user.fine").unwrap();
    assert_eq!(value.unwrap(), b"a\nb\0c");
}

#[test]
fn the_root_cannot_be_replaced() {
    for path in ["./", "/", "."] {
        let tar = Tar::default().symlink(path, "/etc");
        let shown = if path == "./" { "." } else { path };
        refused(tar, shown, &EntryProblem::Root);
    }
}

#[test]
fn later_entries_win() {
    let place = Place::new();
    let tar = Tar::default()
        .file("a", "1")
        .file("a", "2")
        .dir("b")
        .file("b/x", "")
        .file("b", "now a file")
        .file("c", "was a file")
        .dir("c")
        .file("c/x", "")
        .end();
    place.unpack(&tar, &snapshot()).unwrap();
    assert_eq!(fs::read_to_string(place.root.join("a")).unwrap(), "2");
    assert_eq!(
        fs::read_to_string(place.root.join("b")).unwrap(),
        "now a file"
    );
    assert!(place.root.join("c/x").is_file());
    let below = EntryProblem::NotInDirectory;
    refused(Tar::default().file("f", "").file("f/x", ""), "f/x", &below);
}

#[test]
fn long_paths_and_nul_bytes() {
    let long = "n".repeat(256);
    let tar = Tar::default()
        .pax(&[("path", long.as_bytes())])
        .file("short", "");
    refused(tar, &long, &EntryProblem::PathLength(256, 255));
    let deep = "d/".repeat(2048) + "x";
    let tar = Tar::default()
        .pax(&[("path", deep.as_bytes())])
        .file("short", "");
    refused(tar, &deep, &EntryProblem::PathLength(4097, 4095));
    let tar = Tar::default().pax(&[("path", b"a\0b")]).file("short", "");
    refused(tar, "a\\x00b", &EntryProblem::PathBytes);
}

/// Unpacking and inspecting stop at the same limit.
fn beyond(bytes: &[u8], limits: Limits, what: &str) {
    let options = UnpackOptions {
        limits,
        ..snapshot()
    };
    for result in [
        Place::new().unpack(bytes, &options),
        inspect(bytes, "evil", &limits),
    ] {
        match result {
            Err(LayerError::Limit { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip(level) => {
            let level = flate2::Compression::new(u32::from(level));
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        Compression::Zstd(level) => zstd::encode_all(bytes, i32::from(level)).unwrap(),
        Compression::None => bytes.to_vec(),
    }
}

#[test]
fn compression_bombs() {
    let zeros = Tar::default()
        .entry(EntryType::Regular, "zeros", "", &vec![0; 64 << 20])
        .end();
    for compression in [Compression::Gzip(9), Compression::Zstd(3)] {
        let bomb = compressed(compression, &zeros);
        assert!(bomb.len() < 100_000);
        let ratio = Limits {
            ratio_from: 8 << 20,
            ..Limits::default()
        };
        beyond(&bomb, ratio, "unpacked bytes per compressed byte");
        let bytes = Limits {
            bytes: 32 << 20,
            ..Limits::default()
        };
        beyond(&bomb, bytes, "unpacked bytes");
        inspect(&bomb[..], "zeros", &Limits::default()).unwrap();
    }
}

#[test]
fn sparse_bombs() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("hole").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let real = &mut header.as_gnu_mut().unwrap().realsize;
    real.copy_from_slice(b"\x80\0\0\0\x40\0\0\0\0\0\0\0");
    header.set_cksum();
    beyond(
        &Tar::default().raw(&header, b"").end(),
        Limits::default(),
        "unpacked bytes",
    );

    let claims = Tar::default()
        .pax(&[
            ("GNU.sparse.map", b"0,10,5,10"),
            ("GNU.sparse.size", b"100"),
        ])
        .file("overlapping", "twenty bytes of data");
    refused(claims, "overlapping", &EntryProblem::Header("sparse map"));
    let claims = Tar::default()
        .pax(&[("GNU.sparse.map", b"0,99"), ("GNU.sparse.size", b"100")])
        .file("more than stored", "short");
    refused(
        claims,
        "more than stored",
        &EntryProblem::Header("sparse map"),
    );
}

#[test]
fn too_many_entries_and_too_large_headers() {
    let mut tar = Tar::default();
    for i in 0..11 {
        tar = tar.file(&format!("f{i}"), "");
    }
    let limits = Limits {
        entries: 10,
        ..Limits::default()
    };
    beyond(&tar.end(), limits, "entries");

    for kind in [
        EntryType::XHeader,
        EntryType::GNULongName,
        EntryType::GNULongLink,
    ] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let tar = Tar::default().raw(&header, b"").end();
        beyond(&tar, Limits::default(), "bytes in one extension header");
    }
}

#[test]
fn broken_framing_says_where() {
    let whole = Tar::default().file("a", "content").end();
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    let mut negative = Header::new_gnu();
    negative.set_path("n").unwrap();
    negative
        .as_gnu_mut()
        .unwrap()
        .size
        .copy_from_slice(&[0xff; 12]);
    negative.set_cksum();
    for (bytes, problem) in [
        (&whole[..100], "the archive ends within a block"),
        (&whole[..515], "the archive ends within an entry"),
        (&flipped, "a header's checksum does not hold"),
        (&[7; 600], "a header's checksum does not hold"),
        (negative.as_bytes(), "a size cannot be read"),
    ] {
        match Place::new().unpack(bytes, &snapshot()) {
            Err(LayerError::Format { problem: found, .. }) => assert_eq!(found, problem),
            other => panic!("{problem}: {other:?}"),
        }
    }
    let pax = Tar::default()
        .entry(EntryType::XHeader, "x", "", b"99 path=a\n")
        .file("a", "");
    let result = Place::new().unpack(&pax.end(), &snapshot());
    assert!(matches!(
        result,
        Err(LayerError::Format {
            problem: "a PAX record cannot be read",
            ..
        })
    ));
}

#[test]
fn damaged_blobs_are_found_and_set_aside() {
    let content: String = (0..200_000)
        .map(|i| char::from(b'a' + (i % 7 * i % 23) as u8))
        .collect();
    let tar = Tar::default()
        .entry(EntryType::Regular, "f", "", content.as_bytes())
        .end();
    for compression in [
        Compression::None,
        Compression::Gzip(6),
        Compression::Zstd(3),
    ] {
        let bytes = compressed(compression, &tar);
        for at in [0, 20, bytes.len() / 2, bytes.len() - 1] {
            let temp = tempfile::tempdir().unwrap();
            let store = BlobStore::open(temp.path().join("store")).unwrap();
            let blob = store.put(&bytes).unwrap();
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            fs::write(store.path(&blob.digest), damaged).unwrap();
            let root = temp.path().join("root");
            fs::create_dir(&root).unwrap();
            let error = unpack_blob(&store, &blob.digest, None, &root, &snapshot()).unwrap_err();
            assert!(
                matches!(error, LayerError::Blob(BlobError::Mismatch { .. })),
                "{compression} at {at}: {error:?}"
            );
            assert!(!store.contains(blob.digest).unwrap());
        }
    }
}

#[test]
fn config_that_names_other_contents() {
    let temp = tempfile::tempdir().unwrap();
    let store = BlobStore::open(temp.path().join("store")).unwrap();
    let blob = store.put(&Tar::default().file("a", "").end()).unwrap();
    let root = temp.path().join("root");
    fs::create_dir(&root).unwrap();
    let other = chalk_core::Digest::of(b"other");
    let error = unpack_blob(&store, &blob.digest, Some(&other), &root, &snapshot()).unwrap_err();
    assert!(matches!(error, LayerError::DiffId { expected, .. } if expected == other));
}

fn steps() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    let path = "(/|\\.\\./|\\./)?([abd]|\\.\\.|\\.wh\\.[abd.]?|\\.wh\\.\\.wh\\.\\.opq)(/([abd]|\\.\\.|\\.wh\\.[abd])){0,3}";
    let target = "(/|\\.\\./){0,4}(outside|[abd]|victim)(/([abd]|victim|\\.\\.)){0,2}";
    proptest::collection::vec((0u8..6, path, target), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whatever the order of links, files, directories and whiteouts: nothing outside changes.
    #[test]
    fn nothing_is_ever_written_outside(steps in steps()) {
        let add = |tar: Tar, (kind, path, target): &(u8, String, String)| match kind {
            0 => tar.dir(path),
            1 | 2 => tar.symlink(path, target),
            3 => tar.hard_link(path, target),
            _ => tar.file(path, "evil"),
        };
        for options in [snapshot(), onto_root()] {
            let place = Place::new();
            // A refused entry ends a layer; so each is a layer of its own on top of the others.
            for step in &steps {
                let _ = place.unpack(&add(Tar::default(), step).end(), &options);
            }
            let whole = steps.iter().fold(Tar::default(), add);
            let _ = Place::new().unpack(&whole.end(), &options);
        }
    }

    /// Bytes flipped anywhere: an answer, no panic, nothing outside.
    #[test]
    fn mutilated_archives(flips in proptest::collection::vec((0usize..6000, any::<u8>()), 1..8)) {
        let mut bytes = Tar::default()
            .pax(&[("path", b"long/name"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")])
            .file("f", "content")
            .symlink("s", "../outside")
            .hard_link("h", "long/name")
            .dir("d")
            .file("d/.wh.x", "")
            .end();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
            // Mostly keep the checksum right, so that more than the checksum is tried.
            if value % 4 != 0 {
                let start = at / 512 * 512;
                let mut header = Header::from_byte_slice(&bytes[start..start + 512]).clone();
                header.set_cksum();
                bytes[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        for options in [snapshot(), onto_root()] {
            let _ = Place::new().unpack(&bytes, &options);
        }
    }
}
