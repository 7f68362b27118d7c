//! Who this capsule is: made once, kept for good.
//!
//! ```text
//!   write server.key.next ──▶ commit the promise of it ──▶ rename it to server.key
//! ```
//!
//! A crash before the promise leaves a `next` that is replaced; one after it, a `next` that is
//! taken. So a `server.key` without a promise never comes from a crash: the database lost what it
//! promised, and nobody is to become another capsule by that.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use capsule_proto::Fingerprint;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use uuid::Uuid;

use super::table;
use crate::{
    store::{Store, StoreError},
    sys::file,
};

pub(super) const DIRECTORY: &str = "identity";
pub(super) const KEY_FILE: &str = "server.key";
const NEXT_KEY_FILE: &str = "server.key.next";

/// Why the capsule's identity could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key's file failed.
    #[error("{attempt} the server key {path}")]
    Io {
        /// "cannot read" and the like.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database promises a key that is gone or another.
    #[error(
        "the server key {path} {problem}, but the database promises the one that operators have pinned; restore it \
         from a backup, or move the whole state directory away to start as another capsule"
    )]
    Key {
        /// Which file.
        path: PathBuf,
        /// "is missing" and the like.
        problem: String,
    },
    /// There is a key, and the database does not know of it.
    #[error(
        "the database does not know the capsule whose server key is {0}: it was replaced or lost what it held. \
         Restore it from a backup, or move the whole state directory away to start as another capsule"
    )]
    Forgotten(PathBuf),
    /// The crypto library failed.
    #[error("cannot make the capsule's certificate: {0}")]
    Crypto(String),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The capsule's name, key and certificate.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) capsule_id: Uuid,
    pub(super) fingerprint: Fingerprint,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivatePkcs8KeyDer<'static>,
}

/// A row of `identity`.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) capsule_id: Uuid,
    pub(super) certificate: Vec<u8>,
    pub(super) created_at: SystemTime,
}

/// Reads what was promised, or makes it.
pub(super) async fn ensure(state_dir: &Path, store: &Store) -> Result<Own, IdentityError> {
    let path = state_dir.join(DIRECTORY).join(KEY_FILE);
    match store.read(table::promise).await? {
        Some(promise) => {
            keep(&path)?;
            load(&path, promise)
        }
        None if path.exists() => Err(IdentityError::Forgotten(path)),
        None => create(&path, store).await,
    }
}

/// Gives the key that was promised its lasting name, where it does not bear it yet.
fn keep(path: &Path) -> Result<(), IdentityError> {
    let next = path.with_file_name(NEXT_KEY_FILE);
    if path.exists() || !next.exists() {
        return Ok(());
    }
    let renamed = fs::rename(&next, path).and_then(|()| file::sync_dir(path.parent().unwrap_or(path)));
    renamed.map_err(|source| IdentityError::Io { attempt: "cannot keep", path: path.into(), source })
}

fn load(path: &Path, promise: Promise) -> Result<Own, IdentityError> {
    let wrong = |problem: String| IdentityError::Key { path: path.into(), problem };
    let pem = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(wrong("is missing".into())),
        other => {
            other.map_err(|source| IdentityError::Io { attempt: "cannot read", path: path.into(), source })?
        }
    };
    let pair = KeyPair::from_pem(&pem).map_err(|error| wrong(format!("is damaged ({error})")))?;
    let certificate = x509_parser::parse_x509_certificate(&promise.certificate);
    let fits = certificate
        .is_ok_and(|(_, cert)| cert.public_key().subject_public_key.data.as_ref() == pair.public_key_raw());
    if !fits {
        return Err(wrong("is another one".into()));
    }
    Ok(own(promise, &pair))
}

async fn create(path: &Path, store: &Store) -> Result<Own, IdentityError> {
    let crypto = |error: rcgen::Error| IdentityError::Crypto(error.to_string());
    let io = |source| IdentityError::Io { attempt: "cannot write", path: path.into(), source };
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    let capsule_id = Uuid::new_v4();
    let mut params = CertificateParams::default();
    // The name is how a client learns the id before it trusts anything.
    params.distinguished_name.push(DnType::CommonName, capsule_id.to_string());
    let certificate = params.self_signed(&pair).map_err(crypto)?.der().to_vec();
    let promise = Promise { capsule_id, certificate, created_at: SystemTime::now() };
    let dir = path.parent().unwrap_or(path);
    file::ensure_dir(dir, 0o700).map_err(io)?;
    let next = path.with_file_name(NEXT_KEY_FILE);
    file::write_atomic(&next, pair.serialize_pem().as_bytes(), 0o400).map_err(io)?;
    if let Some(state_dir) = dir.parent() {
        file::sync_dir(state_dir).map_err(io)?;
    }
    let row = promise.clone();
    store.write(move |tx| table::insert_promise(tx, &row)).await?;
    keep(path)?;
    Ok(own(promise, &pair))
}

fn own(promise: Promise, pair: &KeyPair) -> Own {
    Own {
        capsule_id: promise.capsule_id,
        fingerprint: Fingerprint::of(&promise.certificate),
        certificate: promise.certificate.into(),
        key: pair.serialize_der().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_identity_is_made_once_and_a_lost_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = ensure(dir.path(), &store).await.unwrap();
        let read = ensure(dir.path(), &store).await.unwrap();
        assert_eq!((made.capsule_id, made.fingerprint), (read.capsule_id, read.fingerprint));
        let path = dir.path().join(DIRECTORY).join(KEY_FILE);
        let other = KeyPair::generate().unwrap().serialize_pem();
        file::write_atomic(&path, other.as_bytes(), 0o400).unwrap();
        let error = ensure(dir.path(), &store).await.unwrap_err().to_string();
        assert!(error.contains("is another one"), "{error}");
        fs::remove_file(&path).unwrap();
        let error = ensure(dir.path(), &store).await.unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_crash_at_any_step_of_the_first_start_is_mended_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DIRECTORY).join(KEY_FILE);
        let next = path.with_file_name(NEXT_KEY_FILE);
        file::ensure_dir(path.parent().unwrap(), 0o700).unwrap();
        file::write_atomic(&next, b"half", 0o400).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = ensure(dir.path(), &store).await.unwrap();
        assert!(!next.exists());
        fs::rename(&path, &next).unwrap();
        let read = ensure(dir.path(), &store).await.unwrap();
        assert_eq!(read.fingerprint, made.fingerprint);
        assert!(path.exists() && !next.exists());
    }

    #[tokio::test]
    async fn a_database_that_forgot_the_capsule_makes_no_other_one() {
        let (old, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        ensure(old.path(), &Store::open(old.path()).unwrap()).await.unwrap();
        let forgetful = Store::open(fresh.path()).unwrap();
        let error = ensure(old.path(), &forgetful).await.unwrap_err();
        assert!(matches!(error, IdentityError::Forgotten(_)), "{error}");
    }
}
