//! Access to the files of an image, in a directory or read from an archive into the store.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use chalk_core::Digest;

use super::{ArchiveError, DOCUMENT, Result};
use crate::blobs::{Blob, BlobStore};
use crate::layer::{Kind, LayerReader, Limits, clean, with_stream};

/// Documents at the top of an archive that say what it holds.
const DOCUMENTS: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];

/// The files of an image that is being imported.
pub(super) enum Contents {
    /// A layout directory; its files are read when asked for.
    Dir(PathBuf),
    /// An archive, all of whose blobs are in the store by now.
    Archive(Archive),
}

#[derive(Default)]
pub(super) struct Archive {
    origin: String,
    documents: BTreeMap<String, Vec<u8>>,
    files: BTreeMap<String, Blob>,
    /// Symbolic links, which Docker and Podman use for layers that appear twice.
    links: BTreeMap<String, String>,
}

impl Contents {
    /// A document at the top; `None` when it is not there.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Archive(archive) => Ok(archive.documents.get(name).cloned()),
            Self::Dir(dir) => {
                let path = dir.join(name);
                let file = match File::open(&path) {
                    Ok(file) => file,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(ArchiveError::io("open", path.display())(e)),
                };
                let mut bytes = Vec::new();
                file.take(DOCUMENT + 1)
                    .read_to_end(&mut bytes)
                    .map_err(ArchiveError::io("read", path.display()))?;
                if bytes.len() as u64 > DOCUMENT {
                    return Err(too_large(name));
                }
                Ok(Some(bytes))
            }
        }
    }

    /// Makes sure that a blob is in the store, verified; `of` is the document that names it.
    pub(super) fn blob(&self, store: &BlobStore, digest: &Digest, of: &str) -> Result<Blob> {
        let missing = || ArchiveError::Missing {
            name: of.to_owned(),
            missing: digest.to_string(),
        };
        match self {
            // Also what was in the store before: an archive may leave out what the other side has.
            Self::Archive(_) => match store.size(digest)? {
                Some(size) => Ok(Blob {
                    digest: *digest,
                    size,
                }),
                None => Err(missing()),
            },
            Self::Dir(dir) => {
                let path = dir.join("blobs/sha256").join(digest.hex());
                match File::open(&path) {
                    Ok(file) => Ok(store.put_reader(file, Some(*digest))?),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                        let size = store.size(digest)?.ok_or_else(missing)?;
                        let digest = *digest;
                        Ok(Blob { digest, size })
                    }
                    Err(e) => Err(ArchiveError::io("open", path.display())(e)),
                }
            }
        }
    }

    /// A file of a `docker save` archive, as a blob.
    pub(super) fn file(&self, path: &str, of: &str) -> Result<Blob> {
        let missing = || ArchiveError::Missing {
            name: of.to_owned(),
            missing: format!("`{path}`"),
        };
        let Self::Archive(archive) = self else {
            return Err(missing());
        };
        let mut name = lexical("", path).ok_or_else(missing)?;
        for _ in 0..8 {
            if let Some(blob) = archive.files.get(&name) {
                return Ok(*blob);
            }
            let target = archive.links.get(&name).ok_or_else(missing)?;
            let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir);
            name = lexical(dir, target).ok_or_else(missing)?;
        }
        Err(missing())
    }

    /// What is being imported, for messages.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Dir(dir) => dir.display().to_string(),
            Self::Archive(archive) => archive.origin.clone(),
        }
    }
}

fn too_large(name: &str) -> ArchiveError {
    ArchiveError::document(name, format!("is larger than {DOCUMENT} bytes"))
}

/// `path` from `dir`, without touching the file system; `None` when it leaves the root.
fn lexical(dir: &str, path: &str) -> Option<String> {
    let start = if path.starts_with('/') { "" } else { dir };
    let mut words: Vec<&str> = start.split('/').filter(|w| !w.is_empty()).collect();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => {
                words.pop()?;
            }
            word => words.push(word),
        }
    }
    Some(words.join("/"))
}

