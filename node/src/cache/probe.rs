//! Which form of layers this machine can mount.

use std::fs::File;
use std::io;
use std::path::Path;

use chalk_store::erofs;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use super::disk::LayerForm;
use super::error::{CacheError, Result};
use crate::CacheForm;

/// The form that the settings ask for, or the best that the kernel takes. Found out by mounting an
/// empty image from a file below `dir`.
pub(super) fn form(wanted: CacheForm, dir: &Path) -> Result<LayerForm> {
    let probe = || -> io::Result<()> {
        let temp = tempfile::tempdir_in(dir)?;
        let image = temp.path().join("image");
        let file = File::create_new(&image)?;
        erofs::write(io::empty(), "probe", &file, &erofs::Options::default())
            .map_err(io::Error::other)?;
        drop(file);
        let at = temp.path().join("at");
        std::fs::create_dir(&at)?;
        try_mount(&image, &at)
    };
    match wanted {
        CacheForm::Directory => Ok(LayerForm::Directory),
        CacheForm::Erofs => match probe() {
            Ok(()) => Ok(LayerForm::Erofs),
            Err(error) => Err(CacheError::NoErofs(error.to_string())),
        },
        CacheForm::Auto => match probe() {
            Ok(()) => Ok(LayerForm::Erofs),
            Err(error) => {
                tracing::info!(%error, "no EROFS from files; layers are kept as directories");
                Ok(LayerForm::Directory)
            }
        },
    }
}

/// Mounts in a mount namespace that ends with the thread.
fn try_mount(image: &Path, at: &Path) -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<()> {
            // SAFETY: neither flag shares memory or descriptors anew; only this thread, which
            // ends here, gets other mounts and a working directory of its own.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private)?;
            rustix::mount::mount(image, at, "erofs", MountFlags::RDONLY, None)?;
            Ok(())
        });
        match thread.join() {
            Ok(done) => done,
            Err(_) => Err(io::Error::other("the probing thread died")),
        }
    })
}
