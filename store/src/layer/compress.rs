//! Compression of layers, both ways.

use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use zstd::zstd_safe::CParameter;

use super::parallel_gzip::ParallelGzip;

/// Bytes that a worker of Zstandard compresses at a time. The library would take 8 MiB and hold
/// some ten times that much, input and output, with two workers; half of it costs 0.3 % in size.
const JOB: u32 = 4 << 20;
/// Highest level whose window has 2 MiB. Pieces of [`JOB`] would be too short for the windows of
/// higher levels.
const SMALL_WINDOW: u8 = 8;

/// How a layer's tar stream is compressed. The level is part of the value, since it changes the
/// blob's digest; the number of threads is not, since it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Compression {
    /// Zstandard, level 1 to 19.
    Zstd(u8),
    /// Gzip, level 1 to 9.
    Gzip(u8),
    /// A plain tar.
    None,
}

/// A text that names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no layer compression: expected `zstd`, `gzip` or `none`, with a level if wanted (`zstd:3`: 1 to 19, `gzip:6`: 1 to 9)"
)]
pub struct InvalidCompression(pub String);

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(3)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Gzip(level) => write!(f, "gzip:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCompression(text.to_owned());
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level.parse::<u8>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        match (name, level) {
            ("zstd", None) => Ok(Self::Zstd(3)),
            ("zstd", Some(level @ 1..=19)) => Ok(Self::Zstd(level)),
            ("gzip", None) => Ok(Self::Gzip(6)),
            ("gzip", Some(level @ 1..=9)) => Ok(Self::Gzip(level)),
            ("none", None) => Ok(Self::None),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for Compression {
    type Error = InvalidCompression;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Compression> for String {
    fn from(compression: Compression) -> Self {
        compression.to_string()
    }
}

impl Compression {
    /// Media type of a layer so compressed (image-spec, media-types.md).
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Zstd(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::Gzip(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }

    /// Starts compressing into `out`, with `threads` of them.
    pub(crate) fn writer<W: Write>(self, out: W, threads: usize) -> io::Result<Compressor<W>> {
        Ok(match self {
            Self::None => Compressor::None(out),
            Self::Gzip(level) => Compressor::Gzip(ParallelGzip::new(out, level, threads)),
            Self::Zstd(level) => {
                let mut encoder = zstd::Encoder::new(out, i32::from(level))?;
                // With at least one worker the output does not depend on how many there are.
                encoder.multithread(u32::try_from(threads.max(1)).unwrap_or(1))?;
                if level <= SMALL_WINDOW {
                    encoder.set_parameter(CParameter::JobSize(JOB))?;
                }
                encoder.include_checksum(false)?;
                Compressor::Zstd(encoder)
            }
        })
    }
}

/// A compressing writer; [`finish`](Self::finish) must be called.
pub(crate) enum Compressor<W: Write> {
    None(W),
    Gzip(ParallelGzip<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(out) => out.write(bytes),
            Self::Zstd(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window that a zstd frame may ask for: 128 MiB, as the command `zstd -d` allows.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A decompressing reader; see [`decompress`].
pub struct Decompressor<R: Read> {
    inner: Inner<R>,
    compression: Compression,
}

enum Inner<R: Read> {
    None(BufReader<Prefixed<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Prefixed<R>>>>),
    Zstd(zstd::Decoder<'static, BufReader<Prefixed<R>>>),
}

impl<R: Read> fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decompressor({})", self.compression)
    }
}

impl<R: Read> Decompressor<R> {
    /// How the stream was compressed. The level cannot be seen and is the default's.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    pub(crate) fn source(&mut self) -> &mut R {
        let buffered = match &mut self.inner {
            Inner::None(r) => r,
            Inner::Gzip(r) => r.get_mut(),
            Inner::Zstd(r) => r.get_mut(),
        };
        &mut buffered.get_mut().rest
    }

    /// Reads the source itself to its end, so that a digest over it can be checked, and gives it
    /// back. Bytes after the compressed stream do not count as part of the layer's content.
    pub(crate) fn drain_source(&mut self) -> io::Result<u64> {
        io::copy(self.source(), &mut io::sink())
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::None(r) => r.read(buffer),
            Inner::Gzip(r) => r.read(buffer),
            Inner::Zstd(r) => r.read(buffer),
        }
    }
}

/// Decompresses a stream by what its first bytes say: gzip (of any number of members), zstd (of
/// any number of frames), or nothing.
pub fn decompress<R: Read>(mut source: R) -> io::Result<Decompressor<R>> {
    let mut prefix = Vec::with_capacity(ZSTD_MAGIC.len());
    Read::take(&mut source, ZSTD_MAGIC.len() as u64).read_to_end(&mut prefix)?;
    let is_zstd_skippable =
        prefix.len() == 4 && prefix[1..] == [0x2a, 0x4d, 0x18] && prefix[0] & 0xf0 == 0x50;
    let (gzip, zstd) = (
        prefix.starts_with(&GZIP_MAGIC),
        prefix == ZSTD_MAGIC || is_zstd_skippable,
    );
    let prefixed = Prefixed {
        prefix: io::Cursor::new(prefix),
        rest: source,
    };
    let buffered = BufReader::with_capacity(128 * 1024, prefixed);
    let (inner, compression) = if gzip {
        let decoder = MultiGzDecoder::new(buffered);
        (Inner::Gzip(Box::new(decoder)), Compression::Gzip(6))
    } else if zstd {
        let mut decoder = zstd::Decoder::with_buffer(buffered)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        (Inner::Zstd(decoder), Compression::Zstd(3))
    } else {
        (Inner::None(buffered), Compression::None)
    };
    Ok(Decompressor { inner, compression })
}

struct Prefixed<R> {
    prefix: io::Cursor<Vec<u8>>,
    rest: R,
}

impl<R: Read> Read for Prefixed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.prefix.read(buffer)? {
            0 => self.rest.read(buffer),
            n => Ok(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(compression: Compression, bytes: &[u8], threads: usize) -> Vec<u8> {
        let mut writer = compression.writer(Vec::new(), threads).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn round_trips_and_does_not_depend_on_threads() {
        let mut noisy: Vec<u8> = (0..5_000_000u32)
            .map(|i| (i.wrapping_mul(i) >> 11) as u8)
            .collect();
        noisy[1_000_000..2_000_000].fill(0);
        for compression in [
            Compression::None,
            Compression::Gzip(1),
            Compression::Gzip(6),
            Compression::Zstd(1),
            Compression::Zstd(3),
        ] {
            for bytes in [&b""[..], b"short", &noisy] {
                let one = compressed(compression, bytes, 1);
                assert_eq!(one, compressed(compression, bytes, 3));
                let mut back = Vec::new();
                let mut reader = decompress(&one[..]).unwrap();
                reader.read_to_end(&mut back).unwrap();
                assert_eq!(reader.compression().media_type(), compression.media_type());
                assert!(back == bytes);
            }
        }
    }

    #[test]
    fn names() {
        for (text, expect) in [
            ("zstd", Some(Compression::Zstd(3))),
            ("zstd:19", Some(Compression::Zstd(19))),
            ("gzip", Some(Compression::Gzip(6))),
            ("gzip:1", Some(Compression::Gzip(1))),
            ("none", Some(Compression::None)),
            ("zstd:0", None),
            ("gzip:10", None),
            ("none:1", None),
            ("xz", None),
            ("zstd:", None),
        ] {
            assert_eq!(text.parse().ok(), expect, "{text}");
        }
    }

    #[test]
    fn many_gzip_members_and_zstd_frames_are_one_stream() {
        for compression in [Compression::Gzip(6), Compression::Zstd(3)] {
            let mut joined = compressed(compression, b"one ", 1);
            joined.extend(compressed(compression, b"two", 1));
            let mut text = String::new();
            decompress(&joined[..])
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "one two");
        }
    }
}
