//! Reads a folder of static files and makes them ready to be served. The build script and the
//! setting `web.dir` go the same way, so this file is part of both programs.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// Most bytes of all files together; they are kept in memory.
const BYTES_LIMIT: u64 = 64 << 20;
/// Most files.
const FILES_LIMIT: usize = 4096;
/// Characters of the hash that Vite puts into names.
const HASH_LENGTH: usize = 8;

/// A file as it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Path below the folder, with `/` between its parts.
    pub(crate) path: String,
    /// Value of `Content-Type`.
    pub(crate) media_type: &'static str,
    /// Beginning of the hex SHA-256 of the contents.
    pub(crate) tag: String,
    /// Whether the name changes with the contents.
    pub(crate) immutable: bool,
    /// Contents.
    pub(crate) bytes: Vec<u8>,
    /// Contents in gzip form, where that is smaller.
    pub(crate) gzip: Option<Vec<u8>>,
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// The file system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link leads out of the folder.
    #[error("{} leads out of the folder", .0.display())]
    Outside(PathBuf),
    /// A name that is not UTF-8.
    #[error("the name of {} is not UTF-8", .0.display())]
    Name(PathBuf),
    /// More than is meant to be served from memory.
    #[error(
        "{} holds more than {FILES_LIMIT} files or {} MiB: it must hold the built page and nothing else",
        .0.display(),
        BYTES_LIMIT >> 20
    )]
    TooLarge(PathBuf),
    /// Not a page.
    #[error("{} holds no index.html", .0.display())]
    NoIndex(PathBuf),
}

/// Reads every file below `folder`, sorted by path. Names that begin with a dot are passed over.
///
/// # Errors
/// When the folder has no `index.html`, is too large, cannot be read, or a link leads out of it.
pub(crate) fn pack(folder: &Path) -> Result<Vec<Packed>, PackError> {
    let root = folder.canonicalize().map_err(fault(folder))?;
    let mut files = Vec::new();
    let mut left = BYTES_LIMIT;
    let mut open = vec![(root.clone(), String::new())];
    while let Some((dir, prefix)) = open.pop() {
        for entry in dir.read_dir().map_err(fault(&dir))? {
            let entry = entry.map_err(fault(&dir))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                return Err(PackError::Name(path));
            };
            if name.starts_with('.') {
                continue;
            }
            let real = path.canonicalize().map_err(fault(&path))?;
            if !real.starts_with(&root) {
                return Err(PackError::Outside(path));
            }
            let metadata = real.metadata().map_err(fault(&path))?;
            let name = format!("{prefix}{name}");
            // Links that go in circles end here too.
            let too_many = files.len() + open.len() >= FILES_LIMIT;
            if too_many || metadata.len() > left {
                return Err(PackError::TooLarge(folder.to_owned()));
            }
            if metadata.is_dir() {
                open.push((real, format!("{name}/")));
            } else {
                let bytes = std::fs::read(&real).map_err(fault(&path))?;
                left = left.saturating_sub(bytes.len() as u64);
                files.push(packed(name, bytes));
            }
        }
    }
    if !files.iter().any(|file| file.path == "index.html") {
        return Err(PackError::NoIndex(folder.to_owned()));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn fault(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    |source| PackError::Io { path, source }
}

fn packed(path: String, bytes: Vec<u8>) -> Packed {
    let hash = Sha256::digest(&bytes);
    let tag = hash[..16].iter().map(|byte| format!("{byte:02x}"));
    let gzip = gzip(&bytes).filter(|gzip| gzip.len() < bytes.len());
    Packed {
        media_type: media_type(&path),
        tag: tag.collect(),
        immutable: is_hashed(&path),
        path,
        bytes,
        gzip,
    }
}

/// Memory does not refuse writes, so this gives `None` never in practice.
fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn media_type(path: &str) -> &'static str {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension);
    match extension.unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "wasm" => "application/wasm",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Whether Vite put a hash of the contents into the name: `assets/index-Dk3f_9aZ.js`. A hash of
/// small letters alone could be a word and does not count.
fn is_hashed(path: &str) -> bool {
    let Some(name) = path.strip_prefix("assets/") else {
        return false;
    };
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let Some(start) = stem.len().checked_sub(HASH_LENGTH) else {
        return false;
    };
    let (Some(before), Some(hash)) = (stem.get(..start), stem.get(start..)) else {
        return false;
    };
    before.ends_with('-')
        && hash
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && hash
            .bytes()
            .any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}
