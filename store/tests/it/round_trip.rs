//! Random trees come back equal from a layer, by our own reader and by GNU tar's.

use std::path::Path;
use std::process::Command;

use crate::trees::{Node, attrs, build, describe, trees};
use chalk_store::BlobStore;
use chalk_store::layer::{
    Compression, PackOptions, PackedLayer, Target, UnpackOptions, pack, pack_to, unpack_blob,
};
use proptest::prelude::*;

fn pack_options(compression: Compression) -> PackOptions {
    PackOptions {
        compression,
        overlay: attrs(),
        ..PackOptions::default()
    }
}

fn packed(store: &BlobStore, dir: &Path, compression: Compression) -> PackedLayer {
    pack(dir, store, &pack_options(compression), &mut |_| false).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn trees_come_back_equal(tree in trees(true)) {
        let temp = tempfile::tempdir().unwrap();
        let store = BlobStore::open(temp.path().join("store")).unwrap();
        let first = temp.path().join("first");
        build(&first, &tree);
        let before = describe(&first);
        let mut diff_ids = Vec::new();
        for (i, compression) in [Compression::None, Compression::Gzip(6), Compression::Zstd(3)]
            .into_iter()
            .enumerate()
        {
            let layer = packed(&store, &first, compression);
            let again = temp.path().join(format!("again{i}"));
            std::fs::create_dir(&again).unwrap();
            let options = UnpackOptions { target: Target::Snapshot(attrs()), ..UnpackOptions::default() };
            let unpacked =
                unpack_blob(&store, &layer.digest, Some(&layer.diff_id), &again, &options).unwrap();
            prop_assert_eq!(unpacked.entries, layer.entries);
            prop_assert_eq!(unpacked.uncompressed_size, layer.uncompressed_size);
            prop_assert_eq!(unpacked.media_type, layer.media_type);
            prop_assert_eq!(&describe(&again), &before);
            prop_assert_eq!(packed(&store, &again, compression), layer.clone());
            diff_ids.push(layer.diff_id);
        }
        prop_assert!(diff_ids.windows(2).all(|w| w[0] == w[1]));
    }

    #[test]
    fn gnu_tar_reads_the_same(tree in trees(false)) {
        let temp = tempfile::tempdir().unwrap();
        let first = temp.path().join("first");
        build(&first, &tree);
        let archive = temp.path().join("layer.tar");
        let mut file = std::fs::File::create(&archive).unwrap();
        pack_to(&first, &mut file, &pack_options(Compression::None), &mut |_| false).unwrap();
        let again = temp.path().join("again");
        std::fs::create_dir(&again).unwrap();
        let output = Command::new("tar")
            .args(["--extract", "--same-permissions", "--xattrs", "--xattrs-include=*", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&again)
            .output()
            .unwrap();
        prop_assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        prop_assert_eq!(describe(&again), describe(&first));
    }
}

#[test]
fn exclusion_takes_whole_subtrees_and_times_can_be_clamped() {
    let temp = tempfile::tempdir().unwrap();
    let store = BlobStore::open(temp.path().join("store")).unwrap();
    let dir = temp.path().join("dir");
    for sub in ["keep", "run/secrets"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
    }
    std::fs::write(dir.join("run/secrets/token"), "hush").unwrap();
    std::fs::write(dir.join("keep/a"), "a").unwrap();
    let options = PackOptions {
        clamp_mtime: Some(1_000_000_000),
        ..pack_options(Compression::None)
    };
    let layer = pack(&dir, &store, &options, &mut |path| path == b"run").unwrap();
    assert_eq!(layer.entries, 2);
    let again = temp.path().join("again");
    std::fs::create_dir(&again).unwrap();
    unpack_blob(
        &store,
        &layer.digest,
        None,
        &again,
        &UnpackOptions::default(),
    )
    .unwrap();
    let lines = describe(&again);
    assert_eq!(lines.len(), 2);
    assert!(
        lines
            .iter()
            .all(|(_, line)| line.contains("mtime=1000000000"))
    );
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let store = BlobStore::open(temp.path().join("store")).unwrap();
    let options = pack_options(Compression::None);
    let dir = temp.path().join("named");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    std::fs::write(dir.join("sub/.wh.x"), "").unwrap();
    let error = pack(&dir, &store, &options, &mut |_| false).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`sub/.wh.x` cannot be put into a layer")
    );

    let dir = temp.path().join("redirected");
    std::fs::create_dir_all(dir.join("moved")).unwrap();
    let name = if crate::trees::is_root() {
        "trusted"
    } else {
        "user"
    };
    xattr::set(
        dir.join("moved"),
        format!("{name}.overlay.redirect"),
        b"/old",
    )
    .unwrap();
    let error = pack(&dir, &store, &options, &mut |_| false).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`moved` cannot be put into a layer")
    );
}

