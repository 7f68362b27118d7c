//! Manifests as operators write them, in YAML or JSON, and back.
//!
//! ```text
//! text ─ source: lines, size, control characters
//!      ─ yaml | json ─ tree: nodes with their places, duplicate keys, depth
//!      ─ document ─ fields (walks the message descriptors) ─ scalar, form, suggest
//!      ─ crate::validate, whose paths are mapped back to places
//!      → Vec<v1::Manifest> or ManifestErrors: everything that is wrong
//! ```
//!
//! [`parse`] reads a text, [`load`] files, directories and standard input, [`to_yaml`] writes
//! what [`parse`] reads back as the same. docs/manifest.md is the reference for operators.

mod document;
mod emit;
mod error;
mod fields;
mod form;
mod json;
mod load;
mod scalar;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod write;
mod yaml;

pub use error::{ManifestError, ManifestErrors};
pub use load::{LoadError, load, load_all, shown};
pub use source::MAX_BYTES;
pub use write::to_yaml;

use crate::v1;

/// Reads every manifest of `text`, YAML or JSON; `file` names it in errors.
///
/// YAML documents are divided by `---`; JSON values may follow each other or stand in one array.
/// A text without documents has no manifests, which is no error.
pub fn parse(file: &str, text: &str) -> Result<Vec<v1::Manifest>, ManifestErrors> {
    let documents = source::documents(file, text)?;
    Ok(documents.into_iter().map(|document| document.manifest).collect())
}
