//! One pull's conversation with registries: the mirrors first, then the registry itself.
//!
//! The HTTP client lives as long as the pull; nothing of it stays in an idle agent.

use std::time::Duration;

use futures_util::stream::BoxStream;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{BlobResponse, Certificate, ClientConfig, ClientProtocol, LayerDescriptor},
    errors::{OciDistributionError as OciError, OciErrorCode},
    secrets::RegistryAuth,
};
use oci_spec::image::Descriptor;

use super::{
    ImageError, RegistryConfig,
    manifest::{INDEX_TYPES, MANIFEST_TYPES},
};

/// To open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte from the registry.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a registry's own words in an error, in characters.
const SHOWN_CHARS: usize = 300;
/// Status of an answer that was none in HTTP's sense.
const NO_STATUS: u16 = 0;

/// Bytes of a blob, from the returned offset on.
pub type BlobStream = BoxStream<'static, Result<prost::bytes::Bytes, std::io::Error>>;

/// Who is asked for an image, in order.
pub struct Registry {
    client: Client,
    endpoints: Vec<Endpoint>,
}

struct Endpoint {
    /// The image, with the host that is asked for it.
    reference: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// Prepares; connects to nobody yet. `auth` is for the registry itself, never for mirrors.
    pub fn open(
        reference: &Reference,
        config: &RegistryConfig,
        auth: Option<RegistryAuth>,
    ) -> Result<Self, ImageError> {
        let mut plain = Vec::new();
        let mut endpoints = Vec::new();
        for mirror in config.mirrors.iter().filter(|mirror| mirror.registry == reference.registry()) {
            if mirror.plain && !config.is_plain(&mirror.host) {
                return Err(ImageError::Config {
                    what: format!("mirror {mirror}"),
                    detail: format!(
                        "plain HTTP is only for hosts on loopback or named by --insecure-registry {}",
                        mirror.host
                    ),
                });
            }
            if mirror.plain {
                plain.push(mirror.host.clone());
            }
            let mut mirrored = reference.clone();
            mirrored.set_mirror_registry(mirror.host.clone());
            endpoints.push(Endpoint { reference: mirrored, auth: config.credentials(&mirror.host)? });
        }
        let host = reference.resolve_registry();
        if config.is_plain(host) {
            plain.push(host.to_owned());
        }
        let auth = auth.map_or_else(|| config.credentials(reference.registry()), Ok)?;
        endpoints.push(Endpoint { reference: reference.clone(), auth });
        let hosts: Vec<&str> =
            endpoints.iter().map(|endpoint| endpoint.reference.resolve_registry()).collect();
        let roots = config.roots(&[&hosts[..], &[reference.registry()]].concat())?;
        Ok(Self { client: client(reference, plain, roots)?, endpoints })
    }

    /// A manifest or index: the one of `digest`, else what the reference says. With its digest,
    /// which was verified.
    pub async fn manifest(&self, digest: Option<&str>) -> Result<(Vec<u8>, String), ImageError> {
        let types = [MANIFEST_TYPES, INDEX_TYPES].concat();
        let mut outcome = Err(None);
        for endpoint in &self.endpoints {
            let reference = digest.map_or_else(
                || endpoint.reference.clone(),
                |digest| endpoint.reference.clone_with_digest(digest.to_owned()),
            );
            match self.client.pull_manifest_raw(&reference, &endpoint.auth, &types).await {
                Ok((bytes, digest)) => return Ok((bytes.to_vec(), digest)),
                Err(error) => outcome = Err(Some(self.explain(endpoint, error).await)),
            }
            note_failure(endpoint, &outcome);
        }
        outcome.map_err(unwrap_last)
    }

    /// A blob's bytes from `offset` on, or from 0 where the registry cannot begin elsewhere; the
    /// returned number says which. They are not verified.
    pub async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<(u64, BlobStream), ImageError> {
        let digest = blob.digest().to_string();
        let layer = LayerDescriptor { digest: &digest, urls: blob.urls() };
        let mut outcome = Err(None);
        for endpoint in &self.endpoints {
            self.client.store_auth_if_needed(endpoint.reference.resolve_registry(), &endpoint.auth).await;
            let asked = self.client.pull_blob_stream_partial(&endpoint.reference, &layer, offset, None);
            match asked.await {
                Ok(BlobResponse::Partial(stream)) => return Ok((offset, stream.stream)),
                Ok(BlobResponse::Full(stream)) => return Ok((0, stream.stream)),
                Err(error) => outcome = Err(Some(self.explain(endpoint, error).await)),
            }
            note_failure(endpoint, &outcome);
        }
        outcome.map_err(unwrap_last)
    }

    async fn explain(&self, endpoint: &Endpoint, error: OciError) -> ImageError {
        match error {
            OciError::UnauthorizedError { .. } | OciError::AuthenticationFailure(_) => {
                self.explain_refusal(endpoint).await
            }
            other => classify(&endpoint.reference, other),
        }
    }

