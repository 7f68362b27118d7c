//! What arrives over UDP: handshakes are answered, data is opened and goes to the TUN if its sender
//! may use the source address inside.

use std::{
    net::IpAddr,
    time::{Instant, SystemTime},
};

use boringtun::{
    noise::{Packet, Tunn, TunnResult, handshake::parse_handshake_anon},
    x25519::PublicKey,
};

use super::{
    Offloads,
    mmsg::{Incoming, RECEIVE_BYTES, Received},
    outbound::{Endpoint, Outbound},
    peers::{Peer, PeerId, Peers},
    to_tun::ToTun,
    tun::Tun,
    udp::Sockets,
};

/// Opened packets are written to the TUN once they are this many bytes, while they are in the cache.
const WRITE_FROM: usize = 64 << 10;
/// Room for a cookie or a handshake.
const HANDSHAKE_ROOM: usize = 256;

/// Buffers, and what was found for the message before: the next one is mostly alike.
pub struct Inbound {
    incoming: Incoming,
    opened: ToTun,
    last: Option<(u32, PeerId)>,
    now: Instant,
}

/// Why a message came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dropped;

impl Inbound {
    /// Empty buffers.
    pub fn new(offloads: Offloads) -> Self {
        let room = WRITE_FROM + 2 * RECEIVE_BYTES;
        Self {
            incoming: Incoming::new(),
            opened: ToTun::new(room, offloads),
            last: None,
            now: Instant::now(),
        }
    }

    /// Takes one batch from a socket; whether there was any.
    pub fn take(
        &mut self,
        socket: std::os::fd::BorrowedFd<'_>,
        (sockets, tun): (&Sockets, &Tun),
        peers: &mut Peers,
        outbound: &mut Outbound,
    ) -> bool {
        let count = match self.incoming.receive(socket) {
            Ok(count) => count,
            Err(error) => {
                // ICMP errors of earlier sends come this way; the next call goes on behind them.
                tracing::trace!(%error, "cannot receive");
                return true;
            }
        };
        self.now = Instant::now();
        // A peer may have gone since the batch before.
        self.last = None;
        for at in 0..count {
            let Some(received) = self.incoming.get(at) else { continue };
            let mut messages = Messages {
                endpoint: Endpoint { to: received.from, from: received.to },
                opened: &mut self.opened,
                last: &mut self.last,
                now: self.now,
                peers,
                outbound,
            };
            messages.take(received);
            if !outbound.has_room(RECEIVE_BYTES) {
                outbound.flush(sockets, peers);
            }
            if self.opened.bytes() >= WRITE_FROM {
                self.opened.write(tun);
            }
        }
        self.opened.write(tun);
        outbound.flush(sockets, peers);
        count > 0
    }
}

/// The messages of one sender.
pub struct Messages<'a> {
    /// Who it is.
    pub endpoint: Endpoint,
    /// Where packets go.
    pub opened: &'a mut ToTun,
    /// What was found for the message before.
    pub last: &'a mut Option<(u32, PeerId)>,
    /// When the batch came.
    pub now: Instant,
    /// Who may speak.
    pub peers: &'a mut Peers,
    /// Where answers go.
    pub outbound: &'a mut Outbound,
}

