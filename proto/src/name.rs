//! Names of workloads and volumes.

use std::{fmt, str::FromStr};

/// A DNS label as in RFC 1123, section 2.1: 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at
/// either end. Usable as a host name, a file name and a key without further escaping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of those that debug shells have, and workloads therefore cannot: `debug-` and
    /// four hex digits.
    pub fn is_debug_shell(&self) -> bool {
        let digits = self.0.strip_prefix("debug-").unwrap_or_default();
        digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a name: {reason}; use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end")]
pub struct NameError {
    name: String,
    reason: &'static str,
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = |reason| Err(NameError { name: text.chars().take(Self::MAX_LEN + 1).collect(), reason });
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match text {
            "" => refuse("it is empty"),
            _ if text.len() > Self::MAX_LEN => refuse("it is longer than 63"),
            _ if text.starts_with('-') || text.ends_with('-') => refuse("it begins or ends with '-'"),
            _ if !text.bytes().all(allowed) => refuse("it has a character that is not allowed"),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_label_is_a_name_and_keeps_its_text() {
        for text in ["a", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn debug_shells_have_four_hex_digits() {
        let is_shell = |text: &str| text.parse::<Name>().unwrap().is_debug_shell();
        assert!(is_shell("debug-3f2a") && is_shell("debug-0000"));
        assert!(
            !["debug", "debug-3f2", "debug-3f2ab", "debug-3f2g", "web"].iter().any(|text| is_shell(text))
        );
    }

    #[test]
    fn anything_else_is_refused_with_the_rule() {
        for text in ["", "-a", "a-", "A", "a.b", "a/b", "ü", &"x".repeat(64)] {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.contains("1 to 63"), "{error}");
        }
    }
}
