//! Layers of every shape that the format has a rule for.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

use chalk_core::Digest;
use chalk_store::erofs::{self, Options};
use chalk_store::layer::{EntryProblem, LayerError, Limits};
use rustix::mount::MountFlags;
use tar::{EntryType, Header};

use super::{check, fsck, in_namespace, mount, shown, write};
use crate::hostile::Tar;
use crate::trees::is_root;

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
