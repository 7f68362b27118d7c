//! Opening links and accepting them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use capsule_fabric::MEMBER_PORT;
use capsule_proto::{
    Name,
    member::v1::{
        LinkMessage,
        member_client::MemberClient,
        member_server::{Member, MemberServer},
    },
};
use futures_util::stream;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, server::TcpConnectInfo},
};

use super::{Neighbourhood, Shared, talk::talk};

/// For a connection to a peer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Before the first attempt after a link ended; doubled by each that fails …
const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// … up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A quiet link is probed this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// … and ended after this long without an answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A member map of thousands fits.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Messages of one link on their way.
const BACKLOG: usize = 16;
/// After a failed accept, which is mostly a lack of descriptors, or a failed bind.
const PAUSE: Duration = Duration::from_millis(200);

/// Starts both halves.
pub(super) fn start(shared: &Arc<Shared>, here: &Arc<Neighbourhood>, tasks: &mut JoinSet<()>) {
    tasks.spawn(serve(shared.clone(), here.clone()));
    for (name, peer) in here.peers.iter().filter(|(_, peer)| peer.slot > here.slot) {
        tasks.spawn(keep_dialled(shared.clone(), here.clone(), name.clone(), peer.ipv4));
    }
}

/// Opens the link again whenever it ends.
async fn keep_dialled(shared: Arc<Shared>, here: Arc<Neighbourhood>, name: Name, peer: Ipv4Addr) {
    let mut wait = BACKOFF_MIN;
    loop {
        match dial(&shared, &here, &name, peer).await {
            Ok(()) => wait = BACKOFF_MIN,
            Err(error) => {
                tracing::debug!(peer = %name, "no link: {error}");
                wait = (wait * 2).min(BACKOFF_MAX);
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn dial(
    shared: &Arc<Shared>,
    here: &Arc<Neighbourhood>,
    name: &Name,
    peer: Ipv4Addr,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = Endpoint::from_shared(format!("http://{peer}:{MEMBER_PORT}"))?
        // Who dials is known by it.
        .local_address(Some(here.ipv4.into()))
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await?;
    let (outgoing, said) = mpsc::channel(BACKLOG);
    // What is said here cannot fail: the error type is the answering side's.
    let said = ReceiverStream::new(said).filter_map(Result::ok);
    let mut client = MemberClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let incoming = client.link(said).await?.into_inner();
    talk(shared.clone(), here.clone(), name.clone(), incoming, outgoing).await;
    Ok(())
}

/// Answers members at the capsule's own fabric address until dropped.
async fn serve(shared: Arc<Shared>, here: Arc<Neighbourhood>) {
    loop {
        let listener = match TcpListener::bind((here.ipv4, MEMBER_PORT)).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!("cannot listen for members on {}:{MEMBER_PORT}: {error}", here.ipv4);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let incoming = accept(listener, here.clone());
        let service = MemberServer::new(Answering { shared: shared.clone(), here: here.clone() })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .add_service(service);
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::warn!("answering members ended: {error}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Connections from the addresses of members; others are hung up on.
fn accept(listener: TcpListener, here: Arc<Neighbourhood>) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold((listener, here), async |(listener, here)| {
        loop {
            match listener.accept().await {
                Ok((stream, from)) if here.peer_at(from.ip()).is_some() => {
                    let stream = stream.set_nodelay(true).map(|()| stream);
                    return Some((stream, (listener, here)));
                }
                Ok((_, from)) => tracing::debug!(%from, "not a member's address: hung up"),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
}

struct Answering {
    shared: Arc<Shared>,
    here: Arc<Neighbourhood>,
}

#[tonic::async_trait]
impl Member for Answering {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<LinkMessage, Status>> + Send>>;

    async fn link(
        &self,
        request: Request<Streaming<LinkMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let from = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let name = from
            .and_then(|from: SocketAddr| self.here.peer_at(from.ip()))
            .ok_or_else(|| Status::permission_denied("this address is no member's"))?
            .clone();
        let (outgoing, said) = mpsc::channel(BACKLOG);
        tokio::spawn(talk(self.shared.clone(), self.here.clone(), name, request.into_inner(), outgoing));
        Ok(Response::new(Box::pin(ReceiverStream::new(said))))
    }
}
