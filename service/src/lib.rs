//! The build service: API, queue, builder, step cache and embedded OCI registry behind one
//! address.
//!
//! [`Service::start`] takes [`Settings`] and gives a [`Running`] service with its address and
//! token; everything else goes over HTTP as [`chalk_core::wire`] says. [`state`] is the directory
//! that a service works in, and how others find it there.

pub mod bases;
mod builds;
pub mod catalog;
pub mod engine;
mod http;
pub mod index;
pub mod places;
pub mod registry;
pub mod resolve;
mod server;
mod service;
pub mod settings;
pub mod state;

pub use service::{Parts, Running, Service, StartError, Surroundings};
pub use settings::Settings;
