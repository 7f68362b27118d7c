//! A public key on one line of text: `capsule-ed25519 BASE64 NAME`.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Length of a raw Ed25519 public key (RFC 8032).
const KEY_BYTES: usize = 32;

/// A public key to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// Raw.
    pub bytes: Vec<u8>,
    /// Shown in key lists.
    pub name: String,
}

impl PublicKey {
    /// What the text begins with.
    pub const KIND: &'static str = "capsule-ed25519 ";
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} {}", Self::KIND, STANDARD.encode(&self.bytes), self.name)
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |reason: &str| {
            format!(
                "this is no public key: {reason}; give the line that `fleetctl key show` prints for its owner"
            )
        };
        let rest = text.strip_prefix(Self::KIND).ok_or_else(|| match text.split('-').next() {
            Some("ssh" | "ecdsa") => refuse("it is one of SSH, and capsules have a kind of their own"),
            _ => refuse("it does not begin with `capsule-ed25519`"),
        })?;
        let (key, name) = rest.split_once(' ').unwrap_or((rest, ""));
        let bytes = STANDARD.decode(key).map_err(|_| refuse("its key is not base64"))?;
        if bytes.len() != KEY_BYTES {
            return Err(refuse("its key is not 32 bytes long"));
        }
        if text.contains('\n') {
            return Err(refuse("it has more than one line"));
        }
        Ok(Self { bytes, name: name.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_with_its_name() {
        let key = PublicKey { bytes: vec![7; 32], name: "ann@desk".into() };
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("ssh-ed25519 AAAA x".parse::<PublicKey>().unwrap_err().contains("one of SSH"));
        for text in ["", "ssh-ed25519 AAAA x", "capsule-ed25519 AAAA x", "capsule-ed25519 ! x"] {
            assert!(text.parse::<PublicKey>().unwrap_err().contains("key show"), "{text}");
        }
    }
}
