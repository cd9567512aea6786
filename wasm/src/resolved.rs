//! Images whose local files were read.

use chalk_core::error::{ErrorCode, SpecError};
use chalk_core::upload::Contents;
use chalk_core::wire::LocalPlan;
use chalk_core::{Digest, Reference, image};
use js_sys::Uint8Array;
use serde::Serialize;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::errors;

/// An image with every local file read.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Resolved(image::Resolved);

/// A blob to upload. Bytes that are here come as a `Uint8Array` in `bytes`, others lie in the local
/// file `path`.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UploadDocument<'u> {
    /// Digest of the contents.
    digest: &'u Digest,
    /// Bytes.
    size: u64,
    /// Path of a local file as the declaration wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'u str>,
}

/// Something that is probably not meant.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Warning<'w> {
    /// Field of the spec, such as `steps[2]`.
    path: &'w str,
    /// What is odd.
    message: &'w str,
    /// What to do; may be empty.
    hint: &'w str,
}

type Result<T> = std::result::Result<T, JsValue>;

/// A document as plain JavaScript objects, as `JSON.parse` would give it.
fn document<T: Serialize>(value: &T) -> Result<JsValue> {
    let serializer = serde_wasm_bindgen::Serializer::json_compatible();
    Ok(value.serialize(&serializer)?)
}

impl Resolved {
    pub(crate) fn new(resolved: image::Resolved) -> Self {
        Self(resolved)
    }

    /// The same with an image pinned; `None` when nothing reads it.
    fn with(&self, reference: &Reference, digest: Digest) -> Option<Self> {
        let mut resolved = self.0.clone();
        let mut found = false;
        for image in resolved.spec.base_images_mut() {
            if image.reference == *reference {
                image.digest = Some(digest);
                found = true;
            }
        }
        found.then_some(Self(resolved))
    }
}

#[wasm_bindgen]
impl Resolved {
    /// The spec as a plain object.
    #[wasm_bindgen(unchecked_return_type = "Spec")]
    pub fn spec(&self) -> Result<JsValue> {
        document(&self.0.spec)
    }

    /// The spec as JSON for people, as the command prints it.
    #[wasm_bindgen(js_name = specJson)]
    pub fn spec_json(&self) -> String {
        self.0.spec.to_json().pretty()
    }

    /// The text that is hashed: RFC 8785 JSON.
    pub fn canonical(&self) -> String {
        self.0.spec.canonical().canonical()
    }

    /// Hash with bases by tag.
    #[wasm_bindgen(js_name = recipeHash)]
    pub fn recipe_hash(&self) -> String {
        self.0.spec.recipe_hash().to_string()
    }

    /// Hash that names the image; `undefined` while a base is not pinned.
    #[wasm_bindgen(js_name = imageHash)]
    pub fn image_hash(&self) -> Option<String> {
        self.0.spec.image_hash().map(|hash| hash.to_string())
    }

    /// The image hash, else the recipe hash.
    pub fn hash(&self) -> String {
        let spec = &self.0.spec;
        spec.image_hash()
            .unwrap_or_else(|| spec.recipe_hash())
            .to_string()
    }

    /// Pins the base that the result is built on.
    pub fn pin(&self, digest: &str) -> Result<Self> {
        let digest = parse_digest(digest)?;
        let Some(base) = self.0.spec.result_base() else {
            let message = "the base is empty: there is nothing to pin";
            return Err(fault(ErrorCode::Conflict, message.to_owned()));
        };
        let pinned = self.with(&base.reference, digest);
        Ok(pinned.unwrap_or_else(|| Self(self.0.clone())))
    }

    /// Pins an image that the build reads, by its reference.
    #[wasm_bindgen(js_name = pinImage)]
    pub fn pin_image(&self, reference: &str, digest: &str) -> Result<Self> {
        let digest = parse_digest(digest)?;
        let reference: Reference = reference
            .parse()
            .map_err(|e| fault(ErrorCode::Reference, format!("`{reference}`: {e}")))?;
        let pinned = self.with(&reference, digest);
        pinned.ok_or_else(|| {
            let message = format!("the image does not use {reference}");
            fault(ErrorCode::Reference, message)
        })
    }

    /// Keys of all steps, those of a Dockerfile base first.
    #[wasm_bindgen(js_name = stepKeys)]
    pub fn step_keys(&self) -> Vec<String> {
        let steps = self.0.spec.steps_with_keys();
        steps.into_iter().map(|step| step.key.to_string()).collect()
    }

    /// Hashes, steps, warnings and bytes to upload.
    #[wasm_bindgen(unchecked_return_type = "Plan")]
    pub fn plan(&self) -> Result<JsValue> {
        let image::Resolved {
            spec,
            uploads,
            warnings,
        } = &self.0;
        document(&LocalPlan::new(
            spec,
            uploads.iter().map(|upload| upload.size).sum(),
            warnings.iter().map(ToString::to_string).collect(),
        ))
    }

    /// An equivalent Dockerfile.
    pub fn dockerfile(&self) -> Result<String> {
        chalk_core::dockerfile::export(&self.0.spec)
            .map_err(|error| fault(ErrorCode::Conflict, error.to_string()))
    }

    /// Things that are probably not meant.
    #[wasm_bindgen(unchecked_return_type = "Warning[]")]
    pub fn warnings(&self) -> Result<JsValue> {
        let warnings = self.0.warnings.iter().map(|warning| Warning {
            path: &warning.path,
            message: &warning.message,
            hint: &warning.hint,
        });
        document(&warnings.collect::<Vec<_>>())
    }

    /// Blobs that a service needs to build the image, each once.
    #[wasm_bindgen(unchecked_return_type = "(UploadDocument & { bytes?: Uint8Array })[]")]
    pub fn uploads(&self) -> Result<js_sys::Array> {
        let list = js_sys::Array::new();
        for upload in &self.0.uploads {
            let path = match &upload.contents {
                Contents::File(path) => Some(path.as_str()),
                Contents::Bytes(_) => None,
            };
            let entry = document(&UploadDocument {
                digest: &upload.digest,
                size: upload.size,
                path,
            })?;
            if let Contents::Bytes(bytes) = &upload.contents {
                let bytes = Uint8Array::from(bytes.as_slice());
                js_sys::Reflect::set(&entry, &"bytes".into(), &bytes)?;
            }
            list.push(&entry);
        }
        Ok(list)
    }
}

/// What differs between two images, and which steps of the second that costs.
#[wasm_bindgen(unchecked_return_type = "Diff")]
pub fn diff(before: &Resolved, after: &Resolved) -> Result<JsValue> {
    document(&chalk_core::diff(&before.0.spec, &after.0.spec))
}

fn parse_digest(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|error| fault(ErrorCode::Digest, format!("{error}")))
}

fn fault(code: ErrorCode, message: String) -> JsValue {
    errors::one(SpecError {
        code,
        file: None,
        position: None,
        path: String::new(),
        message,
        hint: String::new(),
    })
}
