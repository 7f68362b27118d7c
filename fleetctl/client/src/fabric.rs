//! The newest member map that this operator has seen, kept beside the contexts: a fleet whose members
//! are all away keeps its fabric.

use std::{fs, io};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use capsule_proto::v1::SignedMap;

use crate::{ConfigError, Home};

const FILE: &str = "fabric.json";

impl Home {
    /// The map that was kept last, where there is one.
    pub fn fabric_map(&self) -> Result<Option<SignedMap>, ConfigError> {
        let path = self.dir().join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| ConfigError::Map { path, message: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfigError::Io { attempt: "cannot read", path, source }),
        }
    }

    /// Keeps a map in the place of the one before.
    pub fn keep_fabric_map(&self, map: &SignedMap) -> Result<(), ConfigError> {
        let _lock = self.lock()?;
        let text = serde_json::to_string_pretty(map)
            .map_err(|error| ConfigError::Map { path: self.dir().join(FILE), message: error.to_string() })?;
        self.write(FILE, format!("{text}\n").as_bytes())
    }
}

/// Whether the operator key with this raw public half signed the message (RFC 8032).
pub fn signed_by(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OperatorKey;

    #[test]
    fn a_kept_map_is_found_again_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("new"));
        assert_eq!(home.fabric_map().unwrap(), None);
        let map = SignedMap { map: vec![1, 2], key_id: "k".into(), signature: vec![3] };
        home.keep_fabric_map(&map).unwrap();
        assert_eq!(home.fabric_map().unwrap(), Some(map));
        fs::write(home.dir().join(FILE), "{").unwrap();
        let error = home.fabric_map().unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("move it away"), "{error}");
    }

    #[test]
    fn what_a_key_signed_is_its_own() {
        let key = OperatorKey::generate().unwrap();
        let signature = key.sign(b"map");
        assert!(signed_by(key.public_key(), b"map", &signature));
        assert!(!signed_by(key.public_key(), b"another", &signature));
    }
}
