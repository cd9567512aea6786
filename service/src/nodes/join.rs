//! Joining: tokens that machines become nodes with, and the registration itself.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use chalk_core::Digest;
use chalk_core::wire::agent::{Register, Registered};
use chalk_core::wire::{JoinToken, JoinTokenRequest, Problem, Role, problem};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::{Entry, Nodes, Record, not_kept, now};
use crate::access::{Principal, Token};
use crate::ledger::{Changes, Ledger, LedgerError, Table};

/// Seconds until a join token expires, unless said.
const TTL: u64 = 24 * 3600;
/// Most of them.
const TTL_LIMIT: u64 = 10 * 365 * 24 * 3600;
/// Longest name of a node, region, or key or value of a label.
const NAME_LIMIT: usize = 63;
/// Most labels of a node.
const LABELS: usize = 64;

/// What is kept of a join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Join {
    token: Digest,
    #[serde(default)]
    region: Option<String>,
    expires: Timestamp,
    /// When it was made; the first services did not write it down.
    #[serde(default)]
    made: Option<Timestamp>,
    #[serde(default)]
    uses_left: Option<u32>,
}

impl Join {
    fn shown(&self, id: &str, token: Option<String>) -> JoinToken {
        JoinToken {
            id: id.to_owned(),
            token,
            region: self.region.clone(),
            expires: self.expires.to_string(),
            uses_left: self.uses_left,
        }
    }

    fn is_over(&self) -> bool {
        self.expires <= Timestamp::now() || self.uses_left == Some(0)
    }
}

/// The join tokens of an earlier service. Blocks.
pub(super) fn load(ledger: &Ledger, keys: &Keys) -> Result<BTreeMap<String, Join>, LedgerError> {
    let joins: BTreeMap<String, Join> = ledger.all(Table::Joins, "")?.into_iter().collect();
    for (id, join) in &joins {
        keys.put_join(join.token, id);
    }
    Ok(joins)
}

fn refused(detail: impl Into<String>, hint: &str) -> Problem {
    Problem {
        kind: problem::FORBIDDEN.to_owned(),
        title: "the node may not join".to_owned(),
        status: 403,
        detail: detail.into(),
        hint: hint.to_owned(),
    }
}

/// Checks a name: a DNS label or several, so that it can be part of host names and paths.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Problem> {
    let inner = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let mut bytes = name.bytes();
    let sound = name.len() <= NAME_LIMIT
        && bytes.clone().all(inner)
        && edge(bytes.next())
        && edge(name.bytes().last());
    if sound {
        return Ok(());
    }
    Err(Problem::wrong_request(format!(
        "{what}: `{}` is no name: expected at most {NAME_LIMIT} of a-z, 0-9, `-`, `.` and `_`, beginning and ending with a letter or digit",
        name.chars().take(80).collect::<String>()
    )))
}

pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    if labels.len() > LABELS {
        return Err(Problem::wrong_request(format!(
            "labels: more than {LABELS}"
        )));
    }
    for (key, value) in labels {
        let sound = |text: &str| text.len() <= 4 * NAME_LIMIT && !text.contains(char::is_control);
        if key.is_empty() || key.contains('=') || !sound(key) || !sound(value) {
            return Err(Problem::wrong_request(format!(
                "labels: `{key}={value}` is no label"
            )));
        }
    }
    Ok(())
}

