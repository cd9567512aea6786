//! EROFS images of layers: the kernel mounts them and shows what `unpack` makes of the same layer,
//! and `fsck.erofs` finds nothing to complain about.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_core::Digest;
use chalk_store::erofs::{self, Options, Written};
use chalk_store::layer::{
    Compression, EntryProblem, LayerError, Limits, PackOptions, UnpackOptions, Unpacked, pack_to,
    unpack,
};
use proptest::prelude::*;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;
use tar::{EntryType, Header};

use crate::hostile::Tar;
use crate::trees::{Tree, attrs, build, describe, is_root, trees};

type Lines = BTreeMap<Vec<u8>, String>;

/// Runs `look` in a mount namespace of its own, where what it mounts ends with it.
fn in_namespace<T: Send>(look: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread, which ends here, gets other mounts and directories.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
                .unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            look()
        });
        thread.join().unwrap()
    })
}

/// Mounts the image; `false` where the kernel takes no files (before 6.12).
fn mount(image: &Path, at: &Path) -> bool {
    fs::create_dir_all(at).unwrap();
    match rustix::mount::mount(image, at, "erofs", MountFlags::RDONLY, None) {
        Ok(()) => true,
        Err(rustix::io::Errno::NOTBLK | rustix::io::Errno::NODEV) => false,
        Err(e) => panic!("{}: {e}", image.display()),
    }
}

/// What the kernel shows of an image, its root included; `None` where it cannot.
fn shown(image: &Path) -> Option<Lines> {
    let at = image.with_extension("mounted");
    in_namespace(|| mount(image, &at).then(|| described(&at)))
}

/// [`describe`] with the directory itself as the empty path.
fn described(dir: &Path) -> Lines {
    let mut lines = describe(dir);
    let meta = fs::symlink_metadata(dir).unwrap();
    let root = format!(
        "Directory mode={:o} owner={}:{} mtime={}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        meta.mtime()
    );
    lines.insert(Vec::new(), root);
    lines
}

/// Directories that a layer does not describe have the time of unpacking on disk, and none here.
fn without_made_up_times(mut disk: Lines, image: &Lines) -> Lines {
    for (path, line) in &mut disk {
        let made_up = image.get(path).is_some_and(|other| {
            other.starts_with("Directory") && other.split(' ').any(|word| word == "mtime=0")
        });
        if made_up {
            let words = line.split(' ').map(|word| match word {
                word if word.starts_with("mtime=") => "mtime=0",
                word => word,
            });
            *line = words.collect::<Vec<_>>().join(" ");
        }
    }
    disk
}

fn fsck(image: &Path) {
    let Ok(output) = Command::new("fsck.erofs").arg("-d9").arg(image).output() else {
        return;
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.contains("No errors found"),
        "{said}"
    );
}

fn write(layer: &[u8], image: &Path, options: &Options) -> Result<Written, LayerError> {
    let file = File::create_new(image).unwrap();
    let written = erofs::write(layer, "evil", &file, options);
    if let Ok(written) = &written {
        assert_eq!(file.metadata().unwrap().len(), written.size);
    }
    written
}

/// Checks that an image of `layer` says what unpacking it into `root` said.
pub(crate) fn agrees(
    layer: &[u8],
    unpacking: &UnpackOptions,
    unpacked: &Result<Unpacked, LayerError>,
    root: &Path,
) {
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    let options = Options {
        limits: unpacking.limits,
        devices: unpacking.devices,
        ..Options::default()
    };
    match (unpacked, write(layer, &image, &options)) {
        (Ok(unpacked), Ok(written)) => {
            assert_eq!(&written.layer, unpacked);
            fsck(&image);
            if let Some(image) = shown(&image) {
                assert_eq!(without_made_up_times(described(root), &image), image);
            }
        }
        (Err(unpacked), Err(written)) => {
            assert_eq!(written.to_string(), unpacked.to_string());
            if File::open(&image).unwrap().metadata().unwrap().len() > 0 {
                assert!(in_namespace(|| {
                    let at = image.with_extension("mounted");
                    fs::create_dir(&at).unwrap();
                    rustix::mount::mount(&image, &at, "erofs", MountFlags::RDONLY, None).is_err()
                }));
            }
        }
        (unpacked, written) => panic!("unpacked: {unpacked:?}, written: {written:?}"),
    }
}

