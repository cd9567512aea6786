//! The declaration that is worked on, with its hash and plan.

use std::path::PathBuf;

use chalk_core::wire::Plan;
use jiff::{SignedDuration, Timestamp};

use super::list::List;
use crate::app::effect::Source;
use crate::app::event::{Declared, Trouble};

/// The declaration that is worked on.
#[derive(Default)]
pub(crate) struct SpecState {
    pub(crate) source: Option<Source>,
    /// As it was last read without an error.
    pub(crate) declared: Option<Declared>,
    /// Why it cannot be read now.
    pub(crate) trouble: Option<Trouble>,
    pub(crate) plan: Option<Plan>,
    /// Why no plan could be made.
    pub(crate) plan_trouble: Option<Trouble>,
    pub(crate) steps: List,
    /// Counts readings; what belongs to an older one is dropped.
    pub(crate) generation: u64,
    pub(crate) reading: bool,
    pub(crate) planning: bool,
    /// When the plan is to be asked for again, since something changed that it tells of.
    stale: Option<Timestamp>,
    /// Whether it was asked for again and did not come yet.
    replanning: bool,
    /// Whether it is built when its files change.
    pub(crate) watch: bool,
    /// Whether a build is to begin as soon as it is read.
    pub(crate) build_next: bool,
    /// Bytes of declared files that were sent, of all that go up.
    pub(crate) uploading: Option<(u64, u64)>,
    pub(crate) recent: Vec<PathBuf>,
}

/// Wait before a plan is asked for again, so that what ends together makes one plan anew.
const REPLAN: SignedDuration = SignedDuration::from_millis(400);

impl SpecState {
    /// Something changed on the service that the plan may tell of: what is cached, or which nodes have
    /// the image.
    pub(crate) fn outdated(&mut self, now: Timestamp) {
        if self.declared.is_some() && self.stale.is_none() {
            self.stale = Some(now.checked_add(REPLAN).unwrap_or(now));
        }
    }

    /// Whether the plan is to be asked for again now; said once.
    pub(crate) fn replan(&mut self, now: Timestamp) -> bool {
        let due = !self.replanning && self.stale.is_some_and(|stale| stale <= now);
        if due {
            self.stale = None;
            self.replanning = true;
        }
        due
    }

    /// A plan came, or none can be had.
    pub(crate) fn planned(&mut self) {
        self.replanning = false;
    }

    /// The file, where it is one.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        match &self.source {
            Some(Source::File(path)) => Some(path),
            _ => None,
        }
    }

    /// What it is called.
    pub(crate) fn called(&self) -> String {
        match &self.source {
            None => "no declaration".to_owned(),
            Some(Source::File(path)) => {
                let shown = path.strip_prefix(".").unwrap_or(path);
                shown.display().to_string()
            }
            Some(Source::Image(id)) => match id.strip_prefix("sha256:") {
                Some(hex) => format!("image {}", hex.get(..12).unwrap_or(hex)),
                None => format!("image {id}"),
            },
        }
    }

    /// The image hash, when every base is pinned.
    pub(crate) fn image_hash(&self) -> Option<chalk_core::Digest> {
        let plan = self.plan.as_ref().and_then(|plan| plan.image_hash);
        plan.or_else(|| self.declared.as_ref()?.local.image_hash)
    }

    /// Goes by the steps of what was read.
    pub(crate) fn arrange(&mut self) {
        let count = self.declared.as_ref().map_or(0, |d| d.local.steps.len());
        self.steps
            .arrange((0..count).map(|n| n.to_string()).collect());
    }
}
