//! `doctor`: whether this host can do what it is asked for, and what to change where it cannot.

mod builders;
mod disk;
mod groups;
mod kernel;
mod network;
mod user;

use chalk_core::wire::exit;
use serde::Serialize;

use crate::error::Failure;
use crate::output;
use crate::settings::Loaded;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// Something works less well, or could not be checked.
    Warn,
    /// Something that builds or sandboxes need does not work.
    Fail,
}

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    /// What was looked at, one word or two.
    name: &'static str,
    status: Status,
    /// What was found.
    found: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    todo: String,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            todo: String::new(),
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            todo: todo.into(),
            ..Self::ok(name, found)
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::warn(name, found, todo)
        }
    }
}

/// Looks at everything, prints a table, and fails where a check failed.
pub(crate) async fn doctor(loaded: &Loaded, json: bool) -> Result<(), Failure> {
    let dir = loaded.settings.state.dir.clone();
    let host = tokio::task::spawn_blocking(move || {
        let mut checks = kernel::checks();
        checks.extend(user::checks());
        checks.extend(groups::checks());
        checks.extend(disk::checks(&dir));
        checks
    });
    let (host, trial, network, builders) = tokio::join!(
        host,
        user::trial(),
        network::checks(loaded),
        builders::checks(&loaded.settings.build)
    );
    let mut checks = host.unwrap_or_default();
    checks.push(trial);
    checks.extend(network);
    checks.extend(builders);
    report(&checks, json)
}

fn report(checks: &[Check], json: bool) -> Result<(), Failure> {
    let failed = checks.iter().filter(|c| c.status == Status::Fail).count();
    if json {
        output::json(&serde_json::json!({ "ok": failed == 0, "checks": checks }))?;
    } else {
        print(checks)?;
    }
    match failed {
        0 => Ok(()),
        _ => {
            let what = match failed {
                1 => "1 check failed".to_owned(),
                n => format!("{n} checks failed"),
            };
            let failure = Failure::new(exit::FAILED, what);
            Err(if json { failure.printed() } else { failure })
        }
    }
}

fn print(checks: &[Check]) -> Result<(), Failure> {
    let word = |status| match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|c| {
            vec![
                word(c.status).to_owned(),
                c.name.to_owned(),
                c.found.clone(),
            ]
        })
        .collect();
    output::table(&["STATE", "CHECK", "FOUND"], &rows)?;
    let todo: Vec<&Check> = checks.iter().filter(|c| !c.todo.is_empty()).collect();
    if !todo.is_empty() {
        output::line("")?;
    }
    for check in todo {
        output::line(&format!("{}: {}", check.name, check.todo))?;
    }
    Ok(())
}
