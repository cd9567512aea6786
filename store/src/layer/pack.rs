//! From the upper directory of an overlay to a layer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use chalk_core::Digest;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::compress::Compression;
use super::format::{EntryHeader, Kind, write_end, write_header, write_padding};
use super::root::{file_attr, file_attrs, is_whiteout};
use super::{LayerError, OPAQUE, OverlayAttrs, Result, WHITEOUT, is_image_attr};
use crate::blobs::BlobStore;

/// Longest path that Linux takes.
const LONGEST: usize = 4095;

/// How a layer is packed. All of it, save the threads, is visible in the layer's digest.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Compression of the blob.
    pub compression: Compression,
    /// Threads that compress.
    pub threads: usize,
    /// Later modification times are set back to this many seconds after 1970
    /// (`SOURCE_DATE_EPOCH`).
    pub clamp_mtime: Option<i64>,
    /// In which name space the overlay keeps its attributes.
    pub overlay: OverlayAttrs,
}

impl Default for PackOptions {
    /// Zstandard on all cores, times as they are.
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            clamp_mtime: None,
            overlay: OverlayAttrs::default(),
        }
    }
}

/// A packed layer, stored as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayer {
    /// Digest of the blob: what a manifest names.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Digest of the uncompressed tar: what a config's `rootfs.diff_ids` names.
    pub diff_id: Digest,
    /// Media type for the manifest.
    pub media_type: &'static str,
    /// Bytes of the uncompressed tar.
    pub uncompressed_size: u64,
    /// Entries, whiteouts included. A layer without any changes nothing.
    pub entries: u64,
}

/// Packs `upper`, the upper directory of an overlay mount that is no longer written to, into a
/// layer blob.
///
/// Equal trees give equal bytes: entries come directory by directory, names sorted by their
/// bytes; times are whole seconds; owners are numbers. Kept are mode bits, `user.*` attributes
/// and file capabilities, hard links within the tree, symbolic links, fifos and device nodes.
/// Sockets are left out, as by every tar. `exclude` is asked with each path (relative, raw bytes);
/// `true` leaves it out with all below it. The root itself gets no entry.
///
/// Memory does not grow with the size of files, only with the longest directory and the number of
/// files with several links.
///
/// # Errors
/// [`LayerError::Unpackable`] for what a layer cannot say: a file called `.wh.*`, or an upper
/// directory that is not whole in itself since the overlay was mounted with `redirect_dir` or
/// `metacopy`.
pub fn pack(
    upper: &Path,
    store: &BlobStore,
    options: &PackOptions,
    exclude: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<PackedLayer> {
    let writer = store.writer()?;
    let to_blob = |e| LayerError::io("write the layer's blob for", b".", e);
    let compressor = options
        .compression
        .writer(writer, options.threads)
        .map_err(to_blob)?;
    let mut tar = Counted {
        out: compressor,
        hasher: Sha256::new(),
        size: 0,
    };
    let entries = pack_to(upper, &mut tar, options, exclude)?;
    let Counted { out, hasher, size } = tar;
    let writer = out.finish().map_err(to_blob)?;
    let blob = writer.commit(None)?;
    Ok(PackedLayer {
        digest: blob.digest,
        size: blob.size,
        diff_id: Digest::from_bytes(hasher.finalize().into()),
        media_type: options.compression.media_type(),
        uncompressed_size: size,
        entries,
    })
}

/// Writes the uncompressed tar of [`pack`] to `out` and says how many entries it has.
pub fn pack_to(
    upper: &Path,
    out: &mut dyn Write,
    options: &PackOptions,
    exclude: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty())
        .map_err(|e| LayerError::io("open", upper.as_os_str().as_encoded_bytes(), e))?;
    let mut packer = Packer {
        out,
        options,
        exclude,
        links: HashMap::new(),
        buffer: vec![0; 256 * 1024],
        entries: 0,
    };
    packer.tree(root)?;
    write_end(&mut packer.out).map_err(|e| LayerError::io("write the end of", b".", e))?;
    Ok(packer.entries)
}

struct Counted<W> {
    out: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Packer<'a> {
    out: &'a mut dyn Write,
    options: &'a PackOptions,
    exclude: &'a mut dyn FnMut(&[u8]) -> bool,
    /// First path of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    entries: u64,
}

/// A directory that is being packed.
struct Level {
    dir: OwnedFd,
    /// Length of its path with the slash.
    path: usize,
    children: std::vec::IntoIter<Child>,
}

struct Child {
    /// As the layer calls it: whiteouts with their prefix.
    name: Vec<u8>,
    is_whiteout: bool,
    stat: Stat,
}

