//! The HTTP API over loopback, with an engine that publishes real images without running anything.

// Tests state what they expect by panicking; clippy sees that only inside of `#[test]` itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
// What simulated nodes say is more than is needed here.
#[allow(dead_code)]
#[path = "../nodes/agent.rs"]
mod agent;
mod auth;
mod builds;
mod events;
mod images;
mod origins;
mod page;
mod requests;
mod restart;
mod service;
mod volumes;
