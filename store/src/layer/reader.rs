//! Reading tar streams of every common dialect (v7, ustar, PAX, GNU, sparse files of both), with
//! limits on all that a header can claim.

use std::io::Read;

use super::format::{BLOCK, EntryHeader, Kind};
use super::{EntryProblem, LayerError, Result};

/// Most bytes of one extension header (PAX records, GNU long name), as Go's `archive/tar` has it.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most pieces of one sparse file.
const MAX_SPARSE: usize = 1 << 16;

/// Entries of a tar stream, one after the other. The content of the last entry given is what
/// [`Read`] of this reader gives; what is left unread is skipped.
pub(crate) struct LayerReader<R> {
    source: R,
    layer: String,
    /// Bytes of the stream consumed.
    offset: u64,
    /// Bytes of the current entry's stored content not yet consumed.
    stored: u64,
    padding: u64,
    /// Current entry's logical position and size, and its pieces when sparse.
    position: u64,
    size: u64,
    sparse: Option<Sparse>,
}

struct Sparse {
    /// Offset and length of each piece, in order.
    pieces: Vec<(u64, u64)>,
    next: usize,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> LayerReader<R> {
    /// Reads `source`; `layer` is its name in errors.
    pub(crate) fn new(source: R, layer: impl Into<String>) -> Self {
        Self {
            source,
            layer: layer.into(),
            offset: 0,
            stored: 0,
            padding: 0,
            position: 0,
            size: 0,
            sparse: None,
        }
    }

    pub(crate) fn layer(&self) -> &str {
        &self.layer
    }

    pub(crate) fn entry_error(&self, path: &[u8], problem: EntryProblem) -> LayerError {
        LayerError::Entry {
            layer: self.layer.clone(),
            entry: path.escape_ascii().to_string(),
            problem,
        }
    }

    pub(crate) fn read_error(&self, source: std::io::Error) -> LayerError {
        // Verification and limits speak for themselves.
        match source.downcast::<LayerError>() {
            Ok(inner) => inner,
            Err(source) => match source.downcast::<crate::BlobError>() {
                Ok(inner) => inner.into(),
                Err(source) => LayerError::Read {
                    layer: self.layer.clone(),
                    source,
                },
            },
        }
    }

    fn format_error(&self, problem: &'static str) -> LayerError {
        LayerError::Format {
            layer: self.layer.clone(),
            problem,
            offset: self.offset,
        }
    }

    /// The next entry, `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<EntryHeader>> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(block) = self.read_block()? else {
                return Ok(None);
            };
            if block.iter().all(|b| *b == 0) {
                return Ok(None);
            }
            if !checksum_holds(&block) {
                return Err(self.format_error("a header's checksum does not hold"));
            }
            let size = number(&block[124..136])
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| self.format_error("a size cannot be read"))?;
            match block[156] {
                b'x' | b'X' => {
                    let bytes = self.read_extension(size)?;
                    extensions.records = parse_records(&bytes)
                        .ok_or_else(|| self.format_error("a PAX record cannot be read"))?;
                }
                // Global records are notes of whoever made the archive (git's commit id).
                b'g' | b'V' => {
                    self.read_extension(size)?;
                }
                b'L' => extensions.path = Some(until_nul(&self.read_extension(size)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.read_extension(size)?).to_vec()),
                _ => return self.entry(&block, size, extensions).map(Some),
            }
        }
    }

    /// Reads what follows the archive's end, so that a digest over the stream can be checked.
    pub(crate) fn finish(mut self) -> Result<R> {
        self.skip_rest()?;
        std::io::copy(&mut self.source, &mut std::io::sink()).map_err(|e| self.read_error(e))?;
        Ok(self.source)
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        mut stored: u64,
        extensions: Extensions,
    ) -> Result<EntryHeader> {
        let is_posix = &block[257..263] == b"ustar\0";
        let is_gnu = &block[257..265] == b"ustar  \0";
        let mut path = Vec::new();
        if is_posix {
            let prefix = until_nul(&block[345..500]);
            if !prefix.is_empty() {
                path.extend_from_slice(prefix);
                path.push(b'/');
            }
        }
        path.extend_from_slice(until_nul(&block[..100]));
        if let Some(long) = extensions.path {
            path = long;
        }
        let mut header = EntryHeader::new(path, Kind::File);
        header.link = extensions
            .link
            .unwrap_or_else(|| until_nul(&block[157..257]).to_vec());

        let field = |range: std::ops::Range<usize>| number(&block[range]);
        let broken = |this: &Self, header: &EntryHeader, what| {
            this.entry_error(&header.path, EntryProblem::Header(what))
        };
        let id = |n: Option<i128>| n.and_then(|n| u32::try_from(n).ok());
        let (mut uid, mut gid) = (id(field(108..116)), id(field(116..124)));
        let mut mtime = field(136..148).and_then(|n| i64::try_from(n).ok());
        header.mode = field(100..108)
            .map(|n| (n & 0o7777) as u32)
            .ok_or_else(|| broken(self, &header, "mode"))?;

        let mut sparse = PaxSparse::default();
        for (key, value) in extensions.records {
            let text = || std::str::from_utf8(&value).ok();
            match key.as_slice() {
                b"path" => header.path = value,
                b"linkpath" => header.link = value,
                b"size" => {
                    stored = text()
                        .and_then(|t| t.parse().ok())
                        .ok_or_else(|| broken(self, &header, "PAX size"))?;
                }
                b"uid" => uid = text().and_then(|t| t.parse().ok()),
                b"gid" => gid = text().and_then(|t| t.parse().ok()),
                b"mtime" => mtime = text().and_then(whole_seconds),
                key if key.starts_with(b"SCHILY.xattr.") => {
                    header.xattrs.insert(key[13..].to_vec(), value);
                }
                key if key.starts_with(b"GNU.sparse.") => sparse
                    .record(&key[11..], &value)
                    .ok_or_else(|| broken(self, &header, "sparse record"))?,
                _ => {}
            }
        }
        header.uid = uid.ok_or_else(|| broken(self, &header, "uid"))?;
        header.gid = gid.ok_or_else(|| broken(self, &header, "gid"))?;
        header.mtime = mtime.ok_or_else(|| broken(self, &header, "mtime"))?;

        let flag = block[156];
        header.kind = match flag {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if header.path.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => {
                let flag = other.escape_ascii().to_string();
                return Err(self.entry_error(&header.path, EntryProblem::Type(flag)));
            }
        };
        if matches!(header.kind, Kind::Char | Kind::Block) {
            let numbers = (id(field(329..337)), id(field(337..345)));
            let (Some(major), Some(minor)) = numbers else {
                return Err(broken(self, &header, "device number"));
            };
            header.device = (major, minor);
        }
        // Links, devices and directories have no content, whatever their header says (old programs
        // repeat the file's size in a hard link).
        if header.kind != Kind::File {
            stored = 0;
        }
        self.stored = stored;
        self.padding = (BLOCK as u64 - stored % BLOCK as u64) % BLOCK as u64;
        self.position = 0;
        self.size = stored;
        self.sparse = None;

        let pieces = if flag == b'S' && is_gnu {
            let real = field(483..495)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| broken(self, &header, "sparse size"))?;
            Some((self.gnu_pieces(block, &header)?, real))
        } else if sparse.found && header.kind == Kind::File {
            if let Some(name) = sparse.name.take() {
                header.path = name;
            }
            let real = sparse.size.unwrap_or(stored);
            if sparse.in_content {
                sparse.pieces = self.leading_pieces(&header)?;
            }
            Some((sparse.pieces, real))
        } else {
            None
        };
        if let Some((pieces, real)) = pieces {
            let mut end = 0;
            let mut total = 0u64;
            for (offset, length) in &pieces {
                let sound =
                    *offset >= end && offset.checked_add(*length).is_some_and(|e| e <= real);
                if !sound {
                    return Err(broken(self, &header, "sparse map"));
                }
                end = offset + length;
                total += length;
            }
            if total > self.stored {
                return Err(broken(self, &header, "sparse map"));
            }
            self.size = real;
            self.sparse = Some(Sparse { pieces, next: 0 });
        }
        header.size = self.size;
        while header.path.len() > 1 && header.path.ends_with(b"/") {
            header.path.pop();
        }
        Ok(header)
    }

    /// The old GNU sparse map: four pieces in the header, more in blocks after it.
    fn gnu_pieces(&mut self, block: &[u8; BLOCK], header: &EntryHeader) -> Result<Vec<(u64, u64)>> {
        let mut pieces = Vec::new();
        let mut take = |bytes: &[u8]| -> Option<()> {
            for piece in bytes.chunks_exact(24) {
                if piece[0] == 0 {
                    break;
                }
                let offset = u64::try_from(number(&piece[..12])?).ok()?;
                let length = u64::try_from(number(&piece[12..])?).ok()?;
                pieces.push((offset, length));
            }
            (pieces.len() <= MAX_SPARSE).then_some(())
        };
        let bad = |this: &Self| this.entry_error(&header.path, EntryProblem::Header("sparse map"));
        take(&block[386..482]).ok_or_else(|| bad(self))?;
        let mut more = block[482] != 0;
        while more {
            let Some(next) = self.read_block()? else {
                return Err(self.format_error("the archive ends within a sparse map"));
            };
            take(&next[..504]).ok_or_else(|| bad(self))?;
            more = next[504] != 0;
        }
        Ok(pieces)
    }

    /// The map of PAX sparse format 1.0: decimal lines at the head of the content.
    fn leading_pieces(&mut self, header: &EntryHeader) -> Result<Vec<(u64, u64)>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        let mut digits = String::new();
        while numbers.len() < wanted {
            if self.stored < BLOCK as u64 {
                return Err(self.entry_error(&header.path, EntryProblem::Header("sparse map")));
            }
            let Some(block) = self.read_block()? else {
                return Err(self.format_error("the archive ends within a sparse map"));
            };
            self.stored -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    digits.push(char::from(byte));
                    continue;
                }
                let number = digits.parse::<u64>().ok();
                digits.clear();
                let count = numbers.first().copied();
                match (number, count) {
                    (Some(n), None) if n <= MAX_SPARSE as u64 => wanted = 1 + 2 * n as usize,
                    (Some(_), Some(_)) => {}
                    _ => {
                        let problem = EntryProblem::Header("sparse map");
                        return Err(self.entry_error(&header.path, problem));
                    }
                }
                numbers.extend(number);
                if numbers.len() == wanted {
                    break;
                }
            }
        }
        let pairs = numbers[1..].chunks_exact(2);
        Ok(pairs.map(|pair| (pair[0], pair[1])).collect())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(LayerError::Limit {
                layer: self.layer.clone(),
                what: "bytes in one extension header",
                limit: MAX_EXTENSION,
            });
        }
        let padded = size.next_multiple_of(BLOCK as u64);
        let mut bytes = vec![0; padded as usize];
        self.fill(&mut bytes)?;
        bytes.truncate(size as usize);
        Ok(bytes)
    }

    /// The next block; `None` when the stream ends before its first byte.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.format_error("the archive ends within a block")),
                Ok(n) => {
                    filled += n;
                    self.offset += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_error(e)),
            }
        }
        Ok(Some(block))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        match self.source.read_exact(bytes) {
            Ok(()) => {
                self.offset += bytes.len() as u64;
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.format_error("the archive ends within an entry"))
            }
            Err(e) => Err(self.read_error(e)),
        }
    }

    fn skip_rest(&mut self) -> Result<()> {
        let mut left = self.stored + self.padding;
        let mut scratch = [0; 16 * 1024];
        while left > 0 {
            let n = left.min(scratch.len() as u64) as usize;
            self.fill(&mut scratch[..n])?;
            left -= n as u64;
        }
        (self.stored, self.padding, self.size, self.position) = (0, 0, 0, 0);
        self.sparse = None;
        Ok(())
    }

    /// Passes over the hole that the current entry's content goes on with, or `most` bytes of it,
    /// and gives its length; 0 where no hole is.
    pub(crate) fn skip_hole(&mut self, most: u64) -> u64 {
        let n = self.hole().min(most);
        self.position += n;
        n
    }

    /// Bytes of the hole at the position in the current entry.
    fn hole(&mut self) -> u64 {
        let Some(sparse) = &mut self.sparse else {
            return 0;
        };
        while let Some((offset, length)) = sparse.pieces.get(sparse.next) {
            if self.position < offset + length {
                return offset.saturating_sub(self.position);
            }
            sparse.next += 1;
        }
        self.size - self.position
    }

    /// Content of the current entry, holes as zeros; 0 at its end.
    pub(crate) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.position >= self.size {
            return Ok(0);
        }
        let mut n = (self.size - self.position).min(buffer.len() as u64);
        let hole = self.hole();
        if hole > 0 {
            let n = n.min(hole) as usize;
            buffer[..n].fill(0);
            self.position += n as u64;
            return Ok(n);
        }
        if let Some(sparse) = &self.sparse
            && let Some((offset, length)) = sparse.pieces.get(sparse.next)
        {
            n = n.min(offset + length - self.position);
        }
        let n = n as usize;
        let got = match self.source.read(&mut buffer[..n]) {
            Ok(0) => return Err(self.format_error("the archive ends within an entry")),
            Ok(got) => got,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                return self.read_content(buffer);
            }
            Err(e) => return Err(self.read_error(e)),
        };
        self.offset += got as u64;
        self.stored -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}

