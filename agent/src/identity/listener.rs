//! From the listening socket to connections whose TLS handshake is done.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::{
    keys::PublicKey,
    strangers::{Place, Strangers},
    tls,
};

/// From TCP's connect to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From TCP's connect to the first call with good credentials.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an `accept` that failed: no file descriptors, most often.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Finished handshakes that wait for the server.
const BACKLOG: usize = 16;

/// Who is at the other end; a request extension.
#[derive(Clone)]
pub struct Peer(Arc<PeerInner>);

struct PeerInner {
    address: IpAddr,
    public_key: Option<PublicKey>,
    place: Mutex<Option<Place>>,
}

impl Peer {
    /// Its IP address.
    pub fn address(&self) -> IpAddr {
        self.0.address
    }

    /// The key that its TLS handshake proved.
    pub(super) fn public_key(&self) -> Option<&PublicKey> {
        self.0.public_key.as_ref()
    }

    /// It made a call with good credentials and is a stranger no more.
    pub(super) fn acknowledge(&self) {
        let place = self.0.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(place);
    }
}

/// Accepts until the returned stream is dropped.
pub(super) fn listen(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> ReceiverStream<io::Result<Connection>> {
    let (done, connections) = mpsc::channel(BACKLOG);
    let (acceptor, strangers) = (TlsAcceptor::from(config), Strangers::default());
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = done.closed() => return,
            };
            match accepted {
                Ok((tcp, from)) => {
                    let handshake = handshake(tcp, from, acceptor.clone(), strangers.clone());
                    let done = done.clone();
                    tokio::spawn(async move {
                        if let Some(connection) = handshake.await {
                            let _ = done.send(Ok(connection)).await;
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(connections)
}

async fn handshake(
    tcp: TcpStream,
    from: SocketAddr,
    acceptor: TlsAcceptor,
    strangers: Strangers,
) -> Option<Connection> {
    let (address, start) = (from.ip().to_canonical(), Instant::now());
    let (place, mut evicted) = strangers.admit(address);
    let _ = tcp.set_nodelay(true);
    let failed = |reason: &str| tracing::debug!(%address, reason, "a connection was dropped");
    let stream = tokio::select! {
        stream = acceptor.accept(tcp) => stream.map_err(|error| failed(&error.to_string())).ok()?,
        () = sleep_until(start + HANDSHAKE_TIMEOUT) => {
            failed("no TLS handshake in time");
            return None;
        }
        _ = &mut evicted => {
            failed("too many strangers");
            return None;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let public_key = certificates.first().and_then(tls::public_key);
    let place = Mutex::new(Some(place));
    let peer = Peer(Arc::new(PeerInner { address, public_key, place }));
    let limit = Box::pin(sleep_until(start + STRANGER_TIMEOUT));
    Some(Connection { stream, peer, stranger: Some(Stranger { limit, evicted }) })
}

struct Stranger {
    limit: Pin<Box<Sleep>>,
    evicted: oneshot::Receiver<()>,
}

impl Stranger {
    /// Ready with `true` when it has to go, with `false` when it is a stranger no more.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        if let Poll::Ready(outcome) = Pin::new(&mut self.evicted).poll(context) {
            return Poll::Ready(outcome.is_ok());
        }
        self.limit.as_mut().poll(context).map(|()| true)
    }
}

/// A TLS connection that ends by itself where it stays a stranger for too long.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    stranger: Option<Stranger>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stranger.as_mut().map(|stranger| stranger.poll_end(context)) {
            Some(Poll::Ready(true)) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Some(Poll::Ready(false)) => self.stranger = None,
            Some(Poll::Pending) | None => {}
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
