//! The relay's socket: one UDP port for all pairs.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use capsule_fabric::relay::Switch;
use tokio::{net::UdpSocket, task::JoinSet};

/// No datagram of WireGuard is larger.
const MAX_DATAGRAM: usize = 65_536;

/// Who talks by this capsule; cheap to clone. It outlives a map: whom a change does not concern notices
/// nothing of it.
#[derive(Clone, Default)]
pub struct Pairs(Arc<Mutex<Switch>>);

/// What is forwarded, and to whom.
pub(super) struct Forwarder {
    port: u16,
    switch: Pairs,
}

impl Pairs {
    /// Closes those of anybody else.
    pub(super) fn retain(&self, members: &HashSet<[u8; 32]>) {
        self.lock().retain(members);
    }

    fn lock(&self) -> MutexGuard<'_, Switch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forwarder {
    /// Listens on this port of every address, or of IPv4 alone where the kernel has no IPv6; one of
    /// `tasks` forwards.
    pub(super) async fn start(port: u16, switch: Pairs, tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let socket = match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                UdpSocket::bind(("0.0.0.0", port)).await?
            }
            other => other?,
        };
        tasks.spawn(forward(socket, switch.clone()));
        Ok(Self { port, switch })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Lets two members talk: their public keys, and from where each speaks.
    pub(super) fn open(&self, one: ([u8; 32], IpAddr), other: ([u8; 32], IpAddr)) {
        self.switch.lock().open(one, other, Instant::now());
    }
}

async fn forward(socket: UdpSocket, switch: Pairs) {
    let dual = socket.local_addr().is_ok_and(|address| address.is_ipv6());
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        // An ICMP error to what was sent before; the next datagram is read all the same.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(to) = switch.lock().forward(from, &buffer[..length], Instant::now()) else { continue };
        // What does not fit or cannot be sent is lost, as on any path.
        let _ = socket.send_to(&buffer[..length], if dual { mapped(to) } else { to }).await;
    }
}

/// As a socket of both families wants it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(four) => SocketAddr::new(four.ip().to_ipv6_mapped().into(), four.port()),
        SocketAddr::V6(_) => address,
    }
}
