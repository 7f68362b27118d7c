//! The API of a capsule.
//!
//! - [`member`]: what capsules say to each other over the fabric;
//! - [`v1`]: messages and gRPC stubs generated from `proto/capsule/v1`, with proto3-JSON serde;
//! - [`Name`], [`Size`], [`Selector`], [`KeyId`], [`Fingerprint`]: newtypes that both sides parse
//!   once, at their border; enums of `v1` show as people write them;
//! - [`reference`]: whom a policy names, `db@storage:5432/tcp`;
//! - [`discovery`]: what capsules announce in their network;
//! - [`validate()`]: what is wrong with a manifest, as far as no capsule is needed to know;
//! - [`Content`]: a file's bytes with their true number, for archives of `cp`;
//! - [`token`]: the claims of the per-call token;
//! - `manifest` (feature): manifests from YAML and JSON, with positions in every error.

pub mod capability;
mod content;
pub mod discovery;
mod display;
mod duration;
mod key;
mod label;
#[cfg(feature = "manifest")]
pub mod manifest;
mod name;
pub mod reference;
mod size;
mod time;
pub mod token;
mod validate;

pub use content::Content;
pub use duration::{DurationError, format_duration, parse_duration};
pub use key::{Fingerprint, KeyId};
pub use label::{Selector, SelectorError};
pub use name::{Name, NameError};
pub use size::{Size, SizeError};
pub use time::{system_time, timestamp};
pub use validate::{MAX_VOLUME, MIN_VOLUME, Violation, VolumeSizeError, check_volume_size, validate};

/// Messages, clients and servers of `capsule.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/capsule.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/capsule.v1.serde.rs"));
}

/// Messages, client and server of `capsule.member.v1`: what capsules say to each other.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod member {
    /// The present version.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/capsule.member.v1.rs"));
    }
}

/// Metadata key of an answer that streams a log: the cursor of the place where it begins.
pub const LOG_CURSOR_KEY: &str = "log-cursor";

/// Descriptors of every message, as protoc wrote them; manifests and the role table read them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// TCP port of a capsule's API.
pub const DEFAULT_PORT: u16 = 50000;
