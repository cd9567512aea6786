//! Speed and size against peers installed on the same machine, in one run.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::host::{self, package};
use crate::run::{self, Failure, Result, at, command};
use crate::{npm, wasm};

/// Where the table goes.
const PAGE: &str = "docs/benchmarks.md";

/// What stands above the table.
const ABOUT: &str = "\
# Benchmarks

Written by `cargo xtask bench`, which builds everything by the release profile, measures ours and the
peers in one run, and takes medians. Ratios are ours by the peer's. Run it on an otherwise idle machine.
";

/// Measures, prints the table, and writes it into the documentation.
///
/// # Errors
/// When something cannot be built or measured. An aim that is missed is told in the table.
pub(crate) fn run() -> Result<()> {
    host::install(&[package("chromium", "/usr/bin/chromium")])?;
    let toolchain = wasm::check()?;
    let chalk = host::build_chalk("release")?;
    let folder = wasm::folder().join("bench");
    npm::install(&folder)?;
    eprintln!("measuring; this takes a few minutes");
    let mut node = command("node", ["run.mjs"]);
    node.arg(&chalk)
        .arg("/usr/bin/chromium")
        .current_dir(&folder);
    let text = run::capture_stdout(&mut node)?;
    let found: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::Other(format!("the measurements are no JSON: {error}")))?;
    let table = table(&found)?;
    print!("{table}");
    let mut page = format!("{ABOUT}\n## The npm package\n\n{table}\n");
    let _ = writeln!(page, "WebAssembly: {toolchain}.");
    let _ = writeln!(page, "Machine: {}.", machine(&found)?);
    let file = host::workspace().join(PAGE);
    fs::write(&file, page).map_err(at(&file))
}

fn table(found: &Value) -> Result<String> {
    let rows = found["rows"].as_array();
    let rows = rows.ok_or_else(|| Failure::Other("no measurements came back".to_owned()))?;
    let mut table =
        String::from("| case | ours | peer | ratio | aim | |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let number = |name: &str| row[name].as_f64().map(short).unwrap_or_default();
        let mut name = text("name").to_owned();
        if !text("note").is_empty() {
            let _ = write!(name, " ({})", text("note"));
        }
        let unit = text("unit");
        let peer = match number("peer").as_str() {
            "" => String::new(),
            peer => format!("{peer} {unit}"),
        };
        let met = match row["met"].as_bool() {
            Some(true) => "met",
            _ => "missed",
        };
        let _ = writeln!(
            table,
            "| {name} | {} {unit} | {peer} | {} | {} | {met} |",
            number("ours"),
            number("ratio"),
            text("aim"),
        );
    }
    Ok(table)
}

/// A number with as many digits as it deserves.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Processor, kernel and versions, in a line.
fn machine(found: &Value) -> Result<String> {
    let file = "/proc/cpuinfo";
    let cpus = fs::read_to_string(file).map_err(at(file))?;
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kernel = run::capture(&mut command("uname", ["-sr"]))?;
    let mut text = format!(
        "{} × {}, {}",
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        kernel.trim()
    );
    for (name, version) in found["versions"].as_object().into_iter().flatten() {
        let _ = write!(text, ", {name} {}", version.as_str().unwrap_or_default());
    }
    Ok(text)
}
