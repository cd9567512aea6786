//! A service with many simulated nodes and 10,000 images in its index, on the same machine.

use std::process::Command;

use chalk_tests::{World, run};
use serde_json::Value;

use crate::row::{Aim, Row};

/// How many nodes, one after the other.
const COUNTS: [&str; 3] = ["10", "100", "1000"];

pub(crate) fn measure(_: &World) -> Vec<Row> {
    let program = std::env::var_os("CHALK_BENCH_FLEET").expect("CHALK_BENCH_FLEET");
    let found = run(Command::new(program).args(COUNTS)).ok().stdout;
    let mut rows = Vec::new();
    for line in found.lines() {
        let found: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| found[name].as_f64().unwrap();
        let (nodes, images) = (found["nodes"].to_string(), &found["images"]);
        let last = nodes == COUNTS[COUNTS.len() - 1];
        let aim = |most: f64| if last { Aim::Most(most) } else { Aim::None };
        let case = |what: &str, unit, ours, aim| {
            Row::alone(&format!("{what}, {nodes} nodes"), unit, ours, aim)
        };
        rows.extend([
            case(
                "cores that the service uses for heartbeats",
                "cores",
                number("idle_cores"),
                aim(1.0),
            )
            .note(format!(
                "{images} images; each node has 300, one changes every 10 s"
            )),
            case(
                "memory of the service at its most",
                "MB",
                number("peak_rss_bytes") / 1e6,
                aim(300.0),
            ),
            case(
                "a warm of all reaches the last node",
                "s",
                number("warm_reached_seconds"),
                aim(2.0),
            ),
            case(
                "all nodes have answered it",
                "s",
                number("warm_ready_seconds"),
                Aim::None,
            )
            .note(format!(
                "{:.2} s of processor time of the service",
                number("warm_cpu_seconds")
            )),
        ]);
    }
    rows
}
