//! TLS 1.3 as a capsule serves it. Client certificates are optional here, since a stranger must
//! be able to adopt; what is checked is that a shown Ed25519 key is really held. Whether it is
//! enrolled is the business of [`super::auth`], which asks again for every call.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{keys::PublicKey, own::Own};

/// OID 1.3.101.112, id-Ed25519 (RFC 8410, section 3).
const ED25519: &str = "1.3.101.112";

#[derive(Debug)]
struct AnyHeldKey {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyHeldKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let known = public_key(end_entity).map(|_| ClientCertVerified::assertion());
        known.ok_or_else(|| rustls::CertificateError::BadEncoding.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Err(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The raw key of an Ed25519 certificate.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let info = certificate.public_key();
    let is_ed25519 = info.algorithm.algorithm.to_id_string() == ED25519;
    is_ed25519.then(|| info.subject_public_key.data.as_ref().try_into().ok()).flatten()
}

/// Server side of every connection.
pub(super) fn server_config(own: &Own) -> Result<ServerConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyHeldKey { provider }))
        .with_single_cert(vec![own.certificate.clone()], PrivateKeyDer::Pkcs8(own.key.clone_key()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Resumed sessions would save little and keep state for strangers.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
