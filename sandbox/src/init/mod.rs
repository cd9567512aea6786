//! The child's side: what the re-executed program does instead of its `main`.
//!
//! Three processes, each forked by the one before while it has a single thread:
//!
//! 1. The **helper**, outside of all namespaces but its own process group: forks the next one
//!    into a new pid namespace, and waits for its end or for the end of the socket, which means
//!    "kill". It takes mount points that were made for the run out of the root again.
//! 2. **Pid 1** of the sandbox: joins control groups, makes the other namespaces and filesystems;
//!    then (the two may be made long before there is anything to run) reads the spec, mounts
//!    everything, changes the root, forks the command, reaps what is left to it, passes signals
//!    on. With it everything in its namespace dies, and it dies with the helper.
//! 3. The **command**: limits, filter, credentials, `execve`.
//!
//! A further command in the same sandbox has a helper of its own, see [`exec`].

use std::sync::atomic::{AtomicBool, Ordering};

mod cgroups;
mod channel;
mod command;
mod exec;
mod files;
mod filesystems;
mod helper;
mod mountpoint;
mod mounts;
mod pid1;
mod report;
mod root;
mod streams;
pub(crate) mod system;
mod terminal;
mod tidy;

/// `argv[0]` of the helper process.
pub(crate) const HELPER_NAME: &str = "chalk-sandbox-helper";

static CALLED: AtomicBool = AtomicBool::new(false);

/// Becomes the sandbox's helper if this process was started as one, and then never returns.
///
/// Must be the first thing in `main`, before any thread is started:
///
/// ```no_run
/// # #[allow(clippy::needless_doctest_main)]
/// fn main() {
///     chalk_sandbox::init_if_requested();
///     // the program proper
/// }
/// ```
///
/// Test programs, whose `main` is not theirs, write
/// [`init_before_main!()`](crate::init_before_main) at their top instead.
pub fn init_if_requested() {
    CALLED.store(true, Ordering::Relaxed);
    if std::env::args_os()
        .next()
        .is_some_and(|name| name == HELPER_NAME)
    {
        helper::main();
    }
}

/// Whether this program hands helper processes to [`init_if_requested`]; otherwise starting one
/// would run the whole program again.
pub(crate) fn can_be_requested() -> bool {
    CALLED.load(Ordering::Relaxed)
}

/// Calls [`init_if_requested`](crate::init_if_requested) before `main`, for programs whose `main`
/// is not theirs: test programs with the standard harness. Stands once in a program, anywhere.
#[macro_export]
macro_rules! init_before_main {
    () => {
        const _: () = {
            extern "C" fn init() {
                $crate::init_if_requested();
            }
            #[used]
            // SAFETY: the section holds pointers to functions that the C runtime calls before
            // `main`; the standard library's arguments are set up by an earlier entry.
            #[unsafe(link_section = ".init_array")]
            static INIT: extern "C" fn() = init;
        };
    };
}
