//! Images by their calls.

use std::rc::Rc;

use chalk_core::Image;
use chalk_core::declaration::{Content, Declaration};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::errors;
use crate::files::Files;
use crate::resolved::Resolved;

/// An image by its calls. Every method gives a new one and throws what is wrong with its arguments.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Chain {
    image: Image,
    /// File that the declaration was read from, for errors.
    file: Option<Rc<str>>,
}

type Result<T> = std::result::Result<T, JsValue>;

impl Chain {
    fn of(image: Image, file: Option<Rc<str>>) -> Result<Self> {
        match image.fault() {
            Some(error) => Err(errors::one(error)),
            None => Ok(Self { image, file }),
        }
    }

    fn then(&self, image: Image) -> Result<Self> {
        Self::of(image, self.file.clone())
    }
}

#[wasm_bindgen]
impl Chain {
    /// Begins with one of the first keys of `[image]` as JSON: `{"debian_slim": "3.12"}`.
    pub fn begin(json: &str) -> Result<Self> {
        Self::of(Image::begin_json(json), None)
    }

    /// A declaration file: `image.toml`, spec JSON or a Dockerfile.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self> {
        let declaration = Declaration::read(file, bytes).map_err(errors::all)?;
        let image = match declaration.content() {
            Content::Image(image) => image.clone(),
            Content::Spec(spec) => Image::from_spec(spec),
        };
        Self::of(image, Some(file.into()))
    }

    /// One more call as JSON: a key of `[image]`, such as `{"workdir": "/app"}`, or a `[[step]]`.
    pub fn call(&self, json: &str) -> Result<Self> {
        self.then(self.image.call_json(json))
    }

    /// Number of calls, the constructor being the first.
    #[wasm_bindgen(getter)]
    pub fn length(&self) -> usize {
        self.image.length()
    }

    /// The image as an `image.toml`.
    #[wasm_bindgen(js_name = toToml)]
    pub fn to_toml(&self) -> Result<String> {
        self.image.to_toml().map_err(errors::all)
    }

    /// The image hash, else the recipe hash, with the base pinned where a digest is given; `undefined`
    /// when local files have to be read first. Leaves nothing behind that JavaScript would have to free.
    pub fn hash(&self, base: Option<String>) -> Result<Option<String>> {
        let Some(resolved) = self.resolve(&Files::new())? else {
            return Ok(None);
        };
        Ok(Some(match base {
            Some(digest) => resolved.pin(&digest)?.hash(),
            None => resolved.hash(),
        }))
    }

    /// Resolves with what is known of local files; `undefined` when more has to be read, which
    /// `files.needs()` then names.
    pub fn resolve(&self, files: &Files) -> Result<Option<Resolved>> {
        let result = self.image.resolve(files.answers());
        if files.asked() {
            return Ok(None);
        }
        match result {
            Ok(resolved) => Ok(Some(Resolved::new(resolved))),
            Err(mut failed) => {
                for error in &mut failed.0 {
                    let name = || self.file.as_deref().map(str::to_owned);
                    error.file = error.file.take().or_else(name);
                }
                Err(errors::all(failed))
            }
        }
    }
}
