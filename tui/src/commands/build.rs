//! `build`: from a declaration to an image in the registry.

use std::collections::BTreeMap;

use chalk_core::wire::{BuildReply, BuildRequest, BuildStatus, exit};
use chalk_core::{Digest, wire};
use serde_json::json;

use super::upload::{self, Sent};
use crate::cli;
use crate::client::Client;
use crate::connect::Server;
use crate::declaration::{self, Declared, Upload};
use crate::error::Failure;
use crate::output;
use crate::progress::Progress;
use crate::settings::Loaded;

pub(crate) async fn build(loaded: &Loaded, args: &cli::Build, json: bool) -> Result<(), Failure> {
    let secrets = secrets(&args.secrets)?;
    let progress = Progress::start(if args.detach {
        cli::Progress::Quiet
    } else {
        args.progress
    })?;
    // Hashing the declared files and starting a service do not wait for each other.
    let (declared, server) = tokio::join!(declaration::read(&args.file), Server::connect(loaded));
    let (declared, server) = match (declared, server) {
        (Ok(declared), Ok(server)) => (declared, server),
        (Err(failure), Ok(server)) => {
            server.close().await;
            return Err(failure);
        }
        (Err(failure), Err(_)) | (Ok(_), Err(failure)) => return Err(failure),
    };
    let result = run(&server, args, declared, secrets, progress, json).await;
    server.close().await;
    result
}

async fn run(
    server: &Server,
    args: &cli::Build,
    declared: Declared,
    secrets: BTreeMap<String, String>,
    progress: Progress,
    json: bool,
) -> Result<(), Failure> {
    if args.detach && server.is_own() {
        return Err(
            Failure::usage("--detach needs a service that goes on after this command")
                .hint("start one with `chalk serve`, or leave --detach out"),
        );
    }
    for warning in &declared.warnings {
        declaration::warn(warning);
    }
    let request = BuildRequest {
        spec: declared.spec,
        name: args.name.clone(),
        force: args.force,
        secrets,
        cancel_on_disconnect: !args.detach,
        compression: args.compression.clone(),
    };
    let client = server.client();
    let build = match submit(client, &request, &declared.uploads, &Sent::default()).await? {
        BuildReply::Reused(build) => {
            progress.finish();
            return report(&build, json);
        }
        BuildReply::Accepted(build) => build,
        BuildReply::NeedsBlobs(_) => {
            return Err(Failure::new(
                exit::UNREACHABLE,
                "the service asks for files again and again",
            )
            .why("it does not keep what was uploaded"));
        }
    };
    if args.detach {
        if json {
            return output::json(&build);
        }
        return output::line(&build.id);
    }
    report(&follow(client, &build.id, progress).await?, json)
}

/// Shows how a build goes on, and gives it as it ended; an interruption leaves it.
pub(super) async fn follow(
    client: &Client,
    id: &str,
    mut progress: Progress,
) -> Result<chalk_core::wire::Build, Failure> {
    let ended = tokio::select! {
        ended = client.follow(id, |event| progress.event(event)) => ended,
        _ = tokio::signal::ctrl_c() => {
            progress.finish();
            return Err(interrupt(client, id).await);
        }
    };
    progress.finish();
    ended
}

/// Asks for the build, uploading what the service lacks.
pub(crate) async fn submit(
    client: &Client,
    request: &BuildRequest,
    uploads: &BTreeMap<Digest, Upload>,
    sent: &Sent,
) -> Result<BuildReply, Failure> {
    let mut reply: BuildReply = client.post("/v1/builds", request).await?;
    // The second round finds files that only an uploaded tree names.
    for _ in 0..3 {
        let BuildReply::NeedsBlobs(missing) = &reply else {
            break;
        };
        upload::upload(client, &missing.digests, uploads, sent).await?;
        reply = client.post("/v1/builds", request).await?;
    }
    Ok(reply)
}

/// Leaves a build: it ends, unless other clients wait for it too.
async fn interrupt(client: &Client, id: &str) -> Failure {
    let path = format!("/v1/builds/{id}?leave=true");
    let left = client.delete(&path);
    tokio::select! {
        _ = left => Failure::interrupted()
            .why(format!("build {id} ends, unless another client waits for it")),
        _ = tokio::signal::ctrl_c() => Failure::interrupted(),
    }
}

/// Prints the outcome; a build that did not succeed is a failure.
fn report(build: &wire::Build, json: bool) -> Result<(), Failure> {
    let status = match build.status {
        BuildStatus::Built => "built",
        BuildStatus::Reused => "reused",
        _ => "failed",
    };
    if json {
        let steps: Vec<_> = build
            .steps
            .iter()
            .map(|s| {
                json!({
                    "kind": s.kind, "key": s.key, "title": s.title, "state": s.state,
                    "seconds": s.seconds, "layer_bytes": s.layer_bytes,
                })
            })
            .collect();
        let mut document = json!({
            "status": status, "id": build.id, "image_hash": build.image_hash,
            "recipe_hash": build.recipe_hash, "image": build.image, "digest": build.digest,
            "seconds": build.seconds, "steps": steps,
        });
        if let Some(problem) = &build.error {
            document["error"] = json!(problem);
        }
        output::json(&document)?;
    }
    match (&build.image, &build.error) {
        (Some(image), None) if matches!(build.status, BuildStatus::Built | BuildStatus::Reused) => {
            if json {
                Ok(())
            } else {
                output::line(image)
            }
        }
        (_, Some(problem)) => {
            let failure = Failure::from(problem.clone());
            Err(if json { failure.printed() } else { failure })
        }
        _ => Err(Failure::new(
            exit::FAILED,
            format!("build {} ended without an image", build.id),
        )),
    }
}

/// Values of the secrets that the flags name.
pub(crate) fn secrets(flags: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut values = BTreeMap::new();
    for flag in flags {
        let (name, source) = flag.split_once('=').unwrap_or((flag, ""));
        let from_env = |variable: &str| {
            std::env::var(variable).map_err(|e| {
                Failure::usage(format!(
                    "secret `{name}`: the environment has no usable `{variable}`"
                ))
                .why(e)
            })
        };
        let value = match source.split_once(':') {
            None if source.is_empty() => from_env(name)?,
            Some(("env", variable)) => from_env(variable)?,
            Some(("file", path)) => std::fs::read_to_string(path).map_err(|e| {
                Failure::usage(format!("secret `{name}`: cannot read `{path}` as text")).why(e)
            })?,
            _ => {
                // What follows the `=` may be the secret itself and is not repeated.
                return Err(Failure::usage(format!("secret `{name}`: no such source"))
                    .hint("write NAME, NAME=env:VAR or NAME=file:PATH; values never stand on the command line"));
            }
        };
        values.insert(name.to_owned(), value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_the_environment_or_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let flag = format!("A=file:{}", file.path().display());
        assert_eq!(secrets(&[flag]).unwrap()["A"], "s3cret\n");
        assert_eq!(
            secrets(&["P=env:PATH".into()]).unwrap()["P"],
            std::env::var("PATH").unwrap()
        );
        let refused = secrets(&["A=hunter2".into()]).unwrap_err();
        assert!(!refused.to_string().contains("hunter2"));
        assert!(secrets(&["NO_SUCH_VARIABLE_HERE".into()]).is_err());
    }
}
