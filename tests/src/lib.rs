//! Harness of the whole-system tests: the real `chalk` command on real state directories, with real
//! base images and real clients beside it.
//!
//! [`World`] holds what tests share: two base images, imported once; a service; a docker daemon.
//! A [`Service`] is one running `chalk serve`, a [`Project`] a folder with a declaration, a [`Ran`] a
//! command that came to its end. A failed expectation panics with everything that the command said.

// Everything here serves assertions, so panicking is how it reports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;
mod docker;
mod http;
mod image;
mod network;
mod node;
mod project;
mod service;
mod world;

pub use command::{Chalk, Ran, Running, run, tool};
pub use docker::Docker;
pub use http::{Response, events, get, request};
pub use image::{Entry, ImageFiles, Layout};
pub use network::{Host, Network};
pub use node::Node;
pub use project::Project;
pub use service::Service;
pub use world::{World, unique};