/// A file larger than ustar's size field holds, as a hole; and an old time.
#[test]
fn sizes_and_times_beyond_ustar() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("dir");
    build(
        &dir,
        &[(
            b"old".to_vec(),
            Node::File {
                content: b"x".to_vec(),
                mode: 0o644,
                attrs: Vec::new(),
                mtime: -1_000,
            },
        )]
        .into(),
    );
    let big = std::fs::File::create(dir.join("big")).unwrap();
    big.set_len((8 << 30) + 1).unwrap();
    // Only the heads are looked at: writing 8 GiB would take long.
    struct Head(Vec<u8>);
    impl std::io::Write for Head {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.len() > 4096 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut head = Head(Vec::new());
    let options = pack_options(Compression::None);
    pack_to(&dir, &mut head, &options, &mut |_| false).unwrap_err();
    let mut archive = tar::Archive::new(&head.0[..]);
    let entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.size(), (8 << 30) + 1);

    let mut bytes = Vec::new();
    pack_to(&dir, &mut bytes, &options, &mut |path| path == b"big").unwrap();
    let again = temp.path().join("again");
    std::fs::create_dir(&again).unwrap();
    let options = UnpackOptions::default();
    chalk_store::layer::unpack(&bytes[..], "old", &again, &options).unwrap();
    assert!(describe(&again)[&b"old".to_vec()].contains("mtime=-1000"));
}

/// As deep as a path can be; recursion must not end the process.
#[test]
fn deep_trees() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    let deepest = "d/".repeat(900) + "d";
    std::fs::create_dir_all(dir.join(&deepest)).unwrap();
    let store = BlobStore::open(temp.path().join("store")).unwrap();
    let layer = packed(&store, &dir, Compression::Zstd(3));
    assert_eq!(layer.entries, 901);
    for target in [Target::Snapshot(attrs()), Target::Root] {
        let again = temp.path().join(format!("{target:?}"));
        std::fs::create_dir(&again).unwrap();
        let options = UnpackOptions {
            target,
            ..UnpackOptions::default()
        };
        unpack_blob(&store, &layer.digest, None, &again, &options).unwrap();
        assert!(again.join(&deepest).is_dir());
    }
    let too_deep = dir
        .join(&deepest)
        .join("n".repeat(250))
        .join("n".repeat(250));
    std::fs::create_dir_all(too_deep).unwrap();
    // 900 levels of two bytes, and names of 250 until no path can be longer.
    let mut at = std::fs::File::open(dir.join(&deepest)).unwrap();
    for _ in 0..12 {
        let name = "m".repeat(250);
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty())
            .unwrap()
            .into();
    }
    let error = pack(&dir, &store, &pack_options(Compression::None), &mut |_| {
        false
    })
    .unwrap_err();
    assert!(error.to_string().contains("longer than 4095 bytes"));
    // The temporary directory cannot remove what is that deep; snapshots can.
    let snapshots = chalk_store::snapshots::Snapshots::open(temp.path().join("s")).unwrap();
    std::fs::rename(&dir, snapshots.root().join("deep")).unwrap();
    assert!(snapshots.remove("deep").unwrap());
}
