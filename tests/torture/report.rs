//! What the trials add up to.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Wrong;
use crate::plan::{Kind, Plan};
use crate::trial::{Outcome, Side};

/// Lines of a service's log that are shown of a trial that failed.
const LOG_LINES: usize = 12;

#[derive(Debug, Default)]
struct Row {
    trials: usize,
    acknowledged: usize,
    seconds: f64,
    failed: usize,
    wrong: BTreeMap<Wrong, usize>,
}

/// The sum of all trials so far.
#[derive(Debug)]
pub(crate) struct Report {
    rows: BTreeMap<(Side, Kind), Row>,
    points: BTreeSet<String>,
    passed: BTreeSet<String>,
    killed: BTreeMap<String, usize>,
}

impl Report {
    pub(crate) fn new(points: BTreeSet<String>) -> Self {
        Self {
            rows: BTreeMap::new(),
            points,
            passed: BTreeSet::new(),
            killed: BTreeMap::new(),
        }
    }

    /// Takes a trial in; says what was wrong with it. Gives whether the service failed.
    pub(crate) fn add(
        &mut self,
        seed: u64,
        plan: &Plan,
        outcomes: Vec<Outcome>,
        verbose: bool,
    ) -> bool {
        let mut failed = false;
        for outcome in outcomes {
            let row = self.rows.entry((outcome.side, plan.kind())).or_default();
            row.trials += 1;
            row.acknowledged += outcome.acknowledged;
            row.seconds += outcome.seconds;
            row.failed += usize::from(!outcome.violations.is_empty());
            for violation in &outcome.violations {
                *row.wrong.entry(violation.wrong).or_default() += 1;
            }
            self.passed.extend(outcome.passed);
            if let Some(point) = &outcome.died_at {
                *self.killed.entry(point.clone()).or_default() += 1;
            }
            if verbose {
                eprintln!(
                    "trial {} {:?} {:?} {:?}: {} acknowledged, {:.2} s, {} violations",
                    plan.number,
                    outcome.side,
                    plan.kind(),
                    outcome.died_at,
                    outcome.acknowledged,
                    outcome.seconds,
                    outcome.violations.len()
                );
            }
            if outcome.side == Side::Ours && !outcome.violations.is_empty() {
                failed = true;
                eprintln!(
                    "VIOLATION in trial {}, {} ({}): run it alone by `--seed {seed} --trial {}`",
                    plan.number,
                    plan.kind().words(),
                    match (&plan.fault.point, &outcome.died_at) {
                        (Some((name, nth)), Some(_)) => format!("{name}:{nth}"),
                        (Some((name, nth)), None) => format!("{name}:{nth}, not come to"),
                        (None, _) => format!("{} ms", plan.fault.after),
                    },
                    plan.number
                );
                for violation in &outcome.violations {
                    eprintln!("  {violation}");
                }
                let lines: Vec<&str> = outcome.log.lines().collect();
                for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                    eprintln!("  | {line}");
                }
            }
        }
        failed
    }

    /// Violations of the service.
    pub(crate) fn violations(&self) -> usize {
        let ours = self
            .rows
            .iter()
            .filter(|((side, _), _)| *side == Side::Ours);
        ours.map(|(_, row)| row.wrong.values().sum::<usize>()).sum()
    }

    /// Prints the table; with the failpoints that were left out, if all were to be walked.
    pub(crate) fn print(&self, seed: u64, whole: bool) {
        print!("seed {seed}\n\n| who | fault | trials | acknowledged | failed trials |");
        for wrong in Wrong::ALL {
            print!(" {} |", wrong.words());
        }
        println!(" s/trial |\n|---|---|---|---|---|---|---|---|---|---|---|---|");
        for side in [Side::Ours, Side::Peer] {
            for kind in Kind::ALL {
                let Some(row) = self.rows.get(&(side, kind)) else {
                    continue;
                };
                let who = match side {
                    Side::Ours => "chalk",
                    Side::Peer => "docker-registry",
                };
                print!(
                    "| {who} | {} | {} | {} | {} |",
                    kind.words(),
                    row.trials,
                    row.acknowledged,
                    row.failed
                );
                for wrong in Wrong::ALL {
                    print!(" {} |", row.wrong.get(&wrong).copied().unwrap_or(0));
                }
                println!(" {:.2} |", row.seconds / row.trials as f64);
            }
        }
        println!(
            "\nfailpoints: {} of {} come to, killed at {} ({} times)",
            self.passed.intersection(&self.points).count(),
            self.points.len(),
            self.killed.len(),
            self.killed.values().sum::<usize>()
        );
        if whole {
            let never: Vec<&String> = self.points.difference(&self.passed).collect();
            let spared = self
                .passed
                .iter()
                .filter(|name| !self.killed.contains_key(*name));
            let spared: Vec<&String> = spared.collect();
            println!("never come to: {never:?}\ncome to and never killed at: {spared:?}");
        }
        println!("violations of the service: {}", self.violations());
    }
}
