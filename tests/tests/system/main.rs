//! Whole-system tests, one process: `cargo xtask test --only system -- NAME`.
//!
//! Each module holds the tests of one subject and lists them in `TESTS`. They share a [`World`],
//! which this file makes and takes down, also after an interrupt.

// Tests state what they expect by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chalk_tests::World;
use libtest_mimic::{Arguments, Trial};

mod access;
mod app;
mod app_terminal;
mod bases;
mod build_limits;
mod caches;
mod clients;
mod commands;
mod concurrency;
mod containerd;
mod copies;
mod declarations;
mod dockerfiles;
mod doctor;
mod durability;
mod engines;
mod escapes;
mod failures;
mod flow;
mod formats;
mod gc;
mod hashes;
mod held;
mod isolation;
mod keeping_registries;
mod layers;
mod limits;
mod long_logs;
mod own_image;
mod progress;
mod projects;
mod pulls;
mod quickstart;
mod regions;
mod registries;
mod registry;
mod restarts;
mod rootless;
mod s3;
mod sandbox_files;
mod sandboxes;
mod secrets;
mod simulator;
mod specification;
mod state_versions;
mod terminals;
mod tokens;
mod verify;
mod warms;
mod watching;

/// Name and body of a test.
type Test = (&'static str, fn(&World));

/// Tests that run at once unless `--test-threads` says otherwise. Most wait for the service.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let world = Arc::new(World::new());
    let interrupted = watch(&world);
    let modules: [(&str, &[Test]); 48] = [
        // The longest first.
        ("quickstart", quickstart::TESTS),
        ("engines", engines::TESTS),
        ("own_image", own_image::TESTS),
        ("verify", verify::TESTS),
        ("restarts", restarts::TESTS),
        ("pulls", pulls::TESTS),
        ("warms", warms::TESTS),
        ("watching", watching::TESTS),
        ("gc", gc::TESTS),
        ("regions", regions::TESTS),
        ("keeping_registries", keeping_registries::TESTS),
        ("registries", registries::TESTS),
        ("s3", s3::TESTS),
        ("containerd", containerd::TESTS),
        ("sandbox_files", sandbox_files::TESTS),
        ("sandboxes", sandboxes::TESTS),
        ("isolation", isolation::TESTS),
        ("limits", limits::TESTS),
        ("long_logs", long_logs::TESTS),
        ("rootless", rootless::TESTS),
        ("terminals", terminals::TESTS),
        ("state_versions", state_versions::TESTS),
        ("access", access::TESTS),
        ("app", app::TESTS),
        ("app_terminal", app_terminal::TESTS),
        ("caches", caches::TESTS),
        ("flow", flow::TESTS),
        ("dockerfiles", dockerfiles::TESTS),
        ("durability", durability::TESTS),
        ("layers", layers::TESTS),
        ("concurrency", concurrency::TESTS),
        ("bases", bases::TESTS),
        ("build_limits", build_limits::TESTS),
        ("doctor", doctor::TESTS),
        ("clients", clients::TESTS),
        ("commands", commands::TESTS),
        ("copies", copies::TESTS),
        ("declarations", declarations::TESTS),
        ("escapes", escapes::TESTS),
        ("failures", failures::TESTS),
        ("formats", formats::TESTS),
        ("hashes", hashes::TESTS),
        ("progress", progress::TESTS),
        ("projects", projects::TESTS),
        ("registry", registry::TESTS),
        ("secrets", secrets::TESTS),
        ("simulator", simulator::TESTS),
        ("tokens", tokens::TESTS),
    ];
    let mut trials = Vec::new();
    for (module, tests) in modules.iter().chain(specification::MODULES) {
        for (name, body) in *tests {
            let world = Arc::clone(&world);
            trials.push(Trial::test(format!("{module}::{name}"), move || {
                body(&world);
                Ok(())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    while interrupted.load(Ordering::Relaxed) {
        // The watching thread takes the world down and ends the process.
        std::thread::park();
    }
    let Some(world) = Arc::into_inner(world) else {
        eprintln!("a test still holds the world");
        return ExitCode::FAILURE;
    };
    if let Err(error) = world.tear_down() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Takes the world down and ends the process when a signal asks for it; the flag says that one came.
fn watch(world: &Arc<World>) -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).unwrap();
    }
    let (world, came) = (Arc::downgrade(world), Arc::clone(&flag));
    std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if let Some(world) = world.upgrade() {
            world.abandon();
        }
        std::process::exit(130);
    });
    came
}
