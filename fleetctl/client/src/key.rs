//! The operator's Ed25519 key: the client certificate and the token of every call come from it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use capsule_proto::{KeyId, token::Claims};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use rustls::{
    crypto::aws_lc_rs::sign::any_eddsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroizing;

use crate::ConfigError;

/// From a token's signing to its end. A capsule takes none older than the clocks may differ.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Nobody made one yet.
    #[error(
        "there is no operator key at {0} yet; `fleetctl key show` makes one, for an admin to enroll with `fleetctl key \
         add`; or copy yours there"
    )]
    Missing(PathBuf),
    /// Others could read it.
    #[error("the operator key {path} may be read by others (mode {mode:03o}); run `chmod 600 {path}`")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a key.
    #[error("{path} holds no Ed25519 key in PKCS#8 PEM: {reason}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The crypto library failed.
    #[error("the operator key cannot be used: {0}")]
    Crypto(String),
    /// The file could not be read or written.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// An operator's key; cheap to clone.
#[derive(Clone)]
pub struct OperatorKey(Arc<Inner>);

struct Inner {
    signing: Ed25519KeyPair,
    key_id: KeyId,
    pem: Zeroizing<String>,
    tls: Arc<SingleCertAndKey>,
}

impl OperatorKey {
    /// A new one, not yet on the disk.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(crypto)?;
        Self::from_pair(&pair)
    }

    /// From PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let malformed =
            |error: rcgen::Error| KeyError::Malformed { path: "".into(), reason: error.to_string() };
        Self::from_pair(&KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ED25519).map_err(malformed)?)
    }

    /// From a file that nobody else may read.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let io = |source| ConfigError::Io { attempt: "cannot read", path: path.into(), source };
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyError::Missing(path.into()));
            }
            other => other.map_err(io)?,
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.into(), mode });
        }
        let pem = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
        Self::from_pem(&pem).map_err(|error| match error {
            KeyError::Malformed { reason, .. } => KeyError::Malformed { path: path.into(), reason },
            other => other,
        })
    }

    fn from_pair(pair: &KeyPair) -> Result<Self, KeyError> {
        let der = Zeroizing::new(pair.serialize_der());
        let signing = Ed25519KeyPair::from_pkcs8(&der).map_err(crypto)?;
        let key_id = KeyId::of(signing.public_key().as_ref());
        let tls = Arc::new(SingleCertAndKey::from(certified(pair, &der, &key_id)?));
        Ok(Self(Arc::new(Inner { signing, key_id, pem: Zeroizing::new(pair.serialize_pem()), tls })))
    }

    /// First 16 hex digits of the SHA-256 of the public key.
    pub fn key_id(&self) -> &KeyId {
        &self.0.key_id
    }

    /// Raw, 32 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.0.signing.public_key().as_ref()
    }

    /// PKCS#8 PEM.
    pub fn pem(&self) -> &str {
        &self.0.pem
    }

    /// Signs anything: proof of possession.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.signing.sign(message).as_ref().to_vec()
    }

    /// What a capsule wants signed by `self`, the new key, before it replaces key `old` by it.
    pub fn rotation_proof(&self, capsule_id: &str, old: &KeyId) -> Vec<u8> {
        self.sign(format!("capsule-rotate-key:{capsule_id}:{old}").as_bytes())
    }

    /// The claims of one call made now.
    pub fn claims(&self, capsule_id: &str, method: &str) -> Claims {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Claims {
            aud: capsule_id.into(),
            iss: self.key_id().to_string(),
            method: method.into(),
            iat: now,
            exp: now + TOKEN_LIFETIME.as_secs(),
            jti: uuid::Uuid::new_v4().simple().to_string(),
        }
    }

    /// The claims as a JWT in compact form (RFC 7515, section 3.1; EdDSA as in RFC 8037). Signed
    /// here and not by a JWT library, because that would parse the key again for each call.
    pub fn token(&self, claims: &Claims) -> String {
        let claims = serde_json::json!(claims).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"EdDSA"}"#);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// The self-signed certificate that proves the key to a capsule.
    pub(crate) fn tls(&self) -> Arc<SingleCertAndKey> {
        self.0.tls.clone()
    }
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OperatorKey({})", self.key_id())
    }
}

fn certified(pair: &KeyPair, der: &[u8], key_id: &KeyId) -> Result<CertifiedKey, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, key_id.as_str());
    let certificate = params.self_signed(pair).map_err(crypto)?;
    let chain = vec![CertificateDer::from(certificate)];
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).map_err(crypto)?;
    Ok(CertifiedKey::new(chain, key))
}

fn crypto(error: impl std::fmt::Display) -> KeyError {
    KeyError::Crypto(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_pem() {
        let key = OperatorKey::generate().unwrap();
        assert_eq!(OperatorKey::from_pem(key.pem()).unwrap().key_id(), key.key_id());
        assert!(matches!(OperatorKey::from_pem("x"), Err(KeyError::Malformed { .. })));
    }

    #[test]
    fn a_token_is_a_jwt_that_others_verify() {
        let key = OperatorKey::generate().unwrap();
        let claims = key.claims("capsule", "/a/b");
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
        validation.set_audience(&["capsule"]);
        let decoding = jsonwebtoken::DecodingKey::from_ed_der(key.public_key());
        let read = jsonwebtoken::decode::<Claims>(key.token(&claims), &decoding, &validation).unwrap();
        assert_eq!(read.claims, claims);
    }
}
