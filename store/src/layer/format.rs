//! Writing tar headers: POSIX ustar, with PAX extended headers where ustar cannot say it
//! (IEEE Std 1003.1, `pax`).

use std::collections::BTreeMap;
use std::io::{self, Write};

pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Char => b'3',
            Self::Block => b'4',
            Self::Dir => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// One entry's header, from or for any dialect of tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    /// Raw bytes, without a trailing slash.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission, setuid, setgid and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of content.
    pub(crate) size: u64,
    /// Seconds since 1970.
    pub(crate) mtime: i64,
    /// Target of a symbolic or hard link.
    pub(crate) link: Vec<u8>,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl EntryHeader {
    pub(crate) fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: BTreeMap::new(),
        }
    }
}

/// Writes the header of an entry; its content and [`write_padding`] must follow.
pub(crate) fn write_header(out: &mut impl Write, entry: &EntryHeader) -> io::Result<()> {
    let mut pax = Vec::new();
    let mut block = [0u8; BLOCK];

    let mut path = entry.path.clone();
    if entry.kind == Kind::Dir {
        path.push(b'/');
    }
    match split_path(&path) {
        Some((prefix, name)) => {
            block[..name.len()].copy_from_slice(name);
            block[345..345 + prefix.len()].copy_from_slice(prefix);
        }
        None => {
            push_record(&mut pax, b"path", &path);
            // For readers without PAX; they get a short name instead of none.
            let tail = &path[..100];
            block[..100].copy_from_slice(tail);
        }
    }
    if entry.link.len() <= 100 {
        block[157..157 + entry.link.len()].copy_from_slice(&entry.link);
    } else {
        push_record(&mut pax, b"linkpath", &entry.link);
        block[157..257].copy_from_slice(&entry.link[..100]);
    }
    let size = if entry.kind == Kind::File {
        entry.size
    } else {
        0
    };
    let fields: [(&[u8], std::ops::Range<usize>, i64); 4] = [
        (b"uid", 108..116, i64::from(entry.uid)),
        (b"gid", 116..124, i64::from(entry.gid)),
        (
            b"size",
            124..136,
            i64::try_from(size).map_err(io::Error::other)?,
        ),
        (b"mtime", 136..148, entry.mtime),
    ];
    for (key, range, value) in fields {
        if !put_octal(&mut block[range.clone()], value) {
            put_octal(&mut block[range], 0);
            push_record(&mut pax, key, value.to_string().as_bytes());
        }
    }
    put_octal(&mut block[100..108], i64::from(entry.mode & 0o7777));
    put_octal(&mut block[329..337], i64::from(entry.device.0));
    put_octal(&mut block[337..345], i64::from(entry.device.1));
    block[156] = entry.kind.flag();
    block[257..265].copy_from_slice(b"ustar\x0000");

    for (name, value) in &entry.xattrs {
        let key = [b"SCHILY.xattr.".as_slice(), name].concat();
        push_record(&mut pax, &key, value);
    }
    if !pax.is_empty() {
        let mut extension = [0u8; BLOCK];
        extension[..11].copy_from_slice(b"PaxHeaders/");
        put_octal(&mut extension[100..108], 0o644);
        put_octal(&mut extension[108..116], 0);
        put_octal(&mut extension[116..124], 0);
        put_octal(
            &mut extension[124..136],
            i64::try_from(pax.len()).map_err(io::Error::other)?,
        );
        put_octal(&mut extension[136..148], 0);
        extension[156] = b'x';
        extension[257..265].copy_from_slice(b"ustar\x0000");
        put_checksum(&mut extension);
        out.write_all(&extension)?;
        out.write_all(&pax)?;
        write_padding(out, pax.len() as u64)?;
    }
    put_checksum(&mut block);
    out.write_all(&block)
}

/// Fills up to a whole block after `size` bytes of content.
pub(crate) fn write_padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 {
        return Ok(());
    }
    out.write_all(&[0; BLOCK][over..])
}

/// The two zero blocks that end an archive.
pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// Splits a path into ustar's prefix and name, if it fits.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The slash between them is not stored; the name must not be empty.
    let end = path.len().saturating_sub(1).min(156);
    let slash = path[..end].iter().rposition(|b| *b == b'/')?;
    let (prefix, name) = (&path[..slash], &path[slash + 1..]);
    (!prefix.is_empty() && prefix.len() <= 155 && name.len() <= 100).then_some((prefix, name))
}

/// Writes zero-padded octal digits and a NUL; `false` when the number does not fit.
fn put_octal(field: &mut [u8], value: i64) -> bool {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    if value < 0 || text.len() > digits {
        return false;
    }
    field[..digits].copy_from_slice(text.as_bytes());
    true
}

fn put_checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
fn push_record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(length.to_string().as_bytes());
    pax.push(b' ');
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_length_counts_itself() {
        for (size, expect) in [
            (1, "6 k="),
            (85, "91 k="),
            (92, "98 k="),
            (93, "99 k="),
            (94, "101 k="),
        ] {
            let mut pax = Vec::new();
            push_record(&mut pax, b"k", &vec![b'v'; size]);
            assert!(
                pax.starts_with(expect.as_bytes()),
                "{size}: {}",
                pax.escape_ascii()
            );
            let length = pax.split(|b| *b == b' ').next().unwrap();
            assert_eq!(length, pax.len().to_string().as_bytes());
        }
    }

    #[test]
    fn paths_split_at_a_slash() {
        let long = "d".repeat(90);
        for (path, expect) in [
            ("a/b".to_owned(), Some(("", "a/b"))),
            (format!("{long}/{long}"), Some((&*long, &*long))),
            (
                format!("{long}/{long}/"),
                Some((&*long, &*format!("{long}/"))),
            ),
            ("n".repeat(101), None),
            (format!("{long}/{}", "n".repeat(101)), None),
            (format!("{}/x", "p".repeat(156)), None),
        ] {
            let expect = expect.map(|(p, n)| (p.as_bytes(), n.as_bytes()));
            assert_eq!(split_path(path.as_bytes()), expect, "{path}");
        }
    }
}
