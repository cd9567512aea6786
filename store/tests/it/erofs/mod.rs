//! EROFS images of layers: the kernel mounts them and shows what `unpack` makes of the same layer,
//! and `fsck.erofs` finds nothing to complain about.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use chalk_store::erofs::{self, Options, Written};
use chalk_store::layer::{
    Compression, LayerError, PackOptions, UnpackOptions, Unpacked, pack_to, unpack,
};
use proptest::prelude::*;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::trees::{Tree, attrs, build, describe, is_root, trees};

mod measure;
mod shapes;

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
