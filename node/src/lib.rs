//! A node: keeps images on its host ready to be mounted, and starts sandboxes from them.
//!
//! [`Node::start`] opens the state directory, the cache and the sandboxes, and starts the
//! [`agent`], which joins the service, holds the one connection to it and carries out what it is
//! told. Linux only.

#![cfg(target_os = "linux")]

pub mod agent;
pub mod cache;
mod containerd;
pub mod files;
mod metrics;
pub mod mirror;
pub mod mounts;
mod node;
mod pull;
mod real;
pub mod sandboxes;
mod settings;

pub use containerd::ContainerdSettings;
pub use node::{Node, NodeError, Parts, RunningNode, Surroundings};
pub use settings::{CacheForm, Join, NodeSettings, Runtime};
