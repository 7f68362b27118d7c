//! Release keys: who signs updates, and whose updates an image accepts.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use capsule_bundle::{ReleaseKey, write::SigningKey};

use crate::{Error, Result};

/// Says whose a key is that was made here.
const COMMENT: &str = "capsule development key: whoever has the folder it was made in can sign updates";

/// The key that signs, and where it came from.
pub struct Release {
    /// Signs.
    pub key: SigningKey,
    /// The file of the secret key.
    pub file: PathBuf,
    /// Nobody named it: it was made here.
    pub is_development: bool,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_development { "the development key" } else { "the key" };
        write!(f, "{kind} {}", self.file.display())
    }
}

/// Reads the secret key at `path`; without one, that of this folder, which is made once.
pub fn release(path: Option<&Path>, development: &Path) -> Result<Release> {
    let file = path.unwrap_or(development).to_owned();
    let key = if path.is_none() && !file.exists() {
        let key = SigningKey::generate(COMMENT)?;
        key.save(&file)?;
        key
    } else {
        SigningKey::load(&file)?
    };
    Ok(Release { key, file, is_development: path.is_none() })
}

/// Reads a public key that an image is to trust, too: its text.
pub fn trusted(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    text.parse::<ReleaseKey>().map_err(|error| Error::malformed(path, error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_development_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let first = release(None, &file).unwrap();
        let again = release(None, &file).unwrap();
        assert_eq!(again.to_string(), format!("the development key {}", file.display()));
        assert_eq!(first.key.public_text(), again.key.public_text());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_was_named_is_never_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        assert!(release(Some(&file), &dir.path().join("other")).is_err());
        assert!(!file.exists() && !dir.path().join("other").exists());
    }

    #[test]
    fn what_is_trusted_is_a_public_key() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, public) = (dir.path().join("key"), dir.path().join("key.pub"));
        let made = release(None, &secret).unwrap();
        fs::write(&public, made.key.public_text()).unwrap();
        assert_eq!(trusted(&public).unwrap(), made.key.public_text());
        assert!(trusted(&secret).is_err());
    }
}
