//! `audit`: who changed what.

use chalk_core::wire::{AuditEntry, AuditOutcome};

use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::settings::Loaded;

const HEAD: [&str; 7] = [
    "NUMBER", "TIME", "WHO", "PROJECT", "FROM", "ACTION", "OUTCOME",
];

pub(crate) async fn audit(audit: &cli::Audit, loaded: &Loaded, json: bool) -> Result<(), Failure> {
    let server = Server::connect(loaded).await?;
    let result = run(audit, &server, json).await;
    server.close().await;
    result
}

async fn run(audit: &cli::Audit, server: &Server, json: bool) -> Result<(), Failure> {
    let mut path = format!("/v1/audit?limit={}", audit.limit);
    if let Some(before) = audit.before {
        path.push_str(&format!("&before={before}"));
    }
    for (name, value) in [
        ("who", &audit.who),
        ("action", &audit.action),
        ("project", &audit.project),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    let entries: Vec<AuditEntry> = server.client().get(&path).await?;
    if json {
        return output::json(&entries);
    }
    let rows: Vec<Vec<String>> = entries.into_iter().map(row).collect();
    output::table(&HEAD, &rows)
}

fn row(entry: AuditEntry) -> Vec<String> {
    let who = match entry.name {
        Some(name) => format!("{} ({name})", entry.who),
        None => entry.who,
    };
    let mut action = entry.action;
    for more in [entry.target, entry.made.unwrap_or_default()] {
        if !more.is_empty() {
            action = format!("{action} {more}");
        }
    }
    let outcome = match entry.outcome {
        AuditOutcome::Done => "done",
        AuditOutcome::Denied => "denied",
        AuditOutcome::Refused => "refused",
        AuditOutcome::Failed => "failed",
    };
    vec![
        entry.seq.to_string(),
        entry.time,
        who,
        entry.project.unwrap_or_else(|| "-".to_owned()),
        entry.from,
        action,
        format!("{outcome} ({})", entry.status),
    ]
}
