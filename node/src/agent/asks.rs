//! Questions of the service, and their answers.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use chalk_core::wire::agent::{Ask, MAX_REPORT};
use chalk_core::wire::{GcReport, Problem, problem};
use serde::Serialize;
use serde_json::Value;

use super::Agent;
use super::{files, streams};

/// Most bytes of the lists of an answer: half of what a line takes.
const LISTS: usize = MAX_REPORT / 2;
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
            let mut room = LISTS;
            listing.left_out += bound(&mut listing.images, &mut room);
            listing.left_out += bound(&mut listing.items, &mut room);
            value(&listing)
        }
        Ask::CacheRemove { digest, unpin } => {
            value(&freed(name(), images.remove(digest, unpin).await?))
        }
        Ask::CacheCollect { gc } => value(&freed(name(), images.collect(gc).await?)),
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
        Ask::Processes { sandbox } => {
            let mut processes = sandboxes.processes(&sandbox).await?;
            let mut room = LISTS;
            bound(&mut processes, &mut room);
            value(&processes)
        }
        Ask::ReadFile {
            ticket,
            sandbox,
            path,
        } => value(&files::read(agent, ticket, &sandbox, &path).await?),
        Ask::WriteFile {
            ticket,
            sandbox,
            path,
            mode,
        } => value(&files::write(agent, &ticket, &sandbox, &path, mode).await?),
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

fn freed(node: String, mut report: GcReport) -> GcReport {
    report.node = node;
    let mut room = LISTS;
    report.left_out += bound(&mut report.freed, &mut room);
    report.left_out += bound(&mut report.kept, &mut room);
    report
}

/// Leaves of a list what takes at most `room` bytes as JSON, which is taken off; gives how many
/// went.
fn bound<T: Serialize>(list: &mut Vec<T>, room: &mut usize) -> u64 {
    let fits = list.iter().take_while(|item| {
        let length = serde_json::to_vec(item).map_or(usize::MAX, |json| json.len() + 1);
        let left = room.checked_sub(length);
        // What follows a piece that does not fit shall not fill the gap.
        *room = left.unwrap_or(0);
        left.is_some()
    });
    let fits = fits.count();
    let whole = list.len();
    list.truncate(fits);
    (whole - fits) as u64
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

/// The answer in place of one that no line takes.
pub(super) fn too_long(bytes: usize) -> Problem {
    Problem {
        kind: problem::TOO_LARGE.to_owned(),
        title: "the node's answer is too long".to_owned(),
        status: 500,
        detail: format!("{bytes} bytes; at most {MAX_REPORT} can be sent"),
        hint: String::new(),
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

#[cfg(test)]
mod tests {
    use chalk_core::Digest;
    use chalk_core::wire::{CacheItem, CacheItemKind, CacheUsage};

    use super::*;

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let item = |number: usize| CacheItem {
            kind: CacheItemKind::File,
            digest: Digest::of(&number.to_le_bytes()),
            bytes: 1,
            why: "a mounted file that no sandbox uses".into(),
            evictable: true,
        };
        let report = |freed: usize, kept: usize| GcReport {
            node: String::new(),
            dry_run: true,
            freed_bytes: 0,
            freed: (0..freed).map(item).collect(),
            kept: (0..kept).map(item).collect(),
            usage: CacheUsage::default(),
            left_out: 0,
        };
        let short = freed("n1".into(), report(3, 2));
        assert_eq!(
            (short.freed.len(), short.kept.len(), short.left_out),
            (3, 2, 0)
        );
        let long = freed("n1".into(), report(100_000, 7));
        assert!(long.freed.len() > 10_000 && long.kept.is_empty());
        assert_eq!(long.freed.len() as u64 + long.left_out, 100_007);
        assert!(serde_json::to_vec(&long).unwrap().len() < MAX_REPORT);
    }
}
