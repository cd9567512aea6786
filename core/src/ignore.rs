//! Which files of a directory count: `.gitignore` and `.chalkignore` for directories that a spec
//! adds ([`GitIgnore`], [`select`]), `.dockerignore` for Dockerfile contexts ([`DockerIgnore`]).
//!
//! All of it is pure over listings, so the browser, Node and the command select the same files.

mod docker;
mod git;

pub use docker::{DockerIgnore, InvalidPattern};
pub use git::{GitIgnore, select};