/// `GNU.sparse.*` records of PAX formats 0.0, 0.1 and 1.0.
#[derive(Default)]
struct PaxSparse {
    found: bool,
    in_content: bool,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    pieces: Vec<(u64, u64)>,
}

impl PaxSparse {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.found = true;
        let text = || std::str::from_utf8(value).ok();
        let number = || text()?.parse::<u64>().ok();
        match key {
            b"major" => self.in_content = number()? == 1,
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.size = Some(number()?),
            b"offset" => self.pieces.push((number()?, 0)),
            b"numbytes" => self.pieces.last_mut()?.1 = number()?,
            b"map" => {
                let numbers: Option<Vec<u64>> =
                    text()?.split(',').map(|n| n.parse().ok()).collect();
                let numbers = numbers?;
                if numbers.len() % 2 != 0 {
                    return None;
                }
                self.pieces = numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect();
            }
            _ => {}
        }
        (self.pieces.len() <= MAX_SPARSE).then_some(())
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A number field: octal text, or base 256 with the top bit set (GNU). Blank counts as 0.
fn number(field: &[u8]) -> Option<i128> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = if i == 0 && !negative {
                byte & 0x7f
            } else {
                *byte
            };
            value = (value << 8) | i128::from(byte);
        }
        return Some(value);
    }
    let text = until_nul(field).trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    i128::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

