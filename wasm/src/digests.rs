//! SHA-256 for contents that are too small to be worth a call of the platform's own.

use sha2::Digest as _;
use wasm_bindgen::prelude::wasm_bindgen;

/// The SHA-256 of some bytes: 32 bytes.
#[wasm_bindgen]
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    sha2::Sha256::digest(bytes).to_vec()
}

/// SHA-256 of bytes that come in pieces.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Sha256(sha2::Sha256);

#[wasm_bindgen]
impl Sha256 {
    /// Of no bytes so far.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything so far: 32 bytes. Begins anew.
    pub fn digest(&mut self) -> Vec<u8> {
        self.0.finalize_reset().to_vec()
    }
}