/// Unpacks and writes `layer`, compares, and gives what the image shows.
fn check(layer: &[u8]) -> Option<Lines> {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    fs::create_dir(&root).unwrap();
    let options = UnpackOptions::default();
    let unpacked = unpack(layer, "evil", &root, &options);
    unpacked.as_ref().unwrap();
    agrees(layer, &options, &unpacked, &root);
    let image = temp.path().join("again");
    write(layer, &image, &Options::default()).unwrap();
    shown(&image)
}

fn layer_of(dir: &Path) -> Vec<u8> {
    let options = PackOptions {
        compression: Compression::None,
        overlay: attrs(),
        ..PackOptions::default()
    };
    let mut layer = Vec::new();
    pack_to(dir, &mut layer, &options, &mut |_| false).unwrap();
    layer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_trees(tree in trees(true)) {
        if !is_root() {
            return Ok(());
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("dir");
        build(&dir, &tree);
        let layer = layer_of(&dir);
        check(&layer);
        let images: Vec<Vec<u8>> = (0..2)
            .map(|i| {
                let image = temp.path().join(format!("image{i}"));
                write(&layer, &image, &Options::default()).unwrap();
                fs::read(image).unwrap()
            })
            .collect();
        prop_assert!(images[0] == images[1], "the same layer, other bytes");
    }

    /// Layers stacked by overlayfs show the same, whether they are images or directories.
    #[test]
    fn random_stacks(layers in proptest::collection::vec(trees(true), 2..4)) {
        if !is_root() {
            return Ok(());
        }
        let temp = tempfile::tempdir().unwrap();
        let (dirs, images) = stack(temp.path(), &layers);
        let (from_dirs, from_images) = in_namespace(|| {
            let mounted: Vec<PathBuf> = images.iter().map(|i| i.with_extension("m")).collect();
            if !images.iter().zip(&mounted).all(|(image, at)| mount(image, at)) {
                return (Lines::new(), Lines::new());
            }
            (overlaid(temp.path(), &dirs), overlaid(temp.path(), &mounted))
        });
        prop_assert_eq!(from_dirs, from_images);
    }
}

/// Each tree as an unpacked layer and as an image of it, bottom first.
fn stack(temp: &Path, layers: &[Tree]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut dirs = Vec::new();
    let mut images = Vec::new();
    for (i, tree) in layers.iter().enumerate() {
        let built = temp.join(format!("built{i}"));
        build(&built, tree);
        let layer = layer_of(&built);
        let dir = temp.join(format!("dir{i}"));
        fs::create_dir(&dir).unwrap();
        unpack(&layer[..], "layer", &dir, &UnpackOptions::default()).unwrap();
        let image = temp.join(format!("image{i}"));
        write(&layer, &image, &Options::default()).unwrap();
        dirs.push(dir);
        images.push(image);
    }
    (dirs, images)
}

/// What overlayfs shows of layers, the lowest first.
fn overlaid(temp: &Path, layers: &[PathBuf]) -> Lines {
    let at = temp.join("overlay");
    fs::create_dir_all(&at).unwrap();
    let names: Vec<String> = layers
        .iter()
        .rev()
        .map(|l| l.display().to_string())
        .collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", names.join(":"))).unwrap();
    rustix::mount::mount("overlay", &at, "overlay", MountFlags::RDONLY, &*options).unwrap();
    let lines = describe(&at);
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    lines
}

#[test]
fn an_empty_layer_is_an_empty_root() {
    if let Some(lines) = check(&Tar::default().end()) {
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[&Vec::new()], "Directory mode=755 owner=0:0 mtime=0");
    }
}

/// Every size around a block, with tails that stand inline and tails that do not.
#[test]
fn sizes_around_blocks() {
    let mut tar = Tar::default();
    for size in [
        0, 1, 31, 32, 2048, 3071, 3072, 3073, 4031, 4032, 4033, 4095, 4096, 4097, 8191,
    ] {
        for blocks in [0, 1, 17] {
            let content: Vec<u8> = (0..size + blocks * 4096).map(|i| (i % 251) as u8).collect();
            tar = tar.entry(
                EntryType::Regular,
                &format!("{blocks}/{size}"),
                "",
                &content,
            );
        }
    }
    check(&tar.end());
}

