//! The agent: joins a service, holds the one connection to it, and carries out what it is told.

mod parts;

pub use parts::{
    Access, AccessWatch, CacheDelta, Images, Output, PullFailure, PullOrder, PullProgress,
    Sandboxes,
};
