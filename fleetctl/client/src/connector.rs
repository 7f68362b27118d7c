//! From a target to a connection: TCP, then TLS pinned by fingerprint.

use std::{io, sync::Arc, time::Duration};

use capsule_proto::{Fingerprint, v1::WhoAmIRequest};
use hyper_util::rt::TokioIo;
use rustls::{crypto::CryptoProvider, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{Address, CallError, Capsule, KeyError, OperatorKey, Target, tls};

/// For TCP and TLS together, where the caller sets no other.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that carries a call but nothing else is probed this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// … and given up after this long without an answer, so that `-f` ends on a dead capsule.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections with one operator's key; cheap to clone.
#[derive(Clone)]
pub struct Connector {
    key: OperatorKey,
    next: Option<OperatorKey>,
    provider: Arc<CryptoProvider>,
    timeout: Duration,
}

impl Connector {
    /// With the default time-out.
    pub fn new(key: OperatorKey) -> Result<Self, KeyError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Ok(Self { key, next: None, provider, timeout: CONNECT_TIMEOUT })
    }

    /// The same with the next key of a rotation that is not finished: capsules that took it refuse
    /// the present one.
    pub fn with_next(mut self, next: Option<OperatorKey>) -> Self {
        self.next = next;
        self
    }

    /// The same with another time-out for TCP and TLS together.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The key it uses.
    pub fn key(&self) -> &OperatorKey {
        &self.key
    }

    /// Connects. No call is made yet, except to find the key where there are two. A connection that
    /// breaks is made anew by the next call.
    pub async fn connect(&self, target: &Target) -> Result<Capsule, CallError> {
        let capsule = self.connect_present(target).await?;
        let Some(next) = &self.next else { return Ok(capsule) };
        match capsule.identity().who_am_i(WhoAmIRequest {}).await {
            Err(status) if status.code() == Code::Unauthenticated => {
                Self { key: next.clone(), ..self.clone() }.connect_present(target).await
            }
            _ => Ok(capsule),
        }
    }

    async fn connect_present(&self, target: &Target) -> Result<Capsule, CallError> {
        let channel = self.channel(&target.address, Some(target.fingerprint)).await?;
        Ok(Capsule::new(target.clone(), channel, self.key.clone()))
    }

    /// A connection without tokens; without a fingerprint it is anyone's. For adoption and tests.
    pub async fn channel(
        &self,
        address: &Address,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Channel, CallError> {
        let mut first = Some(self.dial(address, fingerprint).await?);
        let (connector, address) = (self.clone(), address.clone());
        let connect = tower::service_fn(move |_| {
            let (ready, connector, address) = (first.take(), connector.clone(), address.clone());
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => connector.dial(&address, fingerprint).await?,
                };
                Ok::<_, CallError>(TokioIo::new(stream))
            }
        });
        Ok(endpoint().connect_with_connector_lazy(connect))
    }

    /// TCP and TLS within the time-out.
    pub(crate) async fn dial(
        &self,
        address: &Address,
        fingerprint: Option<Fingerprint>,
    ) -> Result<TlsStream<TcpStream>, CallError> {
        let timed_out = |_| CallError::ConnectTimedOut { address: address.clone(), after: self.timeout };
        tokio::time::timeout(self.timeout, self.dial_untimed(address, fingerprint))
            .await
            .map_err(timed_out)?
    }

    async fn dial_untimed(
        &self,
        address: &Address,
        fingerprint: Option<Fingerprint>,
    ) -> Result<TlsStream<TcpStream>, CallError> {
        let tcp = tcp(address)
            .await
            .map_err(|error| CallError::Unreachable { address: address.clone(), reason: plain(&error) })?;
        let pin = tls::Pin::new(fingerprint, self.provider.clone());
        let unusable = |reason: String| CallError::Tls { address: address.clone(), reason };
        let config = tls::config(pin.clone(), &self.key).map_err(|error| unusable(error.to_string()))?;
        let name = ServerName::try_from("capsule").map_err(|error| unusable(error.to_string()))?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| match pin.mismatch() {
            Some((pinned, seen)) => CallError::PinMismatch { address: address.clone(), pinned, seen },
            None if is_cut(&error) => {
                CallError::HandshakeCut { address: address.clone(), reason: plain(&error) }
            }
            None => unusable(plain(&error)),
        })
    }
}

/// Whether the other side went away, rather than said something that is no TLS.
fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

async fn tcp(address: &Address) -> io::Result<TcpStream> {
    let stream = match address.literal() {
        Some(address) => TcpStream::connect(address).await?,
        None => TcpStream::connect((address.host(), address.port())).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn endpoint() -> Endpoint {
    // The connector adds the TLS: to tonic this is a plain stream.
    Endpoint::from_static("http://capsule")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
}

/// "connection refused" instead of "Connection refused (os error 111)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;
    use crate::ErrorKind;

    /// What connecting says to a server that reads a hello, answers this and hangs up.
    async fn told_by(answer: &'static [u8]) -> CallError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            let _ = stream.try_read(&mut [0; 4096]);
            let _ = stream.write_all(answer).await;
        });
        let dir = tempfile::tempdir().unwrap();
        let key = crate::Home::at(dir.path()).ensure_key().unwrap();
        Connector::new(key).unwrap().dial(&address, None).await.unwrap_err()
    }

    #[tokio::test]
    async fn who_hangs_up_in_the_handshake_is_unreachable_and_who_answers_otherwise_is_no_capsule() {
        let cut = told_by(b"").await;
        assert_eq!(cut.kind(), ErrorKind::Unreachable, "{cut}");
        assert!(cut.to_string().contains("ended the connection"), "{cut}");
        let other = told_by(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        assert_eq!(other.kind(), ErrorKind::Protocol, "{other}");
    }
}
