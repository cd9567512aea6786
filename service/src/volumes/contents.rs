//! From what a commit says of a file's contents to a blob that is verified and durable.

use std::io::{Read, Seek as _, SeekFrom, Write as _};

use bytes::Bytes;
use chalk_core::Digest;
use chalk_store::BlobStore;

use super::error::{Result, VolumeError};
use super::hash::{ContentHash, ContentHasher};
use super::manifest::{Chunk, FileContents};
use super::objects::Objects;

/// Contents up to this size pass through memory, and are written only if they are new.
const SMALL: u64 = 1 << 20;
/// Bytes that are copied at once.
const BUFFER: usize = 256 * 1024;
/// Most chunks of a file.
const CHUNK_LIMIT: usize = 100_000;

/// Where the contents of a file are, as a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nowhere: there are none.
    Empty,
    /// In the commit itself.
    Inline {
        /// The bytes.
        data: Bytes,
        /// Their hash, if the client knows it.
        hash: Option<ContentHash>,
    },
    /// In objects of their own, one behind the other.
    Chunked {
        /// Hash of the whole.
        hash: ContentHash,
        /// Size of the whole.
        size: u64,
        /// The pieces.
        chunks: Vec<Piece>,
    },
    /// In an object that holds many.
    Packed {
        /// Hash of the file.
        hash: ContentHash,
        /// Size of the file.
        size: u64,
        /// The object.
        object: ContentHash,
        /// Where in the object the file begins.
        offset: u64,
    },
}

/// An object that is a piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The object.
    pub(crate) object: ContentHash,
    /// Its size.
    pub(crate) size: u64,
    /// Where in the file it belongs.
    pub(crate) offset: u64,
}

/// Puts contents into the blob store. Blocks.
pub(super) fn keep(
    blobs: &BlobStore,
    objects: &Objects,
    contents: &Contents,
) -> Result<FileContents> {
    match contents {
        Contents::Empty => keep_small(blobs, b"", None),
        Contents::Inline { data, hash } => keep_small(blobs, data, *hash),
        Contents::Packed {
            hash,
            size,
            object,
            offset,
        } => {
            let mut pack = objects.open_object(object)?;
            let length = pack.metadata().map_err(VolumeError::io("inspect"))?.len();
            if offset.checked_add(*size).is_none_or(|end| end > length) {
                return Err(VolumeError::Invalid(format!(
                    "pack {object} has {length} bytes: {size} at {offset} are not in it"
                )));
            }
            pack.seek(SeekFrom::Start(*offset))
                .map_err(VolumeError::io("read"))?;
            if *size > SMALL {
                return copy(blobs, *hash, *size, &[*size], |_| {
                    Ok(Box::new(pack.try_clone().map_err(VolumeError::io("read"))?))
                });
            }
            let mut bytes = Vec::new();
            pack.take(*size)
                .read_to_end(&mut bytes)
                .map_err(VolumeError::io("read"))?;
            keep_small(blobs, &bytes, Some(*hash))
        }
        Contents::Chunked { hash, size, chunks } => {
            let chunks = in_order(chunks, *size)?;
            let sizes: Vec<u64> = chunks.iter().map(|chunk| chunk.size).collect();
            let mut kept = copy(blobs, *hash, *size, &sizes, |at| {
                Ok(Box::new(objects.open_object(&chunks[at].object)?))
            })?;
            for chunk in &chunks {
                objects.spend(&chunk.object);
            }
            if chunks.len() > 1 {
                let chunk = |piece: &Piece| Chunk {
                    hash: piece.object,
                    size: piece.size,
                };
                kept.chunks = chunks.iter().map(chunk).collect();
            }
            Ok(kept)
        }
    }
}

/// Pieces by offset, without gaps and overlaps, that make up the whole.
fn in_order(chunks: &[Piece], size: u64) -> Result<Vec<Piece>> {
    if chunks.len() > CHUNK_LIMIT {
        return Err(VolumeError::TooMany {
            what: "chunks of a file",
            found: chunks.len() as u64,
            limit: CHUNK_LIMIT as u64,
        });
    }
    let mut chunks = chunks.to_vec();
    chunks.sort_by_key(|chunk| chunk.offset);
    let mut end = 0_u64;
    for chunk in &chunks {
        if chunk.offset != end {
            let at = chunk.offset;
            return Err(VolumeError::Invalid(format!(
                "a chunk begins at byte {at}, the one before it ends at {end}"
            )));
        }
        end = end.saturating_add(chunk.size);
    }
    if end != size {
        return Err(VolumeError::Invalid(format!(
            "the chunks have {end} bytes together, the file {size}"
        )));
    }
    Ok(chunks)
}

fn keep_small(
    blobs: &BlobStore,
    bytes: &[u8],
    expected: Option<ContentHash>,
) -> Result<FileContents> {
    let hash = ContentHash::of(bytes);
    let size = bytes.len() as u64;
    if let Some(expected) = expected.filter(|expected| *expected != hash) {
        return Err(VolumeError::Mismatch {
            expected,
            expected_size: size,
            actual: hash,
            actual_size: size,
        });
    }
    let blob = blobs.put(bytes)?;
    Ok(FileContents {
        digest: blob.digest,
        hash,
        size,
        chunks: Vec::new(),
    })
}

