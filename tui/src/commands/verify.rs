//! `image verify`: builds an image anew and compares it with the published one.

use chalk_core::wire::{Build, Difference, LayerCheck, Verification, VerifyRequest, exit};
use serde_json::json;

use super::build::{follow, secrets};
use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::error::Failure;
use crate::output;
use crate::progress::Progress;

pub(crate) async fn verify(server: &Server, args: &cli::Verify, json: bool) -> Result<(), Failure> {
    let request = VerifyRequest {
        secrets: secrets(&args.secrets)?,
        cancel_on_disconnect: true,
    };
    let progress = Progress::start(args.progress)?;
    let client = server.client();
    let path = format!("/v1/images/{}/verify", segment(&args.image));
    let build: Build = client.post(&path, &request).await?;
    report(&follow(client, &build.id, progress).await?, json)
}

/// Prints what came of it; a difference is a failure.
fn report(build: &Build, json: bool) -> Result<(), Failure> {
    let Some(verification) = &build.verification else {
        let failure = match &build.error {
            Some(problem) => Failure::from(problem.clone()),
            None => Failure::new(
                exit::FAILED,
                format!("build {} ended without a comparison", build.id),
            ),
        };
        return Err(failure);
    };
    if json {
        output::json(&json!({
            "identical": verification.identical,
            "config_identical": verification.config_identical,
            "id": build.id, "image_hash": build.image_hash, "image": build.image,
            "digest": build.digest, "seconds": build.seconds, "layers": verification.layers,
        }))?;
    } else {
        print(verification)?;
    }
    if verification.identical {
        return Ok(());
    }
    let failure = Failure::new(
        exit::FAILED,
        format!(
            "image {} is not what its declaration gives now",
            output::short(build.image_hash)
        ),
    );
    let failure = failure.why(summary(verification));
    Err(if json { failure.printed() } else { failure })
}

fn print(verification: &Verification) -> Result<(), Failure> {
    for layer in &verification.layers {
        let number = layer.step.map_or("-".to_owned(), |step| {
            format!("#{}", step.saturating_add(1))
        });
        let verdict = match layer.identical {
            true => "identical",
            false => "DIFFERENT",
        };
        let title = layer.title.replace('\n', " ");
        output::line(&format!("{number:<4} {verdict}  {title}"))?;
        for file in &layer.files {
            let words: Vec<&str> = file.differs.iter().map(|d| Difference::word(*d)).collect();
            output::line(&format!("       /{}: {}", file.path, words.join(", ")))?;
        }
        if layer.more > 0 {
            output::line(&format!("       ... and {} more", layer.more))?;
        }
        if !layer.identical && layer.files.is_empty() {
            output::line(&format!("       {}", same_files(layer)))?;
        }
    }
    if !verification.config_identical {
        output::line("     DIFFERENT  the image's config")?;
    }
    if verification.identical {
        output::line("identical")?;
    }
    Ok(())
}

/// How layers of equal files can still differ.
fn same_files(layer: &LayerCheck) -> &'static str {
    match (layer.published, layer.rebuilt) {
        (Some(_), Some(_)) => "the same files, written in another way",
        (Some(_), None) => "an empty layer that is not made any more",
        _ => "an empty layer that was not made before",
    }
}

fn summary(verification: &Verification) -> String {
    let different = verification.layers.iter().filter(|layer| !layer.identical);
    let files = |layer: &LayerCheck| layer.files.len() as u64 + layer.more;
    let (layers, files) = different.fold((0_u64, 0_u64), |(layers, all), layer| {
        (layers + 1, all + files(layer))
    });
    match layers {
        0 => "its config differs".to_owned(),
        _ => format!(
            "{layers} of {} layers differ, in {files} files",
            verification.layers.len()
        ),
    }
}
