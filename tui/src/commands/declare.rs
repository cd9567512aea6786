//! What can be said of a declaration without building it: `hash`, `plan`, `lock`, `dockerfile` and
//! `spec`.

use chalk_core::wire::{LocalPlan, Plan, PlanBase, PlanState, ResolveRequest, Resolved};
use chalk_core::{Digest, Spec};
use serde_json::json;

use crate::cli;
use crate::connect::Server;
use crate::declaration::{self, Subject};
use crate::error::Failure;
use crate::output;
use crate::progress::bytes;
use crate::settings::Loaded;

pub(crate) async fn hash(loaded: &Loaded, args: &cli::Hash, json: bool) -> Result<(), Failure> {
    let declared = declaration::read(&args.file).await?;
    for warning in &declared.warnings {
        declaration::warn(warning);
    }
    let mut spec = declared.spec;
    if spec.image_hash().is_none() && !args.offline {
        // A base that cannot be looked up still has a recipe hash; the image hash is then unknown.
        match pin(loaded, &spec).await {
            Ok(pinned) => spec = pinned,
            Err(failure) => {
                declaration::warn(&format!("the base is not pinned: {}", failure.what));
            }
        }
    }
    let bytes = declared.uploads.values().map(|upload| upload.size).sum();
    let plan = LocalPlan::new(&spec, bytes, declared.warnings);
    if json {
        return output::json(&plan);
    }
    output::line(&plan.image_hash.unwrap_or(plan.recipe_hash).to_string())
}

pub(super) async fn pin(loaded: &Loaded, spec: &Spec) -> Result<Spec, Failure> {
    let server = Server::connect(loaded).await?;
    let resolved = resolve(&server, spec).await;
    server.close().await;
    resolved.map(|r| r.spec)
}

pub(super) async fn resolve(server: &Server, spec: &Spec) -> Result<Resolved, Failure> {
    let request = ResolveRequest {
        spec: spec.clone(),
        blobs: Default::default(),
    };
    server.client().post("/v1/resolve", &request).await
}

pub(crate) async fn plan(server: &Server, file: &cli::File, json: bool) -> Result<(), Failure> {
    let declared = declaration::read_subject(server, file).await?;
    let mut blobs = std::collections::BTreeMap::new();
    for (digest, upload) in &declared.uploads {
        blobs.insert(*digest, upload.size);
    }
    let request = ResolveRequest {
        spec: declared.spec,
        blobs,
    };
    let plan: Plan = server.client().post("/v1/plan", &request).await?;
    if json {
        return output::json(&plan);
    }
    let hash = |digest: Option<Digest>| digest.map_or("not pinned".to_owned(), |d| d.to_string());
    output::line(&format!("recipe  {}", plan.recipe_hash))?;
    output::line(&format!("image   {}", hash(plan.image_hash)))?;
    if let Some(base) = &plan.base {
        output::line(&format!("base    {} {}", base.reference, hash(base.digest)))?;
    }
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .map(|step| {
            let state = if step.state == PlanState::Cached {
                "cached"
            } else {
                "run"
            };
            vec![
                state.into(),
                output::short(step.key),
                step.title.replace('\n', " "),
            ]
        })
        .collect();
    output::table(&["STATE", "KEY", "STEP"], &rows)?;
    for warning in &plan.warnings {
        declaration::warn(warning);
    }
    let runs = plan
        .steps
        .iter()
        .filter(|s| s.state == PlanState::Run)
        .count();
    if plan.exists && runs == 0 {
        output::line("the image exists; a build would run nothing")
    } else {
        output::line(&format!(
            "{runs} to run, {} to upload",
            bytes(plan.upload_bytes)
        ))
    }
}

pub(crate) async fn lock(server: &Server, args: &cli::Lock, json: bool) -> Result<(), Failure> {
    let declared = declaration::read_unlocked(&args.file).await?;
    let path = declared.lock;
    let mut spec = declared.spec;
    if !args.update
        && let Some(known) = declaration::read_lock(&path)?
    {
        known.apply(&mut spec);
    }
    let pinned = resolve(server, &spec).await?.spec;
    let lock = chalk_core::lock::Lock::of(&pinned);
    declaration::write_lock(&path, &lock)?;
    if json {
        return output::json(&json!({
            "lock": path, "image_hash": pinned.image_hash(), "base": PlanBase::of(&pinned),
        }));
    }
    output::line(&format!("wrote {}", path.display()))
}

pub(crate) async fn dockerfile(loaded: &Loaded, file: &str) -> Result<(), Failure> {
    let spec = subject_spec(loaded, file).await?;
    let text = chalk_core::dockerfile::export(&spec)
        .map_err(|e| Failure::usage("this declaration has no form as a Dockerfile").why(e))?;
    output::line(text.trim_end())
}

pub(crate) async fn spec(loaded: &Loaded, file: &str) -> Result<(), Failure> {
    let spec = subject_spec(loaded, file).await?;
    output::line(spec.to_json().pretty().trim_end())
}

/// The spec of a file or of an image that the service knows.
pub(crate) async fn subject_spec(loaded: &Loaded, text: &str) -> Result<Spec, Failure> {
    match declaration::subject(text) {
        Subject::File(path) => {
            let file = cli::File {
                file: path.display().to_string(),
                dockerfile: cli::DockerfileFlags::default(),
            };
            Ok(declaration::read(&file).await?.spec)
        }
        Subject::Image(id) => {
            let server = Server::connect(loaded).await?;
            let found = super::images::find(&server, &id).await;
            server.close().await;
            Ok(found?.spec)
        }
    }
}
