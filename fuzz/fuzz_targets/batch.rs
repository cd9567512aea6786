//! Bodies of `POST /v1/blobs`: what is taken apart is within the limits, and put together again gives
//! the same bytes.
#![no_main]

use chalk_core::wire::blob_batch::{BatchEncoder, MAX_BLOB, MAX_BLOBS, MAX_BODY, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let Ok(blobs) = decode(body) else {
        return;
    };
    assert!(blobs.len() <= MAX_BLOBS && body.len() <= MAX_BODY);
    let mut batch = BatchEncoder::default();
    for (digest, bytes) in &blobs {
        assert!(bytes.len() <= MAX_BLOB);
        assert!(batch.push(digest, bytes));
    }
    assert_eq!(batch.into_body(), body);
});
