//! References, platforms and digests: what is accepted prints as what it reads.
#![no_main]

use chalk_core::{AnyDigest, Digest, Platform, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse(), Ok(platform));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(text.parse::<AnyDigest>().is_ok_and(|any| any == digest));
    }
    if let Ok(digest) = text.parse::<AnyDigest>() {
        assert_eq!(digest.to_string(), text);
        assert_eq!(AnyDigest::from_hex(&digest.hex()), Some(digest));
    }
});
