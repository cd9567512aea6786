//! Rows of the table, and the statistics that stand in them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chalk_tests::output;
use serde_json::{Value, json};

/// A case with what was measured.
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
    aim: Aim,
    note: String,
}

/// What a case is to reach.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    /// Nothing; the number stands for itself.
    None,
    /// Ours by the peer's is at most this.
    Ratio(f64),
    /// Ours by the peer's is at least this: for rates.
    Least(f64),
    /// Ours is at most this.
    Most(f64),
}

impl Row {
    /// Ours against a peer.
    pub(crate) fn against(name: &str, unit: &'static str, ours: f64, peer: f64, aim: Aim) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            ours,
            peer: Some(peer),
            aim,
            note: String::new(),
        }
    }

    /// Ours alone.
    pub(crate) fn alone(name: &str, unit: &'static str, ours: f64, aim: Aim) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            ours,
            peer: None,
            aim,
            note: String::new(),
        }
    }

    /// Says more about how it was measured.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// As `xtask` reads it.
    pub(crate) fn json(&self) -> Value {
        let ratio = self.peer.map(|peer| self.ours / peer);
        let (aim, met) = match self.aim {
            Aim::None => (String::new(), None),
            Aim::Ratio(most) => (format!("≤ {most}"), ratio.map(|ratio| ratio <= most)),
            Aim::Least(least) => (format!("≥ {least}"), ratio.map(|ratio| ratio >= least)),
            Aim::Most(most) => (format!("≤ {most} {}", self.unit), Some(self.ours <= most)),
        };
        json!({
            "name": self.name, "unit": self.unit, "ours": self.ours, "peer": self.peer,
            "ratio": ratio, "aim": aim, "met": met, "note": self.note,
        })
    }
}

/// Milliseconds of each of `count` runs, sorted; `prepare` runs before each and does not count.
pub(crate) fn times(count: usize, mut prepare: impl FnMut(), mut run: impl FnMut()) -> Times {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        prepare();
        let start = Instant::now();
        run();
        times.push(milliseconds(start.elapsed()));
    }
    Times::of(times)
}

/// Milliseconds that a command takes from its start to its end, which must be a good one, and its
/// standard output. Nothing polls, so that what takes a few milliseconds can be told apart.
#[track_caller]
pub(crate) fn timed(command: &mut Command) -> (f64, String) {
    let start = Instant::now();
    let output = output(command).unwrap();
    let time = milliseconds(start.elapsed());
    let (said, status) = (String::from_utf8_lossy(&output.stderr), output.status);
    assert!(status.success(), "{command:?}: {status}\n{said}");
    (time, String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Repetitions of what takes long: `CHALK_BENCH_ROUNDS`, or as many as told here.
pub(crate) fn rounds(usual: usize) -> usize {
    number("CHALK_BENCH_ROUNDS", usual)
}

/// A number from the environment, for smaller or larger runs than usual.
pub(crate) fn number(variable: &str, usual: usize) -> usize {
    let text = std::env::var(variable).ok();
    text.map_or(usual, |text| text.parse().expect("a number"))
}

/// So many MiB, or as many as the disk of a folder has room for `times` over; whole GiB, at least one.
pub(crate) fn fitting(folder: &Path, mebibytes: usize, times: usize) -> usize {
    /// Left to everybody else.
    const SPARE: u64 = 8 << 30;
    let disk = rustix::fs::statvfs(folder).unwrap();
    let free = (disk.f_bavail * disk.f_frsize).saturating_sub(SPARE);
    let most = usize::try_from(free >> 30).unwrap() / times;
    mebibytes.min(most.max(1) << 10)
}

/// A duration in milliseconds.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Times in milliseconds, sorted.
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Sorts them; at least one.
    pub(crate) fn of(mut times: Vec<f64>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// How many, their median and the longest, for a note.
    pub(crate) fn about(&self, what: &str) -> String {
        let (median, longest) = (self.median(), self.at(1.0));
        format!(
            "{} {what}, median {median:.1} ms, longest {longest:.1} ms",
            self.0.len()
        )
    }

    /// The one below which `share` of them lie.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let last = (self.0.len() - 1) as f64;
        self.0[(last * share).round() as usize]
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }
}
