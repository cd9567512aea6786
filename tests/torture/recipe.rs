//! Declarations of images whose every file is known beforehand: what a step leaves depends on what
//! the steps before it left, so that a layer taken from the wrong cache shows.

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::Digest;
use serde_json::{Value, json};

/// The base: busybox, in the template of all trials.
pub(crate) const BASE: &str = "docker.io/library/busybox:latest";
/// Where the steps write.
const FOLDER: &str = "t";

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Hashes all files so far, and adds a word.
    Run {
        /// The word.
        word: String,
        /// Milliseconds that it takes besides.
        pause: u32,
    },
    /// Copies a file in.
    Copy {
        /// Its contents.
        text: String,
    },
}

/// A whole declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) steps: Vec<Step>,
}

impl Recipe {
    /// The spec, unpinned.
    pub(crate) fn spec(&self) -> Value {
        let steps = self.steps.iter().enumerate().map(|(number, step)| {
            let file = format!("/{FOLDER}/{number:02}");
            match step {
                Step::Run { word, pause } => {
                    let seconds = f64::from(*pause) / 1000.0;
                    let command = format!(
                        "mkdir -p /{FOLDER}; cat /dev/null /{FOLDER}/* 2>/dev/null | sha256sum > /made; \
                         sleep {seconds}; mv /made {file}; echo {word} >> {file}"
                    );
                    json!({"kind": "run", "command": command})
                }
                Step::Copy { text } => {
                    let digest = Digest::of(text.as_bytes());
                    json!({"kind": "add_file", "dest": file, "digest": digest, "mode": "0644"})
                }
            }
        });
        json!({
            "schema": "chalk.image/v1",
            "base": {"ref": BASE},
            "steps": steps.collect::<Vec<_>>(),
        })
    }

    /// Files that the steps copy, each once.
    pub(crate) fn contents(&self) -> BTreeSet<&str> {
        let texts = self.steps.iter().filter_map(|step| match step {
            Step::Copy { text } => Some(text.as_str()),
            Step::Run { .. } => None,
        });
        texts.collect()
    }

    /// What the image must hold in the folder of the steps, by path.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for (number, step) in self.steps.iter().enumerate() {
            let text = match step {
                Step::Run { word, .. } => {
                    let all: String = files.values().map(String::as_str).collect();
                    let hash = Digest::of(all.as_bytes()).hex();
                    format!("{hash}  -\n{word}\n")
                }
                Step::Copy { text } => text.clone(),
            };
            files.insert(format!("{FOLDER}/{number:02}"), text);
        }
        files
    }

    /// Whether a path of an image belongs to the steps.
    pub(crate) fn is_ours(path: &str) -> bool {
        path == "made" || path.starts_with("t/")
    }
}