impl Nodes {
    fn joins(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Join>> {
        self.joins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a join token.
    ///
    /// # Errors
    /// When the request is wrong, or the ledger fails.
    pub(crate) async fn invite(&self, request: JoinTokenRequest) -> Result<JoinToken, Problem> {
        if let Some(region) = &request.region {
            check_name("region", region)?;
        }
        let ttl = request.ttl_seconds.unwrap_or(TTL);
        if ttl == 0 || ttl > TTL_LIMIT {
            return Err(Problem::wrong_request(format!(
                "ttl_seconds: expected 1 to {TTL_LIMIT}, not {ttl}"
            )));
        }
        if request.uses == Some(0) {
            return Err(Problem::wrong_request(
                "uses: expected at least 1".to_owned(),
            ));
        }
        self.sweep_joins();
        let token = Token::new("chj_");
        let seconds = i64::try_from(ttl).unwrap_or(i64::MAX);
        let made = Timestamp::now();
        let expires = made.checked_add(SignedDuration::from_secs(seconds));
        let join = Join {
            token: token.hash,
            region: request.region,
            expires: expires.map_err(|e| Problem::wrong_request(format!("ttl_seconds: {e}")))?,
            made: Some(made),
            uses_left: request.uses,
        };
        let id = format!("{:08x}", rand::random::<u32>());
        let shown = join.shown(&id, Some(token.text));
        let kept = {
            let mut joins = self.joins();
            let changes = Changes::new().put(Table::Joins, &id, &join);
            self.keys.put_join(join.token, &id);
            joins.insert(id.clone(), join);
            self.ledger.begin(changes)
        };
        if let Err(error) = kept.await {
            self.keys.remove_join(&id);
            self.joins().remove(&id);
            return Err(not_kept(&error));
        }
        Ok(shown)
    }

    /// Join tokens that still count.
    pub(crate) fn invitations(&self) -> Vec<JoinToken> {
        self.sweep_joins();
        let joins = self.joins();
        joins
            .iter()
            .map(|(id, join)| join.shown(id, None))
            .collect()
    }

    /// Lets nobody join by that token any more.
    ///
    /// # Errors
    /// When there is none, or the ledger fails.
    pub(crate) async fn uninvite(&self, id: &str) -> Result<(), Problem> {
        let unknown = || Problem {
            kind: problem::NOT_FOUND.to_owned(),
            title: "no such join token".to_owned(),
            status: 404,
            detail: format!("there is no join token `{id}`"),
            hint: String::new(),
        };
        // Under the lock under which its uses are counted: nothing of before is written after.
        let kept = {
            let mut joins = self.joins();
            joins.remove(id).ok_or_else(unknown)?;
            self.keys.remove_join(id);
            self.ledger.begin(Changes::new().remove(Table::Joins, id))
        };
        kept.await.map_err(|e| not_kept(&e))
    }

    /// Forgets tokens that have expired or are used up.
    fn sweep_joins(&self) {
        let mut changes = Changes::new();
        let mut over = Vec::new();
        let mut joins = self.joins();
        joins.retain(|id, join| {
            if join.is_over() {
                over.push(id.clone());
            }
            !join.is_over()
        });
        for id in over {
            self.keys.remove_join(&id);
            changes = changes.remove(Table::Joins, &id);
        }
        self.ledger.later(changes);
    }

    /// Lets a machine join as a node, and gives it its token.
    ///
    /// # Errors
    /// When the request or the join token is wrong, a connected node has that name, or the ledger
    /// fails.
    pub(crate) async fn register(
        &self,
        who: &Principal,
        request: Register,
    ) -> Result<Registered, Problem> {
        check_name("name", &request.name)?;
        check_labels(&request.labels)?;
        if let Some(region) = &request.region {
            check_name("region", region)?;
        }
        let invitation = match who {
            Principal::Admin => None,
            Principal::Client(grant) if grant.has(Role::Admin) => None,
            Principal::Join(id) => Some(&**id),
            Principal::Client(_)
            | Principal::Puller { .. }
            | Principal::Registry { .. }
            | Principal::Node { .. }
            | Principal::Removed(_) => {
                return Err(refused("the token is no join token", ""));
            }
        };
        let token = Token::new("chn_");
        // One lock over looking and using, so that the last use is used once.
        let (record, kept) = {
            let mut joins = self.joins();
            let mut only = None;
            let mut join = None;
            if let Some(id) = invitation {
                let expired = || {
                    refused(
                        "the join token has expired, or was used as often as it may be",
                        "make another by `chalk compute node token`",
                    )
                };
                let found = joins.get_mut(id).filter(|join| !join.is_over());
                let found = found.ok_or_else(expired)?;
                only.clone_from(&found.region);
                join = Some((id, found));
            }
            let region = request.region.or_else(|| only.clone());
            let region = region.unwrap_or_else(|| self.home.clone());
            if only.as_ref().is_some_and(|only| *only != region) {
                return Err(refused(
                    format!(
                        "the join token is for region `{}`, and the node is in `{region}`",
                        only.unwrap_or_default()
                    ),
                    "give the node that region, or make a token for its own",
                ));
            }
            let record = Record {
                name: request.name,
                region,
                labels: request.labels,
                version: request.version,
                joined: now(),
                last_seen: now(),
                token: token.hash,
                draining: false,
            };
            let made = join.as_ref().map(|(_, join)| join.made);
            self.enter(record, made, |record| {
                let mut changes = Changes::new().put(Table::Nodes, &record.name, record);
                if let Some((id, join)) = join
                    && let Some(left) = join.uses_left.as_mut()
                {
                    *left -= 1;
                    changes = changes.put(Table::Joins, id, join);
                }
                self.ledger.begin(changes)
            })?
        };
        kept.await.map_err(|e| not_kept(&e))?;
        tracing::info!(node = record.name, region = record.region, "node joined");
        Ok(Registered {
            name: record.name,
            region: record.region,
            token: token.text,
        })
    }

    /// Puts a new node in its place, unless a connected one has it; `write` has it written down.
    /// `made` says when the join token was made, if it has joined by one.
    fn enter<T>(
        &self,
        mut record: Record,
        made: Option<Option<Timestamp>>,
        write: impl FnOnce(&Record) -> T,
    ) -> Result<(Record, T), Problem> {
        let mut state = self.state();
        let removed = state.removed_at(&record.name);
        if let (Some(removed), Some(made)) = (removed, made)
            && made.is_none_or(|made| made <= removed)
        {
            return Err(Problem {
                kind: problem::NODE_REMOVED.to_owned(),
                ..refused(
                    format!(
                        "node `{}` was removed from the service after the join token was made",
                        record.name
                    ),
                    "to have it back, make another join token by `chalk compute node token create`",
                )
            });
        }
        let super::State { nodes, caches, .. } = &mut *state;
        if let Some(old) = nodes.get_mut(record.name.as_str()) {
            if old.session.is_some() {
                return Err(Problem {
                    kind: problem::NAME_TAKEN.to_owned(),
                    title: "the name is taken".to_owned(),
                    status: 409,
                    detail: format!("a node `{}` is connected", record.name),
                    hint: "choose another name, or end that node first".to_owned(),
                });
            }
            // Who may add nodes to one region may not take them from another.
            if made.is_some() && old.record.region != record.region {
                return Err(refused(
                    format!(
                        "a node `{}` is in region `{}`, and not in `{}`",
                        record.name, old.record.region, record.region
                    ),
                    "choose another name, or remove that node first",
                ));
            }
            caches.clear(&mut old.held);
            // Whoever drained it did not mean the program, but the machine.
            record.draining = old.record.draining;
        }
        let name: Arc<str> = record.name.as_str().into();
        self.keys.put_node(record.token, &name);
        nodes.insert(name, Entry::new(record.clone()));
        let written = write(&record);
        Ok((record, written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, sound: bool| {
            assert_eq!(check_name("name", name).is_ok(), sound, "{name}");
        };
        check("n1", true);
        check("gpu-07.eu_west", true);
        check(&"a".repeat(63), true);
        for bad in ["", "N1", "-a", "a-", "a/b", "..", "a b", "ä", "a\n"] {
            check(bad, false);
        }
        check(&"a".repeat(64), false);
    }
}
