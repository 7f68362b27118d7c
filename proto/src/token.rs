//! The per-call token: an EdDSA JWT (RFC 7519, RFC 8037) in the `authorization` metadata as
//! `Bearer …`, good for one call of one method on one capsule.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Metadata key that carries the token.
pub const METADATA_KEY: &str = "authorization";

/// Longest time from `iat` to `exp` that a capsule accepts.
pub const MAX_LIFETIME: Duration = Duration::from_mins(1);

/// Largest difference between the two clocks that a capsule accepts.
pub const MAX_SKEW: Duration = Duration::from_secs(30);

/// What the operator's key signs for one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// `capsule_id` of the capsule that is called.
    pub aud: String,
    /// Key id of the operator key that signs.
    pub iss: String,
    /// Full method name: `/capsule.v1.Workloads/Apply`.
    pub method: String,
    /// Issued at, seconds since the epoch.
    pub iat: u64,
    /// Expires at, seconds since the epoch.
    pub exp: u64,
    /// Random, 128 bits in hex; never used twice.
    pub jti: String,
}
