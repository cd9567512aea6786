//! Who may ask: the tokens of nodes and those that nodes join with, by their SHA-256.
//!
//! Tokens have 256 random bits, so that a plain hash is enough to keep them by: nobody can guess
//! one, and the hash gives none away.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use chalk_core::Digest;
use subtle::ConstantTimeEq as _;

use crate::access::Principal;

#[derive(Debug, Default)]
struct Known {
    nodes: BTreeMap<Digest, Arc<str>>,
    joins: BTreeMap<Digest, Arc<str>>,
    removed: BTreeMap<Digest, Arc<str>>,
}

/// All tokens but the administrator's.
#[derive(Debug, Default)]
pub(crate) struct Keys(RwLock<Known>);

impl Keys {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose token that is.
    pub(crate) fn who(&self, token: &[u8]) -> Option<Principal> {
        let hash = Digest::of(token);
        let known = self.read();
        // The look-up compares hashes, whose bytes nobody outside can choose; what it finds is
        // compared once more, in a time that tells nothing.
        let same = |found: &Digest| bool::from(found.as_bytes().ct_eq(hash.as_bytes()));
        let find = |tokens: &BTreeMap<Digest, Arc<str>>| {
            let (found, whose) = tokens.get_key_value(&hash)?;
            same(found).then(|| whose.clone())
        };
        if let Some(name) = find(&known.nodes) {
            return Some(Principal::Node { name, token: hash });
        }
        if let Some(id) = find(&known.joins) {
            return Some(Principal::Join(id));
        }
        find(&known.removed).map(Principal::Removed)
    }

    /// Lets a node in by that token only.
    pub(crate) fn put_node(&self, hash: Digest, name: &Arc<str>) {
        let mut known = self.write();
        known.nodes.retain(|_, other| other != name);
        known.nodes.insert(hash, name.clone());
    }

    /// Lets a node in no more.
    pub(crate) fn remove_node(&self, name: &str) {
        self.write().nodes.retain(|_, other| &**other != name);
    }

    /// Knows a token as that of a node that was removed.
    pub(crate) fn put_removed(&self, hash: Digest, name: &str) {
        self.write().removed.insert(hash, name.into());
    }

    /// Knows a token of a removed node no more.
    pub(crate) fn forget_removed(&self, hash: &Digest) {
        self.write().removed.remove(hash);
    }

    /// Lets machines join by that token.
    pub(crate) fn put_join(&self, hash: Digest, id: &str) {
        self.write().joins.insert(hash, id.into());
    }

    /// Lets nobody join by the token of that identifier.
    pub(crate) fn remove_join(&self, id: &str) {
        self.write().joins.retain(|_, other| &**other != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Token;

    #[test]
    fn a_node_has_one_token() {
        let keys = Keys::default();
        let (a, b, join) = (Token::new("n_"), Token::new("n_"), Token::new("j_"));
        let name: Arc<str> = "n1".into();
        keys.put_node(a.hash, &name);
        keys.put_node(b.hash, &name);
        keys.put_join(join.hash, "7");
        let check = |token: &Token, expect: Option<Principal>| {
            assert_eq!(keys.who(token.text.as_bytes()), expect);
        };
        check(&a, None);
        let node = Principal::Node {
            name: name.clone(),
            token: b.hash,
        };
        check(&b, Some(node));
        check(&join, Some(Principal::Join("7".into())));
        assert_eq!(keys.who(b.hash.to_string().as_bytes()), None);
        keys.remove_join("7");
        keys.remove_node("n1");
        check(&b, None);
        keys.put_removed(b.hash, "n1");
        check(&b, Some(Principal::Removed(name)));
        keys.forget_removed(&b.hash);
        check(&b, None);
        check(&join, None);
        assert!(a.text != b.text && a.text.len() == 45);
    }
}
