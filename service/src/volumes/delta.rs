//! Changes between one version and the next.

use super::error::{Result, VolumeError};
use super::manifest::{ENTRY_LIMIT, Entry, Manifest, Node};

/// Paths to take away and entries to put, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Taken away first.
    pub(crate) removes: Vec<Remove>,
    /// Put afterwards; of several at one path the last one counts.
    pub(crate) upserts: Vec<Upsert>,
}

/// A path to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remove {
    /// Clean path; the root when empty.
    pub(crate) path: String,
    /// With everything below it; then nothing need be there.
    pub(crate) recursive: bool,
}

/// An entry to put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upsert {
    /// Clean path, not the root.
    pub(crate) path: String,
    /// What must have been there.
    pub(crate) mode: WriteMode,
    /// The entry.
    pub(crate) entry: Entry,
}

/// What must be at a path that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// Anything or nothing.
    Upsert,
    /// Nothing.
    Create,
    /// Something.
    Replace,
}

impl Delta {
    /// The version after `base`.
    ///
    /// # Errors
    /// [`VolumeError::Conflict`] when a change does not fit what is there, and
    /// [`VolumeError::TooMany`].
    pub(crate) fn apply(&self, base: &Manifest) -> Result<Manifest> {
        let mut next = base.clone();
        for remove in &self.removes {
            take(&mut next, remove)?;
        }
        for upsert in &self.upserts {
            put(&mut next, upsert)?;
        }
        if next.len() > ENTRY_LIMIT {
            return Err(VolumeError::TooMany {
                what: "files in a version of a volume",
                found: next.len() as u64,
                limit: ENTRY_LIMIT as u64,
            });
        }
        Ok(next)
    }
}

fn take(manifest: &mut Manifest, remove: &Remove) -> Result<()> {
    let path = &*remove.path;
    if remove.recursive {
        manifest.remove(path);
        manifest.remove_below(path);
        return Ok(());
    }
    if manifest.has_below(path) {
        return conflict(format!(
            "`{path}` is a directory with files in it: remove it recursively"
        ));
    }
    if path.is_empty() || manifest.remove(path) {
        return Ok(());
    }
    conflict(format!("`{path}` cannot be removed: there is nothing"))
}

fn put(manifest: &mut Manifest, upsert: &Upsert) -> Result<()> {
    let path = &*upsert.path;
    for (end, _) in path.match_indices('/') {
        let above = manifest.get(&path[..end]);
        if above.is_some_and(|entry| entry.node != Node::Dir) {
            return conflict(format!(
                "`{path}` cannot be: `{}` is no directory",
                &path[..end]
            ));
        }
    }
    let there = manifest.get(path).is_some() || manifest.is_dir(path);
    match upsert.mode {
        WriteMode::Create if there => return conflict(format!("`{path}` is there already")),
        WriteMode::Replace if !there => {
            return conflict(format!("`{path}` cannot be replaced: there is nothing"));
        }
        _ => {}
    }
    if upsert.entry.node != Node::Dir && manifest.has_below(path) {
        return conflict(format!("`{path}` is a directory with files in it"));
    }
    manifest.insert(path.to_owned(), upsert.entry.clone());
    Ok(())
}

