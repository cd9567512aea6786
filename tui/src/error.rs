//! What the command prints when something fails: what, why, what to do; and its exit code.

use std::fmt;

use chalk_core::wire::{Problem, exit, problem};

/// A failure that ends the command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code, one of [`exit`].
    pub(crate) code: u8,
    /// What failed.
    pub(crate) what: String,
    /// Why; may be empty.
    pub(crate) why: String,
    /// What to do; may be empty.
    pub(crate) hint: String,
    /// Whether standard output has the JSON form already.
    pub(crate) reported: bool,
    /// Whether the same call may go better in a while.
    pub(crate) transient: bool,
    /// Whether there is nothing to say: the exit code is all.
    pub(crate) silent: bool,
}

impl Failure {
    pub(crate) fn new(code: u8, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            why: String::new(),
            hint: String::new(),
            reported: false,
            transient: false,
            silent: false,
        }
    }

    /// The exit code of a sandbox, passed on without a word.
    pub(crate) fn code(code: u8) -> Self {
        Self {
            silent: true,
            ..Self::new(code, String::new())
        }
    }

    /// The same failure, as one that may pass.
    pub(crate) fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// Bad usage or bad input, exit code 2.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(exit::USAGE, what)
    }

    pub(crate) fn why(mut self, why: impl fmt::Display) -> Self {
        self.why = why.to_string();
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Interrupted by the user, exit code 130.
    pub(crate) fn interrupted() -> Self {
        Self::new(exit::INTERRUPTED, "interrupted")
    }

    /// The same failure for one whose report has been printed as JSON already.
    pub(crate) fn printed(mut self) -> Self {
        self.reported = true;
        self
    }

    /// The JSON form that `--json` prints: the problem document with the exit code.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "error": { "title": self.what, "detail": self.why, "hint": self.hint },
            "exit_code": self.code,
        })
    }
}

/// The exit code that belongs to the kind of a problem.
pub(crate) fn code_of(kind: &str) -> u8 {
    match kind {
        problem::BAD_REQUEST
        | problem::BASE_PLATFORM
        | problem::DIGEST_MISMATCH
        | problem::SANDBOX_REFUSED
        | problem::TOO_LARGE => exit::USAGE,
        problem::NOT_FOUND
        | problem::AMBIGUOUS
        | problem::BASE_NOT_FOUND
        | problem::NAME_TAKEN
        | problem::NO_NODE => exit::NOT_FOUND,
        problem::STEP_FAILED
        | problem::CANCELLED
        | problem::INTERRUPTED
        | problem::CACHE_TOO_SMALL
        | problem::DISK_FULL
        | problem::FILE_FAILED
        | problem::DAMAGED
        | problem::TIMED_OUT
        | problem::CONFLICT
        | problem::NODE_FAILED
        | problem::NOT_RUNNING => exit::FAILED,
        problem::COMMAND_NOT_FOUND => exit::NO_COMMAND,
        problem::COMMAND_NOT_EXECUTABLE => exit::NOT_EXECUTABLE,
        _ => exit::UNREACHABLE,
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let transient = matches!(
            problem.kind.as_str(),
            problem::UNAVAILABLE | problem::NODE_LOST | problem::REGISTRY_UNREACHABLE
        );
        Self {
            why: problem.detail,
            hint: problem.hint,
            transient,
            ..Self::new(code_of(&problem.kind), problem.title)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for (word, text) in [("why", &self.why), ("try", &self.hint)] {
            if !text.is_empty() {
                write!(
                    f,
                    "\n  {word}: {}",
                    text.trim_end().replace('\n', "\n       ")
                )?;
            }
        }
        Ok(())
    }
}
