//! What can be wrong with a bundle.

use std::io;

use crate::{Digest, FORMAT, KeyNumber, Part};

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON that it should be.
    #[error("manifest.json makes no sense")]
    Syntax(#[from] serde_json::Error),
    /// Made by a later version.
    #[error(
        "the bundle has format {0}, and this version reads format {FORMAT}; update to a version in between first, \
         or use a newer fleetctl"
    )]
    Format(u32),
    /// Larger than any capsule takes.
    #[error("{entry} is oversized: {bytes} bytes, and {} MiB are the most", limit >> 20)]
    Oversized {
        /// Which.
        entry: &'static str,
        /// Its size.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// Nothing in it.
    #[error("{entry} is empty")]
    Empty {
        /// Which.
        entry: &'static str,
    },
    /// The verity tree cannot begin there.
    #[error("the manifest names no file system: {data_bytes} bytes of {bytes} in blocks of 4096")]
    Data {
        /// Bytes of the file system.
        data_bytes: u64,
        /// Of the whole image.
        bytes: u64,
    },
}

/// Why a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none.
    #[error("the bundle is unsigned; only signed ones are installed")]
    Unsigned,
    /// Not in minisign's format, or in its legacy one.
    #[error("the bundle's signature is not one of minisign's: {0}")]
    Malformed(String),
    /// By a key that is not trusted.
    #[error(
        "the bundle is signed by release key {signer}, which is not trusted here (trusted: {}); if it should be, \
         an admin adds it with `fleetctl update keys add`",
        names(trusted)
    )]
    Untrusted {
        /// Who signed.
        signer: KeyNumber,
        /// Whose signatures count.
        trusted: Vec<KeyNumber>,
    },
    /// The signature belongs to something else.
    #[error(
        "the bundle's signature does not fit its manifest: it was changed after release key {0} signed it, or \
         somebody else signed in its name; get the bundle anew"
    )]
    Forged(KeyNumber),
}

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read at all.
    #[error("cannot read the bundle")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("this is no update bundle: {0}")]
    NotOne(String),
    /// Its end is missing.
    #[error("the bundle is truncated: {actual} bytes of {expected}; get it anew")]
    Truncated {
        /// Its size by its own headers.
        expected: u64,
        /// Its size.
        actual: u64,
    },
    /// Something follows its end.
    #[error("the bundle is followed by {0} bytes that do not belong to it; get it anew")]
    Trailing(u64),
    /// An entry that has no place in a bundle, or not this one.
    #[error(
        "entry {found:?} of the bundle is {problem}; a bundle has {}, in this order",
        crate::bundle::order()
    )]
    Entry {
        /// Its name.
        found: String,
        /// `foreign`, `there twice`, …
        problem: &'static str,
    },
    /// An entry larger than its like can be.
    #[error("{entry} is oversized: {bytes} bytes, and {limit} are the most")]
    Oversized {
        /// Which.
        entry: &'static str,
        /// Its size.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// An entry's size is not the one in the manifest.
    #[error("{part} has {actual} bytes, and the manifest says {expected}; get the bundle anew")]
    Size {
        /// Which.
        part: Part,
        /// By the manifest.
        expected: u64,
        /// In the bundle.
        actual: u64,
    },
    /// Content is not what was signed.
    #[error("{part} is corrupt: its SHA-256 is {actual}, and {expected} was signed; get the bundle anew")]
    Corrupt {
        /// Which.
        part: Part,
        /// By the manifest.
        expected: Digest,
        /// In the bundle.
        actual: Digest,
    },
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

fn names(keys: &[KeyNumber]) -> String {
    match keys {
        [] => "none".to_owned(),
        keys => keys.iter().map(KeyNumber::to_string).collect::<Vec<_>>().join(", "),
    }
}
