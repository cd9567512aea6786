//! What was acknowledged: the state that the thing under test must have after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that is there or not, with a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A blob of a repository, by digest.
    Blob(String, String),
    /// A manifest of a repository, by digest.
    Manifest(String, String),
    /// A tag of a repository; its value is a digest.
    Tag(String, String),
    /// A built image, by hash.
    Image(String),
    /// A name; its value is the hash of an image.
    Name(String),
    /// A token, by identifier.
    Token(String),
    /// A join token, by identifier.
    JoinToken(String),
    /// The list of images that nodes keep ready.
    Prewarm,
    /// An upload, by its path.
    Upload(String),
    /// A volume, by name.
    Volume(String),
    /// A file of a volume; its value is a hash.
    File(String, String),
    /// An image in the cache of a node, by hash.
    Cached(String),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(repository, digest) => write!(f, "blob {repository}@{digest}"),
            Self::Manifest(repository, digest) => write!(f, "manifest {repository}@{digest}"),
            Self::Tag(repository, tag) => write!(f, "tag {repository}:{tag}"),
            Self::Image(hash) => write!(f, "image {hash}"),
            Self::Name(name) => write!(f, "name {name}"),
            Self::Token(id) => write!(f, "token {id}"),
            Self::JoinToken(id) => write!(f, "join token {id}"),
            Self::Prewarm => write!(f, "the pre-warm list"),
            Self::Upload(path) => write!(f, "upload {path}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::File(volume, path) => write!(f, "file {volume}:{path}"),
            Self::Cached(hash) => write!(f, "image {hash} on the node"),
        }
    }
}

/// Value of a thing; none when it is not there.
pub(crate) type Value = Option<String>;

/// What may be found of each thing: one value after an acknowledgement, several while a change
/// was asked for and not answered.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    allowed: Mutex<BTreeMap<Thing, BTreeSet<Value>>>,
    acknowledged: Mutex<usize>,
}

impl Facts {
    fn allowed(&self) -> MutexGuard<'_, BTreeMap<Thing, BTreeSet<Value>>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change is asked for: from now on both may be found.
    pub(crate) fn asked(&self, thing: &Thing, value: Value) {
        let mut allowed = self.allowed();
        let values = allowed
            .entry(thing.clone())
            .or_insert_with(|| BTreeSet::from([None]));
        values.insert(value);
    }

    /// A change was answered with success: nothing else may be found.
    pub(crate) fn acknowledged(&self, thing: &Thing, value: Value) {
        self.allowed()
            .insert(thing.clone(), BTreeSet::from([value]));
        *self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// How many changes were answered with success.
    pub(crate) fn count(&self) -> usize {
        *self
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// All things with what may be found of them.
    pub(crate) fn all(&self) -> Vec<(Thing, BTreeSet<Value>)> {
        let allowed = self.allowed();
        allowed
            .iter()
            .map(|(thing, values)| (thing.clone(), values.clone()))
            .collect()
    }

    /// The one value of a thing, if it is known.
    pub(crate) fn known(&self, thing: &Thing) -> Value {
        let allowed = self.allowed();
        let values = allowed.get(thing)?;
        match values.len() {
            1 => values.first().cloned().flatten(),
            _ => None,
        }
    }

    /// What was found after a restart is what counts from now on.
    pub(crate) fn found(&self, thing: &Thing, value: Value) {
        self.allowed()
            .insert(thing.clone(), BTreeSet::from([value]));
    }

    /// Tags of a repository that may point to a manifest.
    pub(crate) fn tags_of(&self, repository: &str, digest: &str) -> Vec<Thing> {
        let points = |values: &BTreeSet<Value>| values.contains(&Some(digest.to_owned()));
        let allowed = self.allowed();
        let tags = allowed.iter().filter(|(thing, values)| {
            matches!(thing, Thing::Tag(name, _) if name == repository) && points(values)
        });
        tags.map(|(thing, _)| thing.clone()).collect()
    }

    /// Names that may point to an image.
    pub(crate) fn names_of(&self, hash: &str) -> Vec<Thing> {
        let points = |values: &BTreeSet<Value>| values.contains(&Some(hash.to_owned()));
        let allowed = self.allowed();
        let names = allowed
            .iter()
            .filter(|(thing, values)| matches!(thing, Thing::Name(_)) && points(values));
        names.map(|(thing, _)| thing.clone()).collect()
    }

    /// Files that a volume may have.
    pub(crate) fn files_of(&self, volume: &str) -> Vec<Thing> {
        let allowed = self.allowed();
        let of = |thing: &&Thing| matches!(thing, Thing::File(name, _) if name == volume);
        allowed.keys().filter(of).cloned().collect()
    }
}
