//! Volumes over the image of a sandbox.

use chalk_core::wire::SandboxMount;
use tonic::Status;

use super::super::proto::chalk::container::v1::VolumeMount;
use crate::service::Service;

/// The mounts that volumes come to.
pub(super) async fn mounts(
    _service: &Service,
    volumes: &[VolumeMount],
) -> Result<Vec<SandboxMount>, Status> {
    match volumes.first() {
        None => Ok(Vec::new()),
        Some(_) => Err(Status::unimplemented("spec.volumes is not served here yet")),
    }
}
