//! Many small blobs in one request: the body of `POST /v1/blobs`.
//!
//! The body is one frame after the other. A frame is the 32 bytes of the SHA-256 of a blob, the
//! number of its bytes as four bytes, the most significant first, and these bytes. Nothing stands
//! before, between or behind frames. Either all blobs of a batch are taken, or the answer names one
//! that is not as it should be.

use crate::Digest;

/// Most bytes of one blob; larger ones are uploaded alone.
pub const MAX_BLOB: usize = 256 << 10;
/// Most blobs of one batch.
pub const MAX_BLOBS: usize = 4096;
/// Most bytes of one body.
pub const MAX_BODY: usize = 4 << 20;

/// Bytes of a frame before those of its blob.
const HEAD: usize = 36;

/// A body that is no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    /// A blob is larger than [`MAX_BLOB`].
    #[error(
        "blob {digest} has {size} bytes, more than the {MAX_BLOB} that a blob of a batch may have"
    )]
    LargeBlob {
        /// The blob.
        digest: Digest,
        /// Bytes that its frame says it has.
        size: u64,
    },
    /// There are more than [`MAX_BLOBS`] blobs.
    #[error("there are more than the {MAX_BLOBS} blobs that a batch may have")]
    ManyBlobs,
    /// The body ends within a blob.
    #[error("the body ends within blob {digest}, which has {size} bytes, {left} of them here")]
    CutBlob {
        /// The blob.
        digest: Digest,
        /// Bytes that its frame says it has.
        size: usize,
        /// Bytes that came.
        left: usize,
    },
    /// The body ends before the bytes of a blob begin.
    #[error("the body ends {left} bytes into a frame, whose digest and length take {HEAD}")]
    CutHead {
        /// Bytes that came.
        left: usize,
    },
}

/// Puts blobs into a body.
#[derive(Debug, Default)]
pub struct BatchEncoder {
    body: Vec<u8>,
    blobs: usize,
}

impl BatchEncoder {
    /// Appends a blob; `false` says that it has no place in this batch.
    #[must_use]
    pub fn push(&mut self, digest: &Digest, bytes: &[u8]) -> bool {
        let mut room = BatchRoom {
            bytes: self.body.len(),
            blobs: self.blobs,
        };
        let Ok(size) = u32::try_from(bytes.len()) else {
            return false;
        };
        if !room.take(bytes.len() as u64) {
            return false;
        }
        self.body.extend_from_slice(digest.as_bytes());
        self.body.extend_from_slice(&size.to_be_bytes());
        self.body.extend_from_slice(bytes);
        self.blobs += 1;
        true
    }

    /// The body.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }
}

/// Counts what finds room in one batch, for senders that plan before they read.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchRoom {
    bytes: usize,
    blobs: usize,
}

impl BatchRoom {
    /// Takes the room of a blob of `size` bytes; `false` when it is not there.
    #[must_use]
    pub fn take(&mut self, size: u64) -> bool {
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= MAX_BLOB) else {
            return false;
        };
        let bytes = self.bytes + HEAD + size;
        if bytes > MAX_BODY || self.blobs == MAX_BLOBS {
            return false;
        }
        self.bytes = bytes;
        self.blobs += 1;
        true
    }
}

/// Takes a body apart. Digests are as the sender says them: whoever reads checks them.
///
/// # Errors
/// When the body is no batch.
pub fn decode(body: &[u8]) -> Result<Vec<(Digest, &[u8])>, InvalidBatch> {
    let mut blobs = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let Some((head, after)) = rest.split_first_chunk::<HEAD>() else {
            return Err(InvalidBatch::CutHead { left: rest.len() });
        };
        let (mut digest, mut size) = ([0; 32], [0; 4]);
        digest.copy_from_slice(&head[..32]);
        size.copy_from_slice(&head[32..]);
        let (digest, size) = (Digest::from_bytes(digest), u32::from_be_bytes(size));
        let size = match usize::try_from(size) {
            Ok(size) if size <= MAX_BLOB => size,
            _ => {
                let size = u64::from(size);
                return Err(InvalidBatch::LargeBlob { digest, size });
            }
        };
        let Some((bytes, after)) = after.split_at_checked(size) else {
            let left = after.len();
            return Err(InvalidBatch::CutBlob { digest, size, left });
        };
        if blobs.len() == MAX_BLOBS {
            return Err(InvalidBatch::ManyBlobs);
        }
        blobs.push((digest, bytes));
        rest = after;
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let blobs = [&b"one"[..], b"", &[7; MAX_BLOB]];
        let mut batch = BatchEncoder::default();
        for bytes in blobs {
            assert!(batch.push(&Digest::of(bytes), bytes));
        }
        let body = batch.into_body();
        let expect: Vec<_> = blobs.iter().map(|b| (Digest::of(b), *b)).collect();
        assert_eq!(decode(&body).unwrap(), expect);
        assert!(decode(b"").unwrap().is_empty());
        // The format is a promise.
        assert_eq!(&body[..32], Digest::of(b"one").as_bytes());
        assert_eq!(&body[32..39], b"\0\0\0\x03one");
    }

    #[test]
    fn full_is_full() {
        let digest = Digest::of(b"");
        let mut batch = BatchEncoder::default();
        for _ in 0..MAX_BLOBS {
            assert!(batch.push(&digest, b""));
        }
        assert!(!batch.push(&digest, b""));
        let mut body = batch.into_body();
        decode(&body).unwrap();
        body.extend_from_within(..HEAD);
        assert_eq!(decode(&body).unwrap_err(), InvalidBatch::ManyBlobs);

        let large = vec![0; MAX_BLOB + 1];
        assert!(!BatchEncoder::default().push(&digest, &large));
        let mut batch = BatchEncoder::default();
        let mut count = 0;
        while batch.push(&digest, &large[..MAX_BLOB]) {
            count += 1;
        }
        assert_eq!(count, MAX_BODY / (MAX_BLOB + HEAD));
        assert!(batch.into_body().len() <= MAX_BODY);
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let digest = Digest::of(b"one");
        let mut batch = BatchEncoder::default();
        assert!(batch.push(&digest, b"one"));
        let body = batch.into_body();
        let check = |body: &[u8], expect: InvalidBatch| {
            assert_eq!(decode(body).unwrap_err(), expect);
        };
        check(&body[..10], InvalidBatch::CutHead { left: 10 });
        let (size, left) = (3, 2);
        check(
            &body[..HEAD + 2],
            InvalidBatch::CutBlob { digest, size, left },
        );
        let mut large = body.clone();
        large[32] = 0xff;
        let size = 0xff00_0003;
        check(&large, InvalidBatch::LargeBlob { digest, size });
    }
}
