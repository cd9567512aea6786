//! What time and clients bring: ends, and new beginnings.

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::wire::agent::Order;
use chalk_core::wire::{Problem, Warm, WarmState, WarmStatus, problem};
use tokio::time::Instant;

use super::{Stage, State, WaveKey};
use crate::nodes::session;
use crate::warms::record::{Stored, trouble};

impl State {
    /// What time brings: lost nodes, warms that took too long, orders that were not taken.
    pub(in crate::warms) fn tick(&mut self) {
        let patience = self.nodes.lost_after();
        let away = self.pulls.iter().filter(|(_, p)| p.stage == Stage::Away);
        let lost = away.filter(|(_, pull)| self.nodes.is_lost(&pull.node, patience));
        let mut lost_by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, pull) in lost {
            let ids = lost_by_node.entry(pull.node.clone()).or_default();
            ids.push(id.clone());
        }
        for (node, ids) in lost_by_node {
            let error = session::lost(&node, &format!("is not connected for {patience:?}"));
            self.fail(&ids, &error);
        }
        let away = self.pulls.iter().filter(|(_, p)| p.stage == Stage::Away);
        let back = away.filter(|(_, pull)| self.nodes.connected(&pull.node).is_some());
        let back: Vec<String> = back.map(|(id, _)| id.clone()).collect();
        for id in back {
            self.line_up(&id, true);
        }
        let late = self.live.iter().filter(|(_, live)| live.is_late());
        let late: Vec<String> = late.map(|(id, _)| id.clone()).collect();
        for warm in late {
            let open = self.live.get(&warm).is_some_and(|live| live.open > 0);
            let timeout = self.live.get(&warm).map_or(0, |live| live.header.timeout);
            if open {
                let detail = format!("it was not ready after {timeout} s");
                let error = trouble(problem::TIMED_OUT, "the warm took too long", detail);
                self.leave(&warm, &error);
            }
            // Nodes that were lost come too late from now on.
            if let Some(live) = self.live.get_mut(&warm)
                && live.header.awaits
            {
                live.header.awaits = false;
                self.ended.push(warm);
            }
        }
        let waiting: Vec<WaveKey> = self.groups.keys().cloned().collect();
        for key in waiting {
            self.pump(&key);
        }
    }

    /// Takes a warm away from all its pulls; what is not over fails. Orders that nobody else wants
    /// are taken back.
    fn leave(&mut self, warm: &str, error: &Problem) {
        let Some(live) = self.live.get(warm) else {
            return;
        };
        let open = live.targets.iter().enumerate();
        let open = open.filter(|(_, stored)| !stored.is_over());
        let open: Vec<(usize, Option<String>)> = open.map(|(at, s)| (at, s.pull.clone())).collect();
        let mut alone = Vec::new();
        for (at, pull) in open {
            if let Some(id) = pull
                && let Some(pull) = self.pulls.get_mut(&id)
            {
                pull.targets
                    .retain(|target| *target != (warm.to_owned(), at));
                if pull.targets.is_empty() {
                    if pull.told
                        && let Ok(session) = self.nodes.session(&pull.node)
                    {
                        session.send(&Order::CancelWarm { id: id.clone() });
                    }
                    alone.push(id);
                }
            }
            self.change(warm, at, |stored| stored.fail(error));
        }
        // All of them at once, so that none of them is ordered in the place of another.
        self.fail(&alone, error);
    }

    /// Ends a warm before its end.
    pub(in crate::warms) fn cancel(&mut self, warm: &str) -> Option<Warm> {
        let live = self.live.get_mut(warm)?;
        let ran = live.header.status == WarmStatus::Running;
        if ran {
            // Before its last target is over, so that this is not taken for its end.
            live.header.status = WarmStatus::Cancelled;
            let detail = "a client cancelled it".to_owned();
            let error = trouble(problem::CANCELLED, "the warm was cancelled", detail);
            self.leave(warm, &error);
        }
        let live = self.live.get_mut(warm)?;
        live.header.awaits = false;
        if ran {
            live.header.finished = Some(jiff::Timestamp::now().to_string());
            self.finish(warm);
        } else {
            self.ended.push(warm.to_owned());
        }
        self.shown(warm)
    }

    /// Lets the targets of a warm that failed begin again, with the whole time.
    pub(in crate::warms) fn retry(&mut self, warm: &str) -> Option<Warm> {
        let live = self.live.get_mut(warm)?;
        let failed = live.targets.iter().enumerate();
        let failed = failed.filter(|(_, stored)| stored.target.state == WarmState::Failed);
        let failed: Vec<usize> = failed.map(|(at, _)| at).collect();
        if failed.is_empty() {
            // Nothing to do; it may be here for this call only.
            self.ended.push(warm.to_owned());
        } else {
            live.began = Instant::now();
            live.header.status = WarmStatus::Running;
            live.header.finished = None;
            live.header.awaits = false;
            let mut touched = BTreeSet::new();
            for at in failed {
                self.change(warm, at, Stored::again);
                touched.extend(self.enter(warm, at));
            }
            for key in touched {
                self.pump(&key);
            }
        }
        self.shown(warm)
    }
}
