//! The embedded OCI registry, and the interface to the regional registry.
//!
//! [`Registry`] keeps repositories as plain files that link into the shared
//! [`BlobStore`](chalk_store::BlobStore): it is the truth, from which every database can be
//! rebuilt. [`router`] puts the OCI distribution specification 1.1 in front of it. [`Regional`] is
//! what the builder sees: the embedded registry by direct calls, or an [`External`] one by the
//! client.

mod bucket;
pub(crate) mod collect;
mod condition;
mod content;
mod error;
mod external;
mod heads;
mod http;
mod layout;
mod push;
mod referrers;
mod regional;
mod store;
mod view;

pub use bucket::{Bucket, BucketAccess};
pub use error::EmbeddedError;
pub use external::{External, registry_host};
pub use http::{CALLS, RegistryLimits, router};
pub(crate) use http::{Range, Target, decode, stream_blob, target};
pub use regional::{Regional, RegionalError};
pub use store::Registry;
pub(crate) use view::{Part, View, Viewed};
