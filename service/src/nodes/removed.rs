//! Removing nodes for good, and what is remembered of those that were.
//!
//! A machine that was away when its node was removed comes back with a token that counts no more.
//! It is told why, so that it ends instead of joining again; and no join token of before lets that
//! name in once more.

use chalk_core::Digest;
use chalk_core::wire::Problem;
use chalk_core::wire::agent::Order;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Nodes, State, not_kept, unknown};
use crate::ledger::{Changes, Ledger, LedgerError, Table};

/// Removed nodes that are remembered.
const REMEMBERED: usize = 10_000;

/// What is kept of a node that was removed, by the hash of its token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Removed {
    pub(super) name: String,
    pub(super) at: Timestamp,
}

/// The nodes that an earlier service removed. Blocks.
pub(super) fn load(ledger: &Ledger) -> Result<Vec<(Digest, Removed)>, LedgerError> {
    let rows = ledger.all::<Removed>(Table::Removed, "")?;
    let parsed = rows.into_iter().filter_map(|(token, removed)| {
        let token = token.parse().ok()?;
        Some((token, removed))
    });
    Ok(parsed.collect())
}

impl State {
    /// When a node of that name was last removed.
    pub(super) fn removed_at(&self, name: &str) -> Option<Timestamp> {
        let same = self.removed.values().filter(|removed| removed.name == name);
        same.map(|removed| removed.at).max()
    }
}

impl Nodes {
    /// Removes a node for good: its token counts no more, its session ends, and the others of its
    /// region let each other in by another secret. What it gives is done when that is on the disk.
    ///
    /// # Errors
    /// When there is no such node; later, when the ledger fails.
    pub(crate) fn remove(
        &self,
        name: &str,
    ) -> Result<impl Future<Output = Result<(), Problem>> + Send + use<>, Problem> {
        // Whatever is written of a node is given to the ledger under this lock, so that nothing
        // of before comes after its removal.
        let mut state = self.state();
        let State {
            nodes,
            caches,
            removed,
        } = &mut *state;
        let mut entry = nodes.remove(name).ok_or_else(|| unknown(name))?;
        caches.clear(&mut entry.held);
        let token = entry.record.token;
        let what = Removed {
            name: name.to_owned(),
            at: Timestamp::now(),
        };
        let mut changes = Changes::new().remove(Table::Nodes, name).put(
            Table::Removed,
            &token.to_string(),
            &what,
        );
        removed.insert(token, what);
        self.keys.remove_node(name);
        self.grants.removed(name);
        self.keys.put_removed(token, name);
        while removed.len() > REMEMBERED
            && let Some(oldest) = removed.iter().min_by_key(|(_, removed)| removed.at)
        {
            let oldest = *oldest.0;
            removed.remove(&oldest);
            self.keys.forget_removed(&oldest);
            changes = changes.remove(Table::Removed, &oldest.to_string());
        }
        if let Some(session) = entry.session {
            session.send(&Order::Removed);
            session.end_soon();
        }
        let region = &entry.record.region;
        let (token, changes) = self.new_peer_token(region, changes);
        let order = Order::PeerToken { token };
        let others = nodes
            .values()
            .filter(|other| other.record.region == *region);
        for session in others.filter_map(|other| other.session.as_ref()) {
            session.send(&order);
        }
        let kept = self.ledger.begin(changes);
        Ok(async { kept.await.map_err(|e| not_kept(&e)) })
    }
}
