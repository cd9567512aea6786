//! How a run ended.

use std::time::Duration;

/// How a run ended, and what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exit {
    /// How the command ended.
    pub status: Status,
    /// What all processes of the run used together; zero when they had to be killed before the
    /// helper could count.
    pub usage: Usage,
    /// From start to the end of the last process.
    pub wall: Duration,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this code; 0 is success.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Killed at its time limit.
    TimedOut,
    /// Killed because the caller cancelled it.
    Cancelled,
}

impl Status {
    /// Whether the command ended with code 0.
    pub fn success(self) -> bool {
        self == Status::Code(0)
    }

    /// The code as a shell would give it: 128 + n for signal n, 124 for the time limit (as
    /// `timeout(1)`), 130 when cancelled.
    pub fn shell_code(self) -> i32 {
        match self {
            Status::Code(code) => code,
            Status::Signal(signal) => 128 + signal,
            Status::TimedOut => 124,
            Status::Cancelled => 130,
        }
    }
}

/// What the processes of a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Greatest resident size of any one process, in bytes.
    pub max_rss_bytes: u64,
}
