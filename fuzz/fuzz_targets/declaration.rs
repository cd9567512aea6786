//! `image.toml`, spec JSON and `image.lock`: never a panic; a spec that is accepted prints as JSON
//! that reads back as itself, with the same hash.
#![no_main]

use chalk_core::lock::Lock;
use chalk_core::{Image, Spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Image::from_toml(text);
    let _ = Lock::parse(text);
    if let Ok(spec) = Spec::from_json(text) {
        let back = Spec::from_json(&spec.to_json().canonical()).expect("a printed spec reads back");
        assert_eq!(back, spec);
        assert_eq!(back.recipe_hash(), spec.recipe_hash());
        let _ = spec.steps_with_keys();
    }
});
