//! Failures of sandboxes as the service is told.

use std::error::Error;

use chalk_core::wire::{Problem, problem};
use chalk_sandbox::SandboxError;
use chalk_sandbox::cgroup::CgroupError;

use crate::mounts::{MountError, SpawnError};

pub(super) fn bad_request(title: &str, detail: &str, hint: &str) -> Problem {
    make(problem::BAD_REQUEST, 400, title, detail, hint)
}

pub(super) fn not_found(title: &str, detail: &str) -> Problem {
    make(problem::NOT_FOUND, 404, title, detail, "")
}

pub(super) fn not_running(title: &str, detail: &str) -> Problem {
    make(problem::NOT_RUNNING, 409, title, detail, "")
}

/// The sandbox was lost with an earlier life of the node.
pub(super) fn lost() -> Problem {
    make(
        problem::NODE_LOST,
        503,
        "the node ended under the sandbox",
        "all its processes ended with it",
        "start the sandbox again",
    )
}

/// An error of the node itself.
pub(super) fn internal(title: &str, error: &dyn Error) -> Problem {
    make(problem::INTERNAL, 500, title, &chain(error), "")
}

/// What a sandbox could not do.
pub(super) fn of_sandbox(error: &SandboxError) -> Problem {
    let kind = match error {
        SandboxError::InvalidSpec { .. }
        | SandboxError::User { .. }
        | SandboxError::Exec { .. } => {
            return make(
                problem::BAD_REQUEST,
                400,
                "the command cannot be run",
                &chain(error),
                "",
            );
        }
        SandboxError::Ended => {
            return not_running("the sandbox has ended", "");
        }
        _ => problem::SANDBOX_REFUSED,
    };
    make(
        kind,
        500,
        "the sandbox cannot be started",
        &chain(error),
        "",
    )
}

pub(super) fn of_spawn(error: &SpawnError) -> Problem {
    match error {
        SpawnError::Sandbox(error) => of_sandbox(error),
        SpawnError::Mounts(error) => of_mount(error),
    }
}

pub(super) fn of_mount(error: &MountError) -> Problem {
    internal("the sandbox cannot be mounted", error)
}

pub(super) fn of_cgroup(error: &CgroupError) -> Problem {
    let (kind, status) = match error {
        CgroupError::BadLimit { .. } => (problem::BAD_REQUEST, 400),
        _ => (problem::SANDBOX_REFUSED, 500),
    };
    make(kind, status, "a limit cannot be set", &chain(error), "")
}

fn make(kind: &str, status: u16, title: &str, detail: &str, hint: &str) -> Problem {
    Problem {
        kind: kind.to_owned(),
        title: title.to_owned(),
        status,
        detail: detail.to_owned(),
        hint: hint.to_owned(),
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}
