//! Nodes over loopback: agents that speak the wire and have made-up caches.

// Tests state what they expect by panicking; clippy sees that only inside of `#[test]` itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod joins;
mod limits;
mod prewarm;
mod sandbox_files;
mod sandboxes;
mod service;
mod sessions;
mod warms;