/// Directories of many blocks, names of every length, and names that sort before `.`.
#[test]
fn large_directories() {
    let mut tar = Tar::default();
    for i in 0..3000u32 {
        let name = format!("many/{}{i}", ["!", "-", ".", "x", "~"][i as usize % 5]);
        tar = tar.file(&name, "").symlink(&format!("{name}.link"), &name);
    }
    for length in 1..=255 {
        let path = format!("long/{}", "n".repeat(length));
        tar = tar.pax(&[("path", path.as_bytes())]).file("short", "x");
        let path = format!("wide{length}/{}", "n".repeat(255));
        tar = tar.pax(&[("path", path.as_bytes())]).file("short", "x");
    }
    let odd = [b"bytes/".as_slice(), &[0xff, 0x80, b' ', b'\n', 1]].concat();
    tar = tar.pax(&[("path", &odd)]).dir("short").dir("empty");
    if let Some(lines) = check(&tar.end()) {
        let below = |dir: &[u8]| lines.keys().filter(|path| path.starts_with(dir)).count();
        assert_eq!(below(b"many/"), 6000);
        assert_eq!(below(b"long/"), 255);
        assert_eq!(below(b"bytes/"), 1);
    }
}

#[test]
fn deep_trees() {
    let mut tar = Tar::default();
    let mut path = String::new();
    while path.len() < 1500 {
        path += "dir/";
        let at = format!("{path}file");
        tar = tar.pax(&[("path", at.as_bytes())]).file("short", &at);
    }
    check(&tar.end());
    // As deep as a path may be.
    let path = "d/".repeat(2040) + "file";
    let tar = Tar::default()
        .pax(&[("path", path.as_bytes())])
        .file("short", "deep");
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    write(&tar.end(), &image, &Options::default()).unwrap();
    let at = temp.path().join("at");
    in_namespace(|| {
        if mount(&image, &at) {
            std::env::set_current_dir(&at).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "deep");
        }
    });
}

/// Attributes from none to all that an inode holds, on files, directories and the root.
#[test]
fn extended_attributes() {
    // ext4 holds only a block of them, so the expectation is written down instead.
    let long_name = format!("SCHILY.xattr.user.{}", "n".repeat(250));
    let value = vec![b'v'; 60_000];
    let mut records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.user.empty", b""),
        (&long_name, b"long"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ];
    let names: Vec<String> = (0..4).map(|i| format!("SCHILY.xattr.user.{i}")).collect();
    for name in &names {
        records.push((name, &value));
    }
    let tar = Tar::default()
        .pax(&records)
        .file("file", &"x".repeat(5000))
        .pax(&records)
        .dir("dir")
        .file("dir/below", "")
        .file("dir/.wh..wh..opq", "")
        .pax(&records[..2])
        .entry(EntryType::Directory, "./", "", b"")
        .file("small", "small")
        .end();
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    write(&tar, &image, &Options::default()).unwrap();
    fsck(&image);
    for (i, records) in [&records[..3], &records].into_iter().enumerate() {
        // On the root, few stand in its block and many are shared.
        let tar = Tar::default()
            .pax(records)
            .dir("./")
            .file("f", "content")
            .end();
        let image = temp.path().join(format!("root{i}"));
        write(&tar, &image, &Options::default()).unwrap();
        fsck(&image);
        let at = temp.path().join("at");
        in_namespace(|| {
            if mount(&image, &at) {
                let get = |name: &str| xattr::get(&at, name).unwrap();
                assert_eq!(get("user.empty"), Some(Vec::new()));
                assert_eq!(get(&long_name[13..]).unwrap(), b"long");
                assert_eq!(get("user.3").is_some_and(|v| v == value), i == 1);
                assert_eq!(get("trusted.overlay.opaque"), None);
                assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "content");
            }
        });
    }
    let Some(lines) = shown(&image) else { return };
    for (path, opaque) in [("file", false), ("dir", true)] {
        let line = &lines[path.as_bytes()];
        let expect = [
            format!("\"user.{}\"=long", "n".repeat(250)),
            "\"user.empty\"=".to_owned(),
            format!("\"user.3\"={}", "v".repeat(60_000)),
        ];
        for words in expect {
            assert!(line.split(' ').any(|word| word == words), "{path}");
        }
        assert_eq!(line.contains("\"trusted.overlay.opaque\"=y"), opaque);
    }
    assert!(lines[b"file".as_slice()].contains(&Digest::of(&[b'x'; 5000]).to_string()));
}

