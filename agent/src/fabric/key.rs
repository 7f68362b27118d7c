//! The capsule's own WireGuard keys: the present one, and the next one while it is being announced.
//! They never leave the state directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use capsule_fabric::map::PublicKey;
use zeroize::Zeroizing;

use super::FabricError;
use crate::sys::file;

/// Base64 in one line, as `wg genkey` writes it.
const KEY_FILE: &str = "wireguard.key";
const NEXT_KEY_FILE: &str = "wireguard.key.next";
/// The owner alone, and not even they by accident.
const MODE: u32 = 0o400;

/// A private key with its public one.
#[derive(Clone)]
pub(super) struct KeyPair {
    private: Zeroizing<[u8; 32]>,
    pub(super) public: PublicKey,
}

impl KeyPair {
    /// From raw bytes.
    pub(super) fn new(private: Zeroizing<[u8; 32]>) -> Result<Self, String> {
        let unusable = |_| "it is no Curve25519 key".to_owned();
        let key = PrivateKey::from_private_key(&X25519, private.as_slice()).map_err(|e| e.to_string())?;
        let public = key.compute_public_key().map_err(unusable)?;
        let public = PublicKey::try_from(public.as_ref()).map_err(|error| error.to_string())?;
        Ok(Self { private, public })
    }

    /// Raw; whoever gets it passes it on to the device and keeps no copy.
    pub(super) fn private(&self) -> &[u8; 32] {
        &self.private
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyPair({})", self.public)
    }
}

#[derive(Default)]
struct Pairs {
    present: Option<KeyPair>,
    next: Option<KeyPair>,
}

/// Both keys, as files and in memory.
pub(super) struct Keys {
    dir: PathBuf,
    pairs: Mutex<Pairs>,
}

impl Keys {
    /// Reads what is in `dir`; makes nothing.
    pub(super) fn load(dir: PathBuf) -> Result<Self, FabricError> {
        let present = read(&dir.join(KEY_FILE))?;
        let mut next = read(&dir.join(NEXT_KEY_FILE))?;
        // What an agent leaves that dies while the next key becomes the present one.
        if present.as_ref().map(|pair| pair.public) == next.as_ref().map(|pair| pair.public) && next.is_some()
        {
            remove(&dir.join(NEXT_KEY_FILE))?;
            next = None;
        }
        Ok(Self { dir, pairs: Mutex::new(Pairs { present, next }) })
    }

    /// The present public key, where there is one.
    pub(super) fn public(&self) -> Option<PublicKey> {
        self.pairs().present.as_ref().map(|pair| pair.public)
    }

    /// Every public key that a map may name.
    pub(super) fn publics(&self) -> Vec<PublicKey> {
        let pairs = self.pairs();
        [&pairs.present, &pairs.next].into_iter().flatten().map(|pair| pair.public).collect()
    }

    /// Whether a next key waits for the map that names it.
    pub(super) fn has_next(&self) -> bool {
        self.pairs().next.is_some()
    }

    /// The pair of a public key.
    pub(super) fn pair(&self, public: &PublicKey) -> Option<KeyPair> {
        let pairs = self.pairs();
        [&pairs.present, &pairs.next].into_iter().flatten().find(|pair| pair.public == *public).cloned()
    }

    /// The present key, made where there is none; on the disk before anybody hears of it.
    pub(super) fn ensure(&self) -> Result<PublicKey, FabricError> {
        let mut pairs = self.pairs();
        if let Some(pair) = &pairs.present {
            return Ok(pair.public);
        }
        let pair = make(&self.dir, KEY_FILE)?;
        Ok(pairs.present.insert(pair).public)
    }

    /// The key that is to replace the present one, made where there is none.
    pub(super) fn ensure_next(&self) -> Result<PublicKey, FabricError> {
        let mut pairs = self.pairs();
        if let Some(pair) = &pairs.next {
            return Ok(pair.public);
        }
        let pair = make(&self.dir, NEXT_KEY_FILE)?;
        Ok(pairs.next.insert(pair).public)
    }

