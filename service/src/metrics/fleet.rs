//! Warms and sandboxes.

use chalk_core::wire::{SandboxState, WarmStatus};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::StateLabel;

/// What is counted of warms. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct WarmMetrics {
    ended: Family<StateLabel, Counter>,
}

impl Default for WarmMetrics {
    fn default() -> Self {
        let ended = from_zero(&["ready", "partly", "failed", "cancelled"]);
        Self { ended }
    }
}

/// Counts of those states, which are there before anything is counted.
fn from_zero(states: &[&'static str]) -> Family<StateLabel, Counter> {
    let family = Family::default();
    for state in states {
        drop(family.get_or_create(&StateLabel { state }));
    }
    family
}

impl WarmMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Warms that ended, by state";
        registry.register("warms", help, self.ended.clone());
    }

    /// A warm ended.
    pub(crate) fn ended(&self, status: WarmStatus) {
        let state = match status {
            WarmStatus::Running => return,
            WarmStatus::Ready => "ready",
            WarmStatus::Partly => "partly",
            WarmStatus::Failed => "failed",
            WarmStatus::Cancelled => "cancelled",
        };
        self.ended.get_or_create(&StateLabel { state }).inc();
    }
}

/// What is counted of sandboxes. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct SandboxMetrics {
    ended: Family<StateLabel, Counter>,
}

impl Default for SandboxMetrics {
    fn default() -> Self {
        let ended = from_zero(&["exited", "failed", "lost"]);
        Self { ended }
    }
}

impl SandboxMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Sandboxes that ended, by state";
        registry.register("sandboxes_ended", help, self.ended.clone());
    }

    /// A sandbox ended.
    pub(crate) fn ended(&self, state: SandboxState) {
        if state.is_final() {
            let state = sandbox_word(state);
            self.ended.get_or_create(&StateLabel { state }).inc();
        }
    }
}

/// The word for a state.
pub(crate) fn sandbox_word(state: SandboxState) -> &'static str {
    match state {
        SandboxState::Starting => "starting",
        SandboxState::Running => "running",
        SandboxState::Exited => "exited",
        SandboxState::Failed => "failed",
        SandboxState::Lost => "lost",
    }
}
