//! `diff` and `why`: what differs between two declarations, and what that makes run again.

use chalk_core::diff::Diff;
use chalk_core::jcs::Json;
use chalk_core::wire::{Build, BuildStatus, ImageDetail, exit};

use super::declare::{pin, resolve, subject_spec};
use crate::cli;
use crate::client::segment;
use crate::connect::Server;
use crate::declaration;
use crate::error::Failure;
use crate::output;
use crate::settings::Loaded;

pub(crate) async fn diff(loaded: &Loaded, a: &str, b: &str, json: bool) -> Result<(), Failure> {
    let mut before = subject_spec(loaded, a).await?;
    let mut after = subject_spec(loaded, b).await?;
    // What was built is pinned. A declaration that is not would differ from it in its base alone.
    if before.image_hash().is_some() != after.image_hash().is_some() {
        let unpinned = if before.image_hash().is_none() {
            &mut before
        } else {
            &mut after
        };
        match pin(loaded, unpinned).await {
            Ok(pinned) => *unpinned = pinned,
            Err(failure) => {
                declaration::warn(&format!("the base is not pinned: {}", failure.what));
            }
        }
    }
    let diff = chalk_core::diff::diff(&before, &after);
    if json {
        return output::json(&diff);
    }
    print(&diff)
}

pub(crate) async fn why(server: &Server, args: &cli::Why, json: bool) -> Result<(), Failure> {
    let declared = declaration::read(&args.file).await?;
    let name = args.name.clone().or_else(|| declared.spec.name.clone());
    let spec = if declared.spec.image_hash().is_some() {
        declared.spec
    } else {
        resolve(server, &declared.spec).await?.spec
    };
    let last = last_build(server, name.as_deref()).await?;
    let detail = match (&last, &name) {
        (Some(last), _) => image(server, &last.image_hash.to_string()).await?,
        // A service whose builds are forgotten still has the image of that name, spec included.
        (None, Some(name)) => image(server, name).await.map_err(|failure| {
            if failure.code == exit::NOT_FOUND {
                never_built(&format!(" of `{name}`"))
            } else {
                failure
            }
        })?,
        (None, None) => return Err(never_built("")),
    };
    let against = detail.image.image_hash;
    let diff = chalk_core::diff::diff(&detail.spec, &spec);
    if json {
        let mut document = serde_json::to_value(&diff).map_err(|e| {
            Failure::new(exit::FAILED, "cannot print the difference as JSON").why(e)
        })?;
        let named = last.as_ref().map_or(name, |last| last.name.clone());
        document["against"] = serde_json::json!({
            "build": last.map(|last| last.id), "name": named, "image_hash": against,
        });
        return output::json(&document);
    }
    let (kind, called, created) = match &last {
        Some(last) => ("build", last.name.as_deref(), &last.created),
        None => ("image", name.as_deref(), &detail.image.created),
    };
    let called = called.map(|n| format!(" of {n}")).unwrap_or_default();
    output::line(&format!(
        "against the {kind}{called} of {created} ({})",
        output::short(against)
    ))?;
    print(&diff)
}

async fn image(server: &Server, of: &str) -> Result<ImageDetail, Failure> {
    let path = format!("/v1/images/{}", segment(of));
    server.client().get(&path).await
}

fn never_built(of: &str) -> Failure {
    Failure::new(exit::NOT_FOUND, format!("no finished build{of} is known"))
        .hint("build once with --name, then ask again; or compare two specs with `diff`")
}

/// The newest build that gave an image and is known: under `name`, or of all when the declaration has none.
async fn last_build(server: &Server, name: Option<&str>) -> Result<Option<Build>, Failure> {
    let query = name
        .map(|n| format!("&name={}", segment(n)))
        .unwrap_or_default();
    let builds: Vec<Build> = server
        .client()
        .get(&format!("/v1/builds?limit=100{query}"))
        .await?;
    let finished = |b: &Build| matches!(b.status, BuildStatus::Built | BuildStatus::Reused);
    Ok(builds.into_iter().find(finished))
}

fn print(diff: &Diff<'_>) -> Result<(), Failure> {
    if diff.equal {
        return output::line("the same image: nothing would run");
    }
    for change in &diff.changes {
        let side = |value: &Option<Json<'_>>| match value {
            None => "(absent)".to_owned(),
            Some(Json::Text(text)) => text.clone().into_owned(),
            Some(other) => other.canonical(),
        };
        output::line(&change.path)?;
        output::line(&format!(
            "  - {}",
            side(&change.before).replace('\n', "\n    ")
        ))?;
        output::line(&format!(
            "  + {}",
            side(&change.after).replace('\n', "\n    ")
        ))?;
    }
    if diff.reruns.is_empty() {
        return output::line("no step would run again; only the image's config changes");
    }
    output::line("would run again:")?;
    for step in &diff.reruns {
        output::line(&format!(
            "  {} {}",
            step.step + 1,
            step.title.replace('\n', " ")
        ))?;
    }
    Ok(())
}
