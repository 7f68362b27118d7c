//! The WireGuard device, of either kind, as it tells of itself and is told.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    time::SystemTime,
};

use capsule_fabric::map::{Prefix, PublicKey};
use defguard_wireguard_rs::{
    InterfaceConfiguration, Kernel, Userspace, WGApi, WireguardInterfaceApi, host::Host, key::Key,
    net::IpAddrMask, peer::Peer,
};
use zeroize::Zeroizing;

use super::{Wanted, plan::Step};
use crate::{
    fabric::FabricError,
    sys::{
        holder::{Protocol, holder},
        wireguard,
    },
};

/// A device that exists.
pub(super) struct Device {
    name: String,
    is_kernel: bool,
    api: Box<dyn WireguardInterfaceApi + Send>,
}

/// What a device says of itself.
pub(super) struct State {
    /// Raw, of its private key; all 0 where it has none.
    pub(super) private: Zeroizing<[u8; 32]>,
    pub(super) port: u16,
    pub(super) peers: HashMap<PublicKey, PeerState>,
}

/// What a device says of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::fabric) struct PeerState {
    /// Where packets go now.
    pub(in crate::fabric) endpoint: Option<SocketAddr>,
    /// `None` where there never was one.
    pub(in crate::fabric) last_handshake: Option<SystemTime>,
    pub(in crate::fabric) rx_bytes: u64,
    pub(in crate::fabric) tx_bytes: u64,
    /// Seconds; 0 for never.
    pub(super) keepalive: u16,
    pub(super) allowed: BTreeSet<Prefix>,
}

impl Device {
    pub(super) fn new(name: &str, is_kernel: bool) -> Result<Self, FabricError> {
        let failed = |error| tell("open", name, error);
        let api: Box<dyn WireguardInterfaceApi + Send> = if is_kernel {
            Box::new(WGApi::<Kernel>::new(name).map_err(failed)?)
        } else {
            Box::new(WGApi::<Userspace>::new(name).map_err(failed)?)
        };
        Ok(Self { name: name.to_owned(), is_kernel, api })
    }

    /// How it is.
    pub(super) fn read(&self) -> Result<State, FabricError> {
        let host = self.api.read_interface_data().map_err(|error| tell("read", &self.name, error))?;
        Ok(state(&host))
    }

    /// Does one step of a plan.
    pub(super) fn take(&self, wanted: &Wanted, step: Step) -> Result<(), FabricError> {
        let done = match step {
            Step::Begin(peers) => return self.begin(wanted, peers.into_iter().map(wire).collect()),
            Step::Remove(key) => self.api.remove_peer(&Key::new(*key.bytes())),
            Step::Set(peer) if self.is_kernel => return self.set_in_kernel(peer),
            Step::Set(peer) => self.api.configure_peer(&wire(peer)),
        };
        done.map_err(|error| tell("change a peer of", &self.name, error))
    }

    /// Changes a peer in place, unless it is new or loses something: packets to it go on.
    fn set_in_kernel(&self, peer: super::plan::Peer) -> Result<(), FabricError> {
        let present = self.read()?.peers.remove(&peer.public_key).map(|state| state.allowed);
        let stays = present.filter(|present| present.iter().all(|prefix| peer.allowed.contains(prefix)));
        let Some(present) = stays else {
            let done = self.api.configure_peer(&wire(peer));
            return done.map_err(|error| tell("change a peer of", &self.name, error));
        };
        let more = peer.allowed.iter().filter(|prefix| !present.contains(prefix));
        let change = wireguard::Change {
            public_key: *peer.public_key.bytes(),
            endpoint: peer.endpoint,
            keepalive: peer.keepalive,
            allowed: more.map(|prefix| (prefix.address(), prefix.length())).collect(),
        };
        wireguard::change_peer(&self.name, change)
            .map_err(|error| tell("change a peer of", &self.name, error))
    }

    /// Key, port and peers at once: what a new device is told, and one that gets another key.
    fn begin(&self, wanted: &Wanted, peers: Vec<Peer>) -> Result<(), FabricError> {
        let configuration = InterfaceConfiguration {
            name: self.name.clone(),
            prvkey: Key::new(*wanted.key.private()).to_lower_hex(),
            addresses: Vec::new(),
            port: wanted.port,
            peers,
            mtu: None,
            fwmark: None,
        };
        let done = self.api.configure_interface(&configuration);
        done.map_err(|error| match holder(Protocol::Udp, wanted.port) {
            // It may be the device itself, which then has another complaint.
            Some(holder) if self.read().is_ok_and(|state| state.port != wanted.port) => {
                FabricError::Port { port: wanted.port, holder }
            }
            _ => tell("set up", &self.name, error),
        })
    }
}

fn tell(verb: &str, name: &str, error: impl std::fmt::Display) -> FabricError {
    let attempt = format!("{verb} the WireGuard device {name}");
    FabricError::Kernel { attempt, source: io::Error::other(error.to_string()) }
}

fn state(host: &Host) -> State {
    let private = host.private_key.as_ref().map(Key::as_array).unwrap_or_default();
    let peers = host.peers.values();
    let peers = peers.filter_map(|peer| {
        let key = PublicKey::try_from(peer.public_key.as_slice()).ok()?;
        let allowed = peer.allowed_ips.iter().map(|ip| Prefix::around(ip.address, ip.cidr)).collect();
        let state = PeerState {
            endpoint: peer.endpoint,
            last_handshake: peer.last_handshake.filter(|at| *at > SystemTime::UNIX_EPOCH),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            keepalive: peer.persistent_keepalive_interval.unwrap_or(0),
            allowed,
        };
        Some((key, state))
    });
    State { private: Zeroizing::new(private), port: host.listen_port, peers: peers.collect() }
}

/// A peer as a plan has it: without an endpoint, it stays where it is.
fn wire(peer: super::plan::Peer) -> Peer {
    let mut wire = Peer::new(Key::new(*peer.public_key.bytes()));
    wire.endpoint = peer.endpoint;
    wire.persistent_keepalive_interval = Some(peer.keepalive);
    let masks = peer.allowed.iter().map(|prefix| IpAddrMask::new(prefix.address(), prefix.length()));
    wire.set_allowed_ips(masks.collect());
    wire
}