/// Reads an image archive to its end, its blobs into the store.
pub(super) fn read_archive(
    store: &BlobStore,
    source: impl Read + Send,
    origin: &str,
    limits: Limits,
) -> Result<Contents> {
    let mut archive = Archive {
        origin: origin.to_owned(),
        ..Archive::default()
    };
    // The closure may only fail as a layer does; the rest is carried beside it.
    let mut failed = None;
    with_stream(source, origin, limits, |stream| {
        let mut reader = LayerReader::new(stream, origin);
        while let Some(entry) = reader.next_entry()? {
            let path = clean(&entry.path, limits.path)
                .map_err(|problem| reader.entry_error(&entry.path, problem))?;
            let Ok(path) = String::from_utf8(path) else {
                continue;
            };
            match entry.kind {
                Kind::Symlink => {
                    let target = String::from_utf8_lossy(&entry.link).into_owned();
                    archive.links.insert(path, target);
                }
                Kind::File if DOCUMENTS.contains(&path.as_str()) => {
                    if entry.size > DOCUMENT {
                        failed = Some(too_large(&path));
                        break;
                    }
                    let mut bytes = Vec::new();
                    copy(&mut reader, &mut bytes, &path)?;
                    archive.documents.insert(path, bytes);
                }
                Kind::File => {
                    let expected = path
                        .strip_prefix("blobs/sha256/")
                        .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
                    let wanted = expected.is_some()
                        || path.ends_with(".tar")
                        || (path.ends_with(".json") && !path.contains('/'));
                    if !wanted {
                        continue;
                    }
                    let mut writer = store.writer()?;
                    copy(&mut reader, &mut writer, &path)?;
                    archive.files.insert(path, writer.commit(expected)?);
                }
                _ => {}
            }
        }
        reader.finish()?;
        Ok(())
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Contents::Archive(archive)),
    }
}

fn copy<R: Read>(
    reader: &mut LayerReader<R>,
    out: &mut impl Write,
    path: &str,
) -> Result<(), crate::layer::LayerError> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let n = reader.read_content(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..n])
            .map_err(|e| crate::layer::LayerError::io("store", path.as_bytes(), e))?;
    }
}

/// What an archive is, found without keeping anything.
pub(super) fn detect(path: &Path, origin: &str, limits: Limits) -> Result<super::Format> {
    /// Directories that only the root of a system has.
    const ROOT: [&[u8]; 13] = [
        b"bin", b"sbin", b"lib", b"lib64", b"usr", b"etc", b"var", b"dev", b"proc", b"sys",
        b"root", b"home", b"tmp",
    ];
    let file = File::open(path).map_err(ArchiveError::io("open", origin))?;
    let stream = crate::layer::decompress(file).map_err(ArchiveError::io("read", origin))?;
    let mut reader = LayerReader::new(stream.take(limits.bytes), origin.to_owned());
    let (mut has_layout, mut has_index, mut has_manifest, mut entries) =
        (false, false, false, 0u64);
    while let Some(entry) = reader.next_entry()? {
        entries += 1;
        let path = clean(&entry.path, limits.path)
            .map_err(|problem| reader.entry_error(&entry.path, problem))?;
        let top = path.split(|b| *b == b'/').next().unwrap_or_default();
        if ROOT.contains(&top) && (entry.kind != Kind::File || path.len() > top.len()) {
            return Ok(super::Format::RootFs);
        }
        if entry.kind == Kind::File {
            has_layout |= path == b"oci-layout";
            has_index |= path == b"index.json";
            has_manifest |= path == b"manifest.json";
        }
    }
    match (has_layout && has_index, has_manifest, entries) {
        (true, _, _) => Ok(super::Format::Oci),
        (_, true, _) => Ok(super::Format::Docker),
        (_, _, 0) => Err(ArchiveError::NotAnImage {
            origin: origin.to_owned(),
        }),
        _ => Ok(super::Format::RootFs),
    }
}

/// Whether `dir` can be an image layout.
pub(super) fn open_layout(dir: &Path) -> Result<Contents> {
    if fs::symlink_metadata(dir.join("index.json")).is_err() {
        let origin = dir.display().to_string();
        return Err(ArchiveError::NotAnImage { origin });
    }
    Ok(Contents::Dir(dir.to_owned()))
}
