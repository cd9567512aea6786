//! Structures of the on-disk format (Linux: `fs/erofs/erofs_fs.h`,
//! `Documentation/filesystems/erofs.rst`). All numbers are little endian.

use std::collections::BTreeMap;

use crate::layer::EntryProblem;

/// Bytes of a block, and its binary logarithm.
pub(super) const BLOCK: usize = 4096;
pub(super) const BLOCK_BITS: u8 = 12;
/// Inodes are addressed in units of this many bytes.
pub(super) const SLOT: u64 = 32;
/// Bytes of an extended inode, and where in it the number of links stands.
pub(super) const INODE: usize = 64;
pub(super) const NLINK_AT: u64 = 44;
/// Where the superblock stands, and where the space behind it begins.
pub(super) const SUPER: usize = 1024;
pub(super) const BEHIND_SUPER: usize = SUPER + 128;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT: usize = 12;
/// Most bytes of all attributes of a file: `i_xattr_icount` has 16 bits.
const MAX_ATTRS: usize = 12 + 4 * 65_534;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;

/// Where the content of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All of it in blocks one after the other.
    Plain = 0,
    /// As `Plain`, but what is left after the last whole block follows the inode.
    Inline = 2,
}

/// Kinds of files, by their numbers in a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Regular = 1,
    Dir = 2,
    Char = 3,
    Block = 4,
    Fifo = 5,
    Symlink = 7,
}

impl FileKind {
    fn mode(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Symlink => 0o120_000,
        }
    }
}

/// An inode of the extended kind; the compact one has no time of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    pub(super) kind: FileKind,
    /// Permission, setuid, setgid and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) layout: Layout,
    /// First block of the content, or the number of a device.
    pub(super) place: u32,
    /// For systems whose inode numbers have 32 bits.
    pub(super) number: u32,
}

impl Inode {
    /// The inode with its attributes (from [`attrs`]), to be followed by an inline tail.
    pub(super) fn encode(&self, attrs: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(INODE + attrs.len());
        let format = 1u16 | (self.layout as u16) << 1;
        let count = match attrs.len() {
            0 => 0,
            n => ((n - 12) / 4 + 1) as u16,
        };
        for half in [
            format,
            count,
            self.kind.mode() | (self.mode & 0o7777) as u16,
            0,
        ] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        out.extend_from_slice(&self.size.to_le_bytes());
        for word in [self.place, self.number, self.uid, self.gid] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.mtime.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.links.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(attrs);
        out
    }
}

/// `new_encode_dev` of the kernel; `None` for numbers that Linux does not have.
pub(super) fn device_number((major, minor): (u32, u32)) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20)
        .then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// The attributes of a file, as they stand behind its inode; empty when there are none.
pub(super) fn attrs(attrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>, EntryProblem> {
    if attrs.is_empty() {
        return Ok(Vec::new());
    }
    // No name filter, none shared, seven reserved bytes.
    let mut out = vec![0; 12];
    for (name, value) in attrs {
        push_attr(&mut out, name, value)?;
    }
    if out.len() > MAX_ATTRS {
        return Err(EntryProblem::Header(
            "more than 256 KiB of extended attributes",
        ));
    }
    Ok(out)
}

/// Appends one attribute.
pub(super) fn push_attr(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), EntryProblem> {
    let spaces: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
    let found = spaces
        .iter()
        .find_map(|(space, number)| Some((name.strip_prefix(*space)?, *number)));
    let sound = name.len() <= 255 && !name.contains(&0);
    let (Some((rest, number)), true) = (found.filter(|(rest, _)| !rest.is_empty()), sound) else {
        return Err(EntryProblem::Header("name of an extended attribute"));
    };
    let Ok(size) = u16::try_from(value.len()) else {
        return Err(EntryProblem::Header(
            "an extended attribute of more than 65535 bytes",
        ));
    };
    out.push(rest.len() as u8);
    out.push(number);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(rest);
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Super {
    /// Number of the root's inode.
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// First block of shared attributes.
    pub(super) attrs: u32,
}

impl Super {
    /// Writes the superblock into the image's first block, whose other bytes are final.
    pub(super) fn put(&self, block: &mut [u8; BLOCK]) {
        let mut put = |at: usize, bytes: &[u8]| {
            block[SUPER + at..SUPER + at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS, 0]);
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(44, &self.attrs.to_le_bytes());
        let sum = crc32c(&block[SUPER..]);
        block[SUPER + 4..SUPER + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// CRC-32C as the kernel's `crc32c(~0, ..)`: without the inversion at the end. One block a layer,
/// so bit by bit is fast enough.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum() {
        // The check value of CRC-32C (RFC 3720, appendix B.4, and every catalogue of CRCs).
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn device_numbers() {
        for (device, expect) in [
            ((1, 3), Some(0x103)),
            ((0, 0), Some(0)),
            ((259, 0x12345), Some(0x1231_0345)),
            ((4095, 0xfffff), Some(0xffff_ffff)),
            ((4096, 0), None),
            ((0, 1 << 20), None),
        ] {
            assert_eq!(device_number(device), expect, "{device:?}");
        }
    }

    #[test]
    fn attributes() {
        let check = |name: &[u8], size: usize, fine: bool| {
            let one = BTreeMap::from([(name.to_vec(), vec![7; size])]);
            let got = attrs(&one);
            assert_eq!(got.is_ok(), fine, "{}", name.escape_ascii());
            assert!(got.is_err() || got.is_ok_and(|a| a.len() % 4 == 0));
        };
        check(b"user.a", 0, true);
        check(b"security.capability", 20, true);
        check(b"trusted.overlay.opaque", 1, true);
        check(&[b"user.".as_slice(), &[b'n'; 250]].concat(), 65_535, true);
        check(&[b"user.".as_slice(), &[b'n'; 251]].concat(), 1, false);
        check(b"user.a", 65_536, false);
        check(b"user.", 1, false);
        check(b"user.a\0b", 1, false);
        check(b"system.posix_acl_access", 1, false);
        let many = |n: u32| {
            let each = |i: u32| (format!("user.{i}").into_bytes(), vec![0; 60_000]);
            attrs(&(0..n).map(each).collect())
        };
        assert!(many(4).is_ok());
        assert!(many(5).is_err());
    }
}
