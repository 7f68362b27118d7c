//! A map with the name and the signature of the operator who says so.

use capsule_proto::{KeyId, v1};

use super::{MapError, MemberMap};

/// What is signed begins with it, so that no other signature of the key passes for one of a map.
const PREFIX: &[u8] = b"capsule fabric map v1\0";

/// What an operator's Ed25519 key signs (RFC 8032) of a map's bytes.
pub fn message(map: &[u8]) -> Vec<u8> {
    [PREFIX, map].concat()
}

/// A map that makes sense, as it was signed: the signature itself is the holder's to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedMap {
    map: MemberMap,
    wire: v1::SignedMap,
}

impl SignedMap {
    /// Signs a map with the key of this name.
    pub fn new(map: MemberMap, key: &KeyId, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        let bytes = map.encode();
        let signature = sign(&message(&bytes));
        Self { map, wire: v1::SignedMap { map: bytes, key_id: key.to_string(), signature } }
    }

    /// The map.
    pub fn map(&self) -> &MemberMap {
        &self.map
    }

    /// The map's bytes, which the signature is over.
    pub fn bytes(&self) -> &[u8] {
        &self.wire.map
    }

    /// Name of the key that is said to have signed.
    pub fn signer(&self) -> &str {
        &self.wire.key_id
    }

    /// Whether `check`, given message and signature, finds that it was so.
    pub fn verify(&self, check: impl FnOnce(&[u8], &[u8]) -> bool) -> bool {
        check(&message(&self.wire.map), &self.wire.signature)
    }

    /// As it travels.
    pub fn wire(&self) -> &v1::SignedMap {
        &self.wire
    }
}

impl TryFrom<v1::SignedMap> for SignedMap {
    type Error = MapError;

    fn try_from(wire: v1::SignedMap) -> Result<Self, MapError> {
        Ok(Self { map: MemberMap::decode(&wire.map)?, wire })
    }
}
