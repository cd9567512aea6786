//! Speed of builds, registry and nodes against the container engines of this machine's distribution,
//! and of service and terminal app: `cargo xtask bench --only builds,service,registry,nodes,app`.
//! Prints the rows of the table as JSON; what it does meanwhile goes to standard error.

// Measures nothing that it does not expect to work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod app;
mod builds;
mod fleet;
mod peers;
mod process;
mod ready;
mod registry;
mod row;
mod service;
mod spread;
mod start;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chalk_tests::{World, interrupt, is_interrupted};
use serde_json::json;

use row::Row;

/// Name and body of a part.
type Part = (&'static str, fn(&World) -> Vec<Row>);

/// The biggest first, as long as the disk is empty.
const BUILDS: [Part; 8] = [
    ("base", builds::base),
    ("cold", builds::cold),
    ("unchanged", builds::unchanged),
    ("package", builds::package),
    ("command", builds::command),
    ("directory", builds::directory),
    ("files", builds::files),
    ("pack", builds::pack),
];

const SERVICE: [Part; 5] = [
    ("reuse", service::reuse),
    ("idle", service::idle),
    ("restart", service::restart),
    ("spec", service::spec),
    ("sha256", service::sha256),
];

const REGISTRY: [Part; 2] = [("pushes", registry::pushes), ("heads", registry::heads)];

const NODES: [Part; 4] = [
    ("start", start::measure),
    ("ready", ready::measure),
    ("spread", spread::measure),
    ("fleet", fleet::measure),
];

const APP: [Part; 3] = [
    ("start", app::start),
    ("load", app::load),
    ("log", app::long_log),
];

/// Exit code after an interrupt.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (parts, versions): (&[Part], _) = match words.next().as_deref() {
        Some("builds") => (
            &BUILDS,
            peers::versions(&["docker", "buildah", "docker-registry"]),
        ),
        Some("service") => (&SERVICE, peers::versions(&["openssl"])),
        Some("registry") => (&REGISTRY, peers::versions(&["docker-registry"])),
        Some("nodes") => (
            &NODES,
            peers::versions(&["docker", "containerd", "runc", "skopeo", "umoci"]),
        ),
        Some("app") => (&APP, json!({})),
        other => {
            eprintln!("expected the name of a section, found {other:?}");
            return ExitCode::FAILURE;
        }
    };
    let wanted: Vec<String> = words.collect();
    let known = |word: &String| parts.iter().any(|(name, _)| name == word);
    if let Some(unknown) = wanted.iter().find(|word| !known(word)) {
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no part `{unknown}`: {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    watch();
    let world = World::new();
    let mut rows = Vec::new();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            let began = Instant::now();
            eprintln!("measuring {name}");
            // What a part that fails has started ends as it unwinds; the files are ours to remove.
            let found = catch_unwind(AssertUnwindSafe(|| measure(&world)));
            let Some(found) = found.ok().filter(|_| !is_interrupted()) else {
                if let Err(error) = world.tear_down() {
                    eprintln!("{error}");
                }
                return match is_interrupted() {
                    true => ExitCode::from(INTERRUPTED),
                    false => ExitCode::FAILURE,
                };
            };
            eprintln!("measured {name} in {:.0} s", began.elapsed().as_secs_f64());
            rows.extend(found);
        }
    }
    let rows: Vec<_> = rows.iter().map(Row::json).collect();
    println!("{}", json!({"rows": rows, "versions": versions}));
    match world.tear_down() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// After a signal that asks for it, what is measured ends, so that the part fails, and removes what it
/// made as it unwinds; nobody wants to hear then what failed.
fn watch() {
    let flag = Arc::new(AtomicBool::new(false));
    let (int, term, hup) = (
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    );
    for signal in [int, term, hup] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).expect("a handler");
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !is_interrupted() {
            usual(panic);
        }
    }));
    std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("interrupted: stopping what runs, and removing what was made");
        interrupt();
    });
}
