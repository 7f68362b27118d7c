//! Time as it is stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch, as every `*_at` column holds them.
pub fn to_millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// The other way.
pub fn from_millis(at: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.max(0) as u64)
}