/// Seconds of a PAX time, rounded down.
fn whole_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    seconds.checked_sub(i64::from(below))
}

fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let Some(stated) = number(&block[148..156]) else {
        return false;
    };
    let field = |i: usize, b: u8| if (148..156).contains(&i) { b' ' } else { b };
    let bytes = || block.iter().enumerate().map(|(i, b)| field(i, *b));
    let unsigned: i128 = bytes().map(i128::from).sum();
    // Some old programs summed signed bytes.
    let signed: i128 = bytes().map(|b| i128::from(b as i8)).sum();
    stated == unsigned || stated == signed
}

fn parse_records(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?;
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        // An empty value takes a setting back; none of ours are set before.
        if !value.is_empty() || key.starts_with(b"SCHILY.xattr.") {
            records.push((key.to_vec(), value.to_vec()));
        }
        bytes = &bytes[length..];
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, expect) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"00009\0\0\0", None),
            (b"hello\0\0\0", None),
        ] {
            assert_eq!(number(field), expect, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn times() {
        for (text, expect) in [
            ("12", Some(12)),
            ("12.9", Some(12)),
            ("-1.5", Some(-2)),
            ("-1.0", Some(-1)),
            ("x", None),
        ] {
            assert_eq!(whole_seconds(text), expect, "{text}");
        }
    }

    #[test]
    fn records_may_hold_newlines_and_refuse_nonsense() {
        let xattr = b"26 SCHILY.xattr.user.a=\n\0\n";
        let parsed = parse_records(xattr).unwrap();
        assert_eq!(parsed[0].1, b"\n\0");
        for bad in [
            &b"9999 a=b\n"[..],
            b"5 a=b",
            b"x a=b\n",
            b"6 abcd\n",
            b"0 a=b\n",
            b"-1 a=b\n",
        ] {
            assert!(parse_records(bad).is_none(), "{}", bad.escape_ascii());
        }
    }
}
