//! Nodes and what is done with them, put together; and the way of what a node says to those whom it
//! concerns.

use std::sync::Arc;

use chalk_core::wire::Problem;
use chalk_core::wire::agent::Report;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::nodes::Nodes;
use crate::nodes::session::Session;
use crate::regions::Regions;

/// Everything that has to do with nodes.
#[derive(Debug)]
pub(crate) struct Fleet {
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    stop: CancellationToken,
}

impl Fleet {
    /// Puts the parts together. Ends its work with `stop`.
    pub(crate) fn new(
        nodes: Arc<Nodes>,
        regions: Arc<Regions>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            nodes,
            regions,
            stop,
        })
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    pub(crate) fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    /// Cancelled when the service stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// A node greets. `false` when it was removed.
    pub(crate) fn up(&self, session: &Arc<Session>, hello: &Report) -> bool {
        if !self.nodes.attach(session, hello) {
            return false;
        }
        true
    }

    /// A session ended; its node is gone since then.
    pub(crate) fn down(&self, session: &Arc<Session>, gone: Instant) {
        if self.nodes.detach(session, gone) {
            tracing::info!(node = &**session.node(), "node is not connected any more");
        }
    }

    /// A node reports.
    pub(crate) fn report(&self, session: &Arc<Session>, report: &Report) {
        self.nodes.heard(session.node(), report);
    }

    /// Removes a node for good.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), Problem> {
        self.nodes.remove(name).await
    }
}
