//! Choosing nodes by name, label and region.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chalk_core::wire::{NodeRuntime, NodeState, Problem, problem};

use super::{Entry, Nodes, unknown};

/// Most nodes that a message lists.
const SHOWN: usize = 20;

/// Which nodes are wanted; everything empty stands for all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection<'a> {
    pub(crate) nodes: &'a [String],
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) region: Option<&'a str>,
}

/// A node that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) region: String,
}

impl Selection<'_> {
    fn fits(&self, entry: &Entry) -> bool {
        let record = &entry.record;
        let labelled = |(key, value): (&String, &String)| record.labels.get(key) == Some(value);
        let named = self.nodes.is_empty() || self.nodes.contains(&record.name);
        let region = self.region.is_none_or(|region| region == record.region);
        named && region && self.labels.iter().all(labelled)
    }

    /// What is wanted, in words.
    fn words(&self) -> String {
        let mut words = String::new();
        if !self.nodes.is_empty() {
            let _ = write!(words, " named {}", self.nodes.join(", "));
        }
        for (key, value) in self.labels {
            let _ = write!(words, " with label {key}={value}");
        }
        if let Some(region) = self.region {
            let _ = write!(words, " in region `{region}`");
        }
        words
    }
}

impl Nodes {
    /// Nodes that a warm goes to. Those that were asked for by name may be away for now; of others
    /// only those count that are connected, or were a moment ago, and take new work.
    ///
    /// # Errors
    /// When a name is unknown, or no node fits; says what there is.
    pub(crate) fn select(&self, wanted: Selection<'_>) -> Result<Vec<Chosen>, Problem> {
        let state = self.state();
        for name in wanted.nodes {
            if !state.nodes.contains_key(name.as_str()) {
                return Err(self.none(state.nodes.values(), &unknown(name).detail));
            }
        }
        let named: BTreeSet<&str> = wanted.nodes.iter().map(String::as_str).collect();
        let patience = self.settings.lost_after;
        let takes = |entry: &&Entry| {
            let away = entry.gone.is_some_and(|gone| gone.elapsed() >= patience);
            !away && !entry.record.draining || named.contains(entry.record.name.as_str())
        };
        let fitting: Vec<&Entry> = state.nodes.values().filter(|e| wanted.fits(e)).collect();
        let chosen = fitting.iter().copied().filter(takes).map(|entry| Chosen {
            name: entry.record.name.clone(),
            region: entry.record.region.clone(),
        });
        let chosen: Vec<Chosen> = chosen.collect();
        if !chosen.is_empty() {
            return Ok(chosen);
        }
        let words = wanted.words();
        let why = if fitting.is_empty() {
            format!("there is no node{words}")
        } else {
            format!("no node{words} is connected and takes work")
        };
        Err(self.none(state.nodes.values(), &why))
    }

    /// Nodes that can take a sandbox now: those that run any, and are connected.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    pub(crate) fn takers(&self, wanted: Selection<'_>) -> Result<Vec<super::Connected>, Problem> {
        let state = self.state();
        for name in wanted.nodes {
            if !state.nodes.contains_key(name.as_str()) {
                return Err(self.none(state.nodes.values(), &unknown(name).detail));
            }
        }
        let fitting = state.nodes.values().filter(|entry| wanted.fits(entry));
        let ready = fitting.filter(|entry| entry.state() == NodeState::Ready);
        let (runs, others): (Vec<&Entry>, Vec<&Entry>) =
            ready.partition(|entry| entry.runtime.is_chalk());
        let ready: Vec<_> = runs.into_iter().filter_map(Entry::connected).collect();
        if ready.is_empty() {
            let words = wanted.words();
            let why = match others.is_empty() {
                true => format!("no node{words} is connected and takes work"),
                false => format!(
                    "no node{words} runs sandboxes: with the runtime `containerd`, nodes only keep \
                     images for the containers of others"
                ),
            };
            return Err(self.none(state.nodes.values(), &why));
        }
        Ok(ready)
    }

    fn none<'a>(&self, nodes: impl Iterator<Item = &'a Entry>, why: &str) -> Problem {
        let mut listed: Vec<String> = nodes
            .map(|entry| {
                let state = match entry.state() {
                    NodeState::Ready => "ready",
                    NodeState::Draining => "draining",
                    NodeState::Lost => "lost",
                };
                let record = &entry.record;
                let runtime = match entry.runtime {
                    NodeRuntime::Chalk => "",
                    NodeRuntime::Containerd => ", containerd",
                };
                format!("{} ({}, {state}{runtime})", record.name, record.region)
            })
            .collect();
        let there_are = match listed.len() {
            0 => "there are no nodes at all".to_owned(),
            count => {
                listed.truncate(SHOWN);
                let more = match count - listed.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("there are {}{more}", listed.join(", "))
            }
        };
        Problem {
            kind: problem::NO_NODE.to_owned(),
            title: "no node fits".to_owned(),
            status: 409,
            detail: format!("{why}; {there_are}"),
            hint: "start one by `chalk node --server URL --name NAME`, or choose others".to_owned(),
        }
    }
}
