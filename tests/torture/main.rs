//! Torture of the service: `cargo xtask torture --seed S --trials N`.
//!
//! A trial draws a workload of builds, pushes, pulls and deletes and one fault from its seed, lets the
//! fault happen in the middle of the work, starts the service again and looks whether what was
//! acknowledged is there, what is visible is whole, and nothing else is left. Trials know nothing of
//! each other, so that a failing one can be run alone. Where Debian's `docker-registry` is
//! installed, the registry part of the same trials runs against it, too.
//!
//! See `docs/durability.md` for what is promised and what each fault does.

// What the harness itself needs, and does not get, ends it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../simulate/chance.rs"]
#[allow(dead_code)]
mod chance;
mod check;
mod client;
mod clients;
mod disk;
mod facts;
mod garbage;
mod leaks;
mod nodes;
mod payload;
mod peer;
mod plan;
mod process;
mod proxy;
mod recipe;
mod report;
mod setting;
mod trial;
mod volumes;
mod work;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;

use plan::{Kind, Plan};
use report::Report;
use setting::Setting;

/// How often a held run looks whether it may go on.
const HELD: Duration = Duration::from_millis(200);

#[derive(Parser)]
#[command(
    name = "cargo xtask torture",
    about = "Kills, fills and damages a service at work, and checks what is left",
    after_help = "SIGUSR1 holds it once the trials that run have ended, SIGUSR2 lets it go on; \
                  SIGINT and SIGTERM end it there, with the table of what was done."
)]
struct Options {
    /// Where all choices come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many trials.
    #[arg(long, default_value_t = 1000)]
    trials: usize,
    /// Number of the first.
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// Run this trial alone.
    #[arg(long)]
    trial: Option<usize>,
    /// Run trials of these faults only.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Trials at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Leave docker-registry out.
    #[arg(long)]
    no_peer: bool,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Print each trial as it ends.
    #[arg(long)]
    verbose: bool,
    /// Where the disks of the trials are made.
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let folder = match &options.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir(),
    };
    let setting = Arc::new(Setting::prepare(&folder, !options.no_peer));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).expect("a handler");
    }
    // A machine that is wanted for something else for a while: trials have limits of time, and are
    // not stopped in their middle.
    let hold = Arc::new(AtomicUsize::new(0));
    for (signal, value) in [
        (signal_hook::consts::SIGUSR1, 1),
        (signal_hook::consts::SIGUSR2, 0),
    ] {
        signal_hook::flag::register_usize(signal, Arc::clone(&hold), value).expect("a handler");
    }
    let numbers: Vec<usize> = match options.trial {
        Some(trial) => vec![trial],
        None => (options.from..options.from + options.trials).collect(),
    };
    let report = Mutex::new(Report::new(setting.points.all()));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if hold.load(Ordering::Relaxed) != 0 {
                        std::thread::sleep(HELD);
                        continue;
                    }
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(number) = numbers.get(at) else {
                        return;
                    };
                    let plan = Plan::draw(options.seed, *number, &setting.points);
                    if !options.only.is_empty() && !options.only.contains(&plan.kind()) {
                        continue;
                    }
                    let outcomes = trial::run(&setting, &plan, &stop);
                    let mut report = report.lock().expect("no thread panicked");
                    let wrong = report.add(options.seed, &plan, outcomes, options.verbose);
                    if wrong && !options.keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let report = report.into_inner().expect("no thread panicked");
    let whole = options.trial.is_none() && options.only.is_empty();
    report.print(options.seed, whole);
    let shown: BTreeSet<&str> = setting.notices.iter().map(String::as_str).collect();
    for notice in shown {
        println!("{notice}");
    }
    setting.tear_down();
    match report.violations() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
