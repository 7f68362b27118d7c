//! Between `SystemTime` and the API's timestamps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pbjson_types::Timestamp;

/// As the API carries it; times before 1970 become 1970.
pub fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

/// The other way; times before 1970 become 1970.
pub fn system_time(at: &Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::new(at.seconds.max(0) as u64, at.nanos.clamp(0, 999_999_999) as u32)
}
