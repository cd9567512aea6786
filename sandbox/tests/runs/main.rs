//! Runs real commands in real sandboxes. Needs root, and a host with a merged `/usr`, a shell,
//! coreutils, util-linux and perl (all essential on Debian).

// What is allowed in test functions is meant for their helpers, too.
#![allow(clippy::expect_used, clippy::panic, unreachable_pub)]

mod basics;
mod confinement;
mod escapes;
mod files;
mod interactive;
mod lifetime;
mod mounts;
mod support;

chalk_sandbox::init_before_main!();
