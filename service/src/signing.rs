//! Signatures of the service: on tokens that it need not remember, and on addresses that are a
//! permission in themselves.
//!
//! HMAC-SHA256 (RFC 2104) by a key of 256 random bits, which lies in the state directory and never
//! leaves it. Each use has a purpose of its own, so that a signature made for one is worth nothing for
//! another.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of a block of SHA-256.
const BLOCK_BYTES: usize = 64;

/// The service's key.
#[derive(Clone)]
pub(crate) struct SigningKey([u8; KEY_BYTES]);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    pub(crate) fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(key)
    }

    /// `purpose` holds no NUL, which ends it in what is signed.
    fn over(&self, purpose: &str, message: &[u8]) -> Hmac<Sha256> {
        // A key shorter than a block is filled up with zeros (RFC 2104, section 2).
        let mut block = [0; BLOCK_BYTES];
        block[..KEY_BYTES].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(message);
        mac
    }

    /// The signature of a message.
    pub(crate) fn sign(&self, purpose: &str, message: &[u8]) -> [u8; 32] {
        self.over(purpose, message).finalize().into_bytes().into()
    }

    /// Whether that is the signature of a message, in a time that tells nothing.
    pub(crate) fn verifies(&self, purpose: &str, message: &[u8], signature: &[u8]) -> bool {
        let mac = self.over(purpose, message);
        mac.verify_slice(signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        let key = SigningKey::new([7; KEY_BYTES]);
        let signature = key.sign("a", b"message");
        assert!(key.verifies("a", b"message", &signature));
        assert!(!key.verifies("b", b"message", &signature));
        assert!(!key.verifies("a", b"messagf", &signature));
        assert!(!key.verifies("a", b"message", &signature[..31]));
        assert!(!key.verifies("a", b"message", b""));
        assert!(!SigningKey::new([8; KEY_BYTES]).verifies("a", b"message", &signature));
        // The purpose cannot run into the message.
        assert_ne!(key.sign("ab", b"c"), key.sign("a", b"bc"));
    }
}
