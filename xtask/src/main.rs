//! Project tasks, run as `cargo xtask <task>`: everything that is more than one command and would
//! otherwise be a shell script.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod base;
mod bench;
mod chart;
mod compile;
mod demo;
mod fuzz;
mod host;
mod npm;
mod package;
mod record;
mod run;
mod simulate;
mod stamp;
mod suite;
mod torture;
mod wasm;
mod web;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the chalkcompute project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the quickstart example with a service of its own, again, and with one change.
    Demo(demo::Options),
    /// Installs what the suites need and runs every check and test.
    Test(suite::Options),
    /// Builds the npm package with its WebAssembly file and prints the sizes.
    Wasm(wasm::Options),
    /// Measures size and speed against peers, and writes docs/benchmarks.md.
    Bench(bench::Options),
    /// Serves the API with made-up nodes, images and builds, until it is interrupted.
    Simulate(simulate::Options),
    /// Kills, fills and damages a service at work, and checks what is left.
    Torture(torture::Options),
    /// Records the terminal app for the documentation, and draws its pictures.
    Record,
    /// Builds the page, which the next build of `chalk` takes in.
    Web,
    /// Checks the Helm chart of `deploy/`, or makes the plain manifests anew.
    Chart(chart::Options),
    /// Makes the Debian package; prints its path.
    Package(package::Options),
    /// Makes the base image that stands in for python:3.12-slim-bookworm; prints its path.
    Base,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => suite::run(&options),
        Task::Wasm(options) => wasm::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Simulate(options) => simulate::run(&options),
        Task::Torture(options) => torture::run(&options),
        Task::Record => record::run(),
        Task::Web => web::run(),
        Task::Chart(options) => chart::run(&options),
        Task::Package(options) => package::run(&options),
        Task::Base => base::stand_in().map(|layout| println!("{}", layout.display())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
