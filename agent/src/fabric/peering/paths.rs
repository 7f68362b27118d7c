//! The task that finds the way to every peer: it probes, hears, and tells WireGuard where to send.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use capsule_fabric::{
    map::Slot,
    paths::{Path, RETRY_DIRECT, Step, Way},
};
use capsule_proto::Name;
use tokio::sync::{mpsc, watch};

use super::{
    Neighbourhood, Peer, Wire,
    probe::{Answered, Prober, Quality},
    talkers::Talkers,
};

/// Between probes of a peer that answers.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Between looks at what is due.
const TICK: Duration = Duration::from_millis(250);
/// Between readings of where WireGuard sends now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between resolutions of endpoints that are names.
const RESOLVE_INTERVAL: Duration = Duration::from_mins(1);
/// Candidates of one peer.
const MAX_CANDIDATES: usize = 16;

/// What the task is told.
#[derive(Debug)]
pub(super) enum Heard {
    /// Where a peer may be met, from itself.
    Candidates(Name, Vec<SocketAddr>),
    /// A peer calls by this relay.
    Call { member: Name, relay: Name },
    /// A relay's port; 0 where it has none.
    RelayPort(Name, u16),
    /// Where the endpoints that the map has of a peer lead.
    Resolved(Name, Vec<SocketAddr>),
}

/// How a peer is reached, for who wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Where packets go, where that is known.
    pub way: Option<Way<Name>>,
    /// Whether it answers.
    pub answers: bool,
    /// Round trip and loss.
    pub quality: Quality,
}

/// Everything it needs.
pub(super) struct PathFinder {
    pub(super) neighbourhood: Arc<Neighbourhood>,
    pub(super) wire: Arc<dyn Wire>,
    pub(super) prober: Prober,
    pub(super) answers: mpsc::Receiver<Answered>,
    pub(super) heard: mpsc::Receiver<Heard>,
    /// To itself, from those who look up names.
    pub(super) tell: mpsc::Sender<Heard>,
    pub(super) talkers: Talkers,
    pub(super) reach: watch::Sender<BTreeMap<Name, Reach>>,
}

struct Known {
    name: Name,
    peer: Peer,
    path: Path<Slot>,
    /// From the map, resolved.
    listed: Vec<SocketAddr>,
    /// From itself.
    told: Vec<SocketAddr>,
    relay_port: u16,
    next_probe: Instant,
    /// Only what was sent since then speaks for the present way.
    taken: Instant,
}

/// The task's own state. Relays are named by their slot.
struct Finder {
    all: PathFinder,
    known: Vec<Known>,
    by_address: HashMap<Ipv4Addr, usize>,
}

impl PathFinder {
    /// Runs until dropped.
    pub(super) async fn run(self) {
        let now = Instant::now();
        let known = self.neighbourhood.peers.iter().map(|(name, peer)| Known {
            name: name.clone(),
            peer: peer.clone(),
            path: self.path(name, peer, now),
            listed: Vec::new(),
            told: Vec::new(),
            relay_port: 0,
            next_probe: now,
            taken: now,
        });
        let known: Vec<Known> = known.collect();
        let addresses: Vec<Ipv4Addr> = known.iter().map(|known| known.peer.ipv4).collect();
        self.prober.set_peers(&addresses);
        let by_address = addresses.into_iter().enumerate().map(|(at, address)| (address, at)).collect();
        Finder { all: self, known, by_address }.run().await;
    }

    fn path(&self, name: &Name, peer: &Peer, now: Instant) -> Path<Slot> {
        let retry = RETRY_DIRECT[usize::from(self.neighbourhood.slot > peer.slot)];
        match self.way_before(name) {
            Some(way) => Path::working(way, retry, now),
            None => Path::new(retry, now),
        }
    }

    /// How the peer was reached until the map changed, if it still may be.
    fn way_before(&self, name: &Name) -> Option<Way<Slot>> {
        let reach = self.reach.borrow();
        match reach.get(name).filter(|reach| reach.answers)?.way.as_ref()? {
            Way::Direct(at) => Some(Way::Direct(*at)),
            Way::Relayed(relay, at) => {
                let relay = self.neighbourhood.peers.get(relay).filter(|relay| relay.relay)?;
                Some(Way::Relayed(relay.slot, *at))
            }
        }
    }
}

