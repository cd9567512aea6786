//! Settings of garbage collection.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `gc.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gc {
    /// How often garbage is collected by itself; unset, never.
    #[serde(with = "crate::settings::length::optional")]
    pub interval: Option<Duration>,
    /// What was pushed, pulled or asked for within this time stays, whatever else says. Longer than
    /// a push, a pull or an upload takes; builds and imports may take longer.
    #[serde(with = "crate::settings::length::required")]
    pub grace: Duration,
    /// Images, names and imports that nobody used for so long go; unset, none.
    #[serde(with = "crate::settings::length::optional")]
    pub age: Option<Duration>,
    /// Most that images take together; those that nobody used for longest go. Unset, any.
    pub size: Option<ByteSize>,
    /// Newest tags of each name that stay, whatever their age and size.
    pub keep: usize,
    /// Manifests of names that no tag points to stay for so long after their last use.
    #[serde(with = "crate::settings::length::required")]
    pub untagged_age: Duration,
    /// Cached steps that no build used for so long go; unset, none.
    #[serde(with = "crate::settings::length::optional")]
    pub steps_age: Option<Duration>,
    /// Most that cached steps take together; unset, any.
    pub steps_size: Option<ByteSize>,
    /// Caches of the builder that no build used for so long go; unset, none.
    #[serde(with = "crate::settings::length::optional")]
    pub caches_age: Option<Duration>,
    /// Most that the caches of the builder take together; unset, any.
    pub caches_size: Option<ByteSize>,
    /// Records of builds that ended so long ago go; unset, none before `build.keep` says so.
    #[serde(with = "crate::settings::length::optional")]
    pub builds_age: Option<Duration>,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            interval: Some(6 * HOUR),
            grace: DAY,
            age: None,
            size: None,
            keep: 3,
            untagged_age: 7 * DAY,
            steps_age: Some(30 * DAY),
            steps_size: None,
            caches_age: Some(30 * DAY),
            caches_size: None,
            builds_age: None,
        }
    }
}