    /// The client swallows why it got no token; asking again tells a refusal from a token service
    /// that is down.
    async fn explain_refusal(&self, endpoint: &Endpoint) -> ImageError {
        let asked = self.client.auth(&endpoint.reference, &endpoint.auth, RegistryOperation::Pull).await;
        let said = match asked {
            Err(OciError::AuthenticationFailure(said)) => said,
            Err(error) => return classify(&endpoint.reference, error),
            Ok(_) => String::new(),
        };
        let tried = match &endpoint.auth {
            RegistryAuth::Anonymous => "asked without credentials".to_owned(),
            RegistryAuth::Basic(user, _) => format!("asked as user {user:?}"),
            RegistryAuth::Bearer(_) => "asked with a kept token".to_owned(),
        };
        ImageError::Unauthorized {
            reference: endpoint.reference.whole(),
            registry: endpoint.host(),
            repository: endpoint.reference.repository().to_owned(),
            detail: if said.is_empty() { tried } else { format!("{tried}; it said {}", shorten(&said)) },
        }
    }
}

impl Endpoint {
    fn host(&self) -> String {
        host_of(&self.reference)
    }
}

fn host_of(reference: &Reference) -> String {
    match reference.namespace() {
        Some(registry) => format!("{} (mirror of {registry})", reference.resolve_registry()),
        None => reference.registry().to_owned(),
    }
}

fn note_failure<T>(endpoint: &Endpoint, outcome: &Result<T, Option<ImageError>>) {
    if let (Some(_), Err(Some(error))) = (endpoint.reference.namespace(), outcome) {
        tracing::warn!(%error, "a mirror was of no use");
    }
}

fn unwrap_last(last: Option<ImageError>) -> ImageError {
    last.unwrap_or_else(|| ImageError::Config {
        what: "the list of registries".into(),
        detail: "it is empty".into(),
    })
}

fn client(reference: &Reference, plain: Vec<String>, roots: Vec<Certificate>) -> Result<Client, ImageError> {
    let config = ClientConfig {
        protocol: ClientProtocol::HttpsExcept(plain),
        extra_root_certificates: roots,
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("capsuled/", env!("CARGO_PKG_VERSION")),
        ..Default::default()
    };
    config.try_into().map_err(|error| classify(reference, error))
}

/// What the client's error means to an operator.
fn classify(reference: &Reference, error: OciError) -> ImageError {
    let (whole, registry) = (reference.whole(), host_of(reference));
    let answered = |status, detail: String| ImageError::Registry {
        reference: whole.clone(),
        registry: registry.clone(),
        status,
        detail: shorten(&detail),
    };
    let missing = || ImageError::NoSuchTag {
        reference: whole.clone(),
        registry: registry.clone(),
        repository: reference.repository().to_owned(),
        tag: reference.digest().or(reference.tag()).unwrap_or_default().to_owned(),
    };
    match error {
        OciError::RequestError(error) => {
            let service = token_service(reference, error.url());
            let asked = service.as_deref().unwrap_or(&registry);
            let detail = explained(crate::status::chain(&error.without_url()), asked, &registry);
            let detail = service.iter().map(|host| format!("its token service {host}: ")).collect::<String>()
                + &detail;
            ImageError::Network { reference: whole.clone(), registry: registry.clone(), detail }
        }
        OciError::IoError(error) => broken(reference, &error),
        OciError::RegistryError { envelope, .. } => {
            let first = envelope.errors.first().map(|error| &error.code);
            match first {
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => {
                    missing()
                }
                Some(OciErrorCode::Toomanyrequests) => answered(429, envelope.to_string()),
                Some(OciErrorCode::Denied) => answered(403, envelope.to_string()),
                _ => answered(400, envelope.to_string()),
            }
        }
        OciError::ImageManifestNotFoundError(_) | OciError::ServerError { code: 404, .. } => missing(),
        OciError::ServerError { code, message, .. } => answered(code, message),
        OciError::DigestError(error) => ImageError::Digest {
            what: format!("what registry {registry} sent for {whole}"),
            digest: reference.digest().unwrap_or_default().to_owned(),
            detail: error.to_string(),
        },
        other => answered(NO_STATUS, other.to_string()),
    }
}

/// Who was asked, where that is not the registry itself: registries send their clients to a service
/// of its own for tokens.
fn token_service(reference: &Reference, url: Option<&impl ToString>) -> Option<String> {
    let url = url?.to_string();
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?']).next()?;
    (host != reference.resolve_registry()).then(|| host.to_owned())
}

/// Adds what to do about it: a server that answers TLS with something else mostly speaks plain HTTP,
/// and one with an unknown issuer, or one of the same name but another key, mostly has its owner's.
fn explained(detail: String, host: &str, registry: &str) -> String {
    if detail.contains("InvalidContentType") {
        format!(
            "it does not speak TLS. Where it speaks plain HTTP and you trust the network to it, start the agent \
             with --insecure-registry {host}"
        )
    } else if ["UnknownIssuer", "BadSignature"].iter().any(|word| detail.contains(word)) {
        format!(
            "neither this host nor a --registry-ca trusts who issued its certificate ({detail}). Where its owner \
             has an authority of their own, start the agent with --registry-ca {registry}=FILE, that authority's \
             certificate in PEM"
        )
    } else {
        detail
    }
}

/// A connection that broke while a blob was on its way.
pub fn broken(reference: &Reference, error: &std::io::Error) -> ImageError {
    ImageError::Network {
        reference: reference.whole(),
        registry: host_of(reference),
        detail: crate::status::chain(error),
    }
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