#[test]
fn attributes_that_no_image_holds_are_refused() {
    let refused = |name: &str, value: &[u8]| {
        let key = format!("SCHILY.xattr.{name}");
        for tar in [
            Tar::default().pax(&[(&key, value)]).file("x", ""),
            Tar::default().pax(&[(&key, value)]).dir("x"),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let error = write(&tar.end(), &temp.path().join("i"), &Options::default());
            assert!(
                matches!(&error, Err(LayerError::Entry { entry, problem: EntryProblem::Header(_), .. }) if entry == "x"),
                "{error:?}"
            );
        }
    };
    refused("user.a", &[0; 65_536]);
    refused("user.", b"");
    refused(&format!("user.{}", "n".repeat(251)), b"");
}

/// A symbolic link whose target fills a block and more than an inode leaves of it.
#[test]
fn long_link_targets() {
    let mut tar = Tar::default();
    for length in [1usize, 4000, 4032, 4033, 4095] {
        let target = "t".repeat(length);
        let path = format!("link{length}");
        tar = tar
            .pax(&[("linkpath", target.as_bytes())])
            .symlink(&path, "short");
    }
    check(&tar.end());
    let target = "t".repeat(4096);
    let tar = Tar::default()
        .pax(&[("linkpath", target.as_bytes())])
        .symlink("l", "short");
    let temp = tempfile::tempdir().unwrap();
    let error = write(&tar.end(), &temp.path().join("i"), &Options::default());
    assert!(
        matches!(
            error,
            Err(LayerError::Entry {
                problem: EntryProblem::PathLength(4096, 4095),
                ..
            })
        ),
        "{error:?}"
    );
}

#[test]
fn hard_links_are_one_file() {
    let tar = Tar::default()
        .file("d/a", "content")
        .hard_link("b", "d/a")
        .hard_link("d/c", "b")
        .symlink("s", "d")
        .hard_link("s/e", "s/a")
        .hard_link("other", "s")
        .file("d/a", "replaced, the others stay")
        .file("gone/x", "")
        .hard_link("kept", "gone/x")
        .file("gone", "a file now")
        .entry(EntryType::Fifo, "pipe", "", b"")
        .hard_link("pipe2", "pipe")
        .end();
    check(&tar);
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    write(&tar, &image, &Options::default()).unwrap();
    let at = temp.path().join("at");
    in_namespace(|| {
        if mount(&image, &at) {
            let links = |name: &str| fs::symlink_metadata(at.join(name)).unwrap().nlink();
            let all = ["b", "d/c", "d/a", "kept", "pipe", "d", ".", "other"].map(links);
            assert_eq!(all, [3, 3, 1, 1, 2, 2, 3, 2]);
        }
    });
}

/// The entries that `unpack` refuses, met behind links of the layer itself.
#[test]
fn links_within_the_layer_are_followed() {
    let tar = Tar::default()
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/./lib/")
        .symlink("up", "../../usr/lib/..")
        .file("lib/a", "a")
        .file("abs/b", "b")
        .file("up/c", "c")
        .file("up/lib/deep/er/d", "d")
        .file("lib/.wh.gone", "")
        .file("abs/deep/.wh..wh..opq", "")
        .end();
    if let Some(lines) = check(&tar) {
        for path in ["usr/lib/a", "usr/lib/b", "usr/c", "usr/lib/deep/er/d"] {
            assert!(lines.contains_key(path.as_bytes()), "{path}");
        }
    }
}

