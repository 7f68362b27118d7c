//! Spans of time as people write them: `2s`, `500ms`, `1m30s`.

use std::{fmt::Write as _, time::Duration};

/// Units and their nanoseconds; where one begins with another, the longer is first.
const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Why a text is not a span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a span of time: {reason}; write a number and a unit, such as 500ms, 2s, 1m30s or 1h"
)]
pub struct DurationError {
    text: String,
    reason: &'static str,
}

/// Reads numbers, each with its unit (`h m s ms us ns`) and perhaps a fraction: `1m30s`, `1.5s`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let refuse = |reason| DurationError { text: text.chars().take(32).collect(), reason };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse("it is empty"));
    }
    let mut nanos = 0u128;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = rest.split_at(split.ok_or_else(|| refuse("it has no unit"))?);
        let length = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(length);
        let scale = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = scale.ok_or_else(|| refuse("it has an unknown unit"))?;
        nanos += scaled(number, *scale).ok_or_else(|| refuse("it has no valid number"))?;
        rest = tail;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| refuse("it is too long"))?;
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// Nanoseconds in `number` units of `scale`; what is below one nanosecond is dropped.
fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 18 {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(scale);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale);
    Some(whole + part / 10u128.pow(fraction.len() as u32))
}

/// Writes what [`parse_duration`] reads back as the same: `1m30s`, `1s500ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, scale) in UNITS.iter().rev() {
        let count = rest / u128::from(*scale);
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{count}{unit}");
            rest %= u128::from(*scale);
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_add_up_their_parts() {
        assert_eq!(parse_duration("2s").unwrap(), Duration::from_secs(2));
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(format_duration(Duration::from_millis(90_500)), "1m30s500ms");
    }

    #[test]
    fn what_is_not_a_span_says_why() {
        let cases = [("", "empty"), ("5", "no unit"), ("5x", "unknown unit"), ("s", "no valid number")];
        for (text, reason) in cases.into_iter().chain([("-1s", "unknown unit"), ("1.s", "no valid number")]) {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_span_reads_back_what_it_writes(seconds: u64, nanos in 0u32..1_000_000_000) {
            let span = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(span)).unwrap(), span);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = parse_duration(&text);
        }
    }
}