/// Copies pieces of these sizes into one blob, and checks the hash of the whole.
fn copy(
    blobs: &BlobStore,
    expected: ContentHash,
    expected_size: u64,
    sizes: &[u64],
    open: impl Fn(usize) -> Result<Box<dyn Read>>,
) -> Result<FileContents> {
    let mut writer = blobs.writer()?;
    let mut hasher = ContentHasher::default();
    let mut buffer = vec![0; BUFFER];
    for (at, size) in sizes.iter().enumerate() {
        let mut piece = open(at)?.take(*size);
        loop {
            let n = piece.read(&mut buffer).map_err(VolumeError::io("read"))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            writer
                .write_all(&buffer[..n])
                .map_err(VolumeError::io("copy"))?;
        }
    }
    let (actual, actual_size) = (hasher.finish(), writer.written());
    if actual != expected || actual_size != expected_size {
        return Err(VolumeError::Mismatch {
            expected,
            expected_size,
            actual,
            actual_size,
        });
    }
    let digest: Digest = writer.commit(None)?.digest;
    Ok(FileContents {
        digest,
        hash: expected,
        size: expected_size,
        chunks: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        blobs: BlobStore,
        objects: Objects,
        _dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self {
                blobs: BlobStore::open(dir.path().join("store")).unwrap(),
                objects: Objects::open(dir.path().join("objects")).unwrap(),
                _dir: dir,
            }
        }

        fn upload(&self, bytes: &[u8]) -> ContentHash {
            let hash = ContentHash::of(bytes);
            let mut writer = self.objects.writer().unwrap();
            writer.write_all(bytes).unwrap();
            writer.commit(hash, bytes.len() as u64).unwrap();
            hash
        }

        fn keep(&self, contents: &Contents) -> Result<FileContents> {
            keep(&self.blobs, &self.objects, contents)
        }

        fn check(&self, contents: &Contents, expect: &[u8]) -> FileContents {
            let kept = self.keep(contents).unwrap();
            assert_eq!(kept.digest, Digest::of(expect));
            assert_eq!(kept.hash, ContentHash::of(expect));
            assert_eq!(kept.size, expect.len() as u64);
            let read = self.blobs.read_small(kept.digest, u64::MAX).unwrap();
            assert_eq!(read, expect);
            kept
        }
    }

    #[test]
    fn contents_become_blobs() {
        let place = Place::new();
        place.check(&Contents::Empty, b"");
        let data = Bytes::from_static(b"inline");
        let hash = Some(ContentHash::of(&data));
        for hash in [hash, None] {
            let data = data.clone();
            place.check(&Contents::Inline { data, hash }, b"inline");
        }
        let big = vec![7; 3 << 20];
        let pack = place.upload(&[b"header".as_slice(), b"one", &big].concat());
        let packed = |bytes: &[u8], offset| Contents::Packed {
            hash: ContentHash::of(bytes),
            size: bytes.len() as u64,
            object: pack,
            offset,
        };
        place.check(&packed(b"one", 6), b"one");
        place.check(&packed(&big, 9), &big);

        let piece = |bytes: &[u8], offset| Piece {
            object: place.upload(bytes),
            size: bytes.len() as u64,
            offset,
        };
        let chunked = Contents::Chunked {
            hash: ContentHash::of(b"firstsecond"),
            size: 11,
            chunks: vec![piece(b"second", 5), piece(b"first", 0)],
        };
        let kept = place.check(&chunked, b"firstsecond");
        let sizes: Vec<u64> = kept.chunks.iter().map(|chunk| chunk.size).collect();
        assert_eq!(sizes, [5, 6]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let place = Place::new();
        let object = place.upload(b"0123456789");
        let hash = ContentHash::of(b"0123");
        let packed = |size, offset| Contents::Packed {
            hash,
            size,
            object,
            offset,
        };
        assert!(place.keep(&packed(4, 0)).is_ok());
        assert!(matches!(
            place.keep(&packed(4, 1)),
            Err(VolumeError::Mismatch { .. })
        ));
        assert!(matches!(
            place.keep(&packed(4, 7)),
            Err(VolumeError::Invalid(_))
        ));
        assert!(matches!(
            place.keep(&packed(4, u64::MAX)),
            Err(VolumeError::Invalid(_))
        ));
        let chunked = |size, pieces: &[(u64, u64)]| Contents::Chunked {
            hash,
            size,
            chunks: pieces
                .iter()
                .map(|&(size, offset)| Piece {
                    object,
                    size,
                    offset,
                })
                .collect(),
        };
        assert!(place.keep(&chunked(4, &[(4, 0)])).is_ok());
        for (size, pieces) in [
            (4, [(2, 0), (2, 3)]),
            (4, [(3, 0), (1, 2)]),
            (5, [(2, 0), (2, 2)]),
            (4, [(2, 0), (u64::MAX, 2)]),
        ] {
            let refused = place.keep(&chunked(size, &pieces));
            assert!(
                matches!(refused, Err(VolumeError::Invalid(_))),
                "{pieces:?}"
            );
        }
        let mismatch = place.keep(&chunked(20, &[(10, 0), (10, 10)]));
        assert!(matches!(mismatch, Err(VolumeError::Mismatch { .. })));
        let absent = Contents::Packed {
            hash,
            size: 4,
            object: hash,
            offset: 0,
        };
        assert!(matches!(place.keep(&absent), Err(VolumeError::NoObject(_))));
        let wrong = Contents::Inline {
            data: Bytes::from_static(b"x"),
            hash: Some(hash),
        };
        assert!(matches!(
            place.keep(&wrong),
            Err(VolumeError::Mismatch { .. })
        ));
        assert!(place.keep(&chunked(0, &[])).is_err());
    }
}
