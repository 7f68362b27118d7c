//! Which registries are reached how: mirrors, plain HTTP, authorities of their own, kept credentials.
//!
//! Credentials come from the pull request, which are never kept, or from `registries.json` in the
//! state directory, of the shape of docker's `config.json`:
//!
//! ```json
//! {"auths": {"registry.example:5000": {"auth": "BASE64 OF user:password"},
//!            "docker.io": {"username": "me", "password": "secret"}}}
//! ```
//!
//! The file is read at every pull and must be readable by its owner only (mode 0600).

use std::{
    collections::HashMap,
    fmt, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::Engine as _;
use oci_client::{
    client::{Certificate, CertificateEncoding},
    secrets::RegistryAuth,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::Deserialize;

use super::ImageError;

/// Name of the credentials file in the state directory.
pub const CREDENTIALS_FILE: &str = "registries.json";

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Tried before the registry that they mirror, in order.
    pub mirrors: Vec<Mirror>,
    /// Hosts (`HOST` or `HOST:PORT`) that are spoken to in plain HTTP, beside those on loopback.
    pub insecure: Vec<String>,
    /// Whose certificates registries may show beside those that the host trusts.
    pub authorities: Vec<Authority>,
    /// Kept credentials, [`CREDENTIALS_FILE`] in the state directory; need not exist.
    pub credentials_file: Option<PathBuf>,
}

impl RegistryConfig {
    /// Whether `host` (`HOST[:PORT]`) is spoken to in plain HTTP. Loopback is, unless it has an
    /// authority.
    pub fn is_plain(&self, host: &str) -> bool {
        let name = host_name(host);
        let on_loopback =
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        on_loopback && !self.authorities.iter().any(|authority| authority.registry == host)
            || self.insecure.iter().any(|named| named == host || named == name)
    }

    /// Certificates, in PEM, that a pull from these hosts trusts beside the host's own.
    pub(super) fn roots(&self, hosts: &[&str]) -> Result<Vec<Certificate>, ImageError> {
        let meant = self.authorities.iter().filter(|authority| hosts.contains(&authority.registry.as_str()));
        meant.map(Authority::read).collect()
    }

    /// Kept credentials for `host`, anonymous where there are none.
    pub(super) fn credentials(&self, host: &str) -> Result<RegistryAuth, ImageError> {
        match &self.credentials_file {
            Some(path) => credentials_of(path, host),
            None => Ok(RegistryAuth::Anonymous),
        }
    }
}

/// `HOST` of `HOST[:PORT]`, also of `[::1]:5000`.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// `--mirror docker.io=https://mirror.example[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The registry it stands in for: `docker.io`.
    pub registry: String,
    /// Where it listens: `mirror.example:5000`.
    pub host: String,
    /// Whether it is spoken to in plain HTTP.
    pub plain: bool,
}

/// Why a text is not a [`Mirror`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a mirror; write REGISTRY=https://HOST[:PORT], such as docker.io=https://mirror.example"
)]
pub struct MirrorError(String);

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let refuse = || MirrorError(text.to_owned());
        let (registry, url) = text.split_once('=').ok_or_else(refuse)?;
        let (plain, rest) = match url.split_once("://") {
            Some(("https", rest)) => (false, rest),
            Some(("http", rest)) => (true, rest),
            _ => return Err(refuse()),
        };
        let host = rest.trim_end_matches('/');
        if registry.is_empty() || host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(refuse());
        }
        Ok(Self { registry: registry.to_owned(), host: host.to_owned(), plain })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "http" } else { "https" };
        write!(f, "{}={scheme}://{}", self.registry, self.host)
    }
}

/// `--registry-ca registry.example:5000=/etc/ssl/lab.crt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Whose certificate it issues: `registry.example:5000`.
    pub registry: String,
    /// Its certificates, in PEM. Read at every pull, so that renewed ones need no restart.
    pub file: PathBuf,
}

/// Why a text is not an [`Authority`].
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} names no registry's authority; write HOST[:PORT]=FILE, such as registry.example=/etc/ssl/lab.crt"
)]
pub struct AuthorityError(String);

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        match text.split_once('=') {
            Some((registry, file)) if !registry.is_empty() && !registry.contains('/') && !file.is_empty() => {
                Ok(Self { registry: registry.to_owned(), file: file.into() })
            }
            _ => Err(AuthorityError(text.to_owned())),
        }
    }
}

