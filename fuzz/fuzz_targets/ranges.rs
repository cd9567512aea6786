//! What clients of the registry write into `Range`, `Content-Range` and conditional headers: the first
//! line is a size, the second the header. What is read lies within what there is.
#![no_main]

use libfuzzer_sys::fuzz_target;

// Parts of the service, which is far too big to link.
#[allow(dead_code)]
#[path = "../../service/src/registry/condition.rs"]
mod condition;
#[path = "../../service/src/registry/http/ranges.rs"]
mod ranges;

use condition::{Condition, EntityTags};
use ranges::{Chunk, Range};

fuzz_target!(|text: &str| {
    let (size, header) = text.split_once('\n').unwrap_or(("10", text));
    let size = size.parse().unwrap_or(0);
    match Range::parse(header, size) {
        Range::Part { first, last } => assert!(first <= last && last < size),
        Range::Outside | Range::Whole => {}
    }
    if let Some(chunk) = Chunk::parse(header) {
        let last = chunk.start.checked_add(chunk.length - 1);
        let last = last.expect("chunks end somewhere");
        let written = format!("{}-{last}", chunk.start);
        assert_eq!(Chunk::parse(&written), Some(chunk));
    }
    let tags = Some(EntityTags::parse(header));
    let none = Condition {
        if_match: None,
        if_none_match: tags.clone(),
    };
    assert!(none.holds(None));
    let some = Condition {
        if_match: tags.clone(),
        if_none_match: tags,
    };
    // What must be there and must not be there at once.
    assert!(!some.holds(Some("a")) && !some.holds(None));
});
