//! Failures of the set-up.

use std::fmt::Display;
use std::io;

use crate::error::{SetupError, Stage};

/// Puts stage and subject to an error of the system.
pub(super) trait At<T> {
    fn at(self, stage: Stage, subject: impl Display) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, stage: Stage, subject: impl Display) -> Result<T, SetupError> {
        self.map_err(|error| failure(stage, subject, &error.into()))
    }
}

/// A failure with an error that need not come from the system.
pub(super) fn failure(stage: Stage, subject: impl Display, error: &io::Error) -> SetupError {
    let errno = error.raw_os_error().unwrap_or(0);
    let detail = if errno == 0 {
        error.to_string()
    } else {
        String::new()
    };
    SetupError {
        stage,
        subject: subject.to_string(),
        errno,
        detail,
    }
}

/// A failure in words.
pub(super) fn refusal(
    stage: Stage,
    subject: impl Display,
    detail: impl Into<String>,
) -> SetupError {
    SetupError {
        stage,
        subject: subject.to_string(),
        errno: 0,
        detail: detail.into(),
    }
}
