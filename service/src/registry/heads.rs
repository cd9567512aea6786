//! Digest, type and size of the manifests that were asked for lately, in memory: "is this image
//! there" is asked far more often than anything changes, and costs no file then.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::store::FoundHead;

/// Most names that are remembered: two halves of this. About 200 bytes each.
const HALF: usize = 32 * 1024;

/// What is remembered. Only the registry's own process changes its files, and it [forgets](Self::forget)
/// every name that it changed before it answers.
#[derive(Debug, Default)]
pub(super) struct Heads(RwLock<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    /// Counts changes: what was read before one must not be remembered after it.
    changes: u64,
    young: Half,
    /// What was remembered before `young` began; goes when that is full.
    old: Half,
}

/// By repository, then by tag or digest.
#[derive(Debug, Default)]
struct Half {
    repositories: HashMap<String, HashMap<String, FoundHead>>,
    count: usize,
}

/// When a name was read: before which change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment(u64);

impl Half {
    fn get(&self, repository: &str, name: &str) -> Option<&FoundHead> {
        self.repositories.get(repository)?.get(name)
    }

    fn remove(&mut self, repository: &str, name: &str) {
        let names = self.repositories.get_mut(repository);
        if names.is_some_and(|names| names.remove(name).is_some()) {
            self.count -= 1;
        }
    }

    fn remove_all(&mut self, repository: &str) {
        let names = self.repositories.remove(repository);
        self.count -= names.map_or(0, |names| names.len());
    }
}

impl Heads {
    // The table is changed by short pieces of code that do not panic.
    fn read(&self) -> RwLockReadGuard<'_, Remembered> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Remembered> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a name.
    pub(super) fn get(&self, repository: &str, name: &str) -> Option<FoundHead> {
        let table = self.read();
        let young = table.young.get(repository, name);
        young.or_else(|| table.old.get(repository, name)).cloned()
    }

    /// To be taken before the files are read.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.read().changes)
    }

    /// Remembers what the files said, unless something changed since then.
    pub(super) fn remember(&self, read_at: Moment, repository: &str, name: &str, head: FoundHead) {
        let mut table = self.write();
        if table.changes != read_at.0 {
            return;
        }
        if table.young.count >= HALF {
            table.old = std::mem::take(&mut table.young);
        }
        let names = table.young.repositories.entry(repository.to_owned());
        let before = names.or_default().insert(name.to_owned(), head);
        table.young.count += usize::from(before.is_none());
    }

    /// Forgets names, after the files have changed.
    pub(super) fn forget<'a>(&self, repository: &str, names: impl IntoIterator<Item = &'a str>) {
        let mut table = self.write();
        table.changes += 1;
        for name in names {
            table.young.remove(repository, name);
            table.old.remove(repository, name);
        }
    }

    /// Forgets all names of a repository, after the files have changed.
    pub(super) fn forget_all(&self, repository: &str) {
        let mut table = self.write();
        table.changes += 1;
        table.young.remove_all(repository);
        table.old.remove_all(repository);
    }
}

#[cfg(test)]
mod tests {
    use chalk_core::AnyDigest;
    use chalk_core::any_digest::Algorithm;

    use super::*;

    fn head(text: &str) -> FoundHead {
        FoundHead {
            digest: AnyDigest::of(Algorithm::Sha256, text.as_bytes()),
            media_type: "text/plain".into(),
            size: text.len() as u64,
        }
    }

    #[test]
    fn remembers_until_told_otherwise() {
        let heads = Heads::default();
        for repository in ["a", "b"] {
            for name in ["x", "y"] {
                heads.remember(heads.moment(), repository, name, head(name));
            }
        }
        assert_eq!(heads.get("a", "x"), Some(head("x")));
        heads.forget("a", ["x", "none"]);
        assert_eq!(heads.get("a", "x"), None);
        assert_eq!(heads.get("a", "y"), Some(head("y")));
        heads.forget_all("a");
        assert_eq!(heads.get("a", "y"), None);
        assert_eq!(heads.get("b", "x"), Some(head("x")));
    }

    #[test]
    fn what_was_read_before_a_change_does_not_come_back() {
        let heads = Heads::default();
        let moment = heads.moment();
        heads.forget("a", ["other"]);
        heads.remember(moment, "a", "x", head("old"));
        assert_eq!(heads.get("a", "x"), None);
    }

    #[test]
    fn is_bounded_and_keeps_the_latest() {
        let heads = Heads::default();
        for number in 0..5 * HALF {
            heads.remember(heads.moment(), "a", &number.to_string(), head("x"));
        }
        let table = heads.read();
        assert!(table.young.count + table.old.count <= 2 * HALF);
        let held = |half: &Half| half.repositories["a"].len();
        assert_eq!(table.young.count, held(&table.young));
        assert_eq!(table.old.count, held(&table.old));
        drop(table);
        assert_eq!(heads.get("a", "0"), None);
        let last = (4 * HALF).to_string();
        assert_eq!(heads.get("a", &last), Some(head("x")));
    }
}
