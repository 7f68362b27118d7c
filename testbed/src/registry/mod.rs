//! A real registry (Debian's `docker-registry`) on a testbed's hub, and the little HTTP that
//! fills it; the protocol is the OCI distribution spec 1.1.
//!
//! [`token`] is the service where a registry sends its clients for tokens, [`authority`] issues
//! certificates for registries that speak TLS.

pub mod authority;
pub mod token;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    fixtures::{
        Image,
        archive::{Blobs, Compression},
        image::digest,
    },
    substrate::Testbed,
    sys::{netns, process::Process},
};

/// For the registry to answer after it was started.
const START_LIMIT: Duration = Duration::from_secs(10);
/// For one answer of it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// User and password of a registry that asks for them.
pub const CREDENTIALS: (&str, &str) = ("operator", "secret");
/// The same as `htpasswd -B` writes it; the registry takes bcrypt only.
const HTPASSWD: &str = "operator:$2y$04$UU9UP2WXDD8EpG0N1xcrYefnxZgfOuNfavz8UH8dzTRkObN9Vlj7a\n";

/// Of a registry that speaks TLS. Not where the others are: there, agents of a testbed are told to
/// speak plain HTTP.
const TLS_PORT: u16 = 5443;

/// Whom a registry serves, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Who gives [`CREDENTIALS`].
    Password,
    /// Who shows a token.
    Token {
        /// URL of the service that gives them.
        realm: String,
        /// Certificate of the key that signs them.
        certificate: PathBuf,
    },
    /// Everybody who speaks TLS.
    Tls {
        /// What it shows.
        certificate: PathBuf,
        /// The key to it.
        key: PathBuf,
    },
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    access: Access,
    config: PathBuf,
    namespace: String,
    process: Option<Process>,
}

impl Registry {
    /// Starts an empty one on the hub of a testbed.
    pub fn start(testbed: &mut Testbed, access: Access) -> Result<Self> {
        let dir = testbed.record.dir.join("registry");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(dir.join("htpasswd"), HTPASSWD).context("cannot write the registry's users")?;
        let plan = testbed.plan();
        let mut registry = Self {
            address: plan.registry(),
            access: Access::Open,
            config: dir.join("config.yml"),
            namespace: plan.hub(),
            process: None,
        };
        registry.serve(testbed, access)?;
        Ok(registry)
    }

    /// Serves what it stores in this way from now on.
    pub fn serve(&mut self, testbed: &mut Testbed, access: Access) -> Result<()> {
        self.stop();
        let is_tls = matches!(access, Access::Tls { .. });
        self.address.set_port(if is_tls { TLS_PORT } else { testbed.plan().registry().port() });
        self.access = access;
        fs::write(&self.config, self.configuration()?).context("cannot configure the registry")?;
        self.resume(testbed)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `HOST:PORT`, the first part of the references it serves.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Stops answering, as a registry that is down; what it stores stays.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGKILL);
            process.wait_gone(ANSWER_LIMIT);
        }
    }

    /// Answers again.
    pub fn resume(&mut self, testbed: &mut Testbed) -> Result<()> {
        let mut command = netns::command(&self.namespace, "docker-registry");
        let process = testbed.spawn(command.arg("serve").arg(&self.config), "registry")?;
        testbed.record.helpers.push(process);
        testbed.record.save()?;
        self.process = Some(process);
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect_timeout(&self.address, ANSWER_LIMIT).is_err() {
            if Instant::now() > end || !process.is_alive() {
                bail!("the registry does not answer on {}; see {}", self.address, self.config.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stores an image as `repository:tag`; the reference to pull it by.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<String> {
        self.push_blobs(image.blobs(Compression::Gzip)?, repository, tag)
    }

    /// The same of what an image was made into.
    pub fn push_blobs(&self, image: Blobs, repository: &str, tag: &str) -> Result<String> {
        let Blobs { manifest, media_type, blobs } = image;
        for blob in &blobs {
            let started = self.call("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
            let location = started.header("location").context("the registry names no place to upload to")?;
            let path = location.find("/v2/").map_or(location, |at| &location[at..]);
            let joint = if path.contains('?') { '&' } else { '?' };
            let target = format!("{path}{joint}digest={}", digest(blob));
            self.call("PUT", &target, "application/octet-stream", blob)?;
        }
        self.call("PUT", &format!("/v2/{repository}/manifests/{tag}"), media_type, &manifest)?;
        Ok(format!("{}/{repository}:{tag}", self.host()))
    }

    fn configuration(&self) -> Result<String> {
        let dir = self.config.parent().context("the configuration is in a directory")?.display();
        let how = match &self.access {
            Access::Open => String::new(),
            Access::Password => {
                format!("auth:\n  htpasswd:\n    realm: testbed\n    path: {dir}/htpasswd\n")
            }
            Access::Token { realm, certificate } => format!(
                "auth:\n  token:\n    realm: {realm}\n    service: {0}\n    issuer: {0}\n    rootcertbundle: {1}\n",
                token::ISSUER,
                certificate.display()
            ),
            Access::Tls { certificate, key } => {
                format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
            }
        };
        Ok(format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {dir}/blobs\n\
             http:\n  addr: {}\n{how}",
            self.address
        ))
    }

    fn call(&self, method: &str, target: &str, content_type: &str, body: &[u8]) -> Result<Answer> {
        let exchange = || {
            let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_LIMIT)?;
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            stream.write_all(self.head(method, target, content_type, body.len()).as_bytes())?;
            stream.write_all(body)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            std::io::Result::Ok(Answer(String::from_utf8_lossy(&answer).into_owned()))
        };
        let answer =
            exchange().with_context(|| format!("no answer from the registry to {method} {target}"))?;
        match answer.status() {
            Some(200..=299) => Ok(answer),
            _ => bail!("the registry answers {method} {target} with: {}", answer.0),
        }
    }

    fn head(&self, method: &str, target: &str, content_type: &str, length: usize) -> String {
        let host = self.address;
        // `operator:secret` in base64 (RFC 7617).
        let login = if self.access == Access::Password {
            "Authorization: Basic b3BlcmF0b3I6c2VjcmV0\r\n"
        } else {
            ""
        };
        let kind =
            if content_type.is_empty() { String::new() } else { format!("Content-Type: {content_type}\r\n") };
        format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{login}{kind}Content-Length: {length}\r\n\r\n"
        )
    }
}

struct Answer(String);

impl Answer {
    fn status(&self) -> Option<u16> {
        self.0.split(' ').nth(1)?.parse().ok()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let fields =
            self.0.lines().skip(1).take_while(|line| !line.is_empty()).filter_map(|l| l.split_once(':'));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}
