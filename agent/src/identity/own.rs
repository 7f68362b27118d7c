//! Who this capsule is: made once, kept for good.
//!
//! The key's file is on the disk before the row that refers to it, so a crash between the two
//! leaves a key that nothing promised, and the next start makes a new one in its place.

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

const DIRECTORY: &str = "identity";
const KEY_FILE: &str = "server.key";

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

impl Own {
    /// `capsule-` and the first four digits of the id.
    pub(super) fn short_id(&self) -> String {
        format!("capsule-{}", &self.capsule_id.simple().to_string()[..4])
    }
}

/// Reads what was promised, or makes it.
pub(super) async fn ensure(state_dir: &Path, store: &Store) -> Result<Own, IdentityError> {
    let path = state_dir.join(DIRECTORY).join(KEY_FILE);
    match store.read(table::promise).await? {
        Some(promise) => load(&path, promise),
        None => create(&path, store).await,
    }
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
    file::write_atomic(path, pair.serialize_pem().as_bytes(), 0o400).map_err(io)?;
    if let Some(state_dir) = dir.parent() {
        file::sync_dir(state_dir).map_err(io)?;
    }
    let row = promise.clone();
    store.write(move |tx| table::insert_promise(tx, &row)).await?;
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
    async fn a_key_left_by_a_crash_before_the_promise_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DIRECTORY).join(KEY_FILE);
        file::ensure_dir(path.parent().unwrap(), 0o700).unwrap();
        file::write_atomic(&path, b"half", 0o400).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let made = ensure(dir.path(), &store).await.unwrap();
        assert!(made.short_id().starts_with("capsule-") && made.short_id().len() == 12);
        ensure(dir.path(), &store).await.unwrap();
    }
}