fn conflict<T>(why: String) -> Result<T> {
    Err(VolumeError::Conflict(why))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::manifest::Metadata;
    use super::super::manifest::tests::file;
    use super::*;

    /// The simplest model of a volume: paths with contents, where `None` is a directory.
    type Model = BTreeMap<String, Option<u8>>;

    fn entry(contents: Option<u8>) -> Entry {
        let dir = Entry {
            node: Node::Dir,
            metadata: Metadata::default(),
        };
        contents.map_or(dir, |byte| file(&[byte]))
    }

    fn model_of(manifest: &Manifest) -> Model {
        let contents = |entry: &Entry| match &entry.node {
            Node::File(contents) => {
                (0..=9).find(|b| file(&[*b]).node == Node::File(contents.clone()))
            }
            _ => None,
        };
        let entries = manifest.iter();
        entries
            .map(|(path, entry)| (path.to_owned(), contents(entry)))
            .collect()
    }

    fn below(model: &Model, dir: &str) -> Vec<String> {
        let inside = |path: &&String| dir.is_empty() || path.starts_with(&format!("{dir}/"));
        model.keys().filter(inside).cloned().collect()
    }

    /// What a delta makes of a model; `None` when it must be refused.
    fn apply(model: &Model, delta: &Delta, contents: &[Option<u8>]) -> Option<Model> {
        let mut model = model.clone();
        for Remove { path, recursive } in &delta.removes {
            let inside = below(&model, path);
            if *recursive {
                model.remove(path);
                model.retain(|path, _| !inside.contains(path));
            } else if !inside.is_empty() || (model.remove(path).is_none() && !path.is_empty()) {
                return None;
            }
        }
        for (Upsert { path, mode, .. }, contents) in delta.upserts.iter().zip(contents) {
            let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
            let inside = !below(&model, path).is_empty();
            let there = inside || model.contains_key(path);
            let fits = match mode {
                WriteMode::Upsert => true,
                WriteMode::Create => !there,
                WriteMode::Replace => there,
            };
            let on_file = parents
                .into_iter()
                .any(|dir| matches!(model.get(dir), Some(Some(_))));
            if !fits || on_file || (inside && contents.is_some()) {
                return None;
            }
            model.insert(path.clone(), *contents);
        }
        Some(model)
    }

    fn path() -> impl Strategy<Value = String> {
        "[ab]([-/]?[ab]){0,2}"
    }

    fn removes() -> impl Strategy<Value = Vec<Remove>> {
        let remove = (prop_oneof![path(), Just(String::new())], any::<bool>());
        let remove = remove.prop_map(|(path, recursive)| Remove { path, recursive });
        proptest::collection::vec(remove, 0..2)
    }

    fn upserts() -> impl Strategy<Value = Vec<(Upsert, Option<u8>)>> {
        let mode = prop_oneof![
            6 => Just(WriteMode::Upsert),
            1 => Just(WriteMode::Create),
            1 => Just(WriteMode::Replace)
        ];
        let upsert = (path(), mode, proptest::option::weighted(0.8, 0..9u8));
        let upsert = upsert.prop_map(|(path, mode, contents)| {
            let entry = entry(contents);
            (Upsert { path, mode, entry }, contents)
        });
        proptest::collection::vec(upsert, 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn deltas_do_what_a_simple_model_does(
            deltas in proptest::collection::vec((removes(), upserts()), 1..8)
        ) {
            let mut manifest = Manifest::default();
            let mut model = Model::new();
            for (removes, upserts) in deltas {
                let (upserts, contents): (Vec<_>, Vec<_>) = upserts.into_iter().unzip();
                let delta = Delta { removes, upserts };
                let before = manifest.clone();
                match (delta.apply(&manifest), apply(&model, &delta, &contents)) {
                    (Ok(next), Some(expect)) => {
                        prop_assert_eq!(&model_of(&next), &expect);
                        prop_assert!(next.tree().is_ok());
                        (manifest, model) = (next, expect);
                    }
                    (Err(VolumeError::Conflict(_)), None) => prop_assert_eq!(&manifest, &before),
                    (got, expect) => prop_assert!(false, "{:?} but {:?}", got, expect),
                }
            }
        }
    }

    #[test]
    fn a_recursive_remove_of_the_root_replaces_everything() {
        let put = |path: &str| Upsert {
            path: path.to_owned(),
            mode: WriteMode::Upsert,
            entry: entry(Some(1)),
        };
        let first = Delta {
            upserts: vec![put("old"), put("dir/old")],
            ..Delta::default()
        };
        let second = Delta {
            removes: vec![Remove {
                path: String::new(),
                recursive: true,
            }],
            upserts: vec![put("new")],
        };
        let base = first.apply(&Manifest::default()).unwrap();
        let next = second.apply(&base).unwrap();
        let paths: Vec<&str> = next.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["new"]);
    }
}
