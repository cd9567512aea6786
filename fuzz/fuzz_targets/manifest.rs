//! Manifests that clients push: the first line is the `Content-Type`, the rest the document. What is
//! taken reads the same again by the type that it was taken as.
#![no_main]

use chalk_core::AnyDigest;
use libfuzzer_sys::fuzz_target;

// Part of the service, which is far too big to link.
#[allow(dead_code)]
#[path = "../../service/src/registry/content.rs"]
mod content;

fuzz_target!(|text: &str| {
    let (kind, document) = text.split_once('\n').unwrap_or(("", text));
    let Ok(content) = content::read(kind, document.as_bytes()) else {
        return;
    };
    let again = content::read(&content.media_type, document.as_bytes());
    assert_eq!(again.as_ref(), Ok(&content));
    assert!(content.blobs.is_empty() || content.manifests.is_empty());
    let named = content.blobs.iter().chain(&content.manifests);
    for digest in named.chain(&content.subject) {
        assert_eq!(digest.to_string().parse::<AnyDigest>().as_ref(), Ok(digest));
    }
});
