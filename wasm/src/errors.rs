//! Errors as JavaScript gets them.

use chalk_core::error::{ErrorCode, SpecError, SpecErrors};
use serde::Serialize;
use wasm_bindgen::JsValue;

/// What is thrown: a plain object, of which the package makes its error class.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorDocument {
    /// Stable word for programs.
    pub code: String,
    /// Step and field.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// What to do; may be empty.
    pub hint: String,
    /// File that was read, when one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in that file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What else is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ErrorDocument>,
}

impl ErrorDocument {
    /// An error about an argument that has the wrong shape.
    pub(crate) fn argument(path: &str, message: String) -> JsValue {
        let document = Self {
            code: ErrorCode::WrongType.word().to_owned(),
            path: path.to_owned(),
            message,
            hint: String::new(),
            file: None,
            line: None,
            column: None,
            others: Vec::new(),
        };
        document.thrown()
    }

    fn of(error: SpecError) -> Self {
        Self {
            code: error.code.word().to_owned(),
            path: error.path,
            message: error.message,
            hint: error.hint,
            file: error.file,
            line: error.position.map(|place| place.line),
            column: error.position.map(|place| place.column),
            others: Vec::new(),
        }
    }

    fn thrown(&self) -> JsValue {
        serde_wasm_bindgen::to_value(self).unwrap_or_else(Into::into)
    }
}

/// The value to throw for an error.
pub(crate) fn one(error: SpecError) -> JsValue {
    ErrorDocument::of(error).thrown()
}

/// The value to throw for errors: the first, with all others in it.
pub(crate) fn all(SpecErrors(errors): SpecErrors) -> JsValue {
    let mut documents = errors.into_iter().map(ErrorDocument::of);
    match documents.next() {
        None => JsValue::UNDEFINED,
        Some(mut first) => {
            first.others = documents.collect();
            first.thrown()
        }
    }
}
