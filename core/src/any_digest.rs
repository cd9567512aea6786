//! Digests by any algorithm that registries must know (OCI image specification, `descriptor.md`,
//! "Registered Algorithms").
//!
//! All that is ours is named by SHA-256, a plain [`Digest`]. What others push may be named by
//! SHA-512.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::digest::Digest;

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// 32 bytes; what everybody uses.
    Sha256,
    /// 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// What stands before the colon of a digest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnsupportedDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|one| one.name() == text);
        found.ok_or_else(|| UnsupportedDigest(text.to_owned()))
    }
}

/// A digest by one of the algorithms, printed as `<algorithm>:<lower-case hex digits>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnyDigest {
    /// By SHA-256.
    Sha256(Digest),
    /// By SHA-512. On the heap, since it is rare and would make every error large.
    Sha512(Box<[u8; 64]>),
}

/// A text that is no digest by an algorithm that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a digest that is supported: expected `sha256:` and 64 or `sha512:` and 128 lower-case hex digits"
)]
pub struct UnsupportedDigest(pub String);

impl AnyDigest {
    /// Digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Digest::of(bytes)),
            Algorithm::Sha512 => Self::Sha512(Box::new(sha2::Sha512::digest(bytes).into())),
        }
    }

    /// How it was computed.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hex digits, without the algorithm: 64 or 128.
    pub fn hex(&self) -> String {
        match self {
            Self::Sha256(digest) => digest.hex(),
            Self::Sha512(bytes) => {
                let mut digits = [0; 128];
                // Twice as long as the bytes, so that it fits.
                let _ = hex::encode_to_slice(&bytes[..], &mut digits);
                String::from_utf8_lossy(&digits).into_owned()
            }
        }
    }

    /// The digest that these hex digits are, by their number.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let algorithm = match digits.len() {
            64 => Algorithm::Sha256,
            128 => Algorithm::Sha512,
            _ => return None,
        };
        Self::parse(algorithm, digits)
    }

    fn parse(algorithm: Algorithm, digits: &str) -> Option<Self> {
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        match algorithm {
            Algorithm::Sha256 => {
                let mut bytes = [0; 32];
                hex::decode_to_slice(digits, &mut bytes).ok()?;
                Some(Self::Sha256(Digest::from_bytes(bytes)))
            }
            Algorithm::Sha512 => {
                let mut bytes = Box::new([0; 64]);
                hex::decode_to_slice(digits, &mut bytes[..]).ok()?;
                Some(Self::Sha512(bytes))
            }
        }
    }
}

impl fmt::Display for AnyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().name(), self.hex())
    }
}

impl fmt::Debug for AnyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AnyDigest {
    type Err = UnsupportedDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text
            .split_once(':')
            .and_then(|(name, digits)| Self::parse(name.parse().ok()?, digits));
        parsed.ok_or_else(|| UnsupportedDigest(text.to_owned()))
    }
}

impl From<Digest> for AnyDigest {
    fn from(digest: Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl From<&Digest> for AnyDigest {
    fn from(digest: &Digest) -> Self {
        Self::Sha256(*digest)
    }
}

impl From<&Self> for AnyDigest {
    fn from(digest: &Self) -> Self {
        digest.clone()
    }
}

impl PartialEq<Digest> for AnyDigest {
    fn eq(&self, other: &Digest) -> bool {
        matches!(self, Self::Sha256(digest) if digest == other)
    }
}

impl Serialize for AnyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AnyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        let short = Digest::of(b"").to_string();
        // FIPS 180-4, SHA-512 of the empty string.
        let long = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                    47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
        for (algorithm, text) in [(Algorithm::Sha256, &*short), (Algorithm::Sha512, long)] {
            let digest = AnyDigest::of(algorithm, b"");
            assert_eq!(digest.to_string(), text);
            assert_eq!(digest.algorithm(), algorithm);
            assert_eq!(text.parse(), Ok(digest.clone()));
            assert_eq!(AnyDigest::from_hex(&digest.hex()), Some(digest));
        }
        let misnamed = long.replace("sha512", "sha256");
        let bad = [
            "",
            "sha512:",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &short[..70],
            &long[..134],
            &misnamed,
            &long.to_uppercase(),
            &long["sha512:".len()..],
        ];
        for text in bad {
            let error = UnsupportedDigest(text.to_owned());
            assert_eq!(text.parse::<AnyDigest>(), Err(error));
        }
    }
}