/// More than 4 GiB, of which nearly all is a hole; and holes between contents.
#[test]
fn large_sparse_files_cost_little() {
    // GNU's format 1.0: the map stands before the content.
    let size = (5u64 << 30) + 5;
    let last = (5u64 << 30) - 4096;
    let mut map = format!("3\n0\n3\n{last}\n4096\n{size}\n0\n").into_bytes();
    map.resize(512, 0);
    let stored = [map, b"abc".to_vec(), vec![b'z'; 4096]].concat();
    let real = size.to_string();
    let tar = Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", real.as_bytes()),
        ])
        .entry(EntryType::Regular, "x", "", &stored)
        .file("after", "after")
        .end();
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    let written = write(&tar, &image, &Options::default()).unwrap();
    assert_eq!(written.layer.file_bytes, size + 5);
    assert!(fs::metadata(&image).unwrap().blocks() * 512 < 1 << 20);
    fsck(&image);
    let at = temp.path().join("at");
    in_namespace(|| {
        if !mount(&image, &at) {
            return;
        }
        let file = File::open(at.join("sparse")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        let mut bytes = [1; 8192 + 5];
        file.read_exact_at(&mut bytes[..6], 0).unwrap();
        assert_eq!(&bytes[..6], b"abc\0\0\0");
        file.read_exact_at(&mut bytes, last - 4096).unwrap();
        assert!(bytes[..4096].iter().all(|b| *b == 0));
        assert!(bytes[4096..8192].iter().all(|b| *b == b'z'));
        assert!(bytes[8192..].iter().all(|b| *b == 0));
        assert_eq!(fs::read_to_string(at.join("after")).unwrap(), "after");
    });
}

/// A stream of zeros that says to be a file, so that no test holds gigabytes.
struct Zeros {
    head: std::io::Cursor<Vec<u8>>,
    left: u64,
}

impl Read for Zeros {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.head.read(buffer)?;
        if n > 0 || self.left == 0 {
            return Ok(n);
        }
        let n = (buffer.len() as u64).min(self.left) as usize;
        buffer[..n].fill(0);
        self.left -= n as u64;
        Ok(n)
    }
}

/// A file of more than 4 GiB that is not sparse in the archive; its zeros become holes.
#[test]
fn files_beyond_four_gigabytes() {
    let size = (4u64 << 30) + 4096;
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_path("large").unwrap();
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(size);
    header.set_cksum();
    let layer = Zeros {
        head: std::io::Cursor::new(header.as_bytes().to_vec()),
        left: size + 1024,
    };
    let temp = tempfile::tempdir().unwrap();
    let image = temp.path().join("image");
    let file = File::create_new(&image).unwrap();
    let limits = Limits {
        ratio: u64::MAX,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    erofs::write(layer, "large", &file, &options).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    fsck(&image);
    if let Some(at) = image.parent() {
        let at = at.join("at");
        in_namespace(|| {
            if mount(&image, &at) {
                assert_eq!(fs::metadata(at.join("large")).unwrap().len(), size);
            }
        });
    }
}

#[test]
fn names_are_bounded_by_memory() {
    let mut tar = Tar::default();
    for i in 0..200 {
        // One entry that makes many directories.
        let path = format!("{i}/{}", "a/".repeat(1000));
        tar = tar.pax(&[("path", path.as_bytes())]).file("short", "");
    }
    let tar = tar.end();
    let temp = tempfile::tempdir().unwrap();
    for (memory, fine) in [(8 << 20, false), (256 << 20, true)] {
        let options = Options {
            memory,
            ..Options::default()
        };
        let written = write(&tar, &temp.path().join(memory.to_string()), &options);
        let limited = matches!(
            written,
            Err(LayerError::Limit {
                what: "bytes of memory for its names",
                ..
            })
        );
        assert_eq!((written.is_ok(), limited), (fine, !fine));
    }
}

#[test]
fn a_full_disk_is_said() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    in_namespace(|| {
        let size = c"size=1m";
        rustix::mount::mount("small", temp.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        let mut content = vec![0; 4 << 20];
        for (i, byte) in content.iter_mut().enumerate() {
            *byte = (i % 255) as u8;
        }
        let tar = Tar::default()
            .entry(EntryType::Regular, "f", "", &content)
            .end();
        match write(&tar, &temp.path().join("image"), &Options::default()) {
            Err(LayerError::Io { source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            }
            other => panic!("{other:?}"),
        }
    });
}

/// Not part of the suite: how long and how large, against a directory.
/// `CHALK_LAYER=layer.tar cargo test --release -p chalk-store --test it erofs::measure -- --ignored --nocapture`
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
