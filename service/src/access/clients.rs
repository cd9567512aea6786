//! Clients: people and programs, with the tokens and secrets that they were given.
//!
//! Both have 256 random bits, so that a plain hash is enough to keep them by.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chalk_core::Digest;
use chalk_core::wire::{ClientToken, ClientTokenRequest, DEFAULT_PROJECT, Problem, Role, problem};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::{Grant, Token};
use crate::ledger::{Changes, Ledger, LedgerError, Table};
use crate::nodes::not_kept;
use crate::projects::Projects;

/// Longest time until a token expires, in seconds.
const TTL_LIMIT: u64 = 10 * 365 * 24 * 3600;
/// Longest name of a token, in bytes.
const NAME_LIMIT: usize = 200;
/// Most tokens.
const LIMIT: usize = 100_000;

/// What is kept of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    name: String,
    roles: Vec<Role>,
    /// Absent for tokens of before there were projects.
    #[serde(default)]
    project: Option<String>,
    secret: Digest,
    token: Digest,
    created: Timestamp,
    #[serde(default)]
    expires: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    grant: Arc<Grant>,
}

impl Entry {
    fn new(id: &str, record: Record) -> Self {
        let grant = Arc::new(Grant {
            id: id.into(),
            name: record.name.clone(),
            roles: record.roles.clone(),
            project: record.project.as_deref().unwrap_or(DEFAULT_PROJECT).into(),
        });
        Self { record, grant }
    }

    fn counts(&self, now: Timestamp) -> bool {
        self.record.expires.is_none_or(|expires| now < expires)
    }

