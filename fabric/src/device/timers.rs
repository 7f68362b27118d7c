//! What happens by itself: new keys, keep-alives, the end of old sessions.

use std::time::{Duration, Instant};

use boringtun::noise::TunnResult;

use super::{
    MAX_PACKET,
    outbound::Outbound,
    peers::{Peer, Peers},
    udp::Sockets,
};

/// Between two looks. WireGuard's own times are whole seconds.
pub const TICK: Duration = Duration::from_millis(250);

/// Looks after every peer once.
pub fn tick(peers: &mut Peers, sockets: &Sockets, outbound: &mut Outbound) {
    if let Some(identity) = peers.identity() {
        identity.limiter.reset_count();
    }
    let now = Instant::now();
    for (id, peer) in peers.iter_mut() {
        if !outbound.has_room(MAX_PACKET) {
            break;
        }
        if let Some(bytes) = due(peer, outbound.room(), now) {
            outbound.push(id, peer, bytes);
        }
    }
    outbound.flush(sockets, peers);
}

/// Writes the message that is due for a peer; how long it is.
pub fn due(peer: &mut Peer, room: &mut [u8], now: Instant) -> Option<usize> {
    let keepalive = peer.keepalive().filter(|interval| now.duration_since(peer.last_traffic) >= *interval);
    let tunnel = peer.tunnel.as_mut()?;
    // Its clock stands still without this call, also where nobody knows the peer's address.
    let regular = match tunnel.update_timers(room) {
        TunnResult::WriteToNetwork(message) => Some(message.len()),
        _ => None,
    };
    peer.endpoint?;
    if regular.is_some() || keepalive.is_none() {
        return regular;
    }
    peer.last_traffic = now;
    // Without a session a keep-alive is a handshake: a peer that was away is found again.
    let message = if tunnel.time_since_last_handshake().is_some() {
        tunnel.encapsulate(&[], room)
    } else {
        tunnel.format_handshake_initiation(room, false)
    };
    match message {
        TunnResult::WriteToNetwork(message) => Some(message.len()),
        _ => None,
    }
}
