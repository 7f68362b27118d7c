//! TLS 1.3 towards one capsule: its certificate is the pinned one, whatever name or date it bears.

use std::sync::{Arc, OnceLock};

use capsule_proto::Fingerprint;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::OperatorKey;

/// Accepts one certificate, or, to probe, any; remembers what it saw.
#[derive(Debug)]
pub(crate) struct Pin {
    expected: Option<Fingerprint>,
    seen: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    pub(crate) fn new(expected: Option<Fingerprint>, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { expected, seen: OnceLock::new(), provider })
    }

    /// What the wire showed, where it was not what was expected.
    pub(crate) fn mismatch(&self) -> Option<(Fingerprint, Fingerprint)> {
        let (expected, seen) = (self.expected?, *self.seen.get()?);
        (expected != seen).then_some((expected, seen))
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = *self.seen.get_or_init(|| Fingerprint::of(end_entity));
        if self.expected.is_none_or(|expected| expected == seen) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A configuration that trusts `pin` and shows the certificate of `key`.
pub(crate) fn config(pin: Arc<Pin>, key: &OperatorKey) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(pin.provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pin)
        .with_client_cert_resolver(key.tls());
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}
