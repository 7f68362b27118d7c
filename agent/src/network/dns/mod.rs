//! The name service of workloads, on port 53 of the gateway's addresses, UDP and TCP.
//!
//! One task a socket reads; one task a query answers, from `local.rs` or by `forward.rs`. Only
//! the bridge's own addresses are answered.

mod forward;
mod local;
pub(super) mod resolv;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

pub(super) use local::Names;

use self::{
    local::{Answer, answer, failure},
    resolv::Upstreams,
};
use super::{error::NetworkError, layout::Layout};

/// Of DNS.
const PORT: u16 = 53;
/// Queries that wait for a resolver; more are dropped, and clients ask again.
const MAX_IN_FLIGHT: usize = 512;
/// TCP connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// An idle TCP client is hung up on.
const IDLE: Duration = Duration::from_secs(10);
/// Largest query over UDP that anyone sends.
const MAX_QUERY: usize = 4096;
/// After a failed accept, which is mostly a lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Service {
    layout: Arc<Layout>,
    names: Names,
    upstreams: Upstreams,
    in_flight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Binds every socket, then serves them until the answer is dropped.
pub(super) fn start(
    layout: &Arc<Layout>,
    ipv6: bool,
    names: Names,
    resolv_conf: PathBuf,
) -> Result<JoinSet<()>, NetworkError> {
    let mut tasks = JoinSet::new();
    let service = Arc::new(Service {
        layout: layout.clone(),
        names,
        upstreams: Upstreams::new(resolv_conf, layout.gateways().to_vec()),
        in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
    });
    for address in layout.gateways().into_iter().filter(|address| ipv6 || address.is_ipv4()) {
        let failed = |source| NetworkError::Dns { address, source };
        let (udp, tcp) = open(address).map_err(failed)?;
        tasks.spawn(serve_udp(service.clone(), Arc::new(udp)));
        tasks.spawn(serve_tcp(service.clone(), tcp));
    }
    Ok(tasks)
}

/// Both sockets of an address.
fn open(address: IpAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let at = SocketAddr::new(address, PORT);
    let udp: std::net::UdpSocket = bound(at, SockType::Datagram)?.into();
    let tcp: std::net::TcpListener = bound(at, SockType::Stream)?.into();
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

fn bound(at: SocketAddr, kind: SockType) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if kind == SockType::Stream {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    if kind == SockType::Stream {
        listen(&fd, Backlog::new(64)?)?;
    }
    Ok(fd)
}

async fn serve_udp(service: Arc<Service>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        if !service.layout.contains(client.ip()) {
            continue;
        }
        let Ok(permit) = service.in_flight.clone().try_acquire_owned() else { continue };
        let (service, socket, query) = (service.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(reply) = service.resolve(&query, Transport::Udp).await {
                let _ = socket.send_to(&reply, client).await;
            }
            drop(permit);
        });
    }
}

async fn serve_tcp(service: Arc<Service>, listener: TcpListener) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if !service.layout.contains(client.ip()) {
            continue;
        }
        let Ok(permit) = service.connections.clone().try_acquire_owned() else { continue };
        let service = service.clone();
        tokio::spawn(async move {
            let _ = service.talk(stream).await;
            drop(permit);
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Service {
    async fn talk(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let query = timeout(IDLE, forward::read_message(&mut stream)).await??;
            let Some(reply) = self.resolve(&query, Transport::Tcp).await else { return Ok(()) };
            timeout(IDLE, forward::write_message(&mut stream, &reply)).await??;
        }
    }

    async fn resolve(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match answer(&self.names, query) {
            Answer::Ignore => None,
            Answer::Local(reply) => reply.to_vec().ok(),
            Answer::Forward => {
                let servers = self.upstreams.get();
                let reply = match transport {
                    Transport::Udp => forward::over_udp(query, &servers).await,
                    Transport::Tcp => forward::over_tcp(query, &servers).await,
                };
                reply.or_else(|| failure(query, ResponseCode::ServFail)?.to_vec().ok())
            }
        }
    }
}
