//! Public keys whose signatures count, in minisign's format.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minisign_verify::PublicKey;

/// What the first line of a key file begins with.
const COMMENT: &str = "untrusted comment:";
/// No key file is longer.
const MAX_TEXT_BYTES: usize = 4096;

/// Which key it is: the number that minisign prints, 16 hexadecimal digits. Chosen at random when
/// the key was made; it names a key and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyNumber(u64);

impl KeyNumber {
    /// Of the binary form of a key or a signature: two bytes of algorithm, eight of number.
    pub(crate) fn of_binary(binary: &[u8]) -> Option<Self> {
        Some(Self(u64::from_le_bytes(binary.get(2..10)?.try_into().ok()?)))
    }
}

impl fmt::Display for KeyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for KeyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyNumber {
    type Err = ReleaseKeyError;

    fn from_str(text: &str) -> Result<Self, ReleaseKeyError> {
        let is_number = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_number);
        number.map(Self).ok_or_else(|| ReleaseKeyError::Number(text.chars().take(40).collect()))
    }
}

/// A text that is no release key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseKeyError {
    /// Not a key.
    #[error(
        "this is no release key: {0}; give the two lines of a minisign public key, as minisign writes them into a \
         .pub file, or the second one alone"
    )]
    Key(String),
    /// Not a key's number.
    #[error(
        "{0:?} is no number of a release key: it has 16 hexadecimal digits, as `fleetctl update keys list` shows them"
    )]
    Number(String),
}

/// A key that signs bundles. As text: its base64 line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseKey {
    number: KeyNumber,
    base64: String,
    pub(crate) key: PublicKey,
    comment: String,
}

impl ReleaseKey {
    /// Which one it is.
    pub fn number(&self) -> KeyNumber {
        self.number
    }

    /// What its maker wrote beside it; empty where the text had none.
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base64)
    }
}

impl FromStr for ReleaseKey {
    type Err = ReleaseKeyError;

    fn from_str(text: &str) -> Result<Self, ReleaseKeyError> {
        let refuse = |reason: &str| ReleaseKeyError::Key(reason.to_owned());
        if text.len() > MAX_TEXT_BYTES {
            return Err(refuse("it is too long"));
        }
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let (comment, base64) = match lines[..] {
            [base64] => ("", base64),
            [comment, base64] => {
                let comment = comment.strip_prefix(COMMENT);
                (comment.ok_or_else(|| refuse("its first line is no comment"))?.trim(), base64)
            }
            _ => return Err(refuse("it has neither one line nor two")),
        };
        let key = PublicKey::from_base64(base64).map_err(|error| refuse(&error.to_string()))?;
        let binary = STANDARD.decode(base64).map_err(|_| refuse("it is not base64"))?;
        let number = KeyNumber::of_binary(&binary).ok_or_else(|| refuse("it is too short"))?;
        Ok(Self { number, base64: base64.to_owned(), key, comment: comment.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // From minisign's own documentation.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    #[test]
    fn a_key_is_read_from_its_file_and_from_its_line() {
        let file = format!("untrusted comment: minisign public key E7620F1842B4E81F\n{KEY}\n");
        let key: ReleaseKey = file.parse().unwrap();
        assert_eq!(key.number().to_string(), "E7620F1842B4E81F");
        assert_eq!(key.comment(), "minisign public key E7620F1842B4E81F");
        assert_eq!(key.to_string(), KEY);
        assert_eq!(KEY.parse::<ReleaseKey>().unwrap().number(), key.number());
        assert_eq!("E7620F1842B4E81F".parse(), Ok(key.number()));
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_one_looks_like() {
        let long = "A".repeat(5000);
        for text in ["", "RWQ", "one\ntwo\nthree", "no comment\nRWQf6L", &KEY[4..], "ssh-ed25519 AAAA", &long]
        {
            assert!(text.parse::<ReleaseKey>().unwrap_err().to_string().contains("minisign"), "{text}");
        }
        for text in ["", "E762", "E7620F1842B4E81G", "+7620F1842B4E81F"] {
            assert!(text.parse::<KeyNumber>().is_err(), "{text}");
        }
    }
}
