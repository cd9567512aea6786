//! Speed of nodes against the container engines of this machine's distribution, in one run:
//! `cargo xtask bench --only nodes`. Prints the rows of the table as JSON; what it does meanwhile
//! goes to standard error.

// Measures nothing that it does not expect to work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

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

const PARTS: [Part; 4] = [
    ("start", start::measure),
    ("ready", ready::measure),
    ("spread", spread::measure),
    ("fleet", fleet::measure),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let world = World::new();
    let mut rows = Vec::new();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            eprintln!("measuring {name}");
            rows.extend(measure(&world));
        }
    }
    let rows: Vec<_> = rows.iter().map(Row::json).collect();
    println!("{}", json!({"rows": rows, "versions": peers::versions()}));
    match world.tear_down() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
