//! The service: API, queue, builder, step cache and embedded OCI registry behind one address, and
//! the nodes that it brings images to and runs sandboxes on.
//!
//! [`Service::start`] takes [`Settings`] and gives a [`Running`] service with its address and
//! token; everything else goes over HTTP as [`chalk_core::wire`] says. [`state`] is the directory
//! that a service works in, and how others find it there.

mod access;
pub mod bases;
mod builds;
pub mod catalog;
pub mod engine;
mod fleet;
mod gc;
mod grpc;
mod http;
mod ids;
pub mod index;
mod ledger;
mod metrics;
mod nodes;
mod noted;
pub mod places;
mod prewarm;
mod projects;
mod regions;
pub mod registry;
pub mod resolve;
mod sandboxes;
mod secrets;
mod server;
mod service;
pub mod settings;
mod signing;
pub mod state;
mod tls;
mod volumes;
mod warms;

pub use ledger::LedgerError;
pub use service::{Parts, Running, Service, StartError, Surroundings};
pub use settings::Settings;
