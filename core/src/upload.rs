//! Blobs that the declaring side has and the service may lack.

use crate::Digest;

/// A blob to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Digest of the contents.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Where the contents are.
    pub contents: Contents,
}

/// Where the contents of an [`Upload`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// In a local file, by the path that [`crate::source::Source`] takes.
    File(String),
    /// Here: the JSON of a [`crate::tree::Tree`].
    Bytes(Vec<u8>),
}

/// Keeps the first of several uploads of one blob, in their order.
pub(crate) fn keep_first(uploads: &mut Vec<Upload>) {
    let mut order: Vec<(Digest, usize)> = Vec::with_capacity(uploads.len());
    order.extend(uploads.iter().enumerate().map(|(i, u)| (u.digest, i)));
    order.sort_unstable();
    let mut again = vec![false; uploads.len()];
    for pair in order.windows(2) {
        again[pair[1].1] = pair[0].0 == pair[1].0;
    }
    let mut again = again.into_iter();
    uploads.retain(|_| again.next() == Some(false));
}

impl Upload {
    /// An upload of these bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            contents: Contents::Bytes(bytes),
        }
    }
}
