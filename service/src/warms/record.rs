//! What is kept of a warm.

use chalk_core::Digest;
use chalk_core::wire::{
    DEFAULT_PROJECT, Problem, Receipt, Warm, WarmState, WarmStatus, WarmTarget, problem,
};
use serde::{Deserialize, Serialize};

use crate::nodes::Chosen;
use crate::regions::ImageAt;

/// A warm without its targets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) id: String,
    pub(super) status: WarmStatus,
    pub(super) images: Vec<Image>,
    pub(super) created: String,
    /// Absent for warms of before there were projects.
    #[serde(default)]
    pub(super) project: Option<String>,
    #[serde(default)]
    pub(super) finished: Option<String>,
    #[serde(default)]
    pub(super) pin: bool,
    /// Seconds that it may take.
    pub(super) timeout: u64,
    /// Seconds that it has taken, of services that ran, when it was last written.
    #[serde(default)]
    pub(super) spent: f64,
    /// Number of its newest event when it was last written.
    #[serde(default)]
    pub(super) last_event: u64,
    pub(super) targets: usize,
    /// Whether it ended with nodes that were lost and may still come back.
    #[serde(default)]
    pub(super) awaits: bool,
    /// Trace of the request for it.
    #[serde(default)]
    pub(super) traceparent: Option<String>,
}

/// An image of a warm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) hash: Digest,
    pub(super) digest: Digest,
    pub(super) repository: String,
    pub(super) name: String,
}

impl Image {
    pub(super) fn at(&self) -> ImageAt {
        ImageAt {
            digest: self.digest,
            hash: Some(self.hash),
            repository: self.repository.clone(),
            name: self.name.clone(),
        }
    }
}

/// A target, and the order for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) target: WarmTarget,
    /// Place of its image in the list.
    pub(super) image: usize,
    /// Identifier of the order that its node has, if it has one.
    #[serde(default)]
    pub(super) pull: Option<String>,
}

impl Stored {
    pub(super) fn new(chosen: &Chosen, image: usize, hash: Digest) -> Self {
        Self {
            target: WarmTarget {
                node: chosen.name.clone(),
                region: chosen.region.clone(),
                image_hash: hash,
                state: WarmState::Queued,
                done: 0,
                total: 0,
                bytes_fetched: 0,
                bytes_present: 0,
                bytes_from_mirrors: 0,
                digests_verified: 0,
                verified: false,
                seconds: 0.0,
                error: None,
                retries_left: 0,
            },
            image,
            pull: None,
        }
    }

    /// Nothing will change any more, but for a lost node that comes back.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.target.state, WarmState::Ready | WarmState::Failed)
    }

    /// Whether it failed because its node was lost.
    pub(super) fn is_lost(&self) -> bool {
        let error = self.target.error.as_ref();
        self.target.state == WarmState::Failed
            && error.is_some_and(|error| error.kind == problem::NODE_LOST)
    }

    /// From the beginning.
    pub(super) fn again(&mut self) {
        let target = &mut self.target;
        target.state = WarmState::Queued;
        target.error = None;
        target.retries_left = 0;
        (target.done, target.total) = (0, 0);
    }

    pub(super) fn fail(&mut self, error: &Problem) {
        self.target.state = WarmState::Failed;
        self.target.error = Some(error.clone());
        self.target.retries_left = 0;
        self.pull = None;
    }

    pub(super) fn ready(&mut self, receipt: &Receipt) {
        let target = &mut self.target;
        target.state = WarmState::Ready;
        target.error = None;
        target.retries_left = 0;
        target.bytes_fetched = receipt.bytes_fetched;
        target.bytes_present = receipt.bytes_present;
        target.total = target.total.max(target.done);
        target.done = target.total;
        target.bytes_from_mirrors = receipt.bytes_from_mirrors;
        target.digests_verified = receipt.digests_verified;
        // What was there before was checked when it was fetched: without that it does not get there.
        target.verified = receipt.digests_verified > 0 || receipt.bytes_fetched == 0;
        target.seconds = receipt.seconds;
        self.pull = None;
    }
}

impl Header {
    /// Project that it belongs to.
    pub(super) fn project(&self) -> &str {
        self.project.as_deref().unwrap_or(DEFAULT_PROJECT)
    }

    /// The warm as clients see it.
    pub(super) fn shown(&self, targets: &[Stored]) -> Warm {
        Warm {
            id: self.id.clone(),
            status: self.status,
            images: self.images.iter().map(|image| image.hash).collect(),
            created: self.created.clone(),
            finished: self.finished.clone(),
            nodes: targets.iter().map(|stored| stored.target.clone()).collect(),
        }
    }
}

/// What targets that are over come to.
pub(super) fn status(targets: &[Stored]) -> WarmStatus {
    let is_ready = |stored: &&Stored| stored.target.state == WarmState::Ready;
    match targets.iter().filter(is_ready).count() {
        0 => WarmStatus::Failed,
        ready if ready == targets.len() => WarmStatus::Ready,
        _ => WarmStatus::Partly,
    }
}

/// Key of a target in the ledger.
pub(super) fn key(warm: &str, target: usize) -> String {
    format!("{warm}/{target:06}")
}

pub(super) fn trouble(kind: &str, title: &str, detail: String) -> Problem {
    Problem {
        kind: kind.to_owned(),
        title: title.to_owned(),
        status: 500,
        detail,
        hint: String::new(),
    }
}
