//! Sizes, ages and times as people read them.

use std::time::{Duration, SystemTime};

use capsule_proto::system_time;
use jiff::{Timestamp, tz::TimeZone};
use pbjson_types::Timestamp as Wire;

/// `512 B`, `1.5 MiB`, `20 GiB`: at most three significant digits, binary units.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 9.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// `12s`, `5m`, `3h`, `9d`: the largest unit that is at least two of its own, else the next one
/// down.
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago, or `-` where it never was.
pub fn age(at: Option<&Wire>) -> String {
    let since = |at: &Wire| SystemTime::now().duration_since(system_time(at)).unwrap_or_default();
    at.map_or_else(|| "-".to_owned(), |at| span(since(at)))
}

/// How long until then; `0s` where that is over.
pub fn left(until: &Wire) -> String {
    span(system_time(until).duration_since(SystemTime::now()).unwrap_or_default())
}

/// Local date and time to the second: `2026-01-31 18:04:05`.
pub fn date_time(at: &Wire) -> String {
    Timestamp::new(at.seconds, 0).map_or_else(
        |_| "-".to_owned(),
        |at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// UTC with milliseconds, RFC 3339: `2026-01-31T17:04:05.123Z`.
pub fn rfc3339(at: &Wire) -> String {
    Timestamp::new(at.seconds, at.nanos)
        .map_or_else(|_| "-".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1000), "1.0 KiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(20 << 30), "20 GiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
    }

    #[test]
    fn spans_switch_unit_at_two() {
        assert_eq!(span(Duration::from_secs(119)), "119s");
        assert_eq!(span(Duration::from_mins(2)), "2m");
        assert_eq!(span(Duration::from_hours(24)), "24h");
        assert_eq!(span(Duration::from_hours(250)), "10d");
    }

    #[test]
    fn instants_print_in_rfc3339() {
        let at = Wire { seconds: 1_769_882_645, nanos: 123_000_000 };
        assert_eq!(rfc3339(&at), "2026-01-31T18:04:05.123Z");
    }
}
