//! Dockerfiles: never a panic; a canonical instruction reads back as itself; what is exported
//! reads back and means the same.
#![no_main]

use std::collections::BTreeMap;

use chalk_core::config::ImageConfig;
use chalk_core::dockerfile::{Options, check_canonical, export, instructions, parse};
use chalk_core::lower::lower;
use chalk_core::source::{MemoryFiles, Source};
use chalk_core::spec::{Base, BaseImage};
use chalk_core::{Platform, Spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let files = MemoryFiles::new()
        .file("a", "a")
        .file("d/e", "e")
        .symlink("l", "d");
    let (args, platform) = (BTreeMap::new(), Platform::default());
    let options = Options {
        build_args: &args,
        target: None,
        platform: &platform,
        context: Some((&files as &dyn Source, "")),
        file: None,
    };
    let _ = instructions(text, &options);
    let Ok(parsed) = parse(text, &options) else {
        return;
    };
    for instruction in parsed
        .dockerfile
        .stages
        .iter()
        .flat_map(|stage| &stage.instructions)
    {
        assert_eq!(check_canonical(instruction), Ok(()), "{}", instruction.text);
    }
    let spec = Spec::new(Base::Dockerfile(parsed.dockerfile.clone()));
    let mut configs = |_: &BaseImage| Ok::<_, ()>(ImageConfig::default());
    let _ = lower(&spec, &mut configs);
    if let Ok(text) = export(&spec) {
        let back = parse(&text, &options).expect("an exported Dockerfile reads back");
        assert_eq!(back.dockerfile, parsed.dockerfile);
    }
});