    /// Makes the next key the present one, where it is the one that is named.
    pub(super) fn promote(&self, named: &PublicKey) -> Result<(), FabricError> {
        let mut pairs = self.pairs();
        if pairs.next.as_ref().is_none_or(|next| next.public != *named) {
            return Ok(());
        }
        let (next, present) = (self.dir.join(NEXT_KEY_FILE), self.dir.join(KEY_FILE));
        let failed = |source| FabricError::Key { attempt: "replace", path: present.clone(), source };
        fs::rename(&next, &present).and_then(|()| file::sync_dir(&self.dir)).map_err(failed)?;
        pairs.present = pairs.next.take();
        Ok(())
    }

    /// Forgets both.
    pub(super) fn forget(&self) -> Result<(), FabricError> {
        let mut pairs = self.pairs();
        remove(&self.dir.join(NEXT_KEY_FILE))?;
        remove(&self.dir.join(KEY_FILE))?;
        *pairs = Pairs::default();
        Ok(())
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(dir: &Path, name: &str) -> Result<KeyPair, FabricError> {
    let path = dir.join(name);
    let failed = |source| FabricError::Key { attempt: "write", path: path.clone(), source };
    let mut private = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(private.as_mut_slice())
        .map_err(|_| failed(io::Error::other("there is no randomness")))?;
    // As every Curve25519 key is before it is used (RFC 7748, section 5).
    private[0] &= 0xf8;
    private[31] = private[31] & 0x7f | 0x40;
    let pair = KeyPair::new(private).map_err(|reason| failed(io::Error::other(reason)))?;
    let text = Zeroizing::new(format!("{}\n", STANDARD.encode(pair.private())));
    file::ensure_dir(dir, 0o700).map_err(failed)?;
    file::write_atomic(&path, text.as_bytes(), MODE).map_err(failed)?;
    Ok(pair)
}

fn read(path: &Path) -> Result<Option<KeyPair>, FabricError> {
    let failed = |source| FabricError::Key { attempt: "read", path: path.into(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let malformed = |reason: String| failed(io::Error::new(io::ErrorKind::InvalidData, reason));
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|error| malformed(error.to_string()))?);
    let private: [u8; 32] =
        bytes.as_slice().try_into().map_err(|_| malformed("it does not have 32 bytes".into()))?;
    KeyPair::new(Zeroizing::new(private)).map(Some).map_err(malformed)
}

fn remove(path: &Path) -> Result<(), FabricError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FabricError::Key { attempt: "remove", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("fabric");
        let keys = Keys::load(home.clone()).unwrap();
        assert_eq!(keys.public(), None);
        let made = keys.ensure().unwrap();
        assert_eq!(keys.ensure().unwrap(), made);
        assert_eq!(Keys::load(home.clone()).unwrap().public(), Some(made));
        let mode = fs::metadata(home.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        fs::remove_file(home.join(KEY_FILE)).unwrap();
        fs::write(home.join(KEY_FILE), "AAAA\n").unwrap();
        let error = Keys::load(home).err().unwrap();
        assert!(crate::status::chain(&error).contains("32 bytes"), "{}", crate::status::chain(&error));
    }

    #[test]
    fn a_public_key_is_the_one_that_wireguard_derives() {
        // As `wg pubkey` answers.
        let pair = KeyPair::new(Zeroizing::new([1; 32])).unwrap();
        assert_eq!(pair.public.to_string(), "pOCSkrZRwni5dyxWn1+puxPZBrRqtoyd+dwrRAn4ogk=");
    }

    #[test]
    fn the_next_key_is_kept_beside_the_present_one_until_a_map_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load(dir.path().into()).unwrap();
        let (present, next) = (keys.ensure().unwrap(), keys.ensure_next().unwrap());
        assert_eq!(keys.ensure_next().unwrap(), next);
        assert_eq!(keys.publics(), [present, next]);
        keys.promote(&present).unwrap();
        assert_eq!(Keys::load(dir.path().into()).unwrap().publics(), [present, next]);
        keys.promote(&next).unwrap();
        assert_eq!(keys.publics(), [next]);
        assert_eq!(Keys::load(dir.path().into()).unwrap().publics(), [next]);
        keys.forget().unwrap();
        assert!(Keys::load(dir.path().into()).unwrap().publics().is_empty());
    }
}
