//! Amounts of storage and memory.

use std::{fmt, str::FromStr};

/// A number of bytes, written as people write it.
///
/// Read: a number, whole or with a fraction, then a unit in either case. `K M G T P` and `Ki`,
/// `KiB` and so on are powers of 1024, as docker's `--memory` reads them; `kB MB GB TB PB` are
/// powers of 1000, as disks are sold. Without a unit, or with `B`: bytes.
///
/// Written: in the largest power of 1024 that leaves a whole number, so nothing is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size(u64);

/// Bytes in a KiB, a MiB, a GiB, a TiB and a PiB.
const BINARY: [(&str, u64); 5] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("PiB", 1 << 50)];

impl Size {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One mebibyte.
    pub const MIB: Self = Self(1 << 20);

    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Reads a size whose bare number counts `unit` instead of bytes.
    pub fn parse_in(text: &str, unit: Self) -> Result<Self, SizeError> {
        let refuse = |reason| SizeError { text: text.chars().take(32).collect(), reason };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(split);
        if number.is_empty() {
            return Err(refuse("it does not begin with a number"));
        }
        let scale = match suffix.trim_start() {
            "" => unit.0,
            suffix => scale_of(suffix).ok_or_else(|| refuse("it has no such unit"))?,
        };
        scaled(number, scale).map(Self).map_err(refuse)
    }
}

/// Bytes in one `suffix`.
fn scale_of(suffix: &str) -> Option<u64> {
    let lower = suffix.to_ascii_lowercase();
    if lower == "b" {
        return Some(1);
    }
    let power = "kmgtp".find(lower.chars().next()?)? as u32 + 1;
    match &lower[1..] {
        "" | "i" | "ib" => Some(1024u64.pow(power)),
        "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

/// `number` × `scale`, exactly.
fn scaled(number: &str, scale: u64) -> Result<u64, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err("it does not begin with a number");
    }
    if fraction.len() > 18 {
        return Err("its fraction is too long");
    }
    let too_large = "it is too large";
    let parse = |digits: &str| digits.parse::<u64>().map_err(|_| too_large);
    let whole = u128::from(parse(whole)?) * u128::from(scale);
    let part = if fraction.is_empty() { 0 } else { u128::from(parse(fraction)?) * u128::from(scale) };
    let unit = 10u128.pow(fraction.len() as u32);
    if part % unit != 0 {
        return Err("it is not a whole number of bytes");
    }
    u64::try_from(whole + part / unit).map_err(|_| too_large)
}

/// Why a text is not a [`Size`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size: {reason}; write a number and a unit, such as 512M, 1.5GiB or 10GB")]
pub struct SizeError {
    text: String,
    reason: &'static str,
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        Self::parse_in(text, Self(1))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = BINARY.iter().rev().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale));
        match unit {
            Some((unit, scale)) => f.pad(&format!("{}{unit}", self.0 / scale)),
            None => f.pad(&format!("{}B", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> u64 {
        text.parse::<Size>().unwrap().bytes()
    }

    #[test]
    fn bare_letters_are_binary_and_letters_with_b_are_decimal() {
        assert_eq!(bytes("512"), 512);
        assert_eq!(bytes("500M"), 500 << 20);
        assert_eq!(bytes("500m"), 500 << 20);
        assert_eq!(bytes("2GiB"), 2 << 30);
        assert_eq!(bytes("2Gi"), 2 << 30);
        assert_eq!(bytes("2 GB"), 2_000_000_000);
        assert_eq!(bytes("1.5G"), 3 << 29);
        assert_eq!(bytes("7B"), 7);
        assert_eq!(Size::parse_in("512", Size::MIB).unwrap().bytes(), 512 << 20);
    }

    #[test]
    fn what_is_not_a_size_says_why() {
        let cases = [
            ("", "begin with a number"),
            ("G", "begin with a number"),
            ("-1", "begin with a number"),
            ("1X", "no such unit"),
            ("1Gibibyte", "no such unit"),
            ("1é", "no such unit"),
            ("1.", "begin with a number"),
            ("1.2.3G", "begin with a number"),
            ("0.3", "whole number of bytes"),
            ("99999999P", "too large"),
            ("99999999999999999999", "too large"),
        ];
        for (text, reason) in cases {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_size_reads_back_what_it_writes(bytes: u64) {
            let size = Size::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<Size>();
        }
    }
}
