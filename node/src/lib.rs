//! A node: keeps images on its host ready to be mounted, and starts sandboxes from them.
//!
//! Linux only.

#![cfg(target_os = "linux")]