    fn shown(&self) -> ClientToken {
        ClientToken {
            client_id: self.grant.id.to_string(),
            name: self.record.name.clone(),
            roles: self.record.roles.clone(),
            project: self.grant.project.to_string(),
            created: self.record.created.to_string(),
            expires: self.record.expires.as_ref().map(ToString::to_string),
            client_secret: None,
            token: None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// By identifier.
    entries: BTreeMap<String, Entry>,
    /// Identifiers by the hash of the token.
    tokens: BTreeMap<Digest, String>,
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    ledger: Arc<Ledger>,
    state: RwLock<State>,
}

/// What a login gives.
#[derive(Debug)]
pub(crate) struct Login {
    /// What the client may do.
    pub(crate) grant: Arc<Grant>,
    /// When the client ends.
    pub(crate) expires: Option<Timestamp>,
}

impl Clients {
    /// Clients of an earlier service. Blocks.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn load(ledger: Arc<Ledger>) -> Result<Self, LedgerError> {
        let mut state = State::default();
        for (id, record) in ledger.all::<Record>(Table::Clients, "")? {
            state.tokens.insert(record.token, id.clone());
            state.entries.insert(id.clone(), Entry::new(&id, record));
        }
        Ok(Self {
            ledger,
            state: RwLock::new(state),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a client of one of `projects`, with its token and secret.
    ///
    /// # Errors
    /// When the request is wrong, there is no such project, or the ledger fails.
    pub(crate) async fn make(
        &self,
        request: ClientTokenRequest,
        projects: &Projects,
    ) -> Result<ClientToken, Problem> {
        let name = request.name.trim();
        if name.is_empty() || name.len() > NAME_LIMIT || name.contains(char::is_control) {
            return Err(Problem::wrong_request(format!(
                "name: expected 1 to {NAME_LIMIT} bytes without control characters"
            )));
        }
        let now = Timestamp::now();
        let expires = match request.ttl_seconds {
            None => None,
            Some(ttl) if ttl == 0 || ttl > TTL_LIMIT => {
                return Err(Problem::wrong_request(format!(
                    "ttl_seconds: expected 1 to {TTL_LIMIT}, not {ttl}"
                )));
            }
            Some(ttl) => {
                let seconds = i64::try_from(ttl).unwrap_or(i64::MAX);
                let end = now.checked_add(SignedDuration::from_secs(seconds));
                Some(end.map_err(|e| Problem::wrong_request(format!("ttl_seconds: {e}")))?)
            }
        };
        let mut roles = request.roles;
        roles.sort_unstable();
        roles.dedup();
        if roles.is_empty() {
            roles.push(Role::Build);
        }
        let project = match request.project {
            None => DEFAULT_PROJECT.to_owned(),
            Some(project) if projects.has(&project) => project,
            Some(project) => return Err(crate::projects::no_such(&project)),
        };
        let (token, secret) = (Token::new("cht_"), Token::new("chs_"));
        let record = Record {
            name: name.to_owned(),
            roles,
            project: Some(project),
            secret: secret.hash,
            token: token.hash,
            created: now,
            expires,
        };
        let id = format!("chc_{:016x}", rand::random::<u64>());
        // It counts only once it is kept: what was given out and is gone after a crash would be a
        // riddle to its owner.
        let changes = Changes::new().put(Table::Clients, &id, &record);
        let full = self.read().entries.len() >= LIMIT;
        if full {
            return Err(Problem::wrong_request(format!(
                "there are {LIMIT} tokens, and there cannot be more"
            )));
        }
        let kept = self.ledger.begin(changes).await;
        kept.map_err(|error| not_kept(&error))?;
        let entry = Entry::new(&id, record);
        let shown = ClientToken {
            client_secret: Some(secret.text),
            token: Some(token.text),
            ..entry.shown()
        };
        let mut state = self.write();
        state.tokens.insert(token.hash, id.clone());
        state.entries.insert(id, entry);
        tracing::info!(id = shown.client_id, name = shown.name, roles = ?shown.roles, "token was made");
        Ok(shown)
    }

    /// All clients, those that have expired, too, in the order in which they were made.
    pub(crate) fn list(&self) -> Vec<ClientToken> {
        let state = self.read();
        let mut entries: Vec<&Entry> = state.entries.values().collect();
        entries.sort_by_key(|entry| entry.record.created);
        entries.into_iter().map(Entry::shown).collect()
    }

    /// Ends a client, and every pass that was made for it.
    ///
    /// # Errors
    /// When there is none, or the ledger fails; in the latter case it has ended until the service
    /// is started again.
    pub(crate) async fn revoke(&self, id: &str) -> Result<(), Problem> {
        let kept = {
            let mut state = self.write();
            let entry = state.entries.remove(id).ok_or_else(|| Problem {
                kind: problem::NOT_FOUND.to_owned(),
                title: "no such token".to_owned(),
                status: 404,
                detail: format!("there is no token `{id}`"),
                hint: "`chalk token ls` lists them by their identifiers".to_owned(),
            })?;
            state.tokens.remove(&entry.record.token);
            self.ledger.begin(Changes::new().remove(Table::Clients, id))
        };
        kept.await.map_err(|error| not_kept(&error))?;
        tracing::info!(id, "token was revoked");
        Ok(())
    }

    /// Ends all clients of a project.
    ///
    /// # Errors
    /// When the ledger fails; they have ended all the same until the service is started again.
    pub(crate) async fn revoke_all(&self, project: &str) -> Result<(), Problem> {
        let ids: Vec<String> = {
            let state = self.read();
            let of = state.entries.iter();
            of.filter(|(_, entry)| *entry.grant.project == *project)
                .map(|(id, _)| id.clone())
                .collect()
        };
        for id in ids {
            self.revoke(&id).await?;
        }
        Ok(())
    }

    /// The client whose secret that is.
    pub(crate) fn login(&self, id: &str, secret: &[u8], now: Timestamp) -> Option<Login> {
        let hash = Digest::of(secret);
        let state = self.read();
        let entry = state.entries.get(id)?;
        let same = bool::from(entry.record.secret.as_bytes().ct_eq(hash.as_bytes()));
        (same && entry.counts(now)).then(|| Login {
            grant: entry.grant.clone(),
            expires: entry.record.expires,
        })
    }

    /// What the client of that identifier may do, if it still counts.
    pub(crate) fn grant(&self, id: &str, now: Timestamp) -> Option<Arc<Grant>> {
        let state = self.read();
        let entry = state.entries.get(id).filter(|entry| entry.counts(now))?;
        Some(entry.grant.clone())
    }

    /// What the client of that token may do.
    pub(crate) fn who(&self, token: &[u8], now: Timestamp) -> Option<Arc<Grant>> {
        let hash = Digest::of(token);
        let id = self.read().tokens.get(&hash).cloned()?;
        self.grant(&id, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Clients {
        let ledger = Ledger::open(&dir.path().join("l")).unwrap();
        Clients::load(ledger.into()).unwrap()
    }

    fn projects(dir: &tempfile::TempDir) -> Projects {
        let ledger = Ledger::open(&dir.path().join("p")).unwrap();
        let blobs = chalk_store::BlobStore::open(dir.path().join("store")).unwrap();
        Projects::load(ledger.into(), blobs).unwrap()
    }

    fn request(name: &str, ttl_seconds: Option<u64>) -> ClientTokenRequest {
        ClientTokenRequest {
            name: name.into(),
            roles: vec![Role::Warm, Role::Read, Role::Warm],
            project: None,
            ttl_seconds,
        }
    }

    #[tokio::test]
    async fn tokens_are_kept_until_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let clients = open(&dir);
        let made = clients
            .make(request("ci", Some(60)), &projects(&dir))
            .await
            .unwrap();
        assert_eq!(made.roles, [Role::Read, Role::Warm]);
        let (token, secret) = (made.token.unwrap(), made.client_secret.unwrap());
        drop(clients);
        let clients = open(&dir);
        let now = Timestamp::now();
        let later = now + SignedDuration::from_secs(61);
        let id = made.client_id;
        let who = clients.who(token.as_bytes(), now).unwrap();
        assert_eq!((&*who.id, &*who.name), (&*id, "ci"));
        assert!(who.has(Role::Read) && who.has(Role::Warm));
        assert!(!who.has(Role::Build) && !who.has(Role::Admin));
        assert!(clients.login(&id, secret.as_bytes(), now).is_some());
        // Neither the one for the other, nor after its time, nor for another client.
        assert!(clients.login(&id, token.as_bytes(), now).is_none());
        assert!(clients.login("chc_0", secret.as_bytes(), now).is_none());
        assert!(clients.login(&id, secret.as_bytes(), later).is_none());
        assert!(clients.who(secret.as_bytes(), now).is_none());
        assert!(clients.who(token.as_bytes(), later).is_none());
        let listed = clients.list();
        assert!(
            listed.len() == 1 && listed[0].token.is_none() && listed[0].client_secret.is_none()
        );
        clients.revoke(&id).await.unwrap();
        assert!(clients.who(token.as_bytes(), now).is_none());
        assert_eq!(clients.revoke(&id).await.unwrap_err().status, 404);
        drop(clients);
        assert!(open(&dir).list().is_empty());
    }

    #[tokio::test]
    async fn wrong_requests() {
        let dir = tempfile::tempdir().unwrap();
        let (clients, projects) = (open(&dir), projects(&dir));
        for (name, ttl) in [
            ("", None),
            ("a\nb", None),
            ("a", Some(0)),
            ("a", Some(u64::MAX)),
        ] {
            let made = clients.make(request(name, ttl), &projects).await;
            assert_eq!(made.unwrap_err().status, 400, "{name:?} {ttl:?}");
        }
        let elsewhere = ClientTokenRequest {
            project: Some("none".to_owned()),
            ..request("a", None)
        };
        let made = clients.make(elsewhere, &projects).await;
        assert_eq!(made.unwrap_err().status, 404);
        assert!(clients.list().is_empty());
    }
}
