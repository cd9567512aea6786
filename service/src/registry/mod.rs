//! The embedded OCI registry, and the interface to the regional registry.
//!
//! [`Registry`] keeps repositories as plain files that link into the shared
//! [`BlobStore`](chalk_store::BlobStore): it is the truth, from which every database can be
//! rebuilt. [`router`] puts the OCI distribution specification 1.1 in front of it. [`Regional`] is
//! what the builder sees: the embedded registry by direct calls, or an [`External`] one by the
//! client.

mod bucket;
mod condition;
mod content;
mod error;
mod heads;
mod http;
mod layout;
mod referrers;
mod regional;
mod store;

pub use bucket::Bucket;
pub use error::EmbeddedError;
pub(crate) use http::{Range, stream_blob};
pub use http::{RegistryLimits, router};
pub use regional::{External, Regional, RegionalError, registry_host};
pub use store::Registry;
