//! `project create|ls|set|rm`: who shares what, and how much of it.

use chalk_core::wire::{Project, ProjectRequest, Quotas};
use serde_json::json;

use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::progress::bytes;
use crate::settings::Loaded;
use crate::{output, quantity};

const HEAD: [&str; 5] = ["PROJECT", "BUILDS", "IMAGES", "STORAGE", "CREATED"];
/// What takes a quota away.
const NONE: &str = "none";

pub(crate) async fn projects(
    verb: cli::Project,
    loaded: &Loaded,
    json: bool,
) -> Result<(), Failure> {
    // What is wrong in the words is told before a service is started for them.
    let verb = match verb {
        cli::Project::Create { name, quotas } => {
            let quotas = changed(Quotas::default(), &quotas)?;
            Verb::Create(ProjectRequest { name, quotas })
        }
        cli::Project::Ls => Verb::Ls,
        cli::Project::Set { name, quotas } => {
            changed(Quotas::default(), &quotas)?;
            if quotas.builds.is_none() && quotas.storage.is_none() {
                return Err(Failure::usage("nothing to set").hint("give --builds or --storage"));
            }
            Verb::Set(name, quotas)
        }
        cli::Project::Rm { names } => Verb::Rm(names),
    };
    let server = Server::connect(loaded).await?;
    let result = run(verb, &server, json).await;
    server.close().await;
    result
}

enum Verb {
    Create(ProjectRequest),
    Ls,
    Set(String, cli::Quotas),
    Rm(Vec<String>),
}

/// Quotas with what the words change.
fn changed(mut quotas: Quotas, words: &cli::Quotas) -> Result<Quotas, Failure> {
    match words.builds.as_deref() {
        None => {}
        Some(NONE) => quotas.builds = None,
        Some(text) => {
            let number = text.parse().map_err(|_| {
                Failure::usage(format!(
                    "--builds: `{text}` is neither a number nor `{NONE}`"
                ))
            })?;
            quotas.builds = Some(number);
        }
    }
    match words.storage.as_deref() {
        None => {}
        Some(NONE) => quotas.storage_bytes = None,
        Some(text) => quotas.storage_bytes = Some(quantity::size("--storage", text)?),
    }
    Ok(quotas)
}

/// `1 of 4`, or `1` where there is no limit.
fn of(used: String, quota: Option<String>) -> String {
    match quota {
        Some(quota) => format!("{used} of {quota}"),
        None => used,
    }
}

fn row(project: Project) -> Vec<String> {
    let Project {
        name,
        created,
        quotas,
        usage,
    } = project;
    let stored = usage.storage_bytes.map_or_else(|| "-".to_owned(), bytes);
    vec![
        name,
        of(
            usage.builds.to_string(),
            quotas.builds.map(|n| n.to_string()),
        ),
        usage.images.to_string(),
        of(stored, quotas.storage_bytes.map(bytes)),
        created.unwrap_or_else(|| "-".to_owned()),
    ]
}

async fn run(verb: Verb, server: &Server, json: bool) -> Result<(), Failure> {
    let client = server.client();
    match verb {
        Verb::Create(request) => {
            let made: Project = client.post("/v1/projects", &request).await?;
            match json {
                true => output::json(&made),
                false => output::line(&format!("made {}", made.name)),
            }
        }
        Verb::Ls => {
            let projects: Vec<Project> = client.get("/v1/projects").await?;
            if json {
                return output::json(&projects);
            }
            let rows: Vec<Vec<String>> = projects.into_iter().map(row).collect();
            output::table(&HEAD, &rows)
        }
        Verb::Set(name, words) => {
            let path = format!("/v1/projects/{}", segment(&name));
            let now: Project = client.get(&path).await?;
            let quotas = changed(now.quotas, &words)?;
            let set: Project = client.put_json(&path, &quotas).await?;
            match json {
                true => output::json(&set),
                false => output::table(&HEAD, &[row(set)]),
            }
        }
        Verb::Rm(names) => {
            for name in names {
                let path = format!("/v1/projects/{}", segment(&name));
                client.delete(&path).await?;
                match json {
                    true => output::json(&json!({ "removed": name }))?,
                    false => output::line(&format!("removed {name}"))?,
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_change_by_name() {
        let words = |builds: Option<&str>, storage: Option<&str>| cli::Quotas {
            builds: builds.map(str::to_owned),
            storage: storage.map(str::to_owned),
        };
        let before = Quotas {
            builds: Some(4),
            storage_bytes: Some(7),
        };
        let check = |builds, storage, expect: Option<(Option<u64>, Option<u64>)>| {
            let got = changed(before, &words(builds, storage)).ok();
            assert_eq!(got.map(|q| (q.builds, q.storage_bytes)), expect);
        };
        check(None, None, Some((Some(4), Some(7))));
        check(Some("2"), None, Some((Some(2), Some(7))));
        check(Some("none"), Some("1 KiB"), Some((None, Some(1024))));
        check(None, Some("none"), Some((Some(4), None)));
        check(Some("few"), None, None);
        check(None, Some("much"), None);
    }
}