impl Finder {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut look, mut resolve) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                Some(answered) = self.all.answers.recv() => self.answered(answered),
                Some(heard) = self.all.heard.recv() => self.hear(heard).await,
                _ = ticks.tick() => {
                    let now = Instant::now();
                    if now >= resolve {
                        resolve = now + RESOLVE_INTERVAL;
                        self.resolve();
                    }
                    if now >= look {
                        look = now + LOOK_INTERVAL;
                        self.look().await;
                    }
                    self.act(now).await;
                }
            }
        }
    }

    fn answered(&mut self, Answered { by, sent }: Answered) {
        let Some(known) = self.by_address.get(&by).and_then(|at| self.known.get_mut(*at)) else { return };
        if sent >= known.taken {
            known.path.answered(Instant::now());
        }
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Candidates(name, told) => {
                if let Some(known) = self.find(&name) {
                    known.told = told;
                }
            }
            Heard::RelayPort(name, port) => {
                if let Some(known) = self.find(&name) {
                    known.relay_port = port;
                }
            }
            Heard::Resolved(name, listed) => {
                if let Some(known) = self.find(&name) {
                    known.listed = listed;
                }
            }
            Heard::Call { member, relay } => self.called(&member, &relay).await,
        }
        self.offer_candidates();
    }

    fn find(&mut self, name: &Name) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.name == *name)
    }

    /// Answers a call at once, from the same relay: the caller waits there.
    async fn called(&mut self, member: &Name, relay: &Name) {
        let Some((slot, at)) = self.relays().into_iter().find(|(slot, _)| self.name_of(*slot) == Some(relay))
        else {
            return;
        };
        let now = Instant::now();
        let Some(at_known) = self.known.iter().position(|known| known.name == *member) else { return };
        if let Some(way) = self.known[at_known].path.called(Way::Relayed(slot, at), now) {
            self.take(at_known, way, now).await;
        }
    }

    fn name_of(&self, slot: Slot) -> Option<&Name> {
        self.known.iter().find(|known| known.peer.slot == slot).map(|known| &known.name)
    }

    /// Members that may forward for this one now: directly reached themselves.
    fn relays(&self) -> Vec<(Slot, SocketAddr)> {
        let relay = |known: &Known| {
            let usable = known.peer.relay && known.relay_port != 0 && known.path.works();
            match known.path.proved().filter(|_| usable)? {
                Way::Direct(at) => Some((known.peer.slot, SocketAddr::new(at.ip(), known.relay_port))),
                Way::Relayed(..) => None,
            }
        };
        self.known.iter().filter_map(relay).collect()
    }

    /// Names of endpoints may lead elsewhere by now; a resolver that is slow holds up nothing.
    fn resolve(&self) {
        for known in &self.known {
            let (name, endpoints) = (known.name.clone(), known.peer.endpoints.clone());
            let tell = self.all.tell.clone();
            tokio::spawn(async move {
                let mut listed = Vec::new();
                for endpoint in &endpoints {
                    match tokio::net::lookup_host((endpoint.host(), endpoint.port())).await {
                        Ok(found) => listed.extend(found.map(canonical)),
                        Err(error) => tracing::debug!(peer = %name, %endpoint, %error, "not resolved"),
                    }
                }
                // The task that is told ends with its map.
                let _ = tell.send(Heard::Resolved(name, listed)).await;
            });
        }
    }

    fn offer_candidates(&mut self) {
        let (relays, now) = (self.relays(), Instant::now());
        for known in &mut self.known {
            let mut direct: Vec<SocketAddr> = Vec::new();
            for address in known.listed.iter().chain(&known.told) {
                if !direct.contains(address) && direct.len() < MAX_CANDIDATES {
                    direct.push(*address);
                }
            }
            let others = relays.iter().filter(|(slot, _)| *slot != known.peer.slot).copied().collect();
            known.path.set_candidates(direct, others, now);
        }
    }

    /// WireGuard follows peers that move.
    async fn look(&mut self) {
        let endpoints = match self.all.wire.endpoints().await {
            Ok(endpoints) => endpoints,
            Err(error) => return tracing::debug!(%error, "WireGuard does not say where its peers are"),
        };
        for known in &mut self.known {
            if let Some(endpoint) = endpoints.get(&known.peer.key) {
                known.path.moved(canonical(*endpoint));
            }
        }
        self.offer_candidates();
        self.publish();
    }

    async fn act(&mut self, now: Instant) {
        for at in 0..self.known.len() {
            while let Step::Take(way) = self.known[at].path.next(now) {
                self.take(at, way, now).await;
            }
            if now >= self.known[at].next_probe {
                self.known[at].next_probe = now + PROBE_INTERVAL;
                self.all.prober.ask(self.known[at].peer.ipv4).await;
            }
        }
    }

    async fn take(&mut self, at: usize, way: Way<Slot>, now: Instant) {
        if let Way::Relayed(slot, _) = way
            && let Some(relay) = self.name_of(slot).cloned()
        {
            self.all.talkers.ask_relay(&relay, &self.known[at].name);
        }
        let known = &mut self.known[at];
        known.taken = Instant::now();
        known.next_probe = now + PROBE_INTERVAL;
        let peer = known.peer.clone();
        tracing::debug!(peer = %known.name, ?way, "tried");
        if let Err(error) = self.all.wire.set_endpoint(&peer.key, way.address()).await {
            tracing::debug!(peer = %self.known[at].name, %error, "WireGuard took no endpoint");
            return;
        }
        self.all.prober.ask(peer.ipv4).await;
    }

    fn publish(&self) {
        let reach = self.known.iter().map(|known| {
            let way = known.path.proved().map(|way| match way {
                Way::Direct(at) => Way::Direct(at),
                Way::Relayed(slot, at) => match self.name_of(slot) {
                    Some(name) => Way::Relayed(name.clone(), at),
                    None => Way::Direct(at),
                },
            });
            let quality = self.all.prober.quality(known.peer.ipv4);
            (known.name.clone(), Reach { way, answers: known.path.works(), quality })
        });
        let reach: BTreeMap<Name, Reach> = reach.collect();
        self.all.reach.send_if_modified(|old| {
            let changed = *old != reach;
            *old = reach;
            changed
        });
    }
}

/// An IPv4 address is one, however the socket calls it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
