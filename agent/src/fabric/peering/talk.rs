//! What two members say to each other over one link, the same on both sides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use capsule_fabric::{map::Addresses, paths::Way};
use capsule_proto::{
    Name,
    member::v1::{
        Candidates, Directory, Greeting, LinkMessage, RelayRequest, WorkloadAddress, link_message::Body,
    },
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Locations, Neighbourhood, Shared, paths::Heard};

/// Workloads of one member.
const MAX_WORKLOADS: usize = 4096;
/// Addresses that a member may tell of itself.
const MAX_TOLD: usize = 16;

/// Where what is said goes: a stream of an answer, or of a request.
pub(super) type Outgoing = mpsc::Sender<Result<LinkMessage, Status>>;

struct Talk {
    shared: Arc<Shared>,
    here: Arc<Neighbourhood>,
    name: Name,
    outgoing: Outgoing,
    /// Where the peer was said to be seen.
    seen: Option<SocketAddr>,
}

/// Talks with the peer of this name until either side ends it, or another link takes its place.
pub(super) async fn talk(
    shared: Arc<Shared>,
    here: Arc<Neighbourhood>,
    name: Name,
    mut incoming: Streaming<LinkMessage>,
    outgoing: Outgoing,
) {
    let (_seat, mut to_say) = shared.talkers.sit(&name);
    let mut own = shared.workloads.clone();
    let mut local = shared.local.clone();
    let mut observed = shared.observed.subscribe();
    let mut reach = shared.reach.subscribe();
    let over = shared.over.clone();
    own.mark_changed();
    local.mark_changed();
    let mut talk = Talk { shared, here, name, outgoing, seen: None };
    let mut goes_on = talk.greet().await;
    while goes_on {
        goes_on = tokio::select! {
            () = over.cancelled() => false,
            message = incoming.message() => match message {
                Ok(Some(message)) => { talk.hear(message).await; true }
                Ok(None) | Err(_) => false,
            },
            message = to_say.recv() => match message {
                Some(message) => talk.outgoing.send(Ok(message)).await.is_ok(),
                None => false,
            },
            Ok(()) = own.changed() => {
                let body = directory(&own.borrow_and_update());
                talk.say(body).await
            }
            Ok(()) = local.changed() => {
                local.mark_unchanged();
                talk.say_candidates().await
            }
            Ok(()) = observed.changed() => {
                observed.mark_unchanged();
                talk.say_candidates().await
            }
            Ok(()) = reach.changed() => {
                let moved = talk.sees_elsewhere(&reach.borrow_and_update());
                !moved || talk.say_candidates().await
            }
        };
    }
}

impl Talk {
    async fn say(&self, body: Body) -> bool {
        self.outgoing.send(Ok(LinkMessage { body: Some(body) })).await.is_ok()
    }

    async fn greet(&self) -> bool {
        let generation = self.here.signed.map().generation().0;
        let relay_port = self.shared.relay_port().into();
        self.say(Body::Greeting(Greeting { generation, relay_port })).await
    }

    /// Where this capsule may be met: at its own links, and where others see it.
    async fn say_candidates(&self) -> bool {
        let seen_by_others = self.shared.observed.borrow().values().copied().collect::<BTreeSet<_>>();
        let mut all = self.shared.local.borrow().clone();
        all.extend(seen_by_others.into_iter().filter(|at| !all.contains(at)).collect::<Vec<_>>());
        let local = all.iter().take(MAX_TOLD).map(SocketAddr::to_string).collect();
        let observed = self.seen.map(|at| at.to_string()).unwrap_or_default();
        self.say(Body::Candidates(Candidates { local, observed })).await
    }

    /// Whether the peer is seen at an address that it was not told of.
    fn sees_elsewhere(&mut self, reach: &super::ReachOfAll) -> bool {
        let way = reach.get(&self.name).filter(|reach| reach.answers).and_then(|reach| reach.way.clone());
        let Some(Way::Direct(at)) = way else { return false };
        self.seen.replace(at) != Some(at)
    }

