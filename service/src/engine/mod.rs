//! What turns a pinned spec into an image in the regional registry.
//!
//! [`Engine`] is the seam: [`embedded`] carries a build out in this process without any daemon;
//! [`buildkit`] has daemons do the work. An engine knows nothing of queues, clients or the database: it gets a [`Job`], tells an [`EventSink`] what happens, obeys a
//! cancellation token, and gives an [`Outcome`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use chalk_core::wire::{BuildStep, EventKind, PlanStep, Verification};
use chalk_core::{Digest, Spec};
use chalk_store::uses::Horizon;
use tokio_util::sync::CancellationToken;

#[cfg(not(target_os = "linux"))]
pub(crate) mod absent;
#[cfg(target_os = "linux")]
pub mod buildkit;
#[cfg(target_os = "linux")]
pub mod embedded;
mod error;
pub(crate) mod oci;

pub use crate::settings::{Compression, InvalidCompression};
pub use error::EngineError;

/// The value of a secret. Never printed; overwritten in memory when dropped.
#[derive(Clone, Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// The value, for the one who hands it to a step.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value.into_bytes())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from dropping the stores as dead.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One build to carry out.
#[derive(Debug, Clone)]
pub struct Job {
    /// Identifier of the build, for logs and scratch directories.
    pub id: String,
    /// The spec with every base pinned.
    pub spec: Spec,
    /// Hash of the spec; the image is published as `chalk/images:<its hex digits>`.
    pub image_hash: Digest,
    /// Values of the secrets that steps name.
    pub secrets: BTreeMap<String, Secret>,
    /// Run every step even when cached.
    pub force: bool,
    /// Compression of new layers; the engine's setting when absent.
    pub compression: Option<Compression>,
    /// Run every step from empty caches, keep and publish nothing, and compare what comes out with
    /// the image that the registry has.
    pub verify: bool,
    /// Project whose steps nobody else may take from the step cache, nor it others': where steps use
    /// secrets, which are not part of their keys. Absent where the cache is common to all.
    pub apart: Option<String>,
}

impl Job {
    /// What a step goes by in the step cache.
    pub fn cached_as(&self, key: &Digest) -> Digest {
        match &self.apart {
            None => *key,
            Some(project) => Digest::of(format!("{project}/{key}").as_bytes()),
        }
    }
}

/// What a build gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Digest of the published manifest; of the one compared with.
    pub manifest: Digest,
    /// Bytes of its layers as stored.
    pub size: u64,
    /// Number of its layers.
    pub layers: usize,
    /// Steps in order, as they ended.
    pub steps: Vec<BuildStep>,
    /// Of a [`Job`] that was to verify.
    pub verification: Option<Verification>,
}

/// Where an engine tells what happens. The service numbers, stamps and keeps the events.
pub trait EventSink: Send + Sync {
    /// Takes one event. Must not block: engines call it from async tasks and from threads that
    /// drain the output of a step.
    fn emit(&self, event: EventKind);
}

/// Something that an engine keeps beside the registry, and can make again.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// What it is.
    pub kind: CacheKind,
    /// Its name among those of its kind.
    pub name: String,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// When a build last used it.
    pub used: SystemTime,
    /// Blobs of the store without which it is of no use.
    pub blobs: Vec<Digest>,
}

/// Kinds of [`CacheEntry`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// An unpacked layer.
    Layer,
    /// The cache of a tool, such as uv's, for a base and a user.
    Tool,
    /// A directory of `RUN --mount=type=cache`.
    Mount,
    /// What is known of a cached step, named by its key.
    Step,
    /// The note of a cache that builders share in the registry, named by its tag.
    Shared,
}

/// Carries builds out.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Word for logs and `/v1/info`: `embedded`, `buildkit`.
    fn name(&self) -> &str;

    /// The steps of a pinned spec with their keys, and whether each is in the step cache. Writes
    /// nothing but (when it must look at a base's config) blobs of that config.
    ///
    /// # Errors
    /// When the spec cannot be lowered, or a base or the regional registry cannot be read.
    async fn plan(&self, spec: &Spec) -> Result<Vec<PlanStep>, EngineError>;

    /// What the engine keeps beside the registry.
    ///
    /// # Errors
    /// When the disk fails.
    async fn caches(&self) -> Result<Vec<CacheEntry>, EngineError> {
        Ok(Vec::new())
    }

    /// Removes such a thing unless a build used it after the horizon; whether it did. A build that
    /// runs has begun after the horizon.
    ///
    /// # Errors
    /// When the disk fails.
    async fn drop_cache(
        &self,
        _kind: CacheKind,
        _name: &str,
        _horizon: &Horizon,
    ) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// Builds and publishes an image. Blobs that the spec names (files, trees) must be in the
    /// store. Emits `Started`, what happens, but neither `Queued` nor `Finished`.
    ///
    /// # Errors
    /// See [`EngineError`]. On return, with or without an error, no process, mount or scratch
    /// directory of the build is left.
    async fn build(
        &self,
        job: &Job,
        events: &dyn EventSink,
        cancel: &CancellationToken,
    ) -> Result<Outcome, EngineError>;
}
