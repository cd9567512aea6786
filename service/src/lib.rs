//! placeholder

pub mod bases;
pub mod engine;