    async fn hear(&mut self, message: LinkMessage) {
        match message.body {
            Some(Body::Greeting(greeting)) => self.hear_greeting(&greeting).await,
            Some(Body::Map(map)) => {
                // A refusal is told by who refuses.
                if let Err(error) = self.shared.maps.accept(map, &format!("member {}", self.name)).await {
                    tracing::debug!(from = %self.name, "a member map was refused: {error}");
                }
            }
            Some(Body::Directory(directory)) => self.hear_directory(&directory),
            Some(Body::Candidates(candidates)) => self.hear_candidates(&candidates).await,
            Some(Body::RelayRequest(RelayRequest { member })) => self.hear_relay_request(&member),
            Some(Body::RelayCall(call)) => {
                let may = self.here.peers.get(&self.name).is_some_and(|peer| peer.relay);
                if let (true, Ok(member)) = (may, call.member.parse()) {
                    self.tell(Heard::Call { member, relay: self.name.clone() }).await;
                }
            }
            // Of a later version.
            None => {}
        }
    }

    async fn tell(&self, heard: Heard) {
        // The task ends when the fabric changes, and this link with it.
        let _ = self.shared.heard.send(heard).await;
    }

    async fn hear_greeting(&self, greeting: &Greeting) {
        if let Ok(port) = greeting.relay_port.try_into() {
            self.tell(Heard::RelayPort(self.name.clone(), port)).await;
        }
        if greeting.generation < self.here.signed.map().generation().0 {
            self.say(Body::Map(self.here.signed.wire().clone())).await;
        }
    }

    /// A member may only speak of addresses that the map says are behind it.
    fn hear_directory(&self, directory: &Directory) {
        let map = self.here.signed.map();
        let is_its = |address: IpAddr| map.holder(address).is_some_and(|holder| holder.name == self.name);
        let workload = |workload: &WorkloadAddress| {
            let addresses =
                Addresses { ipv4: workload.ipv4.parse().ok()?, ipv6: workload.ipv6.parse().ok()? };
            let its = is_its(addresses.ipv4.into()) && is_its(addresses.ipv6.into());
            Some((workload.name.parse().ok()?, addresses)).filter(|_| its)
        };
        let told: Locations = directory.workloads.iter().take(MAX_WORKLOADS).filter_map(workload).collect();
        self.shared.directory.send_if_modified(|all| {
            let changed = all.get(&self.name) != Some(&told);
            all.insert(self.name.clone(), told);
            changed
        });
    }

    async fn hear_candidates(&self, candidates: &Candidates) {
        let map = self.here.signed.map();
        // A fabric address as an endpoint would send the tunnel through itself.
        let usable = |at: &SocketAddr| map.plan().place(at.ip()).is_none() && !at.ip().is_loopback();
        let told = candidates.local.iter().take(MAX_TOLD).filter_map(|text| text.parse().ok()).filter(usable);
        self.tell(Heard::Candidates(self.name.clone(), told.collect())).await;
        if let Some(seen) = candidates.observed.parse().ok().filter(usable) {
            self.shared.observed.send_if_modified(|all| all.insert(self.name.clone(), seen) != Some(seen));
        }
    }

    /// Both must be linked, and reached directly: where they speak from is known by that.
    fn hear_relay_request(&self, member: &str) {
        let (Some(forwarder), Ok(member)) = (&self.shared.forwarder, member.parse::<Name>()) else { return };
        let reach = self.shared.reach.borrow();
        let leg = |name: &Name| {
            let key = *self.here.peers.get(name)?.key.bytes();
            match reach.get(name)?.way {
                Some(Way::Direct(at)) => Some((key, at.ip())),
                _ => None,
            }
        };
        let (Some(one), Some(other)) = (leg(&self.name), leg(&member)) else {
            return tracing::debug!(from = %self.name, to = %member, "not relayed: one of them is not reached");
        };
        forwarder.open(one, other);
        self.shared.talkers.tell_call(&member, &self.name);
    }
}

fn directory(workloads: &BTreeMap<Name, Addresses>) -> Body {
    let workload = |(name, at): (&Name, &Addresses)| WorkloadAddress {
        name: name.to_string(),
        ipv4: at.ipv4.to_string(),
        ipv6: at.ipv6.to_string(),
    };
    Body::Directory(Directory { workloads: workloads.iter().map(workload).collect() })
}
