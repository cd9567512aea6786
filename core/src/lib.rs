//! Declaration, hash, plan and diff of container images.
//!
//! This crate is pure: it reads no file, opens no socket, asks no clock and knows no operating
//! system, so the browser, Node, the terminal and the build service run the same code and get the
//! same hash. What it needs from outside (file contents, listings, base digests) is handed in.

pub mod any_digest;
pub mod config;
pub mod declaration;
pub mod diff;
pub mod digest;
pub mod dockerfile;
pub mod error;
pub mod glob;
pub mod ignore;
pub mod image;
mod input;
pub mod jcs;
pub mod keys;
pub mod lock;
pub mod lower;
pub mod path;
pub mod platform;
pub mod reference;
mod requirement;
#[cfg(feature = "schema")]
mod schema;
mod sorted;
pub mod source;
pub mod spec;
mod spelling;
pub mod tree;
pub mod upload;
pub mod wire;

pub use any_digest::AnyDigest;
pub use diff::diff;
pub use digest::Digest;
pub use image::Image;
pub use platform::Platform;
pub use reference::Reference;
pub use spec::Spec;