impl Messages<'_> {
    /// Takes each of them; what is wrong with one is its sender's affair.
    pub fn take(&mut self, received: Received<'_>) {
        for message in received.bytes.chunks(received.segment) {
            let _ = match Tunn::parse_incoming_packet(message) {
                Ok(Packet::PacketData(data)) => self.data(data.receiver_idx, message),
                Ok(Packet::HandshakeInit(_)) => self.initiation(message),
                Ok(Packet::HandshakeResponse(response)) => self.response(response.receiver_idx, message),
                Ok(Packet::PacketCookieReply(reply)) => self.cookie(reply.receiver_idx, message),
                Err(_) => Err(Dropped),
            };
        }
    }

    fn data(&mut self, receiver: u32, message: &[u8]) -> Result<(), Dropped> {
        let id = match *self.last {
            Some((last, id)) if last == receiver => id,
            _ => self.peers.find_index(receiver).ok_or(Dropped)?,
        };
        let peer = self.peers.get_mut(id).ok_or(Dropped)?;
        let tunnel = peer.tunnel.as_mut().ok_or(Dropped)?;
        let opened = match tunnel.decapsulate(None, message, self.opened.room()) {
            TunnResult::Done => None,
            TunnResult::WriteToTunnelV4(packet, source) => Some((packet.len(), IpAddr::V4(source))),
            TunnResult::WriteToTunnelV6(packet, source) => Some((packet.len(), IpAddr::V6(source))),
            TunnResult::WriteToNetwork(_) | TunnResult::Err(_) => return Err(Dropped),
        };
        *self.last = Some((receiver, id));
        peer.heard(self.endpoint, message.len(), self.now);
        if peer.unconfirmed == Some(receiver) {
            peer.unconfirmed = None;
            peer.last_handshake = Some(SystemTime::now());
            self.send_queued(id);
        }
        match opened {
            None => Ok(()),
            Some((bytes, source)) if self.peers.allowed.owner(source) == Some(id) => {
                self.opened.push(bytes);
                Ok(())
            }
            Some(_) => Err(Dropped),
        }
    }

    /// Refuses what is not made for our key, and asks for a cookie where there are too many.
    fn is_welcome(&mut self, message: &[u8]) -> Result<(), Dropped> {
        let identity = self.peers.identity().ok_or(Dropped)?;
        match identity.limiter.verify_packet(Some(self.endpoint.to.ip()), message, self.outbound.room()) {
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let bytes = cookie.len();
                self.outbound.push_stranger(self.endpoint, bytes);
                Err(Dropped)
            }
            Err(_) => Err(Dropped),
        }
    }

    fn initiation(&mut self, message: &[u8]) -> Result<(), Dropped> {
        self.is_welcome(message)?;
        let identity = self.peers.identity().ok_or(Dropped)?;
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else {
            return Err(Dropped);
        };
        let from = parse_handshake_anon(identity.secret(), identity.public(), &initiation);
        let key = PublicKey::from(from.map_err(|_| Dropped)?.peer_static_public);
        let id = self.peers.find(&key).ok_or(Dropped)?;
        let answer = self.handshake(id, message)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped)?;
        peer.unconfirmed = answer.get(4..8).and_then(|index| index.try_into().ok()).map(u32::from_le_bytes);
        peer.heard(self.endpoint, message.len(), self.now);
        self.send(id, &answer);
        Ok(())
    }

    fn response(&mut self, receiver: u32, message: &[u8]) -> Result<(), Dropped> {
        self.is_welcome(message)?;
        let id = self.peers.find_index(receiver).ok_or(Dropped)?;
        let keepalive = self.handshake(id, message)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped)?;
        peer.last_handshake = Some(SystemTime::now());
        peer.heard(self.endpoint, message.len(), self.now);
        self.send(id, &keepalive);
        self.send_queued(id);
        Ok(())
    }

    fn cookie(&mut self, receiver: u32, message: &[u8]) -> Result<(), Dropped> {
        let id = self.peers.find_index(receiver).ok_or(Dropped)?;
        let tunnel = self.peers.get_mut(id).and_then(|peer| peer.tunnel.as_mut()).ok_or(Dropped)?;
        tunnel.decapsulate(None, message, self.outbound.room());
        Ok(())
    }

    /// Lets a peer's tunnel take a handshake's message; its answer.
    fn handshake(&mut self, id: PeerId, message: &[u8]) -> Result<Vec<u8>, Dropped> {
        let mut room = [0; HANDSHAKE_ROOM];
        let tunnel = self.peers.get_mut(id).and_then(|peer| peer.tunnel.as_mut()).ok_or(Dropped)?;
        match tunnel.decapsulate(None, message, &mut room) {
            TunnResult::WriteToNetwork(answer) => Ok(answer.to_vec()),
            _ => Err(Dropped),
        }
    }

    fn send(&mut self, id: PeerId, message: &[u8]) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        self.outbound.room()[..message.len()].copy_from_slice(message);
        self.outbound.push(id, peer, message.len());
    }

    /// Sends what waited for a session.
    fn send_queued(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        while self.outbound.has_room(super::MAX_PACKET) {
            let Some(tunnel) = peer.tunnel.as_mut() else { return };
            let TunnResult::WriteToNetwork(message) = tunnel.decapsulate(None, &[], self.outbound.room())
            else {
                return;
            };
            let bytes = message.len();
            self.outbound.push(id, peer, bytes);
        }
    }
}

impl Peer {
    /// Something authentic came from it: it is where that came from.
    fn heard(&mut self, from: Endpoint, bytes: usize, now: Instant) {
        self.received_bytes += bytes as u64;
        self.last_traffic = now;
        if self.endpoint != Some(from) {
            if self.endpoint.is_none_or(|before| before.to != from.to) {
                self.takes_segments = true;
            }
            self.endpoint = Some(from);
        }
    }
}
