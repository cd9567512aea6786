//! The embedded registry over HTTP, and the registry client against it and against registries
//! that misbehave.

// Tests and their fixtures state what they expect by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

mod api;
mod client;
mod deletes;
#[cfg(target_os = "linux")]
mod endpoints;
mod faults;
mod fixture;
mod listings;
mod logins;
mod requests;
mod tokens;
mod uploads;
