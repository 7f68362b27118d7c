//! Links between members: one stream for each pair, over the fabric itself.
//!
//! Over it they compare maps and carry the newer one, tell where their workloads are, exchange
//! addresses where they may be met, and ask a relay to forward.
//!
//! - `dial.rs`: opens links to members with a higher slot, and accepts those of lower ones;
//! - `talk.rs`: what is said; `talkers.rs`: who is linked just now;
//! - `paths.rs`: the task that finds the way to each peer, by `probe.rs`;
//! - `forwarder.rs`: the relay's socket, where the map makes this capsule one.
//!
//! Everything here is of one map: when it changes, [`Peering`] is made anew. WireGuard's sessions
//! are not touched by that.

mod dial;
mod forwarder;
mod paths;
mod probe;
mod talk;
mod talkers;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use capsule_fabric::map::{Addresses, CapsuleId, Endpoint, PublicKey, SignedMap, Slot};
use capsule_proto::{Name, v1};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    forwarder::Forwarder,
    paths::{Heard, PathFinder},
    probe::Prober,
    talkers::Talkers,
};
pub use self::{forwarder::Pairs, paths::Reach, probe::Quality};

/// Messages to the task that finds paths, on their way.
const BACKLOG: usize = 256;

/// Workloads of one member and where they are.
pub type Locations = BTreeMap<Name, Addresses>;
/// The same of all other members.
pub type RemoteLocations = BTreeMap<Name, Locations>;
/// How every peer is reached.
pub type ReachOfAll = BTreeMap<Name, Reach>;

/// What links need of the WireGuard link, whichever kind it is.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Where each peer's packets go now.
    async fn endpoints(&self) -> io::Result<BTreeMap<PublicKey, SocketAddr>>;
    /// Sends a peer's packets there from now on.
    async fn set_endpoint(&self, peer: &PublicKey, to: SocketAddr) -> io::Result<()>;
}

/// Who takes maps that peers carry.
#[async_trait]
pub trait Maps: Send + Sync {
    /// Goes by this map, which `carrier` brought, or says why not.
    async fn accept(&self, map: v1::SignedMap, carrier: &str) -> Result<(), String>;
}

/// Another member, as links see it.
#[derive(Clone, Debug)]
struct Peer {
    slot: Slot,
    key: PublicKey,
    ipv4: Ipv4Addr,
    endpoints: Vec<Endpoint>,
    relay: bool,
}

/// One map from where this capsule stands in it.
#[derive(Debug)]
struct Neighbourhood {
    signed: SignedMap,
    slot: Slot,
    ipv4: Ipv4Addr,
    relay: bool,
    peers: BTreeMap<Name, Peer>,
}

impl Neighbourhood {
    /// `None` where the capsule is no member.
    fn new(signed: SignedMap, own: CapsuleId) -> Option<Self> {
        let map = signed.map();
        let plan = map.plan();
        let member = map.of_capsule(own)?.clone();
        let others = map.members().iter().filter(|other| other.capsule != own);
        let peer = |other: &capsule_fabric::map::Member| Peer {
            slot: other.slot,
            key: other.public_key,
            ipv4: plan.own(other.slot).ipv4,
            endpoints: other.endpoints.clone(),
            relay: other.relay,
        };
        let peers = others.map(|other| (other.name.clone(), peer(other))).collect();
        let ipv4 = plan.own(member.slot).ipv4;
        Some(Self { slot: member.slot, ipv4, relay: member.relay, peers, signed })
    }

    /// Which peer's own address this is.
    fn peer_at(&self, address: IpAddr) -> Option<&Name> {
        let is = |peer: &Peer| IpAddr::from(peer.ipv4) == address.to_canonical();
        self.peers.iter().find(|(_, peer)| is(peer)).map(|(name, _)| name)
    }
}

/// What outlives a map.
#[derive(Clone)]
pub struct PeeringParts {
    /// The capsule's own id.
    pub capsule: CapsuleId,
    /// WireGuard.
    pub wire: Arc<dyn Wire>,
    /// Who takes newer maps.
    pub maps: Arc<dyn Maps>,
    /// UDP port of the relay, where this capsule is one.
    pub relay_port: u16,
    /// Who talks by it.
    pub relayed: Pairs,
    /// The capsule's own workloads in the fabric.
    pub workloads: watch::Receiver<Locations>,
    /// Addresses of the capsule's own links, with WireGuard's port.
    pub local: watch::Receiver<Vec<SocketAddr>>,
    /// Where others' workloads are: what was heard last, also of members that are away.
    pub directory: watch::Sender<RemoteLocations>,
    /// How others are reached.
    pub reach: watch::Sender<ReachOfAll>,
}

/// What all links of one map share.
struct Shared {
    maps: Arc<dyn Maps>,
    workloads: watch::Receiver<Locations>,
    local: watch::Receiver<Vec<SocketAddr>>,
    directory: watch::Sender<RemoteLocations>,
    reach: watch::Sender<ReachOfAll>,
    /// Where peers see this capsule.
    observed: watch::Sender<BTreeMap<Name, SocketAddr>>,
    heard: mpsc::Sender<Heard>,
    talkers: Talkers,
    forwarder: Option<Forwarder>,
    /// The map is another now: every talk ends.
    over: CancellationToken,
}

impl Shared {
    fn relay_port(&self) -> u16 {
        self.forwarder.as_ref().map_or(0, Forwarder::port)
    }
}

/// The links of one map; they end when dropped, or stopped.
pub struct Peering {
    over: CancellationToken,
    tasks: JoinSet<()>,
}

impl Peering {
    /// Starts everything that this map asks for; `None` where the capsule is no member of it. The
    /// capsule's own fabric address must be there.
    pub async fn start(parts: PeeringParts, signed: SignedMap) -> io::Result<Option<Self>> {
        let Some(here) = Neighbourhood::new(signed, parts.capsule).map(Arc::new) else { return Ok(None) };
        let (mut tasks, over) = (JoinSet::new(), CancellationToken::new());
        let members = here.signed.map().members().iter().map(|member| *member.public_key.bytes());
        parts.relayed.retain(&members.filter(|_| here.relay).collect());
        let forwarder = if here.relay {
            Some(Forwarder::start(parts.relay_port, parts.relayed, &mut tasks).await?)
        } else {
            None
        };
        let (answered, answers) = mpsc::channel(BACKLOG);
        let prober = Prober::start(here.ipv4, answered, &mut tasks)?;
        let (heard, all_heard) = mpsc::channel(BACKLOG);
        let talkers = Talkers::default();
        parts.directory.send_modify(|all| all.retain(|name, _| here.peers.contains_key(name)));
        let shared = Arc::new(Shared {
            maps: parts.maps,
            workloads: parts.workloads,
            local: parts.local,
            directory: parts.directory,
            reach: parts.reach.clone(),
            observed: watch::Sender::default(),
            heard: heard.clone(),
            talkers: talkers.clone(),
            forwarder,
            over: over.clone(),
        });
        let finder = PathFinder {
            neighbourhood: here.clone(),
            wire: parts.wire,
            prober,
            answers,
            heard: all_heard,
            tell: heard,
            talkers,
            reach: parts.reach,
        };
        tasks.spawn(finder.run());
        dial::start(&shared, &here, &mut tasks);
        Ok(Some(Self { over, tasks }))
    }

    /// Ends them all; when this resolves their ports are free.
    pub async fn stop(mut self) {
        self.over.cancel();
        self.tasks.shutdown().await;
    }
}

impl Drop for Peering {
    fn drop(&mut self) {
        self.over.cancel();
    }
}
