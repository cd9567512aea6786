//! Options of calls, as JavaScript passes them.

use std::collections::{BTreeMap, BTreeSet};

use chalk_core::image;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::JsValue;

use crate::errors::{self, ErrorDocument};

/// Options of a build step.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StepOptions {
    /// Environment of this step alone, over the image's.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Names of secrets that the step reads as `/run/secrets/<name>`. Names count in the hash,
    /// values never.
    #[serde(default)]
    secrets: BTreeSet<String>,
    /// Run the step even when it is cached. Does not count in the hash.
    #[serde(default)]
    force: bool,
}

impl From<StepOptions> for image::StepOptions {
    fn from(options: StepOptions) -> Self {
        let mut step = Self::new();
        for (name, value) in options.env {
            step = step.env(name, value);
        }
        for name in options.secrets {
            step = step.secret(name);
        }
        if options.force { step.force() } else { step }
    }
}

/// Options of a local file or directory.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LocalOptions {
    /// `mount` (the default; `volume` is another word for it) or `copy`.
    strategy: Option<String>,
    /// Permission bits of a copied file.
    mode: Option<u32>,
    /// Globs that leave files of a directory out, besides ignore files.
    #[serde(default)]
    exclude: Vec<String>,
}

impl LocalOptions {
    /// # Errors
    /// When the strategy has no known name.
    pub(crate) fn read(self) -> Result<image::LocalOptions, JsValue> {
        let strategy = match self.strategy {
            Some(word) => word.parse().map_err(errors::one)?,
            None => image::Strategy::default(),
        };
        let mut options = image::LocalOptions::from(strategy);
        if let Some(bits) = self.mode {
            options = options.mode(bits);
        }
        for glob in self.exclude {
            options = options.exclude(glob);
        }
        Ok(options)
    }
}

/// Options of a whole Dockerfile.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DockerfileOptions {
    /// Path of the directory that `COPY` and `ADD` read from.
    context: Option<String>,
    /// Build arguments.
    #[serde(default)]
    args: BTreeMap<String, String>,
    /// Stage to build; the last one unless given.
    target: Option<String>,
}

impl From<DockerfileOptions> for image::DockerfileOptions {
    fn from(options: DockerfileOptions) -> Self {
        let mut dockerfile = Self::new();
        if let Some(path) = options.context {
            dockerfile = dockerfile.context(path);
        }
        for (name, value) in options.args {
            dockerfile = dockerfile.arg(name, value);
        }
        match options.target {
            Some(stage) => dockerfile.target(stage),
            None => dockerfile,
        }
    }
}

/// Reads an argument; `undefined` is the default.
pub(crate) fn read<T: DeserializeOwned + Default>(value: JsValue) -> Result<T, JsValue> {
    if value.is_undefined() {
        return Ok(T::default());
    }
    serde_wasm_bindgen::from_value(value)
        .map_err(|error| ErrorDocument::argument("options", error.to_string()))
}

/// Reads a map of texts, in the order of its names.
pub(crate) fn pairs(value: JsValue) -> Result<BTreeMap<String, String>, JsValue> {
    serde_wasm_bindgen::from_value(value)
        .map_err(|error| ErrorDocument::argument("", error.to_string()))
}