impl Authority {
    fn read(&self) -> Result<Certificate, ImageError> {
        let refuse = |detail: String| ImageError::Config {
            what: format!("--registry-ca {}={}", self.registry, self.file.display()),
            detail,
        };
        let data = std::fs::read(&self.file).map_err(|error| refuse(error.to_string()))?;
        let all = CertificateDer::pem_slice_iter(&data).collect::<Result<Vec<_>, _>>();
        let mut roots = RootCertStore::empty();
        match all {
            Ok(all) if !all.is_empty() => {
                all.into_iter().try_for_each(|each| roots.add(each)).map_err(|error| {
                    refuse(format!("it holds a certificate that cannot be read: {error}"))
                })?;
                Ok(Certificate { encoding: CertificateEncoding::Pem, data })
            }
            _ => Err(refuse("the file holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`)".into())),
        }
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    /// A bearer token.
    registrytoken: Option<String>,
}

fn credentials_of(path: &Path, host: &str) -> Result<RegistryAuth, ImageError> {
    let refuse = |detail: String| ImageError::Config { what: path.display().to_string(), detail };
    let meta = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(RegistryAuth::Anonymous),
        other => other.map_err(|error| refuse(error.to_string()))?,
    };
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(refuse(format!("others may read it (mode {mode:04o}); run chmod 600 on it")));
    }
    let text = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    let found = config.auths.into_iter().find(|(key, _)| same_registry(key, host));
    found.map_or(Ok(RegistryAuth::Anonymous), |(_, auth)| {
        decode(auth).ok_or_else(|| {
            refuse(format!("the entry for {host} has neither a readable auth nor username and password"))
        })
    })
}

/// docker writes its hub as `https://index.docker.io/v1/`.
fn same_registry(key: &str, host: &str) -> bool {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or_default();
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    bare == host || hub(bare) && hub(host)
}

fn decode(auth: DockerAuth) -> Option<RegistryAuth> {
    if let Some(token) = auth.registrytoken {
        return Some(RegistryAuth::Bearer(token));
    }
    if let (Some(user), Some(password)) = (auth.username, auth.password) {
        return Some(RegistryAuth::Basic(user, password));
    }
    let plain = base64::engine::general_purpose::STANDARD.decode(auth.auth?).ok()?;
    let (user, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_for_hosts_that_were_named() {
        let config = RegistryConfig {
            insecure: vec!["lab.example".into(), "other.example:5000".into()],
            ..Default::default()
        };
        for host in ["localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]:5000", "lab.example:5000"] {
            assert!(config.is_plain(host), "{host}");
        }
        for host in ["docker.io", "localhost.example", "10.0.0.1:5000", "other.example"] {
            assert!(!config.is_plain(host), "{host}");
        }
    }

    #[test]
    fn a_registry_on_loopback_that_has_an_authority_speaks_tls() {
        let authorities = vec!["localhost:5443=/lab.crt".parse().unwrap()];
        let config = RegistryConfig { authorities, ..Default::default() };
        assert!(!config.is_plain("localhost:5443"));
        assert!(config.is_plain("localhost:5000"));
    }

    #[test]
    fn an_authority_is_a_file_with_certificates_for_one_registry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let authority: Authority = format!("r.example:5000={}", path.display()).parse().unwrap();
        let config = RegistryConfig { authorities: vec![authority], ..Default::default() };
        let refusal = || config.roots(&["r.example:5000"]).unwrap_err().to_string();
        assert!(config.roots(&["r.example"]).unwrap().is_empty());
        assert!(refusal().contains("No such file"), "{}", refusal());
        std::fs::write(&path, "a key, or whatever").unwrap();
        assert!(refusal().contains("no certificate in PEM"), "{}", refusal());
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, bad).unwrap();
        assert!(refusal().contains("cannot be read"), "{}", refusal());
        let key = rcgen::KeyPair::generate().unwrap();
        let issued = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
        std::fs::write(&path, format!("{issued}{issued}")).unwrap();
        assert_eq!(config.roots(&["docker.io", "r.example:5000"]).unwrap().len(), 1);
        for text in ["/ca.crt", "r.example=", "=/ca.crt", "a/b=/ca.crt"] {
            assert!(text.parse::<Authority>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mirror_is_written_as_registry_and_address() {
        let mirror: Mirror = "docker.io=https://mirror.example:5000/".parse().unwrap();
        assert_eq!(mirror.to_string(), "docker.io=https://mirror.example:5000");
        for text in ["docker.io", "=https://x", "docker.io=mirror", "docker.io=ftp://m", "a=https://m/path"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }

    #[test]
    fn kept_credentials_are_read_in_docker_s_shapes_and_only_when_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CREDENTIALS_FILE);
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0OjE="},
            "r.example:5000": {"username": "u", "password": "p"}, "bad.example": {}}}"#;
        std::fs::write(&path, text).unwrap();
        let config = RegistryConfig { credentials_file: Some(path.clone()), ..Default::default() };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = config.credentials("docker.io").unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let basic = |user: &str, password: &str| RegistryAuth::Basic(user.into(), password.into());
        assert_eq!(config.credentials("docker.io").unwrap(), basic("me", "secret:1"));
        assert_eq!(config.credentials("r.example:5000").unwrap(), basic("u", "p"));
        assert_eq!(config.credentials("r.example").unwrap(), RegistryAuth::Anonymous);
        assert!(config.credentials("bad.example").is_err());
    }
}
