//! Manifests from outside: files, their errors, what is written and read again, the reference.

#![allow(clippy::unwrap_used)]

mod docs;
mod errors;
mod files;
mod round_trip;

use std::path::PathBuf;

/// A file of `tests/fixtures`.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
