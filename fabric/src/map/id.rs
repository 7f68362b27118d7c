//! Who and what a map speaks of: ids, keys, slots.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use uuid::Uuid;

/// Which fabric a map is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FabricId(Uuid);

/// Which capsule a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CapsuleId(Uuid);

/// Why a text is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID")]
pub struct IdError(String);

fn uuid(text: &str) -> Result<Uuid, IdError> {
    Uuid::try_parse(text).map_err(|_| IdError(text.chars().take(64).collect()))
}

impl FabricId {
    /// One that nobody has had.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for FabricId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid(text).map(Self)
    }
}

impl FromStr for CapsuleId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid(text).map(Self)
    }
}

impl fmt::Display for FabricId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CapsuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often a map was changed; only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

impl Generation {
    /// Of a fabric's first map.
    pub const FIRST: Self = Self(1);

    /// The one after it.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which slice of the range is a member's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Curve25519 public key (RFC 7748), as WireGuard names peers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// Why bytes are no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a public key has 32 bytes that are not all 0, and this is none")]
pub struct KeyError;

impl PublicKey {
    /// Raw.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError)?;
        if bytes == [0; 32] { Err(KeyError) } else { Ok(Self(bytes)) }
    }
}

/// Base64 as `wg` writes it.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}
