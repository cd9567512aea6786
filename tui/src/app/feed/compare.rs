//! Texts that take several answers of the service: differences, reasons, manifests.

use chalk_core::Spec;
use chalk_core::wire::{Build, BuildStatus, ResolveRequest, Resolved, exit};

use super::image;
use crate::app::describe;
use crate::app::model::{Document, moment};
use crate::client::{Client, segment};
use crate::error::Failure;
use crate::output::short;

/// Builds that are looked through for the one before.
const BUILDS: usize = 500;

fn not_declared() -> Failure {
    Failure::usage("no declaration is open")
}

/// A spec with its bases pinned, as that of an image is; as it is where they cannot be.
async fn pinned(client: &Client, spec: Spec) -> Spec {
    if spec.image_hash().is_some() {
        return spec;
    }
    let request = ResolveRequest {
        spec: spec.clone(),
        blobs: std::collections::BTreeMap::new(),
    };
    match client.post::<Resolved>("/v1/resolve", &request).await {
        Ok(resolved) => resolved.spec,
        Err(_) => spec,
    }
}

/// What differs between an image and another, or the declaration.
pub(super) async fn diff(
    client: &Client,
    before: &str,
    after: Option<&str>,
    declared: Option<Spec>,
) -> Result<Document, Failure> {
    let old = image(client, before).await?;
    let (new, name) = match after {
        Some(after) => {
            let new = image(client, after).await?;
            let name = title(&new.image);
            (new.spec, name)
        }
        None => {
            let spec = declared.ok_or_else(not_declared)?;
            (pinned(client, spec).await, "the declaration".to_owned())
        }
    };
    let heading = format!("from {} to {name}", title(&old.image));
    let diff = chalk_core::diff::diff(&old.spec, &new);
    Ok(describe::diff(&heading, &diff))
}

fn title(image: &chalk_core::wire::Image) -> String {
    match image.names.first() {
        Some(name) => format!("{name} ({})", short(image.image_hash)),
        None => short(image.image_hash),
    }
}

/// Builds that gave an image, newest first, under a name if there is one.
async fn finished(client: &Client, name: Option<&str>) -> Result<Vec<Build>, Failure> {
    let query = name
        .map(|name| format!("&name={}", segment(name)))
        .unwrap_or_default();
    let mut builds: Vec<Build> = client
        .get(&format!("/v1/builds?limit={BUILDS}{query}"))
        .await?;
    builds.retain(|b| matches!(b.status, BuildStatus::Built | BuildStatus::Reused));
    Ok(builds)
}

/// Why an image was built anew: what changed since the one before it.
pub(super) async fn why(
    client: &Client,
    hash: &str,
    name: Option<&str>,
    created: &str,
) -> Result<Document, Failure> {
    let builds = finished(client, name).await?;
    let earlier = builds
        .iter()
        .find(|b| b.created.as_str() < created && b.image_hash.to_string() != hash);
    let Some(earlier) = earlier else {
        let of = name.map(|n| format!(" of {n}")).unwrap_or_default();
        return Err(Failure::new(
            exit::NOT_FOUND,
            format!("no build{of} before this one is known"),
        )
        .hint("what is built under a name is compared with the build before under that name"));
    };
    let before = earlier.image_hash.to_string();
    let (old, new) = tokio::try_join!(image_of(client, &before), image_of(client, hash))?;
    let heading = format!(
        "against the build of {} ({})",
        moment(&earlier.created),
        short(earlier.image_hash)
    );
    Ok(describe::diff(
        &heading,
        &chalk_core::diff::diff(&old, &new),
    ))
}

async fn image_of(client: &Client, hash: &str) -> Result<Spec, Failure> {
    image(client, hash).await.map(|detail| detail.spec)
}

/// Why the declaration would be built anew, against the last build under its name.
pub(super) async fn why_spec(client: &Client, declared: Option<Spec>) -> Result<Document, Failure> {
    let spec = declared.ok_or_else(not_declared)?;
    let builds = finished(client, spec.name.as_deref()).await?;
    let Some(last) = builds.first() else {
        return Err(Failure::new(
            exit::NOT_FOUND,
            "no finished build is known to compare with",
        )
        .hint("b builds the declaration"));
    };
    let old = image_of(client, &last.image_hash.to_string()).await?;
    let heading = format!(
        "against the build of {} ({})",
        moment(&last.created),
        short(last.image_hash)
    );
    let new = pinned(client, spec).await;
    Ok(describe::diff(
        &heading,
        &chalk_core::diff::diff(&old, &new),
    ))
}

/// The manifest of an image as the registry has it, as JSON that reads well.
pub(super) async fn manifest(client: &Client, hash: &str) -> Result<String, Failure> {
    let path = format!("/v1/images/{}/manifest", segment(hash));
    let bytes = client.raw(&path).await?;
    let value: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|e| Failure::new(exit::UNREACHABLE, "the manifest is not JSON").why(e))?;
    serde_json::to_string_pretty(&value)
        .map_err(|e| Failure::new(exit::FAILED, "the manifest cannot be shown").why(e))
}