impl Packer<'_> {
    /// Packs everything below `root`. Levels are kept in a list, since a hostile step can nest
    /// directories deeper than a thread's stack takes.
    fn tree(&mut self, root: OwnedFd) -> Result<()> {
        let mut path = Vec::new();
        let children = self.children(&root, &mut path)?.into_iter();
        let mut levels = vec![Level {
            dir: root,
            path: 0,
            children,
        }];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            let Some(child) = level.children.next() else {
                levels.pop();
                continue;
            };
            path.extend_from_slice(&child.name);
            if path.len() > LONGEST {
                return Err(LayerError::Unpackable {
                    path: path.escape_ascii().to_string(),
                    problem: "its path is longer than 4095 bytes, which nothing could unpack",
                });
            }
            if child.is_whiteout {
                self.entry(&EntryHeader::new(path.clone(), Kind::File))?;
            } else if let Some(dir) = self.child(&level.dir, &path, &child)? {
                path.push(b'/');
                if self.is_opaque(&dir, &path)? {
                    let marker = [path.as_slice(), OPAQUE].concat();
                    self.entry(&EntryHeader::new(marker, Kind::File))?;
                }
                let children = self.children(&dir, &mut path)?.into_iter();
                levels.push(Level {
                    dir,
                    path: path.len(),
                    children,
                });
            }
        }
        Ok(())
    }

    fn children(&mut self, dir: &OwnedFd, path: &mut Vec<u8>) -> Result<Vec<Child>> {
        let base = path.len();
        let mut children = Vec::new();
        for name in names(dir).map_err(|e| LayerError::io("list", path, e))? {
            path.truncate(base);
            path.extend_from_slice(&name);
            if (self.exclude)(path) {
                continue;
            }
            let stat = rustix::fs::statat(
                dir,
                OsString::from_vec(name.clone()),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|e| LayerError::io("inspect", path, e))?;
            let is_whiteout = is_whiteout(&stat);
            if name.starts_with(WHITEOUT) {
                return Err(LayerError::Unpackable {
                    path: path.escape_ascii().to_string(),
                    problem: "a name that starts with `.wh.` means a deletion in a layer",
                });
            }
            children.push(Child {
                name: if is_whiteout {
                    [WHITEOUT, &name].concat()
                } else {
                    name
                },
                is_whiteout,
                stat,
            });
        }
        path.truncate(base);
        children.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(children)
    }

    /// Packs one file; gives a directory back for what is below it.
    fn child(&mut self, dir: &OwnedFd, path: &[u8], child: &Child) -> Result<Option<OwnedFd>> {
        let stat = &child.stat;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            _ => return Ok(None),
        };
        let mut header = EntryHeader::new(path, kind);
        header.mode = stat.st_mode & 0o7777;
        header.uid = stat.st_uid;
        header.gid = stat.st_gid;
        header.mtime = match self.options.clamp_mtime {
            Some(latest) => stat.st_mtime.min(latest),
            None => stat.st_mtime,
        };
        if kind != Kind::Dir && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                header.kind = Kind::HardLink;
                header.link.clone_from(first);
                self.entry(&header)?;
                return Ok(None);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let open = |flags| {
            let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = OsString::from_vec(child.name.clone());
            rustix::fs::openat(dir, name, flags, Mode::empty())
                .map_err(|e| LayerError::io("open", path, e))
        };
        match kind {
            Kind::File => {
                let file = open(OFlags::NONBLOCK)?;
                self.image_attrs(&file, &mut header)?;
                header.size = u64::try_from(stat.st_size).unwrap_or(0);
                self.entry(&header)?;
                self.content(File::from(file), path, header.size)?;
            }
            Kind::Dir => {
                let below = open(OFlags::DIRECTORY)?;
                self.image_attrs(&below, &mut header)?;
                self.entry(&header)?;
                return Ok(Some(below));
            }
            Kind::Symlink => {
                let name = OsString::from_vec(child.name.clone());
                let target = rustix::fs::readlinkat(dir, name, Vec::new())
                    .map_err(|e| LayerError::io("read the link", path, e))?;
                header.link = target.into_bytes();
                self.entry(&header)?;
            }
            _ => {
                header.device = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                self.entry(&header)?;
            }
        }
        Ok(None)
    }

    fn entry(&mut self, header: &EntryHeader) -> Result<()> {
        self.entries += 1;
        write_header(&mut self.out, header)
            .map_err(|e| LayerError::io("write the entry of", &header.path, e))
    }

    fn content(&mut self, mut file: File, path: &[u8], size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let want =
                usize::try_from(left).map_or(self.buffer.len(), |n| n.min(self.buffer.len()));
            let n = match file.read(&mut self.buffer[..want]) {
                Ok(0) => {
                    let problem = "it became shorter while it was read";
                    return Err(LayerError::Unpackable {
                        path: path.escape_ascii().to_string(),
                        problem,
                    });
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(LayerError::io("read", path, e)),
            };
            self.out
                .write_all(&self.buffer[..n])
                .map_err(|e| LayerError::io("write the content of", path, e))?;
            left -= n as u64;
        }
        write_padding(&mut self.out, size)
            .map_err(|e| LayerError::io("write the content of", path, e))
    }

    fn image_attrs(&self, fd: &OwnedFd, header: &mut EntryHeader) -> Result<()> {
        let attrs =
            file_attrs(fd).map_err(|e| LayerError::io("list attributes of", &header.path, e))?;
        for name in attrs {
            let foreign = [
                self.options.overlay.redirect(),
                self.options.overlay.metacopy(),
            ];
            if foreign.iter().any(|f| f.as_bytes() == name) {
                return Err(LayerError::Unpackable {
                    path: header.path.escape_ascii().to_string(),
                    problem: "the overlay was mounted with `redirect_dir` or `metacopy`, so its upper directory is not whole in itself",
                });
            }
            if !is_image_attr(&name) {
                continue;
            }
            let value = file_attr(fd, &name)
                .map_err(|e| LayerError::io("read an attribute of", &header.path, e))?;
            if let Some(value) = value {
                header.xattrs.insert(name, value);
            }
        }
        Ok(())
    }

    fn is_opaque(&self, dir: &OwnedFd, path: &[u8]) -> Result<bool> {
        let value = file_attr(dir, self.options.overlay.opaque().as_bytes())
            .map_err(|e| LayerError::io("read an attribute of", path, e))?;
        Ok(value.as_deref() == Some(b"y"))
    }
}

/// Names in a directory, without `.` and `..`.
pub(crate) fn names(dir: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // A descriptor of its own, since reading moves the position.
    let dir = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
    let mut buffer = Vec::with_capacity(64 * 1024);
    let mut reader = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = reader.next() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
