//! In place of an engine on systems that have none: images can be looked up, not built.

use async_trait::async_trait;
use chalk_core::wire::PlanStep;
use chalk_core::{Digest, Platform, Reference, Spec};
use tokio_util::sync::CancellationToken;

use super::{Engine, EngineError, EventSink, Job, Outcome};
use crate::bases::BaseError;
use crate::resolve::PinBases;

const NO_ENGINE: &str = "the embedded engine needs Linux; use a service on a Linux machine";

/// Refuses.
pub(crate) struct NoEngine;

#[async_trait]
impl Engine for NoEngine {
    fn name(&self) -> &str {
        "none"
    }

    async fn plan(&self, _: &Spec) -> Result<Vec<PlanStep>, EngineError> {
        Err(EngineError::Host(NO_ENGINE.to_owned()))
    }

    async fn build(
        &self,
        _: &Job,
        _: &dyn EventSink,
        _: &CancellationToken,
    ) -> Result<Outcome, EngineError> {
        Err(EngineError::Host(NO_ENGINE.to_owned()))
    }
}

#[async_trait]
impl PinBases for NoEngine {
    async fn pin(&self, reference: &Reference, _: &Platform) -> Result<Digest, BaseError> {
        Err(BaseError::Unreachable {
            reference: reference.clone(),
            detail: NO_ENGINE.to_owned(),
        })
    }
}
