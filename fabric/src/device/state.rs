//! What the API shows and changes: our own key and port, and the peers.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io,
    time::{Instant, SystemTime},
};

use boringtun::x25519::PublicKey;
use zeroize::Zeroizing;

use super::{
    Offloads,
    outbound::Endpoint,
    peers::{Peer, PeerId, Peers},
    uapi::{
        Errno, Target,
        request::{AllowedIp, Change, Key, PeerChange},
    },
    udp::Sockets,
};

/// Bytes that describe a peer without its prefixes, at most …
const PEER_TEXT: usize = 512;
/// … one prefix …
const PREFIX_TEXT: usize = 64;
/// … and ourselves.
const OWN_TEXT: usize = 256;

/// The device's state.
pub struct State {
    /// Where datagrams come and go.
    pub sockets: Sockets,
    /// Who they come from and go to.
    pub peers: Peers,
    /// How often `sockets` were replaced.
    pub rebound: u64,
    fwmark: u32,
    offloads: Offloads,
}

impl State {
    /// Without keys or peers, on a port.
    pub fn new(port: u16, fwmark: u32, offloads: Offloads) -> io::Result<Self> {
        let sockets = Sockets::bind(port, fwmark, offloads)?;
        Ok(Self { sockets, peers: Peers::new(), rebound: 0, fwmark, offloads })
    }

    /// The part that can fail, before anything else is done.
    fn set_sockets(&mut self, change: &Change) -> Result<(), Errno> {
        let failed = |error: io::Error| Errno(error.raw_os_error().unwrap_or(libc::EIO));
        let fwmark = change.fwmark.unwrap_or(self.fwmark);
        match change.listen_port.filter(|port| *port != self.sockets.port()) {
            Some(port) => {
                self.sockets = Sockets::bind(port, fwmark, self.offloads).map_err(failed)?;
                self.rebound += 1;
            }
            None if fwmark != self.fwmark => self.sockets.set_fwmark(fwmark).map_err(failed)?,
            None => {}
        }
        self.fwmark = fwmark;
        Ok(())
    }

    /// Removes peers that a whole new list does not name. Those that it names keep their sessions.
    fn keep_only(&mut self, named: &mut [PeerChange]) {
        let mut keys: HashSet<PublicKey> = named.iter().map(|change| change.key).collect();
        let gone = self.peers.iter().filter(|(_, peer)| !keys.contains(&peer.key));
        let gone: Vec<PeerId> = gone.map(|(id, _)| id).collect();
        for id in gone {
            self.peers.remove(id);
        }
        // Where a peer is named first, it loses what a new one would not have.
        for change in named.iter_mut().filter(|change| keys.remove(&change.key)) {
            change.replace_allowed_ips = true;
            change.preshared.get_or_insert(Key::Unset);
            change.keepalive_seconds.get_or_insert(0);
        }
    }

    fn change_peer(&mut self, change: PeerChange) {
        let found = self.peers.find(&change.key);
        if change.remove {
            if let Some(id) = found {
                self.peers.remove(id);
            }
            return;
        }
        let id = match found {
            None if !change.update_only => self.peers.add(change.key),
            found => found,
        };
        let Some(id) = id else { return };
        if let Some(preshared) = change.preshared {
            self.peers.set_preshared(id, preshared.into_option());
        }
        if change.replace_allowed_ips {
            self.peers.allowed.remove_all(id);
        }
        for allowed in change.allowed_ips {
            match allowed {
                AllowedIp::Add(net) => self.peers.allowed.insert(net, id),
                AllowedIp::Remove(net) => self.peers.allowed.remove(net, id),
            }
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(to) = change.endpoint.filter(|to| peer.endpoint.is_none_or(|before| before.to != *to)) {
            peer.endpoint = Some(Endpoint { to, from: None });
            peer.takes_segments = true;
        }
        if let Some(seconds) = change.keepalive_seconds.filter(|seconds| *seconds != peer.keepalive_seconds) {
            peer.keepalive_seconds = seconds;
            // The first one goes out at once, so that a peer behind a NAT is reachable at once.
            if let Some(past) = peer.keepalive().and_then(|interval| Instant::now().checked_sub(interval)) {
                peer.last_traffic = past;
            }
        }
    }
}

impl Target for State {
    fn show(&self) -> Zeroizing<Vec<u8>> {
        let mut allowed = self.peers.allowed.by_peer();
        let prefixes: usize = allowed.values().map(Vec::len).sum();
        // Room for all from the start: growing would leave copies of keys behind.
        let room = OWN_TEXT + self.peers.iter().count() * PEER_TEXT + prefixes * PREFIX_TEXT;
        let mut text = Zeroizing::new(String::with_capacity(room));
        if let Some(identity) = self.peers.identity() {
            push_key(&mut text, "private_key", &Zeroizing::new(identity.secret().to_bytes()));
        }
        let _ = writeln!(text, "listen_port={}", self.sockets.port());
        if self.fwmark != 0 {
            let _ = writeln!(text, "fwmark={}", self.fwmark);
        }
        for (id, peer) in self.peers.iter() {
            show_peer(&mut text, peer);
            for net in allowed.remove(&id).unwrap_or_default() {
                let _ = writeln!(text, "allowed_ip={net}");
            }
        }
        Zeroizing::new(std::mem::take(&mut *text).into_bytes())
    }

    fn change(&mut self, mut change: Change) -> Result<(), Errno> {
        self.set_sockets(&change)?;
        if let Some(secret) = change.private_key.take() {
            self.peers.set_identity(secret.into_option());
        }
        if change.replace_peers {
            self.keep_only(&mut change.peers);
        }
        for peer in change.peers {
            self.change_peer(peer);
        }
        Ok(())
    }
}

fn show_peer(text: &mut String, peer: &Peer) {
    push_key(text, "public_key", peer.key.as_bytes());
    push_key(text, "preshared_key", peer.preshared.as_deref().unwrap_or(&[0; 32]));
    if let Some(endpoint) = peer.endpoint {
        let _ = writeln!(text, "endpoint={}", endpoint.to);
    }
    let since = peer.last_handshake.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    let since = since.unwrap_or_default();
    let _ = write!(
        text,
        "last_handshake_time_sec={}\nlast_handshake_time_nsec={}\ntx_bytes={}\nrx_bytes={}\n\
         persistent_keepalive_interval={}\nprotocol_version=1\n",
        since.as_secs(),
        since.subsec_nanos(),
        peer.sent_bytes,
        peer.received_bytes,
        peer.keepalive_seconds
    );
}

fn push_key(text: &mut String, name: &str, key: &[u8; 32]) {
    text.push_str(name);
    text.push('=');
    for byte in key {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
}
