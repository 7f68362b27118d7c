//! What the TUN gives: cut into packets, sealed for the peer whose address it goes to.

use std::{io, time::Instant};

use boringtun::noise::TunnResult;

use super::{
    MAX_PACKET,
    outbound::Outbound,
    packet,
    peers::{PeerId, Peers},
    segment,
    tun::Tun,
    udp::Sockets,
    vnet::{HEADER_BYTES, Header},
};

/// Waiting bytes from which on they are sent; a super-packet fills that at once.
const FLUSH_FROM: usize = 32 << 10;
/// Reads before others get their turn.
const READS: usize = 64;

/// Buffers for one packet of the TUN and one of the path.
pub struct FromTun {
    buffer: Box<[u8]>,
    scratch: Box<[u8]>,
}

impl FromTun {
    /// Empty buffers.
    pub fn new() -> Self {
        let zeros = |bytes| vec![0; bytes].into_boxed_slice();
        Self { buffer: zeros(HEADER_BYTES + MAX_PACKET), scratch: zeros(MAX_PACKET) }
    }

    /// Takes what the TUN has, up to a bound. An error where the TUN is gone.
    pub fn take(
        &mut self,
        (tun, sockets): (&Tun, &Sockets),
        peers: &mut Peers,
        outbound: &mut Outbound,
    ) -> io::Result<()> {
        let now = Instant::now();
        for _ in 0..READS {
            let Some(read) = tun.read(&mut self.buffer)? else { break };
            self.seal(read, peers, outbound, now);
            if outbound.waiting() >= FLUSH_FROM {
                outbound.flush(sockets, peers);
            }
        }
        outbound.flush(sockets, peers);
        Ok(())
    }

    fn seal(&mut self, read: usize, peers: &mut Peers, outbound: &mut Outbound, now: Instant) {
        let Some((header, packet)) = self.buffer[..read].split_first_chunk_mut::<HEADER_BYTES>() else {
            return;
        };
        let Some(header) = Header::parse(header) else { return };
        let Some(id) = packet::destination(packet).and_then(|to| peers.allowed.owner(to)) else { return };
        let result = segment::split(header, packet, &mut self.scratch, |packet| {
            seal_one(id, packet, peers, outbound, now);
        });
        if result.is_err() {
            tracing::debug!(?header, "the TUN gave a packet that its header does not fit");
        }
    }
}

/// Seals one packet for a peer; without a session it waits for one.
pub fn seal_one(id: PeerId, packet: &[u8], peers: &mut Peers, outbound: &mut Outbound, now: Instant) {
    let Some(peer) = peers.get_mut(id).filter(|peer| peer.endpoint.is_some()) else { return };
    let Some(tunnel) = peer.tunnel.as_mut().filter(|_| outbound.has_room(packet.len())) else { return };
    if let TunnResult::WriteToNetwork(message) = tunnel.encapsulate(packet, outbound.room()) {
        let bytes = message.len();
        peer.last_traffic = now;
        outbound.push(id, peer, bytes);
    }
}
