//! The next operator key, while capsules are being told of it.
//!
//! It is on the disk before any capsule knows it, so that a rotation that is cut short at any
//! point can be finished: some capsules know the present key, some the next, none a lost one.

use std::{fs, io, path::PathBuf};

use crate::{ConfigError, Home, KeyError, OperatorKey};

const NEXT_KEY_FILE: &str = "key.pem.next";

impl Home {
    /// The next key, made where there is none yet.
    pub fn ensure_next_key(&self) -> Result<OperatorKey, KeyError> {
        match self.next_key() {
            Ok(Some(key)) => Ok(key),
            Ok(None) => {
                let key = OperatorKey::generate()?;
                self.write(NEXT_KEY_FILE, key.pem().as_bytes())?;
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    /// The next key of a rotation that was not finished.
    pub fn next_key(&self) -> Result<Option<OperatorKey>, KeyError> {
        match OperatorKey::read(&self.next_key_path()) {
            Ok(key) => Ok(Some(key)),
            Err(KeyError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the next key the present one; the old one is kept as `key.pem.old`.
    pub fn finish_rotation(&self, next: &OperatorKey) -> Result<(), KeyError> {
        self.replace_key(next)?;
        match fs::remove_file(self.next_key_path()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ConfigError::Io { attempt: "cannot remove", path: self.next_key_path(), source }.into())
            }
            _ => Ok(()),
        }
    }

    fn next_key_path(&self) -> PathBuf {
        self.dir().join(NEXT_KEY_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_cut_short_goes_on_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let old = home.ensure_key().unwrap();
        assert!(home.next_key().unwrap().is_none());
        let next = home.ensure_next_key().unwrap();
        assert_eq!(home.ensure_next_key().unwrap().key_id(), next.key_id());
        assert_eq!(home.key().unwrap().key_id(), old.key_id());
        home.finish_rotation(&next).unwrap();
        assert_eq!(home.key().unwrap().key_id(), next.key_id());
        assert!(home.next_key().unwrap().is_none());
    }
}
