//! Archives that `ADD` unpacks: tar, plain or compressed by gzip, bzip2, xz or zstd.

use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use chalk_store::layer::{Target, UnpackOptions, decompress, unpack as unpack_layer};
use chalk_store::stack::Stack;

use super::source::{Source, words};
use crate::engine::embedded::owners::overlay_attrs;

const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const BLOCK: usize = 512;

type Stream = Box<dyn Read + Send>;

/// The tar stream in a file; `None` when it is no archive.
pub(super) fn open(file: Stream) -> Result<Option<Stream>, String> {
    let (head, file) = peek(file, XZ.len()).map_err(|e| format!("cannot read the archive: {e}"))?;
    let plain: Stream = if head.starts_with(BZIP2) {
        Box::new(bzip2::read::MultiBzDecoder::new(file))
    } else if head.starts_with(XZ) {
        Box::new(lzma_rust2::XzReader::new(BufReader::new(file), true))
    } else {
        match decompress(file) {
            Ok(stream) => Box::new(stream),
            Err(_) => return Ok(None),
        }
    };
    // What does not decompress is a file that only begins like an archive.
    let Ok((block, stream)) = peek(plain, BLOCK) else {
        return Ok(None);
    };
    Ok(is_tar(&block).then_some(stream))
}

fn peek(mut stream: Stream, length: usize) -> io::Result<(Vec<u8>, Stream)> {
    let mut head = Vec::with_capacity(length);
    Read::take(&mut stream, length as u64).read_to_end(&mut head)?;
    let whole: Stream = Box::new(Cursor::new(head.clone()).chain(stream));
    Ok((head, whole))
}

/// Whether a block is a tar header: its checksum tells (POSIX.1-1988 `tar` format).
fn is_tar(block: &[u8]) -> bool {
    if block.len() < BLOCK {
        return false;
    }
    let field = String::from_utf8_lossy(&block[148..156]);
    let digits = field.trim_matches(|c: char| c == '\0' || c == ' ');
    let Ok(told) = u32::from_str_radix(digits, 8) else {
        return false;
    };
    let sum = |byte: fn(u8) -> i64| -> i64 {
        let counted = block.iter().enumerate();
        counted
            .map(|(i, b)| byte(if (148..156).contains(&i) { b' ' } else { *b }))
            .sum()
    };
    // Old archives added the bytes up as signed numbers.
    let told = i64::from(told);
    told == sum(i64::from) || told == sum(|b| i64::from(b.cast_signed()))
}

/// Unpacks a stream into an empty directory, safely whatever is in it.
pub(super) fn unpack(stream: Stream, dir: &Path) -> Result<(), String> {
    let options = UnpackOptions {
        target: Target::Root,
        keep_owner: true,
        ..UnpackOptions::default()
    };
    unpack_layer(stream, "archive", dir, &options)
        .map(drop)
        .map_err(|e| words(&e))
}

/// What was unpacked, as a source.
pub(super) fn source(dir: &Path) -> Result<Source, String> {
    let stack = Stack::open([dir], overlay_attrs()).map_err(|e| words(&e))?;
    Ok(Source::Layers(stack))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn tells_archives_from_other_files() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, "f", &b"hi"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let mut bz2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bz2.write_all(&tar).unwrap();
        let check = |bytes: &[u8], expect: bool| {
            let found = open(Box::new(Cursor::new(bytes.to_vec()))).unwrap();
            assert_eq!(found.is_some(), expect);
            if let Some(stream) = found {
                let dir = tempfile::tempdir().unwrap();
                unpack(stream, dir.path()).unwrap();
                assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"hi");
            }
        };
        check(&tar, true);
        check(&bz2.finish().unwrap(), true);
        check(b"", false);
        check(b"#!/bin/sh\n", false);
        check(b"BZh is how this text begins", false);
        check(&[0x1f, 0x8b, 0, 0, 0], false);
        check(&[0; 2048], false);
    }
}
