//! Local files, which JavaScript reads between two attempts to resolve an image.

use std::cell::RefCell;

use chalk_core::Digest;
use chalk_core::source::{Answers, FileFacts, Listed, ListedKind, Open};
use serde::Serialize;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::errors::ErrorDocument;

/// What is known of local files.
#[wasm_bindgen]
#[derive(Debug, Default)]
pub struct Files {
    answers: Answers,
    open: RefCell<Open>,
}

/// What has to be read; paths as the declaration writes them.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OpenFiles<'f> {
    /// Small files whose bytes are wanted, if they are there.
    texts: Vec<&'f str>,
    /// Directories of which one level is wanted.
    listings: Vec<&'f str>,
    /// Files whose digest, size and executable bit are wanted.
    contents: Vec<&'f str>,
}

impl Files {
    pub(crate) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Whether something was asked that is not known.
    pub(crate) fn asked(&self) -> bool {
        let open = self.answers.take_open();
        let asked = !open.is_empty();
        *self.open.borrow_mut() = open;
        asked
    }
}

#[wasm_bindgen]
impl Files {
    /// Nothing is known.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the last attempt to resolve an image asked for.
    #[wasm_bindgen(unchecked_return_type = "OpenFiles")]
    pub fn needs(&self) -> Result<JsValue, JsValue> {
        let open = self.open.borrow();
        let list = |paths: &'_ std::collections::BTreeSet<String>| -> Vec<String> {
            paths.iter().cloned().collect()
        };
        let (texts, listings, contents) = (
            list(&open.texts),
            list(&open.listings),
            list(&open.contents),
        );
        let needs = OpenFiles {
            texts: texts.iter().map(String::as_str).collect(),
            listings: listings.iter().map(String::as_str).collect(),
            contents: contents.iter().map(String::as_str).collect(),
        };
        Ok(serde_wasm_bindgen::to_value(&needs)?)
    }

    /// The bytes of a small file; `undefined` when it is not there.
    pub fn text(&mut self, path: &str, bytes: Option<Vec<u8>>) {
        self.answers.text(path, bytes);
    }

    /// What lies directly in a directory: names, joined by `/`; what each is (0 a file, 1 a directory,
    /// 2 a symbolic link); and the targets of the links, joined by NUL. Joined, since texts cross the
    /// boundary one by one otherwise, and a folder may hold ten thousand.
    pub fn listing(
        &mut self,
        dir: &str,
        names: &str,
        kinds: &[u8],
        targets: &str,
    ) -> Result<(), JsValue> {
        let names = || names.split('/').filter(|name| !name.is_empty());
        let mut targets = targets.split('\0');
        if names().count() != kinds.len() {
            return Err(unequal("listing"));
        }
        let listed = names().zip(kinds).map(|(name, kind)| Listed {
            path: name.to_owned(),
            kind: match kind {
                0 => ListedKind::File,
                1 => ListedKind::Dir,
                _ => ListedKind::Symlink(targets.next().unwrap_or_default().to_owned()),
            },
        });
        let listed = listed.collect();
        self.answers.listing(dir, listed);
        Ok(())
    }

    /// Facts about all files of the `contents` that are needed, in that order: SHA-256 digests of 32
    /// bytes one behind the other, sizes in bytes, and whether the owner may execute each.
    pub fn contents(
        &mut self,
        digests: &[u8],
        sizes: &[f64],
        executable: &[u8],
    ) -> Result<(), JsValue> {
        let (digests, rest) = digests.as_chunks::<32>();
        let open = self.open.borrow();
        let equal = [digests.len(), sizes.len(), executable.len()]
            .iter()
            .all(|length| *length == open.contents.len());
        if !rest.is_empty() || !equal {
            return Err(unequal("contents"));
        }
        for (i, path) in open.contents.iter().enumerate() {
            let facts = FileFacts {
                digest: Digest::from_bytes(digests[i]),
                executable: executable[i] != 0,
                // JavaScript counts sizes in floats, exact up to 2^53.
                size: sizes[i] as u64,
            };
            self.answers.contents(path, facts);
        }
        Ok(())
    }

    /// Says that something which was needed cannot be read.
    pub fn fail(&mut self, path: &str, reason: String) {
        self.answers.failure(path, reason);
    }
}

fn unequal(method: &str) -> JsValue {
    ErrorDocument::argument(method, "the lists are not equally long".to_owned())
}
