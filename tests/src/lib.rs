//! Harness of the whole-system tests: the real `chalk` command on real state directories, with real
//! base images and real clients beside it.
//!
//! [`World`] holds what tests share: two base images, imported once; a service; a docker daemon.
//! A [`Service`] is one running `chalk serve`, a [`Project`] a folder with a declaration, a [`Ran`] a
//! command that came to its end. A failed expectation panics with everything that the command said.

// Everything here serves assertions, so panicking is how it reports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;
mod bucket;
mod collector;
mod command;
mod containerd;
mod distribution;
mod docker;
mod exposition;
mod fleet;
mod http;
mod image;
mod impostor;
mod made_up;
mod network;
mod node;
mod patience;
mod project;
mod registry_http;
mod screen;
mod service;
mod simulator;
mod talk;
mod token_service;
mod world;

pub use authority::{Authority, Certificate};
pub use bucket::S3;
pub use collector::{Collector, TracedSpan};
pub use command::{Chalk, Ran, Running, output, run, tool};
pub use containerd::Containerd;
pub use distribution::{Distribution, Terms};
pub use docker::Docker;
pub use exposition::{Exposition, Family, Sample};
pub use fleet::{Fleet, QUICK, STEADY, targets};
pub use http::{Response, events, get, request};
pub use image::{Entry, ImageFiles, Layout};
pub use impostor::{Fault, Impostor};
pub use made_up::{MadeUp, noise};
pub use network::{Host, Network};
pub use node::Node;
pub use patience::{wait_for, wait_until};
pub use project::Project;
pub use registry_http::{EMPTY, INDEX, MANIFEST, RegistryHttp, Reply, descriptor, with};
pub use screen::Screen;
pub use service::Service;
pub use simulator::Simulator;
pub use talk::Talk;
pub use token_service::{Asked, TokenService};
pub use world::{World, interrupt, is_interrupted, unique};
