//! Real sandboxes on a node. Needs root, and a host with a shell, coreutils and perl, whose `/` is
//! the lowest layer of the image.

#![cfg(target_os = "linux")]
// What is allowed in test functions is meant for their helpers, too.
#![allow(clippy::expect_used, clippy::panic, unreachable_pub)]

mod faults;
mod idle;
mod kills;
mod lifecycle;
mod places;
mod processes;
mod support;

chalk_sandbox::init_before_main!();
