//! An authority of one's own, which vouches for registries.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::Access;

/// Issues certificates; nobody trusts it who was not told to.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    /// A new one, with its files in this directory.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { issuer, dir: dir.to_owned() };
        fs::write(authority.certificate(), authority.issuer.pem()).context("cannot write a certificate")?;
        Ok(authority)
    }

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// What a registry at this address needs to speak TLS.
    pub fn issue(&self, address: IpAddr) -> Result<Access> {
        let key = KeyPair::generate()?;
        let issued = CertificateParams::new([address.to_string()])?.signed_by(&key, &self.issuer)?;
        let (certificate, key_file) = (self.dir.join("registry.crt"), self.dir.join("registry.key"));
        fs::write(&certificate, issued.pem()).context("cannot write a certificate")?;
        fs::write(&key_file, key.serialize_pem()).context("cannot write a key")?;
        Ok(Access::Tls { certificate, key: key_file })
    }
}
