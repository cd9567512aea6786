//! Speed of nodes against the container engines of this machine's distribution, and of the terminal
//! app: `cargo xtask bench --only nodes,app`. Prints the rows of the table as JSON; what it does
//! meanwhile goes to standard error.

// Measures nothing that it does not expect to work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod app;
mod fleet;
mod peers;
mod ready;
mod row;
mod spread;
mod start;

use std::process::ExitCode;

use chalk_tests::World;
use serde_json::json;

use row::Row;

/// Name and body of a part.
type Part = (&'static str, fn(&World) -> Vec<Row>);

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

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (parts, versions): (&[Part], _) = match words.next().as_deref() {
        Some("nodes") => (&NODES, peers::versions()),
        Some("app") => (&APP, json!({})),
        other => {
            eprintln!("expected `nodes` or `app`, found {other:?}");
            return ExitCode::FAILURE;
        }
    };
    let wanted: Vec<String> = words.collect();
    let world = World::new();
    let mut rows = Vec::new();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            eprintln!("measuring {name}");
            rows.extend(measure(&world));
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
