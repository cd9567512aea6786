//! Layers and images from the outside: what goes in comes out, and nothing else does.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests state what they expect by panicking"
)]

mod archives;
mod erofs;
mod hostile;
mod overlay;
mod rootfs;
mod round_trip;
mod trees;
