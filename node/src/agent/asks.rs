//! Questions of the service, and their answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use chalk_core::wire::agent::Ask;
use chalk_core::wire::{Problem, problem};
use serde::Serialize;
use serde_json::Value;

use super::Agent;
use super::streams;

/// Longest grace that a stop may have.
const LONGEST_GRACE: f64 = 24.0 * 3600.0;

/// Carries out what is asked and gives the value of the answer.
pub(super) async fn answer(agent: &Arc<Agent>, ask: Ask) -> Result<Value, Problem> {
    let images = &agent.images;
    let sandboxes = &agent.sandboxes;
    let name = || agent.settings.name.clone();
    match ask {
        Ask::CacheList => {
            let mut listing = images.listing().await?;
            listing.node = name();
            value(&listing)
        }
        Ask::CacheRemove { digest } => {
            let mut report = images.remove(digest, false).await?;
            report.node = name();
            value(&report)
        }
        Ask::CacheCollect { gc } => {
            let mut report = images.collect(gc).await?;
            report.node = name();
            value(&report)
        }
        Ask::Unpin { digest, label } => {
            images.unpin(digest, &label).await?;
            Ok(Value::Null)
        }
        Ask::Exec {
            sandbox,
            process,
            exec,
        } => value(&sandboxes.exec(&sandbox, process, exec).await?),
        Ask::Input {
            sandbox,
            process,
            data,
            close,
        } => {
            let data = base64::engine::general_purpose::STANDARD
                .decode(data)
                .map_err(|e| bad_request("the input is not base64", &e.to_string()))?;
            let input = sandboxes.input(&sandbox, &process, data.into(), close);
            input.await.map(|()| Value::Null)
        }
        Ask::Resize {
            sandbox,
            process,
            size,
        } => {
            sandboxes.resize(&sandbox, &process, size).await?;
            Ok(Value::Null)
        }
        Ask::Signal {
            sandbox,
            process,
            signal,
        } => {
            sandboxes.signal(&sandbox, &process, &signal).await?;
            Ok(Value::Null)
        }
        Ask::Stop {
            sandbox,
            grace_seconds,
            reason,
        } => {
            let grace = if grace_seconds.is_finite() {
                Duration::from_secs_f64(grace_seconds.clamp(0.0, LONGEST_GRACE))
            } else {
                return Err(bad_request("the grace is no number of seconds", ""));
            };
            sandboxes.stop(&sandbox, grace, reason).await?;
            Ok(Value::Null)
        }
        Ask::Remove { sandbox } => {
            sandboxes.remove(&sandbox).await?;
            Ok(Value::Null)
        }
        Ask::Follow {
            ticket,
            sandbox,
            process,
            after,
            follow,
        } => {
            let output = sandboxes.output(&sandbox, &process, after, follow).await?;
            streams::send(agent, ticket, output);
            Ok(Value::Null)
        }
    }
}

/// The answer to a question of a kind that this program does not know.
pub(super) fn unknown() -> Problem {
    Problem {
        kind: problem::INTERNAL.to_owned(),
        title: "the node does not know how to do that".to_owned(),
        status: 500,
        detail: format!("its program is version {}", env!("CARGO_PKG_VERSION")),
        hint: "upgrade the node's chalk to the version of the service".to_owned(),
    }
}

fn bad_request(title: &str, detail: &str) -> Problem {
    Problem {
        kind: problem::BAD_REQUEST.to_owned(),
        title: title.to_owned(),
        status: 400,
        detail: detail.to_owned(),
        hint: String::new(),
    }
}

fn value(answer: &impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(answer).map_err(|e| Problem {
        kind: problem::INTERNAL.to_owned(),
        title: "the answer cannot be written as JSON".to_owned(),
        status: 500,
        detail: e.to_string(),
        hint: String::new(),
    })
}
