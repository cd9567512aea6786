//! Sandboxes for Chalk's own SDK: `chalk.sandbox.v2`.

mod files;
mod lifecycle;
mod processes;
mod quantity;
mod session;
mod spec;
mod volumes;

pub(super) use files::Files;
pub(super) use lifecycle::Lifecycle;
pub(super) use processes::Processes;

use chalk_core::wire::Sandbox;
use tonic::Status;

use super::status;
use crate::projects::Scope;
use crate::service::Service;

/// The sandbox of exactly that identifier: clients of this API have whole ones.
fn exact(service: &Service, scope: &Scope, id: &str) -> Result<Sandbox, Status> {
    let sandboxes = service.fleet().sandboxes();
    let found = sandboxes.seen(scope, id).and_then(|id| sandboxes.get(&id));
    match found {
        Ok(sandbox) if sandbox.id == id => Ok(sandbox),
        Ok(_) => Err(Status::not_found(format!("there is no sandbox `{id}`"))),
        Err(problem) => Err(status::of(&problem)),
    }
}

/// A duration in seconds.
fn seconds(field: &str, duration: &prost_types::Duration) -> Result<f64, Status> {
    let seconds = duration.seconds as f64 + f64::from(duration.nanos) / 1e9;
    if seconds < 0.0 {
        return Err(Status::invalid_argument(format!(
            "{field}: expected 0 or more"
        )));
    }
    Ok(seconds)
}
