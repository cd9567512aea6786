//! Nodes and what is done with them, put together; and the way of what a node says to those whom it
//! concerns.

use std::sync::Arc;

use chalk_core::wire::Problem;
use chalk_core::wire::agent::Report;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, LedgerError};
use crate::nodes::session::Session;
use crate::nodes::{Attached, Nodes};
use crate::prewarm::{Fetch, Prewarms};
use crate::regions::Regions;
use crate::sandboxes::Sandboxes;
use crate::settings::Settings;
use crate::warms::Warms;

/// Everything that has to do with nodes.
#[derive(Debug)]
pub(crate) struct Fleet {
    nodes: Arc<Nodes>,
    regions: Arc<Regions>,
    warms: Arc<Warms>,
    sandboxes: Arc<Sandboxes>,
    prewarms: Arc<Prewarms>,
    stop: CancellationToken,
}

impl Fleet {
    /// Puts the parts together, with what an earlier service left. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(
        settings: &Settings,
        ledger: &Arc<Ledger>,
        nodes: Arc<Nodes>,
        regions: Arc<Regions>,
        fetch: Fetch,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, LedgerError> {
        let warms = Warms::load(
            ledger.clone(),
            nodes.clone(),
            regions.clone(),
            settings.warm.clone(),
        )?;
        let sandboxes = Sandboxes::load(
            ledger.clone(),
            nodes.clone(),
            regions.clone(),
            settings.sandboxes.clone(),
        )?;
        let prewarms = Prewarms::load(
            ledger.clone(),
            nodes.clone(),
            regions.clone(),
            fetch,
            &settings.prewarm,
            settings.warm.registry_pulls,
        )?;
        Ok(Arc::new(Self {
            nodes,
            regions,
            warms: Arc::new(warms),
            sandboxes: Arc::new(sandboxes),
            prewarms: Arc::new(prewarms),
            stop,
        }))
    }

    /// Begins what goes on by itself, until the service stops.
    pub(crate) fn run(&self) {
        let (warms, stop) = (self.warms.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(warms.run()).await });
        let (sandboxes, stop) = (self.sandboxes.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(sandboxes.run()).await });
        let (prewarms, stop) = (self.prewarms.clone(), self.stop.clone());
        tokio::spawn(async move { stop.run_until_cancelled(prewarms.run()).await });
    }

    /// Has everything that is known written down.
    pub(crate) async fn flush(&self) {
        if let Err(error) = self.warms.flush().await {
            tracing::error!(%error, "the state of warms was not kept");
        }
    }

    /// Waits until no warm runs and no sandbox lives.
    pub(crate) async fn idle(&self) {
        self.warms.idle().await;
        self.sandboxes.idle().await;
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    pub(crate) fn regions(&self) -> &Arc<Regions> {
        &self.regions
    }

    pub(crate) fn warms(&self) -> &Arc<Warms> {
        &self.warms
    }

    pub(crate) fn sandboxes(&self) -> &Arc<Sandboxes> {
        &self.sandboxes
    }

    pub(crate) fn prewarms(&self) -> &Arc<Prewarms> {
        &self.prewarms
    }

    /// Cancelled when the service stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// A node greets.
    pub(crate) fn up(&self, session: &Arc<Session>, hello: &Report) -> Attached {
        // From the moment it is attached it can be given others.
        let believed = self.sandboxes.living_on(session.node());
        let attached = self.nodes.attach(session, hello);
        if attached != Attached::Yes {
            return attached;
        }
        if let Report::Hello { sandboxes, .. } = hello {
            self.sandboxes.up(session.node(), sandboxes, believed);
        }
        self.prewarms.up(session.node());
        self.warms.up(session.node());
        attached
    }

    /// A session ended; its node is gone since then.
    pub(crate) fn down(&self, session: &Arc<Session>, gone: Instant) {
        if self.nodes.detach(session, gone) {
            tracing::info!(node = &**session.node(), "node is not connected any more");
            self.warms.down(session.node());
            self.prewarms.down(session.node());
        }
    }

    /// A node reports.
    pub(crate) fn report(&self, session: &Arc<Session>, report: &Report) {
        let node = session.node();
        if !self.nodes.heard(session, report) {
            return;
        }
        match report {
            Report::Pulling { .. } | Report::Warmed { .. } | Report::WarmFailed { .. } => {
                self.warms.report(node, report);
            }
            Report::Sandbox(sandbox) => self.sandboxes.report(node, sandbox),
            Report::Cache { put, .. } => {
                let images = put.iter().map(|image| image.digest);
                self.prewarms.cached(node, images);
                self.warms.report(node, report);
            }
            _ => {}
        }
    }

    /// Removes a node for good.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), Problem> {
        let kept = self.nodes.remove(name)?;
        self.warms.removed(name);
        self.sandboxes.removed(name);
        kept.await
    }
}
