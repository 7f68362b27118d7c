//! Gives tokens to those who may pull, as distribution's "Token Authentication Specification"
//! describes it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::{Access, CREDENTIALS};
use crate::scenario::Listener;

/// Who signs the tokens, and whom they are for.
pub(super) const ISSUER: &str = "testbed";
/// For which a token is good.
const LIFETIME: Duration = Duration::from_mins(5);

/// Answers until it is dropped. Who gives [`CREDENTIALS`] may do what they ask for, who gives none
/// may do nothing, and others are refused.
pub struct TokenService {
    listener: Listener,
    certificate: PathBuf,
}

struct Signer {
    key: EncodingKey,
    /// The certificate of the key, as it goes into a token's header.
    certificate: String,
}

impl TokenService {
    /// On a free port of this address, with its certificate in `dir`.
    pub fn start(address: Ipv4Addr, dir: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let issued = CertificateParams::default().self_signed(&key)?;
        let certificate = dir.join("tokens.crt");
        fs::write(&certificate, issued.pem()).context("cannot write the certificate of the tokens")?;
        let key = EncodingKey::from_ec_der(key.serialized_der());
        let signer = Signer { key, certificate: STANDARD.encode(issued.der()) };
        let listener = Listener::start(address, move |stream| drop(signer.answer(&stream)))?;
        Ok(Self { listener, certificate })
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.listener.host()
    }

    /// What a registry needs to send its clients here.
    pub fn access(&self) -> Access {
        let realm = format!("http://{}/token", self.host());
        Access::Token { realm, certificate: self.certificate.clone() }
    }
}

impl Signer {
    fn answer(&self, mut stream: &TcpStream) -> Result<()> {
        let head: Vec<String> = BufReader::new(stream)
            .lines()
            .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
            .collect::<Result<_, _>>()?;
        let scope = head.first().and_then(|line| scope_of(line));
        let login = head.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then_some(value)
        });
        let (user, password) = CREDENTIALS;
        let right = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let (status, body) = match login {
            Some(login) if login != right => {
                ("401 Unauthorized", json!({"details": "wrong user or password"}))
            }
            login => ("200 OK", json!({"token": self.token(scope.filter(|_| login.is_some()))?})),
        };
        let body = body.to_string();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }

    fn token(&self, scope: Option<String>) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let access: Vec<Value> = scope.iter().filter_map(|scope| access(scope)).collect();
        let claims = json!({"iss": ISSUER, "aud": ISSUER, "sub": "", "iat": now, "nbf": now,
            "exp": now + LIFETIME.as_secs(), "jti": now.to_string(), "access": access});
        let header = Header { x5c: Some(vec![self.certificate.clone()]), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

/// `repository:team/echo:pull` of `GET /token?scope=repository%3Ateam%2Fecho%3Apull&… HTTP/1.1`.
fn scope_of(request: &str) -> Option<String> {
    let (_, query) = request.split(' ').nth(1)?.split_once('?')?;
    let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope="))?;
    Some(scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","))
}

fn access(scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
}
