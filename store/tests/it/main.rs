//! Layers and images from the outside: what goes in comes out, and nothing else does.
#![cfg(target_os = "linux")]

mod archives;
mod hostile;
mod rootfs;
mod round_trip;
mod trees;
