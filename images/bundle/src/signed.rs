//! A manifest and its signature, as they travel together.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minisign_verify::Signature;

use crate::{BundleError, KeyNumber, Manifest, ManifestError, ReleaseKey, SignatureError};

/// A signature has four lines, two of them comments.
pub const MAX_SIGNATURE_BYTES: u64 = 4 << 10;

/// Bytes of `manifest.json` and text of `manifest.json.minisig`; nobody vouches for them yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub manifest: Vec<u8>,
    /// Who signed it; empty where nobody did.
    pub signature: String,
}

impl Signed {
    /// What the manifest says of itself.
    pub fn claims(&self) -> Result<Manifest, ManifestError> {
        Manifest::parse(&self.manifest)
    }

    /// By which key it claims to be signed.
    pub fn signer(&self) -> Result<KeyNumber, SignatureError> {
        Ok(self.decode()?.1)
    }

    /// The manifest, if one of `keys` has signed it. Nothing of it is read before that is sure.
    pub fn verify(&self, keys: &[ReleaseKey]) -> Result<Manifest, BundleError> {
        let (signature, signer) = self.decode()?;
        let key = keys.iter().find(|key| key.number() == signer).ok_or_else(|| {
            let trusted = keys.iter().map(ReleaseKey::number).collect();
            SignatureError::Untrusted { signer, trusted }
        })?;
        // Two keys may have one number by somebody's design; the first that was trusted counts.
        key.key.verify(&self.manifest, &signature, false).map_err(|_| SignatureError::Forged(signer))?;
        Ok(self.claims()?)
    }

    fn decode(&self) -> Result<(Signature, KeyNumber), SignatureError> {
        let malformed = |reason: &str| SignatureError::Malformed(reason.to_owned());
        if self.signature.trim().is_empty() {
            return Err(SignatureError::Unsigned);
        }
        if self.signature.len() as u64 > MAX_SIGNATURE_BYTES {
            return Err(malformed("it is too long"));
        }
        let signature = Signature::decode(&self.signature).map_err(|error| malformed(&error.to_string()))?;
        let line = self.signature.lines().nth(1).unwrap_or_default();
        let binary = STANDARD.decode(line).map_err(|_| malformed("it is not base64"))?;
        if !binary.starts_with(b"ED") {
            return Err(malformed("it is of the legacy kind, without a hash"));
        }
        let signer = KeyNumber::of_binary(&binary).ok_or_else(|| malformed("it is too short"))?;
        Ok((signature, signer))
    }
}
