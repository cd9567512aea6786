//! `logs`: what a build printed.

use std::io::{self, IsTerminal as _, Write as _};

use chalk_core::wire::{Build, Event, EventKind};

use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::harmless;

/// Prints the log of a build, which may be named by its own id or by its image.
pub(crate) async fn logs(
    server: &Server,
    id: &str,
    step: Option<usize>,
    follow: bool,
    json: bool,
) -> Result<(), Failure> {
    let build = find(server, id).await?;
    let index = match step {
        Some(0) => return Err(Failure::usage("steps are counted from 1")),
        Some(n) if n > build.steps.len() && !build.steps.is_empty() => {
            return Err(Failure::usage(format!(
                "the build has {} steps",
                build.steps.len()
            )));
        }
        other => other.map(|n| n - 1),
    };
    let terminal = io::stdout().is_terminal();
    let mut print = |event: Event| {
        let EventKind::Log { step, text, .. } = &event.kind else {
            return;
        };
        if index.is_some_and(|i| i != *step) {
            return;
        }
        if json {
            let _ = output::json(&event);
        } else if terminal {
            for line in text.lines() {
                let _ = output::line(&harmless(line));
            }
        } else {
            let _ = io::stdout().lock().write_all(text.as_bytes());
        }
    };
    if follow || build.status.is_final() {
        server.client().follow(&build.id, &mut print).await?;
        return Ok(());
    }
    // A build that still runs: what there is by now.
    let query = index.map(|i| format!("?step={i}")).unwrap_or_default();
    let mut response = server
        .client()
        .text(&format!("/v1/builds/{}/logs{query}", build.id))
        .await?;
    while let Ok(Some(chunk)) = response.chunk().await {
        let _ = io::stdout().lock().write_all(&chunk);
    }
    Ok(())
}

async fn find(server: &Server, id: &str) -> Result<Build, Failure> {
    let client = server.client();
    match client
        .get::<Build>(&format!("/v1/builds/{}", segment(id)))
        .await
    {
        Err(failure) if failure.code == chalk_core::wire::exit::NOT_FOUND => {
            let image = super::images::find(server, id).await.map_err(|_| failure)?;
            let hash = image.image.image_hash;
            let builds: Vec<Build> = client
                .get(&format!("/v1/builds?hash={hash}&limit=100"))
                .await?;
            let ran = |b: &&Build| b.status != chalk_core::wire::BuildStatus::Reused;
            builds
                .iter()
                .find(ran)
                .or(builds.first())
                .cloned()
                .ok_or_else(|| {
                    Failure::new(
                        chalk_core::wire::exit::NOT_FOUND,
                        format!("no build of {hash} is known here"),
                    )
                    .why("the image was built by another service or its log was removed")
                })
        }
        other => other,
    }
}
