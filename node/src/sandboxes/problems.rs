//! Failures of sandboxes as the service is told.

use std::error::Error;
use std::io;

use chalk_core::wire::{Problem, problem};
use chalk_sandbox::cgroup::CgroupError;
use chalk_sandbox::{SandboxError, Stage};

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

/// A fault of the node, not of what was asked for.
pub(super) fn node_failed(title: &str, error: &dyn Error) -> Problem {
    let hint = "try another node, or see this one's log";
    make(problem::NODE_FAILED, 500, title, &chain(error), hint)
}

/// The node takes no sandboxes any more.
pub(super) fn ending() -> Problem {
    make(
        problem::NODE_LOST,
        503,
        "the node is ending",
        "it starts no more sandboxes",
        "start the sandbox again, on another node",
    )
}

/// A disk that cannot be made.
pub(super) fn of_disk(error: &io::Error) -> Problem {
    let title = "no writable layer can be made";
    match error.kind() {
        io::ErrorKind::StorageFull => make(
            problem::DISK_FULL,
            507,
            "the node's disk is full",
            &format!("{title}: {error}"),
            "free room on the node's disk, or take another node",
        ),
        io::ErrorKind::FileTooLarge => bad_request(
            "the limit of the disk is too large",
            &format!("the node's filesystem has no file of that size: {error}"),
            "",
        ),
        _ => node_failed(title, error),
    }
}

/// What a sandbox could not do.
pub(super) fn of_sandbox(error: &SandboxError) -> Problem {
    match error {
        SandboxError::InvalidSpec { .. }
        | SandboxError::User { .. }
        | SandboxError::Exec { .. } => bad_request("the command cannot be run", &chain(error), ""),
        SandboxError::Ended => not_running("the sandbox has ended", ""),
        SandboxError::Setup(setup) if is_of_request(setup.stage) => make(
            problem::SANDBOX_REFUSED,
            400,
            "the sandbox cannot be started",
            &chain(error),
            "",
        ),
        _ => node_failed("the sandbox cannot be started", error),
    }
}

/// Whether a stage of the set-up does what the request says with what the image holds.
fn is_of_request(stage: Stage) -> bool {
    matches!(
        stage,
        Stage::AttachMount | Stage::WorkingDirectory | Stage::Credentials
    )
}

pub(super) fn of_spawn(error: &SpawnError) -> Problem {
    match error {
        SpawnError::Sandbox(error) => of_sandbox(error),
        SpawnError::Mounts(error) => of_mount(error),
    }
}

pub(super) fn of_mount(error: &MountError) -> Problem {
    node_failed("the sandbox cannot be mounted", error)
}

pub(super) fn of_cgroup(error: &CgroupError) -> Problem {
    let title = "a limit cannot be set";
    match error {
        CgroupError::BadLimit { .. } => bad_request(title, &chain(error), ""),
        CgroupError::NoController { .. } | CgroupError::NotMounted | CgroupError::NotDelegated => {
            make(problem::SANDBOX_REFUSED, 400, title, &chain(error), "")
        }
        _ => node_failed("the node's control groups cannot be used", error),
    }
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

/// An error with its causes.
pub(super) fn chain(error: &dyn Error) -> String {
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

#[cfg(test)]
mod tests {
    use chalk_sandbox::SetupError;

    use super::*;

    #[test]
    fn faults_of_the_node_are_told_from_those_of_the_request() {
        let check = |error: &SandboxError, kind: &str, status: u16| {
            let problem = of_sandbox(error);
            assert_eq!((problem.kind.as_str(), problem.status), (kind, status));
        };
        let setup = |stage| {
            SandboxError::Setup(SetupError {
                stage,
                subject: "/there".into(),
                errno: libc::EIO,
                detail: String::new(),
            })
        };
        let refused = problem::SANDBOX_REFUSED;
        check(&setup(Stage::MountRoot), problem::NODE_FAILED, 500);
        check(&setup(Stage::ControlGroup), problem::NODE_FAILED, 500);
        check(&setup(Stage::WorkingDirectory), refused, 400);
        check(&setup(Stage::AttachMount), refused, 400);
        let died = SandboxError::HelperDied {
            status: "signal: 9".into(),
        };
        check(&died, problem::NODE_FAILED, 500);
        let of_cgroup = |error: CgroupError| of_cgroup(&error).kind;
        let file = CgroupError::File {
            action: "make",
            path: "/sys/fs/cgroup/x".into(),
            source: io::Error::from_raw_os_error(libc::EIO),
        };
        assert_eq!(of_cgroup(file), problem::NODE_FAILED);
        assert_eq!(of_cgroup(CgroupError::NotMounted), refused);
        let full = of_disk(&io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(full.kind, problem::DISK_FULL);
        let large = of_disk(&io::Error::from_raw_os_error(libc::EFBIG));
        assert_eq!(large.kind, problem::BAD_REQUEST);
    }
}
