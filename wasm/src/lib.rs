//! The engine of the npm package `chalkcompute`: `chalk-core` behind WebAssembly.
//!
//! JavaScript holds handles. A [`Chain`] is an image by its calls, a [`Resolved`] one whose local files
//! were read; between the two stand [`Files`], which say what has to be read and take the answers, since
//! JavaScript reads files asynchronously. Documents cross the boundary through `serde-wasm-bindgen` in
//! the shape that the JSON API gives them. What goes wrong is thrown as an [`errors::ErrorDocument`].

mod chain;
mod digests;
pub mod errors;
mod files;
mod resolved;
#[cfg(feature = "schema")]
pub mod schema;

pub use chain::Chain;
pub use digests::{Sha256, sha256};
pub use files::{Files, OpenFiles};
pub use resolved::{Resolved, UploadDocument, Warning, diff};

use wasm_bindgen::prelude::wasm_bindgen;

/// Types that signatures below name; made from the JSON Schemas of the same Rust types.
#[wasm_bindgen(typescript_custom_section)]
const IMPORTS: &str = r#"
import type {
  Diff, OpenFiles, Plan, Spec, UploadDocument, Warning,
} from "./wire.js";
"#;
